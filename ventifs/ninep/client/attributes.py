"""Converts the attributes that a server sends, in any dialect, to Linux's terms.

Owns reading Rgetattr and Stat, as the client's counterpart of ninep/session/stat_records.py, and
refuses attributes that contradict each other. Knows no connection.
"""

import os
import re
import stat

import msgspec

from ventifs.ninep.protocol.messages import NONUNAME, Dialect, Rgetattr, Stat
from ventifs.ninep.protocol.wire import QTDIR, Qid, WireError
from ventifs.ninep.session.stat_records import (
    DMDEVICE,
    DMDIR,
    DMNAMEDPIPE,
    DMSOCKET,
    DMSYMLINK,
    permissions,
)

BASIC = 0x7FF  # request_mask: all that stat(2) has
NANOSECOND = 10**9
_KINDS = {  # of 9P2000.u, except a directory's
    DMSYMLINK: stat.S_IFLNK,
    DMDEVICE: 0,  # the extension says whether block or character
    DMNAMEDPIPE: stat.S_IFIFO,
    DMSOCKET: stat.S_IFSOCK,
}
_DEVICE = re.compile(rb"([bc]) ([0-9]{1,10}) ([0-9]{1,10})")
_HARDLINKS = re.compile(rb"HARDLINKCOUNT ([0-9]{1,10})")
_ID = re.compile(rb"[0-9]{1,10}")


class Status(msgspec.Struct, frozen=True):
    """A file's attributes as in stat(2), as far as the dialect carries them.

    Attributes:
        qid: the server's identity of the file.
        mode: with the bits of the file's type.
        uid, gid: None when the server sends only names.
        owner, group: the server's names, or the numbers in digits.
        size: bytes.
        mtime_ns, atime_ns: nanoseconds since 1970.
        nlink, rdev: as stat(2); 1 and 0 where the dialect has none.
        name: the file's name where the dialect has it, else empty.
        target: of a symbolic link, in 9P2000.u.
    """

    qid: Qid
    mode: int
    uid: int | None
    gid: int | None
    owner: bytes
    group: bytes
    size: int
    mtime_ns: int
    atime_ns: int
    nlink: int = 1
    rdev: int = 0
    name: bytes = b""
    target: bytes | None = None


def status_of(told: Rgetattr | Stat, dialect: Dialect) -> Status:
    """Convert the attributes that a server sent.

    Raises:
        WireError: when they are invalid, or contradict each other.
    """
    status = _of_getattr(told) if isinstance(told, Rgetattr) else _of_stat(told, dialect)
    if stat.S_ISDIR(status.mode) != bool(status.qid.type & QTDIR):
        raise WireError(f"mode {status.mode:o} of a file whose qid.type is {status.qid.type:#x}")
    return status


def _of_getattr(told: Rgetattr) -> Status:
    if told.valid & BASIC != BASIC:
        raise WireError(f"attributes {told.valid:#x} of the {BASIC:#x} that were asked for")
    if not stat.S_IFMT(told.mode) or told.size >> 63:
        raise WireError(f"a file of mode {told.mode:o} and {told.size} bytes")
    return Status(
        told.qid,
        told.mode,
        told.uid,
        told.gid,
        b"%d" % told.uid,
        b"%d" % told.gid,
        told.size,
        _time_ns(told.mtime_sec, told.mtime_nsec),
        _time_ns(told.atime_sec, told.atime_nsec),
        told.nlink,
        told.rdev,
    )


def _time_ns(seconds: int, nanoseconds: int) -> int:
    if nanoseconds >= NANOSECOND:
        raise WireError(f"a time of {nanoseconds} ns beside its seconds")
    return (seconds - (seconds >> 63 << 64)) * NANOSECOND + nanoseconds


def _of_stat(told: Stat, dialect: Dialect) -> Status:
    mode, rdev = told.mode & 0o777, 0
    kind = stat.S_IFDIR if told.mode & DMDIR else stat.S_IFREG
    if dialect is Dialect.UNIX:
        mode = permissions(told.mode)
        kinds = [kind for bit, kind in _KINDS.items() if told.mode & bit]
        if len(kinds) + bool(told.mode & DMDIR) > 1:
            raise WireError(f"mode {told.mode:#x} says more than one type of file")
        kind = kinds[0] if kinds else kind
        if kind == 0:
            kind, rdev = _device(told.extension)
    if told.length >> 63:
        raise WireError(f"a file of {told.length} bytes")
    nlink = 1
    if kind == stat.S_IFREG and (found := _HARDLINKS.fullmatch(told.extension)):
        nlink = int(found[1])
    uid = _id(told.n_uid, told.uid)
    gid = _id(told.n_gid, told.gid)
    return Status(
        told.qid,
        kind | mode,
        uid,
        gid,
        told.uid,
        told.gid,
        told.length,
        told.mtime * NANOSECOND,
        told.atime * NANOSECOND,
        nlink,
        rdev,
        told.name,
        target=told.extension if kind == stat.S_IFLNK else None,
    )


def _device(extension: bytes) -> tuple[int, int]:
    found = _DEVICE.fullmatch(extension)
    if found is None:
        raise WireError(f"a device whose extension is {extension[:40]!r}")
    try:
        rdev = os.makedev(int(found[2]), int(found[3]))
    except OverflowError:
        raise WireError(f"a device whose extension is {extension!r}") from None
    return (stat.S_IFBLK if found[1] == b"b" else stat.S_IFCHR), rdev


def _id(number: int, name: bytes) -> int | None:
    """A numeric id: its own field, or where that is not set a name that is a number."""
    if number != NONUNAME:
        return number
    return int(name) if _ID.fullmatch(name) and int(name) < NONUNAME else None
