"""A power cut at any moment costs nothing that was acknowledged, and shows nothing half-done.

One workload is run for real on a file layer that records it; then, for a cut before every single
operation, the disks that could be left are made and opened. The index is as of the cut, older, or
gone.
"""

import logging
import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from tests.support.dropping import arenas_of, copy_from, sealed
from tests.support.recording import (
    Acknowledged,
    Disk,
    Event,
    RecordingFiles,
    Rename,
    SyncDirectory,
    Unlink,
    Write,
    all_of_it,
    any_of_it,
    disk_after,
    index_states,
    none_of_it,
    possible_disks,
)
from tests.support.sizes import LONG
from tests.support.tiny import audited, tiny_store
from ventifs.store import Score, Store
from ventifs.store.header import HEADER_NAME, NotAStore
from ventifs.store.index import Index
from ventifs.store.journal import Record

SEED = 20260101


@dataclass
class Promise:
    """What the store's caller may rely on: committed records, and blocks."""

    records: frozenset[Record] = frozenset()
    blocks: frozenset[Score] = frozenset()


@dataclass
class Workload:
    """Runs a store for real, and remembers every promise made."""

    root: Path
    files: RecordingFiles = field(init=False)
    blocks: dict[Score, bytes] = field(default_factory=dict)
    promise: Promise = field(default_factory=Promise)
    _waiting: dict[int, list[Score]] = field(default_factory=dict)
    _rng: random.Random = field(default_factory=lambda: random.Random(SEED))

    def __post_init__(self) -> None:
        self.files = RecordingFiles(self.root)

    def open(self) -> Store:
        return Store.open(self.root, "write", files=self.files)

    def worker(self) -> Store:
        return Store.open(self.root, "worker", files=self.files)

    def put(self, store: Store, *sizes: int, node: bool = False) -> None:
        for size in sizes:
            block = self._rng.randbytes(size - 1) + b"."
            if size % 2:
                block = b"compressible " * (size // 13) + self._rng.randbytes(20) + b"."
            self.put_again(store, block, node=node)

    def put_again(self, store: Store, block: bytes, *, node: bool = False) -> None:
        score, _ = store.put(block, node=node)
        self.blocks[score] = block
        self._waiting.setdefault(id(store), []).append(score)

    def hand_over(self, worker: Store, store: Store) -> None:
        store.adopt(worker.hand_over())
        self._waiting.setdefault(id(store), []).extend(self._waiting.pop(id(worker), []))

    def commit(self, store: Store, puts: dict[bytes, bytes], *deletes: Record) -> list[Record]:
        added = store.commit(list(puts.items()), deletes)
        self.promise = Promise(
            self.promise.records - set(deletes) | set(added),
            self.promise.blocks | set(self._waiting.pop(id(store), ())),
        )
        self.files.acknowledged(self.promise)
        return added

    def abandon(self, store: Store) -> None:
        """The process dies."""
        self._waiting.pop(id(store), None)
        store.abandon()
        self.files.note_index()

    def reclaim(self, store: Store) -> None:
        """Drop the oldest sealed arena, after what lives in it was stored elsewhere."""
        doomed = sealed(store)[:1]
        copy_from(store, doomed, self.blocks)
        store.drop_arenas(doomed)
        self.files.acknowledged(self.promise)
        for arena in doomed:
            self.files.unlink(arenas_of(store).sealed_path(arena))
        self.files.sync_directory(arenas_of(store).sealed_directory)

    def close(self, store: Store) -> None:
        self.commit(store, {})
        store.close()


def run(work: Workload) -> None:
    """Two writers, a worker, seals, records forgotten and added again, a process that dies."""
    root = work.root
    tiny_store(root, arena_size=400 << 10, files=work.files)
    work.files.acknowledged(work.promise)
    one = work.open()
    work.put(one, 3000, 3001, 30_001)
    [first] = work.commit(one, {b"first": b"1"})
    work.put(one, 500, 501, node=True)
    work.put(one, 50_000)
    [second, third] = work.commit(one, {b"second": b"2", b"third": b"3" * 3000})
    two = work.open()
    work.put(two, 2000, 70_001, 7)
    work.commit(two, {b"two": b"a"})
    work.put(one, 200_000, 8, 125_000, 9001, 100_000)  # the first arena is sealed here
    work.put(one, 701, node=True)
    [again] = work.commit(one, {b"first": b"1"}, first)
    worker = work.worker()
    work.put(worker, 90_000, 30_001, 450_000, 250_000)
    work.hand_over(worker, one)
    work.put(one, 30_000)
    work.commit(one, {b"of a worker": b"w"}, second)
    work.put(worker, 50_000)
    work.hand_over(worker, one)
    work.commit(one, {b"of a worker": b"w2"})
    worker.abandon()
    work.put(one, 300_000, 150_000)  # another seal
    work.commit(one, {}, third, again)
    work.commit(two, {b"first": b"1", b"third": b"3" * 3000})
    work.put(one, 100_000, 130_001, 60_000, 5000)  # some in the arena, some in memory
    work.abandon(one)
    one = work.open()
    work.put(one, 12, 3000)
    [last] = work.commit(one, {b"last": b"z"})
    work.commit(two, {b"last": b"z"}, last)
    work.close(two)
    work.put(one, 250_000, 125_000, 70_000)
    work.reclaim(one)
    work.reclaim(one)  # what the drop of the first relies on may go, too
    work.commit(one, {b"after": b"drops"})
    work.close(one)


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    work = Workload(tmp_path_factory.mktemp("recorded") / "store")
    settle = Index.settle

    def noticed(index: Index, *what: Any) -> None:
        work.files.note_index()  # the blocks are in, the records are not
        settle(index, *what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Index, "settle", noticed)
        patch.setattr(secrets, "token_bytes", random.Random(SEED).randbytes)  # the same each time
        run(work)
    return work


def promises(log: list[Event], cut: int) -> tuple[Promise | None, Promise | None]:
    """What was promised last before a cut, and what would have been next."""
    states = [(at, event.state) for at, event in enumerate(log) if isinstance(event, Acknowledged)]
    before = [state for at, state in states if at < cut]
    after = [state for at, state in states if at >= cut]
    last, coming = (before or [None])[-1], (after or [None])[0]
    assert last is None or isinstance(last, Promise)
    assert coming is None or isinstance(coming, Promise)
    return last, coming


def contents_of(store: Store, blocks: dict[Score, bytes]) -> set[Score]:
    """The blocks the store says it has; each is looked at."""
    has = {score for score in blocks if store.has(score)}
    for score in has:
        assert bytes(store.get(score)) == blocks[score]
    return has


def assert_promise_kept(root: Path, work: Workload, cut: int) -> None:
    """Open what a cut has left, and look."""
    before, after = promises(work.files.log, cut)
    if before is None:
        try:
            store = Store.open(root, "write")
        except NotAStore:
            return  # the cut was in the middle of `create`
    else:
        store = Store.open(root, "write")
    with store:
        records = frozenset(store.records())
        before = before or Promise()
        assert records in (before.records, (after or before).records)
        assert before.blocks <= contents_of(store, work.blocks)
    assert [finding for finding in audited(root).findings if not finding.harmless] == []
    assert_nothing_left_to_do(root)
    assert_goes_on(root, work, records)


def assert_nothing_left_to_do(root: Path) -> None:
    files = RecordingFiles(root)
    quiet = len(files.log)
    with Store.open(root, "write", files=files):
        pass
    files.note_index()
    assert [repr(event) for event in files.log[quiet:]] == []


def assert_goes_on(root: Path, work: Workload, records: frozenset[Record]) -> None:
    """Everything put again is there after a commit, whether the store took it for known or not."""
    with Store.open(root, "write") as store:
        for block in work.blocks.values():
            store.put(block)
        added = store.commit([(b"after", b"the cut")])
    with Store.open(root) as store:
        assert frozenset(store.records()) == records | set(added)
        assert contents_of(store, work.blocks) == set(work.blocks)


def indexes(disk: Disk, log: list[Event], cut: int, rng: random.Random) -> Iterator[bytes | None]:
    yield disk.index
    yield rng.choice(index_states(log, Disk(), cut))
    yield None


def survive(work: Workload, root: Path, *, chances: int) -> int:
    """Try the disks that a cut before any event could leave; how many there were.

    Without `LONG`, before every other event.
    """
    log, tried = work.files.log, set()
    for cut in range(0, len(log) + 1, 1 if LONG else 2):
        rng = random.Random(f"{SEED} {cut}")
        for disk in possible_disks(log, work.files.base, cut, rng, chances=chances):
            for which, index in enumerate(indexes(disk, log, cut, rng)):
                disk.index = index
                case = disk.digest(), *map(id, promises(log, cut))
                if case not in tried:
                    tried.add(case)
                    disk.write_to(root)
                    try:
                        assert_promise_kept(root, work, cut)
                    except Exception as error:
                        error.add_note(f"after {cut} events, index {which}")
                        raise
                    rmtree(root)
    return len(tried)


@pytest.mark.slow
def test_a_power_cut_at_any_moment_costs_nothing_that_was_promised(
    workload: Workload, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    assert survive(workload, tmp_path / "cut", chances=2 if LONG else 1) > 300


def test_the_workload_seals_arenas_of_two_writers_and_deletes_what_it_adds_again(
    workload: Workload,
) -> None:
    sealed = list((workload.root / "arenas" / "sealed").iterdir())
    kinds = {type(event) for event in workload.files.log}
    assert len(sealed) >= 4
    assert {SyncDirectory, Rename, Unlink, Write} <= kinds
    keys = sorted(record.key for record in workload.promise.records)
    assert keys == [b"after", b"first", b"last", b"of a worker", b"of a worker", b"third", b"two"]


def test_the_catalog_comes_back_the_same_without_the_index(
    workload: Workload, tmp_path: Path
) -> None:
    disk = disk_after(
        workload.files.log,
        workload.files.base,
        len(workload.files.log),
        content=all_of_it,
        name=lambda _: True,
    )
    disk.index = None
    disk.write_to(tmp_path / "store")
    with Store.open(tmp_path / "store", "write") as store:
        assert frozenset(store.records()) == workload.promise.records
        assert contents_of(store, workload.blocks) >= workload.promise.blocks


@pytest.mark.slow
def test_a_power_cut_in_the_recovery_from_another_costs_nothing_either(
    workload: Workload, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    files, tried = workload.files, 0
    for cut in range(0, len(files.log), 9):
        promise, _ = promises(files.log, cut)
        if promise is not None:
            rng = random.Random(f"{SEED} recovery {cut}")
            disk = disk_after(
                files.log, files.base, cut, content=any_of_it(rng), name=lambda _: True
            )
            recovery = recorded_recovery(disk, promise, workload, tmp_path / str(cut))
            tried += survive(recovery, tmp_path / "cut", chances=1)
    assert tried > 100


def recorded_recovery(disk: Disk, promise: Promise, work: Workload, root: Path) -> Workload:
    """What opening a disk after a power cut does, and what is promised from before it on."""
    disk.write_to(root)
    recovery = Workload(root, blocks=work.blocks)
    recovery.open().abandon()
    recovery.files.note_index()
    with Store.open(root) as store:
        promise = Promise(frozenset(store.records()), promise.blocks)
    recovery.files.log.insert(0, Acknowledged(promise))
    return recovery


@pytest.mark.parametrize("named", [True, False], ids=["names made it", "names did not"])
def test_what_recovery_takes_in_is_durable_before_the_index_names_it(
    tmp_path: Path, named: bool
) -> None:
    """A process dies, the next one takes in what it left in the page cache, the power goes."""
    work = Workload(tmp_path / "store")
    tiny_store(work.root, files=work.files)
    store = work.open()
    work.put(store, 200_000, 150_001)
    work.abandon(store)
    work.abandon(work.open())
    for cut in range(len(work.files.log) + 1):
        disk = disk_after(
            work.files.log, work.files.base, cut, content=none_of_it, name=lambda _: named
        )
        disk.write_to(tmp_path / str(cut))
        if disk.index is not None and Path(HEADER_NAME) in disk.names:
            with Store.open(tmp_path / str(cut)) as reader:
                has = contents_of(reader, work.blocks)
    assert has == set(work.blocks)


def test_an_old_index_beside_an_arena_whose_move_was_lost_is_brought_up_to_date(
    tmp_path: Path,
) -> None:
    """As many arenas in sealed/ as the index knows of: but not the same ones."""
    root = tiny_store(tmp_path / "store")
    rng = random.Random(1)
    with Store.open(root, "write") as store:
        store.put(rng.randbytes(900_000))
        store.commit([(b"early", b"")])  # in a second arena: the first is sealed
        [early] = (root / "arenas" / "sealed").iterdir()
        index = (root / "index" / "data.mdb").read_bytes()
        store.put(rng.randbytes(300_000))
        store.commit([(b"late", b"")])
        store.put(rng.randbytes(300_000))  # seals that
    early.rename(root / "arenas" / "open" / early.name)
    (root / "index" / "data.mdb").write_bytes(index)
    assert len(list((root / "arenas" / "sealed").iterdir())) == 1
    with Store.open(root, "write") as store:
        assert [record.key for record in store.records()] == [b"early", b"late"]
        assert store.stats().arenas_sealed == 2
    assert audited(root).findings == []
    assert_nothing_left_to_do(root)


def test_a_commit_counts_although_a_worker_it_relies_on_still_holds_its_arena(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent dies between its commit clump and the index; its worker has not noticed yet."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    root = tiny_store(tmp_path / "store")
    parent = Store.open(root, "write")
    with Store.open(root, "worker") as worker:
        score, _ = worker.put(b"a block of the worker's")
        parent.adopt(worker.hand_over())
        monkeypatch.setattr(Index, "add_blocks", die)
        with pytest.raises(KeyboardInterrupt):
            parent.commit([(b"key", b"value")])
        monkeypatch.undo()
        parent.abandon()
        with Store.open(root, "write") as store:
            assert [record.key for record in store.records()] == [b"key"]
            assert bytes(store.get(score)) == b"a block of the worker's"


def test_create_can_be_run_again_after_a_power_cut_in_it(
    workload: Workload, tmp_path: Path
) -> None:
    files = workload.files
    for cut in range(len(files.log)):
        if promises(files.log, cut)[0] is not None:
            break
        for content in (all_of_it, none_of_it):
            root = tmp_path / f"{cut} {content.__name__}"
            disk = disk_after(files.log, files.base, cut, content=content, name=lambda _: True)
            disk.write_to(root)
            (root / "index.0badcafe").mkdir()  # the index was being made
            if not (root / HEADER_NAME).exists():
                tiny_store(root)
            with Store.open(root, "write") as store:
                store.put(b"a block")
            assert audited(root).summary.blocks == 1
