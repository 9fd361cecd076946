"""Writers that are stopped within a step: by a disk that does not confirm, or by Ctrl-C anywhere.

Either way the same `Store` must not go on as if it knew what its arenas hold; the next one, which
looks, does.
"""

import errno
import gc
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.support.arenafiles import incompressible
from tests.support.ledger import audited
from tests.support.tiny import tiny_store
from ventifs.errors import VentifsError
from ventifs.store import Mode, Score, Store, appender, clump, writer
from ventifs.store.appender import lock_arena
from ventifs.store.arena import Arena
from ventifs.store.files import Files

ARENA = 300_000  # room for two large blocks
LARGE = 140_000  # alone in its clump
SHARE = 25


class OnceUnsure(Files):
    """The disk fails to confirm one write, and confirms all later ones."""

    def __init__(self, at: int = 1) -> None:
        self.left = at

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.EIO, "")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tiny_store(tmp_path / "store", arena_size=ARENA)


def test_a_worker_hands_nothing_over_after_a_sync_that_failed(root: Path) -> None:
    worker = Store.open(root, "worker", files=OnceUnsure())
    worker.put(b"not confirmed")
    for _ in range(3):
        with pytest.raises(VentifsError, match="input/output error"):
            worker.hand_over()
    with pytest.raises(VentifsError, match="open the store again"):
        worker.put(b"another")
    worker.abandon()
    Store.open(root, "write").close()
    audited(root)


@pytest.mark.parametrize("at", [1, 2], ids=["of the blocks", "of the commit clump"])
def test_a_writer_commits_nothing_after_a_sync_that_failed(root: Path, at: int) -> None:
    store = Store.open(root, "write", files=OnceUnsure(at))
    store.put(b"not confirmed")
    for _ in range(3):
        with pytest.raises(VentifsError, match="input/output error"):
            store.commit([(b"key", b"")])
    with pytest.raises(VentifsError, match="open the store again"):
        store.put(b"another")
    with pytest.raises(VentifsError, match="open the store again"):
        store.close()
    with Store.open(root, "write") as store:
        assert store.records() == []
        store.put(b"not confirmed")
        store.commit([(b"key", b"")])
    assert audited(root).summary.blocks == 1


@pytest.mark.parametrize("mode", ["write", "worker"])
def test_nothing_is_written_after_a_sync_that_failed_in_sealing(root: Path, mode: Mode) -> None:
    blocks = [incompressible(LARGE, seed=seed) for seed in range(3)]
    store = Store.open(root, mode, files=OnceUnsure())
    for block in blocks[:2]:
        store.put(block)
    before = {path: path.stat().st_size for path in (root / "arenas/open").iterdir()}
    with pytest.raises(VentifsError, match="input/output error"):
        store.put(blocks[2])  # for which there is no room: seals
    after = {path: path.stat().st_size for path in (root / "arenas/open").iterdir()}
    assert list(after) == list(before)
    for attempt in (
        lambda: store.put(blocks[2]),
        lambda: store.put(b"small"),
        store.hand_over if mode == "worker" else store.commit,
    ):
        with pytest.raises(VentifsError, match="open the store again"):
            attempt()
    assert {path: path.stat().st_size for path in (root / "arenas/open").iterdir()} == after
    store.abandon()
    del store, attempt  # its errors refer to the arena, and hold its lock
    gc.collect()
    with Store.open(root, "write") as store:
        for block in blocks:
            score, _ = store.put(block)
            assert store.get(score) == block
        store.commit([(b"key", b"")])
    audited(root)
    for path in (root / "arenas/open").glob("*.arena"):
        assert Arena.open(path).trailer() is None


def test_a_store_let_go_of_after_a_sync_that_failed_holds_no_arena(root: Path) -> None:
    store = Store.open(root, "write", files=OnceUnsure())
    store.put(b"not confirmed")
    with pytest.raises(VentifsError, match="input/output error"):
        store.commit()
    store.abandon()
    [path] = (root / "arenas/open").iterdir()
    assert lock_arena(path) is not None


# --- Ctrl-C -------------------------------------------------------------------------------------


@dataclass
class Book:
    """What the store has said so far."""

    keys: set[bytes] = field(default_factory=set)  # committed, and not deleted
    deleted: set[bytes] = field(default_factory=set)
    kept: dict[Score, bytes] = field(default_factory=dict)
    waiting: dict[Score, bytes] = field(default_factory=dict)  # put, or adopted

    def put(self, store: Store, block: bytes, *, node: bool = False) -> None:
        score, _ = store.put(block, node=node)
        self.waiting[score] = block

    def commit(self, store: Store, key: bytes, doomed: bytes = b"") -> None:
        deletes = [record for record in store.records() if record.key == doomed]
        self.keys -= {doomed}  # from here on either is right
        store.commit([(key, b"value")], deletes)
        self.keys.add(key)
        if doomed:
            self.deleted.add(doomed)
        self.kept.update(self.waiting)


MEDIUM = [random.Random(seed).randbytes(49_999) + b"." for seed in range(8)]  # two to a clump
NODES = [b"node %d" % number for number in range(3)]
LARGES = [incompressible(LARGE, seed=seed) for seed in (20, 21)]
EVERYTHING = [*MEDIUM, *NODES, *LARGES]


