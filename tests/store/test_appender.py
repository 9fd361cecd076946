"""Appending to an arena: whole or not at all, locked, sealed so that it describes itself."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from blake3 import blake3

from tests.support.arenafiles import (
    STORE_ID,
    append,
    incompressible,
    new_appender,
    new_arenas,
    reading,
)
from tests.support.limits import file_size_limit
from ventifs.buffer import Buffer
from ventifs.errors import VentifsError
from ventifs.store.appender import Appender, lock_arena
from ventifs.store.arena import HEADER_SIZE, TRAILER_SIZE, Arena, Clump
from ventifs.store.arena_state import ArenaState, ArenaTotals
from ventifs.store.clump import ClumpKind
from ventifs.store.files import Files


class Recorded(Files):
    """Real files, and a note of what was done to them."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def append(self, fd: int, parts: Sequence[Buffer], offset: int) -> int:
        self.done.append("append")
        return super().append(fd, parts, offset)

    def sync(self, fd: int) -> None:
        self.done.append("sync")
        super().sync(fd)


def contents(appender: Appender, end: int) -> list[bytes]:
    """The payloads of all clumps, none of them damaged."""
    found = list(reading(appender).scan(HEADER_SIZE, end))
    clumps = [item for item in found if isinstance(item, Clump)]
    assert len(clumps) == len(found)
    return [bytes(clump.payload) for clump in clumps]


def assert_sealed(appender: Appender, clumps: int) -> None:
    """The trailer is there and its directory lists so many clumps and matches its fingerprint."""
    arena = reading(appender)
    trailer = arena.trailer()
    assert trailer is not None
    assert trailer.clumps == len(list(arena.directory(trailer))) == clumps
    data = appender.path.read_bytes()[trailer.directory_offset : -TRAILER_SIZE]
    assert trailer.fingerprint == blake3(data).digest()


def test_a_new_arena_is_a_header_in_open(tmp_path: Path) -> None:
    arenas = new_arenas(tmp_path)
    appender = Appender.create(arenas, Files())
    assert appender.length == HEADER_SIZE == appender.path.stat().st_size
    assert appender.path == arenas.open_path(appender.id)
    reading(appender).check_header(STORE_ID)
    assert Appender.create(arenas, Files()).id != appender.id


def test_an_arena_is_locked_as_long_as_its_appender_lives(tmp_path: Path) -> None:
    appender = new_appender(tmp_path)
    path = appender.path
    assert lock_arena(path) is None
    del appender
    arena = lock_arena(path)
    assert isinstance(arena, Arena)
    assert lock_arena(path) is None


def test_an_arena_that_is_gone_cannot_be_locked(tmp_path: Path) -> None:
    assert lock_arena(tmp_path / f"{bytes(16).hex()}.arena") is None


def test_clumps_stand_one_after_the_other(tmp_path: Path) -> None:
    appender = new_appender(tmp_path)
    offsets, ends = [], []
    for number in range(5):
        offsets.append(append(appender, incompressible(1000, seed=number)))
        ends.append(appender.length)
    assert offsets == [HEADER_SIZE, *ends[:-1]]
    assert appender.length == appender.path.stat().st_size
    expected = [incompressible(1000, seed=number) for number in range(5)]
    assert contents(appender, appender.length) == expected


def test_totals_count_what_was_appended_since_they_were_settled(tmp_path: Path) -> None:
    appender = new_appender(tmp_path)
    append(appender, b"one", b"three")
    append(appender, b"node", kind=ClumpKind.NODE)
    append(appender, b"journal", kind=ClumpKind.CATALOG)
    stored = appender.length - HEADER_SIZE
    expected = ArenaTotals(
        clumps=3, data_blocks=2, data_bytes=8, node_blocks=1, node_bytes=4, stored_bytes=stored
    )
    state = appender.state()
    assert state == ArenaState(appender.id, appender.length, False, expected)
    appender.settled()
    append(appender, b"more")
    assert state.totals == expected
    more = ArenaTotals(1, data_blocks=1, data_bytes=4, stored_bytes=appender.length - state.length)
    assert appender.state().totals == more


