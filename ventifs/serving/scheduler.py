"""Whose turn it is: the order in which the sessions of a process are served.

Owns an epoll of all connections and the one loop that serves them. What always holds: every other
turn is of one whose last turn was short, if any waits, so that who asks little waits for a turn of
another and not for a round of all; of the others the one that was served least so far is next;
connections are polled between any two turns; the rest of the event loop has its say every `BUSY_S`,
or `NAP_S` while nobody has a turn; it spins only where that pays (`adaptive_poll.py`), and where
nobody else wants the core: one who shares it with its client would keep it from asking. Knows no
protocol: what a turn is, its `Runnable` says.

A task of trio's for each turn would serve in rounds, and cost each round trip an `epoll_ctl` and a
pass of its loop: one client beside 63 busy ones had a p99 of 12 ms where this had 0.12 (435,000
requests a second in all, so a fair share is 0.15), and one alone 0.9 of diod's rate, then 1.5. So
measured by tools/bench/ninep on two idle cores, when it spun wherever gaps had been short.
"""

import select
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from time import perf_counter, thread_time

import trio
from trio.lowlevel import checkpoint, notify_closing, wait_readable

from ventifs.serving.adaptive_poll import AdaptivePoll

BUSY_S = 0.001  # after which others in this event loop are let in
SHORT_S = 0.00004  # a turn of up to some 16 requests that are answered from memory
# So far behind the least served is one at most: beside 63 others it would wait 63 times as long.
LAG_S = 0.0005
# Who asks one thing after another is waited for, as KVM's halt polling waits for a guest: to wake
# this process's core takes 50 us, which is more than an answer, and to go through trio 30 more.
SPIN_S = 0.0002  # of looking again and again, while that finds something
NAP_S = 0.002  # of sleeping where only connections wake it, while that finds something
# Between two looks, which are 2 us: another has had the core, perhaps the very one waited for.
STOLEN_S = 0.00003

_EVENTS_MAX = 64  # of one look; room for more than a thousand is no quick allocation

_IN = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_OUT = select.EPOLLOUT | select.EPOLLET
_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
# When a write does something, or fails. Not at RDHUP: who ends his side and reads nothing would be
# tried at once for ever, since to ask for EPOLLOUT tells of his end anew.
_TRY = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR


class Runnable:
    """One who takes turns, and what the scheduler knows of it.

    Attributes:
        reads, writes: descriptors, which may be equal.
        readable: there may be something to read; the member clears it when there was nothing.
        ended: the other end has closed, so that readable stays until an end was read.
        served_s: seconds of turns it had, raised to those of the least served when it comes back.
        short: its last turn was.
        queued: it waits for its turn.
        blocked: it waits until more can be written.
    """

    def __init__(self, reads: int, writes: int) -> None:
        """With nothing to do yet."""
        self.reads = reads
        self.writes = writes
        self.readable = False
        self.ended = False
        self.served_s = 0.0
        self.short = True
        self.queued = False
        self.blocked = False

    def step(self) -> bool:
        """Have one turn. Whether there is more to do at once. Never raises, never waits."""
        raise NotImplementedError


class Scheduler:
    """The members, and the loop that serves them.

    Concurrency: of the event loop's thread.
    """

    def __init__(
        self,
        busy: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = thread_time,
        wall: Callable[[], float] = perf_counter,
    ) -> None:
        """Nobody is here.

        Args:
            busy: whether threads work that want this process's interpreter: then nothing spins.
            clock: gives seconds; what turns take is told by it. Of this thread's own, not the
                wall's: a turn in which something else had the core is not to be paid for.
            wall: returns seconds; how long others have waited and how long to spin is measured
                by it.
        """
        self._busy = busy
        self._clock = clock
        self._wall = wall
        self._epoll = select.epoll()
        self._members: dict[int, Runnable] = {}
        self._queue: list[tuple[float, int, Runnable]] = []
        self._short: deque[Runnable] = deque()  # of these one before each of the queue
        self._was_short = False  # the last turn was one of these
        self._arrivals = 0
        self._least_s = 0.0  # what the one whose turn was last had had
        self._asleep = False
        self._let_in = 0.0  # when others in this event loop were, by `_wall`
        self._spin = AdaptivePoll()
        self._nap = AdaptivePoll()

    def add(self, member: Runnable) -> None:
        """Let one take turns.

        Raises:
            OSError: a descriptor cannot be waited for.
        """
        if self._epoll.closed:
            return  # nobody is served any more
        self._epoll.register(member.reads, _IN)
        self._members[member.reads] = member

    def remove(self, member: Runnable) -> None:
        """Let one take no more turns; before its descriptors are closed."""
        if self._epoll.closed or self._members.pop(member.reads, None) is None:
            return
        self._epoll.unregister(member.reads)
        if member.blocked and member.writes != member.reads:
            del self._members[member.writes]
            self._epoll.unregister(member.writes)
        member.blocked = False

    def wake(self, member: Runnable) -> None:
        """A member has something to do."""
        self._enqueue(member)
        if self._asleep:
            notify_closing(self._epoll.fileno())

    def wait_writable(self, member: Runnable) -> None:
        """Give a member its next turn when more can be written.

        Raises:
            OSError: that cannot be waited for.
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
            # After a turn, not before one: while the client is at work on its reply.
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
            return  # it has gone
        if self._queue or self._short or not member.short:
            began = self._clock()
            again = member.step()
            took_s = self._clock() - began
            member.short = took_s < SHORT_S
            member.served_s += took_s
        else:  # nobody waits who would be owed it, and to look at that clock twice costs 1 to 3 us
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
        """Let those in that have something to do; whether there were any."""
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
        """Wait a little for work, where some is likely; whether there is."""
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
        """Look again and again; whether there is work. Not to be done when it rarely pays."""
        wall = self._wall
        began = last = wall()
        if self._poll():
            return True  # what was there before does not tell whether to wait pays
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
