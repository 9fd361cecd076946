"""What lives where: bits of blocks by arena, against a plain look at every clump."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support.arenafiles import incompressible
from tests.support.damage import flip
from tests.support.dropping import arenas_of, copy_from, sealed
from tests.support.stores import new_store, some_blocks
from ventifs.errors import NotStored
from ventifs.store import Score, Store
from ventifs.store.arena import HEADER_SIZE
from ventifs.store.clump import ClumpKind
from ventifs.store.reclaim.copy import live_blocks
from ventifs.store.reclaim.join import IN_USE, ArenaUse, ArenaUses
from ventifs.store.score import score_of
from ventifs.store.spill import Spill

BLOCKS = [*some_blocks(300, size_max=60_000), *(incompressible(900_000, seed=n) for n in range(10))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = new_store(tmp_path / "store")
    with Store.open(root, "write") as store:
        for number, block in enumerate(BLOCKS):
            store.put(block, node=number % 3 == 0)
            if number % 50 == 0:
                store.commit([(b"key %d" % number, b"value")])
    return root


def spilled(scores: Iterable[bytes]) -> Spill:
    spill = Spill(32)
    spill.add(list(scores))
    return spill


def joined(store: Store, live: Iterable[bytes], passes: int = 1, **options: Any) -> ArenaUses:
    uses = ArenaUses(store._index, arenas_of(store))
    step = 256 // passes
    for first in range(0, 256, step):
        part = spilled(score for score in live if first <= score[0] < first + step)
        uses.add(part, first=first, end=first + step, **options)
    return uses


def looked_at(store: Store, use: ArenaUse, live: set[bytes]) -> tuple[bytes, int, int, int]:
    """Flags and figures of an arena, from its clumps and one look-up for each block."""
    flags, blocks, live_bytes, dead_bytes = b"", 0, 0, 0
    arena = arenas_of(store).reader(use.arena)
    for offset, head in arena.heads(HEADER_SIZE, use.length):
        raw = 0
        for score, length in head.blocks:
            place = store._index.locate(Score(score))
            here = place is not None and (place.arena, place.offset) == (use.arena, offset)
            lives = score in live and here
            flags += b"1" if lives else b"0"
            raw += length if lives else 0
            blocks += lives
        if head.blocks:
            share = head.size * raw // head.raw_length
            live_bytes, dead_bytes = live_bytes + share, dead_bytes + head.size - share
    return flags, blocks, live_bytes, dead_bytes


@pytest.mark.parametrize("passes", [1, 4, 256])
def test_it_agrees_with_a_look_at_every_block(root: Path, passes: int) -> None:
    with Store.open(root) as store:
        everything = [bytes(score_of(block)) for block in BLOCKS]
        live = set(random.Random(1).sample(everything, 150))
        found = joined(store, live, passes)
        assert found.blocks == found.listed == len(everything)
        uses = found.all()
        assert len(uses) > 2
        for use in uses:
            flags, blocks, live_bytes, dead_bytes = looked_at(store, use, live)
            assert (use.flags(), use.live_blocks) == (flags, blocks)
            assert use.problem == ""
            assert use.live_bytes == pytest.approx(live_bytes, abs=60 * passes - 60)
            assert use.dead_bytes == pytest.approx(dead_bytes, abs=60 * passes - 60)
        assert sum(use.live_blocks for use in uses) == 150


def test_nothing_lives(root: Path) -> None:
    with Store.open(root) as store:
        for use in joined(store, []).all():
            assert (use.live_blocks, use.live_bytes, use.live) == (0, 0, b"")
            assert set(use.flags()) == {ord("0")}
            assert 0 < use.dead_bytes < use.file_bytes


def test_an_arena_with_nothing_but_records_is_not_dead(tmp_path: Path) -> None:
    root = new_store(tmp_path / "store")
    with Store.open(root, "write") as store:
        store.commit([(b"key", b"value")])
    with Store.open(root) as store:
        assert [(use.blocks, use.dead_bytes) for use in joined(store, []).all()] == [(0, 0)]


def test_a_copy_is_where_the_index_points(root: Path) -> None:
    with Store.open(root, "write") as store:
        first = sealed(store)[0]
        scores = [score_of(block) for block in BLOCKS]
        copy_from(store, [first], scores)
        uses = {use.arena: use for use in joined(store, scores).all()}
        assert uses[first].live_blocks == 0
        assert uses[first].blocks > 0
        assert sum(use.live_blocks for use in uses.values()) == len(scores)


def test_a_live_block_that_the_index_lacks(root: Path) -> None:
    with Store.open(root, "write") as store:
        lost = score_of(BLOCKS[7])
        store._index.drop_block(lost)
        with pytest.raises(NotStored, match=lost.hex()):
            joined(store, [score_of(block) for block in BLOCKS])
        joined(store, [score_of(block) for block in BLOCKS if block != BLOCKS[7]])


def test_entries_that_lead_to_dropped_arenas_go(root: Path) -> None:
    with Store.open(root, "write") as store:
        scores = [score_of(block) for block in BLOCKS]
        first = sealed(store)[0]
        kept = scores[::2]
        copy_from(store, [first], kept)
        gone = [
            score
            for score in scores
            if (place := store._index.locate(score)) is not None and place.arena == first
        ]
        assert gone
        store.drop_arenas([first])
        before = store._index.entry_count()
        assert joined(store, kept).leftovers == 0
        assert store._index.entry_count() == before
        assert joined(store, kept, remove_leftovers=True).leftovers == len(gone)
        assert store._index.entry_count() == before - len(gone)
        assert store.has_many(kept) == [True] * len(kept)
        with pytest.raises(NotStored):
            joined(store, [*kept, gone[0]])


def test_an_arena_that_a_process_writes_to(root: Path) -> None:
    with Store.open(root, "write") as writer, Store.open(root) as reader:
        writer.put(b"more")
        writer.commit()
        problems = [use.problem for use in joined(reader, []).all() if not use.sealed]
        assert problems == [IN_USE]
    with Store.open(root) as reader:
        assert [use.problem for use in joined(reader, []).all() if not use.sealed] == [""]


def test_what_lives_is_read_whole_clumps_with_their_frames(root: Path) -> None:
    with Store.open(root) as store:
        everything = {bytes(score_of(block)): block for block in BLOCKS}
        live = set(random.Random(2).sample(sorted(everything), 240))
        found = {}
        frames = 0
        for use in joined(store, live).all():
            total = 0
            for clump in live_blocks(arenas_of(store).reader(use.arena), use):
                assert clump.kind in (ClumpKind.DATA, ClumpKind.NODE)
                found.update({bytes(score): bytes(block) for score, block in clump.blocks})
                total += clump.size
                frames += clump.frame is not None
            assert total == use.live_bytes
        assert found == {score: everything[score] for score in live}
        assert frames > 6  # those with one large block, at least


def test_a_damaged_arena_cannot_be_reclaimed(root: Path) -> None:
    with Store.open(root) as store:
        scores = [score_of(block) for block in BLOCKS]
        arenas = arenas_of(store)
        first = sealed(store)[0]
        trailer = arenas.reader(first).trailer()
        assert trailer is not None
        flip(arenas.sealed_path(first), trailer.directory_offset + 200)
        uses = {use.arena: use for use in joined(store, scores).all()}
        assert "directory" in uses[first].problem
        assert [arena for arena, use in uses.items() if use.problem] == [first]


def test_blocks_that_a_writer_stores_again_meanwhile(root: Path) -> None:
    """They live in an arena that was made since, and in none of those that were looked at."""
    scores = [score_of(block) for block in BLOCKS]
    with Store.open(root, "write") as store:
        first, second = sealed(store)[:2]
        there = {use.arena: use.live_blocks for use in joined(store, scores).all()}
        uses = ArenaUses(store._index, arenas_of(store))
        for arena in [use.arena for use in uses.all() if not use.sealed]:
            assert store._writer.seal_open(arena, store._index.arena_state(arena).length)
        copy_from(store, [first], scores)
        uses.add(spilled(scores))
        found = {use.arena: use.live_blocks for use in uses.all()}
        assert found == {**there, first: 0}
        assert there[first] > 0
        assert there[second] == found[second]


def test_the_first_blocks_of_an_arena_that_held_records_alone(tmp_path: Path) -> None:
    """They are written after the arenas were looked at."""
    root = new_store(tmp_path / "store")
    with Store.open(root, "write") as store:
        store.commit([(b"key", b"value")])
        uses = ArenaUses(store._index, arenas_of(store))
        score, _ = store.put(BLOCKS[0])
        store.commit()
        uses.add(spilled([score]))
        assert [(use.blocks, use.problem) for use in uses.all()] == [(0, IN_USE)]
