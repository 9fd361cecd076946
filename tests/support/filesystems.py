"""File systems in image files: made, mounted by this kernel, and compared with our readers.

The kernel's own loop mount is the reference: every attribute and every byte of every file.
"""

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ventifs.image.filesystems.filesystem import read_files
from ventifs.image.survey_events import Ended, FoundName, Free, Inode, Range
from ventifs.image.volumes.window import Window

TYPES = {"ext2": "noload", "ext3": "noload", "ext4": "noload", "xfs": "norecovery,nouuid"}


class FileDisk:
    """An image file as a disk."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.lseek(self._fd, 0, os.SEEK_END)

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size
        return os.pread(self._fd, length, offset)

    def close(self) -> None:
        os.close(self._fd)


class BytesDisk:
    """A disk in memory.

    Attributes:
        reads: the number of reads so far.
    """

    def __init__(self, data: bytes | bytearray, reads_max: int = 1 << 40) -> None:
        """Fail after `reads_max` reads."""
        self._data = data
        self.size = len(data)
        self.reads = 0
        self._reads_max = reads_max

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        assert self.reads <= self._reads_max
        assert 0 <= offset <= offset + length <= self.size
        return bytes(self._data[offset : offset + length])


def window(disk: FileDisk | BytesDisk) -> Window:
    return Window(disk, [(0, disk.size)] if disk.size else [])  # type: ignore[arg-type]


class Inside:
    """All that the parser reports of a file system, checked.

    Attributes:
        nodes: the nodes by path, with `/` between names.
        free: all free ranges.
        ended: the last event.
    """

    def __init__(self, disk: FileDisk | BytesDisk, filesystem: str, *, free: bool = True) -> None:
        self._window = window(disk)
        self.nodes: dict[bytes, FoundName] = {}
        self.free: list[Range] = []
        self.ended: Ended | None = None
        self._inodes: dict[int, Inode] = {}
        for event in read_files(self._window, filesystem, free=free):
            assert self.ended is None
            if isinstance(event, FoundName):
                self._node(event)
            elif isinstance(event, Free):
                self.free.extend(event.ranges)
            else:
                self.ended = event
        assert self.ended is not None

    def _node(self, node: FoundName) -> None:
        assert node.key not in self.nodes
        parent = node.key.rpartition(b"\0")[0]
        assert node.key == b"" or parent.replace(b"\0", b"/") in self.nodes
        self.nodes[node.key.replace(b"\0", b"/")] = node
        if node.inode is not None:
            assert node.number not in self._inodes
            self._inodes[node.number] = node.inode
            self._check(node.inode)

    def _check(self, inode: Inode) -> None:
        told = 0
        for at, start, length in inode.extents:
            assert at >= told
            assert length > 0
            assert 0 <= start <= start + length <= self._window.size
            told = at + length
        assert told < inode.size + (1 << 16)
        assert not (inode.extents and inode.data)
        assert list(inode.xattrs) == sorted(inode.xattrs)

    def inode(self, path: bytes) -> Inode:
        return self._inodes[self.nodes[path].number]

    def content(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """The stored pieces of a regular file, with their offsets; the rest is zeros."""
        inode = self.inode(path)
        if inode.data:
            yield 0, inode.data
        for at, start, length in inode.extents:
            for done in range(0, min(length, inode.size - at), 1 << 20):
                count = min(1 << 20, length - done, inode.size - at - done)
                yield at + done, self._window.read(start + done, count)

    @property
    def problems(self) -> dict[bytes, str]:
        return {path: node.problem for path, node in self.nodes.items() if node.problem}


@contextmanager
def mounted(image: Path, filesystem: str, *, writable: bool = False) -> Iterator[Path]:
    """Mount an image; yields where. Unless `writable`, read-only and without log recovery."""
    options = "loop" if writable else f"loop,ro,{TYPES[filesystem]}"
    if filesystem == "ext2":
        options = "loop" if writable else "loop,ro"
    with tempfile.TemporaryDirectory(prefix="ventifs-mount") as top:
        subprocess.run(["mount", "-t", filesystem, "-o", options, image, top], check=True)
        try:
            yield Path(top)
        finally:
            subprocess.run(["umount", top], check=True)


def filled(
    image: Path, filesystem: str, size: int, options: list[str], fill: Callable[[Path], None]
) -> Path:
    """Make an image of a new file system, mounted by the kernel while `fill` fills it."""
    made(image, filesystem, size, options)
    with mounted(image, filesystem, writable=True) as top:
        fill(top)
    return image


def made(image: Path, filesystem: str, size: int, options: list[str]) -> Path:
    """Make an image of a new, empty file system."""
    with image.open("wb") as file:
        file.truncate(size)
    command = ["mkfs.xfs", "-q"] if filesystem == "xfs" else ["mke2fs", "-q", "-t", filesystem]
    subprocess.run([*command, *options, image], check=True, capture_output=True)
    return image


def agree(image: Path, filesystem: str) -> Inside:
    """Read an image and compare everything with the kernel's view of it."""
    disk = FileDisk(image)
    try:
        inside = Inside(disk, filesystem)
        with mounted(image, filesystem) as top:
            _compare(inside, os.fsencode(top))
    finally:
        disk.close()
    return inside


def _compare(inside: Inside, top: bytes) -> None:
    assert inside.problems == {}
    assert inside.ended is not None
    assert inside.ended.problem == ""
    paths = {b""}
    numbers: dict[int, int] = {}
    for directory, subdirectories, files in os.walk(top):
        for name in subdirectories + files:
            paths.add(os.path.join(directory, name)[len(top) + 1 :])
    assert set(inside.nodes) == paths
    for path in paths:
        place = os.path.join(top, path) if path else top
        status = os.lstat(place)
        node, inode = inside.nodes[path], inside.inode(path)
        assert numbers.setdefault(status.st_ino, node.number) == node.number
        expected = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
        assert (inode.mode, inode.uid, inode.gid, inode.mtime_ns) == expected, path
        assert inode.links == status.st_nlink, path
        assert inode.xattrs == _xattrs(place), path
        kind = stat.S_IFMT(status.st_mode)
        assert inode.size == (status.st_size if kind == stat.S_IFREG else 0), path
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        assert inode.rdev == device, path
        assert inode.target == (os.readlink(place) if kind == stat.S_IFLNK else b""), path
        if kind == stat.S_IFREG:
            _compare_bytes(inside, path, place)
        else:
            assert (inode.extents, inode.data) == ((), b"")


def _xattrs(place: bytes) -> tuple[tuple[bytes, bytes], ...]:
    names = os.listxattr(place, follow_symlinks=False)
    pairs = ((os.fsencode(n), os.getxattr(place, n, follow_symlinks=False)) for n in names)
    return tuple(sorted(pairs))


def _compare_bytes(inside: Inside, path: bytes, place: bytes) -> None:
    """Check that a file has exactly the reported bytes, and zeros elsewhere."""
    size = inside.inode(path).size
    with open(place, "rb", buffering=0) as file:
        told = 0
        for at, data in inside.content(path):
            _assert_zeros(file.fileno(), told, at, path)
            assert os.pread(file.fileno(), len(data), at) == data, path
            told = at + len(data)
        _assert_zeros(file.fileno(), told, size, path)


def _assert_zeros(fd: int, start: int, end: int, path: bytes) -> None:
    while start < end:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError:
            return
        if start >= end:
            return
        data = os.pread(fd, min(1 << 20, end - start), start)
        assert not data.strip(b"\0"), path
        start += len(data)
