"""Composes sessions and their protocol, for a server's own process and for its workers."""

from contextlib import suppress

from ventifs.cli.output import echo
from ventifs.errors import VentifsError
from ventifs.ninep.protocol.trace import Tracer
from ventifs.ninep.session.front_end import NinepFrontEnd
from ventifs.ninep.session.limits import SessionLimits
from ventifs.ninep.session.session import Trace
from ventifs.serving.settings import LocalSessions, Settings
from ventifs.serving.worker import run_worker


def local_sessions(settings: Settings) -> LocalSessions:
    """The sessions of this process, over an open store.

    Raises:
        VentifsError: there is no store, or it cannot be read.
    """
    limits = SessionLimits(msize_max=settings.message_bytes) if settings.message_bytes else None
    return LocalSessions(settings, NinepFrontEnd(limits, _tracer if settings.trace else None))


def worker_main() -> None:
    """Run as a worker process, until the parent orders it to stop or ends."""
    run_worker(local_sessions)


def _tracer() -> Trace:
    """A tracer for one session; lines of several sessions mix, but each line stays whole."""
    return Tracer(_traced)


def _traced(line: str) -> None:
    with suppress(OSError, VentifsError):  # the reader of the trace has gone; the sessions go on
        echo(line)
