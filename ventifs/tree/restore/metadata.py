"""Sets owner, extended attributes, mode and times of restored entries.

All of them are set by descriptor, or by a name in an open directory, without following links. The
owner is set first, because chown clears set-uid and capabilities. The mode is set after the
attributes, because an ordinary user needs write permission to set them. The times are set last.
Attributes that were there before, or were inherited from a default ACL, are removed. What the user
may not restore is returned as text, never raised.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from ventifs.store import Store
from ventifs.text import printable
from ventifs.tree.objects.content import read_whole
from ventifs.tree.objects.records import (
    Directory,
    Empty,
    Entry,
    Listed,
    Symlink,
    Xattrs,
    decode_xattrs,
)
from ventifs.tree.versions.times import time_text

NOT_ALLOWED = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_NOT_HELD = {errno.ENOSPC, errno.E2BIG, errno.ERANGE}  # the file system cannot hold an attribute
_WRITE = stat.S_IWUSR
_SET_ID = stat.S_ISUID | stat.S_ISGID
_TIME_HELD_NS = 2**31 * 10**9  # until 2038: every file system of Linux holds it
_TIME_STEP_NS = 2 * 10**9  # FAT's; a smaller difference is only rounding
_NO_ID = 2**32 - 1  # chown takes it to mean: leave the owner as it is


def xattrs_of(store: Store, entry: Entry) -> Xattrs:
    """An entry's extended attributes, wherever they are kept.

    Raises:
        Corrupt, NotStored: where the archive is damaged.
    """
    match entry.xattrs:
        case Empty():
            return ()
        case Listed(pairs):
            return pairs
        case content:
            return decode_xattrs(read_whole(store, content))


def dress(entry: Entry, xattrs: Xattrs, fd: int) -> list[str]:
    """Give an open file or directory everything but its content; return what was left out.

    Raises:
        OSError: for anything but lack of permission.
    """
    # Hot: fstat and listxattr are cheap, and show whether chown and chmod, which cost more, are
    # needed at all; see docs/performance.md.
    left: list[str] = []
    there = os.fstat(fd)
    mode = stat.S_IMODE(entry.mode)
    if there.st_uid != entry.uid or there.st_gid != entry.gid:
        mode = _own(entry, fd, None, left)
        there = os.fstat(fd)  # set-uid may have gone
    _strip(xattrs, fd)
    if xattrs:
        if there.st_mode & _WRITE != _WRITE:  # a default ACL or a umask keeps even the owner out
            with suppress(OSError):
                os.fchmod(fd, stat.S_IMODE(there.st_mode) | _WRITE)
        left += _attach(xattrs, fd)
    try:
        if xattrs or stat.S_IMODE(there.st_mode) != mode:
            os.fchmod(fd, mode)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        if not 0 <= entry.mtime_ns < _TIME_HELD_NS:
            left += _time_changed(entry, os.fstat(fd))
    except OSError as error:  # a directory that was there before, of another user
        if error.errno not in NOT_ALLOWED:
            raise
        left.append(because("mode and time", error))
    return left


def dress_name(entry: Entry, xattrs: Xattrs, name: bytes, directory: int) -> list[str]:
    """Like `dress`, for what is not opened: symbolic links, devices, FIFOs, sockets."""
    left: list[str] = []
    mode = _own(entry, name, directory, left)
    path = b"/proc/self/fd/%d/%s" % (directory, name)  # leads there without the directory's path
    if not isinstance(entry.detail, Symlink):
        _strip(xattrs, path)
    if xattrs:
        left += _attach(xattrs, path)
    if not isinstance(entry.detail, Symlink):
        _set_mode(mode, stat.S_IFMT(entry.mode), name, directory)
    times = (entry.mtime_ns, entry.mtime_ns)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
    if not 0 <= entry.mtime_ns < _TIME_HELD_NS:
        left += _time_changed(entry, os.stat(name, dir_fd=directory, follow_symlinks=False))
    return left


def _time_changed(entry: Entry, there: os.stat_result) -> Iterator[str]:
    """Report a time that the file system cannot hold: the kernel sets the nearest, silently."""
    if abs(there.st_mtime_ns - entry.mtime_ns) >= _TIME_STEP_NS:
        wanted, got = time_text(entry.mtime_ns), time_text(there.st_mtime_ns)
        yield f"time {wanted}: this file system made it {got}"


def _own(entry: Entry, target: int | bytes, directory: int | None, left: list[str]) -> int:
    """Set the owner; return the mode to set next.

    If the owner cannot be set, everything but a directory loses set-uid and set-gid.
    """
    mode = stat.S_IMODE(entry.mode)
    try:
        if _NO_ID in (entry.uid, entry.gid):
            raise OSError(errno.EINVAL, "no owner")
        if directory is None:
            os.chown(target, entry.uid, entry.gid)
        else:
            os.chown(target, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NOT_ALLOWED:
            raise
        left.append(because(f"owner {entry.uid}:{entry.gid}", error))
        if not isinstance(entry.detail, Directory) and mode & _SET_ID:
            left.append(because("set-uid and set-gid", error))
            mode &= ~_SET_ID
    return mode


def _set_mode(mode: int, kind: int, name: bytes, directory: int) -> None:
    """Set the mode by descriptor: chmod by name would follow a link put in the entry's place.

    Raises:
        OSError: the mode cannot be set, or the entry is not of its kind any more.
    """
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if stat.S_IFMT(os.fstat(found).st_mode) != kind:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        os.chmod(f"/proc/self/fd/{found}", mode)
    finally:
        os.close(found)


def _attach(xattrs: Xattrs, target: int | bytes) -> Iterator[str]:
    for name, value in xattrs:
        try:
            os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
        except OSError as error:
            if error.errno not in NOT_ALLOWED | _NOT_HELD:
                raise
            yield because(f"attribute {printable(name)}", error)


def _strip(xattrs: Xattrs, target: int | bytes) -> None:
    """Remove all attributes except these, and those that control how Btrfs stores a file."""
    follow = isinstance(target, int)
    names: list[str] = []
    with suppress(OSError):  # a file system without any
        names = os.listxattr(target, follow_symlinks=follow)
    for name in names:
        if os.fsencode(name) not in dict(xattrs) and not name.startswith("btrfs."):
            with suppress(OSError):  # a label that the kernel sets
                os.removexattr(target, name, follow_symlinks=follow)


def because(what: str, error: OSError) -> str:
    """What was left out, and why."""
    return f"{what}: {os.strerror(error.errno or 0).lower()}"
