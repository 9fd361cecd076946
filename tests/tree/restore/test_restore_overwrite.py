"""A restore over what is there: what is archived replaces it, and nothing outside is touched."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.restoring import restored_by
from tests.support.trees import archived, noise, odd_tree, plain_tree, remove
from tests.support.walker import look_at, same
from ventifs.errors import NoSpace, VentifsError
from ventifs.store import Store
from ventifs.tree.objects.directory import resolve
from ventifs.tree.objects.records import Entry
from ventifs.tree.restore import range_writer as pieces
from ventifs.tree.restore.destination import Places, UnfinishedDirectory
from ventifs.tree.restore.restored import Restored
from ventifs.tree.restore.restorer import Restorer
from ventifs.tree.versions.catalog import Version

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A directory for trees that pytest could not remove."""
    (tmp_path / "work").mkdir()
    yield tmp_path / "work"
    remove(tmp_path / "work")


def restored(store: Path, version: Version, target: Path) -> Restored:
    with Store.open(store) as opened:
        return Restorer(opened, overwrite=True).run(version.root, target)


@as_root
@pytest.mark.parametrize("jobs", [1, 2])
def test_everything_odd_replaces_everything_odd(store: Path, work: Path, jobs: int) -> None:
    """A directory where each name holds something of another kind than the archive's."""
    source = odd_tree(work / "source")
    archived(store, source)
    target = work / "target"
    target.mkdir()
    for number, path in enumerate(sorted(os.listdir(os.fsencode(source)))):
        there = os.fsencode(target) + b"/" + path
        if os.path.isdir(os.fsencode(source) + b"/" + path):
            os.symlink(work, there)
        elif number % 3 == 0:
            os.mkdir(there)
        elif number % 3 == 1:
            os.symlink(work / "source" / "size33", there)
        else:
            os.mkfifo(there)
    before = look_at(source)
    assert restored_by(store, "t", target, jobs, overwrite=True) == ""
    same(source, target)
    assert look_at(source) == before


def test_what_is_not_archived_stays_and_what_is_the_same_is_left_alone(
    store: Path, work: Path
) -> None:
    source = plain_tree(work / "source")
    version, _ = archived(store, source)
    target = work / "target"
    restored(store, version, target)
    (target / "links" / "mine").write_bytes(b"mine")
    (target / "size33").write_bytes(b"changed")
    status = (target / "size4096").stat()
    (target / "size4096").write_bytes(noise(4096, 1))  # the same size and time, other bytes
    os.utime(target / "size4096", ns=(0, status.st_mtime_ns))
    (target / "sparse").chmod(0o600)
    untouched = (target / "size300000").stat().st_ino
    done = restored(store, version, target)
    assert (target / "size300000").stat().st_ino == untouched
    assert (target / "links" / "mine").read_bytes() == b"mine"
    (target / "links" / "mine").unlink()
    os.utime(target / "links", ns=(0, (source / "links").stat().st_mtime_ns))
    same(source, target)
    files = sum(stat.S_ISREG(look.mode) for look in look_at(source).values())
    assert done.kept == files - 3 - 3  # three names are links, which are always made anew


def test_links_of_the_destination_are_never_followed(store: Path, work: Path) -> None:
    (work / "source" / "d" / "e").mkdir(parents=True)
    (work / "source" / "d" / "e" / "f").write_bytes(b"archived")
    version, _ = archived(store, work / "source")
    (work / "outside" / "e").mkdir(parents=True)
    (work / "outside" / "e" / "f").write_bytes(b"precious")
    (work / "target").mkdir()
    (work / "target" / "d").symlink_to(work / "outside")
    restored(store, version, work / "target")
    assert (work / "outside" / "e" / "f").read_bytes() == b"precious"
    same(work / "source", work / "target")
    (work / "target" / "d" / "e" / "f").unlink()
    (work / "target" / "d" / "e" / "f").symlink_to(work / "outside" / "e" / "f")
    restored(store, version, work / "target")
    assert (work / "outside" / "e" / "f").read_bytes() == b"precious"
    same(work / "source", work / "target")


