"""Which protocol a server speaks: composed here, for its own process and for its workers."""

from contextlib import suppress

from ventifs.cli.output import echo
from ventifs.errors import VentifsError
from ventifs.ninep.protocol.trace import Tracer
from ventifs.ninep.session.front_end import NinepFrontEnd
from ventifs.ninep.session.limits import Limits
from ventifs.ninep.session.session import Trace
from ventifs.serving.settings import LocalSessions, Settings
from ventifs.serving.worker import run_worker


def local_sessions(settings: Settings) -> LocalSessions:
    """The sessions of this process, over an open store.

    Raises:
        VentifsError: there is none, or it cannot be read.
    """
    limits = Limits(msize_max=settings.message_bytes) if settings.message_bytes else None
    return LocalSessions(settings, NinepFrontEnd(limits, _tracer if settings.trace else None))


def worker_main() -> None:
    """Be a worker process, until it is told to stop or its parent has gone."""
    run_worker(local_sessions)


def _tracer() -> Trace:
    """A trace for one session; its lines, whole, may stand between another's."""
    return Tracer(_traced)


def _traced(line: str) -> None:
    with suppress(OSError, VentifsError):  # whoever read it has gone; the sessions go on
        echo(line)
