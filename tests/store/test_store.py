"""The store's public face: what is put can be got, what is committed stays, the rest is refused."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.arenafiles import incompressible
from tests.support.blocks import mixed_blocks
from tests.support.stores import SMALL_ARENA, findings, new_store, put_all
from ventifs.errors import Busy, Corrupt, NotStored, VentifsError
from ventifs.store import ZERO_SCORE, Mode, Score, Store, score_of
from ventifs.store.files import Files
from ventifs.store.header import NotAStore, StoreHeader, Unsupported, read_header, write_header
from ventifs.store.lmdb_environment import IndexMissing
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return new_store(tmp_path / "store")


# --- creating and opening ---------------------------------------------------------------------


def test_a_new_store_is_empty(root: Path) -> None:
    with Store.open(root) as store:
        assert (store.records(), store.stats().blocks, store.stats().records) == ([], 0, 0)
        assert store.header.arena_size == SMALL_ARENA
    assert findings(root) == []


def test_a_store_is_made_in_missing_directories(tmp_path: Path) -> None:
    Store.create(str(tmp_path / "a" / "b"))
    Store.open(str(tmp_path / "a" / "b")).close()


def test_a_store_is_not_made_over_another(root: Path) -> None:
    before = (root / "ventifs.store").read_bytes()
    with pytest.raises(VentifsError, match=f"{root}: there is a ventifs store already"):
        Store.create(root)
    assert (root / "ventifs.store").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["file", "index.html", "index.backup/data.mdb", "arenas/open/x.arena"]
)
def test_a_store_is_not_made_where_something_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(VentifsError, match="not empty"):
        Store.create(tmp_path)
    assert (tmp_path / name).read_bytes() == b"precious"


def test_a_store_whose_creation_was_cut_short_can_be_made_again(tmp_path: Path) -> None:
    for name in ("arenas/open", "arenas/sealed", "index", "index.0123abcd"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("lock", "ventifs.store.tmp", "index.0123abcd/data.mdb"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(NotAStore):
        Store.open(tmp_path)
    Store.create(tmp_path)
    assert findings(tmp_path) == []
    assert not (tmp_path / "index.0123abcd").exists()


@pytest.mark.parametrize("size", [0, (4 << 20) - 1, (3 << 30) + 1])
def test_an_arena_size_out_of_range_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match="arena size"):
        Store.create(tmp_path / "store", arena_size=size)
    assert not (tmp_path / "store").exists()


def test_what_is_no_store_is_not_opened(tmp_path: Path) -> None:
    for mode in ("read", "write", "worker"):
        with pytest.raises(NotAStore):
            Store.open(tmp_path, mode)
    assert os.listdir(tmp_path) == []


def test_a_store_with_features_to_be_read_only_is_only_read(tmp_path: Path) -> None:
    root = new_store(tmp_path / "store")
    with Store.open(root) as store:
        old = store.header
    write_header(
        root,
        StoreHeader(old.store_id, old.created_ns, old.arena_size, read_only_compatible=4),
        Files(),
    )
    Store.open(root).close()
    with pytest.raises(Unsupported, match="0x4"):
        Store.open(root, "write")


def test_a_writer_makes_a_missing_index_and_a_reader_says_so(root: Path) -> None:
    with Store.open(root, "write") as store:
        score, _ = store.put(b"block")
    for path in (root / "index").iterdir():
        path.unlink()
    with pytest.raises(IndexMissing, match="rebuild-index"):
        Store.open(root)
    Store.open(root, "write").close()
    with Store.open(root) as store:
        assert bytes(store.get(score)) == b"block"


def test_nobody_writes_during_a_rebuild(root: Path) -> None:
    with store_lock(root, alone=True):
        with pytest.raises(Busy):
            Store.open(root, "write")
        Store.open(root).close()
    Store.open(root, "write").close()


def test_an_open_that_fails_lets_go_of_everything(root: Path) -> None:
    with Store.open(root, "write") as store:
        store.put(b"block")
    (arena,) = (root / "arenas" / "open").iterdir()
    arena.rename(root.parent / "elsewhere")
    with pytest.raises(Corrupt, match="missing"):
        Store.open(root, "write")
    held = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert [name for name in held if name.startswith(str(root))] == []


# --- blocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4096, 131_072, 131_073, MIB])
@pytest.mark.parametrize("node", [False, True])
def test_a_block_of_any_size_can_be_got_at_once_and_later(
    root: Path, size: int, node: bool
) -> None:
    block = incompressible(size)
    with Store.open(root, "write") as store:
        assert store.put(block, node=node) == (score_of(block), True)
        assert store.get(score_of(block)) == block
        store.commit()
        assert store.get(score_of(block)) == block
    with Store.open(root) as store:
        assert store.get(score_of(block)) == block


@pytest.mark.parametrize("size", [0, MIB + 1])
def test_a_block_of_another_size_is_refused(root: Path, size: int) -> None:
    with Store.open(root, "write") as store:
        with pytest.raises(ValueError, match=f"{size} bytes"):
            store.put(bytes(size))
        store.commit()
        assert store.stats().put_blocks == 0


def test_trailing_zeros_are_not_stored(root: Path) -> None:
    with Store.open(root, "write") as store:
        score, new = store.put(b"\0block" + bytes(5000))
        assert (score, new) == (score_of(b"\0block"), True)
        assert store.put(b"\0block") == (score, False)
        assert bytes(store.get(score)) == b"\0block"


def test_zeros_need_no_storage(root: Path) -> None:
    with Store.open(root, "write") as store:
        assert store.put(bytes(MIB)) == (ZERO_SCORE, False)
        assert store.get(ZERO_SCORE).nbytes == 0
        assert store.cached(ZERO_SCORE) is not None
        assert store.has(ZERO_SCORE)
        store.commit()
        assert (store.stats().blocks, store.stats().zero_bytes) == (0, MIB)


@pytest.mark.parametrize("size", [6, 200_000])
@pytest.mark.parametrize("zeros", [0, 7])
@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_any_buffer_is_stored_as_it_was_when_it_was_put(
    root: Path, kind: type, size: int, zeros: int
) -> None:
    block = incompressible(size)
    mutable = bytearray(block + bytes(zeros))
    with Store.open(root, "write") as store:
        score, _ = store.put(mutable if kind is bytearray else memoryview(mutable))
        mutable[:] = b"x" * len(mutable)
        assert store.get(score) == block
        store.commit()
        assert store.get(score) == block


def test_what_get_returns_cannot_be_written(root: Path) -> None:
    with Store.open(root, "write") as store:
        scores = put_all(store, [b"small", b"c" * 5000, incompressible(200_000)])
        assert all(store.get(score).readonly for score in scores)
        store.commit()
        assert all(store.get(score).readonly for score in scores)
        assert store.get(ZERO_SCORE).readonly


def test_a_block_is_new_once(root: Path) -> None:
    with Store.open(root, "write") as store:
        assert [store.put(b"block")[1], store.put(b"block", node=True)[1]] == [True, False]
        store.commit()
        assert store.put(b"block") == (score_of(b"block"), False)
    with Store.open(root, "write") as store:
        assert store.put(b"block") == (score_of(b"block"), False)


def test_a_block_that_was_never_put_is_not_there(root: Path) -> None:
    absent = score_of(b"absent")
    with Store.open(root, "write") as store:
        score, _ = store.put(b"present")
        with pytest.raises(NotStored, match=absent.hex()):
            store.get(absent)
        for _ in range(2):
            assert store.has_many([absent, score, ZERO_SCORE, score]) == [False, True, True, True]
            assert (store.has(score), store.has(absent)) == (True, False)
            store.commit()
        assert store.has_many([]) == []
        with pytest.raises(ValueError, match="32 bytes"):
            store.has(Score(b"short"))


def test_committed_blocks_have_places(root: Path) -> None:
    blocks = mixed_blocks(20)
    with Store.open(root, "write") as store:
        found = put_all(store, blocks)
        store.commit()
        waiting, _ = store.put(b"not committed yet")
        asked = [*found, ZERO_SCORE, waiting, *found[:1]]
        places = store.locate_many(asked)
        assert places == [store._index.locate(score) for score in asked]
        assert None not in places[:-3]
        assert places[-3:] == [None, None, places[0]]
        with pytest.raises(ValueError, match="32 bytes"):
            store.locate_many([Score(b"short")])
    with pytest.raises(VentifsError, match="closed"):
        store.locate_many(found)


def test_blocks_are_located_in_the_index_that_is_there_now(root: Path) -> None:
    block = b"put after the reader was opened"
    with Store.open(root) as reader:
        assert reader.locate_many([score_of(block)]) == [None]
        with Store.open(root, "write") as store:
            store.put(block)
        with store_lock(root, alone=True):
            rebuild_index(root, read_header(root), Files())
        assert reader.locate_many([score_of(block)]) != [None]


def test_cached_reads_nothing(root: Path) -> None:
    with Store.open(root, "write") as store:
        first, second = put_all(store, [b"one", b"two"])
        store.commit()
        assert store.cached(first) is None
        store.get(first)
        assert bytes(store.cached(first) or b"") == b"one"
        assert bytes(store.cached(second) or b"") == b"two"  # it is of the same clump


def test_a_store_is_used_by_many_threads(root: Path) -> None:
    blocks = mixed_blocks(400, size_max=20_000)

    def work(thread: int) -> None:
        for turn in range(200):
            block = blocks[(thread * 67 + turn) % 400]
            score, _ = store.put(block, node=turn % 5 == 0)
            assert store.get(score) == block
            if turn % 70 == 0:
                store.commit([(b"key", b"%d" % thread)])

    with Store.open(root, "write", cache_bytes=200_000) as store:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        store.commit()
        used = {(thread * 67 + turn) % 400 for thread in range(4) for turn in range(200)}
        assert (store.stats().blocks, len(store.records())) == (len(used), 12)
    assert findings(root) == []


@pytest.mark.parametrize("mode", ["read", "worker"])
def test_only_a_writer_commits(root: Path, mode: Mode) -> None:
    with Store.open(root, mode) as store:
        with pytest.raises(VentifsError, match="not open for writing"):
            store.commit([(b"key", b"value")])
        if mode == "read":
            with pytest.raises(VentifsError, match="reading only"):
                store.put(b"block")
