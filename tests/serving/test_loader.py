"""The loader: who is next, what is shared, and what is dropped."""

import threading
from collections.abc import Callable, Hashable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.clock import Clock
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.sessions import until
from ventifs.serving.loader import AHEAD_MAX, WARM_S, Loader, Result
from ventifs.vfs.interface import Load


class Waiter:
    """A client that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[list[Result]] = []

    def finished(self, results: list[Result]) -> None:
        self.told.append(results)

    @property
    def values(self) -> list[Any]:
        return [value for results in self.told for _, value, _ in results]


class Ran:
    """Jobs that note when they run."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def job(self, name: str, key: Hashable | None = None) -> Load:
        def run() -> str:
            self.order.append(name)
            return name

        return Load(key, run)

    def load(self, name: str) -> Load:
        return Load(name, lambda: self.order.append(name))


class Gate:
    """A job that holds its thread until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._go = threading.Event()

    def run(self) -> str:
        self.entered.set()
        assert self._go.wait(PATIENCE_S)
        return "gate"

    def open(self) -> None:
        self._go.set()


def _with_loader(test: Callable[[Loader], Any], **settings: Any) -> None:
    async def main() -> None:
        loader = Loader(**settings)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loader.run)
            await test(loader)
            nursery.cancel_scope.cancel()

    trio.run(main)


async def _held(loader: Loader) -> Gate:
    """Occupy one thread."""
    gate = Gate()
    loader.submit(Waiter(), [Load(None, gate.run)])
    await until(gate.entered.is_set)
    return gate


def test_it_is_busy_from_when_a_job_is_handed_in_until_it_is_done() -> None:
    async def test(loader: Loader) -> None:
        waiter = Waiter()
        assert not loader.busy()
        loader.submit(waiter, [Load(None, lambda: None)])
        assert loader.busy()  # before any thread has it: nobody may spin until one has
        await until(lambda: bool(waiter.told))
        assert not loader.busy()

    _with_loader(test)


def test_a_job_is_run_and_its_value_told() -> None:
    async def test(loader: Loader) -> None:
        waiter, job = Waiter(), Load(None, threading.current_thread)
        loader.submit(waiter, [job])
        await until(lambda: bool(waiter.told))
        [[(told, thread, error)]] = waiter.told
        assert told is job
        assert error is None
        assert thread is not threading.current_thread()

    _with_loader(test)


@pytest.mark.parametrize("kind", [ValueError, MemoryError, SystemExit, KeyboardInterrupt])
def test_what_a_job_raises_is_its_result(kind: type[BaseException]) -> None:
    async def test(loader: Loader) -> None:
        def fail() -> None:
            raise kind("no")

        waiter = Waiter()
        loader.submit(waiter, [Load("k", fail), Load(None, lambda: 1)])
        await until(lambda: len(waiter.values) == 2)
        errors = [error for results in waiter.told for _, _, error in results]
        assert [type(error) for error in errors] == [kind, type(None)]
        loader.submit(waiter, [Load("k", lambda: 2)])  # the key is free again
        await until(lambda: 2 in waiter.values)

    _with_loader(test)


def test_a_load_ahead_outlives_who_waited_for_it_too() -> None:
    async def test(loader: Loader) -> None:
        gate, gone, ran = await _held(loader), Waiter(), Ran()
        loader.ahead([ran.load("k")])
        loader.submit(gone, [ran.job("k", key="k")])
        loader.drop(gone)
        gate.open()
        await until(lambda: bool(ran.order))
        waiter = Waiter()
        loader.submit(waiter, [ran.job("again", key="k")])
        await until(lambda: bool(waiter.told))
        assert not gone.told
        assert not loader._known

    _with_loader(test, at_once=1)


def test_sessions_take_turns_whatever_they_queue() -> None:
    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, many, few, third = Ran(), Waiter(), Waiter(), Waiter()
        loader.submit(many, [ran.job(f"many{number}") for number in range(7)])
        loader.submit(few, [ran.job("few")])
        loader.submit(third, [ran.job(f"third{number}") for number in range(3)])
        loader.submit(many, [ran.job("many7")])
        gate.open()
        await until(lambda: len(ran.order) == 12)
        assert ran.order == [
            "many0",
            "many1",
            "few",
            "third0",
            "third1",
            "many2",
            "many3",
            "third2",
            "many4",
            "many5",
            "many6",
            "many7",
        ]

    _with_loader(test, at_once=1, batch=2)


def test_one_hop_takes_several_jobs_of_a_session() -> None:
    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, waiter = Ran(), Waiter()
        loader.submit(waiter, [ran.job(str(number)) for number in range(7)])
        gate.open()
        await until(lambda: len(waiter.values) == 7)
        assert loader.hops == 1 + 3
        assert [len(results) for results in waiter.told] == [3, 3, 1]

    _with_loader(test, at_once=1, batch=3)


def test_so_many_run_at_once_and_no_more() -> None:
    async def test(loader: Loader) -> None:
        gates = [await _held(loader), await _held(loader)]
        ran, waiter = Ran(), Waiter()
        loader.submit(waiter, [ran.job("late")])
        await wait_all_tasks_blocked()
        assert ran.order == []
        assert loader.queued == 1
        gates[0].open()
        await until(lambda: ran.order == ["late"])
        gates[1].open()

    _with_loader(test)


def test_one_at_a_time_runs_beside_who_lacks_nothing() -> None:
    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, waiter = Ran(), Waiter()
        loader.warm = clock.now_s
        loader.submit(waiter, [ran.job("first")])
        loader.ahead([ran.load("ahead")])
        await until(lambda: len(loader._changed._waiters) == 1)  # type: ignore[attr-defined]
        assert ran.order == []  # the other thread has looked, and found nothing for it
        gate.open()
        await until(lambda: ran.order == ["first", "ahead"])

    clock = Clock(1.0)
    _with_loader(test, clock=clock)


def test_another_thread_begins_as_soon_as_he_has_gone() -> None:
    """And not only when the first is done, or somebody asks again."""

    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, waiter = Ran(), Waiter()
        loader.warm = clock.now_s
        loader.submit(waiter, [ran.job("first")])
        await until(lambda: clock.looks > 3)  # the other thread waits, and looks again
        assert ran.order == []
        clock.now_s += WARM_S
        await until(lambda: ran.order == ["first"])
        gate.open()

    clock = Clock(1.0)
    _with_loader(test, clock=clock)


def test_hops_that_the_loop_has_not_heard_of_are_few() -> None:
    async def test(loader: Loader) -> None:
        ran, ahead = Ran(), threading.Event()
        await wait_all_tasks_blocked()
        for number in range(5):
            loader.submit(Waiter(), [ran.job(f"{number}")])
        loader.ahead([Load("a", ahead.set)])
        wait_until(lambda: loader._unheard == 2)  # the loop hears nothing meanwhile
        with loader._changed:
            assert loader._taken() == []
        assert len(ran.order) == 2
        await until(lambda: len(ran.order) == 5)
        await until(ahead.is_set)

    _with_loader(test, at_once=1)


def test_two_run_when_he_has_gone() -> None:
    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, waiter = Ran(), Waiter()
        loader.warm = clock.now_s - WARM_S
        loader.submit(waiter, [ran.job("first")])
        await until(lambda: ran.order == ["first"])
        gate.open()

    clock = Clock(1.0)
    _with_loader(test, clock=clock)


def test_equal_keys_share_a_run_whoever_asks() -> None:
    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, one, two = Ran(), Waiter(), Waiter()
        loader.submit(one, [ran.job("first", "k"), ran.job("alone"), ran.job("alone")])
        loader.submit(two, [ran.job("second", "k"), ran.job("other", "l")])
        gate.open()
        await until(lambda: len(one.values) == 3 and len(two.values) == 2)
        assert sorted(ran.order) == ["alone", "alone", "first", "other"]
        assert "first" in two.values
        assert loader.shared == 1

    _with_loader(test, at_once=1)


def test_equal_loads_of_one_session_take_one_place_in_its_queue() -> None:
    """And each gets the result; to drop such a session takes no time for each of them."""

    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, gone, stays = Ran(), Waiter(), Waiter()
        many = [ran.job("once", "k") for _ in range(1000)]
        loader.submit(gone, [ran.job("never", "k") for _ in range(1000)])
        loader.submit(stays, many)
        assert loader.queued == 2
        loader.drop(gone)
        assert loader.queued == 1
        gate.open()
        await until(lambda: len(stays.values) == 1000)
        assert [load for results in stays.told for load, _, _ in results] == many
        assert (ran.order, gone.told) == (["never"], [])

    _with_loader(test, at_once=1)


def test_one_load_of_two_sessions_is_run_once_and_again_when_it_is_lacked_again() -> None:
    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, one, two = Ran(), Waiter(), Waiter()
        load = ran.job("it", "k")
        loader.submit(one, [load])
        loader.submit(two, [load])
        gate.open()
        await until(lambda: bool(one.told and two.told))
        assert ran.order == ["it"]
        loader.submit(one, [load])
        await until(lambda: len(one.told) == 2)
        assert ran.order == ["it", "it"]
        assert one.told[1] == [(load, "it", None)]
        assert not load.waiters
        assert not loader.busy()

    _with_loader(test, at_once=1)


def test_a_load_ahead_that_a_client_gave_up_keeps_its_key() -> None:
    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, gone, stays = Ran(), Waiter(), Waiter()
        loader.ahead([ran.load("k")])
        loader.submit(gone, [ran.job("never", "k")])
        loader.drop(gone)
        loader.submit(stays, [ran.job("never", "k")])
        gate.open()
        await until(lambda: bool(stays.told))
        await wait_all_tasks_blocked()
        assert ran.order == ["k"]

    _with_loader(test, at_once=1)


def test_a_shared_run_comes_when_the_first_of_its_waiters_has_a_turn() -> None:
    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, slow, quick = Ran(), Waiter(), Waiter()
        loader.submit(slow, [*(ran.job(str(number)) for number in range(4)), ran.job("k", "k")])
        loader.submit(quick, [ran.job("never", "k")])
        gate.open()
        await until(lambda: len(ran.order) == 5)
        assert ran.order == ["0", "k", "1", "2", "3"]
        await until(lambda: quick.values == ["k"] and len(slow.values) == 5)

    _with_loader(test, at_once=1, batch=1)


def test_who_asks_for_what_already_runs_waits_for_that_run() -> None:
    async def test(loader: Loader) -> None:
        gate, one, two = Gate(), Waiter(), Waiter()
        loader.submit(one, [Load("k", gate.run)])
        await until(gate.entered.is_set)
        loader.submit(two, [Load("k", lambda: "again")])
        assert loader.queued == 0
        gate.open()
        await until(lambda: bool(one.told and two.told))
        assert one.values == two.values == ["gate"]

    _with_loader(test)


def test_jobs_of_who_is_gone_are_dropped() -> None:
    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, gone, stays = Ran(), Waiter(), Waiter()
        loader.submit(gone, [ran.job("dropped"), ran.job("dropped", "k"), ran.job("kept", "s")])
        loader.submit(stays, [ran.job("never", "s")])
        loader.drop(gone)
        loader.submit(stays, [ran.job("fresh", "k")])  # what was dropped does not shadow it
        gate.open()
        await until(lambda: len(stays.values) == 2)
        await wait_all_tasks_blocked()
        assert sorted(ran.order) == ["fresh", "kept"]
        assert gone.told == []
        assert loader.queued == 0

    _with_loader(test, at_once=1)


def test_a_client_that_is_gone_gets_what_has_begun_and_takes_back_the_rest() -> None:
    """What a load opened is its client's to close, and while it runs, files must stay open."""

    async def test(loader: Loader) -> None:
        gate, keyed, gone, stays = Gate(), Gate(), Waiter(), Waiter()
        never = [Load(None, lambda: None), Load("never", lambda: None)]
        loader.submit(gone, [Load(None, gate.run)])
        loader.submit(gone, [Load("k", keyed.run)])
        await until(lambda: gate.entered.is_set() and keyed.entered.is_set())
        loader.submit(stays, [Load("k", lambda: None)])
        loader.submit(gone, never)
        assert loader.drop(gone) == never
        assert loader.drop(gone) == []
        gate.open()
        keyed.open()
        await until(lambda: stays.values == ["gate"])
        await wait_all_tasks_blocked()
        assert gone.values == ["gate", "gate"]

    _with_loader(test, batch=1)


