"""A name's versions get another name, and all that is the name's goes with them."""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ventifs.errors import Busy, VentifsError
from ventifs.store import Store
from ventifs.tree.archive import statcache
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.directory_worker import directory_handlers
from ventifs.tree.archive.file_reader import FileReader
from ventifs.tree.archive.run_lock import RunLock
from ventifs.tree.archive.scan import Options
from ventifs.tree.archive.worker import WorkerService
from ventifs.tree.process_pool import InlinePool
from ventifs.tree.versions import rename as renaming
from ventifs.tree.versions.catalog import NoSuchVersion, Version, tree_score, versions
from ventifs.tree.versions.forgotten import forgetting, forgotten
from ventifs.tree.versions.holds import Hold, held, hold
from ventifs.tree.versions.rename import rename

LONG_AFTER_NS = 2**63  # of any change of a file


@pytest.fixture
def tree(source: Path) -> Path:
    (source / "deep").mkdir(parents=True)
    for number in range(5):
        (source / "deep" / f"{number}").write_bytes(b"%d" % number * 5000)
    return source


def run(store: Store, source: Path, name: str, time_ns: int) -> Version:
    """Archive, with a clock by which no file has changed lately."""
    handlers = partial(directory_handlers, Options(), clock=lambda: LONG_AFTER_NS)
    pool = InlinePool(WorkerService(lambda: store, handlers).handle)
    return archive(store, DirectorySource(source, pool=pool), name, time_ns=time_ns)[0]


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def regular(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(FileReader, "regular", regular)


def test_the_next_run_reads_only_what_changed(
    store: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(store, "write") as opened:
        first = run(opened, tree, "web", 1)
        [moved] = rename(opened, "web", "www")
        assert (str(moved), moved.root) == ("www@1970-01-01T00:00:00.000000001Z", first.root)
        forbid_reading(monkeypatch)
        assert tree_score(run(opened, tree, "www", 2).root) == tree_score(first.root)
        with pytest.raises(AssertionError, match="was read"):
            run(opened, tree, "web", 3)


def test_all_that_is_the_names_goes_with_it(store: Path, tree: Path) -> None:
    with Store.open(store, "write") as opened:
        for name in ("web", "web.old", "we"):
            for time_ns in (1, 2, 3):
                run(opened, tree, name, time_ns)
            opened.commit([(b"disk\0" + name.encode() + b"\0", b"kept")])
            opened.commit([(b"later-kind\0" + name.encode() + b"\0more\0", b"unknown")])
            hold(opened, [(name, 2)], now_ns=0)
            opened.commit(*forgetting(opened, versions(opened, name)[:1], 9)[1])
        before = {(record.key, record.value) for record in opened.records()}
        assert [version.time_ns for version in rename(opened, "web", "new")] == [2, 3]
        assert {(record.key, record.value) for record in opened.records()} == {
            (key.replace(b"\0web\0", b"\0new\0"), value) for key, value in before
        }
        assert held(opened) == {(name, 2): Hold() for name in ("new", "web.old", "we")}
        assert [each.version.name for each in forgotten(opened)] == ["new", "we", "web.old"]


def test_what_is_left_over_of_the_new_name_does_not_count(store: Path, tree: Path) -> None:
    """An older program forgot its versions, which were held, and kept what a disk's name keeps."""
    with Store.open(store, "write") as opened:
        for name in ("web", "new"):
            run(opened, tree, name, 1)
            hold(opened, [(name, 1)], (name == "web" and 9) or None, now_ns=0)
        opened.commit(*forgetting(opened, [run(opened, tree, "new", 2)], 9)[1])
        doomed = [version.record for version in versions(opened, "new") if version.record]
        opened.commit([(b"disk\0new\0", b"kept")], doomed)
        with pytest.raises(VentifsError, match=r"^new: 1 forgotten version has this name, and "):
            rename(opened, "web", "new")
        rename(opened, "web", "new", force=True)
        assert held(opened) == {("new", 1): Hold(9)}
        assert [record.key[:9] for record in opened.records()] == [
            b"forgotten",
            b"hold\0new\0",
            b"version\0n",
        ]


def test_files_of_runs_are_moved_and_old_ones_of_the_new_name_go(store: Path, tree: Path) -> None:
    with Store.open(store, "write") as opened:
        run(opened, tree, "web", 1)
        left = store / "statcache"
        for name in (".web~image", ".webb~image", ".new~image", ".new~other", "new", "newer"):
            (left / name).write_text(name)
        cache = (left / "web").read_bytes()
        rename(opened, "web", "new")
        assert sorted(os.listdir(left)) == [
            ".new.lock",
            ".new~image",
            ".web.lock",
            ".webb~image",
            "new",
            "newer",
        ]
        assert (left / "new").read_bytes() == cache
        assert (left / ".new~image").read_text() == ".web~image"


@pytest.mark.parametrize(
    ("name", "new", "kind", "message"),
    [
        ("web", "www", VentifsError, "www: there are versions of this name, such as www@1970"),
        ("web", "web", VentifsError, "web: this is its name already"),
        ("none", "new", NoSuchVersion, "none: no version has this name"),
        ("web", "../x", VentifsError, "cannot name versions"),
        ("\udcff", "new", VentifsError, "cannot name versions"),
    ],
)
def test_what_is_refused_changes_nothing(
    store: Path, tree: Path, name: str, new: str, kind: type[Exception], message: str
) -> None:
    with Store.open(store, "write") as opened:
        run(opened, tree, "web", 1)
        run(opened, tree, "www", 2)
        before = opened.records()
        with pytest.raises(kind, match=re.escape(message)):
            rename(opened, name, new)
        assert opened.records() == before


@pytest.mark.parametrize("busy", ["web", "new"])
def test_a_run_at_work_keeps_its_name(store: Path, tree: Path, busy: str) -> None:
    with Store.open(store, "write") as opened:
        run(opened, tree, "web", 1)
        with RunLock(opened, busy), pytest.raises(Busy, match=f"^{busy}: another archive run"):
            rename(opened, "web", "new")
        assert [version.name for version in versions(opened)] == ["web"]
        rename(opened, "web", "new")


def test_only_a_writer_renames(store: Path, tree: Path) -> None:
    with Store.open(store, "write") as opened:
        run(opened, tree, "web", 1)
    with Store.open(store) as reading, pytest.raises(VentifsError, match="not open for writing"):
        rename(reading, "web", "new")


def test_a_death_after_the_commit_costs_only_time(
    store: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with Store.open(store, "write") as opened:
        first = run(opened, tree, "web", 1)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(renaming, "move_left", die)
            rename(opened, "web", "new")
    with Store.open(store, "write") as opened:
        assert [version.name for version in versions(opened)] == ["new"]
        assert tree_score(run(opened, tree, "new", 2).root) == tree_score(first.root)
        (tree / "deep" / "0").write_bytes(b"changed")
        run(opened, tree, "web", 3)  # with the file that was not moved
        changed = run(opened, tree, "new", 4)
        assert tree_score(changed.root) == tree_score(versions(opened, "web")[0].root)
        assert tree_score(changed.root) != tree_score(first.root)


def test_files_that_cannot_be_moved_cost_only_time(
    store: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    with Store.open(store, "write") as opened:
        run(opened, tree, "web", 1)
        move: Callable[..., Any] = Path.replace
        monkeypatch.setattr(Path, "replace", refuse)
        assert [version.name for version in rename(opened, "web", "new")] == ["new"]
        monkeypatch.setattr(Path, "replace", move)
        assert statcache.StatCache(opened, "new", None, versions(opened, "new")).previous is None
        run(opened, tree, "new", 2)
