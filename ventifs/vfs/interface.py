"""What a session needs of a file system: the `Filesystem`, `File` and `Opened` protocols.

Modes, flags and errnos are Linux's, whatever dialect the session speaks. Methods are plain and
synchronous, and one thread's event loop calls them, so none of them ever waits. A method that lacks
something in memory raises `Cold` with a load. It is called again, with the same arguments, when a
thread has run the load. If that load has no key, it is not called again: what the load returns or
raises is the method's result. A method that has effects and must touch the disk itself raises
`Blocking` with its work, whose result is the method's too. A method that waits for something else
than a disk, such as a lock, raises `Waiting`. A file system never knows sessions, fids, tags or
sockets.
"""

import errno
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

import msgspec

from ventifs.buffer import Buffer, Piece
from ventifs.errors import VentifsError

# Threads that run loads, and loads that one hop of a thread runs before the next session's turn.
# Many threads take most of the rate of a session that needs no loads. A hop to a thread costs about
# as much as a load, so it runs several; but the next session waits for all of the hop. See
# docs/performance.md.
AT_ONCE = 2
BATCH = 8
# Results that no request has taken yet, at most. A hop may begin while the event loop has not yet
# received those of AT_ONCE other hops, and all threads together may add as many.
RESULTS_MAX = 2 * AT_ONCE * BATCH

NOW = -1  # of a time in `AttributeChanges`: the server's current time
DIRECTORY, SYMLINK, FILE = 0x80, 0x02, 0x00  # kinds of an `Identity`; 9P sends them as they are


class Refused(VentifsError):
    """A file system refuses an operation, with an errno of Linux.

    Attributes:
        errno: the number.
    """

    def __init__(self, number: int, reason: str = "") -> None:
        """Use Linux's own message for `number`, unless `reason` has a better one for the log."""
        super().__init__(reason or os.strerror(number))
        self.errno = number


class Load(msgspec.Struct, eq=False):
    """Work for a thread: to bring something into memory, or an operation that has effects.

    The file that lacks something, and the thread that brings it, use the same object. What `run`
    returns or raises is the result.

    Attributes:
        key: equal for loads that do the same; of those that wait at one time, one is run for all.
            None for work that is done once, for this one operation, and returns its result. One
            with a key may run for another client when the operation that made it is gone, so it
            must not use what that operation had open, unless the key is of that alone.
        run: does the work.
        waiters: the loader's: the clients that wait for this run, each with its loads of this key.
        started: the loader's: whether a thread has begun it.
    """

    key: Hashable | None
    run: Callable[[], Any]
    waiters: dict[Any, list["Load"]] = {}
    started: bool = False


class Cold(Exception):
    """An operation without effects needs a thread.

    It can be tried again after `load`. A load without a key is the operation itself: its result
    is the operation's, or is closed if no client waits for it any more.
    """

    def __init__(self, load: Load) -> None:
        """Ask for a load."""
        super().__init__(load)
        self.load = load


