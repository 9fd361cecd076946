"""Several threads and processes at one store: who sees what when, who waits, who is refused."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.conversing import hold_alone, use_store
from tests.support.ledger import Recipe, audited, encoded, made, put_recipes
from tests.support.processes import Peer, kill_all
from tests.support.stores import findings, new_store
from ventifs.errors import Busy
from ventifs.store import Store
from ventifs.store.appender import lock_arena
from ventifs.store.check import repair
from ventifs.store.files import Files
from ventifs.store.findings import Report
from ventifs.store.header import read_header
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index


@pytest.fixture(autouse=True)
def _no_child_outlives_its_test() -> Iterator[None]:
    yield
    kill_all()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return new_store(tmp_path / "store")


def recipes_of(seed: int, count: int = 5, size: int = 5_000) -> list[Recipe]:
    return [(1000 * seed + number, size) for number in range(count)]


def arena_full(seed: int) -> list[Recipe]:
    """More than goes into one arena."""
    return recipes_of(seed, count=6, size=900_000)


def commit(store: Store, key: bytes, recipes: list[Recipe]) -> None:
    put_recipes(store, recipes)
    store.commit([(key, encoded(recipes))])


def keys(store: Store) -> list[bytes]:
    return [record.key for record in store.records()]


# --- readers beside writers ---------------------------------------------------------------------


def test_reader_process_opened_early_sees_each_commit_and_nothing_before_it(root: Path) -> None:
    reader = Peer(use_store, root, "read")
    assert reader.ask("keys") == []
    with Store.open(root, "write") as writer:
        for number in range(5):
            put_recipes(writer, recipes_of(number, size=60_000))
            assert reader.ask("keys") == [b"%d" % done for done in range(number)]
            commit(writer, b"%d" % number, recipes_of(number, size=60_000))
            assert reader.ask("keys") == [b"%d" % done for done in range(number + 1)]
            assert reader.ask("sound", recipes_of(number, size=60_000)) is True
    reader.end()


def test_reader_keeps_reading_arenas_that_are_sealed_and_moved_under_it(root: Path) -> None:
    reader = Peer(use_store, root, "read")
    with Store.open(root, "write") as writer:
        commit(writer, b"first", recipes_of(1))
        assert reader.ask("sound", recipes_of(1)) is True
        commit(writer, b"second", [*arena_full(2), *recipes_of(3)])
    assert len(os.listdir(root / "arenas/sealed")) == 1
    assert reader.ask("sound", [*recipes_of(1), *arena_full(2), *recipes_of(3)]) is True
    reader.end()


@pytest.mark.parametrize("shared", [True, False], ids=["writer's own store", "stores of their own"])
def test_threads_read_while_a_thread_writes(root: Path, shared: bool) -> None:
    committed: list[list[Recipe]] = []
    failures: list[BaseException] = []
    done = threading.Event()
    writer = Store.open(root, "write")

    def read(number: int) -> None:
        store = writer if shared else Store.open(root, cache_bytes=1)
        try:
            seen: list[list[Recipe]] = []
            while not done.is_set() or not seen:
                seen = list(committed)
                for recipes in seen:
                    for recipe in recipes:
                        assert store.get(made(recipe)[0]) == made(recipe)[1]
                    assert all(store.has_many([made(recipe)[0] for recipe in recipes]))
                assert len(store.records()) >= len(seen)
        except BaseException as error:
            failures.append(error)
        finally:
            if not shared:
                store.close()

    threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for number in range(12):
        recipes = recipes_of(number, count=8, size=100_000)
        commit(writer, b"%02d" % number, recipes)
        committed.append(recipes)
    done.set()
    for thread in threads:
        thread.join()
    writer.close()
    assert failures == []


def test_threads_write_through_one_store_without_losing_a_block(root: Path) -> None:
    barrier = threading.Barrier(4)

    def write(store: Store, seed: int) -> None:
        barrier.wait()
        for number in range(10):
            commit(store, b"%d %d" % (seed, number), recipes_of(seed * 100 + number, size=30_000))

    with Store.open(root, "write") as store:
        threads = [threading.Thread(target=write, args=(store, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Store.open(root) as store:
        assert len(keys(store)) == 40
        for seed in range(4):
            for number in range(10):
                for recipe in recipes_of(seed * 100 + number, size=30_000):
                    assert store.get(made(recipe)[0]) == made(recipe)[1]
        assert store.stats().blocks == audited(root).summary.blocks == 200


# --- several writers ----------------------------------------------------------------------------


def test_each_writer_process_holds_an_arena_of_its_own(root: Path) -> None:
    writers = [Peer(use_store, root, "write") for _ in range(3)]
    for number, writer in enumerate(writers):
        writer.ask("commit", b"%d" % number, recipes_of(number))
    paths = list((root / "arenas/open").iterdir())
    assert len(paths) == 3
    assert [lock_arena(path) for path in paths] == [None] * 3
    for writer in writers:
        assert writer.ask("keys") == [b"0", b"1", b"2"]
        writer.end()
    assert all(lock_arena(path) is not None for path in paths)


def test_writer_deduplicates_against_what_another_process_committed(root: Path) -> None:
    other = Peer(use_store, root, "write")
    with Store.open(root, "write") as store:
        other.ask("put", recipes_of(1))
        assert store.put(made((1000, 5_000))[1])[1], "an uncommitted block of another is not known"
        other.ask("commit", b"theirs", recipes_of(1))
        assert not store.put(made((1001, 5_000))[1])[1]
    other.end()


@pytest.mark.slow
def test_processes_seal_at_once_and_one_of_them_crashes(root: Path) -> None:
    writers = [Peer(use_store, root, "write") for _ in range(3)]
    for number in range(3):
        for at, writer in enumerate(writers):
            writer.tell("commit", b"%d %d" % (number, at), arena_full(10 * number + at))
        for writer in writers:
            assert writer.heard() is None
    writers[0].tell("put", arena_full(90))  # seals, without a commit
    writers[1].tell("commit", b"late", arena_full(91))
    assert writers[0].heard() is None
    writers[0].kill()
    with Store.open(root, "write") as store:  # beside the writers that live
        put_recipes(store, arena_full(92))
        assert writers[1].heard() is None
        assert len(keys(store)) == 10
    for writer in writers[1:]:
        writer.end()
    with Store.open(root, "write") as store:
        for number in range(3):
            for at in range(3):
                assert all(store.has_many([made(one)[0] for one in arena_full(10 * number + at)]))
        assert all(store.has_many([made(one)[0] for one in arena_full(90)]))
    assert findings(root) == []


def test_arena_sealed_but_not_committed_stays_its_writers(root: Path) -> None:
    """Another writer's recovery must leave it alone: its lock is held until it is committed."""
    with Store.open(root, "write") as store:
        put_recipes(store, arena_full(1))
        Store.open(root, "write").abandon()
        assert os.listdir(root / "arenas/sealed") == []
        commit(store, b"mine", recipes_of(2))
        assert len(os.listdir(root / "arenas/sealed")) == 1
        assert store.stats().blocks == audited(root).summary.blocks == 11


