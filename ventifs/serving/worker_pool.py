"""The workers of a server, as their parent sees them: starts them, and hands them connections.

Always: a worker that dies takes its own connections with it and nothing else, and is started again
after a pause, which grows as long as workers die young; a connection goes to the worker that has
the fewest; when this process ends, however it ends, its workers end too. Never opens a store: what
LMDB maps belongs to one process, so each worker opens its own in a fresh process.
"""

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from msgspec.structs import replace
from trio.lowlevel import notify_closing, wait_readable

import ventifs
from ventifs.errors import VentifsError
from ventifs.net.allow_list import Exports
from ventifs.net.peer import Peer
from ventifs.serving.activity import Process, Totals, together
from ventifs.serving.log import event
from ventifs.serving.settings import Settings, client_bytes_default
from ventifs.serving.worker_ipc import (
    LEFT_TO_PARENT,
    Ask,
    Configure,
    NotReady,
    Order,
    Over,
    Ready,
    Stop,
    Take,
    Told,
    TooLarge,
    receive_report,
    send,
)

PAUSE_MIN_S, PAUSE_MAX_S = 0.25, 30.0  # before a worker is started again; doubled each time
_SOUND_S = 60.0  # after a life this long the pause is the shortest again
_ANSWER_S = 5.0  # for a worker to report its figures
_LINGER_S = 2.0  # beyond its grace, before it is killed

_CODE = "import sys; sys.path.insert(0, {!r}); from {} import {} as main; main()"
_ROOT = str(Path(ventifs.__file__).parents[1])  # wherever this process has the package from


@contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _WorkerProcess:
    """A process, from its start to its end."""

    def __init__(self, number: int, main: Callable[[], None]) -> None:
        """Start it; `main` is all that its process does."""
        self.number = number
        self.connections: dict[int, Callable[[], None]] = {}  # by id, what to call when one is over
        self.packets, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.packets.setblocking(False)
        self.was_ready = False
        self.ended = False
        self.last = Totals()  # as it reported them last
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

    async def send(self, order: Order, fd: int | None = None) -> None:
        try:
            async with self._sending:
                await send(self.packets, order, fd)
        except trio.ClosedResourceError:  # it was closed while this waited
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None

    async def ask(self) -> Process:
        """Its figures; if it does not answer, the totals that it reported last."""
        async with self._asking:
            self._asked += 1
            self._parts, self._told = [], trio.Event()
            with trio.move_on_after(_ANSWER_S):
                try:
                    await self.send(Ask(self._asked))
                    await self._told.wait()
                except OSError:
                    pass
            if self._told.is_set():
                return together(self._parts)
            return Process(totals=self.last)

    def told(self, part: Told) -> None:
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
        self.process.wait()
        notify_closing(self.packets)
        self.packets.close()
        self._parts = []
        self._told.set()
        for over in self.connections.values():
            over()
        self.connections.clear()


