"""Stretches of a disk as blocks counted from an origin, zeros as holes."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.imaging import bytes_of
from tests.support.memorydisk import MemoryDisk
from tests.support.stores import new_store
from ventifs.image.archive.gap_blocks import BLOCK, BlockWriter
from ventifs.store import Store
from ventifs.tree.objects.records import Block, Chunk, decode_item

SIZE = 3 << 20


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_store(tmp_path_factory.mktemp("blocks") / "store")


@given(
    start=st.integers(0, SIZE),
    end=st.integers(0, SIZE),
    origin=st.integers(0, SIZE),
    places=st.lists(st.integers(0, SIZE - 1), max_size=8),
)
def test_blocks_end_where_those_of_the_origin_do(
    store: Path, start: int, end: int, origin: int, places: list[int]
) -> None:
    start, end = min(start, end), max(start, end)
    origin = min(origin, start)
    pieces = {place: b"%d" % place for place in sorted(set(places))}
    pieces = {at: data[: SIZE - at] for at, data in pieces.items()}
    disk = MemoryDisk(SIZE, pieces)
    with Store.open(store, "write") as opened:
        pieces_made = BlockWriter(opened, disk).write((start, end, origin))
        at = start
        for data, length in pieces_made:
            held = disk.read(at, length)
            if not data:
                assert not held.strip(b"\0")
            else:
                item = decode_item(data)
                assert isinstance(item, Chunk)
                assert item.length == length
                assert bytes_of(opened, Block(item.score, length)) == held
                assert (at - origin) // BLOCK == (at + length - 1 - origin) // BLOCK
                assert at == start or (at - origin) % BLOCK == 0
            at += length
            assert at == end or (at - origin) % BLOCK == 0
    assert at == end
    assert not any(not a and not b for (a, _), (b, _) in pairwise(pieces_made))


def test_known_blocks_are_not_new(store: Path) -> None:
    disk = MemoryDisk(8192, {0: b"the same" * 512, 4096: b"the same" * 512})
    with Store.open(store, "write") as opened:
        writer = BlockWriter(opened, disk)
        items = writer.write((0, 8192, 0))
    assert items[0] == items[1]
    assert writer.new_bytes == 4096
