"""What people and crashes leave in a store's directories: foreign arenas, stray names, lost files.

And what is no file at all: calls that come too late, too early, or with the wrong kind of bytes.
"""

import logging
import os
import shutil
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support.arenafiles import incompressible
from tests.support.conversing import operate
from tests.support.damage import flip, overwrite
from tests.support.ledger import audited
from tests.support.processes import Peer, kill_all
from tests.support.stores import findings, new_store
from tests.support.tiny import tiny_store
from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Score, Store, WorkerBatch, recovery, score_of
from ventifs.store.arena import Arena
from ventifs.store.check import check, repair
from ventifs.store.files import Files
from ventifs.store.header import StoreHeader, decode_header, encode_header, read_header
from ventifs.store.index import Index
from ventifs.store.lmdb_environment import IndexDamaged
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index

ARENA = 300_000  # room for two large blocks
LARGES = [incompressible(140_000, seed=seed) for seed in range(5)]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL)
    yield
    kill_all()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sealed arenas and an open one, of five blocks and a record."""
    return filled(tmp_path / "store", LARGES)


def filled(root: Path, blocks: list[bytes]) -> Path:
    tiny_store(root, arena_size=ARENA)
    with Store.open(root, "write") as store:
        for block in blocks:
            store.put(block)
        store.commit([(b"key", b"value")])
    return root


def arenas(root: Path, place: str) -> list[Path]:
    return sorted((root / "arenas" / place).glob("*.arena"))


def rebuild(root: Path, files: Files | None = None) -> None:
    with store_lock(root, alone=True):
        rebuild_index(root, read_header(root), files or Files())


# --- stray names --------------------------------------------------------------------------------


def test_a_sealed_arena_that_was_renamed_is_missed_by_name(root: Path) -> None:
    path = arenas(root, "sealed")[0]
    path.rename(path.with_name(path.name + ".bak"))
    with pytest.raises(Corrupt, match=path.stem) as caught:
        Store.open(root, "write")
    assert "'ventifs rebuild-index'" in str(caught.value)
    path.with_name(path.name + ".bak").rename(path)
    Store.open(root, "write").close()


def test_stray_files_among_sealed_arenas_cost_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("every arena is looked at again")

    for name in ("README", "00.arena.bak", ".nfs0001"):
        (root / "arenas/sealed" / name).write_bytes(b"")
    monkeypatch.setattr(recovery, "_take_in", never)
    with Store.open(root, "write") as store:
        assert [record.key for record in store.records()] == [b"key"]
        assert all(store.get(score_of(block)) == block for block in LARGES)
    audited(root)


def test_a_store_is_not_made_where_a_directory_of_anothers_is_called_index(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index/precious").write_bytes(b"work of years")
    with pytest.raises(VentifsError, match="not empty"):
        Store.create(tmp_path)
    assert (tmp_path / "index/precious").read_bytes() == b"work of years"
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "index", tmp_path / "index/precious"]


@pytest.mark.parametrize("name", ["index.bak", "index.2024", "index.OLD"])
def test_a_rebuild_removes_nothing_that_only_looks_like_an_index(root: Path, name: str) -> None:
    (root / name).mkdir()
    (root / name / "data.mdb").write_bytes(b"a copy")
    (root / "index.txt").write_bytes(b"a note")
    (root / "index.deadbeef").write_bytes(b"a file")
    rebuild(root)
    assert (root / name / "data.mdb").read_bytes() == b"a copy"
    assert (root / "index.txt").read_bytes() == b"a note"
    assert (root / "index.deadbeef").read_bytes() == b"a file"


# --- creations side by side ---------------------------------------------------------------------


def test_of_processes_that_create_one_store_one_succeeds(tmp_path: Path) -> None:
    for number in range(20):
        root = tmp_path / str(number)
        creators = [Peer(operate, root) for _ in range(2 + number % 2)]
        for creator in creators:
            creator.tell("create")
        answers = [creator.heard() for creator in creators]
        assert answers.count(None) == 1, answers
        for creator in creators:
            creator.end()
        with Store.open(root, "write") as store:
            store.put(b"block")
            store.commit([(b"key", b"")])
        assert audited(root).summary.blocks == 1


def test_a_creation_that_another_overtakes_leaves_the_others_store_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"

    def overtaken(path: Path, *, alone: bool) -> object:
        monkeypatch.undo()
        filled(root, LARGES[:1])
        return store_lock(path, alone=alone)

    monkeypatch.setattr("ventifs.store.store.store_lock", overtaken)
    with pytest.raises(VentifsError, match="there is a ventifs store already"):
        Store.create(root)
    with Store.open(root) as store:
        assert store.get(score_of(LARGES[0])) == LARGES[0]
    audited(root)


# --- repairs ------------------------------------------------------------------------------------


def test_nothing_harmful_is_left_after_a_repair_without_a_sealed_arena(root: Path) -> None:
    arenas(root, "sealed")[0].unlink()
    assert findings(root) != []
    repair(root, check(root, read_data=True))
    assert findings(root) == []
    with Store.open(root, "write") as store:
        assert [store.put(block)[1] for block in LARGES].count(True) == 2
    assert findings(root) == []


def test_nothing_harmful_is_left_after_a_repair_of_the_end_of_a_workers_arena(
    tmp_path: Path,
) -> None:
    root = new_store(tmp_path / "store")
    with Store.open(root, "write") as store, Store.open(root, "worker") as worker:
        for block in LARGES[:2]:
            worker.put(block)
        store.adopt(worker.hand_over())
        store.commit([(b"key", b"")])
        [path] = [path for path in arenas(root, "open") if path.stat().st_size > len(LARGES[0])]
    flip(path, -1000)
    assert findings(root) != []
    done = repair(root, check(root, read_data=True))
    assert done.lost == [score_of(LARGES[1]).hex()]
    assert findings(root) == []
    with Store.open(root) as store:
        assert store.get(score_of(LARGES[0])) == LARGES[0]
        assert [record.key for record in store.records()] == [b"key"]


# --- arenas of other stores, and arenas half sealed ---------------------------------------------


@pytest.mark.parametrize("place", ["open", "sealed"])
@pytest.mark.parametrize("origin", ["open", "sealed"])
def test_an_arena_of_another_store_is_left_alone(
    tmp_path: Path, root: Path, place: str, origin: str
) -> None:
    theirs = [incompressible(140_000, seed=seed) for seed in range(10, 13)]
    other = arenas(filled(tmp_path / "other", theirs), origin)[0]
    placed = root / "arenas" / place / other.name
    shutil.copy(other, placed)
    for _ in range(2):
        with Store.open(root, "write") as store:
            assert [record.value for record in store.records()] == [b"value"]
            assert not any(store.has_many([score_of(block) for block in theirs]))
            assert all(store.get(score_of(block)) == block for block in LARGES)
        rebuild(root)
    assert placed.read_bytes() == other.read_bytes()


def test_a_power_cut_in_sealing_that_took_a_page_of_clumps_leaves_the_arena_open(
    tmp_path: Path,
) -> None:
    root = tiny_store(tmp_path / "store", arena_size=ARENA)
    store = Store.open(root, "write")
    for block in LARGES[:3]:  # the third seals
        store.put(block)
    store.abandon()
    path = next(path for path in arenas(root, "open") if Arena.open(path).trailer())
    overwrite(path, 40_960, bytes(4096))
    with Store.open(root, "write") as store:
        assert [store.has(score_of(block)) for block in LARGES[:2]] == [False, True]
        assert Arena.open(path).trailer() is None
    assert arenas(root, "sealed") == []
    assert audited(root).summary.blocks == 2
    rebuild(root)
    assert audited(root).summary.blocks == 2


# --- indexes that are replaced, or cross a fork -------------------------------------------------


def test_readers_see_nothing_of_the_moments_in_which_an_index_is_replaced(root: Path) -> None:
    with Store.open(root) as reader:

        def look() -> None:
            assert [record.key for record in reader.records()] == [b"key"]
            assert not reader.has(Score(bytes(32)))
            assert all(reader.has_many([score_of(block) for block in LARGES]))
            assert len(reader.epoch) == 8

        class Watched(Files):
            def rename(self, source: Path, target: Path) -> None:
                look()
                super().rename(source, target)
                look()

        for _ in range(3):
            rebuild(root, Watched())
            look()


def test_figures_are_told_in_the_moment_in_which_there_is_no_index(root: Path) -> None:
    with Store.open(root) as reader:
        (root / "index").rename(root / "index.old")
        assert reader.stats().blocks == len(LARGES)


def test_an_index_that_is_moved_away_while_it_is_opened_is_followed_later(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when one rebuild follows another: the directory is not there for a moment."""
    index, away = root / "index", root / "away"
    opened = 0

    def opens(path: Path, store_id: bytes) -> Index:
        nonlocal opened
        opened += 1
        if opened == 1:
            index.rename(away)
        return Index(path, store_id)

    with Store.open(root, cache_bytes=0) as store:
        rebuild(root)
        monkeypatch.setattr("ventifs.store.block_reader.Index", opens)
        assert len(store.records()) == 1
        assert opened == 1
        away.rename(index)
        assert len(store.records()) == 1
        assert opened == 2
        (index / "data.mdb").unlink()
        (index / "data.mdb").write_bytes(b"no index" * 4096)
        with pytest.raises(IndexDamaged):
            store.records()


