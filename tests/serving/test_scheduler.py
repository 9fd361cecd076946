"""The scheduler: who is next, what wakes it, and that nobody is forgotten."""

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from tests.support.clock import Clock
from tests.support.sessions import PATIENCE_S
from ventifs.serving.scheduler import NAP_S, SPIN_S, STOLEN_S, Runnable, Scheduler


class Eater(Runnable):
    """Reads what comes, a byte a turn; a turn takes `cost_s` by the clock."""

    def __init__(
        self, log: list[str], name: str, cost_s: float = 0.0, clock: Clock | None = None
    ) -> None:
        self.ours, theirs = socket.socketpair()
        self.theirs = theirs
        theirs.setblocking(False)
        super().__init__(theirs.fileno(), theirs.fileno())
        self.log, self.name, self.cost_s = log, name, cost_s
        self.clock = clock or Clock()
        self.eaten = b""
        self.full = trio.Event()
        self.enough = 1

    def step(self) -> bool:
        self.clock.now_s += self.cost_s
        try:
            data = self.theirs.recv(1)
        except BlockingIOError:
            self.readable = False
            return False
        self.log.append(self.name)
        self.eaten += data
        if len(self.eaten) >= self.enough or not data:
            self.full.set()
        return bool(data)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@contextmanager
def eaters(*members: Eater) -> Iterator[Scheduler]:
    scheduler = Scheduler(clock=members[0].clock)
    for member in members:
        scheduler.add(member)
    try:
        yield scheduler
    finally:
        for member in members:
            scheduler.remove(member)
            member.close()


def _served(scheduler: Scheduler, *members: Eater) -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scheduler._serve)
                for member in members:
                    await member.full.wait()
                nursery.cancel_scope.cancel()

    trio.run(main)


def _feed(size: int, *members: Eater) -> None:
    for member in members:
        member.ours.send(b"x" * size)
        member.enough = len(member.eaten) + size
        member.full = trio.Event()


def test_who_was_served_least_is_next() -> None:
    log: list[str] = []
    clock = Clock()
    greedy, modest = Eater(log, "g", 0.0004, clock), Eater(log, "m", 0.0001, clock)
    with eaters(greedy, modest) as scheduler:
        _feed(40, greedy, modest)
        _served(scheduler, greedy, modest)
    assert log[:50].count("m") in range(38, 42)  # four turns of its for one of the other's


def test_who_comes_back_has_saved_nothing_up() -> None:
    log: list[str] = []
    clock = Clock()
    busy, other, late = (Eater(log, name, 0.0004, clock) for name in "bol")
    with eaters(busy, other, late) as scheduler:
        _feed(30, busy, other)
        _served(scheduler, busy, other)
        del log[:]
        _feed(20, busy, late)
        _served(scheduler, busy, late)
    assert log[:20].count("l") in range(9, 12)  # and not all of its own first


def test_who_is_alone_is_not_timed() -> None:
    log: list[str] = []
    clock = Clock()
    alone, other = Eater(log, "a", 0.0004, clock), Eater(log, "o", 0.0004, clock)
    with eaters(alone, other) as scheduler:
        _feed(30, alone)
        _served(scheduler, alone)
        assert clock.looks == 0
        _feed(30, alone, other)
        _served(scheduler, alone, other)
        assert clock.looks > 0
        assert other.served_s > 0


def test_long_turns_are_paid_for_even_if_nobody_waited_then() -> None:
    """Or who asks one thing after another would wait for two turns of who always has work."""
    clock = Clock()
    busy, other = Eater([], "b", 0.0004, clock), Eater([], "o", 0.0004, clock)
    with eaters(busy, other) as scheduler:
        _feed(2, busy, other)
        _served(scheduler, busy, other)
        before = busy.served_s
        _feed(5, busy)
        _served(scheduler, busy)
        assert busy.served_s > before


def test_one_long_turn_is_not_paid_for_for_ever() -> None:
    log: list[str] = []
    clock = Clock()
    others = [Eater(log, "other", 0.0001, clock) for _ in range(20)]
    unlucky = Eater(log, "unlucky", 0.5, clock)
    with eaters(unlucky, *others) as scheduler:
        _feed(1, unlucky, *others)
        _served(scheduler, unlucky, *others)
        del log[:]
        unlucky.cost_s = 0.0001
        _feed(100, unlucky, *others)
        _served(scheduler, unlucky)
    assert log.index("unlucky") <= 20 * 6


