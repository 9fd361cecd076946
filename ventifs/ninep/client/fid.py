"""Files of a server: the operations of a client's fid, the same in all three dialects.

Owns which messages an operation sends in a dialect, and the checks of their replies: it refuses
invalid names, directories without an end and attributes beyond Linux's limits. A `ClientFid` has
one fid number of the connection, returned when the fid is clunked. Several tasks may use it at
once.
"""

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec

from ventifs.errors import VentifsError
from ventifs.ninep.client.attributes import BASIC, Status, status_of
from ventifs.ninep.client.checks import RemoteError, Violation
from ventifs.ninep.client.rpc import Call, RpcConnection, io_max
from ventifs.ninep.protocol.codec import MessageCodec
from ventifs.ninep.protocol.messages import (
    Dialect,
    Message,
    Rgetattr,
    Ropen,
    Rread,
    Rreaddir,
    Rreadlink,
    Rstat,
    Rstatfs,
    Rwalk,
    Rwrite,
    Rxattrwalk,
    Stat,
    Tclunk,
    Tgetattr,
    Tlopen,
    Topen,
    Tread,
    Treaddir,
    Treadlink,
    Tstat,
    Tstatfs,
    Twalk,
    Twrite,
    Txattrwalk,
)
from ventifs.ninep.protocol.wire import NAMES_MAX, Qid, WireError

ENTRIES_MAX = 1 << 20  # names in a directory
XATTR_MAX = 1 << 16  # bytes of one attribute, and of all their names: Linux's XATTR_SIZE_MAX
NAME_MAX = 255
FILE_MAX = (1 << 63) - 1  # bytes
_AHEAD_MAX = 8  # reads in flight of one sequential reader
_WALK_FIXED = 17  # bytes of a Twalk without names
_OTRUNC = 0x10


class ListedFile(msgspec.Struct, frozen=True):
    """A name in a directory.

    Attributes:
        name: a valid name; `.` and `..` only from `ClientFid.page`, and only in 9P2000.L.
        qid: of the file.
        type: d_type of readdir(3), in 9P2000.L; 0 elsewhere.
        status: all attributes, in 9P2000 and 9P2000.u; None in 9P2000.L.
    """

    name: bytes
    qid: Qid
    type: int = 0
    status: Status | None = None


