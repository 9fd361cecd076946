"""What the archiver needs of a disk: its bytes, by offset, whatever holds them.

A `Disk` is read only, has a fixed size and no position of its own, so that one opened before a fork
serves both processes. Everything about formats stays below; nothing here knows partitions.
"""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from ventifs.errors import VentifsError

FORMATS = ("raw", "qcow2", "vmdk", "vhd", "vhdx")  # that are read
REFERRING = ("qcow2", "vmdk")  # those whose images may refer to other files


class ImageError(VentifsError):
    """An image that cannot be read: what it is, and what to do."""


class Span(NamedTuple):
    """A stretch of a disk. One without data reads as zeros, and need not be read."""

    start: int
    end: int
    data: bool


class Disk(Protocol):
    """A disk that is open.

    Attributes:
        size: bytes; as the guest sees it.
        format: of `FORMATS`.
        label: what people call it: the absolute path, printable.
        status: of the image file, or device.
        files: of all that it consists of, backing files included: when all are as they were, so is
            the disk.
        notes: what people should know, a line each: internal snapshots that are ignored, say.

    Concurrency: any method from any process or thread that has it.
    """

    size: int
    format: str
    label: str
    status: os.stat_result
    files: list[os.stat_result]
    notes: list[str]

    def read(self, offset: int, length: int) -> bytes:
        """That many bytes; the range lies within the disk.

        Raises:
            ImageError: they cannot be read, or the image is damaged there.
        """

    def spans(self, start: int, end: int) -> Iterator[Span]:
        """What lies between two offsets: spans in order, without gaps, starting and ending there.

        Raises:
            ImageError: as `read`.
        """

    def close(self) -> None:
        """Close the files. Idempotent."""


def joined(spans: Iterable[Span]) -> Iterator[Span]:
    """The same spans with neighbours of one kind made one, and empty ones left out."""
    last: Span | None = None
    for span in spans:
        if span.start == span.end:
            continue
        if last is None:
            last = span
        elif last.data == span.data:
            last = Span(last.start, span.end, span.data)
        else:
            yield last
            last = span
    if last is not None:
        yield last
