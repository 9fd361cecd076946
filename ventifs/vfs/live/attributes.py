"""Attributes of live files: reading them, and changing them as setattr asks for.

A file is given by a descriptor, mostly one of O_PATH, and never by a path; what takes no such
descriptor goes through `/proc/self/fd`. The kernel checks that the thread's user may do each thing,
and clears set-uid and set-gid bits and `security.capability` where it must. What it refuses may be
passed by `overrides.py`.
"""

import os
import stat
from typing import TYPE_CHECKING

from ventifs.vfs.interface import AttributeChanges, Attributes, Statfs
from ventifs.vfs.live.overrides import clear_set_ids, resize, touch
from ventifs.vfs.live.syscalls import chown_empty, proc_path, set_times

if TYPE_CHECKING:
    from ventifs.vfs.live.access import Access


def attributes_of(fd: int) -> Attributes:
    """The attributes of a descriptor's file."""
    status = os.fstat(fd)
    return Attributes(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_rdev,
        status.st_size,
        status.st_mtime_ns,
        status.st_atime_ns,
        status.st_ctime_ns,
        status.st_blocks,
        status.st_blksize,
    )


def statfs_of(fd: int) -> Statfs:
    """The attributes of the file system of a descriptor's file."""
    found = os.fstatvfs(fd)
    return Statfs(
        found.f_frsize,
        found.f_blocks,
        found.f_bfree,
        found.f_bavail,
        found.f_files,
        found.f_ffree,
        found.f_fsid & (1 << 64) - 1,
        found.f_namemax,
    )


def change(
    fd: int, changes: AttributeChanges, access: "Access", writing: int | None = None
) -> None:
    """Change attributes as the user, in the order in which one does not undo another.

    The size comes first, since it is what fails most; a change of owner clears set-uid bits, so the
    mode comes after it; all others change times.

    Args:
        fd: of the file, of O_PATH or not.
        changes: what to change.
        access: the user's, as which the thread acts.
        writing: a descriptor that is open for writing, if there is one. Through it, a change of
            size needs no permission.

    Raises:
        OSError: what comes first fails, what comes later is not done.
    """
    if changes.size is not None:
        _resize(fd, changes.size, access, writing)
    if changes.uid is not None or changes.gid is not None:
        uid = -1 if changes.uid is None else changes.uid
        chown_empty(fd, uid, -1 if changes.gid is None else changes.gid)
    if changes.mode is not None:
        try:
            os.chmod(proc_path(fd), changes.mode)
        except PermissionError:
            if not clear_set_ids(access, fd, changes.mode):
                raise
    if changes.atime_ns is not None or changes.mtime_ns is not None:
        try:
            set_times(fd, changes.atime_ns, changes.mtime_ns)
        except PermissionError:
            if not touch(access, fd, changes.atime_ns, changes.mtime_ns):
                raise
    if changes.ctime and changes == _CTIME_ALONE:
        _change_ctime(fd)


def _resize(fd: int, size: int, access: "Access", writing: int | None) -> None:
    if writing is not None:
        os.ftruncate(writing, size)
        return
    try:
        os.truncate(proc_path(fd), size)
    except PermissionError:
        if not resize(access, fd, size):
            raise


_CTIME_ALONE = AttributeChanges(ctime=True)


def _change_ctime(fd: int) -> None:
    """Change the ctime alone.

    Changing the owner to what it is does that for every user, but clears set-uid and set-gid bits.
    """
    mode = os.fstat(fd).st_mode
    if mode & (stat.S_ISUID | stat.S_ISGID):
        os.chmod(proc_path(fd), stat.S_IMODE(mode))
    else:
        chown_empty(fd, -1, -1)