def work(book: Book, store: Store, worker: Store) -> None:
    """Everything a writer does: clumps full and not, two commits that seal, a worker, a delete."""
    for block in MEDIUM[:3]:
        book.put(store, block)
    book.put(store, NODES[0], node=True)
    book.commit(store, b"one")
    book.put(store, MEDIUM[0])
    for block in LARGES:
        book.put(store, block)
    book.commit(store, b"two")
    theirs = Book()
    for block in MEDIUM[3:6]:
        theirs.put(worker, block)
    theirs.put(worker, NODES[1], node=True)
    batch = worker.hand_over()
    store.adopt(batch)
    book.waiting.update(theirs.waiting)
    book.put(store, MEDIUM[6])
    book.commit(store, b"three", b"one")
    book.put(worker, MEDIUM[7])
    book.waiting.popitem()  # it is the worker's, and not handed over
    worker.hand_over()


TRACED = {module.__file__ for module in (writer, appender)}
Place = tuple[str, int]


def traced(frame: FrameType) -> bool:
    """Whether a frame is of the code that changes what a writer remembers."""
    code = frame.f_code
    return code.co_filename in TRACED or (
        code.co_filename == clump.__file__ and code.co_qualname.startswith("OpenClump.")
    )


def tracing(action: Callable[[], None], at_line: Callable[[Place], None]) -> None:
    """Call `at_line` before each line of that code, in this thread."""

    def each(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            at_line((frame.f_code.co_filename, frame.f_lineno))
        return each

    earlier = sys.gettrace()
    sys.settrace(lambda frame, event, _: each(frame, event, _) if traced(frame) else None)
    try:
        action()
    finally:
        sys.settrace(earlier)


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A directory in memory, if there is one: a sync costs nothing there."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


def interrupted_at(template: Path, root: Path, number: int | None) -> tuple[list[Place], Book]:
    """Work until Ctrl-C before the traced line `number`; try to go on; the lines, and the book."""
    shutil.copytree(template, root)
    book, places = Book(), list[Place]()

    def at_line(place: Place) -> None:
        places.append(place)
        if len(places) - 1 == number:
            raise KeyboardInterrupt

    store, worker = Store.open(root, "write"), Store.open(root, "worker")
    with suppress(KeyboardInterrupt):  # nor kept: it refers to the arenas, and holds their locks
        tracing(lambda: work(book, store, worker), at_line)
        assert number is None
    if number is not None:
        go_on(book, store, worker)
    worker.abandon()
    store.abandon()
    return places, book


def go_on(book: Book, store: Store, worker: Store) -> None:
    """Try again on the same stores: each step either works or is refused."""
    adopted: dict[Score, bytes] = {}
    for block in (MEDIUM[1], MEDIUM[7], NODES[2]):
        for one, waiting in ((store, book.waiting), (worker, adopted)):
            try:
                score, _ = one.put(block)
                assert one.get(score) == block
                waiting[score] = block
            except VentifsError:
                continue
    try:
        store.adopt(worker.hand_over())
        book.waiting.update(adopted)
    except VentifsError:
        pass
    with suppress(VentifsError):
        book.commit(store, b"retried")


def assert_kept(root: Path, book: Book) -> None:
    """Whoever opens the store finds what was promised; and what it calls known can be read."""
    with Store.open(root, "write") as store:
        keys = [record.key for record in store.records()]
        assert len(set(keys)) == len(keys), keys
        assert book.keys <= set(keys), (book.keys, keys)
        assert not book.deleted & set(keys)
        assert all(store.get(score) == block for score, block in book.kept.items())
        for block in EVERYTHING:
            score, new = store.put(block)
            assert store.get(score) == block
            assert not (new and score in book.kept)
    audited(root)


def assert_whole(root: Path, book: Book) -> None:
    """All that, and again from the arenas alone."""
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    assert_kept(root, book)
    shutil.rmtree(copy / "index")  # as the interruption left it, too
    for rebuilt in (copy, root):
        shutil.rmtree(rebuilt / "index", ignore_errors=True)
        assert_kept(rebuilt, book)
        shutil.rmtree(rebuilt)


def chosen(places: list[Place], share: int) -> list[int]:
    """The first and the last time that each line is met, and one in `share` of all between."""
    first = {place: number for number, place in reversed(list(enumerate(places)))}
    last = {place: number for number, place in enumerate(places)}
    return sorted({*first.values(), *last.values(), *range(0, len(places), share)})


@pytest.mark.parametrize("part", range(4))
def test_ctrl_c_before_any_line_of_a_writer_costs_nothing_that_was_promised(
    memory_path: Path, part: int
) -> None:
    template = tiny_store(memory_path / "template", arena_size=ARENA)
    places, book = interrupted_at(template, memory_path / "whole", None)
    assert book.keys == {b"two", b"three"}
    assert len(os.listdir(memory_path / "whole/arenas/sealed")) > 1
    assert_whole(memory_path / "whole", book)
    for number in chosen(places, SHARE)[part::4]:
        root = memory_path / str(number)
        _, book = interrupted_at(template, root, number)
        try:
            assert_whole(root, book)
        except (AssertionError, VentifsError) as error:
            raise AssertionError(f"interrupted before {places[number]}, line {number}") from error
        finally:
            shutil.rmtree(memory_path / "copy", ignore_errors=True)
