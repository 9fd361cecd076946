"""The tree of an export: numbers of files, and when threads do what may need a disk."""

import errno
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clock import Clock
from tests.support.live import Live, live_export
from ventifs.vfs.interface import Cold
from ventifs.vfs.live.tree import SLOW_S, THREADED, Pace


@pytest.fixture
def live() -> Iterator[Live]:
    with live_export() as live:
        yield live


# Numbers


def test_numbers_on_the_root_s_device_are_inode_numbers(live: Live) -> None:
    device = os.stat(live.path).st_dev
    assert live.tree.number(device, 1) == 1
    assert live.tree.number(device, 1 << 50) == 1 << 50
    assert live.attach().root.identity.number == os.stat(live.path).st_ino


def test_other_devices_have_prefixes(live: Live) -> None:
    tree = live.tree
    numbers = [
        tree.number(device, ino) for device in range(1 << 40, (1 << 40) + 5) for ino in (1, 2)
    ]
    assert len(set(numbers)) == 10
    assert numbers == [
        tree.number(device, ino) for device in range(1 << 40, (1 << 40) + 5) for ino in (1, 2)
    ]
    assert tree.number_beside(numbers[0], 7) == tree.number(1 << 40, 7)
    assert tree.number_beside(12345, 7) == 7


@given(device=st.integers(0, 1 << 62), ino=st.integers(0, (1 << 64) - 1))
def test_a_number_is_never_one_that_means_something_else(device: int, ino: int) -> None:
    number = SHARED.number(device, ino)
    assert 0 < number < (1 << 64) - 1
    assert SHARED.number(device, ino) == number
    SHARED._prefixes.clear()


@given(inos=st.sets(st.integers(1, (1 << 48) - 1), min_size=2))
def test_numbers_differ(inos: set[int]) -> None:
    devices = range(1 << 40, (1 << 40) + 3)
    numbers = {SHARED.number(device, ino) for device in devices for ino in inos}
    assert len(numbers) == 3 * len(inos)
    SHARED._prefixes.clear()


def test_devices_without_end(live: Live) -> None:
    numbers = {live.tree.number((1 << 40) + each, 1) for each in range(40_000)}
    assert len(numbers) == 40_000
    assert len(live.tree._prefixes) < 1 << 15


class _Numbers:
    """A tree's numbers alone."""

    def __init__(self) -> None:
        from ventifs.vfs.live.tree import LiveTree

        self._device = 5
        self._prefixes: dict[int, int] = {}
        self._number = LiveTree.number

    def number(self, device: int, ino: int) -> int:
        return self._number(self, device, ino)  # type: ignore[arg-type]


SHARED = _Numbers()


# Pace


def test_what_is_quick_is_done_at_once() -> None:
    pace = Pace(Clock(step_s=SLOW_S / 2))
    assert [pace.run(lambda: 7) for _ in range(100)] == [7] * 100


def test_after_something_slow_threads_do_the_next() -> None:
    clock = Clock()
    pace = Pace(clock)

    def slow() -> int:
        clock.now_s += 2 * SLOW_S
        return 7

    assert pace.run(slow) == 7
    for _ in range(THREADED):
        with pytest.raises(Cold) as cold:
            pace.run(lambda: 8)
        assert cold.value.load.key is None
        assert cold.value.load.run() == 8
    assert pace.run(lambda: 9) == 9


def test_a_slow_failure_counts_too() -> None:
    clock = Clock()
    pace = Pace(clock)

    def fails() -> int:
        clock.now_s += 2 * SLOW_S
        raise OSError(errno.ENOENT, "none")

    with pytest.raises(OSError, match="none"):
        pace.run(fails)
    brought: list[int] = []
    with pytest.raises(Cold) as cold:
        pace.bring("key", lambda: brought.append(1))
    assert cold.value.load.key == "key"
    cold.value.load.run()
    assert brought == [1]


@pytest.mark.parametrize("threads", [False, True])
def test_names_that_are_not_in_memory(
    live: Live, threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked up at once or by a thread, found or not: the result is the same."""

    def uncached(directory: int, name: bytes) -> int:
        raise BlockingIOError(errno.EAGAIN, "not cached")

    monkeypatch.setattr("ventifs.vfs.live.files.look_up", uncached)
    guest = live.attach()
    if threads:
        live.all_in_threads()
    (live.path / "file").write_bytes(b"1")
    before = live.threaded
    assert guest.stat("file").size == 1
    assert guest.refused(guest.root.walk, b"none") == errno.ENOENT
    assert (live.threaded - before == 2) == threads