class ClientFid:
    """A file of the server; a context manager that clunks its fid.

    Every method raises what `RpcConnection.rpc` raises.

    Attributes:
        qid: as the walk or the attach returned it.
        number: the fid on the wire.
        iounit: the largest read in bytes, once the file is open.
    """

    def __init__(self, connection: RpcConnection, number: int, qid: Qid) -> None:
        """Take over a fid number that the server already knows."""
        self.qid = qid
        self.number = number
        self.iounit = 0
        self._connection = connection
        self._clunked = False

    async def __aenter__(self) -> Self:
        """Return the fid itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Clunk the fid; a failure of that is raised only if the body raised nothing."""
        try:
            await self.clunk()
        except VentifsError:
            if error is None:
                raise

    async def clunk(self) -> None:
        """Clunk the fid, also when this is cancelled; a second call does nothing."""
        if self._clunked:
            return
        self._clunked = True
        call = _clunking(self._connection, self.number)
        try:
            await call.reply()
        except RemoteError:  # the fid is gone all the same
            self._connection.fids.give(self.number)
            raise
        self._connection.fids.give(self.number)

    def drop(self) -> None:
        """Clunk the fid without waiting for the reply."""
        if not self._clunked:
            self._clunked = True
            _clunk_later(self._connection, self.number)

    async def walk(self, *names: bytes) -> "ClientFid":
        """Walk names from this file, and return a new fid; without names, one of the same file.

        Raises:
            RemoteError: with ENOENT, too, when the server walked only some of the names.
        """
        connection, start, qid = self._connection, self.number, self.qid
        number = connection.fids.take()

        def undo(exists: bool) -> None:
            if exists:
                _clunk_later(connection, number)
            else:
                connection.fids.give(number)

        for part in _parts(names, connection.msize):
            request = Twalk(start, number, part)
            exists = start == number

            def settled(
                reply: Message | None, request: Twalk = request, was: bool = exists
            ) -> None:
                undo(was or (isinstance(reply, Rwalk) and len(reply.wqids) == len(request.wnames)))

            try:
                reply: Rwalk = await connection.rpc(request, settled)
            except (RemoteError, WireError):
                undo(exists)
                raise
            if len(reply.wqids) < len(part):
                undo(exists)
                raise RemoteError(errno.ENOENT)
            qid = reply.wqids[-1] if part else qid
            start = number
        return ClientFid(connection, number, qid)

    async def open(self, flags: int = os.O_RDONLY) -> None:
        """Open the file; 9P2000 and 9P2000.u know only access modes and O_TRUNC of the flags."""
        if self._connection.dialect is Dialect.LINUX:
            request: Message = Tlopen(self.number, flags)
        else:
            truncates = _OTRUNC if flags & os.O_TRUNC else 0
            request = Topen(self.number, flags & os.O_ACCMODE | truncates)
        reply: Ropen = await self._connection.rpc(request)
        self.iounit = io_max(self._connection.msize, reply.iounit)

    async def read(self, offset: int, count: int) -> bytes:
        """Read from an open file; the server may send fewer bytes, and sends none at the end.

        `count` is at most `iounit`.
        """
        reply: Rread = await self._connection.rpc(self._tread(offset, count))
        return reply.data

    async def write(self, offset: int, data: bytes) -> int:
        """Write to an open file, and return how many bytes were written."""
        reply: Rwrite = await self._connection.rpc(Twrite(self.number, offset, data))
        return reply.count

    async def read_to(
        self,
        sink: Callable[[bytes], object],
        *,
        expected: int = FILE_MAX,
        size_max: int = FILE_MAX,
    ) -> int:
        """Read an open file from its start to its end, and pass the bytes to `sink` in order.

        Several reads are in flight at a time. The file ends where a read returns no bytes, whatever
        its attributes say.

        Args:
            sink: called with pieces of at most `iounit` bytes.
            expected: offset from which on nothing is read ahead.
            size_max: the most bytes that are accepted.

        Returns:
            The number of bytes read.

        Raises:
            VentifsError: when the file has more than `size_max` bytes.
        """
        done = asked = 0
        ahead, ahead_max = 1, _AHEAD_MAX
        calls: deque[Call] = deque()
        try:
            while True:
                while not calls or (len(calls) < ahead and asked < expected):
                    calls.append(self._connection.start(self._tread(asked, self.iounit)))
                    asked += self.iounit
                reply: Rread = await calls[0].reply()
                calls.popleft()
                if not reply.data:
                    return done
                done += len(reply.data)
                if done > size_max:
                    raise VentifsError(f"more than {size_max:,} bytes; that is too large")
                sink(reply.data)
                ahead = min(ahead + 1, ahead_max)
                if len(reply.data) < self.iounit:  # the end, or the server's limit of a read
                    _abandon(calls)
                    ahead = ahead_max = 1
                    asked = done
        finally:
            _abandon(calls)

    async def status(self) -> Status:
        """The file's attributes as in stat(2), as far as the dialect carries them."""
        connection = self._connection
        if connection.dialect is Dialect.LINUX:
            attributes: Rgetattr = await connection.rpc(Tgetattr(self.number, BASIC))
            return _checked(attributes, connection.dialect)
        reply: Rstat = await connection.rpc(Tstat(self.number))
        return _checked(reply.stat, connection.dialect)

    async def entries(self, *, entries_max: int = ENTRIES_MAX) -> list[ListedFile]:
        """All names in an open directory, in the server's order, without `.` and `..`.

        Raises:
            VentifsError: when there are more than `entries_max`.
            Violation: for an invalid name, or one that is listed twice.
        """
        found: dict[bytes, ListedFile] = {}
        offset = 0
        while True:
            page, offset = await self.page(offset)
            if not page:
                return [entry for name, entry in found.items() if name not in (b".", b"..")]
            for entry in page:
                if entry.name in found:
                    raise Violation(f"the server lists {entry.name!r} twice")
                found[entry.name] = entry
            if len(found) > entries_max:
                raise VentifsError(
                    f"a directory of more than {entries_max:,} names; that is too many"
                )

    async def page(self, offset: int) -> tuple[list[ListedFile], int]:
        """A page of names in an open directory, and the offset of the next page.

        Args:
            offset: 0, or one that this returned. At the end of the directory there are no names.
        """
        connection = self._connection
        codec = MessageCodec.of(connection.dialect)
        try:
            if connection.dialect is Dialect.LINUX:
                listed: Rreaddir = await connection.rpc(Treaddir(self.number, offset, self.iounit))
                dirents = list(codec.dirents(listed.data))
                page = [ListedFile(each.name, each.qid, each.type) for each in dirents]
                end = dirents[-1].offset if dirents else offset
            else:
                read: Rread = await connection.rpc(self._tread(offset, self.iounit))
                statuses = [_checked(each, connection.dialect) for each in codec.stats(read.data)]
                page = [ListedFile(each.name, each.qid, status=each) for each in statuses]
                end = offset + len(read.data)
        except Violation:
            raise
        except WireError as error:
            raise Violation(f"the server sent what is no directory: {error}") from None
        for entry in page:
            _check_name(entry.name, dots=connection.dialect is Dialect.LINUX)
        if page and end == offset:
            raise Violation("the server's directory does not go on: its last offset is its first")
        return page, end

    async def readlink(self) -> bytes:
        """The target of a symbolic link.

        Raises:
            RemoteError: EINVAL when the file is none; 9P2000 has no symbolic links.
        """
        connection = self._connection
        if connection.dialect is not Dialect.LINUX:
            target = (await self.status()).target
            if target is None:
                raise RemoteError(errno.EINVAL)
        else:
            reply: Rreadlink = await connection.rpc(Treadlink(self.number))
            target = reply.target
        if not target or b"\0" in target:
            raise Violation(f"the server sent a symbolic link to {target[:40]!r}")
        return target

    async def xattr_names(self) -> list[bytes]:
        """The names of its extended attributes.

        Raises:
            RemoteError: EOPNOTSUPP in a dialect without extended attributes.
        """
        listed = await self._xattr(b"")
        names = listed.split(b"\0")
        if names.pop() or not all(0 < len(name) <= NAME_MAX for name in names):
            raise Violation("the server sent no list of attributes' names")
        return names

    async def xattr(self, name: bytes) -> bytes:
        """One extended attribute.

        Raises:
            RemoteError: ENODATA when the file has no such attribute, EOPNOTSUPP as `xattr_names`.
        """
        return await self._xattr(name)

    async def _xattr(self, name: bytes) -> bytes:
        connection = self._connection
        if connection.dialect is not Dialect.LINUX:
            raise RemoteError(errno.EOPNOTSUPP)
        number = connection.fids.take()

        def settled(reply: Message | None) -> None:
            if reply is None:
                connection.fids.give(number)
            else:
                _clunk_later(connection, number)

        try:
            reply: Rxattrwalk = await connection.rpc(Txattrwalk(self.number, number, name), settled)
        except (RemoteError, WireError):
            connection.fids.give(number)
            raise
        async with ClientFid(connection, number, self.qid) as attribute:
            if reply.size > XATTR_MAX:
                raise Violation(f"the server has an attribute of {reply.size} bytes")
            attribute.iounit = io_max(connection.msize, 0)
            pieces: list[bytes] = []
            await attribute.read_to(pieces.append, size_max=reply.size)
            value = b"".join(pieces)
        if len(value) != reply.size:
            raise Violation(f"the server sent {len(value)} of an attribute's {reply.size} bytes")
        return value

    async def statfs(self) -> Rstatfs:
        """The size and free space of the file's file system.

        Raises:
            RemoteError: EOPNOTSUPP in a dialect without Tstatfs.
        """
        if self._connection.dialect is not Dialect.LINUX:
            raise RemoteError(errno.EOPNOTSUPP)
        reply: Rstatfs = await self._connection.rpc(Tstatfs(self.number))
        return reply

    def _tread(self, offset: int, count: int) -> Tread:
        return Tread(self.number, offset, count)


