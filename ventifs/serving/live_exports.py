"""The live exports of a server, as the process that listens sees them: each has its own process.

Always: a process starts when its export is first attached to, and again at the next attach when it
has died; connections of one export never wait for another's process, nor does anything else in this
one, so that a disk that does not answer harms its own users alone. The directories were opened once
and stay open here, so every process of an export serves the same one.
"""

import logging
from collections.abc import Callable, Sequence

import trio

from ventifs.errors import VentifsError
from ventifs.serving.activity import LiveActivity, Process, Totals, together
from ventifs.serving.handover import Departure
from ventifs.serving.log import event
from ventifs.serving.settings import Settings
from ventifs.serving.worker_ipc import Configure, Stop
from ventifs.serving.worker_process import WorkerProcess, how_ended
from ventifs.text import printable
from ventifs.vfs.live.exposure import OpenExport

PAUSE_S = 0.25  # from the end of a process to the start of the next
_ANSWER_S = 1.0  # for its figures; a control socket's client waits 5 s for all
_LINGER_S = 2.0  # beyond its grace, before it is killed


class _Process:
    """One export, and its process if it has one."""

    def __init__(self, settings: Settings, opened: OpenExport, main: Callable[[], None]) -> None:
        self.export, self.fd = opened
        self.starts = 0
        self.running: WorkerProcess | None = None
        self.lost = Totals()  # of processes that have ended
        self.stopping = False
        self._settings = settings
        self._main = main
        self._starting = trio.Lock()
        self._ended = float("-inf")  # the last one, in trio's time
        self._failure = ""
        self._ids = 0

    async def serve(self, departure: Departure, nursery: trio.Nursery) -> None:
        """Hand a connection to the process; start that if there is none."""
        channel, peer, exports, over, begun = departure
        self._ids += 1
        number = self._ids
        try:
            while True:
                try:
                    process = await self._started(nursery)
                except (VentifsError, OSError) as error:
                    reason = f"live export '{self.export.name}': {error}"
                    event("refused", level=logging.ERROR, peer=peer, reason=reason)
                    over()
                    return
                if await process.take(number, channel, peer, exports, over, begun):
                    return
                self._bury(process)
        finally:
            channel.close()

    async def ask(self) -> tuple[LiveActivity, Process]:
        """Its figures; those of a process that does not answer are the last.

        Without a process, clients hold nothing of the memory that the next one will have.
        """
        running = self.running
        absent = Process(client_bytes_max=self._settings.client_bytes)
        answer = await running.ask() if running is not None else absent
        if running is not None and running.ended:
            answer = absent  # what it did is in `lost`
        return (
            LiveActivity(
                name=self.export.name,
                directory=printable(self.export.directory),
                writable=self.export.writable,
                sharing=self.export.sharing,
                pid=None if running is None else running.process.pid,
                restarts=max(self.starts - 1, 0),
                connections=0 if running is None else len(running.connections),
                answers=running is None or running.answers,
            ),
            together([Process(totals=self.lost.copy()), answer]),
        )

    async def stop(self, grace_s: float) -> None:
        """Let it answer what is in flight, for at most `grace_s` seconds, and end."""
        self.stopping = True
        if self.running is not None:
            try:
                await self.running.send(Stop(grace_s))
                await self.running.end()
            except OSError:
                pass

    async def _started(self, nursery: trio.Nursery) -> WorkerProcess:
        """The process that runs, or a new one once that is ready.

        Raises:
            VentifsError, OSError: it cannot be started.
        """
        async with self._starting:
            if self.running is not None:
                return self.running
            await trio.sleep_until(self._ended + PAUSE_S)
            if self.stopping:
                raise VentifsError("the server stops")
            process = WorkerProcess(0, self._main, answer_s=_ANSWER_S)
            self.starts += 1
            settled = trio.Event()
            nursery.start_soon(self._live, process, settled)
            await settled.wait()
            if not process.was_ready:
                raise VentifsError(self._failure)
            return process

    async def _live(self, process: WorkerProcess, settled: trio.Event) -> None:
        """Act on a process's reports until it has ended."""

        def ready() -> None:
            self.running = process
            settled.set()

        how = "it was stopped"
        try:
            configure = Configure(self._settings, 0, self.export.name)
            reason = await process.hear(configure, [self.fd], ready, None)
            how = reason or how_ended(await process.end())
        finally:
            self._bury(process)
            lost = len(process.connections)
            self.lost.add(process.last)
            self._ended = trio.current_time()
            process.close()
            self._failure = how
            settled.set()
        if not self.stopping:
            event(
                "export_died",
                level=logging.ERROR,
                live=self.export.name,
                how=how,
                connections=lost,
            )

    def _bury(self, process: WorkerProcess) -> None:
        """Hand a process no more connections."""
        if self.running is process:
            self.running = None


class LiveExports:
    """All live exports of a server."""

    def __init__(
        self, settings: Settings, opened: Sequence[OpenExport], main: Callable[[], None]
    ) -> None:
        """Serve open directories, each by a process that begins at need.

        Args:
            settings: with these exports; each process gets all of its memory for clients.
            opened: the exports; their descriptors stay the caller's.
            main: a function of a module: all that each process does, see `run_worker`.
        """
        self._processes = {each.export.name: _Process(settings, each, main) for each in opened}
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def take(self, departure: Departure) -> None:
        """Hand a connection to the process of its export; see `PassOn`."""
        process = self._processes.get(departure.handover.export)
        if process is None or self._nursery is None:
            departure.refuse()
        else:
            self._nursery.start_soon(process.serve, departure, self._nursery)

    async def ask(self) -> list[tuple[LiveActivity, Process]]:
        """The figures of all exports, in their order."""
        answers: dict[str, tuple[LiveActivity, Process]] = {}

        async def ask(name: str) -> None:
            answers[name] = await self._processes[name].ask()

        async with trio.open_nursery() as nursery:
            for name in self._processes:
                nursery.start_soon(ask, name)
        return [answers[name] for name in self._processes]

    async def drain(self, grace_s: float) -> None:
        """Let every process answer what is in flight, for at most `grace_s` seconds, and end."""
        with trio.move_on_after(grace_s + _LINGER_S):
            async with trio.open_nursery() as nursery:
                for process in self._processes.values():
                    nursery.start_soon(process.stop, grace_s)