class Blocking(Exception):
    """A thread must do an operation that has effects, once: `work` is all of it.

    It is not done at all if the client has gone before a thread begins it.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        """Ask for a thread."""
        super().__init__(work)
        self.work = work


class Wait(msgspec.Struct, eq=False):
    """What an operation waits for that is not a disk, such as a lock that another holds.

    The driver calls `attempt` in the event loop, at growing pauses. Its first result that is not
    None is the operation's result; after `seconds` it is `otherwise`. What `attempt` raises is the
    result too. `attempt` is not called again after a result, an exception, or `cancel`.

    Attributes:
        attempt: tries the operation once; never waits.
        seconds: how long to try, from the time that the driver gets it.
        otherwise: the operation's result when it was tried in vain.
        cancel: called once if `attempt` has had no result when the wait ends: by the driver after
            `seconds`, by the session if no client waits any more (a flush, a new version, the end
            of the session). Never raises, never waits.
        over: set by the session: it takes no result any more, and the driver drops the wait.
        soon: set by the driver, and None before and after: to be called when another attempt may
            have a result; the driver makes one at once.
    """

    attempt: Callable[[], Any]
    seconds: float
    otherwise: Any
    cancel: Callable[[], None]
    over: bool = False
    soon: Callable[[], None] | None = None


class Waiting(Exception):
    """An operation waits for something that is not a disk; see `Wait`."""

    def __init__(self, wait: Wait) -> None:
        """Ask for attempts."""
        super().__init__(wait)
        self.wait = wait


class Elsewhere(Exception):
    """An attach is to an export that another process serves: the connection goes there.

    Raised by `Filesystem.attach` alone.
    """

    def __init__(self, export: str) -> None:
        """Name the export, without what follows it in the aname."""
        super().__init__(export)
        self.export = export


class Identity(NamedTuple):
    """What distinguishes one file from another.

    The order of the fields is that of a qid on the wire, so that 9P packs an identity as it is.

    Attributes:
        kind: DIRECTORY, SYMLINK, or FILE for everything else.
        version: of its content, 1 to 2^32 - 1: it differs when the content does.
        number: equal exactly for the same file; neither 0 nor 2^64 - 1.
    """

    kind: int
    version: int
    number: int


class User(msgspec.Struct, frozen=True):
    """The user that attaches, as the client states it.

    Attributes:
        name: as sent.
        uid: None when the client gives none.
    """

    name: bytes = b""
    uid: int | None = None


class Attributes(msgspec.Struct):
    """What stat(2) reports of a file; times are nanoseconds since 1970, negative before it.

    Attributes:
        mode: with the type's bits.
        rdev: as makedev(3) packs it.
        blocks: what it takes on the disk, in units of 512 bytes: less than `size` if it has holes.
        memo: for the front end, to keep what it computed from these attributes. A file whose
            attributes do not change returns the same object each time, which saves that work.
    """

    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    mtime_ns: int
    atime_ns: int
    ctime_ns: int
    blocks: int
    blksize: int = 4096
    memo: bytes | None = None


class Statfs(msgspec.Struct, frozen=True):
    """What statfs(2) reports, except the type, which the front end adds."""

    bsize: int = 4096
    blocks: int = 0
    bfree: int = 0
    bavail: int = 0
    files: int = 0
    ffree: int = 0
    fsid: int = 0
    namelen: int = 255


class AttributeChanges(msgspec.Struct, frozen=True):
    """What a setattr is to change; None leaves a field as it is.

    Attributes:
        mode: permission bits, without the type's.
        atime_ns, mtime_ns: nanoseconds since 1970; `NOW` is the server's current time.
        ctime: the client asks for a new ctime; nothing more is to be done if something else
            changes too, since that changes the ctime anyway.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime: bool = False


class Lock(msgspec.Struct, frozen=True):
    """A lock as fcntl(2) has it; `kind` is 0 for reading, 1 for writing, 2 for unlocked.

    Attributes:
        start, length: bytes; length 0 is all from `start` on.
        proc_id, client_id: the owner of the lock.
    """

    kind: int
    start: int
    length: int
    proc_id: int
    client_id: bytes


UNLOCKED = 2
LOCK_BLOCK, LOCK_RECLAIM = 1, 2  # flags of a Tlock
LOCK_SUCCESS, LOCK_BLOCKED, LOCK_ERROR, LOCK_GRACE = range(4)  # status of a Tlock


class Filesystem(Protocol):
    """Trees that a session may attach to; several sessions may share one file system.

    One that declares `plain_writes = True` is also written by protocols whose requests say less
    than Linux's own calls do, such as 9P2000: no group of a new file, no O_EXCL.
    """

    def attach(self, user: User, aname: bytes) -> "File":
        """The directory, or file, that a name stands for; its `..` is itself.

        Raises:
            Refused: ENOENT for a name that is not there, or that this peer may not reach.
            Cold: to be tried again.
            Elsewhere: another process serves it.
        """

    def session(self) -> "Filesystem":
        """The same file system for one session, in which a name keeps its first meaning."""

    def ahead(self) -> list[Load]:
        """Loads that no request waits for yet, but soon will; each is returned once.

        The driver takes them after each turn. It runs them when no load that a request waits for is
        left.
        """


