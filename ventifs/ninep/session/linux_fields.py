"""What the fields of 9P2000.L's requests and replies mean to a file system, and what they may be.

Pure functions: they raise `Refused` for what Linux's own system calls refuse, so that no file
system gets it.
"""

import errno
import os
import stat as st
import struct
from functools import reduce
from operator import or_

from ventifs.ninep.protocol import messages as m
from ventifs.ninep.session.handlers import OFFSET_MAX
from ventifs.vfs.interface import (
    LOCK_BLOCK,
    LOCK_RECLAIM,
    NOW,
    UNLOCKED,
    AttributeChanges,
    Attributes,
    Identity,
    Lock,
    Refused,
)

GETATTR_BASIC = 0x7FF  # mode, nlink, uid, gid, rdev, atime, mtime, ctime, ino, size, blocks
SETATTR_MODE, SETATTR_UID, SETATTR_GID, SETATTR_SIZE = 1, 2, 4, 8
SETATTR_ATIME, SETATTR_MTIME, SETATTR_ATIME_SET, SETATTR_MTIME_SET = 0x10, 0x20, 0x80, 0x100
SETATTR_CTIME = 0x40
_SETATTR_ALL = 0x1FF
MAJOR_MAX, MINOR_MAX = (1 << 12) - 1, (1 << 20) - 1  # Linux's own
XATTR_NAME_MAX = 255  # bytes; Linux's own
XATTR_FLAGS = 3  # XATTR_CREATE, XATTR_REPLACE
CLIENT_ID_MAX = 255  # bytes; Linux sends its node name, of 64 at most
NO_ID = (1 << 32) - 1  # no user and no group has this number

# The flags of open that matter to a server, as 9P has them on every machine (x86's numbers), and as
# this machine has them. Not the others: files are the same with O_DIRECT and without, O_NOATIME is
# the owner's alone while the client's kernel checks another's, and a server never follows a link.
OPEN_FLAGS = {
    0o1: os.O_WRONLY,
    0o2: os.O_RDWR,
    0o1000: os.O_TRUNC,
    0o2000: os.O_APPEND,
    0o10000: os.O_DSYNC,
    0o200000: os.O_DIRECTORY,
    0o4000000: os.O_SYNC,
}
_EXCLUSIVE = 0o200  # of a Tlcreate alone: a Tlopen is of a file that exists
_OPENABLE = sum(OPEN_FLAGS)
_SAME = all(ours & ~os.O_DSYNC == theirs & ~0o10000 for theirs, ours in OPEN_FLAGS.items())
_NODES = frozenset({st.S_IFREG, st.S_IFCHR, st.S_IFBLK, st.S_IFIFO, st.S_IFSOCK})
_S = 1_000_000_000
_U64 = (1 << 64) - 1
_GETATTR = struct.Struct("<QBIQIIIQQQQQQQQQQQQQQQ")


def open_flags(flags: int) -> int:
    """What matters of the flags of an open, as this machine has them."""
    if _SAME:
        return flags & _OPENABLE
    return reduce(or_, [ours for theirs, ours in OPEN_FLAGS.items() if flags & theirs], 0)


def create_flags(flags: int) -> int:
    """The same of a Tlcreate, which always creates, whether or not it says so."""
    return open_flags(flags) | os.O_CREAT | (os.O_EXCL if flags & _EXCLUSIVE else 0)


def changes_of(message: m.Tsetattr) -> AttributeChanges:
    """What a Tsetattr asks for.

    Raises:
        Refused: EINVAL for a user, group or time that cannot be, EFBIG for such a size.
    """
    valid = message.valid
    if (valid & SETATTR_UID and message.uid == NO_ID) or (
        valid & SETATTR_GID and message.gid == NO_ID
    ):
        raise Refused(errno.EINVAL)  # chown(2) would leave it as it is
    if valid & SETATTR_SIZE and message.size > OFFSET_MAX:
        raise Refused(errno.EFBIG)
    return AttributeChanges(
        mode=message.mode & 0o7777 if valid & SETATTR_MODE else None,
        uid=message.uid if valid & SETATTR_UID else None,
        gid=message.gid if valid & SETATTR_GID else None,
        size=message.size if valid & SETATTR_SIZE else None,
        atime_ns=_time(
            valid & SETATTR_ATIME, valid & SETATTR_ATIME_SET, message.atime_sec, message.atime_nsec
        ),
        mtime_ns=_time(
            valid & SETATTR_MTIME, valid & SETATTR_MTIME_SET, message.mtime_sec, message.mtime_nsec
        ),
        ctime=valid & _SETATTR_ALL == SETATTR_CTIME,
    )


def node_mode(mode: int) -> int:
    """The mode of a file to be made, with the type's bits.

    Raises:
        Refused: as mknod(2) does, EPERM for a directory, EINVAL for a link or no type.
    """
    kind = mode & 0o170000 or st.S_IFREG
    if kind not in _NODES:
        raise Refused(errno.EPERM if kind == st.S_IFDIR else errno.EINVAL)
    return kind | mode & 0o7777


def check_xattr_name(name: bytes) -> None:
    """Check that an extended attribute could have a name, which may have slashes.

    Raises:
        Refused: ERANGE for a length that Linux has not, EINVAL for NUL.
    """
    if not 0 < len(name) <= XATTR_NAME_MAX:
        raise Refused(errno.ERANGE)
    if b"\0" in name:
        raise Refused(errno.EINVAL)


def _time(wanted: int, given: int, seconds: int, nanoseconds: int) -> int | None:
    if not wanted:
        return None
    if not given:
        return NOW
    if nanoseconds >= _S:
        raise Refused(errno.EINVAL)
    time_ns = (seconds - ((seconds >> 63) << 64)) * _S + nanoseconds
    return time_ns if time_ns != NOW else NOW - 1  # the ns before 1970 is another word for now


def lock_of(message: m.Tlock | m.Tgetlock) -> Lock:
    """What is to be locked, or asked for.

    Raises:
        Refused: as fcntl(2) does, EINVAL or EOVERFLOW.
    """
    start, length = message.start, message.length
    flags = message.flags if isinstance(message, m.Tlock) else 0
    if flags & ~(LOCK_BLOCK | LOCK_RECLAIM):
        raise Refused(errno.EINVAL)
    if message.kind > UNLOCKED or start > OFFSET_MAX or len(message.client_id) > CLIENT_ID_MAX:
        raise Refused(errno.EINVAL)
    if start + max(length, 1) - 1 > OFFSET_MAX:
        raise Refused(errno.EOVERFLOW)
    return Lock(message.kind, message.start, message.length, message.proc_id, message.client_id)


def getattr_body(identity: Identity, a: Attributes) -> bytes:
    """The fields of an Rgetattr."""
    kind, version, path = identity
    atime_ns, mtime_ns, ctime_ns = a.atime_ns, a.mtime_ns, a.ctime_ns
    return _GETATTR.pack(
        GETATTR_BASIC,
        kind,
        version,
        path,
        a.mode,
        a.uid,
        a.gid,
        a.nlink,
        a.rdev,
        a.size,
        a.blksize,
        a.blocks,
        atime_ns // _S & _U64,
        atime_ns % _S,
        mtime_ns // _S & _U64,
        mtime_ns % _S,
        ctime_ns // _S & _U64,
        ctime_ns % _S,
        0,
        0,
        0,
        0,
    )
