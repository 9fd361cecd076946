"""The connections of one process, and the threads that load for them.

Always: the scheduler decides whose turn it is; a peer without memory for a session is refused. What
one connection does is in `connection.py`; `acceptor.py` decides which peers may connect.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from time import perf_counter

import trio

from ventifs.net.admission import identity
from ventifs.net.allow_list import Exports
from ventifs.net.channel import Channel
from ventifs.net.peer import Peer
from ventifs.serving.activity import Process, Totals
from ventifs.serving.connection import Connection
from ventifs.serving.deferred_close import DeferredClose
from ventifs.serving.handover import Departure, PassOn
from ventifs.serving.loader import Loader
from ventifs.serving.log import event
from ventifs.serving.scheduler import Scheduler
from ventifs.serving.session import FrontEnd, Handover
from ventifs.serving.waits import Waits
from ventifs.vfs.interface import Filesystem
from ventifs.vfs.memory_budget import Budget

HANDSHAKE_S = 30  # for the first request to come whole, and its reply to be sent
GRACE_S = 10  # for requests in flight when the server stops


class Server:
    """All sessions of this process, and the threads that load for them.

    Attributes:
        totals: what the sessions did that have ended.
        loader, waits: of all sessions.
        budget: memory for what clients make this process hold.
        refused: connections that there was no memory for.
        started: in seconds since 1970.
    """

    def __init__(
        self,
        front_end: FrontEnd,
        filesystem_for: Callable[[Peer, Exports], Filesystem],
        *,
        handshake_s: float = HANDSHAKE_S,
        clock: Callable[[], float] = perf_counter,
        budget: Budget | None = None,
        loader: Loader | None = None,
    ) -> None:
        """Serve each peer the file system that `filesystem_for` returns for it and its exports.

        Args:
            front_end: makes the sessions.
            filesystem_for: never raises, never waits.
            handshake_s: seconds that a connection has for its first request.
            clock: returns seconds; for the end of turns, and for what `Loader` measures.
            budget: memory for what peers make this process hold; unlimited by default.
            loader: with threads; by default those that suit an archive.
        """
        self.loader = loader or Loader(clock=clock)
        self.budget = budget or Budget()
        self.refused = 0
        self.waits = Waits()
        self._deferred = DeferredClose()
        self._scheduler = Scheduler(self.loader.busy)
        self.totals = Totals()
        self.started = time.time()
        self._filesystem_for = filesystem_for
        self._front_end = front_end
        self._handshake_s = handshake_s
        self._connections: set[Connection] = set()
        self._empty = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def connections(self) -> frozenset[Connection]:
        """The connections that there are."""
        return frozenset(self._connections)

    def now(self) -> Totals:
        """What all sessions did so far, those that go on too."""
        totals = self.totals.copy()
        for connection in self._connections:
            connection.add_to(totals)
        return totals

    def figures(self) -> Process:
        """What the sessions do and did, without the caches of their files."""
        return Process(
            sessions=[connection.activity() for connection in self._connections],
            totals=self.now(),
            refused=self.refused,
            client_bytes=self.budget.held,
            client_bytes_max=self.budget.bytes_max,
            loads=self.loader.runs,
            loads_ahead=self.loader.ahead_runs,
            loads_shared=self.loader.shared,
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the channels that `start` gets, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.loader.run)
            nursery.start_soon(self.waits.run)
            nursery.start_soon(self._scheduler.run)
            nursery.start_soon(self._deferred.run)
            task_status.started()

    def tidy(self) -> None:
        """Let all sessions go of files that no handle needs."""
        for connection in self._connections:
            connection.tidy()

    def start(
        self,
        channel: Channel,
        peer: Peer,
        exports: Exports,
        over: Callable[[], None],
        pass_on: PassOn | None = None,
        begun: Handover | None = None,
        filesystem: Filesystem | None = None,
    ) -> None:
        """Begin a session, in a task of its own.

        A peer that has no memory left for a session is refused.

        Args:
            channel: which this owns from now on.
            peer: the client.
            exports: what it may reach.
            over: called when the session has ended, unless it is passed on.
            pass_on: takes the connection if another process serves what its client attaches to.
            begun: how far the session got in another process.
            filesystem: to serve instead of the one for this peer.
        """
        assert self._nursery is not None, "the server does not run"
        share = self.budget.share_of(identity(peer))
        size = self._front_end.first_bytes
        if not share.take(size):
            reason = f"{share.shortage(size)}; --client-memory gives more"
            self.refused += 1
            event("refused", level=logging.WARNING, peer=peer, reason=reason)
            channel.close()
            over()
            return
        served = filesystem or self._filesystem_for(peer, exports)
        connection = Connection(
            channel,
            peer,
            served.session(),
            self.loader,
            self.waits,
            self._scheduler,
            self._front_end,
            share,
            self._deferred,
            begun,
        )
        self._connections.add(connection)
        end = partial(self._end, connection, exports, over, pass_on)
        self._nursery.start_soon(self._run, connection, end)

    async def drain(self, grace_s: float = GRACE_S) -> None:
        """Let every session answer what it has read, for at most `grace_s` seconds."""
        for connection in self._connections:
            connection.end()
        with trio.move_on_after(grace_s):
            while self._connections:
                if self._empty.is_set():  # else another drain may wait for it already
                    self._empty = trio.Event()
                await self._empty.wait()

    async def _run(self, connection: Connection, end: Callable[[], None]) -> None:
        try:
            await connection.run(self._handshake_s)
        finally:
            self._connections.discard(connection)
            connection.add_to(self.totals)
            self.totals.sessions += connection.left is None
            end()
            if not self._connections:
                self._empty.set()

    def _end(
        self,
        connection: Connection,
        exports: Exports,
        over: Callable[[], None],
        pass_on: PassOn | None,
    ) -> None:
        if connection.left is None:
            over()
            return
        departure = Departure(connection.channel, connection.peer, exports, over, connection.left)
        if pass_on is None:
            departure.refuse()
        else:
            pass_on(departure)
