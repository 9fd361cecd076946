"""The interface of a disk: its bytes by offset, whatever format holds them.

A `Disk` is read only, has a fixed size and no position of its own, so that one opened before a fork
serves both processes. It hides the image's format, and nothing here knows partitions.
"""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from ventifs.errors import VentifsError

FORMATS = ("raw", "qcow2", "vmdk", "vhd", "vhdx")  # that can be read
REFERRING = ("qcow2", "vmdk")  # those whose images may refer to other files


class ImageError(VentifsError):
    """An image cannot be read; the text has the reason and the remedy."""


class Span(NamedTuple):
    """A stretch of a disk, from `start` to `end` (exclusive) in bytes.

    A stretch without data reads as zeros, and need not be read.
    """

    start: int
    end: int
    data: bool


class Disk(Protocol):
    """A disk that is open.

    Attributes:
        size: bytes; as the guest sees it.
        format: of `FORMATS`.
        label: its name in messages: the absolute path, printable.
        status: of the image file, or device.
        files: status of every file that it consists of, backing files included: if none has
            changed, neither has the disk.
        notes: for the user, a line each: for example, that internal snapshots are ignored.

    Concurrency: any method may be called from any process or thread that has it.
    """

    size: int
    format: str
    label: str
    status: os.stat_result
    files: list[os.stat_result]
    notes: list[str]

    def read(self, offset: int, length: int) -> bytes:
        """Read `length` bytes; the range must lie within the disk.

        Raises:
            ImageError: they cannot be read, or the image is damaged there.
        """

    def spans(self, start: int, end: int) -> Iterator[Span]:
        """What lies from `start` to `end` (exclusive): spans that cover it in order, without gaps.

        Raises:
            ImageError: as `read`.
        """

    def close(self) -> None:
        """Close the files. Idempotent."""


def joined(spans: Iterable[Span]) -> Iterator[Span]:
    """The same spans, with neighbours of one kind joined and empty ones left out."""
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
