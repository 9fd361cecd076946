"""A reclaim and recoveries beside it: nobody trusts what an arena may drop that is not read yet."""

import fcntl
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread, current_thread
from typing import Any

import pytest

from tests.support.reclaims import (
    World,
    add,
    assert_whole,
    block,
    commit_and_die,
    forgotten_names,
    make_world,
    names,
    reclaimed,
)
from ventifs.store import Store
from ventifs.store.index import Index
from ventifs.store.lock import RECOVERY_LOCK
from ventifs.store.reclaim.reclaiming_store import ReclaimingStore
from ventifs.tree.reclaim.mark import Marks
from ventifs.tree.versions.rename import rename

ALONE = range(100, 116)  # blocks that only forgotten versions have
PATIENCE_S = 60


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = make_world(tmp_path / "store")
    yield world
    world.end_lease()


def die_in_flip(patch: pytest.MonkeyPatch) -> None:
    """Interrupt the next commit that drops arenas, when it is in an arena and not in the index."""
    real = Index.settle
    died: list[bool] = []

    def settle(self: Index, states: Any, changes: Any, *more: Any) -> None:
        if changes.drops and not died:
            died.append(True)
            raise KeyboardInterrupt
        real(self, states, changes, *more)

    patch.setattr(Index, "settle", settle)


class Recovering:
    """Opens a store for writing in a thread, and stops before what it has read is in the index."""

    def __init__(self, root: Path) -> None:
        self._read, self._go = Event(), Event()
        self._stores: list[Store] = []
        self._patch = pytest.MonkeyPatch()
        real = Index.settle

        def settle(index: Index, *args: Any) -> None:
            if current_thread() is self._thread:
                self._read.set()
                assert self._go.wait(PATIENCE_S)
            real(index, *args)

        self._patch.setattr(Index, "settle", settle)
        self._thread = Thread(target=lambda: self._stores.append(Store.open(root, "write")))
        self._thread.start()
        assert self._read.wait(PATIENCE_S)

    def end(self) -> None:
        self._go.set()
        self._thread.join()
        self._patch.undo()
        for store in self._stores:
            store.close()


def test_a_writer_waits_for_a_recovery_that_may_drop_arenas(world: World) -> None:
    with pytest.MonkeyPatch.context() as patch:
        die_in_flip(patch)
        with pytest.raises(KeyboardInterrupt):
            reclaimed(world.root)
    recovering = Recovering(world.root)
    with (world.root / RECOVERY_LOCK).open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    opened: list[Store] = []
    opening = Thread(target=lambda: opened.append(Store.open(world.root, "write")))
    opening.start()
    recovering.end()
    opening.join()
    [writer] = opened
    assert all(writer.put(block(number))[1] for number in ALONE)
    add(writer, "late", 50, ALONE)
    writer.close()
    assert_whole(world.root)


def test_a_writer_of_the_moment_of_an_interrupt_reads_the_drop_first(world: World) -> None:
    opened: list[Store] = []
    real = Marks.close

    def close(self: Marks) -> None:  # when the locks of the flip are given back
        if not opened:
            opened.append(Store.open(world.root, "write"))
            assert all(opened[0].put(block(number))[1] for number in ALONE)
        real(self)

    with pytest.MonkeyPatch.context() as patch:
        die_in_flip(patch)
        patch.setattr(Marks, "close", close)
        with pytest.raises(KeyboardInterrupt):
            reclaimed(world.root)
    Store.open(world.root, "write").close()
    add(opened[0], "late", 50, ALONE)
    opened[0].close()
    assert_whole(world.root)


def test_what_a_killed_writer_has_committed_is_indexed_before_the_flip(world: World) -> None:
    """Another process is just reading the arena, so the reclaim cannot lock it."""
    writer = Store.open(world.root, "write")
    recovering: list[Recovering] = []
    ending: list[Thread] = []
    real = ReclaimingStore.writers_apart

    def writers_apart(self: ReclaimingStore, *args: Any, **options: Any) -> Any:
        if not recovering:
            commit_and_die(writer, lambda: rename(writer, "kept1", "renamed"))
            recovering.append(Recovering(world.root))
            ending.append(Thread(target=recovering[0].end))
            ending[0].start()
        return real(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReclaimingStore, "writers_apart", writers_apart)
        reclaimed(world.root, wait_s=PATIENCE_S)
    ending[0].join()
    with Store.open(world.root, "write") as store:
        assert "renamed" in names(store)
        assert "kept1" not in [*names(store), *forgotten_names(store)]
    assert_whole(world.root)
