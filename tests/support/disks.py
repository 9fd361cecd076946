"""Small file systems, mounted for a test: to be filled up, or made read-only."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

PAGE = 4096


class Disk:
    """A mounted tmpfs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self, *, leaving: int = 0) -> None:
        """Use all space but `leaving` pages, so that one more new page does not fit."""
        self.make_room()
        pages = os.statvfs(self.path).f_bavail - leaving
        with self._filler.open("wb") as file:
            if pages > 0:
                os.posix_fallocate(file.fileno(), 0, pages * PAGE)

    def make_room(self) -> None:
        """Free the space that `fill` has used."""
        self._filler.unlink(missing_ok=True)

    def remount(self, option: str) -> None:
        """Make it read-only ("ro") or writable again ("rw")."""
        command = ["mount", "-o", f"remount,{option}", str(self.path)]
        subprocess.run(command, check=True, capture_output=True)


class LoopDisk(Disk):
    """A mounted file system in an image, which needs space for itself, too."""

    def fill(self, *, leaving: int = 0) -> None:
        """Write until nothing fits; `leaving` pages can then be written again."""
        self.make_room()
        self.path.joinpath("spare").write_bytes(os.urandom(leaving * PAGE))
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            for size in (1 << 20, PAGE, 512):
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass
                os.fsync(file.fileno())
        self.path.joinpath("spare").unlink()
        os.sync()


def mounted_ext4(path: Path) -> AbstractContextManager[LoopDisk]:
    """Mount a new ext4 of 64 MiB at `path`; skips the test where that is not allowed."""
    return _mounted_image(path, 64 << 20, "mke2fs", "-q", "-t", "ext4", "-m", "0")


def mounted_btrfs(path: Path) -> AbstractContextManager[LoopDisk]:
    """Mount a new btrfs of 256 MiB at `path`; skips the test where that is not allowed."""
    return _mounted_image(path, 256 << 20, "mkfs.btrfs", "-q")


@contextmanager
def _mounted_image(path: Path, size: int, *mkfs: str) -> Iterator[LoopDisk]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    path.mkdir()
    image = path.with_name(path.name + ".img")
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([*mkfs, image], check=True)
    command = ["mount", "-o", "loop", str(image), str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no image can be mounted here: {done.stderr.strip()}")
    try:
        yield LoopDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        image.unlink()


@contextmanager
def mounted(path: Path, size: str = "24m") -> Iterator[Disk]:
    """Mount a tmpfs at `path`; skips the test where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "ventifs-test", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
