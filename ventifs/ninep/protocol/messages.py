"""The messages of 9P2000, 9P2000.u and 9P2000.L, each declared once.

Layouts are those of intro(5) of Plan 9's manual, of the 9P2000.u draft, and of diod's protocol.txt
for 9P2000.L. Codecs, traces and the tests of both derive from the declarations. This module
declares layouts only; sessions implement what a message means.
"""

from collections.abc import Callable
from enum import Flag, auto
from typing import Any, ClassVar, TypeVar

import msgspec

from ventifs.ninep.protocol.wire import QID, U8, U16, U32, U64, Data, Names, Qids, Text

NOTAG = 0xFFFF
NOFID = 0xFFFFFFFF
NONUNAME = 0xFFFFFFFF  # n_uname: none given


class Dialect(Flag):
    """A dialect of the protocol, or the set of dialects that have a message or a field."""

    PLAIN = auto()
    UNIX = auto()
    LINUX = auto()

    @property
    def version(self) -> bytes:
        """The dialect's name in Tversion."""
        return _VERSIONS[self]


_VERSIONS = {
    Dialect.PLAIN: b"9P2000",
    Dialect.UNIX: b"9P2000.u",
    Dialect.LINUX: b"9P2000.L",
}
ALL = Dialect.PLAIN | Dialect.UNIX | Dialect.LINUX
OLD = Dialect.PLAIN | Dialect.UNIX


class WireRecord(msgspec.Struct, frozen=True, gc=False):
    """A record whose fields are on the wire in the order of their declaration."""

    optional: ClassVar[int] = 0  # how many of the last fields the sender may leave out
    only_in: ClassVar[dict[str, tuple[Dialect, Any]]] = {}  # field: its dialects, value in others
    prefixed: ClassVar[bool] = False  # whether it begins with the size of the rest, in 2 bytes


class Stat(WireRecord, frozen=True, gc=False):
    """A file's attributes in 9P2000 and 9P2000.u, as in stat(5); texts are bytes."""

    prefixed: ClassVar[bool] = True
    only_in: ClassVar[dict[str, tuple[Dialect, Any]]] = {
        "extension": (Dialect.UNIX, b""),
        "n_uid": (Dialect.UNIX, NONUNAME),
        "n_gid": (Dialect.UNIX, NONUNAME),
        "n_muid": (Dialect.UNIX, NONUNAME),
    }
    type: U16
    dev: U32
    qid: QID
    mode: U32
    atime: U32
    mtime: U32
    length: U64
    name: Text
    uid: Text
    gid: Text
    muid: Text
    extension: Text
    n_uid: U32
    n_gid: U32
    n_muid: U32


class Dirent(WireRecord, frozen=True, gc=False):
    """One entry in the data of an Rreaddir; `offset` is where the next one is."""

    qid: QID
    offset: U64
    type: U8  # DT_REG and so on, of readdir(3)
    name: Text


class Message(WireRecord, frozen=True, gc=False):
    """A request or a reply, without its tag."""

    type: ClassVar[int] = 0
    dialects: ClassVar[Dialect] = ALL


MESSAGES: dict[int, type[Message]] = {}
M = TypeVar("M", bound=type[Message])


def message(number: int, dialects: Dialect = ALL) -> Callable[[M], M]:
    """Declare a message: its type, and the dialects that have it."""

    def declared(record: M) -> M:
        assert number not in MESSAGES
        record.type = number
        record.dialects = dialects
        MESSAGES[number] = record
        return record

    return declared


@message(7, Dialect.LINUX)
class Rlerror(Message, frozen=True, gc=False):
    """An error reply: an errno of Linux."""

    ecode: U32


@message(8, Dialect.LINUX)
class Tstatfs(Message, frozen=True, gc=False):
    """Ask about a file system."""

    fid: U32


