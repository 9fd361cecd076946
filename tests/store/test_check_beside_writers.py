"""A check while others write: what they do meanwhile is no damage, wherever it comes in between."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from tests.support.ledger import put_recipes
from tests.support.tiny import tiny_store
from ventifs.store import Store, audit
from ventifs.store.appender import Appender
from ventifs.store.arenas import Arenas
from ventifs.store.check import check
from ventifs.store.files import Files
from ventifs.store.findings import Report
from ventifs.store.header import read_header
from ventifs.store.index import Index


class Writer:
    """Commits that come in the middle of a check."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commits = 0

    def commit(self, count: int = 80) -> None:
        """Blocks and a record; by default enough to seal an arena and begin another."""
        self.commits += 1
        with Store.open(self.root, "write") as store:
            put_recipes(store, [(self.commits * 1000 + each, 9000) for each in range(count)])
            store.commit([(b"%d" % self.commits, b"")])


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    writer = Writer(tiny_store(tmp_path / "store"))
    writer.commit()
    writer.commit(10)
    return writer


def audited(root: Path, *, read_data: bool = False) -> Report:
    header = read_header(root)
    with closing(Index(root / "index", header.store_id)) as index:
        return audit.audit(root, header, index=index, read_data=read_data, jobs=1)


STEPS: dict[str, list[tuple[object, str]]] = {
    "the snapshot": [(Index, "snapshot")],
    "listing the arenas": [(Arenas, "all_ids")],
    "opening an arena": [(Arenas, "reader")],
    "looking whether a new arena is sealed": [(Arenas, "all_ids"), (Arenas, "sealed_path")],
    "asking what the index knows of a new arena": [(Arenas, "all_ids"), (Index, "arena_state")],
    "looking blocks up": [(Index, "locate")],
    "the commits": [(audit, "_audit_commits")],
    "counting the entries": [(Index, "entry_count")],
    "walking the entries": [(Index, "_entries_from")],
    "counting what can be reached": [(Index, "entries_counted")],
    "the catalog": [(audit, "_audit_catalog")],
}


def around(
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[object, str]],
    act: Callable[[], None],
    *,
    before: bool,
    first: bool,
) -> list[str]:
    """Act before or after steps, each the first time or the first three times; when it was."""
    done: list[str] = []

    def wrap(owner: object, name: str) -> None:
        inner = getattr(owner, name)

        def step(*args: object, **options: object) -> object:
            due = done.count(name) < (1 if first else 3) and not busy
            if due and before:
                acting(name)
            result = inner(*args, **options)
            if due and not before:
                acting(name)
            return result

        monkeypatch.setattr(owner, name, step)

    busy: list[bool] = []

    def acting(name: str) -> None:
        done.append(name)
        busy.append(True)
        act()
        busy.clear()

    for owner, name in steps:
        wrap(owner, name)
    return done


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("first", [True, False], ids=["once", "thrice"])
@pytest.mark.parametrize("step", STEPS)
def test_a_commit_at_any_step_is_no_damage(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, step: str, before: bool, first: bool
) -> None:
    count = 80 if len(STEPS[step]) == 1 else 200  # enough for an arena that is wholly new
    act = partial(writer.commit, count)
    done = around(monkeypatch, STEPS[step], act, before=before, first=first)
    # So that the walk is due, whether or not the step makes it so.
    monkeypatch.setattr(audit, "_audit_entries", walked(audit._audit_entries))
    report = audited(writer.root)
    assert set(done) == {name for _, name in STEPS[step]} or not before
    assert report.findings == []
    monkeypatch.undo()
    assert audited(writer.root, read_data=True).findings == []


def walked(inner: Callable[..., None]) -> Callable[..., None]:
    """Count one entry too few as confirmed, which makes the audit walk them all."""

    def step(arenas: Arenas, index: Index, report: Report) -> None:
        report.confirmed -= 1
        inner(arenas, index, report)

    return step


@pytest.mark.parametrize("length", [0, 30, 64])
def test_an_arena_that_is_being_begun_is_no_damage(writer: Writer, length: int) -> None:
    """Its header is not whole yet; or its writer has died, and a recovery will see to it."""
    arenas = Arenas(writer.root, read_header(writer.root).store_id)
    appender = Appender.create(arenas, Files())
    os.truncate(appender.path, length)
    for read_data in (False, True):
        assert audited(writer.root, read_data=read_data).findings == []
    assert check(writer.root).findings == []


def test_an_empty_arena_that_a_recovery_takes_away_is_no_damage(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    arenas = Arenas(writer.root, read_header(writer.root).store_id)
    path = Appender.create(arenas, Files()).path
    listed = Arenas.all_ids

    def and_gone(each: Arenas) -> list[bytes]:
        ids = listed(each)
        path.unlink(missing_ok=True)
        return ids

    monkeypatch.setattr(Arenas, "all_ids", and_gone)
    header = read_header(writer.root)
    with closing(Index(writer.root / "index", header.store_id)) as index:
        told: list[tuple[int, int]] = []
        report = audit.audit(
            writer.root,
            header,
            index=index,
            read_data=True,
            jobs=1,
            progress=lambda *step: told.append(step),
        )
    assert report.findings == []


def test_an_arena_that_is_gone_is_damage_all_the_same(writer: Writer) -> None:
    [path] = (writer.root / "arenas/sealed").iterdir()
    path.unlink()
    found = {(finding.what, finding.reason) for finding in audited(writer.root).findings}
    assert ("arena", "its file is missing") in found


def test_no_transaction_is_held_while_arenas_are_read(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB cannot use a page again that an open transaction may see, so the index would grow."""
    held: list[int] = []
    reader = Arenas.reader

    def looked(arenas: Arenas, arena_id: bytes) -> object:
        held.append(len(readers(index)))
        return reader(arenas, arena_id)

    header = read_header(writer.root)
    with closing(Index(writer.root / "index", header.store_id)) as index:
        monkeypatch.setattr(Arenas, "reader", looked)
        monkeypatch.setattr(audit, "_audit_entries", walked(audit._audit_entries))
        audit.audit(writer.root, header, index=index, read_data=True, jobs=1)
    assert held
    assert set(held) == {0}


def readers(index: Index) -> list[str]:
    """The lines of LMDB's table of readers that are in a transaction."""
    lines = index._environment.lmdb.readers().splitlines()[1:]
    return [line for line in lines if not line.rstrip().endswith("-")]


def test_statistics_are_of_one_moment(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    done = around(
        monkeypatch,
        [(Index, "_entry_count"), (Index, "_counters")],
        writer.commit,
        before=True,
        first=True,
    )
    with Store.open(writer.root) as store:
        stats = store.stats()
    assert stats.put_bytes == stats.zero_bytes + stats.known_bytes + stats.raw_bytes
    assert stats.index_entries == stats.blocks
    assert sorted(done) == ["_counters", "_entry_count"]


@pytest.fixture
def busy(writer: Writer) -> Iterator[list[BaseException]]:
    """A writer that goes on until the test is done; what went wrong with it."""
    failed: list[BaseException] = []
    over = False

    def go_on() -> None:
        try:
            while not over and writer.commits < 200:
                writer.commit(30)
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=go_on)
    thread.start()
    yield failed
    over = True
    thread.join()


def test_checks_beside_a_writer_find_nothing(writer: Writer, busy: list[BaseException]) -> None:
    """Nothing hangs on what meets when: no order of things is damage."""
    for number in range(6):
        assert check(writer.root, read_data=number % 2 == 1).findings == []
    assert busy == []
