"""Composes sessions and their protocol, for a server's own process and for its workers."""

from contextlib import suppress

from ventifs.cli.output import echo
from ventifs.errors import VentifsError
from ventifs.ninep.protocol.trace import Tracer
from ventifs.ninep.session.front_end import NinepFrontEnd
from ventifs.ninep.session.limits import SessionLimits
from ventifs.ninep.session.session import Trace
from ventifs.serving.live_sessions import LiveSessions, prepare_process
from ventifs.serving.settings import LocalSessions, Settings
from ventifs.serving.worker import run_worker
from ventifs.serving.worker_ipc import Configure


def local_sessions(settings: Settings) -> LocalSessions:
    """The sessions of this process, over an open store if there is one.

    Raises:
        VentifsError: there is no store, or it cannot be read.
    """
    return LocalSessions(settings, _front_end(settings))


def worker_sessions(configure: Configure, fds: list[int]) -> LocalSessions:
    """The sessions of a worker, over an open store if there is one.

    Raises:
        VentifsError: there is no store, or it cannot be read.
    """
    return local_sessions(configure.settings)


def worker_main() -> None:
    """Run as a worker process, until the parent orders it to stop or ends."""
    run_worker(worker_sessions)


def live_sessions(configure: Configure, fds: list[int]) -> LiveSessions:
    """The sessions of a live export, whose directory is the descriptor; prepares this process.

    Raises:
        VentifsError, OSError: it cannot be served.
    """
    from ventifs.vfs.live.filesystem import LiveDirectory

    settings = configure.settings
    [export] = [each for each in settings.live if each.name == configure.export]
    prepare_process(root=export.squash == "none")
    return LiveSessions(
        settings, export, LiveDirectory(export, fds[0], sends=True), _front_end(settings)
    )


def live_main() -> None:
    """Run as the process of a live export, until the parent orders it to stop or ends."""
    run_worker(live_sessions)


def _front_end(settings: Settings) -> NinepFrontEnd:
    limits = SessionLimits(msize_max=settings.message_bytes) if settings.message_bytes else None
    return NinepFrontEnd(limits, _tracer if settings.trace else None)


def _tracer() -> Trace:
    """A tracer for one session; lines of several sessions mix, but each line stays whole."""
    return Tracer(_traced)


def _traced(line: str) -> None:
    with suppress(OSError, VentifsError):  # the reader of the trace has gone; the sessions go on
        echo(line)
