"""A way of waiting that pays for some clients and costs others: whether to try it this time.

Owns the rule, which is that of KVM's halt polling, in numbers of tries in place of times: what pays
is tried each time; after what does not, it is left 1, 3, 7 times, up to `LEFT_MAX`, and then tried
again. So a habit is found within `LEFT_MAX` waits, and one that is not there costs next to nothing.
Knows no clock, and not what is tried.
"""

LEFT_MAX = 255  # with 63, spins in vain cost a guest that shares the core 6 % of its time


class AdaptivePoll:
    """What became of one way of waiting, the last times.

    Attributes:
        lost: times it will have been left after the last try, once `left` is 0.
        left: times that it is still to be left.
    """

    __slots__ = ("left", "lost")

    def __init__(self) -> None:
        """To be tried at once."""
        self.left = self.lost = 0

    def is_on(self) -> bool:
        """Whether to try it this time; then tell, by `settle`, what became of it."""
        if self.left:
            self.left -= 1
            return False
        return True

    def settle(self, *, paid: bool) -> None:
        """Learn from a try."""
        self.lost = 0 if paid else min(2 * self.lost + 1, LEFT_MAX)
        self.left = self.lost
