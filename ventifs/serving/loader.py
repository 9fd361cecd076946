"""Runs the loads of sessions in threads: few at once, fairly by session, and none twice.

Owns the threads, and the queues of loads between sessions and threads. A thread works in hops: a
hop runs up to `BATCH` loads of one session, or one load that no session waits for. Always:

- At most `AT_ONCE` threads work. While sessions that need no loads have turns, a thread begins a
  hop only if no other works.
- Sessions with loads take turns, each for one hop.
- No hop begins for waiting sessions while more than `AT_ONCE` hops have results that the event loop
  has not received.
- Loads of equal keys that wait or run at one time are run once, whichever sessions they belong to.
- A load that no session waits for begins only when no load that a session waits for is left.

Knows no sockets, and not what a load does: the exception of a load that raises is its result.

Threads take their next hop themselves. If the event loop started each hop, cold sequential readers
would be slower, since the loop has replies to write when a hop ends: see docs/performance.md.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from threading import Condition
from time import perf_counter
from typing import Any, Protocol

import trio
from trio.lowlevel import TrioToken, current_trio_token

from ventifs.vfs.interface import AT_ONCE, BATCH, Load, Wait

# Only one thread works while sessions that need no loads have turns, the last within this time. A
# second one helps a cold reader little, and takes the interpreter from the loop twice as often,
# which slows down sessions that need no loads. See docs/performance.md.
WARM_S = 0.005
IDLE_S = 0.01  # between two looks at whether all loads are done
AHEAD_MAX = 64  # loads that no session waits for yet; older ones are of readers that went on

Result = tuple[Load | Wait, Any, BaseException | None]


class Waiter(Protocol):
    """Something that waits: a connection. Hashable by identity."""

    def finished(self, results: list[Result]) -> None:
        """Take results. Called in the event loop; neither waits nor raises."""


class Loader:
    """Queues and threads; `run` is their task.

    Attributes:
        runs: loads run so far.
        hops: thread hops made so far.
        shared: loads that joined one of an equal key that was waited for already.
        ahead_runs: of the runs, those that no client waited for when they began.
        warm: when a connection that needs no loads was last served, by `clock`; connections set it.
        clock: returns seconds; `WARM_S` is measured by it.

    Concurrency: methods are for the event loop's thread. `_changed` guards what the loader's
    threads change too; `busy` and readers of the counters do not take it.
    """

    def __init__(
        self,
        *,
        at_once: int = AT_ONCE,
        batch: int = BATCH,
        warm_s: float = WARM_S,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """Run at most `at_once` hops at a time, of at most `batch` loads each.

        Args:
            at_once: threads.
            batch: loads.
            warm_s: seconds after a turn of a session that needs no loads in which one thread works
                alone; 0 where loads hold the interpreter only for a moment.
            clock: returns seconds.
        """
        self.clock = clock
        self._warm_s = warm_s
        self.runs = self.hops = self.shared = self.ahead_runs = 0
        self.warm = 0.0
        self._at_once = at_once
        self._batch = batch
        self._queues: dict[Waiter, deque[Load]] = {}  # of clients with loads, the next one first
        self._ahead: deque[Load] = deque()
        self._known: dict[Hashable, Load] = {}  # by key, those that wait or run
        self._running: set[Load] = set()  # also those whose results the loop has not received
        self._hopping = 0  # threads that run loads now
        self._unheard = 0  # hops whose results clients wait for, and the loop has not received
        self._changed = Condition()
        self._ended = False

    def busy(self) -> bool:
        """Whether loads wait, run, or have results that are on their way; takes no lock."""
        return bool(self._queues or self._ahead or self._running)  # last: see `_begun`

    async def idle(self) -> None:
        """Wait until no load waits, runs, or has a result on its way."""
        while self.busy():
            await trio.sleep(IDLE_S)

    @property
    def queued(self) -> int:
        """Loads that wait for a thread; one that two sessions wait for counts twice."""
        with self._changed:
            return sum(map(len, self._queues.values()))

    def submit(self, client: Waiter, loads: Iterable[Load]) -> None:
        """Queue loads of a client, which gets the results by `finished`, a hop's at a time."""
        with self._changed:
            queue = self._queues.setdefault(client, deque())
            for load in loads:
                known = self._known_for(load)
                if known.waiters:
                    self.shared += 1
                mine = known.waiters.setdefault(client, [])
                if not mine and not known.started:  # the first client whose turn it is has it run
                    queue.append(known)
                mine.append(load)
            if queue:
                self._changed.notify(-(-len(queue) // self._batch))
            else:
                del self._queues[client]

    def ahead(self, loads: Iterable[Load]) -> None:
        """Queue loads that no client waits for; of too many, the oldest are dropped."""
        with self._changed:
            for load in loads:
                if load.key not in self._known:
                    self._ahead.append(self._known_for(load))
            while len(self._ahead) > AHEAD_MAX:
                self._forget(self._ahead.popleft())
            self._changed.notify(len(self._ahead))

    def drop(self, client: Waiter) -> list[Load]:
        """Take back the loads of a client that is gone and that have not begun; return them.

        They are not begun for this client any more. It still gets the results of those that have
        begun: what they opened is the client's to close, and until then they may use its files.
        """
        taken: list[Load] = []
        with self._changed:
            for load in self._queues.pop(client, ()):
                if load.started:
                    continue
                taken += load.waiters.pop(client, ())
                if load not in self._ahead:
                    self._forget(load)
        return taken

    async def run(self) -> None:
        """Work until cancelled; loads that have begun are finished first."""
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
        """Make hops until the loader ends: all that a thread does."""
        changed = self._changed
        while True:
            with changed:
                loads = self._next()
                if not loads:
                    return
                self.hops += 1
                self.runs += len(loads)
                self._hopping += 1
            outcomes = [_outcome(load.run) for load in loads]
            with changed:
                self._hopping -= 1
                awaited = any(load.waiters for load in loads)
                if awaited:
                    self._unheard += 1
                else:
                    self._end(loads)
            if awaited:
                loop.run_sync_soon(self._deliver, loads, outcomes)

    def _known_for(self, load: Load) -> Load:
        """The load to run for this one: itself, or one of an equal key that came before."""
        if load.key is None:
            return load
        known = self._known.get(load.key)
        if known is None:
            # A load that was begun before is copied: a queue may still hold it.
            known = Load(load.key, load.run) if load.started else load
            self._known[load.key] = known
        return known

    def _forget(self, load: Load) -> None:
        """Let a load that is in no queue go, unless it has begun or a client waits for it."""
        if not load.started and not load.waiters:
            self._unlist(load)

    def _unlist(self, load: Load) -> None:
        if load.key is not None:
            del self._known[load.key]

    def _end(self, loads: list[Load]) -> None:
        self._running.difference_update(loads)
        for load in loads:
            self._unlist(load)

    def _next(self) -> list[Load]:
        """Wait for the loads of the next hop; none when the loader ends."""
        while not self._ended:
            beside_s = self.warm + self._warm_s - self.clock() if self._hopping else 0
            if beside_s > 0:  # only one thread is to work
                self._changed.wait(beside_s if self._queues or self._ahead else None)
            elif loads := self._taken():
                return loads
            else:
                self._changed.wait()
        return []

    def _taken(self) -> list[Load]:
        """Begin the loads of the next hop, if any may: those of the next client, or one ahead."""
        if self._queues and self._unheard > self._at_once:
            return []  # else caches could drop what was loaded before it is served
        while self._queues:
            client, queue = next(iter(self._queues.items()))
            loads = self._begun(queue, self._batch)
            del self._queues[client]
            if queue:
                self._queues[client] = queue  # behind all others
            if loads:
                return loads
        loads = self._begun(self._ahead, 1)
        self.ahead_runs += len(loads)
        return loads

    def _begun(self, queue: deque[Load], most: int) -> list[Load]:
        loads: list[Load] = []
        while queue and len(loads) < most:
            load = queue[0]
            if not load.started:
                load.started = True
                loads.append(load)
                self._running.add(load)  # before it is out of its queue: see `busy`
            queue.popleft()
        return loads

    def _deliver(self, loads: list[Load], outcomes: list[tuple[Any, BaseException | None]]) -> None:
        results: dict[Waiter, list[Result]] = {}
        with self._changed:
            self._end(loads)
            self._unheard -= 1
            self._changed.notify()
        for load, (value, error) in zip(loads, outcomes, strict=True):
            waiters, load.waiters = load.waiters, {}  # they refer to the load: a cycle
            for client, theirs in waiters.items():
                results.setdefault(client, []).extend((each, value, error) for each in theirs)
        for client, those in results.items():
            client.finished(those)


def _outcome(run: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return run(), None
    except BaseException as error:  # of any kind: it goes to the clients that wait
        return None, error
