"""Waits: when they are tried, how they end, and what thousands of them cost."""

from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise
from typing import Any

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ventifs.serving.loader import Result
from ventifs.serving.waits import AT_ONCE, PAUSE_FIRST_S, PAUSE_MAX_S, RATE_MAX, Waits
from ventifs.vfs.interface import Wait


class Waiting:
    """A client with waits that another may let go.

    Attributes:
        tried: the times at which one was tried.
        results: of its waits, with the times at which they came.
        cancelled: how often.
        answer: what the next attempts return, or raise.
    """

    def __init__(self, clock: MockClock) -> None:
        self.clock = clock
        self.tried: list[float] = []
        self.results: list[tuple[float, Any]] = []
        self.cancelled = 0
        self.answer: Any = None

    def wait(self, seconds: float = 1.0) -> Wait:
        return Wait(self.attempt, seconds, "blocked", self.cancel)

    def attempt(self) -> Any:
        self.tried.append(self.clock.current_time())
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def cancel(self) -> None:
        self.cancelled += 1

    def finished(self, results: list[Result]) -> None:
        now = self.clock.current_time()
        self.results += [(now, value if error is None else error) for _, value, error in results]


def run(test: Callable[[Waits, MockClock], Awaitable[None]]) -> None:
    """Run a test beside a process's waits, on a clock that only the test moves."""
    clock = MockClock()

    async def main() -> None:
        waits = Waits()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits.run)
            await wait_all_tasks_blocked()
            await test(waits, clock)
            assert len(waits) == 0
            nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)


async def pass_(clock: MockClock, seconds: float, step_s: float = 0.001) -> None:
    """Let time pass in steps, each with all that is due in it."""
    for _ in range(round(seconds / step_s)):
        clock.jump(step_s)
        await wait_all_tasks_blocked()


def test_attempts_come_at_growing_pauses_and_end() -> None:
    async def test(waits: Waits, clock: MockClock) -> None:
        client = Waiting(clock)
        began = clock.current_time()
        waits.add(client, [client.wait()])
        await pass_(clock, 1.1)
        times = [round(at - began, 3) for at in client.tried]
        pauses = [round(b - a, 3) for a, b in zip([0, *times], times, strict=False)]
        assert pauses[:6] == [0.005, 0.01, 0.02, 0.04, 0.08, 0.1]
        assert all(pause <= PAUSE_MAX_S + 0.001 for pause in pauses)
        assert times[-1] == 1.0
        [(at, result)] = client.results
        assert (round(at - began, 3), result) == (1.0, "blocked")
        assert client.cancelled == 1
        assert waits.tries == len(times) < 20

    run(test)


def test_the_first_result_counts_even_if_it_is_false() -> None:
    async def test(waits: Waits, clock: MockClock) -> None:
        client = Waiting(clock)
        waits.add(client, [client.wait()])
        await pass_(clock, 0.02)
        client.answer = 0
        await pass_(clock, 0.2)
        assert [result for _, result in client.results] == [0]
        assert client.cancelled == 0

    run(test)


def test_an_attempt_that_raises_is_a_result() -> None:
    async def test(waits: Waits, clock: MockClock) -> None:
        client, other = Waiting(clock), Waiting(clock)
        client.answer = error = OSError("gone")
        waits.add(client, [client.wait()])
        waits.add(other, [other.wait()])
        other.answer = "taken"
        await pass_(clock, 0.02)
        assert [result for _, result in client.results] == [error]
        assert [result for _, result in other.results] == ["taken"]
        assert (client.cancelled, len(client.tried)) == (0, 1)

    run(test)


def test_a_wait_that_its_session_gave_up_is_not_tried_again() -> None:
    async def test(waits: Waits, clock: MockClock) -> None:
        client = Waiting(clock)
        wait = client.wait()
        waits.add(client, [wait])
        await pass_(clock, 0.02)
        tried = len(client.tried)
        wait.over = True
        assert wait.soon is not None
        wait.soon()
        await pass_(clock, 0.2)
        assert (len(client.tried), client.results, client.cancelled) == (tried, [], 0)
        assert wait.soon is None

    run(test)


