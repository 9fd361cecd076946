"""Decides whether to try a way of waiting that pays for some clients and costs others.

Owns the rule, which is that of KVM's halt polling with numbers of waits in place of times. After a
try that pays, the next wait is a try again. After a try that does not, 1 wait goes without a try,
and after each further one in a row more: 3, 7 and so on up to `LEFT_MAX`. So a client for which it
begins to pay is noticed within `LEFT_MAX` waits, and tries cost next to nothing where they do not
pay. Knows no clock, and not what is tried.
"""

LEFT_MAX = 255  # fewer: vain spins cost a guest that shares the core more; see docs/performance.md


class AdaptivePoll:
    """The last tries of one way of waiting.

    Attributes:
        lost: how many waits without a try the last try led to; 0 if it paid.
        left: how many of these are still to come.
    """

    __slots__ = ("left", "lost")

    def __init__(self) -> None:
        """Try at the first wait."""
        self.left = self.lost = 0

    def is_on(self) -> bool:
        """Whether to try it this time; if so, call `settle` with the result."""
        if self.left:
            self.left -= 1
            return False
        return True

    def settle(self, *, paid: bool) -> None:
        """Take note of whether a try paid."""
        self.lost = 0 if paid else min(2 * self.lost + 1, LEFT_MAX)
        self.left = self.lost