def test_every_other_turn_is_for_a_short_one() -> None:
    log: list[str] = []
    clock = Clock()
    longs = [Eater(log, "long", 0.001, clock) for _ in range(20)]
    short = Eater(log, "short", 0.00001, clock)
    with eaters(*longs, short) as scheduler:
        _feed(2, *longs)  # after one turn it is known how long theirs are
        _served(scheduler, *longs)
        del log[:]
        _feed(10, *longs, short)
        _served(scheduler, short)
    at = [index for index, name in enumerate(log) if name == "short"]
    assert len(at) == 10
    assert all(later - before == 2 for before, later in itertools.pairwise(at))


def test_short_turns_leave_half_to_the_others() -> None:
    log: list[str] = []
    clock = Clock()
    shorts = [Eater(log, "short", 0.00001, clock) for _ in range(20)]
    long = Eater(log, "long", 0.001, clock)
    with eaters(long, *shorts) as scheduler:
        _feed(1, long)
        _served(scheduler, long)
        del log[:]
        _feed(10, long, *shorts)
        _served(scheduler, long)
    until = [index for index, name in enumerate(log) if name == "long"][9]
    assert log[:until].count("short") <= 10


def test_a_member_is_woken_from_outside() -> None:
    class Sleeper(Eater):
        def step(self) -> bool:
            self.full.set()
            return False

    async def main() -> None:
        with eaters(Sleeper([], "s")) as scheduler, trio.fail_after(PATIENCE_S):
            [member] = scheduler._members.values()
            assert isinstance(member, Sleeper)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scheduler.run)
                await trio.testing.wait_all_tasks_blocked()
                scheduler.wake(member)
                await member.full.wait()
                nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("pipes", [False, True])
def test_who_cannot_write_goes_on_when_there_is_room(pipes: bool) -> None:
    class Writer(Runnable):
        def __init__(self) -> None:
            if pipes:
                (reads, self.feed), (self.drain, writes) = os.pipe(), os.pipe()
            else:
                ours, theirs = socket.socketpair()
                reads = writes = theirs.detach()
                self.feed = self.drain = ours.detach()
            for fd in (reads, writes):
                os.set_blocking(fd, False)
            super().__init__(reads, writes)
            self.sent = 0
            self.stuck, self.done = trio.Event(), trio.Event()

        def step(self) -> bool:
            if self.done.is_set():
                return False
            try:
                self.sent += os.write(self.writes, bytes(1 << 20))
            except BlockingIOError:
                scheduler.wait_writable(self)
                self.stuck.set()
                return False
            if self.stuck.is_set():
                self.done.set()
                return False
            return True

    scheduler = Scheduler()
    writer = Writer()

    async def main() -> None:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scheduler.run)
                scheduler.add(writer)
                os.write(writer.feed, b"go")
                await writer.stuck.wait()
                await trio.testing.wait_all_tasks_blocked()
                assert writer.blocked
                os.read(writer.drain, writer.sent)
                await writer.done.wait()
                assert not writer.blocked
                scheduler.remove(writer)
                nursery.cancel_scope.cancel()

    trio.run(main)
    for fd in {writer.reads, writer.writes, writer.feed, writer.drain}:
        os.close(fd)


def test_the_rest_of_the_loop_has_its_say_beside_one_who_never_ends() -> None:
    class Endless(Eater):
        def step(self) -> bool:
            return True

    async def main() -> None:
        with eaters(Endless([], "e")) as scheduler, trio.fail_after(PATIENCE_S):
            [member] = scheduler._members.values()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scheduler.run)
                scheduler.wake(member)
                for _ in range(100):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_who_has_gone_is_not_served() -> None:
    log: list[str] = []
    gone, there = Eater(log, "gone"), Eater(log, "there")
    with eaters(gone, there) as scheduler:
        gone.ours.send(b"x")
        there.ours.send(b"x")
        scheduler._poll()
        scheduler.remove(gone)
        scheduler.remove(gone)
        _served(scheduler, there)
    assert log == ["there"]


