"""A disk that is really full, at every point of a writer's life: one clear line, and nothing lost.

The store lies on a small tmpfs, which is filled to the last page right before a chosen operation.
Afterwards the records are as they were, every block can be read while the disk is still full, and
once there is room the work goes on: by trying again, or by opening the store anew.
"""

import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.conversing import operate
from tests.support.disks import PAGE, Disk, mounted
from tests.support.faults import FaultyFiles
from tests.support.ledger import Ledger, Recipe, assert_kept, audited, made, put_recipes
from tests.support.processes import Peer, kill_all
from tests.support.stores import findings, new_store
from ventifs.buffer import Buffer
from ventifs.errors import Corrupt, NoSpace
from ventifs.store import Store, appender
from ventifs.store.arena import DIRECTORY_MAGIC
from ventifs.store.clump import ClumpKind, parse_head
from ventifs.store.files import Files
from ventifs.store.index import Index

Step = tuple[bytes, list[Recipe]]

SMALL = [(100_000 + number, 60) for number in range(2_500)]  # a directory, and an index, of pages
STEPS: list[Step] = [
    (b"one", [(1, 5_000), (2, 6_000)]),
    (b"two", SMALL),
    (b"three", [(10 + number, 900_000) for number in range(5)]),  # seals
    (b"four", [(20, 5_000), (1, 5_000)]),
]

both_ways = pytest.mark.parametrize("fresh", [False, True], ids=["same object", "opened anew"])
nearly = pytest.mark.parametrize("leaving", [0, 3], ids=["to the last page", "but for some pages"])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk") as disk:
        yield disk
    kill_all()


class FilledAt(Files):
    """Fills the disk right before the first append whose bytes begin as looked for."""

    def __init__(
        self, disk: Disk, looked_for: Callable[[bytes], bool], *, leaving: int = 0
    ) -> None:
        self.disk = disk
        self.looked_for = looked_for
        self.leaving = leaving
        self.full_at: int | None = None

    def append(self, fd: int, parts: Sequence[Buffer], offset: int) -> int:
        if self.full_at is None and self.looked_for(bytes(parts[0])):
            self.full_at = offset
            self.disk.fill(leaving=self.leaving)
        return super().append(fd, parts, offset)


def clump_of(kind: ClumpKind) -> Callable[[bytes], bool]:
    def looked_for(start: bytes) -> bool:
        try:
            return parse_head(start).kind is kind
        except Corrupt:  # an arena's header, or its directory
            return False

    return looked_for


def many_blocks(start: bytes) -> bool:
    return clump_of(ClumpKind.DATA)(start) and len(parse_head(start).blocks) > 2


def assert_clear(text: str, root: Path) -> None:
    """One line that names where, what and what to do."""
    assert len(text.splitlines()) == 1
    assert text.startswith(str(root))
    assert "no space left on device" in text
    assert "make room and run the command again" in text


def keys(store: Store) -> set[bytes]:
    return {record.key for record in store.records()}


def do(store: Store, ledger: Ledger, step: Step) -> None:
    key, recipes = step
    put_recipes(store, recipes)
    ledger.commit(store, {key: recipes})


def assert_as_before(root: Path, store: Store, ledger_path: Path, done: set[bytes]) -> None:
    """With the disk still full: seen by the store itself, and by one opened now."""
    assert keys(store) == done
    assert_kept(store, ledger_path)
    with Store.open(root) as reader:
        assert keys(reader) == done
        assert_kept(reader, ledger_path)


def go_on(
    root: Path, store: Store, disk: Disk, ledger: Ledger, left: list[Step], *, fresh: bool
) -> None:
    """Make room and do what is left, with this store object or with a fresh one."""
    if not fresh:
        disk.make_room()
    else:
        store.abandon()
        try:
            Store.open(root, "write").abandon()  # may work, on a full disk
        except NoSpace as error:
            assert_clear(str(error), root)
        disk.make_room()
        store = Store.open(root, "write")
        assert keys(store) == {key for key, _ in STEPS} - {key for key, _ in left}
    with store:
        for step in left:
            do(store, ledger, step)
        assert keys(store) == {key for key, _ in STEPS}


