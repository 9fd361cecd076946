"""Decoded clumps in memory, found by the score of any of their blocks, bounded in bytes.

What is in here has been hashed against its score. Least recently used clumps go first.
"""

from collections import OrderedDict
from contextlib import suppress
from threading import Lock

from ventifs.store.clump import DecodedClump
from ventifs.store.score import Score


class ClumpCache:
    """A cache of decoded clumps.

    Concurrency: any number of threads. A clump that is dropped lives on while views of it do.
    """

    def __init__(self, bytes_max: int) -> None:
        """Hold up to `bytes_max` bytes; the last clump used stays even if it alone is larger."""
        self.bytes_max = bytes_max
        self.bytes = 0
        self._of_block: dict[Score, DecodedClump] = {}
        self._clumps: OrderedDict[int, DecodedClump] = OrderedDict()  # by identity, oldest first
        self._lock = Lock()

    def get(self, score: Score) -> memoryview | None:
        """A block, if its clump is here."""
        clump = self._of_block.get(score)
        if clump is None:
            return None
        with suppress(KeyError):  # dropped by another thread this moment; the view is as good
            self._clumps.move_to_end(id(clump))
        return clump.blocks.get(score)

    def add(self, clump: DecodedClump) -> None:
        """Take in a clump, dropping the least recently used to make room."""
        with self._lock:
            self._clumps[id(clump)] = clump
            self._of_block.update(dict.fromkeys(clump.blocks, clump))
            self.bytes += clump.cost
            while self.bytes > self.bytes_max and len(self._clumps) > 1:
                self._drop(self._clumps.popitem(last=False)[1])

    def _drop(self, clump: DecodedClump) -> None:
        self.bytes -= clump.cost
        for score in clump.blocks:
            if self._of_block.get(score) is clump:
                del self._of_block[score]
