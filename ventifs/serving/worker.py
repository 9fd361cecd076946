"""A worker: a process of its own that serves the connections that its parent hands it.

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
from ventifs.serving.log import event
from ventifs.serving.settings import GARBAGE_THRESHOLD, LocalSessions, Settings, start_log
from ventifs.serving.worker_ipc import (
    LEFT_TO_PARENT,
    SESSIONS_TOLD,
    Ask,
    Configure,
    NotReady,
    Over,
    Ready,
    Report,
    Stop,
    Take,
    Told,
    receive_order,
    send,
)
from ventifs.text import escaping

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Worker:
    """Carries out the orders of the parent."""

    def __init__(
        self, packets: socket.socket, open_local: Callable[[Settings], LocalSessions]
    ) -> None:
        """Receive orders from a socket; `open_local` opens the store."""
        self._open_local = open_local
        self._packets = packets
        # Unbounded, but each report answers an order of the parent.
        self._reports, self._unsent = trio.open_memory_channel[Report](sys.maxsize)

    async def run(self) -> None:
        """Work until the order to stop, or until the parent has gone."""
        first, _ = await receive_order(self._packets)
        if not isinstance(first, Configure):
            return
        start_log(as_json=first.settings.log_json, worker=first.number)
        try:
            local = self._open_local(first.settings)
        except (VentifsError, OSError) as error:
            await send(self._packets, NotReady(str(error)))
            return
        with local:
            async with trio.open_nursery() as nursery:
                await nursery.start(local.run)
                nursery.start_soon(self._report)
                self._reports.send_nowait(Ready())
                await self._obey(local)
                nursery.cancel_scope.cancel()

    async def _obey(self, local: LocalSessions) -> None:
        while True:
            order, fd = await receive_order(self._packets)
            match order:
                case Take(id, peer, exports) if fd is not None:
                    over = partial(self._reports.send_nowait, Over(id))
                    await local.take(socket.socket(fileno=fd), peer, exports, over)
                case Take(id, peer):  # this process had no room for its descriptor
                    event("refused", level=logging.WARNING, peer=peer, reason="too many open files")
                    self._reports.send_nowait(Over(id))
                case Ask(number):
                    await self._tell(local, number)
                case Stop(grace_s):
                    await local.drain(grace_s)
                    return
                case None:
                    return

    async def _tell(self, local: LocalSessions, number: int) -> None:
        process = await local.ask()
        sessions, process.sessions = process.sessions, []
        for start in range(0, len(sessions), SESSIONS_TOLD):
            part = type(process)(sessions=sessions[start : start + SESSIONS_TOLD])
            self._reports.send_nowait(Told(number, part, last=False))
        self._reports.send_nowait(Told(number, process, last=True))

    async def _report(self) -> None:
        async for report in self._unsent:
            try:
                await send(self._packets, report)
            except OSError:  # the parent has gone: `_obey` ends everything
                return


def run_worker(open_local: Callable[[Settings], LocalSessions]) -> None:
    """Serve until the order to stop, or the parent's end: all that a worker process does.

    Args:
        open_local: opens the store, and chooses the protocol that serves it.
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
        trio.run(Worker(packets, open_local).run)
