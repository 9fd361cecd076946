"""Looking ahead of the walk never makes it miss a change, whatever the previous run left."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from tests.support.archiving import Done, Way, archive_by, archive_when_asked
from tests.support.damage import flip
from tests.support.growing import is_archived
from tests.support.processes import Peer, kill_all
from tests.support.trees import remove
from ventifs.store import Store
from ventifs.tree.archive import change_scan, statcache
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.change_scan import Compare, Comparison, units_of
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.directory_worker import directory_handlers
from ventifs.tree.archive.scan import Options
from ventifs.tree.archive.statcache import PreviousCache
from ventifs.tree.archive.worker import WorkerService
from ventifs.tree.objects.directory import resolve
from ventifs.tree.objects.records import Content, Directory
from ventifs.tree.patterns import Patterns
from ventifs.tree.versions.catalog import versions


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """Three directories deep, a file in each; another beside them."""
    deep = tmp_path / "source" / "d" / "e" / "f"
    deep.mkdir(parents=True)
    (tmp_path / "source" / "beside").mkdir()
    for directory in (deep, *deep.parents[:3], tmp_path / "source" / "beside"):
        (directory / "file").write_bytes(b"before")
    yield tmp_path / "source"
    remove(tmp_path / "source")


def content_of(store: Path, path: bytes) -> Content:
    """The content of a directory of the last version."""
    with Store.open(store) as opened:
        detail = resolve(opened, versions(opened)[-1].root, path).detail
    assert isinstance(detail, Directory)
    return detail.content


def moved_away_and_back(store: Path, source: Path) -> None:
    os.rename(source / "d", source.parent / "away")
    archive_by(store, source, "t")
    os.rename(source.parent / "away", source / "d")


def excluded_for_once(store: Path, source: Path) -> None:
    with Store.open(store, "write") as opened:
        options = Options(exclude=Patterns([b"/d"]))
        archive(opened, DirectorySource(source, options=options), "t", time_ns=time.monotonic_ns())


def replaced_by_a_file(store: Path, source: Path) -> None:
    os.rename(source / "d", source.parent / "away")
    (source / "d").touch()
    archive_by(store, source, "t")
    (source / "d").unlink()
    os.rename(source.parent / "away", source / "d")


@pytest.mark.parametrize("gone", [moved_away_and_back, excluded_for_once, replaced_by_a_file])
def test_what_was_gone_for_one_run_is_not_taken_from_the_one_before(
    store: Path, source: Path, gone: Callable[[Path, Path], None]
) -> None:
    archive_by(store, source, "t")
    gone(store, source)
    (source / "d" / "e" / "f" / "file").write_bytes(b"after!")
    archive_by(store, source, "t")
    is_archived(store, "t", source)


@pytest.mark.parametrize("name", [b"d", b"e"])
def test_below_a_directory_that_could_not_be_compared_all_is_walked(
    store: Path, source: Path, name: bytes
) -> None:
    archive_by(store, source, "t")
    (source / "d" / "e" / "f" / "file").write_bytes(b"after!")
    failed: list[bytes] = []
    real = os.open

    def exhausted(path: bytes, *arguments: object, **named: object) -> int:
        if path == name and not failed:
            failed.append(path)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *arguments, **named)  # type: ignore[arg-type]

    with mock.patch("os.open", exhausted):
        archive_by(store, source, "t")
    assert failed
    is_archived(store, "t", source)


def test_below_a_directory_whose_names_could_not_be_had_all_is_walked(
    store: Path, source: Path
) -> None:
    archive_by(store, source, "t")
    (source / "d" / "e" / "f" / "file").write_bytes(b"after!")
    failed: list[int] = []
    real, inode = os.scandir, (source / "d" / "e").stat().st_ino

    def broken(fd: int) -> object:
        if os.fstat(fd).st_ino == inode and not failed:
            failed.append(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd)

    with mock.patch("os.scandir", broken):
        archive_by(store, source, "t")
    assert failed
    is_archived(store, "t", source)


def test_a_damaged_part_of_a_directory_hides_nothing_below_the_others(
    store: Path, source: Path
) -> None:
    for number in range(12):
        (source / "d" / f"sub{number:02}" / "below").mkdir(parents=True)
        (source / "d" / f"sub{number:02}" / "below" / "file").write_bytes(b"before")
    way = Way(segment_max=3)
    archive_by(store, source, "t", way)
    cache = store / "statcache" / "t"
    fd = os.open(cache, os.O_RDONLY)
    seen = PreviousCache(fd).directory(b"d", content_of(store, b"d"))
    os.close(fd)
    assert seen is not None
    flip(cache, seen.bounds[1][1] + 20)
    (source / "d" / "sub11" / "below" / "file").write_bytes(b"after!")
    archive_by(store, source, "t", way)
    is_archived(store, "t", source)


@pytest.mark.parametrize("unit_names", [1, change_scan.UNIT_NAMES])
@pytest.mark.parametrize("segment_max", [3, 1000])
def test_a_read_of_the_cache_that_fails_once_hides_nothing(
    store: Path, source: Path, unit_names: int, segment_max: int
) -> None:
    """Whichever read it is: the walk may read the same record later, and find it sound."""
    way = Way(segment_max=segment_max, unit_names=unit_names)
    for number in range(7):
        (source / "d" / "e" / f"sub{number}").mkdir()
    archive_by(store, source, "t", way)
    read, reads, at = PreviousCache._record, 0, 0

    def failing(self: PreviousCache, offset: int) -> bytes | None:
        nonlocal reads
        reads += 1
        return None if reads == at else read(self, offset)

    while reads >= at:
        at, reads = at + 1, 0
        (source / "d" / "e" / "f" / "file").write_bytes(b"after %d" % at)
        with mock.patch.object(PreviousCache, "_record", failing):
            archive_by(store, source, "t", way)
        is_archived(store, "t", source)
    assert at > 5


def test_long_paths_and_names_fit_in_what_workers_are_asked(store: Path, source: Path) -> None:
    long = source / ("x" * 250) / ("y" * 250)
    for number in range(2001):
        (long / f"{number:0>250}").mkdir(parents=True)
    peer = Peer(archive_when_asked)
    first = peer.ask("archive", store, source, "t", Way(jobs=2))
    again = peer.ask("archive", store, source, "t", Way(jobs=2))
    peer.end()
    kill_all()
    assert isinstance(first, Done)
    assert again == first._replace(new_bytes=0)


def test_a_worker_does_not_rely_on_the_numbers_of_descriptors(
    store: Path, source: Path, tmp_path: Path
) -> None:
    with mock.patch.object(statcache, "_WINDOW", 64):  # nothing stays in memory
        archive_by(store, source, "t")
        with Store.open(store) as opened:
            handle = WorkerService(lambda: opened, partial(directory_handlers, Options())).handle
            findings = []
            for _ in range(2):
                top = os.open(source, os.O_RDONLY)
                fd = os.open(store / "statcache" / "t", os.O_RDONLY)
                [units] = units_of(PreviousCache(fd), content_of(store, b""), set())
                findings.append(handle(statcache.encode(Compare(units)), [top, fd]))
                os.close(fd)
                os.close(top)
                other = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
            os.close(other[0])
            os.close(other[1])
    assert findings[0] == findings[1] == statcache.encode([Comparison([], [])] * len(units))
