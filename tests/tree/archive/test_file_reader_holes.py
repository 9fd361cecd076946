"""Holes of live files: only ENXIO says that there is none but holes; other errors are no holes."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.growing import is_archived
from tests.support.stores import new_store
from tests.support.trees import archived, noise
from ventifs.tree.archive.file_reader import is_zero, pieces

KIB = 1 << 10
Seek = Callable[[int, int, int], int]


@pytest.fixture
def sparse(tmp_path: Path) -> Iterator[int]:
    """A hole of 256 KiB, 64 KiB of data, a hole to the end at 1 MiB."""
    fd = os.open(tmp_path / "sparse", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 20)
    os.pwrite(fd, b"x" * (64 * KIB), 256 * KIB)
    yield fd
    os.close(fd)


def failing(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Every lseek for data fails; how often it was tried."""
    real, tried = os.lseek, []

    def lseek(fd: int, offset: int, how: int) -> int:
        if how != os.SEEK_DATA:
            return real(fd, offset, how)
        tried.append(offset)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "lseek", lseek)
    return tried


def read(fd: int) -> bytes:
    found = pieces(fd, os.fstat(fd).st_size, os.fstat(fd).st_blocks)
    return b"".join(bytes(each) if isinstance(each, int) else each for each in found)


@pytest.mark.parametrize(
    ("offset", "length", "zero"),
    [
        (0, 256, True),
        (0, 257, False),
        (255, 2, False),
        (320, 704, True),
        (319, 705, False),
        (300, 4, False),
        (0, 1024, False),
        (1000, 24, True),
    ],
)
def test_what_is_zero(sparse: int, offset: int, length: int, zero: bool) -> None:
    assert is_zero(sparse, offset * KIB, length * KIB) == zero


def test_zeros_that_are_written_are_zeros(tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(bytes(3 << 20) + b"x")
    fd = os.open(path, os.O_RDONLY)
    assert is_zero(fd, 0, 3 << 20)
    assert not is_zero(fd, 0, (3 << 20) + 1)
    assert is_zero(fd, 4 << 20, 10)  # past the end
    os.close(fd)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_does_not_tell_has_data_everywhere(
    sparse: int, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = os.pread(sparse, 1 << 20, 0)
    tried = failing(monkeypatch, number)
    assert read(sparse) == before
    assert is_zero(sparse, 0, 256 * KIB)
    assert not is_zero(sparse, 0, 1 << 20)
    assert tried


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EBADF, errno.EACCES])
def test_an_error_is_no_hole(sparse: int, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    failing(monkeypatch, number)
    for look in (lambda: is_zero(sparse, 0, 256 * KIB), lambda: read(sparse)):
        with pytest.raises(OSError, match=os.strerror(number)):
            look()


def large_file(root: Path, middle: bytes) -> Path:
    """More than is read in one piece, with a hole where other bytes may come."""
    source = root / "source"
    source.mkdir(exist_ok=True)
    (source / "file").unlink(missing_ok=True)
    with (source / "file").open("wb") as file:
        file.write(noise(1 << 20))
        file.seek(3 << 20)
        file.write(middle)
        file.truncate(6 << 20)
    return source


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
def test_a_changed_file_is_never_taken_for_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What was a hole has bytes now: they are archived, or missed with a trouble."""
    store = new_store(tmp_path / "store")
    archived(store, large_file(tmp_path, b""), time_ns=1)
    source = large_file(tmp_path, noise(1 << 20, 1))  # a new inode of the same size
    tried = failing(monkeypatch, number)
    version, _ = archived(store, source, time_ns=2)
    monkeypatch.undo()
    assert tried
    if number == errno.EIO:
        assert version.troubles == ((b"file", "input/output error", True),)
    else:
        assert version.troubles == ()
        is_archived(store, "t", source)
