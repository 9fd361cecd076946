"""Leases: what processes read, so that a reclaimer leaves it in the store.

A process has one file in `leases/`, however much it reads, and an exclusive lock (flock) on it as
long as it lives. A slot of that file holds the encoded root entry of a tree that the process uses.
The lock ends with the process, so a lease is never stale. FORMAT.md, section Leases, has the bytes,
and the order in which a reclaimer reads catalog and leases.

Always: a slot is written before `take` returns; a file whose lock is not held counts for nothing,
and is removed by the next process that writes to the store or takes a lease. A file or a slot that
cannot be read, or is half written, counts for nothing either: its writer has not returned from
`take` yet. This module does not know what a root is, nor the catalog.
"""

import errno
import fcntl
import logging
import os
import re
import stat
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock

from blake3 import blake3

from ventifs.errors import VentifsError
from ventifs.store.exposure import shut_out
from ventifs.store.files import readable_errors
from ventifs.store.permissions import LEASES, create_file, make_directory

ROOT_MAX = 256 << 10  # bytes of a root: it stands in a record, which is no longer
FILE_MAX = 256 << 20  # bytes of a lease file: a million roots
_MAGIC = b"vflease\1"
_SLOT = struct.Struct("<IBI16s")  # capacity, state, length, check
_STATE_AT = 4
_FREE, _HELD = b"\0", b"\1"
_STEP = 64  # capacities are multiples of this, so that slots are used again
_FILE_NAME = re.compile(r"[0-9a-f]{32}\.lease")
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # it may be another's FIFO

Place = tuple[int, int]  # device and inode of a store's directory

log = logging.getLogger("ventifs.store")
_said: set[tuple[Path, int | None]] = set()  # a process may open its store several times


class Lease:
    """Keeps roots from being reclaimed until it is released, or nothing refers to it any more.

    Attributes:
        roots: what it keeps; none if this user cannot write leases.
        confirmed: the roots were in the catalog after they were leased.

    Concurrency: any thread.
    """

    __slots__ = ("_leases", "confirmed", "roots")

    def __init__(self, leases: "Leases", roots: tuple[bytes, ...], *, confirmed: bool) -> None:
        """Use `Leases.take`."""
        self._leases = leases
        self.roots = roots
        self.confirmed = confirmed

    def confirm(self) -> None:
        """Take note that the roots are in the catalog.

        Until nothing holds them any more, further leases on them are confirmed at once, whatever is
        forgotten meanwhile.
        """
        self.confirmed = True
        self._leases.confirm(self.roots)

    def release(self) -> None:
        """Give the roots back. Idempotent, never raises."""
        roots, self.roots = self.roots, ()
        if roots:
            _left.append((self._leases, roots))
            _settle()

    def __del__(self) -> None:
        self.release()


class Leases:
    """The leases that are taken through one open store.

    Concurrency: any thread.
    """

    def __init__(self, root: Path, place: Place) -> None:
        """Take none yet, in the store at `root`, whose directory is `place`."""
        self._root = root
        self._place = place
        self._file: _OwnFile | None = None
        self._held: dict[bytes, int] = {}
        self._confirmed: set[bytes] = set()  # of those held
        self._closed = False

    def take(self, *roots: bytes) -> Lease:
        """Take a lease on roots of 1 byte to 256 KiB.

        If it cannot be written, for instance on a read-only file system, the lease keeps nothing.
        A line in the log says so, once per process.
        """
        assert all(0 < len(root) <= ROOT_MAX for root in roots)
        taken: list[bytes] = []
        confirmed, failure = False, None
        with _lock:
            try:
                if roots and not self._closed:
                    file = self._own_file()
                    for root in roots:
                        file.hold(root)
                        taken.append(root)
                        self._held[root] = self._held.get(root, 0) + 1
                    confirmed = bool(roots) and self._confirmed.issuperset(roots)
            except OSError as error:
                failure = error
        _settle()
        if failure is not None:
            _say(self._root / LEASES, failure)
        return Lease(self, tuple(taken), confirmed=confirmed)

    def confirm(self, roots: Iterable[bytes]) -> None:
        """See `Lease.confirm`."""
        with _lock:
            self._confirmed.update(root for root in roots if root in self._held)
        _settle()

    def close(self) -> None:
        """Give everything back; the process's last one removes its file. Idempotent."""
        with _lock:
            self._closed = True
            for root, count in list(self._held.items()):
                self._give_back(root, count)
            file, self._file = self._file, None
            if file is not None and file.opened:
                file.stores -= 1
                if not file.stores:
                    file.remove()
                    if _own.get(self._place) is file:
                        del _own[self._place]
        _settle()

    def _give_back(self, root: bytes, count: int) -> None:
        """Give a root back; the caller has the lock."""
        held = self._held.get(root, 0) - count
        if held < 0:
            return  # closed since
        if held:
            self._held[root] = held
        else:
            del self._held[root]
            self._confirmed.discard(root)
        if self._file is not None and self._file.opened:
            self._file.drop(root, count)

    def _own_file(self) -> "_OwnFile":
        """This process's file; the caller has the lock.

        Raises:
            OSError: it cannot be made.
        """
        file = self._file
        if file is None or not file.opened:
            file = _own.get(self._place)
            if file is None or not file.is_there():  # the store's directory may be a new one
                sweep(self._root)
                file = _own[self._place] = _OwnFile.create(self._root / LEASES)
            file.stores += 1
            self._file = file
            self._held.clear()
            self._confirmed.clear()
        return file


