"""LMDB's errors as the store's: a full disk is no damage, whatever the size of its blocks."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.filesystems import made, mounted
from ventifs.errors import NoSpace, VentifsError
from ventifs.store.lmdb_environment import IndexDamaged, lmdb_errors


@pytest.fixture(params=[1024, 2048, 4096])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system with blocks of that many bytes."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    image = made(tmp_path / "image", "ext4", 16 << 20, ["-b", str(request.param), "-m", "0"])
    with mounted(image, "ext4", writable=True) as top:
        yield top


def meaning(path: Path) -> VentifsError:
    """What comes of an I/O error of LMDB's, which a write that is cut short is to it."""
    with pytest.raises(VentifsError) as caught, lmdb_errors(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return caught.value


def fill(disk: Path, leaving: int) -> None:
    """Take all room but some bytes."""
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(disk) - leaving)


def free(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def test_an_io_error_on_a_disk_with_room_is_damage(disk: Path) -> None:
    assert free(disk) > 4 << 20
    assert isinstance(meaning(disk), IndexDamaged)


def test_an_io_error_on_a_disk_that_is_nearly_full_is_a_full_disk(disk: Path) -> None:
    fill(disk, 700 << 10)
    assert 256 << 10 < free(disk) < 1 << 20
    assert isinstance(meaning(disk), NoSpace)


def test_blocks_of_64_kib_are_counted_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some file systems of machines with large pages: 200 of them are 12.5 MiB."""

    class Status:
        f_bavail, f_frsize, f_bsize = 200, 65_536, 65_536

    monkeypatch.setattr(os, "statvfs", lambda _: Status)
    assert isinstance(meaning(tmp_path), IndexDamaged)
