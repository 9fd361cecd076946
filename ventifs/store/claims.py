"""Which new blocks the workers of one run have claimed, so that no two store the same block.

The table is in memory that forked processes share, without a lock. A worker that meets a new block
looks for its score in the table. If the score is absent, the worker writes it there and stores the
block; if it is present, another worker stores the block. Two workers that write a slot at the same
moment leave one of the two scores, or a mixture that is no score. A block may then be stored twice,
which is legal. If a worker fails, the whole run fails. So nothing is committed that refers to a
claimed block which was not stored.
"""

import mmap

from ventifs.store.score import SCORE_SIZE, Score

_SLOTS = 1 << 18  # 8 MiB; when it is full, blocks may be stored twice
_PROBES = 8
_EMPTY = bytes(SCORE_SIZE)


class Claims:
    """A table of scores. Make it before forking.

    Concurrency: any number of processes, one thread in each.
    """

    def __init__(self) -> None:
        """Start with no claims."""
        self._slots = mmap.mmap(-1, _SLOTS * SCORE_SIZE)

    def taken(self, score: Score) -> bool:
        """Whether a block is claimed already; if it is not, claim it for the caller."""
        # Hot: for each new block; see docs/performance.md.
        at = int.from_bytes(score[:4], "little") % (_SLOTS - _PROBES) * SCORE_SIZE
        slots = self._slots
        for place in range(at, at + _PROBES * SCORE_SIZE, SCORE_SIZE):
            found = slots[place : place + SCORE_SIZE]
            if found == score:
                return True
            if found == _EMPTY:
                slots[place : place + SCORE_SIZE] = score
                return False
        return False