def test_what_nobody_waits_for_runs_last() -> None:
    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, waiter = Ran(), Waiter()
        loader.ahead([ran.load("ahead0"), ran.load("ahead1"), ran.load("ahead1")])
        loader.submit(waiter, [ran.job(str(number)) for number in range(3)])
        gate.open()
        await until(lambda: len(ran.order) == 5)
        assert ran.order == ["0", "1", "2", "ahead0", "ahead1"]
        assert loader.ahead_runs == 2

    _with_loader(test, at_once=1, batch=1)


def test_what_was_to_be_loaded_ahead_moves_up_when_it_is_waited_for() -> None:
    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, waiter = Ran(), Waiter()
        loader.ahead([ran.load("a"), ran.load("b"), ran.load("c")])
        loader.submit(waiter, [ran.job("never", "c")])
        loader.ahead([ran.load("c")])
        gate.open()
        await until(lambda: len(ran.order) == 3)
        await wait_all_tasks_blocked()
        assert ran.order == ["c", "a", "b"]
        assert len(waiter.values) == 1

    _with_loader(test, at_once=1)


def test_loads_ahead_that_came_to_nothing_are_forgotten() -> None:
    async def test(loader: Loader) -> None:
        gate = await _held(loader)
        ran, waiter = Ran(), Waiter()
        loader.ahead([ran.load(f"{number:04}") for number in range(AHEAD_MAX + 2)])
        loader.submit(waiter, [ran.job("again", "0000")])  # forgotten, so it is run for itself
        gate.open()
        await until(lambda: len(ran.order) == AHEAD_MAX + 1)
        await wait_all_tasks_blocked()
        assert ran.order == ["again", *(f"{number:04}" for number in range(2, AHEAD_MAX + 2))]

    _with_loader(test, at_once=1)


