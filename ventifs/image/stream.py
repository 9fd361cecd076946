"""A file's bytes out of its extents on a disk, as the chunker takes them."""

from collections.abc import Iterator, Sequence

from ventifs.image.disk import Disk
from ventifs.image.events import Extent

PAGE = 4096
PIECE_MAX = 1 << 20


class Stream:
    """The stream of one regular file.

    Attributes:
        size: bytes, holes included.
    """

    def __init__(self, disk: Disk, size: int, extents: Sequence[Extent]) -> None:
        """`extents` as in `events.Inode`: in order, without overlaps."""
        self.size = size
        self._disk = disk
        self._extents = extents

    def read(self, offset: int, length: int) -> bytes:
        """Part of it, zeros where no extent is; fewer bytes at its end.

        Raises:
            ImageError: the disk cannot be read there.
        """
        end = min(offset + length, self.size)
        parts: list[bytes] = []
        at = offset
        for logical, start, size in self._extents:
            if logical + size <= at:
                continue
            if logical >= end:
                break
            if logical > at:
                parts.append(bytes(logical - at))
                at = logical
            take = min(logical + size, end) - at
            parts.append(self._disk.read(start + at - logical, take))
            at += take
        if at < end:
            parts.append(bytes(end - at))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pieces(self) -> Iterator[bytes | int]:
        """All of it: pieces of up to 1 MiB, and how many zeros no extent holds.

        Every piece but the last is a multiple of 4 KiB long, whatever the file system's blocks are.

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
