"""A worker: a process of its own that serves the connections that its parent hands it.

What it serves follows from its first order: the versions of a store, or one live export.

It starts as a fresh process, and ends when its parent's end of the socket closes, for whatever
reason. It ignores the signals that end a server, since a terminal and a service manager send them
to every process at once: the parent handles them.
"""

import ctypes
import gc
import io
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial

import trio

from ventifs.errors import VentifsError
from ventifs.net.channel import Channel, descriptors, received_channel
from ventifs.serving.handover import Departure
from ventifs.serving.log import event
from ventifs.serving.settings import GARBAGE_THRESHOLD, ProcessSessions, start_log
from ventifs.serving.worker_ipc import (
    LEFT_TO_PARENT,
    SESSIONS_TOLD,
    Ask,
    Configure,
    NotReady,
    Over,
    Pass,
    Ready,
    Report,
    Stop,
    Take,
    Told,
    TooLarge,
    receive_order,
    send,
)
from ventifs.text import escaping

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


Opens = Callable[[Configure, list[int]], ProcessSessions]
"""Opens what a process serves; raises VentifsError or OSError when that cannot be."""


class Worker:
    """Carries out the orders of the parent."""

    def __init__(self, packets: socket.socket, opens: Opens) -> None:
        """Receive orders from a socket; `opens` gets the first."""
        self._opens = opens
        self._packets = packets
        # Unbounded, but each report answers an order of the parent.
        self._reports, self._unsent = trio.open_memory_channel[tuple[Report, Channel | None]](
            sys.maxsize
        )

    async def run(self) -> None:
        """Work until the order to stop, or until the parent has gone."""
        first, fds = await receive_order(self._packets)
        if not isinstance(first, Configure):
            return
        number = None if first.export else first.number
        start_log(as_json=first.settings.log_json, worker=number, live=first.export or None)
        try:
            sessions = self._opens(first, fds)
        except (VentifsError, OSError) as error:
            await send(self._packets, NotReady(str(error)))
            return
        with sessions:
            async with trio.open_nursery() as nursery:
                await nursery.start(sessions.run)
                nursery.start_soon(self._report)
                self._report_soon(Ready())
                await self._obey(sessions)
                nursery.cancel_scope.cancel()

    async def _obey(self, sessions: ProcessSessions) -> None:
        while True:
            order, fds = await receive_order(self._packets)
            match order:
                case Take() if fds:
                    self._take(sessions, order, fds)
                case Take(id, peer):  # this process had no room for its descriptor
                    event("refused", level=logging.WARNING, peer=peer, reason="too many open files")
                    self._report_soon(Over(id))
                case Ask(number):
                    await self._tell(sessions, number)
                case Stop(grace_s):
                    await sessions.drain(grace_s)
                    return
                case None:
                    return

    def _take(self, sessions: ProcessSessions, take: Take, fds: list[int]) -> None:
        channel = received_channel(fds, half_closes=take.half_closes)
        over = partial(self._report_soon, Over(take.id))
        passed = partial(self._passed, take.id)
        sessions.start(channel, take.peer, take.exports, over, passed, take.begun)

    def _passed(self, number: int, departure: Departure) -> None:
        channel, peer, exports, _, begun = departure
        self._report_soon(Pass(number, peer, exports, channel.half_closes, begun), channel)

    def _report_soon(self, report: Report, channel: Channel | None = None) -> None:
        self._reports.send_nowait((report, channel))

    async def _tell(self, sessions: ProcessSessions, number: int) -> None:
        process = await sessions.ask()
        those, process.sessions = process.sessions, []
        for start in range(0, len(those), SESSIONS_TOLD):
            part = type(process)(sessions=those[start : start + SESSIONS_TOLD])
            self._report_soon(Told(number, part, last=False))
        self._report_soon(Told(number, process, last=True))

    async def _report(self) -> None:
        async for report, channel in self._unsent:
            try:
                await send(self._packets, report, [] if channel is None else descriptors(channel))
            except TooLarge as error:  # a client that sends much before it is attached
                assert isinstance(report, Pass)
                reason = f"too much sent: {error}"
                event("refused", level=logging.WARNING, peer=report.peer, reason=reason)
                self._report_soon(Over(report.id))
            except OSError:  # the parent has gone: `_obey` ends everything
                return
            finally:
                if channel is not None:
                    channel.close()


def run_worker(opens: Opens) -> None:
    """Serve until the order to stop, or the parent's end: all that a worker process does.

    Args:
        opens: opens what is served, and chooses the protocol that serves it.
    """
    parent, fd = int(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    for number in LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_PARENT)
    gc.set_threshold(GARBAGE_THRESHOLD)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = escaping(sys.stderr)
    with socket.socket(fileno=fd) as packets:
        packets.setblocking(False)
        trio.run(Worker(packets, opens).run)
