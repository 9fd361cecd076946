"""Handlers that all dialects share; `handlers_linux.py` and `handlers_plan9.py` add their own.

A handler takes (fid, message) and returns the reply: a message, or the reply's fields as bytes or
as a list of buffers, where that is quicker. A reply's type is its request's plus one. A handler may
run several times, each time from its start, until it lacks nothing: every call of the file system
that must not be made twice goes through `call`, which returns or raises again what the call
returned or raised before. Knows nothing of tags, frames and waiting.
"""

import errno
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NoReturn, TypeVar

from ventifs.buffer import Buffer, Piece
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.codec import READ_OVERHEAD, MessageCodec
from ventifs.ninep.protocol.wire import Qid, WireError
from ventifs.ninep.session.fids import Fid, Fids
from ventifs.ninep.session.in_flight import Raised
from ventifs.vfs.interface import (
    DIRECTORY,
    AttributeChanges,
    Attributes,
    Blocking,
    Cold,
    Elsewhere,
    File,
    Filesystem,
    Identity,
    Lock,
    Opened,
    ReadOnlyOpened,
    Refused,
    User,
    Waiting,
)

Body = m.Message | bytes | Sequence[Piece]
MessageHandler = Callable[[Any, Any], Body]
T = TypeVar("T")

NAME_MAX = 255
TARGET_MAX = 4095  # bytes of a symbolic link's target: Linux's own
VIEW_MIN = 32 << 10  # bytes of a Twrite: a copy of less takes no longer than a view
OFFSET_MAX = (1 << 63) - 1
WRITE_OVERHEAD = 23  # of a Twrite: all but its data

COUNT = struct.Struct("<I").pack  # of the data of a reply
_WRITE = struct.Struct("<IQI")  # the fields of a Twrite before its data
_QID = struct.Struct("<BIQ").pack
_WALKED = struct.Struct("<HBIQ").pack  # one qid, as nearly every Rwalk has


def check_name(name: bytes) -> None:
    """Check that a directory could hold a name.

    Raises:
        Refused: EINVAL, or ENAMETOOLONG.
    """
    if not name or b"/" in name or b"\0" in name:
        raise Refused(errno.EINVAL)
    if len(name) > NAME_MAX:
        raise Refused(errno.ENAMETOOLONG)


def check_new_name(name: bytes) -> None:
    """Check that a name can be given to a file.

    Raises:
        Refused: EINVAL, or ENAMETOOLONG.
    """
    check_name(name)
    if name in {b".", b".."}:
        raise Refused(errno.EINVAL)


def check_target(target: bytes) -> None:
    """Check that a symbolic link can have a target.

    Raises:
        Refused: as symlink(2) does, ENOENT, EINVAL or ENAMETOOLONG.
    """
    if not target:
        raise Refused(errno.ENOENT)
    if b"\0" in target:
        raise Refused(errno.EINVAL)
    if len(target) > TARGET_MAX:
        raise Refused(errno.ENAMETOOLONG)


def decode_write(data: bytes, at: int, end: int) -> m.Twrite:
    """A Twrite from its fields; its data is a view, if it is long and most of what came.

    A view keeps all of `data` in memory, so that much is at most twice what the frame is counted
    as. What it saves: docs/performance.md.

    Raises:
        WireError: its data is shorter or longer than it says.
    """
    start = at + _WRITE.size
    if start > end:
        raise WireError("Twrite: the message ends too early")
    fid, offset, count = _WRITE.unpack_from(data, at)
    if count != end - start:
        raise WireError(f"Twrite: {count} bytes of data, {end - start} in the message")
    if count < VIEW_MIN or 2 * count < len(data):
        return m.Twrite(fid, offset, data[start:end])
    view: Any = memoryview(data)[start:end]
    return m.Twrite(fid, offset, view)


class Held(ReadOnlyOpened):
    """Bytes that are read through a fid as if they were a file."""

    __slots__ = ("_data", "_fids", "_file")

    def __init__(self, file: File, data: bytes, fids: Fids) -> None:
        """Hold them; attributes are those of `file`.

        Raises:
            Refused: ENFILE or ENOMEM, when too much is held.
        """
        fids.must_hold(len(data))
        self._file = file
        self._data = data
        self._fids = fids

    def attributes(self) -> Attributes:
        """Those of the file."""
        return self._file.attributes()

    def read(self, offset: int, count: int) -> list[Buffer]:
        """Some of them."""
        return [self._data[offset : offset + count]]

    def entries(self, cookie: int) -> Any:
        """Refuse: they are no directory."""
        raise Refused(errno.ENOTDIR)

    def close(self) -> None:
        """Hold them no more."""
        self._fids.hold(-len(self._data))
        self._data = b""