def _parts(names: Sequence[bytes], msize: int) -> list[tuple[bytes, ...]]:
    """Divide names among as few Twalks as possible."""
    parts: list[list[bytes]] = [[]]
    size = _WALK_FIXED
    for name in names:
        size += 2 + len(name)
        if parts[-1] and (len(parts[-1]) == NAMES_MAX or size > msize):
            parts.append([])
            size = _WALK_FIXED + 2 + len(name)
        parts[-1].append(name)
    return [tuple(part) for part in parts]


def _clunking(connection: RpcConnection, number: int) -> Call:
    return connection.start(Tclunk(number), lambda _: connection.fids.give(number))


def _clunk_later(connection: RpcConnection, number: int) -> None:
    """Clunk a fid without waiting for the reply, since nothing uses the fid any more."""
    with suppress(VentifsError):
        _clunking(connection, number).abandon(flush=False)


def _abandon(calls: deque[Call]) -> None:
    for call in calls:
        call.abandon()
    calls.clear()


def _checked(told: Rgetattr | Stat, dialect: Dialect) -> Status:
    try:
        return status_of(told, dialect)
    except WireError as error:
        raise Violation(f"the server sent {error}") from None


def _check_name(name: bytes, *, dots: bool) -> None:
    if not 0 < len(name) <= NAME_MAX or b"/" in name or b"\0" in name:
        raise Violation(f"the server lists a name that cannot be: {name[:40]!r}")
    if not dots and name in (b".", b".."):
        raise Violation(f"the server lists {name!r}, which this dialect does not")
