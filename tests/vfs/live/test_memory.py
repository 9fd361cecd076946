"""What a fid at a live file takes: a server may have a million of them."""

import gc
import os
import tracemalloc
from collections.abc import Iterator

import pytest

from tests.support.live import Live, live_export
from ventifs.ninep.session.fids import Fid

FILES = 8_000
FID_MAX = 300  # bytes, with its number and its place in the table
PIN_MAX = 240  # bytes more, while its descriptor is kept; there are at most `PINS_MAX`


@pytest.fixture(params=[1, FILES + 1])
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    with live_export(pins_max=request.param) as live:
        yield live


@pytest.mark.slow
def test_a_fid_is_small(live: Live) -> None:
    top = os.open(live.path, os.O_RDONLY)
    for number in range(FILES):
        os.mknod(f"{number}", dir_fd=top)
    os.close(top)
    kept = live.tree.pins.pins_max > FILES
    soft = len(os.listdir("/proc/self/fd")) + FILES
    if kept and soft > os.sysconf("SC_OPEN_MAX"):
        pytest.skip("this process may not have so many descriptors")
    guest = live.attach()
    table: dict[int, Fid] = {}
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(FILES):
            table[1000 + number] = Fid(guest.run(guest.root.walk, b"%d" % number))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    each = (after - before) / FILES
    assert each < FID_MAX + PIN_MAX * kept
    table.clear()