def test_threads_read_on_while_the_index_is_replaced(root: Path) -> None:
    over = threading.Event()
    troubles: list[BaseException] = []

    def read(store: Store) -> None:
        try:
            while not over.is_set():
                assert not store.has(Score(bytes(32)))
                assert store.has(score_of(LARGES[0]))
                assert len(store.records()) == 1
                assert len(store.epoch) == 8
        except BaseException as error:
            troubles.append(error)

    with Store.open(root, cache_bytes=0) as store:
        threads = [threading.Thread(target=read, args=(store,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(15):
            rebuild(root)
        over.set()
        for thread in threads:
            thread.join()
    assert troubles == []


def test_a_forked_child_opens_an_index_of_its_own(root: Path) -> None:
    index = Index(root / "index", read_header(root).store_id)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, which it does not touch
        child = os.fork()
    if child == 0:
        answer = b"failed"
        try:
            own = Index(root / "index", read_header(root).store_id)
            found = own.locate(score_of(LARGES[0])) is not None
            shared = own._environment is index._environment
            answer = b"shared" if shared else b"found" if found else b"lost"
        finally:
            os.write(writing, answer)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"found"
    assert os.waitpid(child, 0)[1] == 0
    assert index.locate(score_of(LARGES[0])) is not None
    index.close()


# --- headers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, (3 << 30) + 1, 1 << 40, (1 << 64) - 1])
def test_a_header_with_arenas_that_cannot_be_is_corrupt(size: int) -> None:
    header = StoreHeader(bytes(16), 0, arena_size=3 << 30)
    assert decode_header(encode_header(header)) == header
    with pytest.raises(Corrupt, match=f"arenas of {size} bytes"):
        decode_header(encode_header(replace(header, arena_size=size)))


# --- calls --------------------------------------------------------------------------------------


def test_figures_are_told_beside_a_writer_that_seals(root: Path) -> None:
    over = threading.Event()

    def write() -> None:
        try:
            with Store.open(root, "write") as store:
                for seed in range(100, 180):
                    store.put(incompressible(140_000, seed=seed))
                    store.commit([(b"%d" % seed, b"")])
        finally:
            over.set()

    thread = threading.Thread(target=write)
    thread.start()
    with Store.open(root) as reader:
        while not over.is_set():
            figures = reader.stats()
            assert figures.records <= 81
    thread.join()


def test_an_arena_that_moves_while_figures_are_gathered_is_no_trouble(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name was listed, and the file has moved when its size is asked for."""
    original = Path.glob

    def moved(self: Path, pattern: str) -> Iterator[Path]:
        yield from original(self, pattern)
        yield self / "open" / (32 * "0" + ".arena")

    with Store.open(root) as reader:
        before = reader.stats()
        monkeypatch.setattr(Path, "glob", moved)
        assert reader.stats() == before


def test_so_many_adopted_blocks_commit_themselves(tmp_path: Path) -> None:
    root = new_store(tmp_path / "store")
    with (
        Store.open(root, "write", pending_max=10) as store,
        Store.open(root, "worker") as worker,
        Store.open(root) as reader,
    ):
        scores = [worker.put(b"block %d" % number)[0] for number in range(9)]
        store.adopt(worker.hand_over())
        assert not any(reader.has_many(scores))
        scores.append(worker.put(b"the tenth")[0])
        store.adopt(worker.hand_over())
        assert all(reader.has_many(scores))


def items(last: int) -> memoryview:
    return memoryview(struct.pack("<4I", 1, 2, 3, last)).cast("I")


VIEWS = {
    "four bytes each": items(4),
    "four bytes each, ending in zeros": items(0),
    "two dimensions": memoryview(b"abcd").cast("B", [2, 2]),
    "every other byte": memoryview(b"abcdef")[::2],
}
# BLAKE3 refuses some with BufferError; one whose last item is zero is taken, and its length
# counted in items, so that the counters of saved zeros are negative and no commit succeeds.


@pytest.mark.parametrize("kind", VIEWS)
def test_a_view_of_anything_but_bytes_is_refused_and_not_stored(tmp_path: Path, kind: str) -> None:
    root = new_store(tmp_path / "store")
    with Store.open(root, "write") as store:
        with pytest.raises(ValueError, match="view of bytes"):
            store.put(VIEWS[kind])
        assert store.put(b"another")[1]
    assert audited(root).summary.blocks == 1
    with Store.open(root) as store:
        assert store.stats().put_blocks == 1


@pytest.mark.parametrize("score", [b"", b"short", bytes(33)])
def test_what_is_no_score_is_a_value_error(root: Path, score: bytes) -> None:
    with Store.open(root) as store:
        with pytest.raises(ValueError, match="a score has 32 bytes"):
            store.get(Score(score))
        with pytest.raises(ValueError, match="a score has 32 bytes"):
            store.has(Score(score))


CALLS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: store.put(b"new"),
    "put of a known block": lambda store: store.put(LARGES[0]),
    "get": lambda store: store.get(score_of(LARGES[0])),
    "has": lambda store: store.has(score_of(LARGES[0])),
    "has_many": lambda store: store.has_many([]),
    "commit": lambda store: store.commit(),
    "records": lambda store: store.records(),
    "epoch": lambda store: store.epoch,
    "stats": lambda store: store.stats(),
    "hand_over": lambda store: store.hand_over(),
    "adopt": lambda store: store.adopt(WorkerBatch()),
}


@pytest.mark.parametrize(
    "name",
    CALLS,
)
def test_a_closed_store_says_that_it_is(root: Path, name: str) -> None:
    store = Store.open(root, "write")
    store.put(b"before")
    store.close()
    with pytest.raises(VentifsError, match="the store is closed"):
        CALLS[name](store)
    store.close()
    store.abandon()
