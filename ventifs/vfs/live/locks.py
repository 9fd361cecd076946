"""Locks of a live export's files, as record locks of the host.

Always:

- An owner, which is a session, a client_id, a proc_id and an inode, has one descriptor of its own.
  That carries all its locks as OFD locks, through whichever fid they were taken. So the host's
  kernel decides about conflicts: between owners, between exports, and with processes of the host.
- A descriptor is closed with the owner's last lock, with its session's last open fid of the inode,
  or with the session. An owner without locks has one only while a request of it waits.
- `LockedRanges` has the locks that the kernel has for that descriptor.
- Descriptors and ranges are limited for an export, and to half of that for one session; waiting
  requests are limited for a session.

Linux's client first takes a lock within its guest, and then asks for it here, under the name of its
host and the number of the process. It asks for flock(2) as for a lock of the whole file. Whenever a
process closes a descriptor of a file that has locks, it gives back all that this process has of the
file, through that descriptor's fid; a lock of flock(2) too.

Knows no fids, no paths and no users. One thread calls everything, and nothing waits.
"""

import errno
import fcntl
import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable
from functools import partial
from operator import itemgetter
from typing import Protocol

from ventifs.vfs.interface import (
    LOCK_BLOCK,
    LOCK_BLOCKED,
    LOCK_ERROR,
    LOCK_SUCCESS,
    UNLOCKED,
    Lock,
    Refused,
    Wait,
    Waiting,
)

# Only SIGKILL ends the wait of Linux's client for a reply, so `flock -w` needs one soon. The client
# asks again after its `locktimeout`.
HELD_S = 1.0
WAITERS_MAX = 64  # requests of one session that wait; further ones are answered at once
RANGES_MAX = 16384  # of an export: the kernel goes through all locks of an inode for each request
CLIENT_ID_MAX = 255  # bytes; Linux sends the name of its host, at most 64
OFFSET_MAX = (1 << 63) - 1

READ, WRITE = 0, 1  # kinds of a `Lock`, beside UNLOCKED; fcntl has the same numbers for its types

_FLOCK = struct.Struct("@hhqqi0q")
# Errors of opening a file for reading and writing, after which one of the two may be possible.
_LESS_MAY_DO = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY, errno.EISDIR, errno.ENXIO}
)
_START, _END = itemgetter(0), itemgetter(1)
_Range = tuple[int, int, int]  # start, end, kind; the byte at the end is no part