class OpenDirectory(ReadOnlyOpened):
    """An open directory: read by its entries alone. A session may have a million of them.

    Attributes:
        opened: what the file system opened.
    """

    __slots__ = ("opened",)

    def __init__(self, opened: Opened) -> None:
        """Wrap what the file system opened."""
        self.opened = opened

    def read(self, offset: int, count: int) -> list[Buffer]:
        """Refuse, as Linux does."""
        raise Refused(errno.EISDIR)

    def attributes(self) -> Attributes:
        """See `Opened`."""
        return self.opened.attributes()

    def setattr(self, changes: AttributeChanges) -> None:  # type: ignore[override]
        """See `Opened`."""
        self.opened.setattr(changes)

    def entries(self, cookie: int) -> Iterator[tuple[int, bytes, Identity, int]]:
        """See `Opened`."""
        return self.opened.entries(cookie)

    def listed(self, name: bytes) -> File:
        """See `Opened`."""
        return self.opened.listed(name)

    def write(self, offset: int, data: Buffer) -> NoReturn:
        """Refuse, as Linux does."""
        raise Refused(errno.EBADF)

    def fsync(self, *, data_only: bool) -> None:
        """See `Opened`."""
        self.opened.fsync(data_only=data_only)

    def lock(self, lock: Lock, flags: int) -> int:
        """See `Opened`."""
        return self.opened.lock(lock, flags)

    def getlock(self, lock: Lock) -> Lock:
        """See `Opened`."""
        return self.opened.getlock(lock)

    def close(self) -> None:
        """See `Opened`."""
        self.opened.close()


