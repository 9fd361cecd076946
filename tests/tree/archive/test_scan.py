"""Listing directories: names of any bytes, names that go meanwhile, names that are left out."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.archiving import Way, archive_by
from tests.support.growing import is_archived
from tests.support.reading import listings
from tests.support.trees import remove
from ventifs.store import Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.scan import Options
from ventifs.tree.objects.directory import tree
from ventifs.tree.patterns import Patterns
from ventifs.tree.versions.catalog import Version


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "source").mkdir()
    yield tmp_path / "source"
    remove(tmp_path / "source")


def paths(store: Path, version: Version) -> list[bytes]:
    with Store.open(store) as opened:
        return [path for path, _ in tree(opened, version.root)]


@pytest.mark.parametrize("segment_max", [4096, 8])
def test_names_of_every_byte_come_in_their_order(
    store: Path, source: Path, segment_max: int
) -> None:
    """As text some would sort otherwise: undecodable bytes, and characters of four bytes."""
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"/."]
    names += ["\N{SNOWMAN}".encode(), "\N{GRINNING FACE}".encode(), "\uffff".encode(), b"\xf0\x9f"]
    for name in names:
        with open(os.fsencode(source) + b"/" + name, "wb") as file:
            file.write(name)
    for _ in range(2):
        archive_by(store, source, "t", Way(segment_max=segment_max))
        is_archived(store, "t", source)
    with Store.open(store, "write") as opened:
        version, _ = archive(opened, DirectorySource(source), "t")
    assert paths(store, version) == sorted(names)


@pytest.mark.parametrize("segment_max", [4096, 8])
def test_names_that_go_before_they_are_looked_at_are_told(
    store: Path, source: Path, segment_max: int
) -> None:
    for number in range(30):
        (source / f"{number:02}").write_bytes(b"%d" % number)
    (source / "directory").mkdir()

    def remove_some(_: object) -> None:
        for name in ("03", "17", "29"):
            (source / name).unlink(missing_ok=True)
        if (source / "directory").is_dir():
            (source / "directory").rmdir()

    with listings(remove_some):
        done = archive_by(store, source, "t", Way(segment_max=segment_max))
    assert sorted(done.troubles) == [
        (name, "no such file or directory", True) for name in (b"03", b"17", b"29", b"directory")
    ]
    again = archive_by(store, source, "t", Way(segment_max=segment_max))
    assert (again.entries, again.troubles) == (done.entries, ())
    is_archived(store, "t", source)


@contextmanager
def failing(directory: Path, after: int) -> Iterator[None]:
    """Listing a directory fails after some names."""
    real = os.scandir

    class Listing:
        def __init__(self, where: int) -> None:
            self._found = real(where)
            self._items = self._until_it_fails()

        def __enter__(self) -> "Listing":
            return self

        def __exit__(self, *_: object) -> None:
            self._found.close()

        def __iter__(self) -> "Iterator[os.DirEntry[str]]":
            return self._items

        def _until_it_fails(self) -> "Iterator[os.DirEntry[str]]":
            for number, item in enumerate(self._found):
                if number == after:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                yield item

    def scandir(where: int) -> object:
        failed = os.readlink(f"/proc/self/fd/{where}") == str(directory)
        return Listing(where) if failed else real(where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        yield


@pytest.mark.parametrize("after", [0, 5, 15, 29])
def test_a_directory_that_cannot_be_listed_is_told_and_listed_next_time(
    store: Path, source: Path, after: int
) -> None:
    (source / "bad").mkdir()
    (source / "good").mkdir()
    for number in range(30):
        for name in ("bad", "good"):
            (source / name / f"{number}").write_bytes(b"%d" % number)
    way = Way(segment_max=8)
    for _ in range(2):  # without a cache, then with one
        with failing(source / "bad", after):
            done = archive_by(store, source, "t", way)
        reason = "directory cannot be read: input/output error"
        assert done.troubles == ((b"bad", reason, False),)
        assert done.entries == 33
        assert archive_by(store, source, "t", way).troubles == ()
        is_archived(store, "t", source)


def test_a_source_that_cannot_be_listed_makes_no_version(store: Path, source: Path) -> None:
    (source / "file").write_bytes(b"x")
    with failing(source, 0), pytest.raises(Exception, match="input/output error"):
        archive_by(store, source, "t")
    assert archive_by(store, source, "t").entries == 2


@pytest.mark.parametrize("segment_max", [4096, 4])
def test_patterns_are_asked_in_every_segment(store: Path, source: Path, segment_max: int) -> None:
    for number in range(40):
        (source / f"{number:02}").write_bytes(b"%d" % number)
        (source / f"d{number:02}").mkdir()
    expected: Callable[[bytes], bool] = lambda path: path[-1:] not in b"37"  # noqa: E731
    with pytest.MonkeyPatch.context() as patch, Store.open(store, "write") as opened:
        patch.setattr("ventifs.tree.archive.scan.SEGMENT_MAX", segment_max)
        whole, _ = archive(opened, DirectorySource(source), "t")
        options = Options(Patterns([b"*3", b"*7"]))
        for _ in range(2):
            version, tally = archive(opened, DirectorySource(source, options=options), "t")
            left = [path for path, _ in tree(opened, version.root)]
            assert left == list(filter(expected, (path for path, _ in tree(opened, whole.root))))
            assert tally.entries == len(left) + 1
        again, _ = archive(opened, DirectorySource(source), "t")
    assert again.root == whole.root
