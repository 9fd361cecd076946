"""An owner of locks: one descriptor of the host, with OFD locks.

Always: `LockedRanges` has the locks that the kernel has for the owner's descriptor. Knows no
limits, no other owners and no sessions (`locks.py`).
"""

import errno
import fcntl
import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Hashable
from operator import itemgetter
from typing import Protocol

from ventifs.vfs.interface import UNLOCKED

OFFSET_MAX = (1 << 63) - 1
READ, WRITE = 0, 1  # kinds of a `Lock`, beside UNLOCKED; fcntl has the same numbers for its types
Range = tuple[int, int, int]
"""Start, end and kind; the byte at the end is no part."""

_FLOCK = struct.Struct("@hhqqi0q")
# Errors of opening a file for reading and writing, after which one of the two may be possible.
_LESS_MAY_DO = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY, errno.EISDIR, errno.ENXIO}
)
_START, _END = itemgetter(0), itemgetter(1)


class Lockable(Protocol):
    """An open file, through which a lock is asked for."""

    def fileno(self) -> int:
        """Its descriptor, which is not O_PATH; it gets no lock."""

    def reopen(self, mode: int) -> int:
        """A new descriptor of the same file; the caller closes it.

        It is opened as the server, but for writing, if the file is not open for that, as the user.

        Args:
            mode: O_RDONLY, O_WRONLY or O_RDWR. O_NONBLOCK is added, so that nothing waits.

        Raises:
            OSError: it cannot be opened so; EAGAIN while a lease on it is being broken.
        """


class LockedRanges:
    """The locks of one owner: ranges that do not overlap, joined where those of a kind touch.

    Attributes:
        held: in order.
    """

    __slots__ = ("held",)

    def __init__(self, held: list[Range]) -> None:
        """Take ranges as they are."""
        self.held = held

    def change(self, start: int, end: int, kind: int) -> "LockedRanges":
        """What there is after a lock, or an unlock, of the bytes from `start` to before `end`."""
        held = self.held
        first, last = bisect_left(held, start, key=_END), bisect_right(held, end, key=_START)
        joined_start, joined_end = start, end
        before: list[Range] = []
        after: list[Range] = []
        for its_start, its_end, its_kind in held[first:last]:
            if its_kind == kind:
                joined_start, joined_end = min(joined_start, its_start), max(joined_end, its_end)
                continue
            if its_start < start:
                before.append((its_start, min(its_end, start), its_kind))
            if its_end > end:
                after.append((max(its_start, end), its_end, its_kind))
        middle = [] if kind == UNLOCKED else [(joined_start, joined_end, kind)]
        return LockedRanges([*held[:first], *before, *middle, *after, *held[last:]])


class LockOwner:
    """One owner, and its descriptor.

    Attributes:
        client_id, proc_id, inode: which owner of its session.
        ranges: its locks.
        waiting: its requests that wait.
        gone: it is closed.
    """

    __slots__ = ("_fd", "_mode", "client_id", "gone", "inode", "proc_id", "ranges", "waiting")

    def __init__(self, client_id: bytes, proc_id: int, inode: Hashable) -> None:
        """Hold nothing yet."""
        self.client_id = client_id
        self.proc_id = proc_id
        self.inode = inode
        self.ranges = LockedRanges([])
        self.waiting = 0
        self.gone = False
        self._fd = -1
        self._mode = os.O_RDONLY

    def change(self, file: Lockable, start: int, end: int, kind: int) -> bool:
        """Lock or unlock, if that is possible now; return whether it was.

        Raises:
            OSError: it never will be: the file cannot be opened for it, or cannot be locked.
        """
        try:
            if kind != UNLOCKED:
                self._provide(file, kind)
            self._set(start, end, kind)
        except BlockingIOError:
            return False
        return True

    def conflict(self, file: Lockable, start: int, end: int, kind: int) -> tuple[Range, int] | None:
        """The lock of another that is in the way; with its process, which is -1 for an OFD lock."""
        fd = file.fileno() if self._fd < 0 else self._fd
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(start, end, kind))
        found, _, at, length, pid = _FLOCK.unpack(answer)
        if found == fcntl.F_UNLCK:
            return None
        return (at, at + length if length else OFFSET_MAX + 1, found), pid

    def close(self) -> None:
        """Give everything back. Idempotent."""
        self.gone = True
        self.ranges = LockedRanges([])
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _provide(self, file: Lockable, kind: int) -> None:
        """Have a descriptor for locks of this kind: Linux wants one that can read, or write.

        A write lock through a fid that is open for reading alone is one of flock(2). If the owner
        has read locks then, they move to another descriptor, and may be lost on the way: flock(2)
        says so of its conversions.

        For read locks through such a fid the file is not opened for writing: the host could not
        execute it meanwhile.
        """
        if self._fd >= 0 and self._mode in (os.O_RDWR, _mode_for(kind)):
            return
        fd, mode = _reopened(file, kind)
        old, self._fd, self._mode = self._fd, fd, mode
        if old < 0:
            return
        os.close(old)
        before, self.ranges = self.ranges, LockedRanges([])
        for each in before.held:
            try:
                self._set(*each)
            except BlockingIOError:
                continue

    def _set(self, start: int, end: int, kind: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _flock(start, end, kind))
        self.ranges = self.ranges.change(start, end, kind)


def _mode_for(kind: int) -> int:
    return os.O_WRONLY if kind == WRITE else os.O_RDONLY


def _reopened(file: Lockable, kind: int) -> tuple[int, int]:
    """A descriptor for locks of a kind, for the other kind too if the file is open for writing."""
    its_mode = fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_ACCMODE
    if kind == WRITE or its_mode != os.O_RDONLY:
        try:
            return file.reopen(os.O_RDWR), os.O_RDWR
        except OSError as error:
            if error.errno not in _LESS_MAY_DO:
                raise
    mode = _mode_for(kind)
    return file.reopen(mode), mode


def length_of(start: int, end: int) -> int:
    """The length of a range as fcntl has it: 0 is all from its start on."""
    return 0 if end > OFFSET_MAX else end - start


def _flock(start: int, end: int, kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, length_of(start, end), 0)
