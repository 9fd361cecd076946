"""Whether an existing file is the same as the archived one, in everything.

Size and time are compared first. Contents are compared last, by their scores: blocks are not read
from the store.
"""

import os
import stat

from ventifs.store import Store
from ventifs.tree.archive.file_reader import is_zero
from ventifs.tree.objects.content import holds, read_whole
from ventifs.tree.objects.records import INLINE_MAX, Block, Content, Entry, Tree
from ventifs.tree.restore.metadata import xattrs_of

OPEN_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def looks_same(entry: Entry, there: os.stat_result) -> bool:
    """Whether a file's status is as archived, and the file has no other names."""
    return (
        there.st_size == entry.size
        and there.st_mtime_ns == entry.mtime_ns
        and there.st_mode == entry.mode
        and (there.st_uid, there.st_gid) == (entry.uid, entry.gid)
        and there.st_nlink == 1
    )


def is_there(store: Store, entry: Entry, content: Content, directory: int) -> bool:
    """Whether a directory has an entry's file as archived, compared to the last byte.

    Raises:
        Corrupt, NotStored: where the archive is damaged.
    """
    try:
        if not looks_same(entry, os.stat(entry.name, dir_fd=directory, follow_symlinks=False)):
            return False
        fd = os.open(entry.name, OPEN_OLD, dir_fd=directory)
    except OSError:
        return False
    try:
        return is_same(store, entry, content, fd)
    finally:
        os.close(fd)


def is_same(store: Store, entry: Entry, content: Content, fd: int) -> bool:
    """Whether an open file is as archived, compared to the last byte.

    Raises:
        Corrupt, NotStored: where the archive is damaged.
    """
    if not looks_same(entry, os.fstat(fd)) or not stat.S_ISREG(entry.mode):
        return False
    wanted = xattrs_of(store, entry)
    try:
        names = sorted(os.fsencode(name) for name in os.listxattr(fd))
        if tuple((name, os.getxattr(fd, name)) for name in names) != wanted:
            return False
        return _has(store, content, fd)
    except OSError:  # a file that cannot be read is made again
        return False


def _has(store: Store, content: Content, fd: int) -> bool:
    if isinstance(content, Block | Tree):
        return holds(
            store,
            content,
            lambda offset, length: os.pread(fd, length, offset),
            lambda offset, length: is_zero(fd, offset, length),
        )
    return os.pread(fd, INLINE_MAX + 1, 0) == read_whole(store, content)
