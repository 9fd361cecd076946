"""The steps of a reclaim that concern blocks and arenas."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from threading import Thread

import pytest

from tests.support.arenafiles import incompressible
from tests.support.damage import flip
from tests.support.patience import wait_until
from tests.support.stores import findings, new_store
from ventifs.errors import Busy
from ventifs.store import Score, Store
from ventifs.store.lock import idle_gate
from ventifs.store.reclaim.condemned import announced
from ventifs.store.reclaim.copy import live_blocks
from ventifs.store.reclaim.join import IN_USE, YOUNG, ArenaUse
from ventifs.store.reclaim.reclaiming_store import ReclaimingStore
from ventifs.store.score import score_of
from ventifs.store.spill import Spill

BLOCKS = [incompressible(700_000, seed=number) for number in range(16)]  # five fill an arena
SMALL = [b"%d is a small block" % number for number in range(200)]
ALL = [*BLOCKS, *SMALL]
SCORES = [score_of(block) for block in ALL]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = new_store(tmp_path / "store")
    with Store.open(root, "write") as store:
        for block in ALL:
            store.put(block)
        store.commit([(b"key", b"value")])
    return root


@pytest.fixture
def store(root: Path) -> Iterator[ReclaimingStore]:
    with ReclaimingStore.open(root, "reclaim") as store:
        yield store


def spilled(scores: Iterable[bytes]) -> Spill:
    spill = Spill(32)
    spill.add(list(scores))
    return spill


def uses_of(store: ReclaimingStore, live: Iterable[bytes]) -> list[ArenaUse]:
    uses = store.uses()
    uses.add(spilled(live))
    return uses.all()


def take(store: ReclaimingStore, live: list[Score]) -> list[ArenaUse]:
    """Seal, copy, drop and free every arena."""
    batch = uses_of(store, live)
    assert store.seal(batch) == {}
    assert store.copy(batch, lambda _: None) == {}
    ids = [use.arena for use in batch]
    scores = Spill(32)
    with store.scores_in(batch, scores, spilled(live)) as here:
        assert store.alive_in(ids, here) == set()
    store.drop_arenas(ids)
    store.condemn(ids)
    store.empty(batch, lambda _: None)
    store.remove_entries(scores)
    return batch


def test_what_lives_stays_and_the_rest_is_gone(root: Path, store: ReclaimingStore) -> None:
    live = SCORES[::3]
    before = store.stats()
    batch = take(store, live)
    assert len(batch) == 4
    assert [use.sealed for use in batch] == [True] * 4
    assert store.has_many(SCORES) == [score in set(live) for score in SCORES]
    assert [bytes(store.get(score)) for score in live] == ALL[::3]
    after = store.stats()
    assert after.blocks == after.index_entries == len(live)
    assert (after.put_blocks, after.put_bytes) == (before.put_blocks, before.put_bytes)
    assert after.arena_bytes < before.arena_bytes / 2
    store.close()
    assert findings(root) == []
    with Store.open(root, "write") as again:
        assert [again.put(block)[1] for block in ALL] == [at % 3 != 0 for at in range(len(ALL))]
        assert [record.key for record in again.records()] == [b"key"]


def test_whole_clumps_keep_their_frames(store: ReclaimingStore) -> None:
    batch = uses_of(store, SCORES)
    before = {
        bytes(clump.frame.payload)
        for use in batch
        for clump in live_blocks(store._arenas.reader(use.arena), use)
        if clump.frame is not None
    }
    assert len(before) > len(BLOCKS)  # these are alone in theirs
    store.seal(batch)
    copied: list[int] = []
    store.copy(batch, copied.append)
    assert sum(copied) == sum(use.live_bytes for use in batch)
    ids = {use.arena for use in batch}
    after = {
        bytes(clump.frame.payload)
        for use in uses_of(store, SCORES)
        if use.arena not in ids
        for clump in live_blocks(store._arenas.reader(use.arena), use)
        if clump.frame is not None
    }
    assert after == before


def test_a_copy_alone_costs_space_and_nothing_else(root: Path) -> None:
    with ReclaimingStore.open(root, "reclaim") as store:
        batch = uses_of(store, SCORES)
        store.seal(batch)
        store.copy(batch, lambda _: None)
        store.abandon()
    assert findings(root) == []
    with ReclaimingStore.open(root, "reclaim") as store:
        uses = uses_of(store, SCORES)
        dead = {use.arena for use in uses if not use.live_blocks and use.dead_bytes}
        assert dead == {use.arena for use in batch}


def test_an_interrupted_copy_is_found_by_the_next(root: Path) -> None:
    with ReclaimingStore.open(root, "reclaim") as store:
        clumps = store._read(uses_of(store, SCORES)[0], {})
        store._add_live(next(clumps))
        store._add_live(next(clumps))
        store.abandon()
    with ReclaimingStore.open(root, "reclaim") as store:
        take(store, SCORES)
        assert [bytes(store.get(score)) for score in SCORES] == ALL
    assert findings(root) == []


def test_a_damaged_live_block_keeps_its_arena(store: ReclaimingStore) -> None:
    place = store._index.locate(SCORES[0])
    assert place is not None
    use = next(use for use in uses_of(store, SCORES) if use.arena == place.arena)
    flip(store._arenas.reader(place.arena).path, place.offset + 1000)
    left = store.copy([use], lambda _: None)
    assert SCORES[0].hex() in left[place.arena]
    assert store._index.locate(SCORES[0]) == place
    use.live = b""
    use.live_blocks = 0  # dead, it may go
    assert store.copy([use], lambda _: None) == {}


def test_an_arena_with_a_damaged_directory_stays(store: ReclaimingStore) -> None:
    use = uses_of(store, [])[0]
    trailer = store._arenas.reader(use.arena).trailer()
    assert trailer is not None
    flip(store._arenas.sealed_path(use.arena), trailer.directory_offset + 100)
    store.scores_in([use], Spill(32), Spill(32)).close()
    assert "check --repair" in use.problem


def test_a_block_that_the_index_leads_back_to_keeps_its_arena(store: ReclaimingStore) -> None:
    """As when a parent commits what its workers stored, which was indexed meanwhile."""
    batch = uses_of(store, SCORES)
    before = store._index.locate(SCORES[3])
    assert before is not None
    store.seal(batch)
    store.copy(batch, lambda _: None)
    live = store.scores_in(batch, Spill(32), spilled(SCORES))
    ids = {use.arena for use in batch}
    changes = store.index_changes
    assert store.alive_in(ids, live) == set()
    assert store.index_changes == changes
    store._index.add_blocks(before.arena, [(SCORES[3], before.offset, before.position)])
    assert store.index_changes != changes
    assert store.alive_in(ids, live) == {before.arena}
    assert store.alive_in(ids, spilled([SCORES[3]])) == {before.arena}
    assert store.alive_in(ids, spilled([SCORES[4]])) == set()


def test_scores_are_told_apart_by_what_lives_here_elsewhere_and_nowhere(
    store: ReclaimingStore,
) -> None:
    here, elsewhere = SCORES[::3], SCORES[1::3]
    batch = uses_of(store, here)
    store.seal(batch)
    others = Spill(32)
    with store.scores_in(batch, others, spilled([*here, *elsewhere])) as living:
        assert [*chain(*living.pieces())] == sorted([*here, *elsewhere])
    assert [*chain(*others.pieces())] == sorted({*SCORES} - {*here})


def test_an_open_arena_that_is_written_to_is_not_sealed(root: Path) -> None:
    with ReclaimingStore.open(root, "reclaim") as store:
        [use] = [use for use in uses_of(store, []) if not use.sealed]
        with Store.open(root, "write") as writer:
            writer.put(b"one more block")
            writer.commit()
            assert store.seal([use]) == {use.arena: IN_USE}
        assert store.seal([use]) == {use.arena: IN_USE}  # it has grown
        [use] = [use for use in uses_of(store, []) if not use.sealed]
        assert store.seal([use]) == {}
        assert store._arenas.sealed_path(use.arena).exists()


def test_beside_writers_young_arenas_are_left(root: Path) -> None:
    with ReclaimingStore.open(root, "reclaim") as store:
        assert {use.problem for use in uses_of(store, [])} == {""}
        with Store.open(root, "write"):
            assert {use.problem for use in uses_of(store, [])} == {YOUNG}
        with store.alone():
            assert {use.problem for use in uses_of(store, [])} == {""}


def test_writers_that_come_get_the_idle_gate(root: Path) -> None:
    with ReclaimingStore.open(root, "reclaim") as store, ExitStack() as old:
        arena = store._arenas.sealed_ids()[0]
        writer = old.enter_context(Store.open(root, "write"))
        apart = ExitStack()
        waiting = Thread(target=lambda: apart.enter_context(store.writers_apart([arena], None)))
        current = idle_gate(root)
        waiting.start()
        wait_until(lambda: idle_gate(root) != current)
        assert announced(root) == {arena}
        here = [score for score in SCORES if writer._index.locate(score).arena == arena]  # type: ignore[union-attr]
        with Store.open(root, "write") as later:
            assert later.has_many(here) == [False] * len(here)
            assert [bytes(later.get(score)) for score in here] == [
                ALL[SCORES.index(score)] for score in here
            ]
            assert writer.has_many(here) == [True] * len(here)
            old.close()
            waiting.join()
            assert later.put(ALL[SCORES.index(here[0])]) == (here[0], True)
        store.recover_again()  # leaves the announcement alone
        assert announced(root) == {arena}
        apart.close()
        assert announced(root) == frozenset()
        assert store._index.locate(here[0]) is not None


def test_a_writer_from_before_an_interrupted_reclaim_is_waited_for(root: Path) -> None:
    with ReclaimingStore.open(root, "reclaim") as store, Store.open(root, "write") as writer:
        arena = store._arenas.sealed_ids()[0]
        for _ in range(3):
            with pytest.raises(Busy), store.writers_apart([arena], 0):
                pass
            assert announced(root) == frozenset()
        writer.abandon()
        with store.writers_apart([arena], 0):
            pass