@message(9, Dialect.LINUX)
class Rstatfs(Message, frozen=True, gc=False):
    """As statfs(2)."""

    fstype: U32
    bsize: U32
    blocks: U64
    bfree: U64
    bavail: U64
    files: U64
    ffree: U64
    fsid: U64
    namelen: U32


@message(12, Dialect.LINUX)
class Tlopen(Message, frozen=True, gc=False):
    """Open a file, with flags of open(2)."""

    fid: U32
    flags: U32


@message(13, Dialect.LINUX)
class Rlopen(Message, frozen=True, gc=False):
    """Opened."""

    qid: QID
    iounit: U32


@message(14, Dialect.LINUX)
class Tlcreate(Message, frozen=True, gc=False):
    """Create and open a regular file in the directory `fid`, which then refers to the file."""

    fid: U32
    name: Text
    flags: U32
    mode: U32
    gid: U32


@message(15, Dialect.LINUX)
class Rlcreate(Message, frozen=True, gc=False):
    """Created and opened."""

    qid: QID
    iounit: U32


@message(16, Dialect.LINUX)
class Tsymlink(Message, frozen=True, gc=False):
    """Create a symbolic link."""

    fid: U32
    name: Text
    symtgt: Text
    gid: U32


@message(17, Dialect.LINUX)
class Rsymlink(Message, frozen=True, gc=False):
    """Created."""

    qid: QID


@message(18, Dialect.LINUX)
class Tmknod(Message, frozen=True, gc=False):
    """Create a special file."""

    dfid: U32
    name: Text
    mode: U32
    major: U32
    minor: U32
    gid: U32


@message(19, Dialect.LINUX)
class Rmknod(Message, frozen=True, gc=False):
    """Created."""

    qid: QID


@message(20, Dialect.LINUX)
class Trename(Message, frozen=True, gc=False):
    """Move a file to a directory, under a new name."""

    fid: U32
    dfid: U32
    name: Text


@message(21, Dialect.LINUX)
class Rrename(Message, frozen=True, gc=False):
    """Renamed."""


@message(22, Dialect.LINUX)
class Treadlink(Message, frozen=True, gc=False):
    """Read a symbolic link."""

    fid: U32


@message(23, Dialect.LINUX)
class Rreadlink(Message, frozen=True, gc=False):
    """The link's target."""

    target: Text


@message(24, Dialect.LINUX)
class Tgetattr(Message, frozen=True, gc=False):
    """Ask for attributes; the mask says which are wanted."""

    fid: U32
    request_mask: U64


@message(25, Dialect.LINUX)
class Rgetattr(Message, frozen=True, gc=False):
    """As stat(2); `valid` says which fields mean anything."""

    valid: U64
    qid: QID
    mode: U32
    uid: U32
    gid: U32
    nlink: U64
    rdev: U64
    size: U64
    blksize: U64
    blocks: U64
    atime_sec: U64
    atime_nsec: U64
    mtime_sec: U64
    mtime_nsec: U64
    ctime_sec: U64
    ctime_nsec: U64
    btime_sec: U64
    btime_nsec: U64
    gen: U64
    data_version: U64


@message(26, Dialect.LINUX)
class Tsetattr(Message, frozen=True, gc=False):
    """Change attributes; the mask says which."""

    fid: U32
    valid: U32
    mode: U32
    uid: U32
    gid: U32
    size: U64
    atime_sec: U64
    atime_nsec: U64
    mtime_sec: U64
    mtime_nsec: U64


@message(27, Dialect.LINUX)
class Rsetattr(Message, frozen=True, gc=False):
    """Changed."""


@message(30, Dialect.LINUX)
class Txattrwalk(Message, frozen=True, gc=False):
    """Make newfid an extended attribute of fid, or with an empty name the list of their names."""

    fid: U32
    newfid: U32
    name: Text


@message(31, Dialect.LINUX)
class Rxattrwalk(Message, frozen=True, gc=False):
    """The size of the attribute or list, in bytes."""

    size: U64


