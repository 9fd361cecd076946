"""The reserve: a file whose space lets a command that frees something commit on a full disk.

A commit needs space of its own, for the journal and for the index. On a full disk the reserve's
space is given back, the commit is tried again, and what it left of the space is taken back at
once. Only commands that free may do so; an archive run never can. A writer that finds room makes a
missing or short reserve again.

The header says how large the reserve should be. How large it is, only the space counts that the
file takes on disk: a copy may be sparse. Nothing is ever read from it. Its loss costs nothing but
the help that it would have been.
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ventifs.errors import NoSpace
from ventifs.store.files import Files

RESERVE_NAME = "reserve"
RESERVE_MAX = 1 << 40
DEFAULT_MAX = 64 << 20
DEFAULT_SHARE = 100  # of the file system: one in so many bytes

_LEFT_MAX = 256 << 20  # bytes that stay free when it is made: three times its size, or this
_PIECE_MIN = 16 << 10  # the smallest part that is worth taking back

T = TypeVar("T")


def default_size(root: Path) -> int:
    """Bytes of the reserve of a new store: 64 MiB, but at most 1 % of the file system.

    Raises:
        OSError: the directory is not accessible.
    """
    status = os.statvfs(root)
    return min(DEFAULT_MAX, status.f_blocks * status.f_frsize // DEFAULT_SHARE)


def reserve_space(root: Path) -> int:
    """Bytes that the reserve takes on disk; 0 without one."""
    try:
        return _space((root / RESERVE_NAME).lstat())
    except OSError:
        return 0


def reserve_length(root: Path) -> int:
    """The length of the reserve's file; in a copy it may be more than its space."""
    try:
        return (root / RESERVE_NAME).lstat().st_size
    except OSError:
        return 0


def room_needed(size: int) -> int:
    """Bytes that must be free for a reserve of `size` to be made: never to fill a disk with it."""
    return size + min(3 * size, _LEFT_MAX)


def has_room(root: Path, size: int) -> bool:
    """Whether what a reserve of `size` bytes lacks may be taken from the disk.

    Raises:
        OSError: the directory is not accessible.
    """
    status = os.statvfs(root)
    free = status.f_bavail * status.f_frsize
    return free + min(size, reserve_space(root)) >= room_needed(size)


def replenish(root: Path, size: int, files: Files) -> bool:
    """Make the reserve `size` bytes large if it is not, and if there is room.

    Costs a look at the file where there is nothing to do.

    Returns:
        Whether it has its size now. It is no error if it has not.
    """
    if reserve_space(root) >= size:
        return True
    with suppress(OSError):
        if has_room(root, size):
            _allocate(root, size, files)
    return reserve_space(root) >= size


def resize(root: Path, size: int, files: Files) -> None:
    """Give the reserve another size, or remove it (0).

    Raises:
        OSError: it cannot be changed.
    """
    if size == 0:
        files.unlink(root / RESERVE_NAME)
        return
    if reserve_length(root) > size:
        _truncate(root, size, files)
    replenish(root, size, files)


def with_reserve(action: Callable[[], T], root: Path, size: int, files: Files) -> T:
    """Do something that frees; on a full disk, once more with the space of the reserve.

    Args:
        action: raises NoSpace, and can then be called again.
        root: the store's directory.
        size: what the header says of the reserve.
        files: for tests.

    Raises:
        NoSpace: there is no reserve, or not enough.
    """
    try:
        return action()
    except NoSpace as error:
        reason = str(error)
    # Outside of the handler: the error's traceback would keep files open, and locked.
    had = reserve_space(root)
    if had == 0:
        raise _without_reserve(reason)
    try:
        _give_back(root, reason, files)
        return action()
    except NoSpace as error:
        raise NoSpace(f"{error} (a reserve of {had:,} bytes was given back for it)") from None
    finally:
        _take_back(root, min(had, size or had), files)


def _give_back(root: Path, reason: str, files: Files) -> None:
    try:
        _truncate(root, 0, files)
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        raise NoSpace(f"{reason} (the store's reserve cannot be used: {why})") from None


def _without_reserve(reason: str) -> NoSpace:
    return NoSpace(
        f"{reason} (the store has no reserve left; some MB are room enough, and then 'ventifs "
        "upgrade --reserve 64MiB' makes one for the next time)"
    )


def _take_back(root: Path, size: int, files: Files) -> None:
    """Make the reserve again of what is free, before another writer uses it; as much as there is.

    The disk was full when its space was given back, so no more is taken than was there before.
    """
    with suppress(OSError):
        status = os.statvfs(root)
        blocks = status.f_bavail if os.geteuid() else status.f_bfree
        size = min(size, blocks * status.f_frsize)
    while size >= _PIECE_MIN and reserve_space(root) < size:
        try:
            _allocate(root, size, files)
        except OSError:  # a quota, or what the file system needs itself
            size -= max(size // 8, _PIECE_MIN)


def _allocate(root: Path, size: int, files: Files) -> None:
    """Give the reserve `size` bytes on disk; on an error it has what it had.

    Raises:
        OSError: there is no space, or another user's file is in the way.
    """
    fd = _opened(root / RESERVE_NAME, files)
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            return
        try:
            files.allocate(fd, size)
        except OSError:
            files.truncate(fd, _space(before))
            raise
    finally:
        os.close(fd)


def _truncate(root: Path, size: int, files: Files) -> None:
    """Cut the reserve to `size` bytes, durably: some file systems free space only then.

    Raises:
        OSError: it is another user's.
    """
    fd = _opened(root / RESERVE_NAME, files)
    try:
        files.truncate(fd, size)
        files.sync(fd)
    finally:
        os.close(fd)


def _opened(path: Path, files: Files) -> int:
    while True:
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(FileExistsError):
            return files.create(path)


def _space(status: os.stat_result) -> int:
    return status.st_blocks * 512 if stat.S_ISREG(status.st_mode) else 0
