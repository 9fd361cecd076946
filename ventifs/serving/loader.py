"""Runs what sessions lack in threads: few at once, fairly by session, and nothing twice.

Owns the threads, and the queues of loads between sessions and them. What always holds: at most
`AT_ONCE` threads work, and only one begins anything while those are served who lack nothing; each
session in its turn gets one hop of a thread, for up to `BATCH` of its loads; none begins while more
than `AT_ONCE` have results that the loop has not heard; loads of equal keys that wait or run at one
time, whoever's they are, are one run; what nobody waits for runs only when nothing that is waited
for is left. Knows no sockets, and not what a load does: one that raises has its exception for a
result.

Threads take their next hop themselves: to be sent on each by the event loop cost a cold sequential
reader 7 % of its rate, since the loop has replies to write when a hop ends.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from threading import Condition
from time import perf_counter
from typing import Any, Protocol

import trio
from trio.lowlevel import TrioToken, current_trio_token

from ventifs.vfs.interface import AT_ONCE, BATCH, Load

# Beside turns of those that lack nothing, the last within this time, one thread works: two bring a
# cold reader 1.1 times as much, and take the interpreter from the loop twice as often. A session
# that needs none kept 0.3 to 0.9 of its rate beside two, 0.6 to 1.1 beside one.
WARM_S = 0.005
AHEAD_MAX = 64  # loads that nobody waits for yet; more are of readers that have moved on

Result = tuple[Load, Any, BaseException | None]


class Waiter(Protocol):
    """Whoever waits for loads: a connection. Hashable by identity."""

    def finished(self, results: list[Result]) -> None:
        """Loads are done. Called in the event loop; neither waits nor raises."""


class Loader:
    """Queues and threads; `run` is their task.

    Attributes:
        runs: loads run so far.
        hops: thread hops made so far.
        shared: loads that found another of their key waiting or running.
        ahead_runs: of the runs, those that nobody waited for when they began.
        warm: when a connection that lacks nothing was served last, by `clock`; connections set it.
        clock: returns seconds, of which `WARM_S` are counted.

    Concurrency: methods belong to the event loop's thread. `_changed` guards what its own threads
    change too; `busy` and who reads the counters do without.
    """

    def __init__(
        self,
        *,
        at_once: int = AT_ONCE,
        batch: int = BATCH,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """Run at most `at_once` hops at a time, of at most `batch` loads each."""
        self.clock = clock
        self.runs = self.hops = self.shared = self.ahead_runs = 0
        self.warm = 0.0
        self._at_once = at_once
        self._batch = batch
        self._queues: dict[Waiter, deque[Load]] = {}  # of those with loads, the next one first
        self._ahead: deque[Load] = deque()
        self._known: dict[Hashable, Load] = {}  # with a key, waiting or running
        self._running: set[Load] = set()  # also those whose results the loop has not heard yet
        self._hopping = 0  # threads
        self._unheard = 0  # hops whose results are awaited, and on their way to the loop
        self._changed = Condition()
        self._ended = False

    def busy(self) -> bool:
        """Whether threads are at work, or about to be; takes no lock."""
        return bool(self._queues or self._ahead or self._running)  # last: see `_begun`

    @property
    def queued(self) -> int:
        """Loads that wait for a thread; one that two sessions wait for counts twice."""
        with self._changed:
            return sum(map(len, self._queues.values()))

    def submit(self, client: Waiter, loads: Iterable[Load]) -> None:
        """Have loads run; the client is told in `finished`, of those of one hop at a time."""
        with self._changed:
            queue = self._queues.setdefault(client, deque())
            for load in loads:
                run = self._run_of(load)
                if run.waiters:
                    self.shared += 1
                run.waiters.append((client, load))
                if not run.started:  # in the queue of each that waits: whose turn is first runs it
                    queue.append(run)
            if queue:
                self._changed.notify(-(-len(queue) // self._batch))
            else:
                del self._queues[client]

    def ahead(self, loads: Iterable[Load]) -> None:
        """Have loads run that nobody waits for; of too many, the oldest are forgotten."""
        with self._changed:
            for load in loads:
                if load.key not in self._known:
                    self._ahead.append(self._run_of(load))
            while len(self._ahead) > AHEAD_MAX:
                self._forget(self._ahead.popleft())
            self._changed.notify(len(self._ahead))

    def drop(self, client: Waiter) -> None:
        """A client is gone: what only it waits for is not begun, and it is told nothing more."""
        with self._changed:
            for run in self._queues.pop(client, ()):
                run.waiters = [waiter for waiter in run.waiters if waiter[0] is not client]
                self._forget(run)
            for run in self._running:
                run.waiters = [waiter for waiter in run.waiters if waiter[0] is not client]

    async def run(self) -> None:
        """Work until cancelled; the loads that threads are at are finished first."""
        limiter = trio.CapacityLimiter(self._at_once)
        work = partial(trio.to_thread.run_sync, self._work, current_trio_token(), limiter=limiter)
        async with trio.open_nursery() as nursery:
            for _ in range(self._at_once):
                nursery.start_soon(work)
            try:
                await trio.sleep_forever()
            finally:
                with self._changed:
                    self._ended = True
                    self._changed.notify_all()

    def _work(self, loop: TrioToken) -> None:
        """Make hops, as long as the loader runs: a thread's whole life."""
        changed = self._changed
        while True:
            with changed:
                runs = self._next()
                if not runs:
                    return
                self.hops += 1
                self.runs += len(runs)
                self._hopping += 1
            outcomes = [_outcome(run.run) for run in runs]
            with changed:
                self._hopping -= 1
                awaited = any(run.waiters for run in runs)
                if awaited:
                    self._unheard += 1
                else:
                    self._end(runs)
            if awaited:
                loop.run_sync_soon(self._deliver, runs, outcomes)

    def _run_of(self, load: Load) -> Load:
        """The load that is run for this one: itself, or one of an equal key that came before."""
        if load.key is None:
            return load
        known = self._known.get(load.key)
        if known is None:
            # A copy of what has run before, since a queue may hold that still.
            known = Load(load.key, load.run) if load.started else load
            self._known[load.key] = known
        return known

    def _forget(self, run: Load) -> None:
        if not run.started and not run.waiters:
            self._unlist(run)

    def _unlist(self, run: Load) -> None:
        """Let its key be another's; it may be already, when this was forgotten and begun anyway."""
        if run.key is not None and self._known.get(run.key) is run:
            del self._known[run.key]

    def _end(self, runs: list[Load]) -> None:
        self._running.difference_update(runs)
        for run in runs:
            self._unlist(run)

    def _next(self) -> list[Load]:
        """Wait for what the next hop is for; nothing, when it is all over."""
        while not self._ended:
            beside_s = self.warm + WARM_S - self.clock() if self._hopping else 0
            if beside_s > 0:  # one thread is to do
                self._changed.wait(beside_s if self._queues or self._ahead else None)
            elif runs := self._taken():
                return runs
            else:
                self._changed.wait()
        return []

    def _taken(self) -> list[Load]:
        """What the next hop is for: loads of the session whose turn it is, or those ahead."""
        if self._queues and self._unheard > self._at_once:
            return []  # what is loaded may be dropped again before it is served
        while self._queues:
            client, queue = next(iter(self._queues.items()))
            runs = self._begun(queue, self._batch)
            del self._queues[client]
            if queue:
                self._queues[client] = queue  # behind all others
            if runs:
                return runs
        runs = self._begun(self._ahead, 1)
        self.ahead_runs += len(runs)
        return runs

    def _begun(self, queue: deque[Load], most: int) -> list[Load]:
        runs: list[Load] = []
        while queue and len(runs) < most:
            run = queue[0]
            if not run.started:
                run.started = True
                runs.append(run)
                self._running.add(run)  # before it is out of its queue: see `busy`
            queue.popleft()
        return runs

    def _deliver(self, runs: list[Load], outcomes: list[tuple[Any, BaseException | None]]) -> None:
        results: dict[Waiter, list[Result]] = {}
        with self._changed:
            self._end(runs)
            self._unheard -= 1
            self._changed.notify()
        for run, (value, error) in zip(runs, outcomes, strict=True):
            waiters, run.waiters = run.waiters, []  # which hold the load itself, a cycle
            for client, load in waiters:
                results.setdefault(client, []).append((load, value, error))
        for client, those in results.items():
            client.finished(those)


def _outcome(run: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return run(), None
    except BaseException as error:  # whatever it is, it is the business of who waits
        return None, error
