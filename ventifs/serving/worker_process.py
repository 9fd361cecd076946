"""A process that serves connections, as its parent sees it, from its start to its end.

Always: when this process ends, however it ends, so does the other; its end is reported to all
connections that it had. What LMDB maps, and what a thread acts as, belongs to one process: so it is
a fresh one, never a fork.
"""

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio
from trio.lowlevel import notify_closing, wait_readable

import ventifs
from ventifs.net.allow_list import Exports
from ventifs.net.channel import Channel, descriptors, received_channel
from ventifs.net.peer import Peer
from ventifs.serving.activity import Process, Totals, together
from ventifs.serving.handover import Departure, PassOn
from ventifs.serving.log import event
from ventifs.serving.session import Handover
from ventifs.serving.worker_ipc import (
    LEFT_TO_PARENT,
    Ask,
    Configure,
    NotReady,
    Order,
    Over,
    Pass,
    Ready,
    Take,
    Told,
    TooLarge,
    receive_report,
    send,
)

ANSWER_S = 5.0  # for a worker to report its figures
_LAST_S = 1.0  # for a killed process to end; one whose disk hangs ends later

_CODE = "import sys; sys.path.insert(0, {!r}); from {} import {} as main; main()"
_ROOT = str(Path(ventifs.__file__).parents[1])  # wherever this process has the package from


@contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class WorkerProcess:
    """A process, from its start to its end.

    Attributes:
        number: of a worker.
        connections: by id, what to call when one is over.
        was_ready: whether it has reported so.
        answers: whether it answered when it was last asked for its figures.
        ended: whether it was closed.
        last: the totals that it reported last.
    """

    def __init__(
        self, number: int, main: Callable[[], None], *, answer_s: float = ANSWER_S
    ) -> None:
        """Start it.

        Args:
            number: of a worker.
            main: a function of a module: all that the process does, see `run_worker`.
            answer_s: seconds that it has to report its figures.
        """
        self.number = number
        self.connections: dict[int, Callable[[], None]] = {}
        self.packets, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.packets.setblocking(False)
        self.was_ready = False
        self.answers = True
        self.ended = False
        self.last = Totals()
        self._answer_s = answer_s
        self._asked = 0  # times
        self._parts: list[Process] = []
        self._told = trio.Event()
        self._sending = trio.Lock()
        self._asking = trio.Lock()
        # Ctrl-C reaches all processes of a terminal: blocked in a worker until it ignores it.
        with theirs, _closed_on_error(self.packets), _blocked(LEFT_TO_PARENT):
            # Not trio's: that starts it from a thread, and the kernel kills it when that ends.
            code = _CODE.format(_ROOT, main.__module__, main.__name__)
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, str(os.getpid()), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    async def hear(
        self,
        configure: Configure,
        fds: Sequence[int],
        ready: Callable[[], None],
        pass_on: PassOn | None,
    ) -> str | None:
        """Act on its reports until it has gone; return the reason, if it gave one.

        Args:
            configure: what it is to do.
            fds: to send with that.
            ready: called when it can take connections.
            pass_on: takes connections that another process is to serve; without it they end.
        """
        try:
            await self.send(configure, fds)
        except OSError:
            return None
        while True:
            report, sent = await receive_report(self.packets)
            match report:
                case Ready():
                    self.was_ready = True
                    ready()
                case NotReady(reason):
                    return reason
                case Over(id):
                    self.forget(id)
                case Pass(id):
                    self._passed(report, sent, pass_on)
                case Told():
                    self.told(report)
                case None:
                    return None

    def _passed(self, report: Pass, fds: Sequence[int], pass_on: PassOn | None) -> None:
        over = self.connections.pop(report.id, None)
        if over is None or not fds:  # this process had no room for its descriptors
            for fd in fds:
                os.close(fd)
            if over is not None:
                event(
                    "refused",
                    level=logging.WARNING,
                    peer=report.peer,
                    reason="too many open files",
                )
                over()
            return
        channel = received_channel(fds, half_closes=report.half_closes)
        departure = Departure(channel, report.peer, report.exports, over, report.begun)
        if pass_on is None:
            departure.refuse()
        else:
            pass_on(departure)

    async def take(
        self,
        number: int,
        channel: Channel,
        peer: Peer,
        exports: Exports,
        over: Callable[[], None],
        begun: Handover | None = None,
    ) -> bool:
        """Hand it a connection, of which this process keeps its own descriptors.

        Returns:
            Whether that is done, by `over` if the connection was refused; if not, the process has
            just died, and did not get the connection.
        """
        self.connections[number] = over
        take = Take(number, peer, exports, channel.half_closes, begun)
        try:
            await self.send(take, descriptors(channel))
        except TooLarge as error:
            reason = "too many patterns" if begun is None else f"too much sent: {error}"
            event("refused", level=logging.WARNING, peer=peer, reason=reason)
            self.forget(number)
        except OSError:  # `close` may have called `over` meanwhile
            return self.connections.pop(number, None) is None
        return True

    async def send(self, order: Order, fds: Sequence[int] = ()) -> None:
        """Send an order, and descriptors with it.

        Raises:
            TooLarge: it does not fit into a packet.
            OSError: the process has gone.
        """
        try:
            async with self._sending:
                await send(self.packets, order, fds)
        except trio.ClosedResourceError:  # it was closed while this waited
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None

    async def ask(self) -> Process:
        """Its figures; if it does not answer, the totals that it reported last."""
        async with self._asking:
            self._asked += 1
            self._parts, self._told = [], trio.Event()
            with trio.move_on_after(self._answer_s):
                try:
                    await self.send(Ask(self._asked))
                    await self._told.wait()
                except OSError:
                    pass
            self.answers = self._told.is_set()
            if self.answers:
                return together(self._parts)
            return Process(totals=self.last)

    def told(self, part: Told) -> None:
        """Take a part of its figures."""
        if part.number != self._asked:
            return  # the answer to an `Ask` that was given up
        self._parts.append(part.process)
        if part.last:
            self.last = part.process.totals
            self._told.set()

    def forget(self, number: int) -> None:
        """Take note that a connection is over; idempotent."""
        over = self.connections.pop(number, None)
        if over is not None:
            over()

    async def end(self) -> int:
        """Wait until the process has ended; return its exit code."""
        pid = os.pidfd_open(self.process.pid)
        try:
            await wait_readable(pid)
        finally:
            os.close(pid)
        return self.process.wait()

    def close(self) -> None:
        """Kill the process, if it has not ended, and report its connections as over."""
        self.ended = True
        self.process.kill()
        try:
            self.process.wait(_LAST_S)
        except subprocess.TimeoutExpired:  # the kernel ends it when its disk answers
            event("stuck", level=logging.ERROR, process=self.process.pid, note="its disk hangs")
        notify_closing(self.packets)
        self.packets.close()
        self._parts = []
        self._told.set()
        for over in self.connections.values():
            over()
        self.connections.clear()


@contextmanager
def _closed_on_error(opened: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        opened.close()
        raise


def how_ended(code: int) -> str:
    """In words, how a process ended that has this exit code."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"
