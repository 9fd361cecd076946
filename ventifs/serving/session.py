"""What the serving of connections needs of a protocol: `Session` and `FrontEnd`.

A session has no I/O: bytes in, turns, loads, bytes out. Whoever implements these two is served over
every transport, in one process or many, beside other protocols.
"""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from ventifs.buffer import Buffer
from ventifs.errors import VentifsError
from ventifs.vfs.interface import Filesystem, Load
from ventifs.vfs.memory_budget import Share

# Bytes that a session is given at once, at most. What is larger than the C library's arenas take
# gets fresh pages from the kernel each time: 18 us for 256 KiB, half of a round trip.
READ_MAX = 64 << 10
# Replies that wait to be sent keep at most twice their own bytes in memory, and this. A piece of a
# reply keeps the whole clump that it lies in; replies that would keep more are copied.
WASTE_MAX = 128 << 10


class StreamError(VentifsError):
    """What a client sends is no stream of the protocol, and its session is over."""


class Counters(msgspec.Struct):
    """What a session has done.

    Attributes:
        requests: by message type.
        replied: bytes of replies.
        errors: requests answered with an error.
        hits: requests answered within the turn they came in.
        colds: requests that had to wait.
    """

    requests: list[int] = msgspec.field(default_factory=lambda: [0] * 256)
    replied: int = 0
    errors: int = 0
    hits: int = 0
    colds: int = 0


class Leftover(Protocol):
    """What a session leaves behind that takes long to close, so that it is closed in portions."""

    def some(self, count: int) -> bool:
        """Close at most so many; whether any are left. Their memory is given back at once."""


class Session(Protocol):
    """One side of one connection.

    The driver alternates `receive` and `turn`, sends what a turn gives before the next, runs
    `loads`, and hands what became of them to `finish`; at the end it calls `close`. All in one
    thread.

    Attributes:
        counters: what it has done.
    """

    counters: Counters

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

    def turn(self) -> list[Buffer]:
        """Answer what can be answered, within limits; the replies, in order.

        Raises:
            StreamError: the stream cannot go on.
        """

    def loads(self) -> list[Load]:
        """Loads to be run by threads, each handed out once."""

    def finish(self, load: Load, value: Any = None, error: BaseException | None = None) -> None:
        """Take what a load returned or raised; the result is dropped if no request waits for it."""

    def close(self) -> None:
        """The connection is gone: drop everything. Idempotent."""


class FrontEnd(Protocol):
    """A protocol: what makes a session of a connection.

    Attributes:
        first_bytes: what a peer is charged for a session that has done nothing yet.
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
    ) -> Session:
        """A new session.

        Args:
            filesystem: where its client attaches.
            clock: returns seconds, for what ends a turn.
            share: of the peer's memory, of which `first_bytes` were taken for this session.
            leave: takes what is left to be closed.
        """
