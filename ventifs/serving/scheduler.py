"""The order in which the sessions of a process are served.

Owns an epoll of all connections and the one loop that serves them. Always:

- While sessions wait whose last turn was short, at least every other turn is theirs. So a client
  that asks little waits for one turn of another session, not for a round of all.
- Of the others, the session that was served least so far is next.
- Connections are polled between any two turns.
- Other tasks of the event loop run every `BUSY_S`, or every `NAP_S` while no session has a turn.
- The loop spins only where that pays (`adaptive_poll.py`) and where nothing else wants the core: on
  a core that it shares with its client it would keep the client from asking.

Knows no protocol: its members (`Runnable`) define what a turn is.

A trio task for each turn would serve sessions in rounds, and would cost each round trip an
`epoll_ctl` and a pass of trio's loop. A client would wait much longer beside busy ones, and would
be served more slowly when it is alone: see docs/performance.md.
"""

import select
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from time import perf_counter, thread_time

import trio
from trio.lowlevel import checkpoint, notify_closing, wait_readable

from ventifs.serving.adaptive_poll import AdaptivePoll

BUSY_S = 0.001  # after which other tasks of this event loop run
SHORT_S = 0.00004  # a turn of a few requests answered from memory; see docs/performance.md
# A session is at most this far behind the least served one. Beside 63 others that makes it wait 63
# times as long.
LAG_S = 0.0005
# The loop waits for a client that asks one thing after another, as KVM's halt polling waits for a
# guest: waking this process's core takes longer than an answer, and going through trio adds to it.
# See docs/performance.md.
SPIN_S = 0.0002  # of polling again and again, as long as that finds something
NAP_S = 0.002  # of sleeping where only connections wake it, as long as that finds something
# If this much time passes between two polls, another process has had the core, perhaps the very
# client that the loop waits for. A poll itself takes far less: see docs/performance.md.
STOLEN_S = 0.00003

_EVENTS_MAX = 64  # of one poll; room for more than a thousand is slow to allocate

_IN = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_OUT = select.EPOLLOUT | select.EPOLLET
_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
# Events after which a write does something, or fails. RDHUP is none of them: if a client has closed
# its side and reads nothing, asking for EPOLLOUT reports RDHUP again at once, so the write would be
# tried again without end.
_TRY = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR


class Runnable:
    """A member of a scheduler: what takes turns, and what the scheduler knows of it.

    Attributes:
        reads, writes: descriptors, which may be equal.
        readable: there may be something to read; the member clears it when there was nothing.
        ended: the other end has closed, so `readable` stays until the end of input is read.
        served_s: seconds of turns it had, raised to those of the least served when it comes back,
            and then at most `LAG_S` more.
        short: its last turn was short.
        queued: it waits for its turn.
        blocked: it waits until more can be written.
    """

    def __init__(self, reads: int, writes: int) -> None:
        """Start with nothing to do."""
        self.reads = reads
        self.writes = writes
        self.readable = False
        self.ended = False
        self.served_s = 0.0
        self.short = True
        self.queued = False
        self.blocked = False

    def step(self) -> bool:
        """Have one turn; return whether there is more to do at once. Never raises, never waits."""
        raise NotImplementedError


