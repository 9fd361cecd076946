"""Owner, extended attributes, mode and times of what is restored.

All of it goes by descriptor, or by a name in a directory that is not followed. The owner is set
first, for chown clears set-uid and capabilities; the mode after the attributes, for without write
permission an ordinary user may set none; the times last. What the user may not restore is handed
back as text, never raised.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from ventifs.store import Store
from ventifs.tree.content import read_whole
from ventifs.tree.directory import printable
from ventifs.tree.records import Directory, Empty, Entry, Listed, Symlink, Xattrs, decode_xattrs

NOT_ALLOWED = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_NOT_HELD = {errno.ENOSPC, errno.E2BIG, errno.ERANGE}  # by this file system, of attributes
_SET_ID = stat.S_ISUID | stat.S_ISGID


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
    """Give an open file or directory everything but its content; what was left out.

    Raises:
        OSError: for anything but lack of permission.
    """
    # Hot: fstat (1 us) tells whether chown and chmod (3 us each) are needed at all.
    left: list[str] = []
    there = os.fstat(fd)
    mode = stat.S_IMODE(entry.mode)
    if there.st_uid != entry.uid or there.st_gid != entry.gid:
        mode = _own(entry, fd, None, left)
        there = os.fstat(fd)  # set-uid may have gone
    if xattrs:
        left += _attach(xattrs, fd)
    try:
        if xattrs or stat.S_IMODE(there.st_mode) != mode:
            os.fchmod(fd, mode)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
    except OSError as error:  # a directory that was there before, of another user
        if error.errno not in NOT_ALLOWED:
            raise
        left.append(because("mode and time", error))
    return left


def dress_name(entry: Entry, xattrs: Xattrs, name: bytes, directory: int) -> list[str]:
    """`dress` for what is not opened: links, devices, FIFOs, sockets."""
    left: list[str] = []
    mode = _own(entry, name, directory, left)
    if xattrs:  # /proc leads to the directory without its path
        left += _attach(xattrs, b"/proc/self/fd/%d/%s" % (directory, name))
    if not isinstance(entry.detail, Symlink):
        os.chmod(name, mode, dir_fd=directory)
    times = (entry.mtime_ns, entry.mtime_ns)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
    return left


def _own(entry: Entry, target: int | bytes, directory: int | None, left: list[str]) -> int:
    """Set the owner; the mode to set then, for set-uid is its owner's to give."""
    mode = stat.S_IMODE(entry.mode)
    try:
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


def _attach(xattrs: Xattrs, target: int | bytes) -> Iterator[str]:
    for name, value in xattrs:
        try:
            os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
        except OSError as error:
            if error.errno not in NOT_ALLOWED | _NOT_HELD:
                raise
            yield because(f"attribute {printable(name)}", error)


def strip(xattrs: Xattrs, fd: int) -> None:
    """Take away the attributes of a directory that was there before, but for these."""
    kept = {name for name, _ in xattrs}
    for name in os.listxattr(fd):
        if os.fsencode(name) not in kept:
            with suppress(OSError):  # a label that the kernel gives
                os.removexattr(fd, name)


def because(what: str, error: OSError) -> str:
    """What was left out, and why."""
    return f"{what}: {os.strerror(error.errno or 0).lower()}"
