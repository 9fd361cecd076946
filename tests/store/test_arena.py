"""Reading arenas: scans past any damage, hops from head to head, and what sealing vouches for."""

import os
from pathlib import Path

import pytest

from tests.support.arenafiles import (
    DECOMPRESSOR,
    STORE_ID,
    append,
    clump_bytes,
    incompressible,
    new_appender,
    reading,
)
from tests.support.damage import flip, truncate
from ventifs.errors import Corrupt
from ventifs.store.appender import Appender
from ventifs.store.arena import (
    HEADER_SIZE,
    Arena,
    Clump,
    Damage,
    ForeignArena,
    encode_header,
)
from ventifs.store.clump import HEAD_SIZE, MAGIC, ClumpKind, encode_gap
from ventifs.store.score import score_of

ARENA_ID = bytes(range(0xE0, 0xF0))
WINDOW = 1 << 20  # what a scan reads at a time


def scanned(arena: Arena, *, end: int | None = None) -> list[tuple[str, int, int]]:
    """What a scan of everything finds, as (what, offset, length)."""
    found = []
    for item in arena.scan(HEADER_SIZE, arena.length() if end is None else end):
        size = item.length if isinstance(item, Damage) else item.head.size
        found.append((type(item).__name__, item.offset, size))
    return found


def by_hand(root: Path, *parts: bytes) -> Arena:
    """An arena file of a header and whatever follows."""
    path = root / f"{ARENA_ID.hex()}.arena"
    path.write_bytes(encode_header(STORE_ID, ARENA_ID, 7) + b"".join(parts))
    return Arena.open(path)


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


# --- scans ------------------------------------------------------------------------------------


def test_a_scan_finds_every_clump_with_its_content(three: tuple[Appender, list[int]]) -> None:
    appender, ends = three
    found = list(reading(appender).scan(HEADER_SIZE, appender.length))
    clumps = [item for item in found if isinstance(item, Clump)]
    assert [clump.offset for clump in clumps] == ends[:3]
    assert [clump.end for clump in clumps] == ends[1:]
    assert [clump.head.kind for clump in clumps] == [ClumpKind.DATA, ClumpKind.NODE, ClumpKind.DATA]
    assert bytes(clumps[0].payload) == b"onetwo"
    assert len(found) == 3


def test_a_scan_reads_arenas_larger_than_its_window(tmp_path: Path) -> None:
    appender = new_appender(tmp_path)
    blocks = [
        incompressible(size, seed=size) for size in (700_000, 900_000, 1 << 20, 1000, 300_000)
    ]
    offsets = [append(appender, block) for block in blocks]
    found = list(reading(appender).scan(HEADER_SIZE, appender.length))
    assert [item.offset for item in found] == offsets
    payloads = [bytes(item.payload) for item in found if isinstance(item, Clump)]
    assert payloads == blocks


@pytest.mark.parametrize("inside", [0, 5, HEAD_SIZE + 2, -1])
def test_damage_in_a_clump_costs_that_clump_alone(
    three: tuple[Appender, list[int]], inside: int
) -> None:
    appender, (first, second, third, end) = three
    flip(appender.path, (second + inside) if inside >= 0 else (third + inside))
    assert scanned(reading(appender)) == [
        ("Clump", first, second - first),
        ("Damage", second, third - second),
        ("Clump", third, end - third),
    ]


def test_damage_to_neighbours_is_one_piece(three: tuple[Appender, list[int]]) -> None:
    appender, (first, second, third, end) = three
    flip(appender.path, first + 40)
    flip(appender.path, second + 40)
    assert scanned(reading(appender)) == [
        ("Damage", first, third - first),
        ("Clump", third, end - third),
    ]


def test_a_torn_tail_is_damage_up_to_the_end(three: tuple[Appender, list[int]]) -> None:
    appender, (_, _, third, end) = three
    for length in (end - 1, third + HEAD_SIZE, third + 1):
        truncate(appender.path, length)
        assert scanned(reading(appender))[2:] == [("Damage", third, length - third)]


def test_a_scan_that_begins_within_damage_goes_on_behind_it(
    three: tuple[Appender, list[int]],
) -> None:
    appender, (first, second, *_) = three
    found = list(reading(appender).scan(first + 1, appender.length))
    assert [item.offset for item in found][:2] == [first + 1, second]


@pytest.mark.parametrize("before_window", range(6))
def test_a_clump_is_found_wherever_its_magic_stands_in_the_window(
    tmp_path: Path, before_window: int
) -> None:
    garbage = HEAD_SIZE + WINDOW - before_window
    offset = HEADER_SIZE + garbage
    arena = by_hand(tmp_path, b"?" * garbage, clump_bytes(ARENA_ID, offset, b"found"))
    assert scanned(arena)[0] == ("Damage", HEADER_SIZE, garbage)
    assert scanned(arena)[1][:2] == ("Clump", offset)


def test_clumps_inside_a_clump_are_data(tmp_path: Path) -> None:
    """An arena archived into an arena; then what it stands in is damaged."""
    inner = clump_bytes(bytes(16), 64, b"a clump of another arena")
    moved = clump_bytes(ARENA_ID, 5000, b"a clump of this arena, elsewhere")
    outer = clump_bytes(ARENA_ID, HEADER_SIZE, MAGIC * 20 + inner + moved + incompressible(500))
    last = clump_bytes(ARENA_ID, HEADER_SIZE + len(outer), b"last")
    arena = by_hand(tmp_path, outer, last)
    assert [what for what, *_ in scanned(arena)] == ["Clump", "Clump"]
    flip(arena.path, HEADER_SIZE + len(outer) - 1)
    assert scanned(Arena.open(arena.path)) == [
        ("Damage", HEADER_SIZE, len(outer)),
        ("Clump", HEADER_SIZE + len(outer), len(last)),
    ]


