"""A 9P session without I/O: bytes in, replies out, whatever the dialect.

It owns the stream of one connection: framing, the dialect, dispatch, and the replies of a turn. A
request that need not wait for anything is answered as soon as a turn reaches it; others go into
flight (`in_flight.py`). Always: a reply is smaller than msize; no input raises anything but
`StreamError`; requests, replies and fids are limited, and the session takes memory for them from
its peer's share before it holds them. With too little memory it agrees on smaller messages, and
refuses new fids. Fids that are still being closed stay charged until `LeftFids` gives their memory
back. The file system's caches are not charged: they have bounds of their own. The session knows no
sockets, no threads and no clock but the one that ends a turn.

A connection can go on in another process: a session that is asked for an export which is served
elsewhere stops before that request (`elsewhere`), and another session begins with the version that
was agreed on.
"""

import errno
import struct
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from ventifs.buffer import Buffer, Piece, joined
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.codec import HEADER, HEADER_SIZE, READ_OVERHEAD, MessageCodec
from ventifs.ninep.protocol.framing import Input
from ventifs.ninep.protocol.wire import Decode, WireError
from ventifs.ninep.session.fids import USES, Fid, Fids, LeftFids, Uses
from ventifs.ninep.session.handlers import Body, Handlers, decode_write
from ventifs.ninep.session.handlers_linux import LinuxHandlers
from ventifs.ninep.session.handlers_plan9 import Plan9Handlers, UnixHandlers
from ventifs.ninep.session.in_flight import InFlight, PendingRequest, close_opened
from ventifs.ninep.session.limits import MSIZE_FIRST, SessionLimits
from ventifs.ninep.session.output import SMALL, TurnOutput
from ventifs.serving.session import Agreed, Handover, SessionCounters, StreamError
from ventifs.vfs.errnos import errno_of
from ventifs.vfs.interface import (
    Blocking,
    Cold,
    Elsewhere,
    Filesystem,
    Load,
    Refused,
    Wait,
    Waiting,
)
from ventifs.vfs.memory_budget import Share

Trace = Callable[[bool, bytes], None]
"""Called with every message: (incoming, the whole frame)."""

MSIZE_MIN = 4096  # Linux's client asks for no less
TRIES_MAX = 10_000  # runs of one request; each has brought something into memory, or should have
DIALECTS: dict[bytes, type[Handlers]] = {
    handlers.dialect.version: handlers for handlers in (LinuxHandlers, UnixHandlers, Plan9Handlers)
}

_HEADER = HEADER.pack
_HEAD = struct.Struct(
    "<IBHI"
).unpack_from  # size, type, tag, and the fid that nearly all requests begin with
_Handling = tuple[Decode, Callable[[Any, Any], Any], Uses, bool]


