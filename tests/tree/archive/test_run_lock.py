"""Runs of one name exclude each other, those of other names do not."""

import fcntl
import io
import os
import tarfile
from pathlib import Path

import pytest

from ventifs.errors import Busy
from ventifs.store import Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.run_lock import RunLock
from ventifs.tree.archive.source import Source
from ventifs.tree.archive.statcache import StatCache
from ventifs.tree.tar.tar_source import TarSource
from ventifs.tree.versions.catalog import versions

BUSY = (
    "^n: another archive run or rename is at work under this name; try again when that is done, "
    "or wait with --wait$"
)
KINDS = ["directory", "tar"]


def source_of(kind: str, directory: Path) -> Source:
    directory.mkdir(exist_ok=True)
    if kind == "directory":
        return DirectorySource(directory)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    packed.seek(0)
    return TarSource(packed, "a.tar")


def test_a_name_has_one_lock(store: Path) -> None:
    with Store.open(store) as opened:
        with RunLock(opened, "n") as lock, RunLock(opened, "m"):
            assert lock.name == "n"
            with pytest.raises(Busy, match=BUSY):
                RunLock(opened, "n")
        with RunLock(opened, "n"):
            lock.close()  # again: the other's stays
            with pytest.raises(Busy, match=BUSY):
                RunLock(opened, "n")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_waits_for_no_other(store: Path, source: Path, kind: str) -> None:
    """Whatever the source is; the other may be of an older program, which locks this file."""
    (store / "statcache").mkdir()
    fd = os.open(store / "statcache" / ".n.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with Store.open(store, "write") as opened:
        with pytest.raises(Busy, match=BUSY):
            archive(opened, source_of(kind, source), "n")
        archive(opened, source_of(kind, source), "m")
        os.close(fd)
        archive(opened, source_of(kind, source), "n")
        assert [version.name for version in versions(opened)] == ["m", "n"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_rehearsal_takes_no_lock(store: Path, source: Path, kind: str) -> None:
    with Store.open(store) as opened, RunLock(opened, "n"):
        with Store.open(store, "rehearse") as rehearsing:
            archive(rehearsing, source_of(kind, source), "n")
        assert os.listdir(store / "statcache") == [".n.lock"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_lock_is_held_until_the_run_has_ended(store: Path, source: Path, kind: str) -> None:
    def interrupt(*_: object) -> None:
        with pytest.raises(Busy, match=BUSY):
            RunLock(opened, "n")
        raise KeyboardInterrupt

    with Store.open(store, "write") as opened:
        for _ in range(2):  # and not longer
            with pytest.raises(KeyboardInterrupt):
                archive(opened, source_of(kind, source), "n", progress=interrupt)
        RunLock(opened, "n").close()


def test_a_stat_cache_is_written_only_under_the_lock_of_its_name(store: Path) -> None:
    with (
        Store.open(store, "write") as opened,
        RunLock(opened, "m") as lock,
        pytest.raises(AssertionError),
    ):
        StatCache(opened, "n", lock, [])
