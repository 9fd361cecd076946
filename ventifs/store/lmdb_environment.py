"""LMDB environments: one per process and file, with LMDB's errors turned into the store's.

Only this module imports lmdb. LMDB forbids a second environment on one file in one process, so
`acquire` shares them; a forked child closes what it inherited and opens its own. The last `release`
closes an environment.

Readers register their transactions in lock.mdb; otherwise writers would reuse pages that are being
read. So a process that cannot write lock.mdb may read only where no process can write: on a
read-only file system.
"""

import errno
import fcntl
import os
import re
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import lmdb

from ventifs.errors import Busy, NoSpace, VentifsError
from ventifs.store.exposure import lock_remedy
from ventifs.store.files import explained
from ventifs.store.permissions import create_file, make_directory, open_or_create

LmdbError = lmdb.Error
INDEX_NAME = re.compile(r"index(\.([0-9a-f]{8}|old))?")  # in place, being built, being removed

_MAP_SIZE = 1 << 40  # address space, not memory: room for 15 billion entries
_READERS_MAX = 1022
_LOCK_SIZE = (_READERS_MAX + 2) * 64  # of lock.mdb: a cache line a reader, and two of its own
_NEARLY_FULL = 1 << 20
_GET_FLAGS, _SET_FLAGS, _NO_COW = 0x80086601, 0x40086602, 0x00800000  # linux/fs.h, 64 bits


class IndexDamaged(VentifsError):
    """The index contradicts itself or cannot be read; a rebuild mends it, no data is lost."""

    def __init__(self, path: Path, reason: str) -> None:
        """Name the place and the remedy."""
        super().__init__(
            f"{path}: index {reason}; 'ventifs rebuild-index' mends it, losing nothing"
        )
        self._arguments = path, reason

    def __reduce__(self) -> tuple[type["IndexDamaged"], tuple[Path, str]]:
        """Support pickling, so that a worker can send it to its parent."""
        return type(self), self._arguments


class IndexMissing(IndexDamaged):
    """There is no index; opening the store for writing, or a rebuild, makes it anew."""


def index_missing(path: Path) -> bool:
    """Whether a directory holds nothing that could be an index."""
    data = path / "data.mdb"
    return not data.exists() or data.stat().st_size == 0


class Environment:
    """One LMDB environment, shared by every `Index` of this process on the same file."""

    def __init__(self, path: Path, names: Sequence[bytes], *, sync: bool, create: bool) -> None:
        """Open the environment in the directory `path` and its named tables; use `acquire`."""
        data = path / "data.mdb"
        if not create and index_missing(path):
            raise IndexMissing(path, "is missing")
        self.readonly = not create and not os.access(data, os.W_OK)
        options: dict[str, Any] = {
            "map_size": _MAP_SIZE,
            "max_dbs": len(names),
            "max_readers": _READERS_MAX,
            "readonly": self.readonly,
            "lock": _lockable(path),
            "create": create,
            "readahead": False,
            "sync": sync,
            "lib_version": 0,
            "mode": 0o600,
        }
        if create and not data.exists():
            os.close(create_file(data))  # created by LMDB, it would have the umask's mode
        self.lmdb = lmdb.open(os.fsencode(path), **options)
        try:
            if not self.readonly:
                self.lmdb.reader_check()
            self.tables = {name: self.lmdb.open_db(name, create=create) for name in names}
        except BaseException:
            self.lmdb.close()
            raise
        self.users = 0
        self.key = _file_key(path)

    @classmethod
    def acquire(
        cls, path: Path, names: Sequence[bytes], *, sync: bool, create: bool
    ) -> "Environment":
        """The environment of this process on the index in `path`, opened if it is not yet.

        Raises:
            IndexMissing, IndexDamaged: when it cannot be read.
            Busy: when this process has it open read-only, but could open it for writing.
        """
        with lmdb_errors(path), _environments_lock:
            if create:
                make_directory(path)
            environment = None if create else _shared(path)
            if environment is None:
                environment = cls(path, names, sync=sync, create=create)
                _environments[environment.key] = environment
            environment.users += 1
        return environment

    def release(self) -> None:
        """Release the environment; the last user closes it."""
        with _environments_lock:
            self.users -= 1
            if self.users == 0:
                _environments.pop(self.key, None)
                self.lmdb.close()

    def replaced(self, path: Path) -> bool:
        """Whether another file is now in the place of this environment's file."""
        try:
            return _file_key(path) != self.key
        except OSError:
            return False

    def size(self) -> int:
        """Bytes of all its pages."""
        pages: int = self.lmdb.info()["last_pgno"] + 1
        return pages * int(self.lmdb.stat()["psize"])