@message(32, Dialect.LINUX)
class Txattrcreate(Message, frozen=True, gc=False):
    """Make fid an extended attribute: Twrite then writes its value, and Tclunk sets it."""

    fid: U32
    name: Text
    attr_size: U64
    flags: U32


@message(33, Dialect.LINUX)
class Rxattrcreate(Message, frozen=True, gc=False):
    """Ready to be written."""


@message(40, Dialect.LINUX)
class Treaddir(Message, frozen=True, gc=False):
    """Read a directory, from an offset that an entry gave."""

    fid: U32
    offset: U64
    count: U32


@message(41, Dialect.LINUX)
class Rreaddir(Message, frozen=True, gc=False):
    """Whole `Dirent` records, one after the other."""

    data: Data


@message(50, Dialect.LINUX)
class Tfsync(Message, frozen=True, gc=False):
    """Write a file's changes to the disk, as fsync(2)."""

    optional: ClassVar[int] = 1  # diod's protocol.txt has no datasync; Linux sends it
    fid: U32
    datasync: U32


@message(51, Dialect.LINUX)
class Rfsync(Message, frozen=True, gc=False):
    """Done."""


@message(52, Dialect.LINUX)
class Tlock(Message, frozen=True, gc=False):
    """Acquire or release a lock, as fcntl(2)."""

    fid: U32
    kind: U8
    flags: U32
    start: U64
    length: U64
    proc_id: U32
    client_id: Text


@message(53, Dialect.LINUX)
class Rlock(Message, frozen=True, gc=False):
    """The result: success, blocked, error or grace."""

    status: U8


@message(54, Dialect.LINUX)
class Tgetlock(Message, frozen=True, gc=False):
    """Ask for a lock that conflicts with this one."""

    fid: U32
    kind: U8
    start: U64
    length: U64
    proc_id: U32
    client_id: Text


@message(55, Dialect.LINUX)
class Rgetlock(Message, frozen=True, gc=False):
    """The conflicting lock; of kind 2 (unlocked) when there is none."""

    kind: U8
    start: U64
    length: U64
    proc_id: U32
    client_id: Text


@message(70, Dialect.LINUX)
class Tlink(Message, frozen=True, gc=False):
    """Give a file one more name."""

    dfid: U32
    fid: U32
    name: Text


@message(71, Dialect.LINUX)
class Rlink(Message, frozen=True, gc=False):
    """Linked."""


@message(72, Dialect.LINUX)
class Tmkdir(Message, frozen=True, gc=False):
    """Create a directory."""

    dfid: U32
    name: Text
    mode: U32
    gid: U32


@message(73, Dialect.LINUX)
class Rmkdir(Message, frozen=True, gc=False):
    """Created."""

    qid: QID


@message(74, Dialect.LINUX)
class Trenameat(Message, frozen=True, gc=False):
    """Move a name to another directory."""

    olddirfid: U32
    oldname: Text
    newdirfid: U32
    newname: Text


@message(75, Dialect.LINUX)
class Rrenameat(Message, frozen=True, gc=False):
    """Moved."""


@message(76, Dialect.LINUX)
class Tunlinkat(Message, frozen=True, gc=False):
    """Remove a name; flag 0x200 is for directories."""

    dirfid: U32
    name: Text
    flags: U32


@message(77, Dialect.LINUX)
class Runlinkat(Message, frozen=True, gc=False):
    """Removed."""


@message(100)
class Tversion(Message, frozen=True, gc=False):
    """Begin a session, and propose its largest message and dialect."""

    msize: U32
    version: Text


@message(101)
class Rversion(Message, frozen=True, gc=False):
    """The largest message and the dialect of the session."""

    msize: U32
    version: Text


@message(102)
class Tauth(Message, frozen=True, gc=False):
    """Request a file for authentication."""

    only_in: ClassVar[dict[str, tuple[Dialect, Any]]] = {
        "n_uname": (Dialect.UNIX | Dialect.LINUX, NONUNAME),
    }
    afid: U32
    uname: Text
    aname: Text
    n_uname: U32


