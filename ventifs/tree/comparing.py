"""Whether a file that is there already is the one that is archived, in everything.

Size and time are looked at first, contents last: a block by its score, without the store; larger
contents against the archive's own bytes, holes as holes or as zeros.
"""

import os
import stat

from ventifs.store import Score, Store
from ventifs.store.score import score_of
from ventifs.tree.attributes import xattrs_of
from ventifs.tree.content import read
from ventifs.tree.records import Block, Content, Entry

OPEN_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PIECE = 1 << 20


def looks_same(entry: Entry, there: os.stat_result) -> bool:
    """Whether all that a status tells of a file is as archived, and it has no other names."""
    return (
        there.st_size == entry.size
        and there.st_mtime_ns == entry.mtime_ns
        and there.st_mode == entry.mode
        and (there.st_uid, there.st_gid) == (entry.uid, entry.gid)
        and there.st_nlink == 1
    )


def is_same(store: Store, entry: Entry, content: Content, fd: int) -> bool:
    """Whether an open file is as archived, read to its last byte.

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
    except OSError:  # what cannot be read is made anew
        return False


def _has(store: Store, content: Content, fd: int) -> bool:
    if isinstance(content, Block):
        data = os.pread(fd, content.length + 1, 0)
        return len(data) == content.length and score_of(data) == Score(content.score)
    offset = 0
    for piece in read(store, content):
        if isinstance(piece, int):
            if not _is_zero(fd, offset, piece):
                return False
            offset += piece
        else:
            if os.pread(fd, len(piece), offset) != bytes(piece):  # views compare byte by byte
                return False
            offset += len(piece)
    return True


def _is_zero(fd: int, offset: int, length: int) -> bool:
    """Whether a range reads as zeros; holes are not read."""
    end = offset + length
    while offset < end:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # none from here on
            return True
        data = os.pread(fd, min(_PIECE, max(0, end - offset)), offset)
        if data.strip(b"\0"):
            return False
        offset += max(len(data), 1)
    return True
