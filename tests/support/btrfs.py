"""A btrfs mounted for one test, and all the ways in which a file on it may change."""

import ctypes
import fcntl
import mmap
import os
import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.support.conversing import answer_all
from ventifs.image.archive.disk_source import DiskSource
from ventifs.image.formats.btrfs_changes import mark, unchanged
from ventifs.image.formats.raw import RawDisk
from ventifs.image.survey import Survey
from ventifs.store import Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.versions.catalog import tree_score

BLOCK = 4096
_CLONE_RANGE = 0x4020940D  # linux/fs.h: FICLONERANGE
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16  # linux/falloc.h
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def mounted_btrfs(top: Path, *mkfs: str, options: str = "") -> Iterator[Path]:
    """Mount a new btrfs of 1 GiB; yields where. Skips the test where that is impossible."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    if "btrfs" not in Path("/proc/filesystems").read_text().split():
        pytest.skip("this kernel has no btrfs")
    image, place = top / "btrfs.img", top / "btrfs"
    with image.open("wb") as file:
        file.truncate(1 << 30)
    place.mkdir()
    command("mkfs.btrfs", "-q", *mkfs, image)
    command("mount", "-t", "btrfs", "-o", ",".join(filter(None, ("loop", options))), image, place)
    try:
        yield place
    finally:
        command("umount", "--lazy", place)  # a failed test may have it open still
        image.unlink()


def command(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True)


def clone(source: Path, target: Path, start: int, length: int, at: int) -> None:
    """Share a range of blocks of one file with another; a length of 0 is all up to the end."""
    with source.open("rb") as theirs, target.open("r+b") as ours:
        fcntl.ioctl(ours, _CLONE_RANGE, struct.pack("=qQQQ", theirs.fileno(), start, length, at))


def allocate(path: Path, mode: int, start: int, length: int) -> None:
    """As fallocate(2)."""
    with path.open("r+b") as file:
        where = ctypes.c_int64(start), ctypes.c_int64(length)
        if _libc.fallocate(file.fileno(), mode, *where):
            raise OSError(ctypes.get_errno(), "fallocate")


class Changes:
    """Changes a file on btrfs at random, from a seed.

    Attributes:
        path: the file.
        done: the names of the changes so far.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.done: list[str] = []
        self._chance = random.Random(seed)
        self._others: list[Path] = []
        self._directories = (
            self._write,
            self._write,
            self._sync,
            self._map,
            self._direct,
            self._keep,
            self._copy,
            self._bring_back,
            self._punch,
            self._zero,
            self._reserve,
            self._shorten,
            self._lengthen,
            self._defragment,
            self._snapshot,
            self._compress,
            self._balance,
        )

    def change(self) -> None:
        """Make one random change."""
        way = self._chance.choice(self._directories)
        self.done.append(way.__name__)
        way()

    def _size(self) -> int:
        return self.path.stat().st_size

    def _range(self, unit: int = 1, most: int = 300_000) -> tuple[int, int]:
        """A random offset and length within the file."""
        units = self._size() // unit
        start = self._chance.randrange(units)
        return start * unit, min(units - start, self._chance.randint(1, most // unit)) * unit

    def _bytes(self, length: int) -> bytes:
        kinds = bytes(length), self._chance.randbytes(length), b"it compresses " * length
        return self._chance.choice(kinds)[:length]

    def _write(self) -> None:
        start, length = self._range()
        with self.path.open("r+b") as file:
            os.pwrite(file.fileno(), self._bytes(length), start)

    def _sync(self) -> None:
        self._write()
        with self.path.open("r+b") as file:
            os.fsync(file.fileno())

    def _map(self) -> None:
        start, length = self._range()
        with self.path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            view[start : start + length] = self._bytes(length)

    def _direct(self) -> None:
        start, length = self._range(BLOCK)
        fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        try:
            with mmap.mmap(-1, length) as buffer:  # page-aligned
                buffer[:] = self._bytes(length)
                assert os.pwritev(fd, [buffer], start) == length
        finally:
            os.close(fd)

    def _keep(self) -> None:
        """Make a copy that shares all blocks, for `_bring_back`."""
        other = self.path.with_name(f"{self.path.name}-{len(self._others)}")
        command("cp", "--reflink=always", self.path, other)
        self._others.append(other)

    def _copy(self) -> None:
        """Clone a range from another place in the file."""
        start, length = self._range(BLOCK)
        room = (self._size() - length) // BLOCK
        at = self._chance.randint(0, room) * BLOCK
        if at + length <= start or start + length <= at:
            clone(self.path, self.path, start, length, at)

    def _bring_back(self) -> None:
        """Clone a range back from a copy, which may bring back an old extent."""
        if self._others:
            start, length = self._range(BLOCK)
            other = self._chance.choice(self._others)
            if start + length <= other.stat().st_size:
                clone(other, self.path, start, length, start)

    def _punch(self) -> None:
        allocate(self.path, _PUNCH_HOLE | _KEEP_SIZE, *self._range())

    def _zero(self) -> None:
        allocate(self.path, _ZERO_RANGE | _KEEP_SIZE, *self._range())

    def _reserve(self) -> None:
        """Replace a range by allocated blocks, so that later writes go into these."""
        start, length = self._range(BLOCK)
        allocate(self.path, _PUNCH_HOLE | _KEEP_SIZE, start, length)
        allocate(self.path, 0, start, length)

    def _shorten(self) -> None:
        size = self._size()
        os.truncate(self.path, size - self._chance.randrange(size // 4))
        if self._chance.randrange(2):
            os.truncate(self.path, size)

    def _lengthen(self) -> None:
        os.truncate(self.path, self._size() + self._chance.randrange(100_000))

    def _defragment(self) -> None:
        command("btrfs", "filesystem", "defragment", "-f", self.path)

    def _compress(self) -> None:
        kind = self._chance.choice(("zstd", "none"))
        command("btrfs", "property", "set", self.path, "compression", kind)
        self._write()

    def _snapshot(self) -> None:
        top = self.path.parent
        name = top / f"snapshot-{len(self.done)}"
        command("btrfs", "subvolume", "snapshot", top, name)
        self._others.append(name / self.path.name)

    def _balance(self) -> None:
        """Move all data to other places, so that its old places become free for other data."""
        command("btrfs", "balance", "start", "-d", self.path.parent)


class CountedDisk(RawDisk):
    """A raw disk that counts the bytes that all processes read of it."""

    def __init__(self, path: Path, counts: Path) -> None:
        super().__init__(str(path))
        self._counts = os.open(counts, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)

    def _pread(self, offset: int, length: int) -> bytes:
        data = super()._pread(offset, length)
        os.write(self._counts, len(data).to_bytes(8, "little"))
        return data

    def counted(self) -> int:
        """The bytes that were read so far."""
        told = os.pread(self._counts, os.fstat(self._counts).st_size, 0)
        return sum(number for (number,) in struct.iter_unpack("<Q", told))

    def close(self) -> None:
        super().close()
        os.close(self._counts)


def _archived(store: Path, path: Path) -> tuple[bytes, int]:
    """Archive a raw image as the command does; return the root's score and the bytes read."""
    with ExitStack() as stack:
        disk = CountedDisk(path, store.with_name("counts"))
        stack.callback(disk.close)
        begun = mark(disk)
        survey = stack.enter_context(Survey(disk, free=False))
        source = DiskSource(disk, iter(survey), unchanged=partial(unchanged, disk), mark=begun)
        opened = stack.enter_context(Store.open(store, "write"))
        version, _ = archive(opened, source, "vm7")
        return tree_score(version.root), disk.counted()


def archive_images(connection: Connection) -> None:
    """The child of a `Peer`: archives raw images."""
    answer_all(connection, {"archive": _archived})
