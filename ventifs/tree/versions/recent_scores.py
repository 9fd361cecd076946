"""A bounded memory of scores: what it says it has, it was given; it may forget any of them.

A table of a fixed number of whole scores, each in the place that its first bytes say, where it
replaces another. Pages that no score is in take no memory.
"""

import mmap

from ventifs.store import SCORE_SIZE, ZERO_SCORE, Score

SLOTS = 1 << 20  # 32 MiB when all are in use


class RecentScores:
    """Scores that were added, but for those that others have replaced."""

    def __init__(self, slots: int = SLOTS) -> None:
        """Begin empty, with a number of places that is a power of two."""
        self._mask = slots - 1
        self._table = mmap.mmap(-1, slots * SCORE_SIZE)

    def __contains__(self, score: Score) -> bool:
        """Whether a score was added and is still there."""
        at = self._place(score)
        return self._table[at : at + SCORE_SIZE] == score

    def add(self, score: Score) -> None:
        """Keep a score."""
        at = self._place(score)
        self._table[at : at + SCORE_SIZE] = score

    def _place(self, score: Score) -> int:
        return (int.from_bytes(score[:4], "little") & self._mask) * SCORE_SIZE


assert bytes(SCORE_SIZE) != ZERO_SCORE  # an empty place is nobody's score
