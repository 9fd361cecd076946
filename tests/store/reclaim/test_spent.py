"""Arenas that hold nothing but journal go when little of it still counts."""

from pathlib import Path

import pytest

from tests.support.arenafiles import incompressible
from tests.support.damage import flip
from tests.support.dropping import arenas_of, sealed
from tests.support.reclaims import rebuild
from tests.support.tiny import tiny_store
from ventifs.store import Store
from ventifs.store.arena import HEADER_SIZE
from ventifs.store.arena_journal import read_journal
from ventifs.store.reclaim.spent import spent
from ventifs.tree.reclaim.reclaim import reclaim

ARENA_SIZE = 640 << 10
COMMITS = 80
VALUE = 8000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store whose first arena is sealed, and full of records."""
    root = tiny_store(tmp_path / "store", arena_size=ARENA_SIZE)
    with Store.open(root, "write") as store:
        for number in range(COMMITS):
            store.commit([(b"disk\0%d" % number, incompressible(VALUE, seed=number))])
        assert len(sealed(store)) == 1
    return root


def found(root: Path) -> set[bytes]:
    with Store.open(root) as store:
        return spent(arenas_of(store), store._index, store._index.arena_states())


def forget(root: Path, share: float) -> None:
    """Delete a share of the records in the sealed arena, each with its deletion elsewhere."""
    with Store.open(root, "write") as store:
        [arena] = sealed(store)
        puts = read_journal(arenas_of(store).reader(arena)).puts
        store.commit(deletes=list(puts.values())[: round(share * len(puts))])


def test_an_arena_whose_records_count_stays(root: Path) -> None:
    assert found(root) == set()
    forget(root, 0.4)
    assert found(root) == set()


def test_an_arena_most_of_whose_records_are_gone_is_spent(root: Path) -> None:
    forget(root, 0.6)
    with Store.open(root) as store:
        assert found(root) == set(sealed(store))


def test_open_arenas_and_small_ones_stay(tmp_path: Path) -> None:
    root = tiny_store(tmp_path / "store", arena_size=1)
    with Store.open(root, "write") as store:
        for number in range(4):
            [record] = store.commit([(b"%d" % number, b"value")])
            store.commit(deletes=[record])
        assert len(sealed(store)) > 4
    assert found(root) == set()


def test_an_arena_with_blocks_is_no_journal_alone(tmp_path: Path) -> None:
    root = tiny_store(tmp_path / "store", arena_size=ARENA_SIZE)
    with Store.open(root, "write") as store:
        store.put(b"block")
        records = store.commit([(b"key", incompressible(200_000, seed=1))])
        store.commit(deletes=records)
        for seed in (2, 3):
            store.put(incompressible(300_000, seed=seed))
            store.commit()
        assert sealed(store)
    assert found(root) == set()


def test_a_damaged_journal_stays(root: Path) -> None:
    forget(root, 1)
    with Store.open(root) as store:
        [arena] = sealed(store)
        flip(arenas_of(store).sealed_path(arena), HEADER_SIZE + 200)
    assert found(root) == set()


def test_a_reclaim_frees_it_and_its_ids(root: Path) -> None:
    forget(root, 0.8)
    with Store.open(root) as store:
        [before] = sealed(store)
        left = store.records()
        deleted = len(store._index.snapshot().deleted)
    done = reclaim(root)
    assert (done.arenas, done.plan.dead_arenas) == (1, 1)
    with Store.open(root) as store:
        assert before not in sealed(store)
        assert store.records() == left
        assert len(store._index.snapshot().deleted) < deleted / 2
    assert reclaim(root).arenas == 0
    rebuild(root)
    with Store.open(root) as store:
        assert store.records() == left