def test_commit_whose_sealed_arena_another_process_moves_first_succeeds(root: Path) -> None:
    class Outpaced(Files):
        """The other process moves the arena between our look and our rename."""

        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            super().rename(source, target)

    with Store.open(root, "write", files=Outpaced()) as store:
        commit(store, b"mine", arena_full(1))
        assert keys(store) == [b"mine"]
    assert len(os.listdir(root / "arenas/sealed")) == 1


def test_check_finds_nothing_wrong_with_what_writers_have_not_committed(root: Path) -> None:
    with Store.open(root, "write") as store, Store.open(root, "worker") as worker:
        put_recipes(store, recipes_of(1, size=60_000))
        put_recipes(worker, recipes_of(2, size=60_000))
        worker.hand_over()
        assert findings(root) == []
        commit(store, b"mine", recipes_of(3, size=60_000))
        assert findings(root) == []


# --- locks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["write", "worker"])
def test_nobody_rebuilds_or_repairs_while_somebody_writes(root: Path, mode: str) -> None:
    writer = Peer(use_store, root, mode)
    writer.ask("put", recipes_of(1))
    with pytest.raises(Busy, match=r"another ventifs is writing to it; try again") as caught:
        store_lock(root, alone=True).__enter__()
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(Busy):
        repair(root, Report())
    writer.end()
    repair(root, Report())


