"""Reads a file's bytes from its extents on a disk, as the chunker takes them."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from ventifs.image.disk import Disk
from ventifs.image.survey_events import Extent

PAGE = 4096
PIECE_MAX = 1 << 20
REST_MAX = 64 << 10  # bytes: the largest block of any file system


class Stream:
    """The stream of one regular file.

    Attributes:
        size: bytes, holes included.
    """

    def __init__(self, disk: Disk, size: int, extents: Sequence[Extent]) -> None:
        """`extents` as in `survey_events.Inode`: in order, without overlaps."""
        self.size = size
        self._disk = disk
        self._extents = extents
        self._ends = [logical + length for logical, _, length in extents]

    def read(self, offset: int, length: int) -> bytes:
        """Read a part; zeros where no extent is, fewer bytes at the file's end.

        Raises:
            ImageError: the disk cannot be read there.
        """
        end = min(offset + length, self.size)
        parts: list[bytes] = []
        at = offset
        for logical, start, count in self._stored(offset, end):
            if logical > at:
                parts.append(bytes(logical - at))
            parts.append(self._disk.read(start, count))
            at = logical + count
        if at < end:
            parts.append(bytes(end - at))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def is_zero(self, offset: int, length: int) -> bool:
        """Whether a part is all zeros; what no extent holds costs nothing.

        Raises:
            ImageError: as `read`.
        """
        for _, start, count in self._stored(offset, min(offset + length, self.size)):
            for at in range(0, count, PIECE_MAX):
                if self._disk.read(start + at, min(PIECE_MAX, count - at)).strip(b"\0"):
                    return False
        return True

    def _stored(self, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
        """What extents hold of a part: offset in the file, place on the disk, length."""
        for index in range(bisect_right(self._ends, offset), len(self._extents)):
            logical, start, size = self._extents[index]
            if logical >= end:
                return
            low = max(logical, offset)
            yield low, start + low - logical, min(logical + size, end) - low

    def zeros_after(self) -> int:
        """How many bytes of the last extent lie past the end; 0 if too many, or not all zeros.

        Raises:
            ImageError: as `read`.
        """
        if not self._extents:
            return 0
        logical, start, size = self._extents[-1]
        rest = logical + size - self.size
        if not 0 < rest <= min(size, REST_MAX):
            return 0
        return 0 if self._disk.read(start + size - rest, rest).strip(b"\0") else rest

    def pieces(self) -> Iterator[bytes | int]:
        """The whole file: pieces of up to 1 MiB, and numbers of zeros where no extent is.

        Every piece but the last is a multiple of 4 KiB long, whatever the file system's block size.

        Raises:
            ImageError: as `read`.
        """
        at = 0
        for start, end in self._stretches():
            if start > at:
                yield start - at
            for piece in range(start, end, PIECE_MAX):
                yield self.read(piece, min(PIECE_MAX, end - piece))
            at = end
        if at < self.size:
            yield self.size - at

    def _stretches(self) -> Iterator[tuple[int, int]]:
        """Where extents are, in whole pages, as far as the file goes."""
        start = end = 0
        for logical, _, size in self._extents:
            first = logical // PAGE * PAGE
            if first > end:
                if end > start:
                    yield start, min(end, self.size)
                start = first
            end = max(end, -(-(logical + size) // PAGE) * PAGE)
            if start >= self.size:
                return
        if end > start:
            yield start, min(end, self.size)