def test_what_may_have_become_possible_is_tried_at_once_and_then_as_before() -> None:
    async def test(waits: Waits, clock: MockClock) -> None:
        client = Waiting(clock)
        wait = client.wait()
        waits.add(client, [wait])
        await pass_(clock, 0.2)
        tried = len(client.tried)
        assert wait.soon is not None
        for _ in range(3):
            wait.soon()
        await wait_all_tasks_blocked()
        assert len(client.tried) == tried + 1
        assert client.tried[-1] == clock.current_time()
        await pass_(clock, 0.09)
        assert len(client.tried) == tried + 1
        await pass_(clock, 0.02)
        assert len(client.tried) == tried + 2
        client.answer = "taken"
        wait.soon()
        await wait_all_tasks_blocked()
        assert client.results == [(clock.current_time(), "taken")]
        assert wait.soon is None

    run(test)


def test_a_wait_of_no_time_is_tried_once() -> None:
    async def test(waits: Waits, clock: MockClock) -> None:
        client = Waiting(clock)
        waits.add(client, [client.wait(0)])
        await wait_all_tasks_blocked()
        assert [result for _, result in client.results] == ["blocked"]
        assert client.cancelled == len(client.tried) == 1

    run(test)


def test_a_new_wait_is_not_held_up_by_later_ones() -> None:
    async def test(waits: Waits, clock: MockClock) -> None:
        early, late = Waiting(clock), Waiting(clock)
        waits.add(early, [early.wait(9)])
        await pass_(clock, 0.3)
        waits.add(late, [late.wait(9)])
        clock.jump(PAUSE_FIRST_S)
        await wait_all_tasks_blocked()
        assert len(late.tried) == 1
        for client in (early, late):
            client.answer = "taken"
        await pass_(clock, 0.2)

    run(test)


def test_thousands_of_waits_are_tried_less_often() -> None:
    count = 4000

    async def test(waits: Waits, clock: MockClock) -> None:
        client = Waiting(clock)
        waits.add(client, [client.wait(10) for _ in range(count)])
        await pass_(clock, 2, 0.01)
        before = waits.tries
        await pass_(clock, 4, 0.01)
        assert count < waits.tries - before <= 4 * RATE_MAX * 1.05
        client.answer = "taken"
        await pass_(clock, 2, 0.01)
        assert len(client.results) == count

    run(test)


def test_other_tasks_run_between_a_few_attempts() -> None:
    async def test(waits: Waits, clock: MockClock) -> None:
        client = Waiting(clock)
        seen: list[int] = []
        client.answer = "taken"

        async def look() -> None:
            while len(client.tried) < 10 * AT_ONCE:
                seen.append(len(client.tried))
                await trio.lowlevel.checkpoint()

        waits.add(client, [client.wait() for _ in range(10 * AT_ONCE)])
        async with trio.open_nursery() as nursery:
            clock.jump(PAUSE_FIRST_S)
            nursery.start_soon(look)
        steps = [b - a for a, b in pairwise(seen)]
        assert max(steps) <= 2 * AT_ONCE

    run(test)


def test_attempts_that_end_others_waits_do_no_harm() -> None:
    async def test(waits: Waits, clock: MockClock) -> None:
        client = Waiting(clock)
        both = [client.wait(), client.wait()]

        def hurry(other: Wait) -> str:
            if other.soon is not None:
                other.soon()
            return "taken"

        both[0].attempt, both[1].attempt = partial(hurry, both[1]), partial(hurry, both[0])
        waits.add(client, both)
        await pass_(clock, 0.02)
        assert [result for _, result in client.results] == ["taken", "taken"]

    run(test)