def test_who_asks_for_what_is_being_loaded_ahead_waits_for_that_run() -> None:
    async def test(loader: Loader) -> None:
        gate, waiter, done = Gate(), Waiter(), list[str]()
        loader.ahead([Load("k", lambda: done.append(gate.run()))])
        await until(gate.entered.is_set)
        loader.submit(waiter, [Load("k", lambda: "again")])
        gate.open()
        await until(lambda: waiter.values == [None])
        assert done == ["gate"]
        assert not loader.busy()

    _with_loader(test)


def test_threads_go_on_while_the_event_loop_does_not() -> None:
    async def test(loader: Loader) -> None:
        gate, waiter, last = await _held(loader), Waiter(), threading.Event()
        loader.submit(waiter, [Load(None, lambda: None)])
        loader.ahead([Load("a", lambda: None), Load("b", last.set)])
        gate.open()
        assert last.wait(PATIENCE_S)
        assert not waiter.told
        await until(lambda: bool(waiter.told))

    _with_loader(test, at_once=1)


def test_a_load_ahead_that_fails_harms_nobody() -> None:
    async def test(loader: Loader) -> None:
        def fail() -> None:
            raise OSError("no")

        waiter = Waiter()
        loader.ahead([Load("k", fail)])
        await until(lambda: loader.ahead_runs == 1)
        loader.submit(waiter, [Load("l", lambda: 5)])
        await until(lambda: waiter.values == [5])

    _with_loader(test)
