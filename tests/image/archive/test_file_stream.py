"""A file's stream is what its extents say, whatever part of it is asked for."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.memorydisk import MemoryDisk
from tests.support.trees import noise
from ventifs.image.archive.file_stream import PAGE, PIECE_MAX, Stream
from ventifs.image.survey_events import Extent

DATA = noise(60_000) + bytes(10_000)


@st.composite
def extents(draw: st.DrawFn) -> tuple[Extent, ...]:
    """In order and without overlaps, as events have them; of any sizes."""
    found: list[Extent] = []
    at = 0
    for _ in range(draw(st.integers(0, 6))):
        at += draw(st.sampled_from([0, 0, 1, 512, 1024, 4096, 50_000]))
        length = draw(st.sampled_from([1, 100, 512, 1024, 4096, 10_000]))
        found.append((at, draw(st.integers(0, len(DATA) - length)), length))
        at += length
    return tuple(found)


def whole(size: int, places: tuple[Extent, ...]) -> bytes:
    held = bytearray(size)
    for logical, start, length in places:
        count = max(0, min(length, size - logical))
        held[logical : logical + count] = DATA[start : start + count]
    return bytes(held)


@given(
    places=extents(),
    size=st.integers(1, 200_000),
    offset=st.integers(0, 200_000),
    length=st.integers(0, 200_000),
)
def test_parts(places: tuple[Extent, ...], size: int, offset: int, length: int) -> None:
    stream = Stream(MemoryDisk(len(DATA), {0: DATA}), size, places)
    part = whole(size, places)[offset : offset + length]
    if offset <= size:
        assert stream.read(offset, length) == part
    assert stream.is_zero(offset, length) == (not part.strip(b"\0"))


@given(places=extents(), size=st.integers(1, 200_000))
def test_pieces(places: tuple[Extent, ...], size: int) -> None:
    stream = Stream(MemoryDisk(len(DATA), {0: DATA}), size, places)
    pieces = list(stream.pieces())
    assert b"".join(map(bytes, pieces)) == whole(size, places)
    for piece in pieces[:-1]:
        assert (piece if isinstance(piece, int) else len(piece)) % PAGE == 0
    assert all(isinstance(piece, int) or 0 < len(piece) <= PIECE_MAX for piece in pieces)


@given(places=extents(), size=st.integers(1, 200_000))
def test_zeros_after_the_end(places: tuple[Extent, ...], size: int) -> None:
    zeros = Stream(MemoryDisk(len(DATA), {0: DATA}), size, places).zeros_after()
    if zeros:
        logical, start, length = places[-1]
        assert logical + length - zeros == size
        assert not DATA[start + length - zeros : start + length].strip(b"\0")


def test_an_end_in_zeros_is_told() -> None:
    disk = MemoryDisk(8192, {0: b"x" * 5000})
    assert Stream(disk, 5000, ((0, 0, 8192),)).zeros_after() == 3192
    assert Stream(disk, 4999, ((0, 0, 8192),)).zeros_after() == 0
    assert Stream(disk, 8192, ((0, 0, 8192),)).zeros_after() == 0
    assert Stream(disk, 9000, ((0, 0, 8192),)).zeros_after() == 0
    assert Stream(disk, 9000, ()).zeros_after() == 0


def test_what_no_extent_holds_is_not_read() -> None:
    disk = MemoryDisk(8192, {0: b"x" * 8192})
    stream = Stream(disk, 1 << 62, (((1 << 61), 0, 4096),))
    assert stream.is_zero(0, 1 << 61)
    assert disk.reads == 0
    assert not stream.is_zero(0, 1 << 62)
    assert list(stream.pieces()) == [1 << 61, b"x" * 4096, (1 << 61) - 4096]
