"""What stat(2) reports of a file, as the `Stat` of 9P2000 and 9P2000.u, and back.

Bits and extension strings of .u are those that Linux's client reads and writes.
"""

import errno
import os
import stat as st

from ventifs.ninep.protocol.messages import NONUNAME, Dialect, Stat
from ventifs.ninep.protocol.wire import Qid
from ventifs.vfs.interface import Attributes, Refused

DMDIR = 0x80000000
DMSYMLINK, DMLINK = 0x02000000, 0x01000000  # .u, as all that follow
DMDEVICE, DMNAMEDPIPE, DMSOCKET = 0x00800000, 0x00200000, 0x00100000

HARDLINKS = b"HARDLINKCOUNT %d"  # extension of a file with several names, as QEMU has it

_BITS = ((0x00080000, st.S_ISUID), (0x00040000, st.S_ISGID), (0x00010000, st.S_ISVTX))
_KINDS = {
    st.S_IFDIR: DMDIR,
    st.S_IFLNK: DMSYMLINK,
    st.S_IFCHR: DMDEVICE,
    st.S_IFBLK: DMDEVICE,
    st.S_IFIFO: DMNAMEDPIPE,
    st.S_IFSOCK: DMSOCKET,
}
_S = 1_000_000_000
_TIME_MAX = 0xFFFFFFFF - 1  # all ones is "don't touch" in a Twstat that sends it back


def stat_of(qid: Qid, name: bytes, a: Attributes, target: bytes, dialect: Dialect) -> Stat:
    """The record of a file; `target` is a symbolic link's."""
    kind = st.S_IFMT(a.mode)
    mode, extension = a.mode & 0o777, b""
    length = a.size if kind in {st.S_IFREG, st.S_IFLNK} else 0
    if dialect is Dialect.PLAIN:
        mode |= _KINDS[kind] & DMDIR if kind in _KINDS else 0
    else:
        mode |= _KINDS.get(kind, 0)
        for bit, linux in _BITS:
            if a.mode & linux:
                mode |= bit
        if kind in {st.S_IFCHR, st.S_IFBLK}:
            letter = "c" if kind == st.S_IFCHR else "b"
            extension = f"{letter} {os.major(a.rdev)} {os.minor(a.rdev)}".encode()
        elif kind == st.S_IFLNK:
            extension = target
        elif kind == st.S_IFREG and a.nlink > 1:  # 1 is what clients assume
            extension = HARDLINKS % a.nlink
    uid, gid = b"%d" % a.uid, b"%d" % a.gid
    return Stat(
        0,
        0,
        qid,
        mode,
        _time(a.atime_ns),
        _time(a.mtime_ns),
        length,
        name,
        uid,
        gid,
        uid,
        extension,
        a.uid,
        a.gid,
        a.uid,
    )


def permissions(mode: int) -> int:
    """Linux's permission bits of a mode of 9P; those of .u are never set in 9P2000."""
    return mode & 0o777 | sum(linux for bit, linux in _BITS if mode & bit)


def number_of(text: bytes, number: int) -> int | None:
    """A user or group that a Twstat sets, by text or by number; None when it sets none.

    Raises:
        Refused: EINVAL for a text that is no number.
    """
    if number != NONUNAME:
        return number
    if not text:
        return None
    if not text.isdigit() or len(text) > 10 or int(text) >= NONUNAME:
        raise Refused(errno.EINVAL)
    return int(text)


def device_of(perm: int, extension: bytes) -> tuple[int, int]:
    """The mode, with the type's bits, and the device number of a special file to be created.

    Raises:
        Refused: EINVAL for an extension that is not like `c 1 3`.
    """
    mode = permissions(perm)
    if perm & DMNAMEDPIPE:
        return mode | st.S_IFIFO, 0
    if perm & DMSOCKET:
        return mode | st.S_IFSOCK, 0
    words = extension.split()
    if len(words) != 3 or words[0] not in {b"c", b"b"}:
        raise Refused(errno.EINVAL)
    major, minor = words[1], words[2]
    if not (major.isdigit() and minor.isdigit() and len(major) < 10 and len(minor) < 10):
        raise Refused(errno.EINVAL)
    kind = st.S_IFCHR if words[0] == b"c" else st.S_IFBLK
    return mode | kind, os.makedev(int(major), int(minor))


def _time(time_ns: int) -> int:
    return min(max(time_ns // _S, 0), _TIME_MAX)
