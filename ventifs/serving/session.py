"""What a protocol must provide to be served: `Session` and `FrontEnd`.

A session does no I/O: bytes in, turns, loads, bytes out. A protocol that implements these two is
served over every transport, in one process or many, beside other protocols.
"""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from ventifs.buffer import Piece
from ventifs.errors import VentifsError
from ventifs.vfs.interface import Filesystem, Load, Wait
from ventifs.vfs.memory_budget import Share

# Bytes that a session is given at once, at most. Buffers that are too large for the C library's
# arenas get fresh pages from the kernel each time, which is slow beside a round trip: see
# docs/performance.md.
READ_MAX = 64 << 10
# Replies that wait to be sent keep in memory at most twice their own bytes plus this. A piece of a
# reply keeps the whole clump that it lies in; replies that would keep more are copied.
WASTE_MAX = 128 << 10


class StreamError(VentifsError):
    """A client sent bytes that are no stream of the protocol; its session is over."""


class SessionCounters(msgspec.Struct):
    """What a session has done.

    Attributes:
        requests: by message type.
        replied: bytes of replies.
        errors: requests answered with an error.
        hits: requests answered, not by an error, without having to wait.
        colds: requests that had to wait.
    """

    requests: list[int] = msgspec.field(default_factory=lambda: [0] * 256)
    replied: int = 0
    errors: int = 0
    hits: int = 0
    colds: int = 0


class Agreed(msgspec.Struct, frozen=True):
    """What a session has agreed on with its client.

    Attributes:
        version: of the protocol, as `Session.dialect` has it.
        msize: bytes of the largest message; 0 for a protocol that agrees on none.
    """

    version: str
    msize: int


class Handover(msgspec.Struct, frozen=True):
    """What another process needs to go on with a connection.

    Attributes:
        export: which of its exports the client attaches to.
        agreed: for `FrontEnd.session`.
        data: what the client has sent and the session has not answered, the attach first; the new
            session receives it first.
    """

    export: str
    agreed: Agreed
    data: bytes


class Leftover(Protocol):
    """What a session leaves behind, if it takes long to close; it is closed in portions."""

    def some(self, count: int) -> bool:
        """Close at most `count`, and give back their memory; return whether any are left."""


class Session(Protocol):
    """The server's side of one connection.

    The driver alternates `receive` and `turn`, sends the replies of a turn before the next turn,
    has `loads` run, tries `waits`, and passes the results of both to `finish`. At the end it calls
    `close`; results of loads that threads have then are passed to `finish` even after that. All
    calls come from one thread.

    Attributes:
        counters: what it has done.
        elsewhere: set when the session has stopped because another process is to go on with the
            connection. The driver sends the replies that there are, calls `close`, and hands the
            connection over. The session reads nothing more (`hungry`), and nothing is in flight.
    """

    counters: SessionCounters
    elsewhere: Handover | None

    @property
    def dialect(self) -> str | None:
        """The version of the protocol that was agreed on, for people; None before."""

    @property
    def handles(self) -> int:
        """How many files its client holds."""

    @property
    def memory(self) -> int:
        """Bytes that its peer is charged for it."""

    @property
    def in_flight(self) -> int:
        """Requests that are not answered."""

    @property
    def hungry(self) -> bool:
        """Whether more input is to be read."""

    @property
    def more(self) -> bool:
        """Whether another turn would do something, without more input or finished loads."""

    def receive(self, data: bytes) -> None:
        """Take bytes as they came, however they were cut."""

    def turn(self) -> list[Piece]:
        """Answer what can be answered, within limits; return the replies, in order.

        Raises:
            StreamError: the stream cannot go on.
        """

    def loads(self) -> list[Load]:
        """Loads to be run by threads, each handed out once."""

    def waits(self) -> list[Wait]:
        """Waits for the driver to try, each handed out once; see `vfs.interface.Wait`."""

    def finish(
        self, on: Load | Wait, value: Any = None, error: BaseException | None = None
    ) -> None:
        """Take what a load or a wait returned or raised.

        The result is dropped if no request waits for it; what it opened is closed then.
        """

    def tidy(self) -> None:
        """Let go of files that no handle needs; called now and then."""

    def close(self) -> None:
        """The connection is gone: drop everything. Idempotent."""


class FrontEnd(Protocol):
    """A protocol: makes the session of each connection.

    Attributes:
        first_bytes: bytes that a peer is charged for a session that has done nothing yet.
        requests: the names of requests, by message type.
    """

    first_bytes: int
    requests: dict[int, str]

    def session(
        self,
        filesystem: Filesystem,
        *,
        clock: Callable[[], float],
        share: Share,
        leave: Callable[[Leftover], None],
        agreed: Agreed | None = None,
    ) -> Session:
        """Make a new session.

        Args:
            filesystem: where its client attaches.
            clock: returns seconds, for what ends a turn.
            share: of the peer's memory, of which `first_bytes` were taken for this session.
            leave: takes over what is still to be closed.
            agreed: what another process's session agreed on with the client, if this one goes on.
                Memory for it is taken from the share; if there is too little, the session's first
                turn raises `StreamError`.
        """
