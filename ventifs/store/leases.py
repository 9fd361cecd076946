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
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock

from ventifs.errors import VentifsError
from ventifs.store.exposure import shut_out
from ventifs.store.files import readable_errors
from ventifs.store.lease_file import OPEN, ROOT_MAX, LeaseFile, leased_in
from ventifs.store.permissions import LEASES, make_directory

_FILE_NAME = re.compile(r"[0-9a-f]{32}\.lease")

Place = tuple[int, int]  # device and inode of a store's directory

log = logging.getLogger("ventifs.store")
_said: set[tuple[Path, int | None]] = set()  # a process may open its store several times


class Lease:
    """Keeps roots from being reclaimed until it is released, or nothing refers to it any more.

    Attributes:
        confirmed: the roots were in the catalog after they were leased.

    Concurrency: any thread.
    """

    __slots__ = ("_leases", "_taken", "confirmed")

    def __init__(self, leases: "Leases", roots: tuple[bytes, ...], *, confirmed: bool) -> None:
        """Use `Leases.take`."""
        self._leases = leases
        self._taken = [roots] if roots else []  # a list, as only one thread can pop from it
        self.confirmed = confirmed

    @property
    def roots(self) -> tuple[bytes, ...]:
        """What it keeps: nothing after its release, or if this user cannot write leases."""
        return next(iter(self._taken), ())

    def confirm(self) -> None:
        """Take note that the roots are in the catalog.

        Until nothing holds them any more, further leases on them are confirmed at once, whatever is
        forgotten meanwhile.
        """
        self.confirmed = True
        self._leases.confirm(self.roots)

    def release(self) -> None:
        """Give the roots back. Idempotent, never raises."""
        with suppress(IndexError):
            _left.append((self._leases, self._taken.pop()))
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
        self._file: LeaseFile | None = None
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
                    _open.discard(file)
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

    def _own_file(self) -> LeaseFile:
        """This process's file; the caller has the lock.

        Raises:
            OSError: it cannot be made.
        """
        file = self._file
        if file is None or not file.opened:
            file = _own.get(self._place)
            if file is None or not file.is_there():  # the store's directory may be a new one
                sweep(self._root)
                file = _own[self._place] = LeaseFile.create(self._root / LEASES)
                _open.add(file)
            file.stores += 1
            self._file = file
            self._held.clear()
            self._confirmed.clear()
        return file


_lock = Lock()
_own: dict[Place, LeaseFile] = {}
_open: set[LeaseFile] = set()  # also those of stores that are removed while they are open
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
    for file in _open:
        file.abandon()
    _open.clear()
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
    fd = os.open(path, OPEN)
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
            found.update(dict.fromkeys(leased_in(path)))
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