@message(103)
class Rauth(Message, frozen=True, gc=False):
    """The qid of the authentication file."""

    aqid: QID


@message(104)
class Tattach(Message, frozen=True, gc=False):
    """Make fid the root of the tree that `aname` names."""

    only_in: ClassVar[dict[str, tuple[Dialect, Any]]] = {
        "n_uname": (Dialect.UNIX | Dialect.LINUX, NONUNAME),
    }
    fid: U32
    afid: U32
    uname: Text
    aname: Text
    n_uname: U32


@message(105)
class Rattach(Message, frozen=True, gc=False):
    """Attached."""

    qid: QID


@message(107, OLD)
class Rerror(Message, frozen=True, gc=False):
    """An error reply: a message, and in 9P2000.u an errno."""

    only_in: ClassVar[dict[str, tuple[Dialect, Any]]] = {
        "errno": (Dialect.UNIX, 0),
    }
    ename: Text
    errno: U32


@message(108)
class Tflush(Message, frozen=True, gc=False):
    """Cancel an earlier request."""

    oldtag: U16


@message(109)
class Rflush(Message, frozen=True, gc=False):
    """The cancelled request is not answered after this reply."""


@message(110)
class Twalk(Message, frozen=True, gc=False):
    """Make newfid the file that a path from fid leads to."""

    fid: U32
    newfid: U32
    wnames: Names


@message(111)
class Rwalk(Message, frozen=True, gc=False):
    """The qids of the names that were walked, up to the first that failed."""

    wqids: Qids


@message(112, OLD)
class Topen(Message, frozen=True, gc=False):
    """Open a file, with modes of open(5)."""

    fid: U32
    mode: U8


@message(113, OLD)
class Ropen(Message, frozen=True, gc=False):
    """Opened."""

    qid: QID
    iounit: U32


@message(114, OLD)
class Tcreate(Message, frozen=True, gc=False):
    """Create and open a file in the directory `fid`, which then refers to the file."""

    only_in: ClassVar[dict[str, tuple[Dialect, Any]]] = {
        "extension": (Dialect.UNIX, b""),
    }
    fid: U32
    name: Text
    perm: U32
    mode: U8
    extension: Text


@message(115, OLD)
class Rcreate(Message, frozen=True, gc=False):
    """Created and opened."""

    qid: QID
    iounit: U32


@message(116)
class Tread(Message, frozen=True, gc=False):
    """Read from an open file."""

    fid: U32
    offset: U64
    count: U32


@message(117)
class Rread(Message, frozen=True, gc=False):
    """The bytes that were read; none at the end of the file."""

    data: Data


@message(118)
class Twrite(Message, frozen=True, gc=False):
    """Write to an open file."""

    fid: U32
    offset: U64
    data: Data


@message(119)
class Rwrite(Message, frozen=True, gc=False):
    """How many bytes were written."""

    count: U32


@message(120)
class Tclunk(Message, frozen=True, gc=False):
    """Forget a fid."""

    fid: U32


@message(121)
class Rclunk(Message, frozen=True, gc=False):
    """Forgotten."""


@message(122)
class Tremove(Message, frozen=True, gc=False):
    """Remove a file, and forget the fid even if that fails."""

    fid: U32


@message(123)
class Rremove(Message, frozen=True, gc=False):
    """Removed."""


@message(124, OLD)
class Tstat(Message, frozen=True, gc=False):
    """Ask for attributes."""

    fid: U32


@message(125, OLD)
class Rstat(Message, frozen=True, gc=False):
    """The attributes."""

    stat: Stat


@message(126, OLD)
class Twstat(Message, frozen=True, gc=False):
    """Change attributes; all ones, or an empty text, leave one as it is."""

    fid: U32
    stat: Stat


@message(127, OLD)
class Rwstat(Message, frozen=True, gc=False):
    """Changed."""