class _OwnFile:
    """The lease file of this process in one store. Its users hold the module's lock.

    Attributes:
        stores: open stores that use it.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.stores = 0
        self._path = path
        self._fd = fd
        self._length = len(_MAGIC)
        self._slots: dict[bytes, _SlotInUse] = {}
        self._free: dict[int, list[int]] = {}  # offsets, by capacity

    @classmethod
    def create(cls, directory: Path) -> "_OwnFile":
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


_lock = Lock()
_own: dict[Place, _OwnFile] = {}
# Leases given back whose slots are not free yet. The garbage collector may end a lease while its
# thread has the lock.
_left: deque[tuple[Leases, tuple[bytes, ...]]] = deque()


def _settle() -> None:
    """Free the slots of leases that were given back, unless another thread is about to."""
    while _left and _lock.acquire(blocking=False):
        try:
            while _left:
                leases, roots = _left.popleft()
                for root in roots:
                    leases._give_back(root, 1)
        finally:
            _lock.release()


def _forked() -> None:
    """In a forked child: leave the files to the parent.

    The child shares the parent's lock, so a file that the child kept open would stay locked after
    the parent's end.
    """
    for file in _own.values():
        file.abandon()
    _own.clear()
    _left.clear()
    _lock.release()


os.register_at_fork(
    before=_lock.acquire,  # no thread is making a file at that moment
    after_in_parent=_lock.release,
    after_in_child=_forked,
)


def sweep(root: Path) -> None:
    """Remove the lease files of processes that have ended. Never raises."""
    with suppress(VentifsError):  # they cannot be listed
        for path in _files(root / LEASES):
            with suppress(OSError):  # another user's, or gone
                _sweep_one(path)


def _sweep_one(path: Path) -> None:
    fd = os.open(path, _OPEN)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
            path.unlink()
    finally:
        os.close(fd)


def make_leases_directory(root: Path) -> None:
    """Make `leases/`, which stores lack that older programs made; no error if that fails."""
    directory = root / LEASES
    if not directory.exists():
        with suppress(OSError):
            make_directory(directory)


def leased(root: Path) -> list[bytes]:
    """The roots that processes use at this moment, each once, for a reclaimer.

    Every lease is in it that was taken before this call and not released since; others may be. The
    caller reads the catalog before it calls this, never after: see FORMAT.md, section Leases.

    Raises:
        VentifsError: a lease file cannot be read, so what it holds is not known.
    """
    found: dict[bytes, None] = {}
    for path in _files(root / LEASES):
        with readable_errors(path), suppress(FileNotFoundError):  # its process has ended
            found.update(dict.fromkeys(_leased_in(path)))
    return list(found)


def _files(directory: Path) -> list[Path]:
    """The lease files there are, live or not.

    Raises:
        VentifsError: they cannot be listed.
    """
    with readable_errors(directory):
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            return []
    return [directory / name for name in sorted(names) if _FILE_NAME.fullmatch(name)]


def _leased_in(path: Path) -> list[bytes]:
    """The roots of one file; none if no process holds its lock."""
    try:
        fd = os.open(path, _OPEN)
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
        root = data[start : start + length]
        sound = 0 < length <= min(capacity, ROOT_MAX) and len(root) == length
        if state == _HELD[0] and sound and check == _check(at, root):
            yield root
        at = start + capacity


def _check(at: int, root: bytes) -> bytes:
    return blake3(struct.pack("<QI", at, len(root)) + root).digest(16)


def _write(fd: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(fd, data, at)
        data, at = data[written:], at + written


def _say(directory: Path, error: OSError) -> None:
    """Log, once, that this process has no leases."""
    key = directory, error.errno
    if key in _said:
        return
    _said.add(key)
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    denied = error.errno in (errno.EACCES, errno.EPERM)
    remedy = ""
    if denied:
        remedy = f"; {shut_out(directory) or 'run as its owner, or have the owner grant it'}"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "; make room"
    # Nothing is reclaimed in a store that is read through a read-only mount, nor in one that has no
    # leases yet.
    harmless = error.errno == errno.EROFS or (denied and not directory.exists())
    log.log(
        logging.INFO if harmless else logging.WARNING,
        "%s: %s: there is no lease on what is read, so it can be reclaimed meanwhile if it is "
        "forgotten%s",
        directory,
        reason,
        remedy,
    )
