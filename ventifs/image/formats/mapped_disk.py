"""Disks whose parts lie somewhere else: `MappedDisk`, and what its mappings consist of.

The module of a format says where each stretch of the disk lies: in a file, compressed in one, or
nowhere, which reads as zeros. Everything else of a disk is here, once for all formats. Nothing is
invented: a stretch that lies beyond the end of its file is an error.
"""

import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Generic, NamedTuple, Protocol, TypeVar

from ventifs.image.disk import ImageError, Span, joined
from ventifs.image.formats.raw import RawDisk
from ventifs.image.formats.remedies import Remedy

SECTOR = 512
SIZE_MAX = 64 << 40  # bytes of a disk: what VHDX can hold, and VMDK, and much more than VHD
PAGE_ENTRIES = 4096  # of a table, in one read
_PAGES_KEPT = 64

Damaged = Callable[[str], ImageError]  # the error for an image that contradicts its format
_Read = TypeVar("_Read")


def damaged_image(kind: str, label: str, what: str) -> ImageError:
    """The error for an image that contradicts its format; to be bound to its kind and label."""
    return ImageError(
        f"{label}: {kind} image that cannot be read: {what}; {Remedy.RAW.line(label)}"
    )


class Cache(Generic[_Read]):
    """What was read last, by number, of one part of an image or of several parts together.

    The number of results is bounded by the size of the largest, and not less than `_RESULT_MIN`:
    each needs some memory of its own, and its parts' sizes are a stranger's choice.

    Concurrency: any method from any process or thread; what it keeps is a process's own.
    """

    _RESULT_MIN = 1 << 10

    def __init__(self, size: int, largest: int) -> None:
        """Keep at most `size` bytes of results of at most `largest` each, but always one."""
        kept = max(1, size // max(largest, self._RESULT_MIN))
        self.get: Callable[[Callable[[int], _Read], int], _Read] = lru_cache(kept)(_called)


def _called(read: Callable[[int], _Read], number: int) -> _Read:
    return read(number)


class Piece(NamedTuple):
    """A stretch of a mapping, and where it lies.

    Attributes:
        start, end: bytes from the mapping's beginning.
        file: what has it, from `place` on; None if nothing has.
        unpacked: gives the bytes of the piece, where they are compressed.
    """

    start: int
    end: int
    file: RawDisk | None = None
    place: int = 0
    unpacked: Callable[[], bytes] | None = None


class Mapping(Protocol):
    """Where the bytes of a disk, or of a part of it, lie.

    Concurrency: any method from any process or thread.
    """

    size: int

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """Pieces that cover a range in order, without gaps.

        Raises:
            ImageError: a table is damaged, or cannot be read.
        """


class Flat:
    """A part that lies in a file as it is."""

    def __init__(self, file: RawDisk, place: int, size: int, damaged: Damaged) -> None:
        """Map `size` bytes to a file, from a place on.

        Raises:
            ImageError: the file ends before.
        """
        if place + size > file.size:
            raise damaged(f"{file.label} ends at {file.size}, and should have {place + size} bytes")
        self.size = size
        self._file = file
        self._place = place

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """As `Mapping.pieces`."""
        yield Piece(start, end, self._file, self._place + start)


class Zeros:
    """A part that lies nowhere."""

    def __init__(self, size: int) -> None:
        """Map `size` bytes to nothing."""
        self.size = size

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """As `Mapping.pieces`."""
        yield Piece(start, end)


class Concatenation:
    """Several mappings, one after the other."""

    def __init__(self, parts: Sequence[Mapping]) -> None:
        """Map to some parts, none of them empty."""
        self._parts = parts
        self._starts = [0, *accumulate(part.size for part in parts)]
        self.size = self._starts.pop()

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """As `Mapping.pieces`."""
        index = bisect_right(self._starts, start) - 1
        while start < end:
            part, base = self._parts[index], self._starts[index]
            stop = min(end, base + part.size)
            for piece in part.pieces(start - base, stop - base):
                yield piece._replace(start=piece.start + base, end=piece.end + base)
            start = stop
            index += 1


class Table:
    """Numbers that stand in a file, read some thousand at a time, as they are needed.

    Concurrency: any method from any process or thread.
    """

    def __init__(
        self,
        file: RawDisk,
        place: int,
        count: int,
        code: str,
        order: str,
        damaged: Damaged,
        cache: "Cache[array[int]] | None" = None,
    ) -> None:
        """A table of `count` numbers of a type of `array`, in a byte order ("little" or "big").

        Tables of one image that are many share a cache, made by `page_cache`.

        Raises:
            ImageError: it is not within the file.
        """
        self._width = array(code).itemsize
        if place + count * self._width > file.size:
            raise damaged(f"a table at {place} is past the end of the file, which was cut off")
        self._file = file
        self._place = place
        self._count = count
        self._code = code
        self._swapped = order != sys.byteorder
        self._cache = cache or page_cache(code)
        self._read = self._read_page

    def page(self, number: int) -> "array[int]":
        """Entries from `number * PAGE_ENTRIES` on.

        Raises:
            ImageError: the file cannot be read.
        """
        return self._cache.get(self._read, number)

    def _read_page(self, number: int) -> "array[int]":
        first = number * PAGE_ENTRIES
        count = min(PAGE_ENTRIES, self._count - first)
        entries = array(
            self._code, self._file.read(self._place + first * self._width, count * self._width)
        )
        if self._swapped:
            entries.byteswap()
        return entries

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Index of the first of some entries, of the one after them, and their number.

        Neighbours that are equal are one run, within what is read at a time: most of a large,
        sparse disk is passed over so.
        """
        while first < last:
            page = self.page(first // PAGE_ENTRIES)
            index = first % PAGE_ENTRIES
            stop = min(len(page), index + last - first)
            entry = page[index]
            begin = index
            index += 1
            if index < stop and page[index] == entry and page.count(entry) == len(page):
                index = stop
            while index < stop and page[index] == entry:
                index += 1
            yield first, first + index - begin, entry
            first += index - begin


def page_cache(code: str) -> "Cache[array[int]]":
    """A cache for the pages of tables of one type, which may be shared."""
    page = PAGE_ENTRIES * array(code).itemsize
    return Cache(_PAGES_KEPT * page, page)


class MappedDisk:
    """An open disk, read by its mapping.

    Concurrency: any method from any process or thread; reads carry their offset.
    """

    def __init__(
        self, kind: str, files: Sequence[RawDisk], mapping: Mapping, notes: Sequence[str] = ()
    ) -> None:
        """A disk of some format from its parts; it owns and closes the files, the image first."""
        self.format = kind
        self.size = mapping.size
        self.label = files[0].label
        self.status = files[0].status
        self.files = [file.status for file in files]
        self.notes = list(notes)
        self._files = files
        self._mapping = mapping

    def read(self, offset: int, length: int) -> bytes:
        """As `Disk.read`.

        Raises:
            ImageError: a file cannot be read, or the image is damaged there.
        """
        pieces = _merged(self._mapping.pieces(offset, offset + length)) if length else ()
        parts = [self._bytes(piece) for piece in pieces]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def spans(self, start: int, end: int) -> Iterator[Span]:
        """As `Disk.spans`; holes of the files count, too.

        Raises:
            ImageError: as `read`.
        """
        return joined(self._spans(start, end))

    def close(self) -> None:
        """Close the files. Idempotent."""
        for file in self._files:
            file.close()

    def _bytes(self, piece: Piece) -> bytes:
        if piece.unpacked is not None:
            return piece.unpacked()
        length = piece.end - piece.start
        if piece.file is None:
            return bytes(length)
        data = piece.file.read_upto(piece.place, length)
        if len(data) != length:
            raise ImageError(
                f"{self.label}: cut off: {piece.file.label} ends at {piece.place + len(data)}, but "
                f"what lies at {piece.start} of the disk should be there"
            )
        return data

    def _spans(self, start: int, end: int) -> Iterator[Span]:
        if start >= end:
            return
        for piece in self._mapping.pieces(start, end):
            if piece.file is None or piece.unpacked is not None:
                yield Span(piece.start, piece.end, piece.unpacked is not None)
                continue
            self._check(piece)
            shift = piece.start - piece.place
            for span in piece.file.spans(piece.place, piece.place + piece.end - piece.start):
                yield Span(span.start + shift, span.end + shift, span.data)

    def _check(self, piece: Piece) -> None:
        """Past its end, a file has no data for `RawDisk.spans`; here that is damage."""
        assert piece.file is not None
        if piece.place + piece.end - piece.start > piece.file.size:
            self._bytes(piece)


def _merged(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The same pieces, those that follow each other in their file made one."""
    last: Piece | None = None
    for piece in pieces:
        if last is None:
            last = piece
        elif (
            piece.file is last.file
            and piece.unpacked is None
            and last.unpacked is None
            and (piece.file is None or piece.place - last.place == piece.start - last.start)
        ):
            last = last._replace(end=piece.end)
        else:
            yield last
            last = piece
    if last is not None:
        yield last