def test_an_append_that_fails_leaves_the_arena_as_it_was(tmp_path: Path) -> None:
    appender = new_appender(tmp_path)
    append(appender, b"before")
    length, totals, data = appender.length, appender.state().totals, appender.path.read_bytes()
    with file_size_limit(length + 500), pytest.raises(VentifsError, match=str(appender.path)):
        append(appender, incompressible(5000))
    assert (appender.length, appender.state().totals) == (length, totals)
    assert appender.path.read_bytes() == data
    append(appender, b"after!")
    assert contents(appender, appender.length) == [b"before", b"after!"]
    appender.seal()
    assert_sealed(appender, 2)


def test_a_sealed_arena_says_where_its_clumps_end(tmp_path: Path) -> None:
    appender = new_appender(tmp_path)
    append(appender, b"block")
    end = appender.length
    appender.seal()
    assert appender.state() == ArenaState(appender.id, end, True, appender.totals)
    assert_sealed(appender, 1)
    assert contents(appender, end) == [b"block"]


def test_sealing_that_fails_can_be_done_again(tmp_path: Path) -> None:
    appender = new_appender(tmp_path)
    append(appender, b"one")
    append(appender, b"two")
    end = appender.length
    for room in (10, 250):  # in the directory, in the trailer
        with file_size_limit(end + room), pytest.raises(VentifsError, match=str(appender.path)):
            appender.seal()
        assert appender.length == end == appender.path.stat().st_size
        assert not appender.state().sealed
    append(appender, b"three")
    appender.seal()
    assert_sealed(appender, 3)


def test_what_is_cut_back_is_gone(tmp_path: Path) -> None:
    appender = new_appender(tmp_path)
    append(appender, b"stays")
    length, totals = appender.length, appender.state().totals
    append(appender, b"goes")
    appender.cut_back(length, totals)
    assert (appender.length, appender.path.stat().st_size) == (length, length)
    assert appender.state().totals == totals
    append(appender, b"comes")
    appender.seal()
    assert_sealed(appender, 2)
    assert contents(appender, appender.state().length) == [b"stays", b"comes"]


def test_an_arena_is_synced_when_there_is_something_to_sync(tmp_path: Path) -> None:
    files = Recorded()
    appender = new_appender(tmp_path, files)
    appender.sync()
    appender.sync()
    append(appender, b"block")
    appender.sync()
    length, totals = appender.length, appender.totals
    append(appender, b"another")
    appender.sync()
    appender.cut_back(length, totals)
    appender.sync()
    assert files.done == ["append", "sync", *["append", "sync"] * 2, "sync"]


def test_sealing_is_durable_when_it_returns(tmp_path: Path) -> None:
    files = Recorded()
    appender = new_appender(tmp_path, files)
    append(appender, b"block")
    appender.seal()
    assert files.done[-1] == "sync"


def test_an_arena_can_be_gone_on_with(tmp_path: Path) -> None:
    arenas, files = new_arenas(tmp_path), Files()
    appender = Appender.create(arenas, files)
    append(appender, b"first")
    path, totals, length = appender.path, appender.state().totals, appender.length
    del appender
    arena = lock_arena(path)
    assert arena is not None
    resumed = Appender.resume(arena, files, totals)
    assert (resumed.length, resumed.totals) == (length, ArenaTotals())
    assert append(resumed, b"second") == length
    resumed.seal()
    assert_sealed(resumed, 2)
    assert contents(resumed, resumed.state().length) == [b"first", b"second"]


def test_there_is_always_room_in_an_empty_arena(tmp_path: Path) -> None:
    appender = new_appender(tmp_path)
    assert appender.room(4096, 1 << 20, 1)
    append(appender, b"block")
    assert not appender.room(4096, 1 << 20, 1)


@pytest.mark.parametrize("blocks", [1, 40])
def test_an_arena_for_which_there_was_room_is_not_too_large_when_sealed(
    tmp_path: Path, blocks: int
) -> None:
    size_max = 20_000
    appender = new_appender(tmp_path)
    sizes = iter(range(100, 10_000))
    while appender.room(size_max, size := next(sizes) * blocks, blocks):
        append(appender, *[incompressible(size // blocks, seed=size + at) for at in range(blocks)])
    appender.seal()
    assert os.stat(appender.path).st_size <= size_max


def test_an_arena_is_filled_to_the_last_byte_that_directory_and_trailer_leave(
    tmp_path: Path,
) -> None:
    size_max = 20_000
    appender = new_appender(tmp_path)
    append(appender, b"block")
    largest = max(size for size in range(size_max) if appender.room(size_max, size, 1))
    append(appender, incompressible(largest))
    appender.seal()
    assert size_max - 200 <= appender.path.stat().st_size <= size_max
