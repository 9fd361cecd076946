"""Bets: what pays is tried each time, and what does not, rarely."""

from ventifs.serving.adaptive_poll import LEFT_MAX, AdaptivePoll


def _left(poll: AdaptivePoll) -> int:
    """How many times it is left before it is tried again."""
    left = 0
    while not poll.is_on():
        left += 1
    return left


def test_what_pays_is_tried_each_time() -> None:
    poll = AdaptivePoll()
    for _ in range(100):
        assert poll.is_on()
        poll.settle(paid=True)


def test_what_does_not_pay_is_left_ever_longer_up_to_a_limit() -> None:
    poll = AdaptivePoll()
    seen = []
    for _ in range(10):
        seen.append(_left(poll))
        poll.settle(paid=False)
    assert seen == [0, 1, 3, 7, 15, 31, 63, 127, 255, 255]
    assert seen[-1] == LEFT_MAX


def test_one_win_brings_it_back() -> None:
    poll = AdaptivePoll()
    for _ in range(10):
        _left(poll)
        poll.settle(paid=False)
    _left(poll)
    poll.settle(paid=True)
    assert poll.is_on()


def test_a_try_that_tells_nothing_changes_nothing() -> None:
    poll = AdaptivePoll()
    poll.settle(paid=False)
    assert not poll.is_on()
    assert poll.is_on()
    assert poll.is_on()
