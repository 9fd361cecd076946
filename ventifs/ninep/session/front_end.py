"""9P as a front end: the protocol by which connections are served."""

from collections.abc import Callable

from ventifs.ninep.protocol.codec import MessageCodec
from ventifs.ninep.protocol.messages import ALL, MESSAGES
from ventifs.ninep.session.limits import MSIZE_FIRST, SessionLimits
from ventifs.ninep.session.session import NinepSession, Trace
from ventifs.serving.session import Agreed, Leftover
from ventifs.vfs.interface import Filesystem
from ventifs.vfs.memory_budget import Share


class NinepFrontEnd:
    """A `FrontEnd`."""

    def __init__(
        self, limits: SessionLimits | None = None, trace: Callable[[], Trace] | None = None
    ) -> None:
        """Serve sessions within limits.

        Args:
            limits: of each session.
            trace: makes the trace of a session.
        """
        self._limits = limits or SessionLimits()
        self._trace = trace
        self.first_bytes = self._limits.session_bytes(MSIZE_FIRST)
        self.requests = {number: message.__name__ for number, message in MESSAGES.items()}
        for dialect in ALL:  # compiled now, so that no session waits for it: docs/performance.md
            MessageCodec.of(dialect)

    def session(
        self,
        filesystem: Filesystem,
        *,
        clock: Callable[[], float],
        share: Share,
        leave: Callable[[Leftover], None],
        agreed: Agreed | None = None,
    ) -> NinepSession:
        """See `FrontEnd`."""
        return NinepSession(
            filesystem,
            limits=self._limits,
            trace=self._trace() if self._trace is not None else None,
            clock=clock,
            share=share,
            leave=leave,
            agreed=agreed,
        )
