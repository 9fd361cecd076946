"""Decoded clumps in memory, found by the score of any of their blocks, bounded in bytes.

What is in here has been hashed against its score. Clumps go in order of arrival, but one that was
used since its last turn gets another (the clock algorithm): a hit marks its clump and takes no
lock, 0.2 us.
"""

from collections import deque
from threading import Lock

from ventifs.store.clump import DecodedClump
from ventifs.store.score import Score


class ClumpCache:
    """A cache of decoded clumps.

    Concurrency: any number of threads. A clump that is dropped lives on while views of it do.
    """

    def __init__(self, bytes_max: int) -> None:
        """Hold up to `bytes_max` bytes; the last clump added stays even if it alone is larger."""
        self.bytes_max = bytes_max
        self.bytes = 0
        self._of_block: dict[Score, DecodedClump] = {}
        self._clumps: deque[DecodedClump] = deque()  # next to go first
        self._lock = Lock()

    def get(self, score: Score) -> memoryview | None:
        """A block, if its clump is here."""
        clump = self._of_block.get(score)
        if clump is None:
            return None
        clump.used = True
        return clump.block(score)

    def holder(self, score: Score) -> DecodedClump | None:
        """The clump that has a block, if it is here; whoever reads it sets `used`."""
        return self._of_block.get(score)

    def add(self, clump: DecodedClump) -> None:
        """Take in a clump, dropping others to make room."""
        with self._lock:
            self.bytes += clump.cost
            while self.bytes > self.bytes_max and self._clumps:
                oldest = self._clumps.popleft()
                if oldest.used:
                    oldest.used = False
                    self._clumps.append(oldest)
                else:
                    self._drop(oldest)
            self._clumps.append(clump)
            self._of_block.update(dict.fromkeys(clump.spans, clump))

    def _drop(self, clump: DecodedClump) -> None:
        self.bytes -= clump.cost
        for score in clump.spans:
            if self._of_block.get(score) is clump:
                del self._of_block[score]
