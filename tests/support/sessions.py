"""Servers in this process for tests, and clients that send exactly the given bytes."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import trio

from tests.support.memoryfs import MemoryFilesystem
from tests.support.patience import PATIENCE_S as PATIENCE_S
from ventifs.net.allow_list import Exports
from ventifs.net.channel import DescriptorChannel, socket_channel
from ventifs.net.peer import Peer
from ventifs.ninep.protocol.codec import MessageCodec
from ventifs.ninep.protocol.messages import NOFID, NOTAG, Dialect, Message, Tattach, Tversion
from ventifs.ninep.session.front_end import NinepFrontEnd
from ventifs.ninep.session.limits import SessionLimits
from ventifs.ninep.session.session import Trace
from ventifs.serving.connections import Server

MSIZE = 65536
CODEC = MessageCodec.of(Dialect.LINUX)
PEER = Peer(kind="unix", pid=1, uid=0, gid=0)
EVERYTHING = Exports(("*",))


class Caller:
    """A client: frames out, frames in, one after the other."""

    def __init__(self, connected: socket.socket) -> None:
        """Use a connected socket, which becomes non-blocking."""
        connected.setblocking(False)
        self.socket = trio.socket.from_stdlib_socket(connected)
        self._rest = b""

    async def send(self, *requests: tuple[int, Message]) -> None:
        """Send requests, by tag, in one piece."""
        await self.send_bytes(frames(*requests))

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        left = memoryview(data)
        while left:
            left = left[await self.socket.send(left) :]

    async def reply(self) -> tuple[int, Any]:
        """Receive the next reply, with its tag."""
        with trio.fail_after(PATIENCE_S):
            while len(self._rest) < 4 or len(self._rest) < self._size():
                more = await self.socket.recv(1 << 16)
                assert more, "the server hung up"
                self._rest += more
        size = self._size()
        frame, self._rest = self._rest[:size], self._rest[size:]
        return CODEC.decode(frame)

    async def ask(self, message: Message, tag: int = 1) -> Any:
        """Send a request; return its reply."""
        await self.send((tag, message))
        answered, reply = await self.reply()
        assert answered == tag
        return reply

    async def attach(self, msize: int = MSIZE) -> Self:
        """Agree on a version and attach to the root, as fid 0."""
        await self.ask(Tversion(msize, b"9P2000.L"), NOTAG)
        await self.ask(Tattach(0, NOFID, b"root", b"", 0))
        return self

    async def hung_up(self) -> bool:
        """Whether the server closes the connection without sending anything before."""
        with trio.fail_after(PATIENCE_S), suppress(ConnectionResetError):
            return await self.socket.recv(1) == b""
        return True

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def _size(self) -> int:
        return int.from_bytes(self._rest[:4], "little")


def frames(*requests: tuple[int, Message]) -> bytes:
    """Requests as bytes."""
    return b"".join(CODEC.encode(message, tag) for tag, message in requests)


class Serving:
    """A running server, and connections to it."""

    def __init__(self, server: Server) -> None:
        """Serve; connections are closed at the end of the test."""
        self.server = server
        self.over = 0
        self._callers: list[Caller] = []

    def connect(self, room: int | None = None) -> Caller:
        """Connect a client by a socket pair whose buffers hold about `room` bytes."""
        ours, theirs = socket.socketpair()
        if room is not None:
            for end in ours, theirs:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        self.start(socket_channel(theirs))
        caller = Caller(ours)
        self._callers.append(caller)
        return caller

    def start(self, channel: DescriptorChannel) -> None:
        """Serve a channel."""
        self.server.start(channel, PEER, EVERYTHING, self._over)

    def close(self) -> None:
        """Close what clients left open."""
        for caller in self._callers:
            caller.close()

    def _over(self) -> None:
        self.over += 1


@asynccontextmanager
async def serving(
    filesystem: MemoryFilesystem,
    *,
    limits: SessionLimits | None = None,
    trace: Callable[[], Trace] | None = None,
) -> AsyncIterator[Serving]:
    """A server over a file system in memory."""
    server = Server(NinepFrontEnd(limits, trace), lambda peer, exports: filesystem)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        serving = Serving(server)
        try:
            yield serving
        finally:
            serving.close()
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until a condition is true; fails if that takes too long."""
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.lowlevel.checkpoint()
