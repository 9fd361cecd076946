"""Stores what is on a disk beside files, in blocks of 4 KiB; zeros are not stored.

File systems write their structures in units that fit whole into 4 KiB, and change few of them from
night to night.
"""

from collections.abc import Iterator

from ventifs.image.disk import Disk
from ventifs.store import Store
from ventifs.tree.objects.records import Chunk, encode_item

BLOCK = 4096
_PIECE = 1 << 20
_ZEROS = bytes(BLOCK)

Stretch = tuple[int, int, int]  # start and end on the disk, and where blocks are counted from
GapItem = tuple[bytes, int]  # an encoded item, empty for a hole, and the bytes it stands for


class BlockWriter:
    """Stores stretches of one disk.

    Attributes:
        new_bytes: bytes of blocks that the store did not have.
    """

    def __init__(self, store: Store, disk: Disk) -> None:
        """Store into `store`, which is open for writing or as a worker."""
        self.new_bytes = 0
        self._store = store
        self._disk = disk

    def write(self, stretch: Stretch) -> list[GapItem]:
        """Store a stretch; return its pieces, adjacent holes joined.

        Raises:
            ImageError: the disk cannot be read there.
            VentifsError: the store's own problems.
        """
        # Hot: for every block, with reading; see docs/performance.md.
        start, end, origin = stretch
        pieces: list[GapItem] = []
        zeros = 0
        put = self._store.put
        for at, data in self._pieces(start, end, origin):
            first = BLOCK - (at - origin) % BLOCK  # only a stretch's first piece starts within one
            for low, high in _cuts(len(data), first):
                block = data[low:high]
                if block == _ZEROS[: high - low]:
                    zeros += high - low
                    continue
                if zeros:
                    pieces.append((b"", zeros))
                    zeros = 0
                score, new = put(block)
                self.new_bytes += len(block) if new else 0
                pieces.append((encode_item(Chunk(score, high - low)), high - low))
        if zeros:
            pieces.append((b"", zeros))
        return pieces

    def _pieces(self, start: int, end: int, origin: int) -> Iterator[tuple[int, bytes]]:
        """A stretch in pieces of about 1 MiB that end where blocks do."""
        while start < end:
            stop = min(end, origin + (start + _PIECE - origin) // BLOCK * BLOCK)
            yield start, self._disk.read(start, stop - start)
            start = stop


def _cuts(size: int, first: int) -> Iterator[tuple[int, int]]:
    low, high = 0, min(first, size)
    while low < size:
        yield low, high
        low, high = high, min(high + BLOCK, size)