@pytest.mark.parametrize("mode", ["write", "worker"])
def test_nobody_opens_for_writing_during_a_rebuild_but_readers_go_on(root: Path, mode: str) -> None:
    with Store.open(root, "write") as store:
        commit(store, b"before", recipes_of(1))
    holder = Peer(hold_alone, root)
    assert holder.ask("ready") == "ready"
    with pytest.raises(Busy, match=r"a rebuild, repair or upgrade is running; try again") as caught:
        Store.open(root, mode)  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 1
    with Store.open(root) as reader:
        assert holder.ask("rebuild") is None
        assert keys(reader) == [b"before"]
    holder.end()
    Store.open(root, "write").close()


def test_missing_index_is_not_made_anew_under_another_writer(root: Path) -> None:
    writer = Peer(use_store, root, "write")
    writer.ask("commit", b"one", recipes_of(1))
    (root / "index").rename(root / "index.lost")
    with pytest.raises(Busy):
        Store.open(root, "write")
    writer.end()
    with Store.open(root, "write") as store:
        assert keys(store) == [b"one"]


def test_locks_of_killed_processes_need_nobody_to_remove_them(root: Path) -> None:
    writer = Peer(use_store, root, "write")
    writer.ask("commit", b"one", recipes_of(1))
    writer.ask("put", recipes_of(2))
    writer.kill()
    repair(root, Report())  # needs the lock alone
    holder = Peer(hold_alone, root)
    assert holder.ask("ready") == "ready"
    holder.kill()
    with Store.open(root, "write") as store:
        assert keys(store) == [b"one"]
        commit(store, b"two", recipes_of(2))
    assert len(os.listdir(root / "arenas/open")) == 1


# --- rebuilt indexes ----------------------------------------------------------------------------


def rebuilt(root: Path) -> None:
    """Rebuild, then commit more, which only the new index knows."""
    with store_lock(root, alone=True):
        rebuild_index(root, read_header(root), Files())
    with Store.open(root, "write") as writer:
        commit(writer, b"after", recipes_of(2))


@pytest.fixture
def follower(root: Path) -> Iterator[Store]:
    """A reader that was open before the index was rebuilt, and knows nothing of it yet."""
    with Store.open(root, "write") as writer:
        commit(writer, b"before", recipes_of(1))
    with Store.open(root) as reader:
        assert keys(reader) == [b"before"]
        reader.epoch_before = reader.epoch  # type: ignore[attr-defined]
        rebuilt(root)
        yield reader


def test_long_lived_reader_lists_records_of_a_rebuilt_index(follower: Store) -> None:
    assert keys(follower) == [b"after", b"before"]


def test_long_lived_reader_gets_blocks_of_a_rebuilt_index(follower: Store) -> None:
    for recipe in [*recipes_of(1), *recipes_of(2)]:
        assert follower.get(made(recipe)[0]) == made(recipe)[1]


def test_long_lived_reader_has_blocks_of_a_rebuilt_index(follower: Store) -> None:
    assert all(follower.has(made(recipe)[0]) for recipe in recipes_of(2))


def test_long_lived_reader_learns_the_epoch_of_a_rebuilt_index(follower: Store) -> None:
    assert follower.epoch != follower.epoch_before  # type: ignore[attr-defined]


def test_reader_process_follows_a_rebuilt_index(root: Path) -> None:
    with Store.open(root, "write") as writer:
        commit(writer, b"before", recipes_of(1))
    reader = Peer(use_store, root, "read")
    assert reader.ask("keys") == [b"before"]
    rebuilt(root)
    assert reader.ask("sound", recipes_of(2)) is True
    assert reader.ask("keys") == [b"after", b"before"]
    reader.end()
