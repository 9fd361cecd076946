"""Decoded clumps in memory, found by the score of any of their blocks, bounded in bytes.

Every block in the cache has been hashed against its score. Eviction uses the clock algorithm:
clumps leave in order of arrival, but a clump that was used since its last turn stays for another. A
hit marks its clump and takes no lock, so it is cheap; see docs/performance.md.
"""

from collections import deque
from threading import Lock

from ventifs.store.clump import DecodedClump
from ventifs.store.score import Score


class ClumpCache:
    """A cache of decoded clumps.

    Concurrency: any number of threads. A dropped clump stays in memory as long as views of it do.
    """

    def __init__(self, bytes_max: int) -> None:
        """Hold up to `bytes_max` bytes; the last clump added stays even if it alone is larger."""
        self.bytes_max = bytes_max
        self.bytes = 0
        self._of_block: dict[Score, DecodedClump] = {}
        self._clumps: deque[DecodedClump] = deque()  # the next to evict first
        self._lock = Lock()

    def get(self, score: Score) -> memoryview | None:
        """A block, if its clump is cached."""
        clump = self._of_block.get(score)
        if clump is None:
            return None
        clump.used = True
        return clump.block(score)

    def holder(self, score: Score) -> DecodedClump | None:
        """The clump that has a block, if it is cached; a caller that reads from it sets `used`."""
        return self._of_block.get(score)

    def add(self, clump: DecodedClump) -> None:
        """Add a clump, dropping others to make room."""
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
