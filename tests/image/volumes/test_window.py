import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.memorydisk import MemoryDisk
from ventifs.image.disk import ImageError
from ventifs.image.volumes.window import Window

DATA = bytes(range(256)) * 4
DISK = MemoryDisk(len(DATA), {0: DATA})


def test_a_partition_is_its_range() -> None:
    window = Window(DISK, [(100, 200)])
    assert window.size == 100
    assert window.read(0, 100) == DATA[100:200]
    assert window.where(10, 20) == [(110, 20)]
    assert window.read(100, 0) == b""


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 24)), min_size=1, max_size=9),
    st.data(),
)
def test_ranges_are_strung_together(pieces: list[tuple[int, int]], data: st.DataObject) -> None:
    ranges = [(start, start + length) for start, length in pieces]
    window = Window(DISK, ranges)
    whole = b"".join(DATA[start:end] for start, end in ranges)
    offset = data.draw(st.integers(0, window.size))
    length = data.draw(st.integers(0, window.size - offset))
    assert window.size == len(whole)
    assert window.read(offset, length) == whole[offset : offset + length]
    where = window.where(offset, length)
    assert b"".join(DATA[at : at + count] for at, count in where) == whole[offset : offset + length]
    assert all(count for _, count in where)


def test_neighbours_on_the_disk_are_told_as_one() -> None:
    assert Window(DISK, [(0, 10), (10, 30), (50, 60)]).where(5, 30) == [(5, 25), (50, 5)]


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 101), (100, 1), (0, -1), (1 << 70, 1)])
def test_nothing_is_past_the_end(offset: int, length: int) -> None:
    window = Window(DISK, [(100, 200)])
    with pytest.raises(ImageError, match="in a volume of 100 bytes"):
        window.read(offset, length)


def test_a_volume_of_nothing() -> None:
    window = Window(DISK, [])
    assert window.size == 0
    assert window.read(0, 0) == b""
    with pytest.raises(ImageError):
        window.read(0, 1)
