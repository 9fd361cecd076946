"""The index: finds what was added, and adds up arenas, figures and records in any order."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support.arenafiles import STORE_ID
from ventifs.store import Score, score_of
from ventifs.store.arena_state import ArenaState, ArenaTotals, Place, SealedMark
from ventifs.store.index import BATCH_ENTRIES, Index, IndexSnapshot
from ventifs.store.journal import Changes, CommitCounters, Record

A, B, C = (bytes([number]) * 16 for number in (0xA1, 0xB2, 0xC3))
NOTHING = CommitCounters()
RECORDS = [
    Record(b"key%d" % (number // 2), bytes([number + 1]) * 16, b"value %d" % number)
    for number in range(6)
]
RECORD = RECORDS[0]


def scores(count: int, *, seed: int = 0) -> list[Score]:
    rng = random.Random(seed)
    return [Score(rng.randbytes(32)) for _ in range(count)]


def new_index(root: Path, name: str = "index") -> Index:
    """An empty index. Not synced, as in a rebuild: these tests lose no power."""
    return Index(root / name, STORE_ID, create=True, sync=False)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    made = new_index(tmp_path)
    yield made
    made.close()


def state(arena: bytes, length: int, *, sealed: bool = False, blocks: int = 1) -> ArenaState:
    return ArenaState(arena, length, sealed, ArenaTotals(clumps=1, data_blocks=blocks))


# --- blocks -----------------------------------------------------------------------------------


def test_blocks_are_found_where_they_were_added(index: Index) -> None:
    one, two, three = scores(3)
    index.add_blocks(A, [(two, 64, 0), (one, 64, 1)])
    index.add_blocks(B, [(three, 2**32 - 1, 1023)])
    assert index.locate(one) == Place(A, 64, 1)
    assert index.locate(two) == Place(A, 64, 0)
    assert index.locate(three) == Place(B, 2**32 - 1, 1023)
    assert index.entry_count() == 3


def test_a_block_is_known_when_it_is_there(index: Index) -> None:
    present, absent = scores(50), scores(50, seed=1)
    index.add_blocks(A, [(score, 64, at) for at, score in enumerate(present)])
    assert [index.known(score) for score in present + absent] == [True] * 50 + [False] * 50
    mixed = [absent[0], present[3], present[1], absent[0], present[3]]
    assert index.known_many(mixed) == [False, True, True, False, True]
    assert index.known_many([]) == []
    assert index.locate(absent[0]) is None


def test_blocks_are_located_in_any_order(index: Index) -> None:
    present, absent = scores(50), scores(50, seed=1)
    index.add_blocks(A, [(score, 64, at) for at, score in enumerate(present[:25])])
    index.add_blocks(B, [(score, 128, at) for at, score in enumerate(present[25:])])
    mixed = [absent[0], present[3], present[49], absent[0], present[3]]
    here, there = Place(A, 64, 3), Place(B, 128, 24)
    assert index.locate_many(mixed) == [None, here, there, None, here]
    assert index.locate_many([]) == []
    every = present + absent
    random.Random(0).shuffle(every)
    assert index.locate_many(every) == [index.locate(score) for score in every]
    places = index.locate_many(every)
    assert index.arenas_of(every) == {place.arena for place in places if place is not None}
    assert index.arenas_of([]) == set()


def test_entries_come_in_order_of_score(index: Index) -> None:
    some = scores(200)
    index.add_blocks(A, [(score, at, at) for at, score in enumerate(some)])
    expected = sorted((score, Place(A, at, at)) for at, score in enumerate(some))
    assert list(index.entries()) == expected


def test_more_blocks_than_a_transaction_takes_are_added(index: Index) -> None:
    some = scores(BATCH_ENTRIES + 1)
    index.add_blocks(A, [(score, at, 0) for at, score in enumerate(some)])
    assert index.entry_count() == len(some)
    assert all(index.known_many(some))
    assert index.arena_state(A) == ArenaState(A, 0, False, ArenaTotals())


def test_adding_blocks_again_changes_nothing_but_their_place(index: Index) -> None:
    (score,) = scores(1)
    index.add_blocks(A, [(score, 64, 0)])
    index.add_blocks(A, [(score, 64, 0)])
    assert list(index.entries()) == [(score, Place(A, 64, 0))]
    index.add_blocks(B, [(score, 99, 7)])
    assert list(index.entries()) == [(score, Place(B, 99, 7))]


def test_ascending_blocks_are_appended(index: Index) -> None:
    some = sorted(scores(100))
    first, second = index.number_of(A), index.number_of(B)
    index.append_blocks([(score, first, at, 1) for at, score in enumerate(some[:50])])
    index.append_blocks([(score, second, at, 2) for at, score in enumerate(some[50:])])
    assert [place for _, place in index.entries()] == [
        *(Place(A, at, 1) for at in range(50)),
        *(Place(B, at, 2) for at in range(50)),
    ]


def test_a_dropped_block_is_not_known(index: Index) -> None:
    one, two = scores(2)
    index.add_blocks(A, [(one, 64, 0), (two, 64, 1)])
    index.drop_block(one)
    index.drop_block(one)
    assert (index.known(one), index.known(two)) == (False, True)


def test_threads_look_up_while_another_adds(index: Index) -> None:
    some = scores(3000)
    index.add_blocks(A, [(score, at, 0) for at, score in enumerate(some[:1000])])

    def look(_: int) -> bool:
        return all(index.locate(score) == Place(A, at, 0) for at, score in enumerate(some[:1000]))

    with ThreadPoolExecutor(3) as pool:
        looking = [pool.submit(look, number) for number in range(2)]
        index.add_blocks(B, [(score, 1, 0) for score in some[1000:]])
        assert all(future.result() for future in looking)


# --- arenas, epoch, environment ---------------------------------------------------------------


def test_arenas_grow_and_are_sealed(index: Index) -> None:
    assert index.arena_state(A) == ArenaState(A, 0, False, ArenaTotals())
    index.settle([state(A, 100), state(B, 50, blocks=7)], Changes(), NOTHING)
    further = replace(state(A, 300, sealed=True, blocks=4), start=100)
    for _ in range(2):  # told twice, counted once
        index.settle([further], Changes(), NOTHING)
    sealed = ArenaState(A, 300, True, ArenaTotals(clumps=2, data_blocks=5))
    growing = state(B, 50, blocks=7)
    assert index.arena_states() == [sealed, growing]
    assert index.arena_states(sealed=True) == [sealed]
    assert index.arena_states(sealed=False) == [growing]
    assert (index.sealed_mark(), index.arena_state(A)) == (SealedMark(1, A), sealed)
    assert index.snapshot() == IndexSnapshot([sealed, growing], [], set())


def test_an_arena_is_never_indexed_less_far_than_it_was(index: Index) -> None:
    index.settle([state(A, 300)], Changes(), NOTHING)
    index.settle([state(A, 200)], Changes(), NOTHING)
    assert index.arena_state(A) == state(A, 300)


def test_arenas_keep_their_numbers(index: Index) -> None:
    numbers = [index.number_of(arena) for arena in (A, B, C, A, B, C)]
    assert numbers[:3] == numbers[3:]
    assert len(set(numbers)) == 3
    index.settle([state(C, 10, sealed=True)], Changes(), NOTHING)
    assert index.number_of(C) == numbers[2]
    assert index.number_of(bytes(16)) not in numbers


def test_every_index_has_an_epoch_of_its_own(tmp_path: Path, index: Index) -> None:
    before = index.epoch
    assert (len(before), index.epoch) == (8, before)
    other = new_index(tmp_path, "other")
    assert other.epoch != before
    other.close()


def test_counters_add_up(index: Index) -> None:
    assert index.counters() == NOTHING
    index.settle([], Changes(), CommitCounters(1, 2, 3, 4, 5))
    index.settle([], Changes(), CommitCounters(10, 0, 0, 0, 2**40))
    assert index.counters() == CommitCounters(11, 2, 3, 4, 2**40 + 5)


def test_two_users_of_one_index_see_the_same(tmp_path: Path, index: Index) -> None:
    second = Index(tmp_path / "index", STORE_ID)
    score = score_of(b"block")
    index.add_blocks(A, [(score, 64, 0)])
    assert second.locate(score) == Place(A, 64, 0)
    second.close()
    assert index.locate(score) == Place(A, 64, 0)
    assert index.size() > 0


def test_a_replaced_index_is_noticed(tmp_path: Path, index: Index) -> None:
    assert not index.replaced()
    new_index(tmp_path, "other").close()
    (tmp_path / "index").rename(tmp_path / "old")
    assert not index.replaced()  # between two renames there is nothing better to turn to
    (tmp_path / "other").rename(tmp_path / "index")
    assert index.replaced()


# --- records ----------------------------------------------------------------------------------


def test_records_are_listed_in_order_of_key(index: Index) -> None:
    shuffled = [RECORDS[at] for at in (3, 0, 5, 1, 4, 2)]
    index.settle([], Changes(shuffled), NOTHING)
    assert index.records() == sorted(RECORDS)
    index.settle([], Changes([], [RECORDS[2].id, bytes(16)]), NOTHING)
    assert index.records() == [record for record in sorted(RECORDS) if record != RECORDS[2]]


def test_a_record_deleted_before_it_is_put_stays_deleted(index: Index) -> None:
    index.settle([], Changes([], [RECORD.id]), NOTHING)
    index.settle([], Changes([RECORD]), NOTHING)
    index.settle([], Changes([RECORDS[1]], [RECORDS[1].id]), NOTHING)
    assert index.records() == []


STEPS = st.lists(
    st.builds(
        Changes,
        puts=st.lists(st.sampled_from(RECORDS), max_size=3),
        deletes=st.lists(st.sampled_from([record.id for record in RECORDS]), max_size=1),
    ),
    max_size=6,
)


@given(STEPS, st.randoms(use_true_random=False))
def test_records_are_puts_minus_deletes_in_any_order_and_number(
    steps: list[Changes], rng: random.Random
) -> None:
    again = steps + [step for step in steps if rng.random() < 0.5]
    rng.shuffle(again)
    with TemporaryDirectory() as directory:
        index = new_index(Path(directory))
        for step in again:
            index.settle([], step, NOTHING)
        gone = {record_id for step in steps for record_id in step.deletes}
        put = {record for step in steps for record in step.puts}
        assert index.records() == sorted(record for record in put if record.id not in gone)
        index.close()