class WorkerPool:
    """Workers; a `Backend`.

    Attributes:
        workers: how many there are.
        restarts: how many times one was started again.
    """

    def __init__(self, settings: Settings, count: int, main: Callable[[], None]) -> None:
        """Plan `count` workers, which divide the cache and the clients' memory.

        Args:
            settings: what is served.
            count: how many processes.
            main: a function of a module: all that each process does, see `run_worker`.
        """
        self._main = main
        self.workers = count
        self.restarts = 0
        clients = settings.client_bytes or client_bytes_default()
        self._settings = replace(
            settings, cache_bytes=settings.cache_bytes // count, client_bytes=clients // count
        )
        self._live: dict[int, _WorkerProcess] = {}
        self._arrived = trio.Event()
        self._lost = Totals()  # of the workers that are gone, as they reported them last
        self._stopping = False
        self._ids = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the workers running until cancelled; reports started when all are ready.

        Raises:
            VentifsError: a worker cannot open the store, or ends before it is ready.
        """
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as starting:
                for number in range(1, self.workers + 1):
                    starting.start_soon(nursery.start, self._keep, number)
            task_status.started()

    async def take(
        self, connection: socket.socket, peer: Peer, exports: Exports, over: Callable[[], None]
    ) -> None:
        """Hand a connection to the worker that has the fewest."""
        self._ids += 1
        number = self._ids  # other connections come while this one waits
        with connection:
            while True:
                while not self._live:
                    await self._arrived.wait()
                worker = min(self._live.values(), key=lambda each: len(each.connections))
                worker.connections[number] = over
                try:
                    await worker.send(Take(number, peer, exports), connection.fileno())
                except TooLarge:
                    event("refused", level=logging.WARNING, peer=peer, reason="too many patterns")
                    worker.forget(number)
                except OSError:  # it has just died, and did not get the connection
                    if worker.connections.pop(number, None) is None:
                        return  # it was closed meanwhile, and `over` called
                    self._bury(worker)
                    continue
                return

    async def ask(self) -> Process:
        """The figures of all workers together."""
        answers: dict[_WorkerProcess, Process] = {}

        async def ask(worker: _WorkerProcess) -> None:
            answers[worker] = await worker.ask()

        async with trio.open_nursery() as nursery:
            for worker in list(self._live.values()):
                nursery.start_soon(ask, worker)
        # Workers that died meanwhile are in `_lost`, with the totals that they reported last.
        parts = [part for worker, part in answers.items() if not worker.ended]
        return together([Process(totals=self._lost.copy()), *parts])

    async def drain(self, grace_s: float) -> None:
        """Let every worker answer what is in flight, for at most `grace_s` seconds, and end."""
        self._stopping = True

        async def stop(worker: _WorkerProcess) -> None:
            try:
                await worker.send(Stop(grace_s))
                await worker.end()
            except OSError:
                pass

        with trio.move_on_after(grace_s + _LINGER_S):
            async with trio.open_nursery() as nursery:
                for worker in list(self._live.values()):
                    nursery.start_soon(stop, worker)

    async def _keep(
        self, number: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep a worker of this number running; reports started when the first is ready."""
        pause_s = PAUSE_MIN_S
        await self._one_life(number, task_status)
        while not self._stopping:
            await trio.sleep(pause_s)
            began = trio.current_time()
            self.restarts += 1
            try:
                await self._one_life(number, None)
            except OSError as error:  # out of processes, memory or descriptors, for now
                event(
                    "worker_not_started", level=logging.ERROR, worker=number, reason=error.strerror
                )
            sound = trio.current_time() - began > _SOUND_S
            pause_s = PAUSE_MIN_S if sound else min(2 * pause_s, PAUSE_MAX_S)

    async def _one_life(self, number: int, task_status: trio.TaskStatus[None] | None) -> None:
        worker = _WorkerProcess(number, self._main)
        try:
            failure = await self._hear(worker, task_status)
            code = await worker.end()
        finally:
            self._bury(worker)
            lost = len(worker.connections)
            self._lost.add(worker.last)
            worker.close()
        if task_status is not None and not worker.was_ready:
            raise VentifsError(failure or f"a worker {_how(code)} before it was ready")
        if not self._stopping:
            event(
                "worker_died",
                level=logging.ERROR,
                worker=number,
                how=failure or _how(code),
                connections=lost,
            )

    def _bury(self, worker: _WorkerProcess) -> None:
        """Hand a worker no more connections; one that was started in its place stays."""
        if self._live.get(worker.number) is worker:
            del self._live[worker.number]

    async def _hear(
        self, worker: _WorkerProcess, task_status: trio.TaskStatus[None] | None
    ) -> str | None:
        """Act on a worker's reports until it has gone; return the reason, if it gave one."""
        try:
            await worker.send(Configure(self._settings, worker.number))
        except OSError:
            return None
        while True:
            report = await receive_report(worker.packets)
            match report:
                case Ready():
                    worker.was_ready = True
                    self._live[worker.number] = worker
                    self._arrived.set()
                    self._arrived = trio.Event()
                    if task_status is not None:
                        task_status.started()
                case NotReady(reason):
                    return reason
                case Over(id):
                    worker.forget(id)
                case Told():
                    worker.told(report)
                case None:
                    return None


@contextmanager
def _closed_on_error(opened: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        opened.close()
        raise


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"
