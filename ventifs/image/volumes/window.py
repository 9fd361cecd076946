"""A volume's bytes: ranges of a disk, one after the other.

A `Window` reads by offsets from the volume's beginning and returns where on the disk those are. It
knows nothing of what is in the volume, nor of the tables that describe it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from ventifs.image.disk import Disk, ImageError
from ventifs.image.survey_events import Range


class Window:
    """A volume of a disk, by offsets from its own beginning.

    Attributes:
        size: bytes.
        ranges: where its bytes are on the disk, in the volume's order; none is empty.

    Concurrency: as the disk's.
    """

    def __init__(self, disk: Disk, ranges: Sequence[Range]) -> None:
        """A volume that consists of these ranges, which lie within the disk."""
        self._disk = disk
        self.ranges = tuple(ranges)
        ends = list(accumulate(end - start for start, end in self.ranges))
        self._starts = [0, *ends[:-1]]  # of each range, in the volume
        self.size = ends[-1] if ends else 0
        self._base = self.ranges[0][0] if len(self.ranges) == 1 else None

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes.

        Raises:
            ImageError: not all of them are in the volume, or the disk cannot be read there.
        """
        if self._base is not None and offset >= 0 and 0 <= length <= self.size - offset:
            return self._disk.read(self._base + offset, length)
        pieces = [self._disk.read(start, count) for start, count in self.where(offset, length)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def where(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Where a range of the volume is on the disk: offsets and lengths, in the volume's order.

        No length is 0.

        Raises:
            ImageError: not all of it is in the volume.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ImageError(
                f"bytes {offset} to {offset + length} are not in a volume of {self.size} bytes"
            )
        found: list[tuple[int, int]] = []
        at = bisect_right(self._starts, offset) - 1
        while length:
            start, end = self.ranges[at]
            begin = start + offset - self._starts[at]
            count = min(length, end - begin)
            if found and sum(found[-1]) == begin:
                found[-1] = (found[-1][0], found[-1][1] + count)
            else:
                found.append((begin, count))
            offset, length, at = offset + count, length - count, at + 1
        return found
