"""A client of 9P servers: connect, attach, and read files by their paths.

Owns opening and closing the connection. Paths are bytes, walked from the root that was attached to;
symbolic links are not followed. Requests and replies are in rpc.py, the operations of a fid in
fid.py. Needs trio; one connection belongs to one task tree, and any of its tasks may use it.
"""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from ventifs.net.address import Address, parse_address
from ventifs.net.dial import TransportError
from ventifs.net.dial import connect as dial
from ventifs.ninep.client.attributes import Status
from ventifs.ninep.client.checks import RemoteError
from ventifs.ninep.client.fid import ENTRIES_MAX, FILE_MAX, ClientFid, ListedFile
from ventifs.ninep.client.rpc import MSIZE, RpcConnection
from ventifs.ninep.protocol.messages import NOFID, NONUNAME, Dialect, Rattach, Tattach

CONNECT_S = 10.0  # for connecting, and again for agreeing on a version and attaching


class Client:
    """A connection to a server, attached to one of its trees.

    Every request raises `RemoteError` if the server refuses, and `Violation` or `Disconnected` if
    the connection is lost.

    Attributes:
        root: the root of the tree that was attached to.
    """

    def __init__(self, connection: RpcConnection, root: ClientFid) -> None:
        """Called by `connect`."""
        self.root = root
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        where: str | Address | trio.abc.Stream | socket.socket,
        *,
        dialect: Dialect = Dialect.LINUX,
        aname: bytes = b"",
        user: bytes = b"",
        uid: int = NONUNAME,
        msize: int = MSIZE,
        trace: Callable[[bool, bytes], None] | None = None,
    ) -> AsyncIterator["Client"]:
        """Connect to a server and attach; the connection is always closed at the end.

        Args:
            where: an address, or a connected stream or socket, which the client takes over.
            dialect: the dialect to speak; of several, the best that the server speaks.
            aname: the name of the tree.
            user: uname, the name of the user to attach as.
            uid: n_uname, the number of that user; 9P2000 has none.
            msize: the largest message to ask for, in bytes.
            trace: called with (incoming, frame) of each message.

        Raises:
            VentifsError: when connecting fails, when the server does not speak the dialect, or when
                it does not answer within `CONNECT_S` seconds, as servers of other protocols do not.
            RemoteError: when the server refuses.
        """
        async with _connected(await _stream(where), trace) as connection:
            root: ClientFid | None = None
            with trio.move_on_after(CONNECT_S):
                await connection.negotiate(dialect, msize)
                root = await _attach(connection, aname, user, uid)
            if root is None:
                place = f"{where}: " if isinstance(where, str | Address) else ""
                raise TransportError(f"{place}no answer in {CONNECT_S:.0f} s; is it a 9P server?")
            yield cls(connection, root)

    @property
    def connection(self) -> RpcConnection:
        """The connection, for the caller's own requests by `rpc` and `start`."""
        return self._connection

    @property
    def dialect(self) -> Dialect:
        """The dialect that is spoken."""
        return self._connection.dialect

    async def attach(self, aname: bytes, *, user: bytes = b"", uid: int = NONUNAME) -> ClientFid:
        """Attach to another tree, and return its root."""
        return await _attach(self._connection, aname, user, uid)

    async def walk(self, path: bytes) -> ClientFid:
        """The file at a path; use it as a context manager."""
        return await self.root.walk(*names_of(path))

    async def open(self, path: bytes) -> ClientFid:
        """The file at a path, open for reading; use it as a context manager."""
        fid = await self.walk(path)
        try:
            await fid.open()
        except BaseException:
            fid.drop()
            raise
        return fid

    async def stat(self, path: bytes) -> Status:
        """The attributes of a path."""
        async with await self.walk(path) as fid:
            return await fid.status()

    async def read(self, path: bytes, *, size_max: int = FILE_MAX) -> bytes:
        """Read all of a file.

        Raises:
            VentifsError: when it has more than `size_max` bytes.
        """
        pieces: list[bytes] = []
        async with await self.open(path) as fid:
            await fid.read_to(pieces.append, size_max=size_max)
        return b"".join(pieces)

    async def list(self, path: bytes, *, entries_max: int = ENTRIES_MAX) -> list[ListedFile]:
        """The names in a directory, without `.` and `..`."""
        async with await self.open(path) as fid:
            return await fid.entries(entries_max=entries_max)

    async def readlink(self, path: bytes) -> bytes:
        """The target of a symbolic link."""
        async with await self.walk(path) as fid:
            return await fid.readlink()

    async def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """All extended attributes of a path."""
        async with await self.walk(path) as fid:
            return {name: await fid.xattr(name) for name in await fid.xattr_names()}


def names_of(path: bytes) -> tuple[bytes, ...]:
    """The names of a path, in order; `..` is kept, for the server to walk."""
    return tuple(name for name in path.split(b"/") if name not in (b"", b"."))


async def _stream(where: str | Address | trio.abc.Stream | socket.socket) -> trio.abc.Stream:
    if isinstance(where, trio.abc.Stream):
        return where
    if isinstance(where, str):
        where = parse_address(where)
    if not isinstance(where, socket.socket):
        address = where
        where = await trio.to_thread.run_sync(
            lambda: dial(address, CONNECT_S), abandon_on_cancel=True
        )
    return trio.SocketStream(trio.socket.from_stdlib_socket(where))


async def _attach(connection: RpcConnection, aname: bytes, user: bytes, uid: int) -> ClientFid:
    number = connection.fids.take()
    try:
        reply: Rattach = await connection.rpc(Tattach(number, NOFID, user, aname, uid))
    except RemoteError:
        connection.fids.give(number)
        raise
    return ClientFid(connection, number, reply.qid)


@asynccontextmanager
async def _connected(
    stream: trio.abc.Stream, trace: Callable[[bool, bytes], None] | None
) -> AsyncIterator[RpcConnection]:
    """A running connection; what the body raises propagates as it is, in no exception group."""
    connection = RpcConnection(stream, trace=trace)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        try:
            yield connection
        except trio.Cancelled:
            raise
        except BaseException as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