class File(Protocol):
    """A file of a tree: what a fid points at.

    Several fids may point at one. A name that a method is given is one that a directory can hold:
    not empty, no slash, no NUL, at most 255 bytes; and, except for `walk`, never `.` or `..`.

    Every method may raise `Refused`, `Cold`, and the exceptions in the table of `errnos.py`.
    Methods that write may also raise `Blocking`.
    """

    @property
    def identity(self) -> Identity:
        """What distinguishes it from every other file."""

    @property
    def weight(self) -> int:
        """Bytes of memory that it keeps, beyond the charge for every file; mostly 0.

        Never changes.
        """

    @property
    def above(self) -> "File | None":
        """The directory that it keeps in memory, which is charged too (`held_directories.py`).

        Always the same object. None if it keeps none, or one that stays in memory anyway.
        """

    @property
    def name(self) -> bytes:
        """Its name in its directory; `/` for a root."""

    @property
    def kind(self) -> int:
        """Its type as readdir(3) reports it, DT_REG and so on; never raises, for listings."""

    def attributes(self) -> Attributes:
        """What stat(2) reports of it."""

    def walk(self, name: bytes) -> "File":
        """The file of a name in this directory; `..` is the parent, at a root the root itself.

        Raises:
            Refused: ENOENT, or ENOTDIR when this is no directory.
        """

    def open(self, flags: int) -> "Opened":
        """Open this file.

        Args:
            flags: of open(2), with this machine's numbers: the access mode, O_TRUNC, O_APPEND,
                O_DIRECTORY, O_DSYNC, O_SYNC. No flag that concerns a name.

        Raises:
            Refused: EROFS for writing where nothing can be written, ELOOP for a symbolic link.
        """

    def readlink(self) -> bytes:
        """The target of a symbolic link.

        Raises:
            Refused: EINVAL for anything else.
        """

    def xattr_names(self) -> list[bytes]:
        """The names of its extended attributes."""

    def xattr(self, name: bytes) -> bytes:
        """One extended attribute.

        Args:
            name: 1 to 255 bytes, without NUL; it may have a slash.

        Raises:
            Refused: ENODATA when it has none of this name.
        """

    def statfs(self) -> Statfs:
        """The attributes of the file system that it is in."""

    def create(self, name: bytes, flags: int, mode: int, gid: int) -> "tuple[File, Opened]":
        """Create a regular file in this directory, and open it.

        Args:
            name: of the file.
            flags: as of `open`, and O_CREAT; without O_EXCL, a file that exists is opened.
            mode: permission bits, 0 to 0o7777, whatever the access mode of `flags`.
            gid: the group that the client wants; 2^32 - 1 if it names none.
        """

    def mkdir(self, name: bytes, mode: int, gid: int) -> "File":
        """Create a directory in this one."""

    def symlink(self, name: bytes, target: bytes, gid: int) -> "File":
        """Create a symbolic link in this directory.

        Args:
            name: of the link.
            target: 1 to 4095 bytes, without NUL; anything else goes.
            gid: as of `create`.
        """

    def mknod(self, name: bytes, mode: int, rdev: int, gid: int) -> "File":
        """Create a special file, or an empty regular one, in this directory.

        Args:
            name: of the file.
            mode: with the type's bits: a regular file, a device, a FIFO or a socket.
            rdev: of a device, as makedev(3) packs it.
            gid: as of `create`.
        """

    def link(self, file: "File", name: bytes) -> None:
        """Give `file` a name in this directory."""

    def rename(self, directory: "File | None", name: bytes) -> None:
        """Move this file to `directory`, or within its own if that is None, under a name."""

    def renameat(self, name: bytes, directory: "File", newname: bytes) -> None:
        """Move a name of this directory to another one."""

    def unlink(self, name: bytes, *, directory: bool) -> None:
        """Remove a name of this directory; `directory` says which kind it must be of."""

    def remove(self) -> None:
        """Remove this file."""

    def setattr(self, changes: AttributeChanges) -> None:
        """Change attributes; of a file that is open, `Opened.setattr` is called instead."""

    def set_xattr(self, name: bytes, value: bytes, flags: int) -> None:
        """Set an extended attribute as setxattr(2), or remove it.

        No bytes with XATTR_REPLACE remove it: so Linux's client removes. No bytes otherwise set an
        empty value, as they do on a local file system.

        Args:
            name: 1 to 255 bytes, without NUL; it may have a slash.
            value: up to 65,536 bytes.
            flags: 0, XATTR_CREATE or XATTR_REPLACE.
        """