class Lockable(Protocol):
    """An open file, through which a lock is asked for."""

    def fileno(self) -> int:
        """Its descriptor, which is not O_PATH; it gets no lock."""

    def reopen(self, mode: int) -> int:
        """A new descriptor of the same file, as the server may open it; the caller closes it.

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

    def __init__(self, held: list[_Range]) -> None:
        """Take ranges as they are."""
        self.held = held

    def change(self, start: int, end: int, kind: int) -> "LockedRanges":
        """What there is after a lock, or an unlock, of the bytes from `start` to before `end`."""
        held = self.held
        first, last = bisect_left(held, start, key=_END), bisect_right(held, end, key=_START)
        joined_start, joined_end = start, end
        before: list[_Range] = []
        after: list[_Range] = []
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

    def conflict(
        self, file: Lockable, start: int, end: int, kind: int
    ) -> tuple[_Range, int] | None:
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


class ExportLocks:
    """What all sessions of an export have locked.

    Attributes:
        descriptors_max: owners, each with its descriptor, of all sessions together.
        ranges_max: ranges, of all sessions together.
        descriptors, ranges: how many there are.
        owners: by inode.
    """

    def __init__(self, descriptors_max: int, ranges_max: int = RANGES_MAX) -> None:
        """Start with none."""
        self.descriptors_max = descriptors_max
        self.ranges_max = ranges_max
        self.descriptors = 0
        self.ranges = 0
        self.owners: dict[Hashable, list[LockOwner]] = {}

    def session(self) -> "SessionLocks":
        """The locks of one more session."""
        return SessionLocks(self)

    def holder(self, inode: Hashable, held: _Range) -> LockOwner | None:
        """The owner that has a lock."""
        for owner in self.owners.get(inode, ()):
            if held in owner.ranges.held:
                return owner
        return None


class SessionLocks:
    """The locks of one session.

    `opened` and `closed` are called for each of its open fids. An inode is named by something that
    is equal for all fids of a file, and for no other file while one of them is open.

    Attributes:
        waiting: requests that wait for a lock.
    """

    def __init__(self, export: ExportLocks) -> None:
        """Begin without locks; `ExportLocks.session` calls this."""
        self.waiting = 0
        self._export = export
        self._open: dict[Hashable, int] = {}  # how many fids
        self._owners: dict[Hashable, dict[tuple[bytes, int], LockOwner]] = {}
        self._descriptors = 0
        self._ranges = 0

    def opened(self, inode: Hashable) -> None:
        """Take note of one more open fid of an inode."""
        self._open[inode] = self._open.get(inode, 0) + 1

    def closed(self, inode: Hashable) -> None:
        """Take note of one less; with the last one, the session's locks of the inode are gone."""
        left = self._open.pop(inode) - 1
        if left:
            self._open[inode] = left
        else:
            self._forget_all(inode)

    def close(self) -> None:
        """Give all locks back. Idempotent; `closed` may still be called."""
        for inode in list(self._owners):
            self._forget_all(inode)

    def lock(self, inode: Hashable, file: Lockable, lock: Lock, flags: int) -> int:
        """Take or give back a lock; see `Opened.lock`.

        Raises:
            Waiting: for at most `HELD_S`; then the status is LOCK_BLOCKED.
            Refused: EINVAL or EOVERFLOW for a range that no file has; ENOLCK beyond the limits.
            OSError: the host's, such as EROFS if it cannot open the file for a write lock.
        """
        start, end = _range(lock)
        owner = self._owner(inode, lock)
        if lock.kind == UNLOCKED:
            if owner is not None and owner.ranges.held:
                self._change(owner, file, start, end, UNLOCKED)
                self._settle(owner)
            return LOCK_SUCCESS
        if owner is None:
            owner = self._new(inode, lock)
        attempt = partial(self._attempt, owner, file, start, end, lock.kind)
        try:
            taken = attempt()
            if taken is not None:
                return taken
            if flags & LOCK_BLOCK and self.waiting < WAITERS_MAX:
                raise Waiting(self._wait(owner, attempt))
            return LOCK_BLOCKED
        finally:
            self._settle(owner)

    def getlock(self, inode: Hashable, file: Lockable, lock: Lock) -> Lock:
        """The lock that conflicts with this one; see `Opened.getlock`.

        Linux's client asks for kind UNLOCKED, whatever its process asked for. The answer is then a
        write lock, which both kinds conflict with, or else a read lock.

        Returns:
            One of ours has its owner. One of the host has the host's name, and its process; or 0
            for an OFD lock, of which the host does not say whose it is.
        """
        start, end = _range(lock)
        owner = self._owner(inode, lock) or LockOwner(lock.client_id, lock.proc_id, inode)
        for kind in (READ, WRITE) if lock.kind == UNLOCKED else (lock.kind,):
            found = owner.conflict(file, start, end, kind)
            if found is not None:
                break
        else:
            return Lock(UNLOCKED, lock.start, lock.length, lock.proc_id, lock.client_id)
        held, pid = found
        holder = self._export.holder(inode, held) if pid < 0 else None
        at, to, kind = held
        length = _length(at, to)
        if holder is not None:
            return Lock(kind, at, length, holder.proc_id, holder.client_id)
        return Lock(kind, at, length, max(pid, 0), os.uname().nodename.encode())

    # Waiting

    def _wait(self, owner: LockOwner, attempt: Callable[[], int | None]) -> Wait:
        self.waiting += 1
        owner.waiting += 1
        return Wait(
            attempt=partial(self._again, owner, attempt),
            seconds=HELD_S,
            otherwise=LOCK_BLOCKED,
            cancel=partial(self._end, owner),
        )

    def _again(self, owner: LockOwner, attempt: Callable[[], int | None]) -> int | None:
        """One more attempt of a waiting request."""
        try:
            taken = attempt()
        except BaseException:
            self._end(owner)
            raise
        if taken is not None:
            self._end(owner)
        return taken

    def _end(self, owner: LockOwner) -> None:
        """A request waits no more."""
        self.waiting -= 1
        owner.waiting -= 1
        self._settle(owner)

    def _attempt(
        self, owner: LockOwner, file: Lockable, start: int, end: int, kind: int
    ) -> int | None:
        if owner.gone:
            return LOCK_ERROR  # its session has closed the file, or has ended
        return LOCK_SUCCESS if self._change(owner, file, start, end, kind) else None

    # Owners

    def _owner(self, inode: Hashable, lock: Lock) -> LockOwner | None:
        return self._owners.get(inode, {}).get((lock.client_id, lock.proc_id))

    def _new(self, inode: Hashable, lock: Lock) -> LockOwner:
        export = self._export
        if (
            export.descriptors >= export.descriptors_max
            or self._descriptors >= export.descriptors_max // 2
        ):
            raise Refused(errno.ENOLCK, "too many processes of guests have locks")
        owner = LockOwner(lock.client_id, lock.proc_id, inode)
        self._owners.setdefault(inode, {})[owner.client_id, owner.proc_id] = owner
        export.owners.setdefault(inode, []).append(owner)
        self._descriptors += 1
        export.descriptors += 1
        return owner

    def _change(self, owner: LockOwner, file: Lockable, start: int, end: int, kind: int) -> bool:
        before = len(owner.ranges.held)
        more = len(owner.ranges.change(start, end, kind).held) - before
        export = self._export
        if more > 0 and (
            export.ranges + more > export.ranges_max or self._ranges + more > export.ranges_max // 2
        ):
            raise Refused(errno.ENOLCK, "guests have locked too many ranges")
        try:
            return owner.change(file, start, end, kind)
        finally:
            self._count(len(owner.ranges.held) - before)

    def _count(self, ranges: int) -> None:
        self._ranges += ranges
        self._export.ranges += ranges

    def _settle(self, owner: LockOwner) -> None:
        """Let an owner go that has no lock and waits for none."""
        if not (owner.gone or owner.ranges.held or owner.waiting):
            self._forget(owner)

    def _forget_all(self, inode: Hashable) -> None:
        for owner in list(self._owners.get(inode, {}).values()):
            self._forget(owner)

    def _forget(self, owner: LockOwner) -> None:
        inode, export = owner.inode, self._export
        self._count(-len(owner.ranges.held))
        owner.close()
        self._descriptors -= 1
        export.descriptors -= 1
        mine, everyones = self._owners[inode], export.owners[inode]
        del mine[owner.client_id, owner.proc_id]
        if not mine:
            del self._owners[inode]
        everyones.remove(owner)
        if not everyones:
            del export.owners[inode]


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


def _range(lock: Lock) -> tuple[int, int]:
    """The start of a lock's range, and its end."""
    if len(lock.client_id) > CLIENT_ID_MAX or lock.start > OFFSET_MAX:
        raise Refused(errno.EINVAL)
    if lock.length > OFFSET_MAX - lock.start + 1:
        raise Refused(errno.EOVERFLOW)
    return lock.start, lock.start + lock.length if lock.length else OFFSET_MAX + 1


def _length(start: int, end: int) -> int:
    """The length of a range as fcntl has it: 0 is all from its start on."""
    return 0 if end > OFFSET_MAX else end - start


def _flock(start: int, end: int, kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, _length(start, end), 0)
