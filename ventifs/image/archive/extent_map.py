"""Gathers where on a disk the bytes of files are, and returns these places in order.

Extents may overlap: reflinked files share them, damaged file systems cross them. The order is by
place, then by content, so that the same disk always gives the same slices, in whatever order they
were found.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from types import TracebackType
from typing import Self

from ventifs.image.archive.external_sort import Ordered
from ventifs.image.archive.previous_disk import within
from ventifs.image.survey_events import Extent, Range
from ventifs.tree.objects.records import Content, encode

Placed = tuple[int, int, int, int, bytes]
"""Start and end on the disk; how many zeros follow that are no file's; offset in the content; the
content, or nothing for zeros that are no file's."""

Part = tuple[int, int, int, bytes]  # start and end, offset in the content; content, or zeros


def places_of(content: Content, size: int, extents: Sequence[Extent], zeros: int) -> list[Placed]:
    """The places of a content; what its extents hold past the file's `size` is not the file's.

    `zeros` bytes of the last extent lie past the size, and are known to be zeros.
    """
    data = encode(content)
    places = [
        (start, start + min(length, size - offset), 0, offset, data)
        for offset, start, length in extents[:-1]
        if offset < size
    ]
    offset, start, length = extents[-1]
    if offset < size:
        places.append((start, start + min(length, size - offset), zeros, offset, data))
    elif zeros:
        places.append((start + length - zeros, start + length, 0, 0, b""))
    return places


class Placement:
    """The gathered extents, and what is free. A context manager."""

    def __init__(self) -> None:
        """Start empty."""
        self._extents = Ordered[Placed](Placed, _order)
        self._free = Ordered[Range](Range)
        self._kept: Sequence[Range] = ()

    def add(self, places: Iterable[Placed]) -> None:
        """Add places of files' contents."""
        self._extents.add(places)

    def keep(self, ranges: Sequence[Range]) -> None:
        """Set ranges that are not free, whatever is added: sorted, without overlaps."""
        self._kept = ranges

    def add_free(self, ranges: Sequence[Range]) -> None:
        """Add ranges that a file system does not use."""
        self._free.add(ranges)

    def placed(self) -> Iterator[Part]:
        """Extents in order of their places, clipped so that none overlaps the one before.

        Those without content are zeros.
        """
        reached = 0
        for start, end, offset, content in self._in_order():
            if end <= reached:
                continue
            first = max(start, reached)
            yield first, end, offset + first - start, content
            reached = end

    def _in_order(self) -> Iterator[Part]:
        """All extents, overlaps included; where several begin, zeros come first."""
        later: list[Range] = []  # zeros: a heap of where they begin and minus where they end
        for start, end, zeros, offset, content in self._extents:
            while later and (later[0][0] < start or (later[0][0] == start and content)):
                at, minus = heappop(later)
                yield at, -minus, 0, b""
            yield start, end, offset, content
            if zeros:
                heappush(later, (end, -end - zeros))
        for at, minus in sorted(later):
            yield at, -minus, 0, b""

    def free(self) -> Iterator[Range]:
        """Free ranges in order, adjacent ones joined, without those that are kept."""
        for start, end in self._joined():
            at = start
            for low, high in within(self._kept, start, end):
                if low > at:
                    yield at, low
                at = high
            if at < end:
                yield at, end

    def _joined(self) -> Iterator[Range]:
        last: Range | None = None
        for start, end in self._free:
            if last is not None and start <= last[1]:
                last = last[0], max(last[1], end)
                continue
            if last is not None:
                yield last
            last = start, end
        if last is not None:
            yield last

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the temporary files."""
        with self._extents, self._free:
            pass


def _order(placed: Placed) -> tuple[int, bytes, int, int]:
    start, end, _, offset, content = placed
    return start, content, offset, -end
