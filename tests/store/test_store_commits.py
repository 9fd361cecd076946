"""Commits as callers see them: records, what others see and when, figures, and ways to leave."""

from pathlib import Path

import pytest

from tests.support.blocks import mixed_blocks
from tests.support.stores import findings, new_store, put_all
from ventifs.errors import NotStored
from ventifs.store import Store, score_of
from ventifs.store.journal import RECORD_KEY_MAX, RECORD_VALUE_MAX
from ventifs.store.stats import Stats


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return new_store(tmp_path / "store")


def pairs(store: Store, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
    return [(record.key, record.value) for record in store.records(prefix)]


# --- records ----------------------------------------------------------------------------------


def test_records_are_listed_in_order_of_key_by_prefix(root: Path) -> None:
    with Store.open(root, "write") as store:
        added = store.commit([(b"name/b", b"2"), (b"name/a", b"1"), (b"other", b"")])
        assert [record.key for record in added] == [b"name/b", b"name/a", b"other"]
    with Store.open(root) as store:
        assert pairs(store) == [(b"name/a", b"1"), (b"name/b", b"2"), (b"other", b"")]
        assert pairs(store, b"name/") == [(b"name/a", b"1"), (b"name/b", b"2")]
        assert pairs(store, b"name/a") == [(b"name/a", b"1")]
        assert pairs(store, b"absent") == []
        assert sorted(added) == store.records()


def test_records_with_one_key_stand_side_by_side(root: Path) -> None:
    with Store.open(root, "write") as store:
        one, two = store.commit([(b"key", b"same"), (b"key", b"same")])
        (three,) = store.commit([(b"key", b"other")])
        assert store.records() == sorted([one, two, three])
        store.commit(deletes=[one])
        assert store.records() == sorted([two, three])


def test_a_record_is_replaced_in_one_commit(root: Path) -> None:
    with Store.open(root, "write") as store:
        old = store.commit([(b"key", b"old")])
        store.commit([(b"key", b"new")], old)
        assert pairs(store) == [(b"key", b"new")]
        store.commit(deletes=old)  # it is gone already
        assert pairs(store) == [(b"key", b"new")]


def test_the_generation_tells_whether_the_records_are_the_same(root: Path) -> None:
    with Store.open(root, "write") as store, Store.open(root) as other:
        empty = other.generation
        store.put(b"a block is no record")
        store.commit()
        assert other.generation == empty
        [record] = store.commit([(b"key", b"value")])
        first = other.generation
        assert first != empty
        store.commit([(b"key", b"value")])
        assert len({empty, first, other.generation}) == 3
        store.commit(deletes=other.records())
        assert other.generation == empty
        assert store.generation == empty
        assert record.key == b"key"


def test_records_may_be_as_large_as_the_limits(root: Path) -> None:
    largest = (b"k" * RECORD_KEY_MAX, b"\0" * RECORD_VALUE_MAX)
    with Store.open(root, "write") as store:
        store.commit([largest, (b"k", b"")])
    with Store.open(root) as store:
        assert pairs(store) == [(b"k", b""), largest]


@pytest.mark.parametrize(
    "wrong",
    [(b"", b"value"), (b"k" * (RECORD_KEY_MAX + 1), b""), (b"k", bytes(RECORD_VALUE_MAX + 1))],
    ids=["no key", "long key", "long value"],
)
def test_a_record_of_another_size_refuses_the_whole_commit(
    root: Path, wrong: tuple[bytes, bytes]
) -> None:
    with Store.open(root, "write") as store:
        kept = store.commit([(b"kept", b"")])
        with pytest.raises(ValueError, match="record"):
            store.commit([(b"good", b""), wrong], kept)
        assert store.records() == kept


# --- what others see --------------------------------------------------------------------------


def test_what_is_not_committed_nobody_else_sees(root: Path) -> None:
    with Store.open(root, "write") as store, Store.open(root) as other:
        score, _ = store.put(b"block")
        assert not other.has(score)
        with pytest.raises(NotStored):
            other.get(score)
        store.commit([(b"key", b"value")])
        assert other.has(score)
        assert bytes(other.get(score)) == b"block"
        assert pairs(other) == [(b"key", b"value")]


def test_so_many_pending_blocks_commit_themselves(root: Path) -> None:
    blocks = mixed_blocks(25, size_max=1000)
    scores = [score_of(block) for block in blocks]
    with Store.open(root, "write", pending_max=10) as store, Store.open(root) as other:
        for number, block in enumerate(blocks):
            store.put(block)
            committed = number // 10 * 10
            expected = [at < committed for at in range(25)]
            assert other.has_many(scores) == expected
        assert other.stats().blocks == 20
        store.commit()
        assert identity_holds(other.stats())
        assert (other.stats().put_blocks, other.stats().blocks) == (25, 25)


def test_two_writers_write_side_by_side(root: Path) -> None:
    shared, own = mixed_blocks(20), [mixed_blocks(20, seed=1), mixed_blocks(20, seed=2)]
    with Store.open(root, "write") as one, Store.open(root, "write") as two:
        for store, blocks in zip((one, two), own, strict=True):
            put_all(store, shared + blocks)
        one.commit([(b"one", b"")])
        two.commit([(b"two", b"")])
        assert pairs(one) == pairs(two) == [(b"one", b""), (b"two", b"")]
        for block in shared + own[0] + own[1]:
            assert one.get(score_of(block)) == block
    with Store.open(root) as store:
        assert store.stats().blocks == 80  # the shared ones twice
        assert store.stats().index_entries == 60
    assert findings(root) == []


def test_a_worker_stores_and_its_parent_commits(root: Path) -> None:
    blocks = mixed_blocks(30)
    with Store.open(root, "write") as parent, Store.open(root, "worker") as worker:
        scores = put_all(worker, blocks)
        parent.adopt(worker.hand_over())
        assert not Store.open(root).has(scores[0])
        parent.commit([(b"key", b"value")])
        assert parent.get(scores[0]) == blocks[0]
        assert [worker.put(block)[1] for block in blocks] == [False] * 30
        parent.adopt(worker.hand_over())
    with Store.open(root) as store:
        assert [bytes(store.get(score)) for score in scores] == blocks
        assert (store.stats().put_blocks, store.stats().known_blocks) == (60, 30)


def test_a_worker_leaves_what_it_did_not_hand_over_to_the_next_writer(root: Path) -> None:
    block = b"written, not handed over" * 10_000  # a clump of its own, in the arena at once
    with Store.open(root, "worker") as worker:
        score, _ = worker.put(block)
    with Store.open(root) as store:
        assert not store.has(score)
    with Store.open(root, "write") as store:
        assert store.get(score) == block


# --- leaving ----------------------------------------------------------------------------------


def test_a_store_left_normally_commits_its_blocks(root: Path) -> None:
    with Store.open(root, "write") as store:
        score, _ = store.put(b"block")
    store.close()
    with Store.open(root) as store:
        assert bytes(store.get(score)) == b"block"


def test_a_store_left_by_an_error_does_not(root: Path) -> None:
    with pytest.raises(KeyError), Store.open(root, "write") as store:
        score, _ = store.put(b"block")
        raise KeyError
    with Store.open(root) as store:
        assert not store.has(score)
    with Store.open(root, "write") as store:  # and holds no lock, no arena
        store.put(b"another")
    assert findings(root) == []


def test_closing_may_be_repeated(root: Path) -> None:
    store = Store.open(root, "write")
    store.put(b"block")
    store.close()
    store.close()
    store.abandon()
    with Store.open(root) as reader:
        assert reader.stats().blocks == 1


def test_abandoning_does_not_commit(root: Path) -> None:
    store = Store.open(root, "write")
    store.commit([(b"kept", b"")])
    store.put(b"block")
    store.abandon()
    with Store.open(root) as reader:
        assert (reader.stats().blocks, pairs(reader)) == (0, [(b"kept", b"")])


# --- figures ----------------------------------------------------------------------------------


def identity_holds(stats: Stats) -> bool:
    return stats.put_bytes == stats.zero_bytes + stats.known_bytes + stats.raw_bytes


def test_figures_tell_what_was_put_and_what_it_took(root: Path) -> None:
    with Store.open(root, "write") as store:
        store.put(b"block" + bytes(95))
        store.put(b"block")
        store.put(bytes(1000))
        store.put(b"node", node=True)
        assert store.stats().put_blocks == 0  # counted when committed
        store.commit([(b"key", b"value")])
        store.put(b"block" + bytes(5))
        store.commit()
        stats = store.stats()
    (arena,) = (root / "arenas" / "open").iterdir()
    assert (stats.put_blocks, stats.put_bytes, stats.zero_bytes) == (5, 1119, 1100)
    assert (stats.known_blocks, stats.known_bytes) == (2, 10)
    assert (stats.blocks, stats.raw_bytes) == (2, 9)
    assert (stats.node_blocks, stats.node_bytes) == (1, 4)
    assert (stats.stored_bytes, stats.gap_bytes) == (arena.stat().st_size - 64, 0)
    assert (stats.arenas_open, stats.arenas_sealed) == (1, 0)
    assert stats.arena_bytes == arena.stat().st_blocks * 512
    assert (stats.index_entries, stats.records) == (2, 1)
    assert stats.index_bytes == (root / "index" / "data.mdb").stat().st_blocks * 512
    assert identity_holds(stats)


def test_figures_add_up_over_arenas_and_writers(root: Path) -> None:
    blocks = mixed_blocks(300)
    for part in (blocks[:200], blocks[100:]):
        with Store.open(root, "write") as store:
            put_all(store, part)
            put_all(store, [block + bytes(100) for block in part[:50]])
    with Store.open(root) as store:
        stats = store.stats()
    assert stats.arenas_sealed == 0 < stats.arenas_open
    assert (stats.blocks, stats.raw_bytes) == (300, sum(map(len, blocks)))
    assert (stats.put_blocks, stats.known_blocks, stats.zero_bytes) == (500, 200, 10_000)
    assert stats.stored_bytes < stats.raw_bytes
    assert identity_holds(stats)
