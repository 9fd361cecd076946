"""Files of every size, in batches of every shape, and under the hands of others."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.archiving import Done, Way, archive_by, archive_when_asked
from tests.support.commanding import parsed, run
from tests.support.growing import is_archived
from tests.support.processes import Peer, kill_all
from tests.support.stores import findings
from tests.support.trees import noise, remove
from tests.support.walker import same
from ventifs.store import Store
from ventifs.tree.objects.content import read_whole
from ventifs.tree.objects.directory import resolve
from ventifs.tree.objects.records import RegularFile
from ventifs.tree.versions.catalog import find_version

TIB = 1 << 40
MIB = 1 << 20


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    made = Peer(archive_when_asked)
    yield made
    made.end()
    kill_all()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "source").mkdir()
    yield tmp_path / "source"
    remove(tmp_path / "source")


def forked(peer: Peer, store: Path, source: Path, way: Way = Way(jobs=2)) -> Done:  # noqa: B008
    done = peer.ask("archive", store, source, "t", way)
    assert isinstance(done, Done), done
    return done


# --- large, long and deep ---------------------------------------------------------------------


def test_files_past_a_tebibyte_cost_what_they_hold(tmp_path: Path, source: Path) -> None:
    with (source / "hole").open("wb") as file:
        file.truncate(TIB + 1)
    with (source / "data").open("wb") as file:
        for at in (0, 12_345, TIB // 3, TIB - 1, TIB + 10 * MIB):
            file.seek(at)
            file.write(noise(50_000, at % 1000))
        file.truncate(TIB + 100 * MIB)
    run(tmp_path, "init", "--store", "s")
    # To read 2 TiB would outlast the patience of `parsed`, on any machine.
    done = parsed(tmp_path, "archive", "source", "--name", "t", "--store", "s", "--jobs", "2")
    assert done["bytes"] == 2 * TIB + 100 * MIB + 1
    assert done["new_bytes"] < 500_000
    run(tmp_path, "restore", "t", "back", "--store", "s")
    assert (tmp_path / "back" / "hole").stat().st_blocks == 0
    assert (tmp_path / "back" / "data").stat().st_blocks < 1000
    same(source, tmp_path / "back")


def test_a_tree_deeper_than_a_path_can_be(tmp_path: Path, source: Path) -> None:
    fd = os.open(source, os.O_RDONLY)
    for number in range(3000):
        os.mkdir("deep", dir_fd=fd)
        below = os.open("deep", os.O_RDONLY, dir_fd=fd)
        if number % 500 == 0:
            file = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
            os.write(file, noise(1000, number))
            os.close(file)
        os.close(fd)
        fd = below
    os.mkfifo("fifo", dir_fd=fd)
    os.symlink("to", "symlink", dir_fd=fd)
    os.close(fd)
    run(tmp_path, "init", "--store", "s")
    words = ["archive", "source", "--name", "t", "--store", "s"]
    done = [parsed(tmp_path, *words, "--jobs", jobs) for jobs in ("2", "1", "2")]
    done.append(parsed(tmp_path, *words, "--no-cache"))
    assert len({one["score"] for one in done}) == 1
    assert done[0]["entries"] == 3000 + 6 + 2 + 1
    run(tmp_path, "restore", "t", "back", "--store", "s")
    try:
        same(source, tmp_path / "back")
    finally:
        remove(tmp_path / "back")


@pytest.mark.parametrize("jobs", [1, 2])
def test_batches_of_long_names_and_of_many_directories(
    peer: Peer, store: Path, source: Path, jobs: int
) -> None:
    for number in range(300):
        name = b"%03d" % number + b"\xff" * 252
        (source / f"d{number}").mkdir()
        for directory in (b"", b"d%d/" % number):
            with open(os.fsencode(source) + b"/" + directory + name, "wb") as file:
                file.write(name * (number % 3))
    done = forked(peer, store, source, Way(jobs=jobs))
    assert done.entries == 901
    assert done.troubles == ()
    is_archived(store, "t", source)


@pytest.mark.parametrize(
    "size", [4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 5 * MIB, 4095, 4096, 4097, 65536, 65537]
)
def test_sizes_about_the_limits(store: Path, source: Path, size: int) -> None:
    (source / "file").write_bytes(noise(size))
    (source / "zeros").write_bytes(bytes(size))
    (source / "ends in zeros").write_bytes(noise(size)[: size // 2] + bytes(size - size // 2))
    archive_by(store, source, "t")
    is_archived(store, "t", source)


def test_holes_and_zeros_are_the_same_content(store: Path, source: Path) -> None:
    for name, seeking in [("holes", True), ("zeros", False)]:
        with (source / name).open("wb") as file:
            for number in range(4):
                file.write(noise(300_000, number))
                if seeking:
                    file.seek(2 * MIB, os.SEEK_CUR)
                else:
                    file.write(bytes(2 * MIB))
            file.truncate(20 * MIB)
    assert (source / "holes").stat().st_blocks < (source / "zeros").stat().st_blocks
    archive_by(store, source, "t")
    with Store.open(store) as opened:
        version = find_version(opened, "t")
        details = [resolve(opened, version.root, name).detail for name in (b"holes", b"zeros")]
    assert details[0] == details[1]


# --- a large file under the hands of others ---------------------------------------------------


@contextmanager
def at_piece(path: Path, number: int, change: Callable[[], object]) -> Iterator[list[int]]:
    """Make a change before the `number`-th piece of a file is read, once; the reads so far."""
    real, reads = os.pread, list[int]()

    def pread(fd: int, length: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}").startswith(str(path)):
            reads.append(offset)
            if len(reads) == number:
                change()
        return real(fd, length, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", pread)
        yield reads


@pytest.fixture
def large(source: Path) -> Path:
    """A file that is read in nine pieces, beside two others."""
    (source / "before").write_bytes(noise(1000))
    (source / "large").write_bytes(noise(9 * MIB))
    (source / "zafter").write_bytes(noise(1000))
    return source / "large"


@pytest.mark.parametrize("number", [1, 5, 9])
@pytest.mark.parametrize("size", [10 * MIB, 8 * MIB + 5, 4 * MIB, 3, 0])
def test_one_that_changes_its_size_once_is_read_again(
    store: Path, source: Path, large: Path, number: int, size: int
) -> None:
    with at_piece(large, number, lambda: os.truncate(large, size)) as reads:
        done = archive_by(store, source, "t")
    assert len(reads) > number
    assert done.troubles == ()
    assert done.size == size + 2000
    is_archived(store, "t", source)


def test_one_that_is_overwritten_behind_the_reader_is_read_again(
    store: Path, source: Path, large: Path
) -> None:
    def overwrite() -> None:
        with large.open("r+b") as file:
            file.write(b"changed at the start")

    with at_piece(large, 9, overwrite):
        assert archive_by(store, source, "t").troubles == ()
    is_archived(store, "t", source)


def test_one_that_is_replaced_while_it_is_read_is_read_again(
    store: Path, source: Path, large: Path
) -> None:
    def replace() -> None:
        (source.parent / "other").write_bytes(noise(5 * MIB, 1))
        (source.parent / "other").rename(large)

    with at_piece(large, 5, replace):
        done = archive_by(store, source, "t")
    assert (done.troubles, done.size) == ((), 5 * MIB + 2000)
    assert archive_by(store, source, "t").size == done.size  # now the directory is at rest too
    is_archived(store, "t", source)


def test_one_that_vanishes_while_it_is_read_is_told(store: Path, source: Path, large: Path) -> None:
    with at_piece(large, 5, large.unlink):
        done = archive_by(store, source, "t")
    assert done.troubles == ((b"large", "no such file or directory", True),)
    assert done.entries == 3
    assert archive_by(store, source, "t").troubles == ()
    is_archived(store, "t", source)
    assert findings(store) == []


def test_one_that_always_shrinks_is_told(store: Path, source: Path, large: Path) -> None:
    real = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}") == str(large) and offset:
            os.truncate(large, large.stat().st_size - 1)
        return real(fd, length, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", pread)
        done = archive_by(store, source, "t")
    assert done.troubles == ((b"large", "shrank while it was read", True),)
    assert (done.entries, done.size) == (3, 2000)
    assert findings(store) == []


def test_what_was_not_read_well_is_not_cached(store: Path, source: Path, large: Path) -> None:
    calls = iter(range(1, 1000))
    real = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}") == str(large):
            os.utime(large, ns=(0, next(calls)))
        return real(fd, length, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", pread)
        done = archive_by(store, source, "t")
    assert done.troubles == ((b"large", "changed while it was read", False),)
    with Store.open(store) as opened:
        detail = resolve(opened, find_version(opened, "t").root, b"large").detail
        assert isinstance(detail, RegularFile)
        assert read_whole(opened, detail.content) == large.read_bytes()
    assert archive_by(store, source, "t").troubles == ()
    is_archived(store, "t", source)