# --- every point --------------------------------------------------------------------------------


@pytest.mark.slow
@both_ways
def test_disk_full_from_any_operation_on(tmp_path: Path, disk: Disk, fresh: bool) -> None:
    hits = 0
    for at in itertools.count(1):
        root, ledger_path = new_store(disk.path / f"store{at}"), tmp_path / f"ledger{at}"
        files = FaultyFiles(disk.fill, "before", at)
        ledger = Ledger(ledger_path)
        store = Store.open(root, "write", files=files)
        try:
            left = list(STEPS)
            while left:
                do(store, ledger, left[0])
                left.pop(0)
        except NoSpace as error:
            hits += 1
            assert_clear(str(error), root)
            done = {key for key, _ in STEPS} - {key for key, _ in left}
            assert_as_before(root, store, ledger_path, done)
        go_on(root, store, disk, ledger, left, fresh=fresh)
        ledger.close()
        audited(root)
        with Store.open(root) as reader:
            assert_kept(reader, ledger_path)
        for path in sorted(root.rglob("*.*")):
            if path.is_file():
                path.unlink()  # room for the next
        if files.count < at:
            break
    assert hits > 20


# --- chosen points ------------------------------------------------------------------------------


def refused(
    root: Path, disk: Disk, tmp_path: Path, files: Files, steps: list[Step], *, fresh: bool
) -> NoSpace:
    """Do all but the last of `steps`, fail at the last, then go on; the error."""
    ledger_path = tmp_path / "ledger"
    ledger = Ledger(ledger_path)
    store = Store.open(root, "write", files=files)
    for step in steps[:-1]:
        do(store, ledger, step)
    with pytest.raises(NoSpace) as caught:
        do(store, ledger, steps[-1])
    assert_clear(str(caught.value), root)
    if isinstance(files, FilledAt):
        arena = next((root / "arenas/open").iterdir())
        assert arena.stat().st_size == files.full_at, "something was left behind"
    assert_as_before(root, store, ledger_path, {key for key, _ in steps[:-1]})
    go_on(root, store, disk, ledger, STEPS[len(steps) - 1 :], fresh=fresh)
    ledger.close()
    assert findings(root) == []
    return caught.value


@both_ways
@nearly
def test_disk_full_while_data_is_appended(
    tmp_path: Path, disk: Disk, fresh: bool, leaving: int
) -> None:
    root = new_store(disk.path / "store")
    files = FilledAt(disk, many_blocks, leaving=leaving)
    error = refused(root, disk, tmp_path, files, STEPS[:2], fresh=fresh)
    assert "arenas/open" in str(error)


@both_ways
@pytest.mark.parametrize("leaving", [0, 12], ids=["to the last page", "within the directory"])
def test_disk_full_while_an_arena_is_sealed(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, fresh: bool, leaving: int
) -> None:
    monkeypatch.setattr(appender, "_PIECE", 2_000)  # the directory is many appends, some succeed
    root = new_store(disk.path / "store")
    files = FilledAt(disk, lambda start: start.startswith(DIRECTORY_MAGIC), leaving=leaving)
    error = refused(root, disk, tmp_path, files, STEPS[:3], fresh=fresh)
    assert "arenas/open" in str(error)
    assert len(os.listdir(root / "arenas/sealed")) == 1


@both_ways
def test_disk_full_while_the_commit_clump_is_written(
    tmp_path: Path, disk: Disk, fresh: bool
) -> None:
    def failing(root: Path, value: bytes) -> tuple[FilledAt, Store, NoSpace | None]:
        files = FilledAt(disk, clump_of(ClumpKind.COMMIT))
        store = Store.open(root, "write", files=files)
        put_recipes(store, [(1, 5_000)])
        try:
            store.commit([(b"key", value)])
        except NoSpace as error:
            return files, store, error
        return files, store, None

    noise = random.Random(1).randbytes(2 * PAGE)
    files, store, _ = failing(new_store(disk.path / "tried"), noise[:PAGE])
    disk.make_room()
    store.abandon()
    assert files.full_at is not None
    # So much longer a value that the commit clump begins at the very end of a page.
    value = noise[: PAGE + PAGE - 8 - files.full_at % PAGE]
    root = new_store(disk.path / "store")
    files, store, error = failing(root, value)
    assert files.full_at is not None
    assert files.full_at % PAGE == PAGE - 8
    assert error is not None
    assert_clear(str(error), root)
    assert keys(store) == set()
    assert store.get(made((1, 5_000))[0]) == made((1, 5_000))[1]
    disk.make_room()
    if fresh:
        store.abandon()
        store = Store.open(root, "write")
        assert keys(store) == set()
        put_recipes(store, [(1, 5_000)])
    store.commit([(b"key", value)])
    store.close()
    with Store.open(root) as reader:
        assert [record.value for record in reader.records()] == [value]
    assert findings(root) == []


