"""Whose turn is next, counted in turns."""

from itertools import pairwise

import trio

from tests.support.sessions import PATIENCE_S
from ventifs.ninep.turnstile import SPAN, Place, Turnstile


def _order(costs: dict[str, int], turns: int, late: str = "") -> list[str]:
    """Who has turns, of tasks that always want one; `late` comes when half is over."""
    order: list[str] = []

    async def want(turnstile: Turnstile, name: str) -> None:
        place = Place()
        while len(order) < turns:
            await turnstile.enter(place)
            order.append(name)
            turnstile.leave(place, costs[name])
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        turnstile = Turnstile()
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(turnstile.run)
                async with trio.open_nursery() as wanting:
                    for name in costs:
                        if name != late:
                            wanting.start_soon(want, turnstile, name)
                    while late and len(order) < turns // 2:
                        await trio.lowlevel.checkpoint()
                    if late:
                        wanting.start_soon(want, turnstile, late)
                nursery.cancel_scope.cancel()

    trio.run(main)
    return order


def test_who_asks_little_waits_for_few() -> None:
    costs = {**{f"heavy{number}": 32 for number in range(63)}, "light": 1}
    order = _order(costs, 4000)
    waits = [at for at, name in enumerate(order) if name == "light"]
    gaps = [after - before for before, after in pairwise(waits[20:])]
    assert len(gaps) > 500
    assert max(gaps) <= 16  # some 6; 63 when each pass served everybody


def test_equals_have_equal_shares() -> None:
    order = _order({f"{number}": SPAN for number in range(10)}, 1000)
    counts = [order.count(f"{number}") for number in range(10)]
    assert max(counts) - min(counts) <= 8  # 100 each


def test_who_comes_late_has_no_credit() -> None:
    order = _order({"early": 32, "late": 32, "other": 32}, 600, late="late")
    after = order[order.index("late") :]
    counts = [after.count(name) for name in ("early", "late", "other")]
    assert max(counts) - min(counts) <= 20  # some 100 each


def test_alone_nobody_waits() -> None:
    assert _order({"alone": SPAN}, 100)[:100] == ["alone"] * 100


def test_who_is_cancelled_while_waiting_is_forgotten() -> None:
    async def main() -> None:
        turnstile, first, second = Turnstile(), Place(), Place()
        await turnstile.enter(first)
        turnstile.leave(first, SPAN)
        with trio.move_on_after(0):
            await turnstile.enter(second)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turnstile.run)
            with trio.fail_after(PATIENCE_S):
                await turnstile.enter(second)
            nursery.cancel_scope.cancel()

    trio.run(main)