def test_who_ends_its_side_and_reads_nothing_costs_nothing() -> None:
    ours, theirs = socket.socketpair()

    class Stuck(Runnable):
        steps = 0

        def step(self) -> bool:
            self.steps += 1
            try:
                while True:
                    theirs.send(bytes(1 << 16))
            except BlockingIOError:
                scheduler.wait_writable(self)
                return False

    theirs.setblocking(False)
    stuck, scheduler = Stuck(theirs.fileno(), theirs.fileno()), Scheduler()

    async def main() -> None:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scheduler.run)
                scheduler.add(stuck)
                scheduler.wake(stuck)
                await trio.testing.wait_all_tasks_blocked()
                before = stuck.steps
                ours.shutdown(socket.SHUT_WR)
                for _ in range(100):
                    await trio.lowlevel.checkpoint()
                await trio.testing.wait_all_tasks_blocked()
                assert stuck.steps <= before + 2
                assert stuck.blocked
                scheduler.remove(stuck)
                nursery.cancel_scope.cancel()

    with ours, theirs:
        trio.run(main)
    scheduler.add(stuck)  # as one whose connection came at the very end


class Scripted(Scheduler):
    """A scheduler whose client asks `after_s` after each wait began, by a clock of its own."""

    def __init__(self, *, busy: bool = False) -> None:
        super().__init__(busy=lambda: busy, wall=lambda: self.now_s)
        self.now_s = 0.0
        self.after_s = 0.0
        self.look_s = 0.000002  # that each look takes
        self.looks = self.naps = 0
        self._asked_s = 0.0

    def _poll(self, timeout_s: float = 0) -> bool:
        self.looks += not timeout_s
        self.naps += bool(timeout_s)
        self.now_s += self.look_s
        if timeout_s:
            self.now_s = max(self.now_s, min(self._asked_s, self.now_s + timeout_s))
        return self.now_s >= self._asked_s

    def waits(self, times: int) -> None:
        """So many waits, until the client has asked each time."""
        self.looks = self.naps = 0
        for _ in range(times):
            self._asked_s = self.now_s + self.after_s
            if not self._found():
                self.now_s = max(self.now_s, self._asked_s)


def test_who_asks_soon_is_found_by_looking() -> None:
    scheduler = Scripted()
    scheduler.after_s = SPIN_S / 2
    scheduler.waits(100)
    assert scheduler.naps == 0
    assert scheduler.looks > 1000


def test_who_asks_later_costs_no_looking() -> None:
    scheduler = Scripted()
    scheduler.after_s = (SPIN_S + NAP_S) / 2
    scheduler.waits(600)  # as long as it takes to learn
    scheduler.waits(640)
    assert scheduler.naps == 640
    assert scheduler.looks <= 3 * (SPIN_S / scheduler.look_s + 2)


def test_who_is_slow_costs_next_to_nothing() -> None:
    scheduler = Scripted()
    scheduler.after_s = 100 * NAP_S
    scheduler.waits(600)
    scheduler.waits(640)
    assert scheduler.naps <= 3
    assert scheduler.looks <= 640 + 3 * (SPIN_S / scheduler.look_s + 2)


def test_nobody_looks_again_while_another_wants_the_core() -> None:
    scheduler = Scripted()
    scheduler.after_s = SPIN_S / 2
    scheduler.look_s = 2 * STOLEN_S  # the client itself had it, in between
    scheduler.waits(600)
    scheduler.waits(640)
    assert scheduler.looks <= 3 * 3
    assert scheduler.naps >= 637


def test_what_was_there_already_does_not_bring_looking_back() -> None:
    scheduler = Scripted()
    scheduler.after_s = (SPIN_S + NAP_S) / 2
    scheduler.waits(200)
    lost = scheduler._spin.lost
    scheduler.after_s = 0
    scheduler.waits(200)
    assert scheduler._spin.lost == lost > 0


def test_nothing_spins_while_threads_work() -> None:
    scheduler = Scripted(busy=True)
    scheduler.after_s = SPIN_S / 2
    scheduler.waits(100)
    assert (scheduler.looks, scheduler.naps) == (100, 0)
