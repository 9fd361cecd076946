"""Disks read through a mapping: `MappedDisk`, and the parts that mappings consist of.

A format's module says where each stretch of the disk lies: in a file, compressed in a file, or
nowhere, which reads as zeros. The rest of a disk's code is here, once for all formats. A stretch
that lies beyond the end of its file is an error, and never reads as zeros.
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
SIZE_MAX = 64 << 40  # bytes of a disk: the most of VHDX and VMDK; VHD holds much less
PAGE_ENTRIES = 4096  # entries of a table in one read
_PAGES_KEPT = 64

Damaged = Callable[[str], ImageError]  # the error for an image that contradicts its format
_Cached = TypeVar("_Cached")


def damaged_image(kind: str, label: str, what: str) -> ImageError:
    """The error for an image that contradicts its format; callers bind its kind and label."""
    return ImageError(
        f"{label}: {kind} image that cannot be read: {what}; {Remedy.RAW.line(label)}"
    )


class Cache(Generic[_Cached]):
    """A cache of results read last, by number; one part of an image or several parts use it.

    It bounds the number of results: its size divided by the size of the largest result. A result
    counts as at least `_RESULT_MIN` bytes, since each needs some memory of its own, and since the
    image chooses the sizes.

    Concurrency: any method from any process or thread; each process keeps its own results.
    """

    _RESULT_MIN = 1 << 10

    def __init__(self, size: int, largest: int) -> None:
        """Keep at most `size` bytes of results of up to `largest` bytes; at least one result."""
        kept = max(1, size // max(largest, self._RESULT_MIN))
        self.get: Callable[[Callable[[int], _Cached], int], _Cached] = lru_cache(kept)(_called)


def _called(read: Callable[[int], _Cached], number: int) -> _Cached:
    return read(number)


class MappedPiece(NamedTuple):
    """A stretch of a mapping, and where it lies.

    Attributes:
        start, end: bytes from the mapping's beginning; `end` is exclusive.
        file: the file that holds it, from `place` on; None if it reads as zeros.
        unpacked: returns the bytes of a piece that is compressed; None for others.
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

    def pieces(self, start: int, end: int) -> Iterator[MappedPiece]:
        """Pieces that cover the bytes from `start` to `end` (exclusive) in order, without gaps.

        Raises:
            ImageError: a table is damaged, or cannot be read.
        """


class Flat:
    """A part that lies in a file, uncompressed and in one stretch."""

    def __init__(self, file: RawDisk, place: int, size: int, damaged: Damaged) -> None:
        """Map `size` bytes to a file, from a place on.

        Raises:
            ImageError: the file is too short.
        """
        if place + size > file.size:
            raise damaged(f"{file.label} ends at {file.size}, and should have {place + size} bytes")
        self.size = size
        self._file = file
        self._place = place

    def pieces(self, start: int, end: int) -> Iterator[MappedPiece]:
        """As `Mapping.pieces`."""
        yield MappedPiece(start, end, self._file, self._place + start)


class Zeros:
    """A part that no file holds; it reads as zeros."""

    def __init__(self, size: int) -> None:
        """Map `size` bytes to zeros."""
        self.size = size

    def pieces(self, start: int, end: int) -> Iterator[MappedPiece]:
        """As `Mapping.pieces`."""
        yield MappedPiece(start, end)


class Concatenation:
    """Several mappings, one after the other."""

    def __init__(self, parts: Sequence[Mapping]) -> None:
        """Map to these parts; none of them is empty."""
        self._parts = parts
        self._starts = [0, *accumulate(part.size for part in parts)]
        self.size = self._starts.pop()

    def pieces(self, start: int, end: int) -> Iterator[MappedPiece]:
        """As `Mapping.pieces`."""
        index = bisect_right(self._starts, start) - 1
        while start < end:
            part, base = self._parts[index], self._starts[index]
            stop = min(end, base + part.size)
            for piece in part.pieces(start - base, stop - base):
                yield piece._replace(start=piece.start + base, end=piece.end + base)
            start = stop
            index += 1


class NumberTable:
    """A table of numbers in a file, read on demand, `PAGE_ENTRIES` at a time.

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
        """A table of `count` numbers.

        `code` is their type, as for `array`; `order` is their byte order, "little" or "big". An
        image with many tables shares one cache among them, made by `page_cache`.

        Raises:
            ImageError: the table is not within the file.
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
        """The entries from `number * PAGE_ENTRIES` on, at most `PAGE_ENTRIES` of them.

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
        """Runs of equal numbers among the entries from index `first` to `last` (exclusive).

        Yields (start, stop, number), `stop` exclusive. A run ends at the end of its page at the
        latest, and so has at most `PAGE_ENTRIES` entries. Most of a large, sparse disk is skipped
        by such long runs.

        Raises:
            ImageError: as `page`.
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
    """A cache for pages of tables of one type; several tables may share it."""
    page = PAGE_ENTRIES * array(code).itemsize
    return Cache(_PAGES_KEPT * page, page)


class MappedDisk:
    """An open disk, read by its mapping.

    Concurrency: any method from any process or thread; reads carry their offset.
    """

    def __init__(
        self, kind: str, files: Sequence[RawDisk], mapping: Mapping, notes: Sequence[str] = ()
    ) -> None:
        """A disk of the format `kind`. It owns and closes the files; the first is the image."""
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
        """As `Disk.spans`; holes of the files also count as having no data.

        Raises:
            ImageError: as `read`.
        """
        return joined(self._spans(start, end))

    def close(self) -> None:
        """Close the files. Idempotent."""
        for file in self._files:
            file.close()

    def _bytes(self, piece: MappedPiece) -> bytes:
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

    def _check(self, piece: MappedPiece) -> None:
        """Refuse a piece beyond its file's end, where `RawDisk.spans` reports a hole."""
        assert piece.file is not None
        if piece.place + piece.end - piece.start > piece.file.size:
            self._bytes(piece)


def _merged(pieces: Iterator[MappedPiece]) -> Iterator[MappedPiece]:
    """The same pieces, with those that follow each other in their file merged."""
    last: MappedPiece | None = None
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