class Scheduler:
    """The members, and the loop that serves them.

    Concurrency: for the event loop's thread.
    """

    def __init__(
        self,
        busy: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = thread_time,
        wall: Callable[[], float] = perf_counter,
    ) -> None:
        """Start without members.

        Args:
            busy: returns whether threads work that need this process's interpreter; the loop does
                not spin then.
            clock: returns seconds; the length of turns is measured by it. It is this thread's own
                clock, not the wall's: no session pays for time in which something else had the
                core.
            wall: returns seconds; measures how long other tasks have waited, and how long to spin.
        """
        self._busy = busy
        self._clock = clock
        self._wall = wall
        self._epoll = select.epoll()
        self._members: dict[int, Runnable] = {}
        self._queue: list[tuple[float, int, Runnable]] = []
        self._short: deque[Runnable] = deque()  # one of these before each of the queue
        self._was_short = False  # the last turn was of one of these
        self._arrivals = 0
        self._least_s = 0.0  # `served_s` of the last one out of the queue, before its turn
        self._asleep = False
        self._let_in = 0.0  # when other tasks of this event loop ran, by `_wall`
        self._spin = AdaptivePoll()
        self._nap = AdaptivePoll()

    def add(self, member: Runnable) -> None:
        """Add a member.

        Raises:
            OSError: a descriptor cannot be waited for.
        """
        if self._epoll.closed:
            return  # the scheduler has ended
        self._epoll.register(member.reads, _IN)
        self._members[member.reads] = member

    def remove(self, member: Runnable) -> None:
        """Remove a member; to be called before its descriptors are closed."""
        if self._epoll.closed or self._members.pop(member.reads, None) is None:
            return
        self._epoll.unregister(member.reads)
        if member.blocked and member.writes != member.reads:
            del self._members[member.writes]
            self._epoll.unregister(member.writes)
        member.blocked = False

    def wake(self, member: Runnable) -> None:
        """Queue a member that has something to do."""
        self._enqueue(member)
        if self._asleep:
            notify_closing(self._epoll.fileno())

    def wait_writable(self, member: Runnable) -> None:
        """Give a member its next turn when more can be written.

        Raises:
            OSError: its descriptor cannot be waited for.
        """
        if member.blocked:
            return
        if member.writes == member.reads:
            self._epoll.modify(member.reads, _IN | _OUT)
        else:
            self._epoll.register(member.writes, _OUT)
            self._members[member.writes] = member
        member.blocked = True

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            await self._serve()
        finally:
            self._epoll.close()

    async def _serve(self) -> None:
        self._let_in = self._wall()
        while True:
            if self._queue or self._short:
                self._turn()
            # After a turn, not before one: meanwhile the client works on its reply.
            if self._wall() - self._let_in > BUSY_S:
                await checkpoint()
                self._let_in = self._wall()
            if self._queue or self._short:
                self._poll()
            elif not self._found():
                await self._sleep()

    def _turn(self) -> None:
        if self._short and not (self._was_short and self._queue):
            member = self._short.popleft()
            self._was_short = True
        elif self._queue:
            self._least_s, _, member = heappop(self._queue)
            self._was_short = False
        else:
            return
        member.queued = False
        if self._members.get(member.reads) is not member:
            return  # it was removed
        if self._queue or self._short or not member.short:
            began = self._clock()
            again = member.step()
            took_s = self._clock() - began
            member.short = took_s < SHORT_S
            member.served_s += took_s
        else:  # no other waits, and reading that clock twice takes time: docs/performance.md
            again = member.step()
        if again:
            self._enqueue(member)

    def _enqueue(self, member: Runnable) -> None:
        if member.queued:
            return
        member.queued = True
        if member.short:
            self._short.append(member)
            return
        least_s = self._least_s
        member.served_s = min(max(member.served_s, least_s), least_s + LAG_S)
        self._arrivals += 1
        heappush(self._queue, (member.served_s, self._arrivals, member))

    def _poll(self, timeout_s: float = 0) -> bool:
        """Queue the members that have something to do; return whether there were events."""
        events = self._epoll.poll(timeout_s, _EVENTS_MAX)
        for fd, mask in events:
            member = self._members.get(fd)
            if member is None:
                continue
            if mask & _GONE:
                member.ended = True
            if fd == member.reads and mask & ~select.EPOLLOUT:
                member.readable = True
            if member.blocked and mask & _TRY:
                self._unblock(member)
            self._enqueue(member)
        return bool(events)

    def _unblock(self, member: Runnable) -> None:
        member.blocked = False
        if member.writes == member.reads:
            self._epoll.modify(member.reads, _IN)
        else:
            del self._members[member.writes]
            self._epoll.unregister(member.writes)

    def _found(self) -> bool:
        """Wait a little for work, where some is likely; return whether there is any."""
        if self._busy():
            return self._poll()
        if self._spin.is_on() and self._spun():
            return True
        if not self._nap.is_on():
            return self._poll()
        found = self._poll(NAP_S)
        self._nap.settle(paid=found)
        return found

    def _spun(self) -> bool:
        """Poll again and again; return whether there is work. For use where it often pays."""
        wall = self._wall
        began = last = wall()
        if self._poll():
            return True  # it was there before, and does not show whether waiting pays
        while True:
            found = self._poll()
            now = wall()
            stolen = now - last > STOLEN_S
            if found or stolen or now - began > SPIN_S:
                self._spin.settle(paid=found and not stolen)
                return found
            last = now

    async def _sleep(self) -> None:
        self._asleep = True
        try:
            await wait_readable(self._epoll.fileno())
        except trio.ClosedResourceError:
            pass  # `wake`
        finally:
            self._asleep = False
        self._let_in = self._wall()
