"""The file in which a process lists what it leases: its slots, its lock, and how others read it.

FORMAT.md, section Leases, has the bytes. Always: a slot is written before `hold` returns; a slot
that is half written, or fails its check, is no root for a reader; a file counts only while its lock
is held. Knows neither stores nor what a root is.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from ventifs.errors import VentifsError
from ventifs.store.permissions import create_file, make_directory

ROOT_MAX = 256 << 10  # bytes of a root: it stands in a record, which is no longer
FILE_MAX = 256 << 20  # bytes of a lease file: a million roots
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # it may be another's FIFO
_MAGIC = b"vflease\1"
_SLOT = struct.Struct("<IBI16s")  # capacity, state, length, check
_STATE_AT = 4
_FREE, _HELD = b"\0", b"\1"
_STEP = 64  # capacities are multiples of this, so that slots are used again


class LeaseFile:
    """The lease file of this process in one store.

    Concurrency: one thread at a time.

    Attributes:
        stores: open stores that use it.
    """

    def __init__(self, path: Path, fd: int) -> None:
        """Use `create`."""
        self.stores = 0
        self._path = path
        self._fd = fd
        self._length = len(_MAGIC)
        self._slots: dict[bytes, _SlotInUse] = {}
        self._free: dict[int, list[int]] = {}  # offsets, by capacity

    @classmethod
    def create(cls, directory: Path) -> "LeaseFile":
        """Make and lock a file.

        Raises:
            OSError: it cannot be made.
        """
        while True:
            path = directory / f"{os.urandom(16).hex()}.lease"
            try:
                fd = create_file(path)
            except FileNotFoundError:
                make_directory(directory)
                continue
            file = cls(path, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Between creation and lock, another process may have swept it away.
                if file.is_there():
                    _write(fd, _MAGIC, 0)
                    return file
            except BlockingIOError:
                pass
            except BaseException:
                file.remove()
                raise
            file.remove()

    @property
    def opened(self) -> bool:
        """False in a forked child, whose parent has the file, and after `remove`."""
        return self._fd >= 0

    def is_there(self) -> bool:
        """Whether its name still leads to it."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._path, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def hold(self, root: bytes) -> None:
        """Count one more use of a root.

        Raises:
            OSError: it cannot be written, and is not counted.
        """
        slot = self._slots.get(root)
        if slot is not None:
            slot.uses += 1
            return
        capacity = -(-len(root) // _STEP) * _STEP
        free = self._free.get(capacity)
        at = free.pop() if free else self._length
        end = at + _SLOT.size + capacity
        head = _SLOT.pack(capacity, _HELD[0], len(root), _check(at, root))
        try:
            if end > FILE_MAX:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            _write(self._fd, head + root.ljust(capacity, b"\0"), at)
        except BaseException:
            if at < self._length:
                self._set_free(at, capacity)
            else:
                with suppress(OSError):
                    os.ftruncate(self._fd, self._length)
            raise
        self._length = max(self._length, end)
        self._slots[root] = _SlotInUse(at, capacity)

    def drop(self, root: bytes, count: int) -> None:
        """Count fewer uses of a root; after the last, its slot is free."""
        slot = self._slots[root]
        slot.uses -= count
        if slot.uses:
            return
        del self._slots[root]
        self._set_free(slot.at, slot.capacity)
        if not self._slots:
            with suppress(OSError):
                os.ftruncate(self._fd, len(_MAGIC))
                self._length = len(_MAGIC)
                self._free.clear()

    def _set_free(self, at: int, capacity: int) -> None:
        with suppress(OSError):  # then the root is kept a while longer, which costs only space
            os.pwrite(self._fd, _FREE, at + _STATE_AT)
        self._free.setdefault(capacity, []).append(at)

    def remove(self) -> None:
        """Remove the name, then the lock."""
        with suppress(OSError):
            self._path.unlink()
        self.abandon()

    def abandon(self) -> None:
        """Close it without unlocking it: in a forked child, its parent still has the lock."""
        fd, self._fd = self._fd, -1
        os.close(fd)


class _SlotInUse:
    """The slot of a root, and how many leases there are on it."""

    __slots__ = ("at", "capacity", "uses")

    def __init__(self, at: int, capacity: int) -> None:
        self.at = at
        self.capacity = capacity
        self.uses = 1


def leased_in(path: Path) -> list[bytes]:
    """The roots of one file; none if no process holds its lock.

    Raises:
        VentifsError: it is too long.
        OSError: it cannot be read.
    """
    try:
        fd = os.open(path, OPEN)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            return []
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return list(_roots_in(_content(fd, path)))
        return []
    finally:
        os.close(fd)


def _content(fd: int, path: Path) -> bytes:
    size = os.fstat(fd).st_size
    if size > FILE_MAX:
        raise VentifsError(
            f"{path}: {size:,} bytes, more than a lease file may have: ventifs did not write it; "
            "end the process that has locked it, and remove it"
        )
    pieces = []
    at = 0
    while at < size and (piece := os.pread(fd, size - at, at)):
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)


def _roots_in(data: bytes) -> Iterator[bytes]:
    if not data.startswith(_MAGIC):
        return
    at = len(_MAGIC)
    while at + _SLOT.size <= len(data):
        capacity, state, length, check = _SLOT.unpack_from(data, at)
        start = at + _SLOT.size
        fits = 0 < length <= min(capacity, ROOT_MAX, len(data) - start)
        if state == _HELD[0] and fits:  # only then copied: a hostile file has lengths of 4 GiB
            root = data[start : start + length]
            if check == _check(at, root):
                yield root
        at = start + capacity


def _check(at: int, root: bytes) -> bytes:
    return blake3(struct.pack("<QI", at, len(root)) + root).digest(16)


def _write(fd: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(fd, data, at)
        data, at = data[written:], at + written