class NinepSession:
    """The server's side of one connection.

    The driver alternates `receive` and `turn`, sends the replies of a turn before the next turn,
    has `loads` run, tries `waits`, and passes the results of both to `finish`. At the end it must
    call `close`, since the garbage collector does not close fids; results of loads that threads
    have then are passed to `finish` even after that. All calls come from one thread.

    Attributes:
        counters: what it has done.
        elsewhere: set when the session has stopped, because another process goes on with the
            connection.
    """

    def __init__(
        self,
        filesystem: Filesystem,
        *,
        limits: SessionLimits | None = None,
        trace: Trace | None = None,
        clock: Callable[[], float] = perf_counter,
        share: Share | None = None,
        leave: Callable[[LeftFids], None] = LeftFids.all,
        agreed: Agreed | None = None,
    ) -> None:
        """Serve a file system.

        Args:
            filesystem: where clients attach.
            limits: of the session.
            trace: gets every message.
            clock: returns seconds; a turn ends when `SessionLimits.turn_s` have passed on it.
            share: of the peer's memory; unlimited by default. The caller has taken the
                `session_bytes` of `MSIZE_FIRST` from it for this session.
            leave: see `Fids`.
            agreed: what another session agreed on with the client, if this one continues it. If
                the peer's share has no memory for messages of that size, the first turn raises
                `StreamError`.
        """
        self.elsewhere: Handover | None = None
        self.counters = SessionCounters()
        self._filesystem = filesystem
        self._limits = limits or SessionLimits()
        self._trace = trace
        self._clock = clock
        self._fids = Fids(self._limits.fids_max, self._limits.held_max, share, leave)
        self._taken = self._limits.session_bytes(MSIZE_FIRST)  # of the share, beside fids
        if share is None:
            self._fids.share.take(self._taken)
        self._frames_max = self._limits.in_flight_bytes(MSIZE_FIRST)
        self._flight = InFlight()
        self._msize = MSIZE_FIRST
        self._handlers: Handlers = Plan9Handlers(filesystem, self._fids, MSIZE_FIRST)
        self._table: list[_Handling | None] = [None] * 256
        self._closed = False
        self._input = Input()
        self._output = TurnOutput(self._limits.turn_bytes)  # of this turn
        self._budget = 0
        self._lacking = ""  # why it cannot go on as agreed
        self._no_version()
        if agreed is not None:
            self._continue(agreed)

    # Input

    def receive(self, data: bytes) -> None:
        """Take bytes as they came, however they were cut."""
        if not self._closed:
            self._input.receive(data)

    @property
    def _full(self) -> bool:
        """Whether so much is in flight that no new request is looked at."""
        flight, limits = self._flight, self._limits
        if not (flight.tags or flight.loads):
            return False  # fast path for the common case
        return (
            len(flight.tags) >= limits.in_flight_max
            or flight.size >= self._frames_max
            or flight.results >= limits.in_flight_bytes_max
            or len(flight.loads) >= limits.in_flight_max  # of requests that were flushed, too
        )

    @property
    def hungry(self) -> bool:
        """Whether more input is to be read."""
        if self._closed or self.elsewhere is not None or self._full:
            return False
        source = self._input
        if source.at == len(source.data) and not source.tail:
            return True  # fast path: all input is used up, as in `more`
        return len(source) < max(self._frames_max, self._msize)

    @property
    def more(self) -> bool:
        """Whether another turn would do something, without more input or finished loads."""
        if self._closed or self.elsewhere is not None:
            return False
        if self._flight.ready:
            return True
        source = self._input
        if source.at == len(source.data) and not source.tail:
            return False
        try:
            return not self._full and source.frame(self._msize)
        except WireError:
            return True  # the next turn raises it

    # Work in threads, and waits

    def loads(self) -> list[Load]:
        """Loads to be run by threads, each handed out once."""
        return self._flight.new_loads()

    def waits(self) -> list[Wait]:
        """Waits to be tried again and again, each handed out once."""
        return self._flight.new_waits()

    def finish(
        self, on: Load | Wait, value: Any = None, error: BaseException | None = None
    ) -> None:
        """Take what a load or a wait returned or raised.

        The result is dropped if no request waits for it; what it opened is closed then.
        """
        self._flight.finish(on, value, error)

    @property
    def dialect(self) -> str | None:
        """The version that was agreed on; None before, and after one that is unknown."""
        if self._table[m.Tattach.type] is None:
            return None
        return self._handlers.dialect.version.decode()

    @property
    def in_flight(self) -> int:
        """Requests that are not answered."""
        return len(self._flight.tags)

    @property
    def handles(self) -> int:
        """How many fids there are."""
        return len(self._fids.table)

    @property
    def memory(self) -> int:
        """Bytes charged to the peer for this session, without the extra charges of single fids."""
        return self._taken + self._fids.memory

    def tidy(self) -> None:
        """Let go of what the last request looked at, and of the directory that was left last."""
        self._handlers.begin()
        self._fids.directories.forget_left()

    def close(self) -> None:
        """The connection is gone: drop every request and fid. Idempotent."""
        self._closed = True
        self._input = Input()
        self._flight.reset()
        self._handlers.begin()
        self._fids.clear()
        self._fids.share.give(self._taken)
        self._taken = 0

    # A turn

    def turn(self) -> list[Piece]:
        """Answer what can be answered, within limits; return the replies, in order.

        Raises:
            StreamError: when the stream cannot go on. Earlier turns have returned all replies that
                there were; requests in flight are not answered.
        """
        if self._lacking:
            raise StreamError(self._lacking)
        limits, flight = self._limits, self._flight
        deadline = self._clock() + limits.turn_s
        self._budget = limits.turn_requests
        over = False
        while not self._closed and not over and self.elsewhere is None:
            if flight.ready:
                self._budget -= 1
                self._resume(flight.ready.popleft())
                over = self._spent(deadline)
            elif self._full:
                break
            else:
                try:
                    if not self._input.frame(self._msize):
                        break
                except WireError as error:
                    if self._output.size:
                        break  # send these first; the next turn raises
                    raise StreamError(f"no 9P: {error}") from error
                over = self._answer(deadline)
        replies, self._output = self._output, TurnOutput(limits.turn_bytes)
        self.counters.replied += replies.size
        return replies.collected()

    def _spent(self, deadline: float) -> bool:
        """Whether the turn is over."""
        return (
            self._budget <= 0
            or self._output.size >= self._limits.turn_bytes
            or self._output.pinned >= self._limits.turn_pinned
            or self._clock() > deadline
        )

    def _answer(self, deadline: float) -> bool:
        """Answer the frames at hand as long as they are common ones; the first must be whole.

        Returns:
            Whether the turn is over, as it is when nothing is left at hand.

        Nearly all requests take this loop, so it does the least that it can: see
        docs/performance.md. An uncommon request goes to `_request`, alone.
        """
        source, output, msize = self._input, self._output, self._msize
        data, size_of = source.data, len(source.data)
        at = start = source.at
        table, fids, tags = self._table, self._fids.table, self._flight.tags
        add, outcomes, counters = output.small.append, self._handlers.outcomes, self.counters
        requests = counters.requests
        entry: _Handling | None
        while not tags and at + 11 <= size_of:
            size, number, tag, fid_number = _HEAD(data, at)
            end = at + size
            if size < 11 or size > msize or end > size_of:
                break
            entry = table[number]
            fid = fids.get(fid_number)
            if entry is None or fid is None or not entry[3] or self._trace is not None:
                break
            source.at = end
            self._budget -= 1
            requests[number] += 1
            message = None
            outcomes.clear()
            try:
                message = entry[0](data, at + 7, end)
                body = entry[1](fid, message)
            except Exception as error:
                self._failed(tag, number, message, size, entry, fid, error)
                return self._spent(deadline)
            counters.hits += 1
            at = end
            if body.__class__ is bytes and len(body) < SMALL - 7:
                size = len(body) + 7
                add(_HEADER(size, number + 1, tag))
                add(body)
                output.size += size
                if self._budget & 3 and at < size_of:
                    continue  # reading a clock costs as much as a small reply: once for four
            else:
                self._reply(tag, number, body)
            if at == size_of or self._spent(deadline):
                return True
        if at == start:
            self._request()
        return self._spent(deadline)

    def _request(self) -> None:
        """Answer the request at hand, or let it wait."""
        data, at = self._input.data, self._input.at
        size, number, tag = HEADER.unpack_from(data, at)
        end = self._input.at = at + size
        self._budget -= 1
        self.counters.requests[number] += 1
        if self._trace is not None:
            self._trace(True, data[at:end])
        entry = self._table[number]
        if entry is None:
            self._fail(tag, Refused(errno.EOPNOTSUPP))
            return
        message = fid = None
        try:
            message = entry[0](data, at + HEADER_SIZE, end)
            if self._flight.tags and self._waits(tag, number, message, size, entry):
                return
            if entry[3]:
                fid = self._fids.of(getattr(message, entry[2].named[0]))
            elif number in _OWN:
                entry[1](tag, message)
                return
            self._handlers.begin()
            body = entry[1](fid, message)
        except Exception as error:
            self._failed(tag, number, message, size, entry, fid, error)
        else:
            self.counters.hits += 1
            self._reply(tag, number, body)

    def _failed(
        self,
        tag: int,
        number: int,
        message: Any,
        size: int,
        entry: _Handling,
        fid: Fid | None,
        error: Exception,
    ) -> None:
        """A request could not be answered at once: it has to wait, or is refused."""
        if isinstance(error, (Cold, Blocking, Waiting)):
            request = self._in_flight(tag, number, message, size, entry)
            request.fid = fid
            self._suspend(request, error)
        elif isinstance(error, Elsewhere):
            request = self._in_flight(tag, number, message, size, entry)
            if not self._hand_over(request, error.export):
                self._fail(tag, Refused(errno.EXDEV))
        else:
            self._fail(tag, error)

    def _waits(self, tag: int, number: int, message: Any, size: int, entry: _Handling) -> bool:
        """Whether a request has to wait for earlier ones; if so, it is in flight then.

        Raises:
            Refused: EPROTO for the tag of one that is in flight; that one is not disturbed.
        """
        flight, uses = self._flight, entry[2]
        if number == m.Tversion.type:
            return False
        if tag in flight.tags:
            raise Refused(errno.EPROTO)
        if not (flight.changing or flight.waiting) or not uses.named:
            return False
        named, changed = uses.of(message)
        if not flight.must_wait(named, changed):
            return False
        flight.wait(self._in_flight(tag, number, message, size, entry))
        return True

    def _in_flight(
        self, tag: int, number: int, message: Any, size: int, entry: _Handling
    ) -> PendingRequest:
        self.counters.colds += 1
        named, changed = entry[2].of(message)
        return PendingRequest(tag, number, message, size, entry[1], entry[2], named, changed)

    def _suspend(self, request: PendingRequest, missing: Cold | Blocking | Waiting) -> None:
        error = self._handlers.unheard
        if error is None and request.tries > TRIES_MAX:
            error = RuntimeError("a file system asks for loads without end")
        request.outcomes = self._handlers.outcomes
        self._handlers.begin()
        if error is not None:
            close_opened(request.outcomes)
            self._fail(request.tag, error)
            self._done(request)
        elif isinstance(missing, Cold):
            # What a load without a key has read waits here until the replies before it are sent.
            asked = getattr(request.message, "count", 0) if missing.load.key is None else 0
            self._flight.suspend_for_load(request, missing.load, min(asked, self._msize))
        elif isinstance(missing, Blocking):
            self._flight.suspend_for_work(request, missing.work)
        else:
            self._flight.suspend_for_wait(request, missing.wait)

    def _resume(self, request: PendingRequest) -> None:
        """Run a request again, or, if it waited for fids, for the first time."""
        handlers = self._handlers
        try:
            if request.fid is None and type(request.message) not in _WITHOUT_FID:
                request.fid = self._fids.of(getattr(request.message, request.uses.named[0]))
            handlers.begin(request.outcomes)
            body = request.handle(request.fid, request.message)
        except (Cold, Blocking, Waiting) as missing:
            self._suspend(request, missing)
            return
        except Elsewhere as elsewhere:
            if self._hand_over(request, elsewhere.export):
                return
            self._fail(request.tag, Refused(errno.EXDEV))
        except Exception as error:
            close_opened(handlers.unused)
            self._fail(request.tag, error)
        else:
            self._reply(request.tag, request.number, body)
        handlers.begin()  # the next request gets no outcomes of this one
        self._done(request)

    def _done(self, request: PendingRequest) -> None:
        """Remove an answered request, and answer the flushes that waited for it."""
        for tag in self._flight.done(request):
            self._reply(tag, m.Tflush.type, b"")

    def _hand_over(self, attach: PendingRequest, export: str) -> bool:
        """Stop before a Tattach that another process answers; return whether that can be.

        It can if there are no fids, and all requests in flight wait for the Tattach.
        """
        flight, source, version = self._flight, self._input, self.dialect
        unanswered = [attach, *(each for each in flight.tags.values() if each is not attach)]
        begun = [each for each in unanswered[1:] if each not in flight.waiting]
        if self._fids.table or begun or version is None:
            return False
        encode = self._handlers.codec.encode
        pieces: list[Buffer] = [encode(each.message, each.tag) for each in unanswered]
        pieces.append(source.tail or memoryview(source.data)[source.at :])
        self.elsewhere = Handover(export, Agreed(version, self._msize), b"".join(pieces))
        for each in unanswered:
            self.counters.requests[each.number] -= 1  # the other session counts it
        flight.reset()
        self._handlers.begin()
        self._input = Input()
        return True

    # What the session answers itself

    def _no_version(self) -> None:
        """Accept nothing but a Tversion."""
        decode = MessageCodec.of(m.Dialect.PLAIN).decoders[m.Tversion.type]
        self._table = [None] * 256
        self._table[m.Tversion.type] = (decode, self._version, USES[m.Tversion], False)

    def _version(self, tag: int, message: m.Tversion) -> None:
        """Start a new session: earlier requests are not answered any more."""
        self._flight.reset()
        self._fids.clear()
        made = DIALECTS.get(message.version)
        msize = min(message.msize, self._limits.msize_max)
        agreed = made is not None and msize >= MSIZE_MIN
        msize = self._afforded(msize) if agreed else msize
        self._begin(made or Plan9Handlers, msize if agreed else MSIZE_FIRST)
        if not agreed:
            self._no_version()
        if made is not None and not agreed:
            raise Refused(errno.EIO)  # as diod answers an msize below its own least
        version = message.version if agreed else b"unknown"
        self._reply(tag, m.Tversion.type, m.Rversion(msize, version))

    def _begin(self, made: type[Handlers], msize: int) -> None:
        """Begin with a dialect, and messages of a size that memory was taken for."""
        self._msize = msize
        self._frames_max = self._limits.in_flight_bytes(msize)
        self._handlers = made(self._filesystem, self._fids, msize)
        self._fill(self._handlers)

    def _continue(self, agreed: Agreed) -> None:
        """Go on where another session stopped."""
        made = DIALECTS[agreed.version.encode()]
        if self._afforded(agreed.msize) < agreed.msize:
            self._lacking = (
                f"no memory for messages of {agreed.msize} bytes, which were agreed on: "
                "--client-memory gives more"
            )
        else:
            self._begin(made, agreed.msize)

    def _afforded(self, msize: int) -> int:
        """Take memory for messages of `msize`, or less if the peer lacks it; return the size."""
        share, first = self._fids.share, self._limits.session_bytes(MSIZE_FIRST)
        share.give(self._taken - first)
        self._taken = first
        while msize > MSIZE_FIRST:
            more = self._limits.session_bytes(msize) - first
            if share.take(more):
                self._taken += more
                break
            msize = max(MSIZE_FIRST, (msize - READ_OVERHEAD) // 2 + READ_OVERHEAD)
        return msize

    def _fill(self, handlers: Handlers) -> None:
        own: dict[type[m.Message], Callable[[Any, Any], Any]] = {
            m.Tversion: self._version,
            m.Tflush: self._flush,
        }
        decoders = handlers.codec.decoders
        self._table = [None] * 256
        for record, handle in (handlers.handlers() | own).items():
            for_fid = record not in _WITHOUT_FID
            decode = decode_write if record is m.Twrite else decoders[record.type]
            self._table[record.type] = (decode, handle, USES[record], for_fid)

    def _flush(self, tag: int, message: m.Tflush) -> None:
        """Cancel a request; the flush is answered when that request can send no reply any more."""
        request = PendingRequest(
            tag, m.Tflush.type, message, HEADER_SIZE + 2, self._flush, USES[m.Tflush]
        )
        if self._flight.flush(request, message.oldtag):
            self._reply(tag, m.Tflush.type, b"")

    # Replies

    def _fail(self, tag: int, error: BaseException) -> None:
        self.counters.errors += 1
        number = errno.EPROTO if isinstance(error, WireError) else errno_of(error)
        self._reply(tag, 0, self._handlers.error(number))

    def _reply(self, tag: int, number: int, body: Body) -> None:
        """Add a reply to the turn's; `number` is the request's type."""
        pieces: Sequence[Piece]
        if isinstance(body, m.Message):
            try:
                frame = self._handlers.codec.encode(body, tag)
            except WireError as error:
                self._fail(tag, error)
                return
            size, pieces = len(frame), [frame]
        else:
            pieces = [body] if isinstance(body, bytes) else body
            size = HEADER_SIZE + sum(map(len, pieces))
            pieces = [HEADER.pack(size, number + 1, tag), *pieces]
        if size >= self._msize:  # Linux before 6.2 takes a reply of msize for one too large
            self._fail(tag, Refused(errno.EMSGSIZE))
            return
        if self._trace is not None:
            self._trace(False, joined(pieces))
        self._output.add(pieces, size)


_WITHOUT_FID = frozenset({m.Tversion, m.Tauth, m.Tattach, m.Tflush})
_OWN = frozenset({m.Tversion.type, m.Tflush.type})
