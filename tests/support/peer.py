"""A minimal 9P server that a test scripts: it takes requests and sends given replies."""

from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

import trio
from trio.testing import MockClock, memory_stream_pair

from ventifs.ninep.client.client import Client
from ventifs.ninep.protocol.codec import HEADER, HEADER_SIZE, MessageCodec
from ventifs.ninep.protocol.messages import (
    NOTAG,
    Dialect,
    Message,
    Rattach,
    Rversion,
    Tattach,
    Tversion,
)
from ventifs.ninep.protocol.wire import Qid

PATIENCE_S = 60  # on a clock that jumps there when all tasks wait
ROOT = Qid(0x80, 1, 1)
M = TypeVar("M", bound=Message)
Script = Callable[["Peer"], Awaitable[object]]


class Peer:
    """The server's end of a stream."""

    def __init__(self, stream: trio.abc.Stream, dialect: Dialect) -> None:
        self.stream = stream
        self.codec = MessageCodec.of(dialect)
        self.tag = NOTAG  # of the last request

    async def take(self, kind: type[M]) -> M:
        """Receive the next request, which must be of this type."""
        head = await self._exactly(HEADER_SIZE)
        size = HEADER.unpack(head)[0]
        self.tag, request = self.codec.decode(head + await self._exactly(size - HEADER_SIZE))
        assert isinstance(request, kind), request
        return request

    async def say(self, message: Message, tag: int | None = None) -> None:
        """Send a message; without `tag`, as the reply to the last request."""
        await self.stream.send_all(self.codec.encode(message, self.tag if tag is None else tag))

    async def serve(self, kind: type[M], answer: Message) -> M:
        """Take a request, and answer it."""
        request = await self.take(kind)
        await self.say(answer)
        return request

    async def silence(self) -> None:
        """Check that the client sends nothing more and closes the stream."""
        assert await self.stream.receive_some() == b""

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = await self.stream.receive_some(size - len(data))
            assert piece, "the client has gone"
            data += piece
        return data

    async def begin(self, msize: int = 8192) -> Self:
        """Answer the version and the attach."""
        request = await self.take(Tversion)
        await self.say(Rversion(min(msize, request.msize), request.version))
        await self.serve(Tattach, Rattach(ROOT))
        return self


async def elapse(seconds: float) -> None:
    """Advance the clock of `converse`, which jumps as soon as every task waits."""
    await trio.sleep(seconds)  # noqa: TID251


def converse(
    client: Callable[[Client], Awaitable[Any]],
    script: Script,
    *,
    dialect: Dialect = Dialect.LINUX,
    begin: bool = True,
    **wanted: Any,
) -> Any:
    """Run a client against a script, and return what the client's function returns.

    With `begin` the handshake comes before the script. Raises what the client raises.
    """

    async def main() -> Any:
        ours, theirs = memory_stream_pair()
        peer = Peer(theirs, dialect)
        ended: list[Any] = []
        failed: list[Exception] = []

        async def serve() -> None:
            if begin:
                await peer.begin()
            await script(peer)

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                try:
                    async with Client.connect(ours, dialect=dialect, **wanted) as connected:
                        ended.append(await client(connected))
                except Exception as error:
                    failed.append(error)
        if failed:
            raise failed[0]
        return ended[0]

    return trio.run(main, clock=MockClock(autojump_threshold=0))
