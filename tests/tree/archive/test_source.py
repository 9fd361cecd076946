"""What an archive run asks of its source, and when."""

import os
from pathlib import Path

import pytest

from ventifs.errors import VentifsError
from ventifs.store import Mode, Store
from ventifs.store.journal import Record
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.source import Archived, ArchiveRun
from ventifs.tree.archive.tally import Tally
from ventifs.tree.objects.records import Directory, Empty, Entry
from ventifs.tree.versions.catalog import Version, versions
from ventifs.tree.versions.troubles import Troubles

ROOT = Entry(b"", 0o40755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")


class Recorded:
    """A source that records what is asked of it, and fails at one of the questions."""

    def __init__(self, fails_at: str = "") -> None:
        self.asked: list[str] = []
        self._fails_at = fails_at
        self.runs: list[ArchiveRun] = []

    @property
    def label(self) -> str:
        self._ask("label")
        return "somewhere"

    def archive(self, run: ArchiveRun) -> Archived:
        self._ask("archive")
        self.runs.append(run)
        return Archived(ROOT, Tally(entries=7), Troubles(store=run.store))

    def records(self, run: ArchiveRun) -> tuple[list[tuple[bytes, bytes]], list[Record]]:
        self._ask("records")
        return [(b"key", b"value")], run.store.records(b"old")

    def committed(self, run: ArchiveRun, version: Version) -> None:
        assert versions(run.store, run.name) == [version]
        self._ask("committed")

    def close(self) -> None:
        self._ask("close")

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what == self._fails_at:
            raise VentifsError(what)


def run(store: Path, source: Recorded, mode: Mode = "write") -> None:
    with Store.open(store, mode) as opened:
        version, tally = archive(opened, source, "n", time_ns=5, read_all=True)
    assert (version.source, tally.entries) == ("somewhere", 7)


def test_a_source_is_asked_in_order(store: Path) -> None:
    source = Recorded()
    with Store.open(store, "write") as opened:
        opened.commit([(b"old", b"")])
    run(store, source)
    assert source.asked == ["archive", "label", "records", "committed", "close"]
    [told] = source.runs
    assert (told.name, told.read_all, told.progress) == ("n", True, None)
    assert told.lock is not None
    assert told.lock.name == "n"
    with Store.open(store) as opened:
        assert [record.value for record in opened.records(b"key")] == [b"value"]
        assert opened.records(b"old") == []


def test_a_rehearsal_asks_for_no_records(store: Path) -> None:
    source = Recorded()
    run(store, source, "rehearse")
    assert source.asked == ["archive", "label", "close"]
    assert source.runs[0].lock is None
    assert not os.path.lexists(store / "statcache")


@pytest.mark.parametrize("fails_at", ["archive", "records", "committed"])
def test_a_source_is_closed_after_an_error(store: Path, fails_at: str) -> None:
    source = Recorded(fails_at)
    with pytest.raises(VentifsError, match=fails_at):
        run(store, source)
    assert source.asked[-1] == "close"
    with Store.open(store) as opened:
        assert len(versions(opened)) == (fails_at == "committed")
        assert len(opened.records(b"key")) == (fails_at == "committed")


def test_a_version_that_is_there_is_not_archived_again(store: Path) -> None:
    run(store, Recorded())
    source = Recorded()
    with pytest.raises(VentifsError, match="there is such a version already"):
        run(store, source)
    assert source.asked == ["close"]