class Opened(Protocol):
    """An open file of one fid, so that it can remember where reading goes on.

    Raises what the methods of `File` raise; `lock` also `Waiting`.
    """

    def attributes(self) -> Attributes:
        """What fstat(2) reports of it, also when it has no name any more."""

    def setattr(self, changes: AttributeChanges) -> None:
        """Change attributes, also when it has no name any more."""

    def read(self, offset: int, count: int) -> Sequence[Piece]:
        """Bytes in pieces, `count` of them unless the file ends before.

        Pieces may be views of cached data; they are sent as they are and never changed.

        Raises:
            Refused: EISDIR for a directory, EBADF when it was opened for writing alone.
        """

    def entries(self, cookie: int) -> Iterator[tuple[int, bytes, Identity, int]]:
        """A directory's entries from a cookie on, `.` and `..` first: nothing of them is opened.

        Of each: the cookie of what comes after it, its name, its identity, and its type as
        `File.kind` has it. Cookies are the file system's own, 64 bits; 0 is the beginning, and a
        directory that was listed is listed again from any cookie that it gave. A client may send
        any other number: it gets some entries, none, or EINVAL.

        The iterator may raise `Cold` with a load that has a key; the entries before that stay
        valid. It never raises `Blocking`.

        Raises:
            Refused: ENOTDIR when this is no directory, EINVAL for a cookie that it never gave.
        """

    def listed(self, name: bytes) -> File:
        """The file of an entry, for its attributes and its target alone.

        It may refuse everything else. The name is mostly the one that `entries` gave last.

        Raises:
            Refused: ENOENT, when it is gone.
        """

    def write(self, offset: int, data: Buffer) -> int:
        """Write, and return how many bytes were written.

        The data is valid until the operation is done, also in a thread.
        """

    def fsync(self, *, data_only: bool) -> None:
        """Bring it to the disk."""

    def lock(self, lock: Lock, flags: int) -> int:
        """Take or give back a lock; returns one of the LOCK_ statuses.

        Args:
            lock: which.
            flags: LOCK_BLOCK if the client is ready to wait, LOCK_RECLAIM.
        """

    def getlock(self, lock: Lock) -> Lock:
        """The lock that conflicts with this one; of kind UNLOCKED if none does."""

    def close(self) -> None:
        """Release it; never raises, never waits.

        Not called while a thread works for an operation of it, also of a client that is gone.
        """


class ReadOnlyFile:
    """Base class of a `File` that can never be written: it refuses every method that writes."""

    __slots__ = ()
    weight: int = 0
    above: "File | None" = None

    def _read_only(self, *_: object, **__: object) -> NoReturn:
        raise Refused(errno.EROFS)

    create = mkdir = symlink = mknod = _read_only
    link = rename = renameat = unlink = remove = setattr = set_xattr = _read_only


class ReadOnlyOpened:
    """Base class of an `Opened` that can never be written.

    Nothing can change, so everything is on the disk already, and every lock is free.
    """

    __slots__ = ()

    def setattr(self, changes: AttributeChanges) -> NoReturn:
        """Refuse."""
        raise Refused(errno.EROFS)

    def listed(self, name: bytes) -> File:
        """Refuse: it is no directory."""
        raise Refused(errno.ENOTDIR)

    def write(self, offset: int, data: Buffer) -> NoReturn:
        """Refuse."""
        raise Refused(errno.EROFS)

    def fsync(self, *, data_only: bool) -> None:
        """Do nothing: everything is on the disk already."""

    def lock(self, lock: Lock, flags: int) -> int:
        """Grant every lock."""
        return LOCK_SUCCESS

    def getlock(self, lock: Lock) -> Lock:
        """Report that no lock conflicts."""
        return Lock(UNLOCKED, lock.start, lock.length, lock.proc_id, lock.client_id)

    def close(self) -> None:
        """Do nothing: it holds nothing."""


def check_reading(flags: int) -> None:
    """See that a file is opened for reading alone.

    Raises:
        Refused: EROFS.
    """
    if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
        raise Refused(errno.EROFS)
