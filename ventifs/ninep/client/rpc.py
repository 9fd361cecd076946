"""Requests and their replies over one stream: the client's half of the protocol.

Owns the tags and the fid numbers, the order of sending, flushing, and strict checks: a reply that
answers no request, or exceeds a limit, breaks the connection, and all pending calls fail with the
same `Violation`. Never knows what file a fid refers to. Follows flush(5): an abandoned request is
flushed, its tag stays in use until the Rflush, and a reply that comes before the Rflush counts.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import trio

from ventifs.errors import VentifsError
from ventifs.ninep.client.checks import Violation, check, failure_of
from ventifs.ninep.protocol.codec import READ_OVERHEAD, MessageCodec
from ventifs.ninep.protocol.framing import FrameSizeError, Input
from ventifs.ninep.protocol.messages import (
    NOFID,
    NOTAG,
    Dialect,
    Message,
    Rversion,
    Tclunk,
    Tflush,
    Tremove,
    Tversion,
)
from ventifs.ninep.protocol.wire import WireError
from ventifs.text import printable

MSIZE = 1 << 20  # bytes, asked for by default; the most that Linux's own client takes
_RECEIVED_MAX = 1 << 18  # bytes of one read
_SENT_TOGETHER_MAX = 1 << 16
_ALWAYS_DONE = (Tclunk, Tremove)  # not flushed: they must be done even if the caller is cancelled
_BEST_FIRST = (Dialect.LINUX, Dialect.UNIX, Dialect.PLAIN)

Settled = Callable[[Message | None], None]


class Disconnected(VentifsError):
    """The connection is gone."""


class NumberPool:
    """Allocates numbers from 0 on; returned numbers are used first, in the order of return."""

    def __init__(self, end: int, what: str) -> None:
        """Allocate numbers below `end`; `what` names them in error messages."""
        self._end, self._what = end, what
        self._used = 0  # the numbers below this have been allocated at least once
        self._free: deque[int] = deque()

    def take(self) -> int:
        """Allocate a number that is not in use.

        Raises:
            VentifsError: when all are in use.
        """
        if self._free:
            return self._free.popleft()
        if self._used == self._end:
            raise VentifsError(f"all {self._end} {self._what} of the connection are in use")
        self._used += 1
        return self._used - 1

    def give(self, number: int) -> None:
        """Return a number."""
        self._free.append(number)

    @property
    def in_use(self) -> int:
        """How many numbers are in use."""
        return self._used - len(self._free)


class Call:
    """A request in flight; the caller either waits for its reply or abandons it, once."""

    def __init__(
        self, connection: "RpcConnection", tag: int, request: Message, settled: Settled | None
    ) -> None:
        """Created by `RpcConnection` alone."""
        self.request = request
        self._connection = connection
        self._tag = tag
        self._settled = settled
        self._abandoned = self._flushed = False
        self._done = trio.Event()
        self._reply: Message | None = None
        self._failure: VentifsError | None = None

    async def reply(self) -> Any:
        """Wait for the reply, of the type that belongs to the request.

        When this is cancelled, the request is flushed, except a Tclunk or a Tremove.

        Raises:
            RemoteError: when the server answers with an error.
            Violation, Disconnected: when the connection is lost before the reply.
        """
        try:
            await self._done.wait()
        except trio.Cancelled:
            self.abandon(flush=type(self.request) not in _ALWAYS_DONE)
            raise
        if self._failure is not None:
            raise self._failure
        return self._reply

    def abandon(self, *, flush: bool = True) -> None:
        """Give up waiting; if `flush` is set and no reply has come yet, send a Tflush."""
        if self._done.is_set():
            self._settle(self._reply)
        elif not self._abandoned:
            self._abandoned = True
            self._flushed = flush
            if flush:
                self._connection._flush(self._tag)

    def _settle(self, reply: Message | None) -> None:
        if self._settled is not None:
            self._settled(reply)

    def _finish(self, reply: Message | None, failure: VentifsError | None = None) -> None:
        self._reply, self._failure = reply, failure
        self._done.set()
        if self._abandoned:
            self._settle(reply)


class RpcConnection:
    """One stream to a server.

    Attributes:
        dialect: the dialect in use, once `negotiate` is done.
        msize: the largest message, in bytes.
        fids: the fid numbers.
    """

    def __init__(
        self, stream: trio.abc.Stream, *, trace: Callable[[bool, bytes], None] | None = None
    ) -> None:
        """Use a stream that is connected; nothing is sent yet."""
        self.dialect = Dialect.LINUX
        self.msize = MSIZE
        self._stream = stream
        self._trace = trace
        self._codec = MessageCodec.of(self.dialect)
        self.fids = NumberPool(NOFID, "fids")
        self._tags = NumberPool(NOTAG, "tags")
        self._calls: dict[int, Call] = {}
        self._broken: VentifsError | None = None
        self._queue, self._queued = trio.open_memory_channel[bytes](math.inf)

    @property
    def in_flight(self) -> int:
        """How many requests are not answered yet, flushes included."""
        return len(self._calls)

    async def run(self) -> None:
        """Send and receive until the stream ends or the server breaks the protocol, and close it.

        Raises only when cancelled; pending calls fail with the reason.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send)
                await self._receive()
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(self._stream)

    async def negotiate(self, dialects: Dialect, msize: int) -> None:
        """Agree on the best of some dialects, and on the largest message.

        Raises:
            VentifsError: when the server speaks none of them.
        """
        answered = b""
        for dialect in _BEST_FIRST:
            if dialect not in dialects:
                continue
            self.dialect, self._codec = dialect, MessageCodec.of(dialect)
            self.msize = msize
            call = self._begin(NOTAG, Tversion(msize, dialect.version), None)
            reply: Rversion = await call.reply()
            answered = reply.version
            if answered == dialect.version:
                self.msize = reply.msize
                return
        wanted = " or ".join(each.version.decode() for each in _BEST_FIRST if each in dialects)
        words = printable(answered)
        raise VentifsError(f"the server does not speak {wanted}: it answered '{words}'")

    async def rpc(self, request: Message, settled: Settled | None = None) -> Any:
        """Send a request and wait for its reply; the request is flushed when this is cancelled.

        Args:
            request: a message of the dialect, other than Tversion.
            settled: called when a cancelled request has ended: with its reply if that came before
                the Rflush, with None if no reply or an error came. Not called when the connection
                is lost.

        Raises:
            RemoteError: when the server answers with an error.
            WireError: when the request cannot be encoded, or is larger than msize.
            Violation, Disconnected: when the connection is lost.
        """
        call = self.start(request, settled)
        return await call.reply()

    def start(self, request: Message, settled: Settled | None = None) -> Call:
        """Send a request as `rpc` does, but return at once a call whose reply can be awaited."""
        if self._broken is not None:
            raise self._broken
        tag = self._tags.take()
        try:
            return self._begin(tag, request, settled)
        except BaseException:
            self._tags.give(tag)
            raise

    def _begin(self, tag: int, request: Message, settled: Settled | None) -> Call:
        if self._broken is not None:
            raise self._broken
        frame = self._codec.encode(request, tag)
        if len(frame) > self.msize:
            raise WireError(
                f"a {type(request).__name__} of {len(frame)} bytes; msize is {self.msize}"
            )
        call = self._calls[tag] = Call(self, tag, request, settled)
        self._queue.send_nowait(frame)
        return call

    def _flush(self, tag: int) -> None:
        if self._broken is None and tag != NOTAG:
            self.start(Tflush(tag))

    async def _send(self) -> None:
        try:
            async for frame in self._queued:
                frames, size = [frame], len(frame)
                while size < _SENT_TOGETHER_MAX:
                    try:
                        frames.append(self._queued.receive_nowait())
                    except trio.WouldBlock:
                        break
                    size += len(frames[-1])
                if self._trace is not None:
                    for each in frames:
                        self._trace(False, each)
                await self._stream.send_all(b"".join(frames))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._break(Disconnected("the server closed the connection"))

    async def _receive(self) -> None:
        source = Input()
        try:
            while True:
                data = await self._stream.receive_some(_RECEIVED_MAX)
                if not data:
                    where = " in the middle of a message" if source else ""
                    raise Disconnected(f"the server closed the connection{where}")
                source.receive(bytes(data))
                self._take(source)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._break(Disconnected("the connection broke"))
        except (WireError, Disconnected) as error:
            self._break(error)

    def _take(self, source: Input) -> None:
        """Handle the messages that have arrived whole."""
        try:
            while (frame := source.next(self.msize)) is not None:
                self._on_frame(frame)
        except FrameSizeError as error:
            reason = f"the server sent a message of {error.size} bytes; msize is {self.msize}"
            raise Violation(reason) from None

    def _on_frame(self, frame: bytes) -> None:
        if self._trace is not None:
            self._trace(True, frame)
        try:
            tag, reply = self._codec.decode(frame)
        except WireError as error:
            raise Violation(f"the server sent what is no 9P: {error}") from None
        call = self._calls.get(tag)
        if call is None:
            name = type(reply).__name__
            raise Violation(f"the server sent a {name} of tag {tag}, which nobody waits for")
        failure = failure_of(reply, call.request)
        if failure is None:
            check(call.request, reply)
        del self._calls[tag]
        if tag != NOTAG and not call._flushed:  # a flushed tag stays in use until the Rflush
            self._tags.give(tag)
        if isinstance(call.request, Tflush):
            self._on_flushed(call.request.oldtag)
        call._finish(None if failure else reply, failure)

    def _on_flushed(self, tag: int) -> None:
        flushed = self._calls.pop(tag, None)
        if flushed is not None:
            flushed._finish(None)
        self._tags.give(tag)

    def _break(self, error: VentifsError) -> None:
        """Mark the connection as lost, and fail all pending calls with the reason."""
        if self._broken is not None:
            return
        self._broken = error
        self._queue.close()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call._settled = None  # the server drops the connection's fids by itself
            call._finish(None, error)


def io_max(msize: int, iounit: int) -> int:
    """The largest read in bytes: what fits a message, and no more than the server's iounit."""
    most = msize - READ_OVERHEAD
    return min(most, iounit) if iounit else most
