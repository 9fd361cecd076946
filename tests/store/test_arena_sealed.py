"""Sealed arenas: what directory and trailer tell, and that no change to them goes unnoticed."""

from pathlib import Path

import pytest
from blake3 import blake3
from msgspec.structs import replace

from tests.support.arenafiles import append, incompressible, new_appender, reading
from tests.support.damage import flip, overwrite
from ventifs.errors import Corrupt
from ventifs.store.appender import Appender
from ventifs.store.arena import (
    DIRECTORY_START_SIZE,
    HEADER_SIZE,
    TRAILER_SIZE,
    Arena,
    encode_trailer,
)
from ventifs.store.clump import ClumpKind


@pytest.fixture
def three(tmp_path: Path) -> tuple[Appender, list[int]]:
    """An arena of three clumps, and where they begin and the last one ends."""
    appender = new_appender(tmp_path)
    starts = [
        append(appender, b"one", b"two"),
        append(appender, b"x" * 5000, kind=ClumpKind.NODE),
        append(appender, incompressible(3000)),
    ]
    return appender, [*starts, appender.length]


def test_directory_and_trailer_tell_what_a_sealed_arena_holds(
    three: tuple[Appender, list[int]],
) -> None:
    appender, (*_, end) = three
    appender.seal()
    arena, data = reading(appender), appender.path.read_bytes()
    trailer = arena.trailer()
    assert trailer is not None
    assert (trailer.directory_offset, arena.clumps_end()) == (end, end)
    assert (trailer.clumps, trailer.blocks) == (3, 4)
    assert end + trailer.directory_length + TRAILER_SIZE == len(data)
    assert trailer.fingerprint == blake3(data[end:-TRAILER_SIZE]).digest()
    assert data[end + DIRECTORY_START_SIZE - HEADER_SIZE :].startswith(data[:HEADER_SIZE])
    assert list(arena.directory(trailer)) == list(arena.heads(HEADER_SIZE, end))


@pytest.mark.parametrize("window", [1, 70, 1 << 20])
def test_outlines_agree_with_the_directory(
    three: tuple[Appender, list[int]], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    appender, (*_, end) = three
    appender.seal()
    monkeypatch.setattr("ventifs.store.arena._WINDOW", window)
    arena = reading(appender)
    trailer = arena.trailer()
    assert trailer is not None
    heads = list(arena.heads(HEADER_SIZE, end))
    assert list(arena.directory(trailer)) == heads
    outlines = list(arena.outlines(trailer))
    for (offset, head), (at, clump) in zip(heads, outlines, strict=True):
        assert (at, clump.kind, clump.count) == (offset, head.kind, len(head.blocks))
        assert (clump.raw_length, clump.size) == (head.raw_length, head.size)
        assert clump.scores() == [score for score, _ in head.blocks]
        for positions in ([], [0], range(len(head.blocks))):
            lengths = [head.blocks[position][1] for position in positions]
            assert clump.length_of(positions) == sum(lengths)


def test_an_open_arena_has_no_trailer(three: tuple[Appender, list[int]]) -> None:
    appender, (*_, end) = three
    assert reading(appender).trailer() is None
    assert reading(appender).clumps_end() == end


@pytest.mark.parametrize("back", range(1, TRAILER_SIZE + 1))
def test_a_changed_trailer_is_none(three: tuple[Appender, list[int]], back: int) -> None:
    appender, _ = three
    appender.seal()
    flip(appender.path, -back)
    assert reading(appender).trailer() is None


def test_a_trailer_that_is_not_at_the_end_of_its_own_arena_is_none(
    three: tuple[Appender, list[int]],
) -> None:
    appender, _ = three
    appender.seal()
    whole = appender.path.read_bytes()
    for data in (whole[:-1], whole + b"\0", whole[:HEADER_SIZE] + whole[HEADER_SIZE + 1 :]):
        appender.path.write_bytes(data)
        assert reading(appender).trailer() is None
    other = appender.path.with_name(f"{bytes(16).hex()}.arena")
    other.write_bytes(whole)
    assert Arena.open(other).trailer() is None


def test_every_changed_byte_of_a_directory_is_noticed(
    three: tuple[Appender, list[int]],
) -> None:
    appender, (*_, end) = three
    appender.seal()
    trailer = reading(appender).trailer()
    assert trailer is not None
    for offset in range(end, end + trailer.directory_length):
        flip(appender.path, offset)
        for walk in (Arena.directory, Arena.outlines):
            with pytest.raises(Corrupt, match="arena directory") as caught:
                list(walk(reading(appender), trailer))
            assert caught.value.arena == appender.id.hex()
        flip(appender.path, offset)


def test_a_directory_that_is_cut_off_by_its_own_trailer_is_corrupt(
    three: tuple[Appender, list[int]],
) -> None:
    appender, (*_, end) = three
    appender.seal()
    trailer = reading(appender).trailer()
    assert trailer is not None
    short = replace(trailer, directory_length=trailer.directory_length - 7)
    whole = appender.path.read_bytes()[: end + short.directory_length]
    appender.path.write_bytes(whole + encode_trailer(short, appender.id))
    arena = reading(appender)
    assert arena.trailer() == short
    with pytest.raises(Corrupt, match="arena directory"):
        list(arena.directory(short))
    with pytest.raises(Corrupt, match="arena directory"):
        list(arena.outlines(short))


def test_an_overwritten_clump_does_not_change_what_the_directory_says(
    three: tuple[Appender, list[int]],
) -> None:
    appender, ends = three
    appender.seal()
    overwrite(appender.path, HEADER_SIZE, bytes(ends[-1] - HEADER_SIZE))
    arena = reading(appender)
    trailer = arena.trailer()
    assert trailer is not None
    assert [offset for offset, _ in arena.directory(trailer)] == ends[:3]
