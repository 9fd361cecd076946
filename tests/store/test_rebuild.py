"""Rebuilding: an index made from the arenas alone says what the lost one said."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import asdict

from tests.support.arenafiles import incompressible
from tests.support.blocks import mixed_blocks
from tests.support.damage import flip
from tests.support.stores import findings, new_store, put_all
from ventifs.store import Score, Store, score_of
from ventifs.store.arena import HEADER_SIZE, Damage
from ventifs.store.arena_state import ArenaProgress, ArenaState, Place
from ventifs.store.arenas import Arenas
from ventifs.store.files import Files
from ventifs.store.header import read_header
from ventifs.store.index import Index
from ventifs.store.journal import CommitCounters, Record
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index

BLOCKS = [*mixed_blocks(120), *(incompressible(900_000, seed=number) for number in range(12))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store of several arenas, sealed and open, with records put and deleted."""
    root = new_store(tmp_path / "store")
    with Store.open(root, "write") as store:
        put_all(store, BLOCKS[::2])
        gone, _ = store.commit([(b"name/a", b"1"), (b"name/b", b"2")])
        put_all(store, BLOCKS)
        store.put(b"a node" + bytes(10), node=True)
        store.commit([(b"name/a", b"3")], [gone])
    return root


def rebuild(root: Path, progress: ArenaProgress | None = None) -> list[tuple[bytes, Damage]]:
    with store_lock(root, alone=True):
        return rebuild_index(root, read_header(root), Files(), progress)


Contents = tuple[
    list[tuple[Score, Place | None]], list[Record], CommitCounters, list[ArenaState], dict[str, int]
]


def contents(root: Path) -> Contents:
    """Everything an index says but its numbers, epoch and size."""
    with Store.open(root) as store:
        figures = asdict(store.stats())
    del figures["index_bytes"]
    index = Index(root / "index", read_header(root).store_id)
    try:
        states = sorted(index.arena_states(), key=lambda state: state.arena)
        return list(index.entries()), index.records(), index.counters(), states, figures
    finally:
        index.close()


def test_a_rebuilt_index_says_what_the_lost_one_said(root: Path) -> None:
    before = contents(root)
    assert before[4]["arenas_sealed"] >= 2
    assert before[4]["arenas_open"] == 1
    for path in (root / "index").iterdir():
        path.unlink()
    assert rebuild(root) == []
    assert contents(root) == before
    assert findings(root) == []


def test_rebuilding_twice_changes_nothing_but_the_epoch(root: Path) -> None:
    epochs = []
    for _ in range(2):
        rebuild(root)
        with Store.open(root) as store:
            epochs.append(store.epoch)
    before = contents(root)
    rebuild(root)
    assert contents(root) == before
    assert epochs[0] != epochs[1]


def test_rebuilt_entries_are_in_order_and_each_leads_to_its_block(root: Path) -> None:
    rebuild(root)
    scores = [score for score, _ in contents(root)[0]]
    assert scores == sorted({score_of(block) for block in BLOCKS} | {score_of(b"a node")})
    with Store.open(root) as store:
        assert all(store.get(score_of(block)) == block for block in BLOCKS)


def test_a_block_in_two_arenas_is_listed_once(tmp_path: Path) -> None:
    root = new_store(tmp_path / "store")
    blocks = mixed_blocks(50)
    with Store.open(root, "write") as one, Store.open(root, "write") as two:
        put_all(one, blocks)
        put_all(two, blocks)
        one.commit()
        two.commit()
    before = contents(root)
    rebuild(root)
    after = contents(root)
    assert [score for score, _ in after[0]] == sorted(map(score_of, blocks))
    assert after[1:] == before[1:]
    assert (after[4]["blocks"], after[4]["index_entries"]) == (100, 50)
    assert findings(root) == []


def test_blocks_that_were_never_committed_are_taken_in_and_records_are_not(
    tmp_path: Path,
) -> None:
    root = new_store(tmp_path / "store")
    block = incompressible(300_000)
    store = Store.open(root, "write")
    store.commit([(b"key", b"value")])
    store.put(block)
    store.abandon()
    rebuild(root)
    with Store.open(root) as store:
        assert store.get(score_of(block)) == block
        assert [record.key for record in store.records()] == [b"key"]


def test_what_is_damaged_in_sealed_arenas_is_told_and_left_out(root: Path) -> None:
    arenas = Arenas(root, read_header(root).store_id)
    arena = arenas.reader(arenas.sealed_ids()[0])
    head = arena.read_head(HEADER_SIZE)
    sealed = arena.path.read_bytes()
    flip(arena.path, HEADER_SIZE + head.size - 1)
    damaged = arena.path.read_bytes()
    assert rebuild(root) == [(arena.id, Damage(HEADER_SIZE, head.size))]
    lost = {score for score, _ in head.blocks}
    assert lost
    with Store.open(root) as store:
        every = [score_of(block) for block in BLOCKS]
        assert store.has_many(every) == [score not in lost for score in every]
    assert arena.path.read_bytes() == damaged != sealed


def test_an_index_that_cannot_be_finished_does_not_replace_the_old_one(root: Path) -> None:
    def failing(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    before = contents(root)
    with Store.open(root) as store:
        epoch = store.epoch
    with pytest.raises(KeyboardInterrupt):
        rebuild(root, failing)
    with Store.open(root) as store:
        assert store.epoch == epoch
    assert contents(root) == before
    assert sorted(path.name for path in root.iterdir()) == [
        "arenas",
        "gates",
        "index",
        "leases",
        "lock",
        "recovery.lock",
        "reserve",
        "ventifs.store",
    ]


def test_what_killed_rebuilds_left_behind_goes(root: Path) -> None:
    for name in ("index.01234567", "index.old"):
        (root / name).mkdir()
        (root / name / "data.mdb").write_bytes(b"half an index")
    rebuild(root)
    assert sorted(path.name for path in root.glob("index*")) == ["index"]


def test_progress_is_in_bytes_of_arenas(root: Path) -> None:
    told: list[tuple[int, int]] = []
    sizes = sorted(path.stat().st_size for path in (root / "arenas").glob("*/*.arena"))
    rebuild(root, lambda done, total: told.append((done, total)))
    steps = [told[0][0], *(after[0] - before[0] for before, after in pairwise(told))]
    assert sorted(steps) == sizes
    assert {total for _, total in told} == {sum(sizes)}
    assert told[-1][0] == sum(sizes)


@pytest.fixture
def reader(root: Path) -> Iterator[Store]:
    with Store.open(root) as store:
        yield store


def test_readers_list_what_was_committed_after_a_rebuild(root: Path, reader: Store) -> None:
    rebuild(root)
    with Store.open(root, "write") as store:
        store.commit([(b"new", b"")])
    assert [record.key for record in reader.records(b"new")] == [b"new"]


def test_readers_follow_to_the_new_index(root: Path, reader: Store) -> None:
    epoch = reader.epoch
    rebuild(root)
    with Store.open(root, "write") as store:
        score, _ = store.put(b"put after the rebuild")
        store.commit([(b"new", b"")])
    assert bytes(reader.get(score)) == b"put after the rebuild"
    assert [record.key for record in reader.records(b"new")] == [b"new"]
    assert reader.epoch != epoch
