"""The workers of a server, as their parent sees them: starts them, and hands them connections.

Always: a worker that dies takes its own connections with it and nothing else, and is started again
after a pause, which grows as long as workers die young; a connection goes to the worker that has
the fewest. Never opens a store: what LMDB maps belongs to one process, so each worker opens its own
in a fresh process (`worker_process.py`).
"""

import logging
import socket
from collections.abc import Callable

import trio
from msgspec.structs import replace

from ventifs.errors import VentifsError
from ventifs.net.allow_list import Exports
from ventifs.net.channel import socket_channel
from ventifs.net.peer import Peer
from ventifs.serving.activity import Process, Totals, together
from ventifs.serving.handover import PassOn
from ventifs.serving.log import event
from ventifs.serving.settings import Settings, client_bytes_default
from ventifs.serving.worker_ipc import Configure, Stop
from ventifs.serving.worker_process import WorkerProcess, how_ended

PAUSE_MIN_S, PAUSE_MAX_S = 0.25, 30.0  # before a worker is started again; doubled each time
_SOUND_S = 60.0  # after a life this long the pause is the shortest again
_LINGER_S = 2.0  # beyond its grace, before it is killed


class WorkerPool:
    """Workers; a `Backend`.

    Attributes:
        workers: how many there are.
        restarts: how many times one was started again.
        pass_on: takes connections of exports that other processes serve.
    """

    def __init__(self, settings: Settings, count: int, main: Callable[[], None]) -> None:
        """Plan `count` workers, which divide the cache and the clients' memory.

        Args:
            settings: what is served.
            count: how many processes.
            main: a function of a module: all that each process does, see `run_worker`.
        """
        self.pass_on: PassOn | None = None
        self._main = main
        self.workers = count
        self.restarts = 0
        clients = settings.client_bytes or client_bytes_default()
        self._settings = replace(
            settings, cache_bytes=settings.cache_bytes // count, client_bytes=clients // count
        )
        self._live: dict[int, WorkerProcess] = {}
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
        channel = socket_channel(connection)
        try:
            while True:
                while not self._live:
                    await self._arrived.wait()
                worker = min(self._live.values(), key=lambda each: len(each.connections))
                if await worker.take(number, channel, peer, exports, over):
                    return
                self._bury(worker)
        finally:
            channel.close()

    async def ask(self) -> Process:
        """The figures of all workers together."""
        answers: dict[WorkerProcess, Process] = {}

        async def ask(worker: WorkerProcess) -> None:
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

        async def stop(worker: WorkerProcess) -> None:
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
        worker = WorkerProcess(number, self._main)
        try:
            failure = await worker.hear(
                Configure(self._settings, number),
                (),
                lambda: self._arrive(worker, task_status),
                self.pass_on,
            )
            code = await worker.end()
        finally:
            self._bury(worker)
            lost = len(worker.connections)
            self._lost.add(worker.last)
            worker.close()
        if task_status is not None and not worker.was_ready:
            raise VentifsError(failure or f"a worker {how_ended(code)} before it was ready")
        if not self._stopping:
            event(
                "worker_died",
                level=logging.ERROR,
                worker=number,
                how=failure or how_ended(code),
                connections=lost,
            )

    def _bury(self, worker: WorkerProcess) -> None:
        """Hand a worker no more connections; one that was started in its place stays."""
        if self._live.get(worker.number) is worker:
            del self._live[worker.number]

    def _arrive(self, worker: WorkerProcess, task_status: trio.TaskStatus[None] | None) -> None:
        self._live[worker.number] = worker
        self._arrived.set()
        self._arrived = trio.Event()
        if task_status is not None:
            task_status.started()
