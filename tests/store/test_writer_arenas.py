"""Which arenas a writer takes, and how a parent commits what its workers wrote into theirs."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.arenafiles import incompressible
from tests.support.writing import MIB, Site, add, commit, sized
from ventifs.store import Score, WorkerBatch
from ventifs.store.arena_state import ArenaState, ArenaTotals
from ventifs.store.journal import CommitCounters, Record


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def test_a_writer_goes_on_in_an_arena_that_nobody_has(site: Site) -> None:
    first = site.writer()
    add(first, b"one")
    commit(first)
    second = site.writer()
    add(second, b"two")
    commit(second)
    assert len(site.arenas.all_ids()) == 2  # the first writer lives: it has its arena
    first.close()
    third = site.writer()
    add(third, b"three")
    commit(third)
    assert len(site.arenas.all_ids()) == 2
    assert [state.totals.data_blocks for state in site.index.arena_states()].count(2) == 1


def test_an_arena_left_nearly_full_is_sealed_by_the_next_writer(site: Site) -> None:
    first = site.writer(arena_size=4 * MIB)
    scores = add(first, *sized(MIB, MIB, MIB, 900_000))
    commit(first)
    assert site.arenas.sealed_ids() == []
    first.close()
    second = site.writer(arena_size=4 * MIB)
    scores += add(second, b"small")
    commit(second)
    assert (len(site.arenas.sealed_ids()), len(site.arenas.open_ids())) == (1, 1)
    assert all(site.index.known_many(scores))


# --- workers ----------------------------------------------------------------------------------


def test_what_a_worker_hands_over_its_parent_commits(site: Site) -> None:
    worker, parent = site.writer(), site.writer()
    worker.counters.put_blocks = 3
    parent.counters.put_blocks = 1
    scores = add(worker, *sized(100, 200, 200_000)) + add(parent, b"the parent's")
    batch: WorkerBatch = pickle.loads(pickle.dumps(worker.hand_over()))
    assert (worker.pending, worker.counters, worker.hand_over().written) == (
        {},
        CommitCounters(),
        [],
    )
    assert not any(site.index.known_many(scores))
    parent.adopt(batch)
    assert set(parent.pending) == set(scores)
    (record,) = commit(parent, [(b"key", b"value")])
    assert all(site.index.known_many(scores))
    ((_, _, made),) = site.commits()
    assert {arena for arena, _ in made.relies_on} == set(site.arenas.all_ids())
    assert made.counters == site.index.counters() == CommitCounters(put_blocks=4)
    assert site.index.records() == [Record(b"key", record.id, b"value")]


def test_batches_of_one_worker_add_up(site: Site) -> None:
    worker, parent = site.writer(arena_size=4 * MIB), site.writer()
    scores: list[Score] = []
    for number in range(6):
        scores += add(worker, incompressible(MIB, seed=number))
        parent.adopt(worker.hand_over())
    commit(parent, [(b"key", b"value")])
    assert all(site.index.known_many(scores))
    totals = ArenaTotals()
    for state in site.index.arena_states():
        totals.add(state.totals)
        arena = site.arenas.reader(state.arena)
        assert (state.length, state.sealed) == (arena.clumps_end(), arena.trailer() is not None)
    assert (totals.data_blocks, totals.data_bytes) == (6, 6 * MIB)
    assert len(site.arenas.sealed_ids()) == 1


def test_a_batch_joins_states_of_one_arena() -> None:
    a, b = b"a" * 16, b"b" * 16
    batch = WorkerBatch(
        [ArenaState(a, 100, False, ArenaTotals(clumps=1))], [(a, 64, ())], CommitCounters(1)
    )
    batch.add(
        WorkerBatch(
            [
                ArenaState(a, 300, True, ArenaTotals(clumps=2)),
                ArenaState(b, 5, False, ArenaTotals()),
            ],
            [(a, 100, ())],
            CommitCounters(10),
        )
    )
    assert batch.states == [
        ArenaState(a, 300, True, ArenaTotals(clumps=3)),
        ArenaState(b, 5, False, ArenaTotals()),
    ]
    assert (batch.written, batch.counters) == ([(a, 64, ()), (a, 100, ())], CommitCounters(11))
