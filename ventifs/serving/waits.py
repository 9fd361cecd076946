"""Tries again and again what waits for something that is not a disk, such as a lock.

Owns the waits of all sessions of a process, and one task for all of them. Always:

- A wait is tried in the event loop, first after `PAUSE_FIRST_S`, then after pauses that double up
  to `PAUSE_MAX_S`, and a last time at its end. It takes no thread: a thread per wait would let a
  client fill the loader.
- What the file system reports to be worth another try (`Wait.soon`) is tried at once.
- All waits together are tried at most `RATE_MAX` times a second, beside those. So with thousands of
  waits the pauses are longer.

Knows no locks, and no sessions but as waiters.
"""

from collections.abc import Iterable
from functools import partial
from heapq import heappop, heappush

import trio

from ventifs.serving.loader import Result, Waiter
from ventifs.vfs.interface import Wait

PAUSE_FIRST_S = 0.005
PAUSE_MAX_S = 0.1
RATE_MAX = 5000  # tries a second: 3% of a core, see docs/performance.md
AT_ONCE = 64  # tries between two chances of other tasks


class _Trying:
    """A wait that is being tried.

    Attributes:
        due: when it is tried next; an entry of the queue for another time is out of date.
    """

    __slots__ = ("client", "due", "ends", "pause_s", "wait")

    def __init__(self, client: Waiter, wait: Wait, now: float) -> None:
        self.client = client
        self.wait = wait
        self.ends = now + wait.seconds
        self.pause_s = PAUSE_FIRST_S
        self.due = 0.0


class Waits:
    """The waits of a process; `run` is their task.

    Attributes:
        tries: how many there were.

    Concurrency: for the event loop's thread.
    """

    def __init__(self) -> None:
        """Start without waits."""
        self.tries = 0
        self._queue: list[tuple[float, int, _Trying]] = []
        self._arrivals = 0
        self._waiting = 0
        self._sleeps_until = 0.0
        self._earlier = trio.Event()

    def __len__(self) -> int:
        """How many waits there are; one that its session gave up is among them for a pause."""
        return self._waiting

    def add(self, client: Waiter, waits: Iterable[Wait]) -> None:
        """Try these for a client, which gets their results by `finished`.

        A wait whose session has set `over` gets none.
        """
        now = trio.current_time()
        for wait in waits:
            trying = _Trying(client, wait, now)
            wait.soon = partial(self._hurry, trying)
            self._waiting += 1
            self._schedule(trying, min(now + PAUSE_FIRST_S, trying.ends))

    async def run(self) -> None:
        """Try until cancelled."""
        while True:
            now = trio.current_time()
            if self._queue and self._queue[0][0] <= now:
                self._some(now)
                await trio.lowlevel.checkpoint()
            else:
                await self._sleep()

    async def _sleep(self) -> None:
        """Wait until the first one of the queue is due."""
        self._earlier = trio.Event()
        self._sleeps_until = self._queue[0][0] if self._queue else float("inf")
        with trio.move_on_at(self._sleeps_until):
            await self._earlier.wait()
        self._sleeps_until = 0.0

    def _hurry(self, trying: _Trying) -> None:
        now = trio.current_time()
        if now < trying.due:
            self._schedule(trying, now)

    def _schedule(self, trying: _Trying, due: float) -> None:
        trying.due = due
        self._arrivals += 1
        heappush(self._queue, (due, self._arrivals, trying))
        if due < self._sleeps_until:
            self._sleeps_until = 0.0
            self._earlier.set()

    def _some(self, now: float) -> None:
        """Try a few of those that are due."""
        for _ in range(AT_ONCE):
            if not self._queue or self._queue[0][0] > now:
                return
            due, _, trying = heappop(self._queue)
            if due == trying.due:
                self._try(trying, now)

    def _try(self, trying: _Trying, now: float) -> None:
        wait, value, error = trying.wait, None, None
        if wait.over:
            self._end(trying)
            return
        self.tries += 1
        try:
            value = wait.attempt()
        except Exception as failure:
            error = failure
        if value is None and error is None:
            if now < trying.ends:
                longest_s = max(PAUSE_MAX_S, self._waiting / RATE_MAX)
                trying.pause_s = min(trying.pause_s * 2, longest_s)
                self._schedule(trying, min(now + trying.pause_s, trying.ends))
                return
            wait.cancel()
            value = wait.otherwise
        self._end(trying)
        result: Result = (wait, value, error)
        trying.client.finished([result])

    def _end(self, trying: _Trying) -> None:
        self._waiting -= 1
        trying.due = -1.0
        trying.wait.soon = None
