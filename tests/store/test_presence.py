"""Blocks are confirmed by the heads that lie where the index leads, whatever the index says."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.arenafiles import incompressible
from tests.support.damage import overwrite, truncate
from tests.support.dropping import arenas_of, copy_from, drop, sealed
from tests.support.stores import new_store, put_all, some_blocks
from ventifs.store import ZERO_SCORE, Score, Store, score_of
from ventifs.store.arena import HEADER_SIZE, Arena
from ventifs.store.arena_state import Place
from ventifs.store.index import Index
from ventifs.store.presence import MISSING

BLOCKS = [*some_blocks(30, size_max=4000), *(incompressible(900_000, seed=at) for at in range(5))]
SMALL = [score_of(block) for block in BLOCKS[:30]]


class Made(NamedTuple):
    """A store with one sealed arena, and where a block of it is."""

    root: Path
    score: Score
    place: Place
    arena: Path


@pytest.fixture
def made(tmp_path: Path) -> Made:
    root = new_store(tmp_path / "store")
    with Store.open(root, "write") as store:
        put_all(store, BLOCKS[:30])
        store.commit()
        put_all(store, BLOCKS)
        store.commit()
        put_all(store, some_blocks(10, seed=5))
        store.commit()
        [arena_id] = sealed(store)
        place = store._index.locate(SMALL[3])
        assert place is not None
        assert place.arena == arena_id
        return Made(root, SMALL[3], place, arenas_of(store).sealed_path(arena_id))


def absent(root: Path, scores: list[Score] | None = None) -> dict[Score, str]:
    with Store.open(root) as store:
        return store.absent(SMALL if scores is None else scores)


def lead(made: Made, arena: bytes, offset: int, position: int) -> None:
    """Let the index say that the block is elsewhere."""
    with Store.open(made.root) as store:
        index = Index(made.root / "index", store.header.store_id)
    index.add_blocks(arena, [(made.score, offset, position)])
    index.close()


def test_what_is_there_is_not_absent(made: Made) -> None:
    assert absent(made.root) == {}
    assert absent(made.root, [ZERO_SCORE]) == {}
    never = score_of(b"never stored")
    assert absent(made.root, [never, made.score]) == {never: MISSING}


def test_what_waits_for_its_commit_is_not_absent(made: Made) -> None:
    with Store.open(made.root, "write") as store:
        score, _ = store.put(b"waits")
        assert store.absent([score]) == {}


def other_position(made: Made) -> None:
    lead(made, made.place.arena, made.place.offset, made.place.position + 1)


def position_past_the_end(made: Made) -> None:
    lead(made, made.place.arena, made.place.offset, 1023)


def other_offset(made: Made) -> None:
    lead(made, made.place.arena, made.place.offset + 4, made.place.position)


def offset_past_the_end(made: Made) -> None:
    lead(made, made.place.arena, 2**32 - 1, made.place.position)


def other_arena(made: Made) -> None:
    with Store.open(made.root) as store:
        [other] = arenas_of(store).open_ids()
    lead(made, other, HEADER_SIZE, 0)


def an_arena_that_never_was(made: Made) -> None:
    lead(made, bytes(16), made.place.offset, made.place.position)


def copy_in_the_directory(made: Made) -> None:
    """The arena's directory repeats the clump's head, but no payload follows it."""
    arena = Arena.open(made.arena)
    trailer = arena.trailer()
    assert trailer is not None
    listed = arena.read_head(made.place.offset).listed
    entry = struct.pack("<Q", made.place.offset) + listed
    at = made.arena.read_bytes().index(entry, trailer.directory_offset)
    lead(made, made.place.arena, at + 8, made.place.position)


def arena_emptied(made: Made) -> None:
    os.truncate(made.arena, 0)


def arena_cut_in_the_clump(made: Made) -> None:
    size = Arena.open(made.arena).read_head(made.place.offset).size
    truncate(made.arena, made.place.offset + size - 1)


def arena_removed(made: Made) -> None:
    made.arena.unlink()


def arena_of_zeros(made: Made) -> None:
    """Directory and trailer are sound; the clumps are gone."""
    overwrite(made.arena, HEADER_SIZE, bytes(Arena.open(made.arena).clumps_end() - HEADER_SIZE))


def arena_dropped(made: Made) -> None:
    with Store.open(made.root, "write") as store:
        drop(store, [made.place.arena], [])


WRONG: dict[Callable[[Made], None], str] = {
    other_position: "another block is there",
    position_past_the_end: "another block is there",
    other_offset: "no clump begins here",
    offset_past_the_end: "no clump begins here",
    other_arena: "another block is there",
    an_arena_that_never_was: "arena file is missing",
    copy_in_the_directory: "the clump is cut off",
    arena_emptied: "no clump begins here",
    arena_cut_in_the_clump: "the clump is cut off",
    arena_removed: "arena file is missing",
    arena_of_zeros: "no clump begins here",
    arena_dropped: MISSING,
}


@pytest.mark.parametrize("break_it", WRONG)
def test_a_block_that_is_not_where_the_index_leads_is_absent(
    made: Made, break_it: Callable[[Made], None]
) -> None:
    break_it(made)
    with Store.open(made.root) as store:
        known = store.has(made.score)
    assert known == (break_it is not arena_dropped)  # the index says that it is there
    found = absent(made.root)
    assert found[made.score].endswith(WRONG[break_it])
    assert (found.keys() == {made.score}) == (not break_it.__name__.startswith("arena_"))


def test_each_head_is_read_once_and_no_payload(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    read_head, heads = Arena.read_head, list[tuple[bytes, int]]()

    def counted(self: Arena, offset: int) -> object:
        heads.append((self.id, offset))
        return read_head(self, offset)

    def unread(self: Arena, offset: int, head: object) -> bytes:
        raise AssertionError("a payload is read")

    with Store.open(made.root) as store:
        places = [store._index.locate(score_of(block)) for block in BLOCKS]
    clumps = sorted({(place.arena, place.offset) for place in places if place is not None})
    assert len(clumps) < len(BLOCKS) / 2
    monkeypatch.setattr(Arena, "read_head", counted)
    monkeypatch.setattr(Arena, "read_payload", unread)
    assert absent(made.root, [score_of(block) for block in reversed(BLOCKS)]) == {}
    assert heads == clumps


def test_a_block_that_moves_meanwhile_is_not_absent(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each look-up in turn, all that lives in the arena is copied, and the arena dropped."""
    scores = [score_of(block) for block in BLOCKS]
    locate, looked = Index.locate, list[Score]()

    def moving(self: Index, score: Score) -> Place | None:
        place = locate(self, score)
        looked.append(score)
        if len(looked) == 7:
            with Store.open(made.root, "write") as store:
                copy_from(store, [made.place.arena], scores)
                store.drop_arenas([made.place.arena])
                arenas_of(store).sealed_path(made.place.arena).unlink()
        return place

    with Store.open(made.root) as store:
        store.absent(scores)  # opens the arena, and keeps it in memory
        monkeypatch.setattr(Index, "locate", moving)
        assert store.absent(scores) == {}
    assert len(looked) > len(scores)