def test_a_gap_is_stepped_over_whatever_is_in_it(tmp_path: Path) -> None:
    hidden = clump_bytes(ARENA_ID, HEADER_SIZE + HEAD_SIZE, b"a clump that was given up")
    length = HEAD_SIZE + len(hidden)
    gap = encode_gap(length, arena=ARENA_ID, offset=HEADER_SIZE)
    last = clump_bytes(ARENA_ID, HEADER_SIZE + length, b"last")
    arena = by_hand(tmp_path, gap, hidden, last)
    expected = [("Clump", HEADER_SIZE, length), ("Clump", HEADER_SIZE + length, len(last))]
    assert scanned(arena) == expected


def test_a_gap_that_ends_behind_the_arena_is_damage(tmp_path: Path) -> None:
    gap = encode_gap(500, arena=ARENA_ID, offset=HEADER_SIZE)
    arena = by_hand(tmp_path, gap, b"?" * 400)
    assert scanned(arena) == [("Damage", HEADER_SIZE, HEAD_SIZE + 400)]


def test_a_scan_beyond_the_end_of_the_file_ends(
    three: tuple[Appender, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a commit relies on more of an arena than is left of it."""
    appender, (*_, end) = three
    arena, real, calls = reading(appender), os.pread, []

    def counted(fd: int, length: int, offset: int) -> bytes:
        calls.append(offset)
        assert len(calls) < 100, "the scan goes in circles"
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    found = scanned(arena, end=end + 3000)
    assert [what for what, *_ in found[:3]] == ["Clump", "Clump", "Clump"]
    assert all(what == "Damage" and offset == end for what, offset, _ in found[3:])


def test_an_arena_of_a_header_alone_holds_nothing(tmp_path: Path) -> None:
    assert scanned(reading(new_appender(tmp_path))) == []


# --- heads and content ------------------------------------------------------------------------


def test_heads_are_what_a_scan_finds(three: tuple[Appender, list[int]]) -> None:
    appender, ends = three
    arena = reading(appender)
    heads = list(arena.heads(HEADER_SIZE, appender.length))
    found = [item for item in arena.scan(HEADER_SIZE, appender.length) if isinstance(item, Clump)]
    assert heads == [(clump.offset, clump.head) for clump in found]
    assert len(heads) == len(ends) - 1


def test_a_broken_chain_of_heads_is_corrupt_where_it_breaks(
    three: tuple[Appender, list[int]],
) -> None:
    appender, (_, second, *_) = three
    flip(appender.path, second)
    heads = reading(appender).heads(HEADER_SIZE, appender.length)
    next(heads)
    with pytest.raises(Corrupt) as caught:
        next(heads)
    assert (caught.value.arena, caught.value.offset) == (appender.id.hex(), second)


def test_a_head_of_any_length_is_read(tmp_path: Path) -> None:
    appender = new_appender(tmp_path)
    for count in (1, 16, 17, 1024):
        blocks = [b"%d" % number for number in range(count)]
        head = reading(appender).read_head(append(appender, *blocks))
        assert head.blocks == [(score_of(block), len(block)) for block in blocks]


def test_journal_content_is_read_only_when_its_checksum_holds(tmp_path: Path) -> None:
    appender = new_appender(tmp_path)
    offset = append(appender, b"the journal" * 50, kind=ClumpKind.CATALOG)
    assert bytes(reading(appender).read_raw(offset, DECOMPRESSOR)) == b"the journal" * 50
    flip(appender.path, appender.length - 1)
    with pytest.raises(Corrupt, match="checksum"):
        reading(appender).read_raw(offset, DECOMPRESSOR)
    truncate(appender.path, appender.length - 1)
    with pytest.raises(Corrupt):
        reading(appender).read_raw(offset, DECOMPRESSOR)


# --- the file ---------------------------------------------------------------------------------


def test_a_header_is_checked_against_store_and_file_name(tmp_path: Path) -> None:
    arena = by_hand(tmp_path)
    arena.check_header(STORE_ID)
    with pytest.raises(ForeignArena, match=str(arena.path)):
        arena.check_header(bytes(16))
    renamed = arena.path.rename(tmp_path / f"{bytes(16).hex()}.arena")
    with pytest.raises(Corrupt, match="header"):
        Arena.open(renamed).check_header(STORE_ID)


@pytest.mark.parametrize("offset", range(HEADER_SIZE))
def test_a_changed_header_is_noticed(tmp_path: Path, offset: int) -> None:
    arena = by_hand(tmp_path)
    flip(arena.path, offset)
    with pytest.raises(Corrupt, match="header"):
        arena.check_header(STORE_ID)


def test_a_cut_header_is_noticed(tmp_path: Path) -> None:
    arena = by_hand(tmp_path)
    truncate(arena.path, HEADER_SIZE - 1)
    with pytest.raises(Corrupt, match="header"):
        arena.check_header(STORE_ID)


def test_an_arena_that_is_not_there_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Arena.open(tmp_path / f"{ARENA_ID.hex()}.arena")


def test_a_descriptor_is_closed_with_its_last_user(tmp_path: Path) -> None:
    arena = by_hand(tmp_path)
    descriptor = arena.fd
    del arena
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