@both_ways
@pytest.mark.parametrize("method", ["add_blocks", "settle"])
@nearly
def test_disk_full_while_the_index_is_written(
    tmp_path: Path,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    fresh: bool,
    leaving: int,
) -> None:
    root = new_store(disk.path / "store")
    real, calls = getattr(Index, method), 0

    def on_a_full_disk(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            disk.fill(leaving=leaving)
        return real(*args)

    monkeypatch.setattr(Index, method, on_a_full_disk)
    error = refused(root, disk, tmp_path, Files(), STEPS[:2], fresh=fresh)
    assert str(error).startswith(str(root / "index"))


# --- other operations ---------------------------------------------------------------------------


def with_ever_more_room(
    disk: Disk, root: Path, operation: str, unharmed: Callable[[], object]
) -> int:
    """Try in a child with no page left, then 1, 2, and so on, until it works; how often not."""
    for pages in itertools.count():
        disk.fill(leaving=pages)
        child = Peer(operate, root)
        error = child.ask(operation)
        child.end()
        if error is None:
            disk.make_room()
            return pages
        assert isinstance(error, tuple)
        kind, text = error
        assert kind == "NoSpace", text
        assert_clear(text, root)
        unharmed()
    raise AssertionError


@pytest.mark.slow
def test_disk_full_during_a_rebuild_leaves_the_old_index_in_place(
    tmp_path: Path, disk: Disk
) -> None:
    root, ledger_path = new_store(disk.path / "store"), tmp_path / "ledger"
    ledger = Ledger(ledger_path)
    with Store.open(root, "write") as store:
        for step in STEPS[:2]:
            do(store, ledger, step)
    ledger.close()

    def unharmed() -> None:
        with Store.open(root) as reader:
            assert_kept(reader, ledger_path)
        assert [path.name for path in root.iterdir() if path.name.startswith("index")] == ["index"]

    assert with_ever_more_room(disk, root, "rebuild", unharmed) > 5
    unharmed()
    assert findings(root) == []


@pytest.mark.slow
def test_disk_full_during_recovery_only_delays_it(tmp_path: Path, disk: Disk) -> None:
    root = new_store(disk.path / "store")
    store = Store.open(root, "write")
    put_recipes(store, SMALL)
    with pytest.MonkeyPatch.context() as patch:  # the commit is durable, the index never hears
        patch.setattr(Index, "add_blocks", lambda *_: None)
        patch.setattr(Index, "settle", lambda *_: None)
        store.commit([(b"key", b"")])
    store.abandon()
    arena = next((root / "arenas/open").iterdir())
    with arena.open("ab") as file:
        file.write(b"torn" * 5_000)

    def unharmed() -> None:
        with Store.open(root) as reader:
            assert keys(reader) == set()

    assert with_ever_more_room(disk, root, "recover", unharmed) > 5
    with Store.open(root) as reader:
        assert keys(reader) == {b"key"}
        assert all(reader.get(made(recipe)[0]) == made(recipe)[1] for recipe in SMALL)
    assert len(list((root / "arenas/open").glob("*.torn"))) == 1
    assert findings(root) == []


def test_disk_full_during_creation_leaves_nothing_in_the_way(disk: Disk) -> None:
    root = disk.path / "store"
    assert with_ever_more_room(disk, root, "create", lambda: None) > 3
    assert findings(root) == []