class Handlers:
    """The handlers of a session, from one Tversion to the next.

    Attributes:
        fids: the session's.
        msize: no request is larger, and every reply is smaller.
        outcomes: what the calls of the running handler returned or raised so far.
    """

    dialect: ClassVar[m.Dialect]

    def __init__(self, filesystem: Filesystem, fids: Fids, msize: int) -> None:
        """Serve a file system."""
        self.filesystem = filesystem
        self.fids = fids
        self.msize = msize
        self.codec = MessageCodec.of(self.dialect)
        self.outcomes: list[Any] = []
        self._again: list[Any] = []  # outcomes of an earlier run, the next one last

    def handlers(self) -> dict[type[m.Message], MessageHandler]:
        """The handlers of this dialect's requests, but Tversion and Tflush, by their names."""
        return {
            record: getattr(self, record.__name__[1:])
            for record in m.MESSAGES.values()
            if self.dialect in record.dialects
            and record.__name__[0] == "T"
            and record not in {m.Tversion, m.Tflush}
        }

    def begin(self, outcomes: list[Any] | None = None) -> None:
        """Prepare to run a handler; `outcomes` are those of its earlier runs, if it ran."""
        self.outcomes = outcomes if outcomes is not None else []
        self._again = self.outcomes[::-1]

    @property
    def unheard(self) -> BaseException | None:
        """What a load raised that no call raised again, since an iterator had asked for it."""
        last = self._again[0] if self._again else None
        return last.error if type(last) is Raised else None

    @property
    def unused(self) -> list[Any]:
        """Outcomes of earlier runs that this run has not come to."""
        return self._again

    def call(self, method: Callable[..., T], /, *args: Any) -> T:
        """Call a method of the file system, or return or raise again what it did before."""
        if self._again:
            outcome: Any = self._again.pop()
            if type(outcome) is Raised:
                raise outcome.error
            return outcome  # type: ignore[no-any-return]
        value = method(*args)
        self.outcomes.append(value)
        return value

    def call_and_go_on(self, method: Callable[..., T], /, *args: Any) -> T:
        """As `call`, for a handler that goes on after an error: that is raised again, too.

        `call` need not remember errors, since most handlers end with the first one.
        """
        if not self._again:
            try:
                return self.call(method, *args)
            except (Cold, Blocking, Waiting, Elsewhere):
                raise
            except Exception as error:
                self.outcomes.append(Raised(error))
                raise
        return self.call(method, *args)

    def identity(self, file: File) -> Identity:
        """A file's identity, as this dialect has it."""
        return file.identity

    def qid(self, file: File) -> Qid:
        """A file's identity, as a field of a message."""
        return Qid(*self.identity(file))

    def error(self, number: int) -> m.Message:
        """The reply that reports an error."""
        raise NotImplementedError

    def check_open(self) -> None:
        """Check that one more fid can be open, before a handler's first call that has effects.

        Raises:
            Refused: ENFILE, when the peer's memory is used up.
        """
        if not self.outcomes:  # else it may be open already
            self.fids.check_open()

    def opened(self, fid: Fid) -> Opened:
        """What a fid was opened to.

        Raises:
            Refused: EBADF when it was not.
        """
        if fid.opened is None:
            raise Refused(errno.EBADF)
        return fid.opened

    def closed(self, fid: Fid) -> File:
        """The file of a fid that is not open.

        Raises:
            Refused: EINVAL when it is.
        """
        if fid.opened is not None:
            raise Refused(errno.EINVAL)
        return fid.file

    def attach(self, _: None, message: m.Tattach) -> Body:
        """Let a fid be the root of a tree."""
        if message.afid != m.NOFID:
            raise Refused(errno.EBADF)  # there are none: Tauth is refused
        self.fids.check_new(message.fid)
        user = User(message.uname, None if message.n_uname == m.NONUNAME else message.n_uname)
        file = self.call(self.filesystem.attach, user, message.aname)
        self.fids.table[message.fid] = self.fids.made(file)
        return m.Rattach(self.qid(file))

    def walk(self, fid: Fid, message: m.Twalk) -> Body:
        """Go from one file to another.

        A name that does not exist ends the walk, which then makes no fid. If it is the first name,
        the reply is an error.
        """
        newfid, names, fids = message.newfid, message.wnames, self.fids
        if newfid == message.fid:
            self.closed(fid)
        else:
            fids.check_new(newfid)
        if len(names) == 1:  # as Linux walks
            file = self._step(fid.file, names[0])
            body: Body = _WALKED(1, *self.identity(file))
        else:
            file, way = self._path(fid.file, names)
            body = len(way).to_bytes(2, "little") + b"".join(_QID(*each) for each in way)
            if len(way) < len(names):
                return body
        above, below = file.above, fids.directories.below
        if above in below and not file.weight:  # `Fids.made`, in the common case
            below[above] += 1
            made = Fid(file)
        else:
            made = fids.made(file)
        if newfid == message.fid:
            fids.replace(newfid, fid, made)
        else:
            fids.table[newfid] = made
        return body

    def _path(self, file: File, names: tuple[bytes, ...]) -> tuple[File, list[Identity]]:
        """Where names lead, and the identities on the way: fewer if a later name fails."""
        way: list[Identity] = []
        for name in names:
            try:
                file = self._step(file, name)
            except (Cold, Blocking):
                raise
            except Exception:
                if not way:
                    raise
                break
            way.append(self.identity(file))
        return file, way

    def _step(self, file: File, name: bytes) -> File:
        if name == b".":
            if file.identity.kind != DIRECTORY:
                raise Refused(errno.ENOTDIR)
            return file
        if not name or b"/" in name or b"\0" in name or len(name) > NAME_MAX:
            check_name(name)
        return self.call(file.walk, name)

    def read(self, fid: Fid, message: m.Tread) -> Body:
        """Read from what is open."""
        count = min(message.count, self.msize - READ_OVERHEAD)
        if message.offset > OFFSET_MAX:
            raise Refused(errno.EINVAL)
        pieces = self.call(self.opened(fid).read, message.offset, count)
        return [COUNT(sum(map(len, pieces))), *pieces]

    def write(self, fid: Fid, message: m.Twrite) -> Body:
        """Write to what is open."""
        if message.offset + len(message.data) > OFFSET_MAX:
            raise Refused(errno.EFBIG)
        count = self.call(self.opened(fid).write, message.offset, message.data)
        return m.Rwrite(count)

    def clunk(self, fid: Fid, message: m.Tclunk) -> Body:
        """Forget a fid; the number is free at once, even if the rest fails."""
        self.fids.forget(message.fid, fid)
        if fid.uncommon is not None and fid.uncommon.remove:
            self.call(fid.file.remove)
        return b""

    def remove(self, fid: Fid, message: m.Tremove) -> Body:
        """Remove a file; its fid is forgotten even if that fails."""
        self.fids.forget(message.fid, fid)
        self.call(fid.file.remove)
        return b""
