"""Bets: what pays is tried each time, and what does not, rarely."""

from ventifs.serving.adaptive_poll import LEFT_MAX, Bet


def _left(bet: Bet) -> int:
    """How many times it is left before it is tried again."""
    left = 0
    while not bet.is_on():
        left += 1
    return left


def test_what_pays_is_tried_each_time() -> None:
    bet = Bet()
    for _ in range(100):
        assert bet.is_on()
        bet.settle(paid=True)


def test_what_does_not_pay_is_left_ever_longer_up_to_a_limit() -> None:
    bet = Bet()
    seen = []
    for _ in range(10):
        seen.append(_left(bet))
        bet.settle(paid=False)
    assert seen == [0, 1, 3, 7, 15, 31, 63, 127, 255, 255]
    assert seen[-1] == LEFT_MAX


def test_one_win_brings_it_back() -> None:
    bet = Bet()
    for _ in range(10):
        _left(bet)
        bet.settle(paid=False)
    _left(bet)
    bet.settle(paid=True)
    assert bet.is_on()


def test_a_try_that_tells_nothing_changes_nothing() -> None:
    bet = Bet()
    bet.settle(paid=False)
    assert not bet.is_on()
    assert bet.is_on()
    assert bet.is_on()