def test_a_directory_with_things_in_it_is_not_removed_for_a_file(store: Path, work: Path) -> None:
    (work / "source").mkdir()
    for name in ("a", "b", "c"):
        (work / "source" / name).write_bytes(b"archived")
    version, _ = archived(store, work / "source")
    (work / "target" / "b").mkdir(parents=True)
    (work / "target" / "b" / "mine").write_bytes(b"mine")
    (work / "target" / "c").mkdir()
    done = restored(store, version, work / "target")
    [(path, reason)] = done.failed
    assert path == b"b"
    assert "in the way" in reason
    assert (work / "target" / "b" / "mine").read_bytes() == b"mine"
    assert (work / "target" / "c").read_bytes() == b"archived"
    assert sorted(os.listdir(work / "target")) == ["a", "b", "c"]


def test_one_file_replaces_one_file(store: Path, work: Path) -> None:
    source = plain_tree(work / "source")
    version, _ = archived(store, source)
    (work / "file").symlink_to(work / "source" / "size33")
    mode = work.stat()
    with Store.open(store) as opened:
        entry = resolve(opened, version.root, b"sparse")
        Restorer(opened, overwrite=True).run(entry, work / "file")
    assert (work / "file").read_bytes() == (source / "sparse").read_bytes()
    assert not (work / "file").is_symlink()
    assert sorted(os.listdir(work)) == ["file", "source"]
    assert work.stat().st_mode == mode.st_mode
    (work / "directory" / "x").mkdir(parents=True)
    with Store.open(store) as opened:
        done = Restorer(opened, overwrite=True).run(entry, work / "directory")
    assert [path for path, _ in done.failed] == [b"directory"]


def test_what_a_killed_run_has_left_is_taken_away(store: Path, work: Path) -> None:
    (work / "source").mkdir()
    (work / "source" / "a").write_bytes(b"archived")
    version, _ = archived(store, work / "source")
    (work / "target" / ".ventifs-restore.0123").mkdir(parents=True)
    (work / "target" / ".ventifs-restore.0123" / "17.4").write_bytes(b"half")
    restored(store, version, work / "target")
    same(work / "source", work / "target")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_ends_it_naming_the_path(
    store: Path, work: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    source = plain_tree(work / "source")
    version, _ = archived(store, source)
    real = os.pwritev

    def full(fd: int, pieces: list[bytes], offset: int) -> int:
        if offset > 100_000:
            raise OSError(28, "No space left on device")
        return real(fd, pieces, offset)

    monkeypatch.setattr(os, "pwritev", full)
    monkeypatch.setattr(pieces, "_WRITE_MAX", 4096)
    with Store.open(store) as opened, pytest.raises(NoSpace, match=r"^size300000: no space.*--ov"):
        Restorer(opened, overwrite=overwrite).run(version.root, work / "target")
    assert "size300000" not in os.listdir(work / "target")
    assert not [name for name in os.listdir(work / "target") if name.startswith(".ventifs")]
    monkeypatch.undo()
    assert restored(store, version, work / "target").failed == []
    same(source, work / "target")


def test_a_directory_cannot_be_restored_over_a_file(store: Path, work: Path) -> None:
    version, _ = archived(store, plain_tree(work / "source"))
    (work / "target").write_bytes(b"mine")
    with pytest.raises(VentifsError, match=r"target: .*name another path"):
        restored(store, version, work / "target")
    assert (work / "target").read_bytes() == b"mine"


def test_a_directory_that_is_taken_away_meanwhile_fails_alone(
    store: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is put in its place is not followed."""
    for path in ("a/d/f", "z"):
        (work / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (work / "source" / path).write_bytes(b"archived")
    os.link(work / "source" / "a" / "d" / "f", work / "source" / "linked")
    version, _ = archived(store, work / "source")
    (work / "outside" / "d").mkdir(parents=True)
    real = Places.make

    def make(self: Places, entry: Entry, above: UnfinishedDirectory) -> UnfinishedDirectory:
        place = real(self, entry, above)
        if entry.name == b"d":
            self.forget(place)
            assert place.above is not None
            self.forget(place.above)
            (work / "target" / "a").rename(work / "away")
            (work / "target" / "a").symlink_to(work / "outside")
        return place

    monkeypatch.setattr(Places, "make", make)
    with Store.open(store) as opened:
        done = Restorer(opened).run(version.root, work / "target")
    assert {path for path, _ in done.failed} == {b"a", b"a/d", b"a/d/f"}
    assert os.listdir(work / "outside" / "d") == []
    assert (work / "target" / "z").read_bytes() == b"archived"
    assert (work / "target" / "linked").read_bytes() == b"archived"
