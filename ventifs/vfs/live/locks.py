"""Locks of a live export's files, as record locks of the host.

Always:

- An owner, which is a session, a client_id, a proc_id and an inode, has one descriptor of its own.
  That carries all its locks as OFD locks, through whichever fid they were taken. So the host's
  kernel decides about conflicts: between owners, between exports, and with processes of the host.
- A descriptor is closed with the owner's last lock, with its session's last open fid of the inode,
  or with the session. An owner without locks has one only while a request of it waits.
- Descriptors and ranges are limited for an export, and to half of that for one session; waiting
  requests are limited for a session.

Linux's client first takes a lock within its guest, and then asks for it here, under the name of its
host and the number of the process. It asks for flock(2) as for a lock of the whole file. Whenever a
process closes a descriptor of a file that has locks, it gives back all that this process has of the
file, through that descriptor's fid; a lock of flock(2) too.

Knows no fids, no paths and no users. One thread calls everything, and nothing waits.
"""

import errno
import os
from collections.abc import Hashable
from functools import partial
from itertools import islice

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
from ventifs.vfs.live.lock_owners import (
    OFFSET_MAX,
    READ,
    WRITE,
    Lockable,
    LockOwner,
    Range,
    length_of,
)

# Only SIGKILL ends the wait of Linux's client for a reply, so `flock -w` needs one soon. The client
# asks again after its `locktimeout`.
HELD_S = 1.0
WAITERS_MAX = 64  # requests of one session that wait; further ones are answered at once
SOON_MAX = 16  # waiting requests that are tried at once when others give locks back
RANGES_MAX = 16384  # of an export: the kernel goes through all locks of an inode for each request
CLIENT_ID_MAX = 255  # bytes; Linux sends the name of its host, at most 64


class ExportLocks:
    """What all sessions of an export have locked.

    Attributes:
        descriptors_max: owners, each with its descriptor, of all sessions together.
        ranges_max: ranges, of all sessions together.
        descriptors, ranges: how many there are.
        owners: by inode.
        waiting: requests that wait, by inode, in order of arrival.
    """

    def __init__(self, descriptors_max: int, ranges_max: int = RANGES_MAX) -> None:
        """Start with none."""
        self.descriptors_max = descriptors_max
        self.ranges_max = ranges_max
        self.descriptors = 0
        self.ranges = 0
        self.owners: dict[Hashable, list[LockOwner]] = {}
        self.waiting: dict[Hashable, dict[LockRequest, Wait]] = {}

    def session(self) -> "SessionLocks":
        """The locks of one more session."""
        return SessionLocks(self)

    def holder(self, inode: Hashable, held: Range) -> LockOwner | None:
        """The owner that has a lock."""
        for owner in self.owners.get(inode, ()):
            if held in owner.ranges.held:
                return owner
        return None

    def released(self, inode: Hashable, start: int, end: int) -> None:
        """Have the first requests tried again at once that waited for some of these bytes."""
        waiting = self.waiting.get(inode, {}).items()
        overlapping = (wait for request, wait in waiting if request.overlaps(start, end))
        for wait in islice(overlapping, SOON_MAX):
            if wait.soon is not None:
                wait.soon()


class LockRequest:
    """A request for a lock, which may have to wait."""

    __slots__ = ("_file", "_locks", "_range", "owner")

    def __init__(
        self, locks: "SessionLocks", owner: LockOwner, file: Lockable, lock: Range
    ) -> None:
        """Ask for nothing yet."""
        self.owner = owner
        self._locks = locks
        self._file = file
        self._range = lock

    def overlaps(self, start: int, end: int) -> bool:
        """Whether it is for any of these bytes."""
        return self._range[0] < end and start < self._range[1]

    def attempt(self) -> bool:
        """Lock, if that is possible now; return whether it was."""
        return self._locks.change(self.owner, self._file, *self._range)

    def again(self) -> int | None:
        """One more attempt, while it waits."""
        if self.owner.gone:  # its session has closed the file, or has ended
            status: int | None = LOCK_ERROR
        else:
            try:
                status = LOCK_SUCCESS if self.attempt() else None
            except BaseException:
                self._locks.end(self)
                raise
        if status is not None:
            self._locks.end(self)
        return status


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
                self.change(owner, file, start, end, UNLOCKED)
                self._settle(owner)
            return LOCK_SUCCESS
        if owner is None:
            owner = self._new(inode, lock)
        request = LockRequest(self, owner, file, (start, end, lock.kind))
        try:
            if request.attempt():
                return LOCK_SUCCESS
            if flags & LOCK_BLOCK and self.waiting < WAITERS_MAX:
                raise Waiting(self._wait(request))
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
        length = length_of(at, to)
        if holder is not None:
            return Lock(kind, at, length, holder.proc_id, holder.client_id)
        return Lock(kind, at, length, max(pid, 0), os.uname().nodename.encode())

    def change(self, owner: LockOwner, file: Lockable, start: int, end: int, kind: int) -> bool:
        """Lock or unlock within the limits, if that is possible now; return whether it was."""
        before = len(owner.ranges.held)
        more = len(owner.ranges.change(start, end, kind).held) - before
        export = self._export
        if more > 0 and (
            export.ranges + more > export.ranges_max or self._ranges + more > export.ranges_max // 2
        ):
            raise Refused(errno.ENOLCK, "guests have locked too many ranges")
        try:
            changed = owner.change(file, start, end, kind)
        finally:
            self._count(len(owner.ranges.held) - before)
        if kind != WRITE and changed:
            export.released(owner.inode, start, end)
        return changed

    # Waiting

    def _wait(self, request: LockRequest) -> Wait:
        """Let a request wait."""
        self.waiting += 1
        request.owner.waiting += 1
        wait = Wait(request.again, HELD_S, LOCK_BLOCKED, partial(self.end, request))
        self._export.waiting.setdefault(request.owner.inode, {})[request] = wait
        return wait

    def end(self, request: LockRequest) -> None:
        """Let a request wait no more."""
        owner, waiting = request.owner, self._export.waiting
        self.waiting -= 1
        owner.waiting -= 1
        del waiting[owner.inode][request]
        if not waiting[owner.inode]:
            del waiting[owner.inode]
        self._settle(owner)

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
        ranges = owner.ranges.held
        self._count(-len(ranges))
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
        if ranges:
            export.released(inode, ranges[0][0], ranges[-1][1])


def _range(lock: Lock) -> tuple[int, int]:
    """The start of a lock's range, and its end."""
    if len(lock.client_id) > CLIENT_ID_MAX or lock.start > OFFSET_MAX:
        raise Refused(errno.EINVAL)
    if lock.length > OFFSET_MAX - lock.start + 1:
        raise Refused(errno.EOVERFLOW)
    return lock.start, lock.start + lock.length if lock.length else OFFSET_MAX + 1