def _shared(path: Path) -> Environment | None:
    try:
        environment = _environments.get(_file_key(path))
    except OSError:
        return None
    if environment is not None and environment.readonly and os.access(path, os.W_OK):
        raise Busy(f"{path}: open read-only in this process already; close that first")
    return environment


def _lockable(path: Path) -> bool:
    """Whether LMDB's lock can be held here; False only on a read-only file system.

    Raises:
        VentifsError: others may write, and this user cannot hold the lock.
    """
    lock = path / "lock.mdb"
    try:
        _allocate_lock(lock)
    except OSError as error:
        if error.errno == errno.EROFS or os.statvfs(path).f_flag & os.ST_RDONLY:
            return False
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        raise VentifsError(
            f"{lock}: permission denied; without this lock a reader may see what writers write "
            f"over: {lock_remedy(lock)}"
        ) from None
    return True


def _allocate_lock(path: Path) -> None:
    """Allocate LMDB's lock file: it is mapped, and a full disk would kill the process by SIGBUS."""
    fd = open_or_create(path)
    try:
        status = os.fstat(fd)
        if status.st_size == 0:
            _write_in_place(fd)
        if status.st_blocks * 512 < _LOCK_SIZE:
            os.posix_fallocate(fd, 0, _LOCK_SIZE)
    finally:
        os.close(fd)


def _write_in_place(fd: int) -> None:
    """Keep a file system that copies on write, as btrfs does, from doing so with an empty file."""
    with suppress(OSError):  # a file system without that flag
        flags = bytearray(8)
        fcntl.ioctl(fd, _GET_FLAGS, flags)
        flags[2] |= _NO_COW >> 16
        fcntl.ioctl(fd, _SET_FLAGS, flags)


_environments: dict[tuple[int, int, int], Environment] = {}  # a forked child starts with none
_environments_lock = Lock()


def _drop_inherited() -> None:
    """Close a forked child's inherited environments: unusable, and lmdb would not open new ones."""
    global _environments_lock  # noqa: PLW0603
    _environments_lock = Lock()
    for environment in _environments.values():
        environment.lmdb.close()
    _environments.clear()


os.register_at_fork(after_in_child=_drop_inherited)


def _file_key(path: Path) -> tuple[int, int, int]:
    status = (path / "data.mdb").stat()
    return os.getpid(), status.st_dev, status.st_ino


def file_of(path: Path) -> object | None:
    """What tells an environment's file from every other; None if there is none."""
    try:
        return _file_key(path)
    except OSError:
        return None


@contextmanager
def lmdb_errors(path: Path) -> Iterator[None]:
    """Turn LMDB's exceptions into the store's."""
    try:
        yield
    except lmdb.MapFullError:
        raise NoSpace(f"{path}: the index has reached its largest size") from None
    except lmdb.ReadersFullError:
        raise Busy(f"{path}: more than {_READERS_MAX} readers at once; try again") from None
    except (lmdb.Error, OSError) as error:
        text = str(error).lower()
        if _is_full(path, text):
            raise NoSpace(
                f"{path}: no space left on device; nothing committed was lost: make room and run "
                "the command again"
            ) from None
        for code in (errno.EACCES, errno.EPERM, errno.EROFS):
            if os.strerror(code).lower() in text:
                raise explained(OSError(code, ""), path) from None
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if os.strerror(errno.ENOMEM).lower() in text and limit != resource.RLIM_INFINITY:
            raise VentifsError(
                f"{path}: no address space for the index, which wants 1 TiB of it (not of memory): "
                "lift the limit (ulimit -v)"
            ) from None
        raise IndexDamaged(path, f"cannot be read ({error})") from None


def _is_full(path: Path, text: str) -> bool:
    """Whether an LMDB error means a full disk; LMDB reports a short write as an I/O error."""
    if any(os.strerror(code).lower() in text for code in (errno.ENOSPC, errno.EDQUOT)):
        return True
    return os.strerror(errno.EIO).lower() in text and _free_bytes(path) < _NEARLY_FULL


def _free_bytes(path: Path) -> int:
    """Bytes that this user may still write at a path."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
