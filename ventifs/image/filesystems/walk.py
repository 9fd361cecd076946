"""Walks all names of a file system inside an image, and reports each inode once.

The walk is depth first: a directory's node comes before those in it, and the names of a directory
come in the order of their inodes' numbers, which is nearly the order on disk. It always ends, even
in a damaged file system: it enters each directory once, by its inode's number, and no path gets
longer than `DEPTH_MAX` names. Memory grows with the depth and with the widest directory's
subdirectories; two bits for each inode's number record what has been reported. The walk knows no
format: a `FormatReader` does.
"""

import stat
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from ventifs.image.disk import ImageError
from ventifs.image.survey_events import FoundName, Inode
from ventifs.text import printable

DEPTH_MAX = 4096
XATTRS_MAX = 8 << 20  # bytes of all values of an inode; more is reported as damage
_BATCH = 1 << 16  # names of a directory that are sorted at a time
_PAGE_BITS = 12  # low bits of a number, which index a page of `NumberBits`
_PAGE_MASK = (1 << _PAGE_BITS - 2) - 1
_TOLD, _ENTERED = 1, 2  # of files, and of directories
_PROBLEMS_MAX = 20
_TWICE = "a directory that has another name"

_DOTS = (b".", b"..")

Name = tuple[int, bytes]  # an inode's number, and its name in a directory


class FormatReader(Protocol):
    """What the walk needs from a format.

    Attributes:
        root: the number of the root directory's inode.
    """

    root: int

    def inode(self, number: int) -> tuple[Inode, str]:
        """An inode, and a problem with its attributes; an empty string if there is none.

        Raises:
            ImageError: the inode's type or its contents cannot be read.
        """

    def names(self, number: int) -> Iterator[Name]:
        """The names in a directory, without `.` and `..`, in any order.

        Raises:
            ImageError: some names cannot be read; all that can be read were yielded before.
        """


class NumberBits:
    """Two bits for each inode number, in pages; compact where numbers lie close together."""

    def __init__(self) -> None:
        """All bits are 0."""
        self._pages: dict[int, bytearray] = {}

    def of(self, number: int) -> int:
        """The bits that were set for a number, or 0."""
        page = self._pages.get(number >> _PAGE_BITS)
        return page[number >> 2 & _PAGE_MASK] >> (number & 3) * 2 & 3 if page else 0

    def set(self, number: int, what: int) -> None:
        """Set bits for a number, in addition to those set before."""
        page = self._pages.get(number >> _PAGE_BITS)
        if page is None:
            page = self._pages[number >> _PAGE_BITS] = bytearray(_PAGE_MASK + 1)
        page[number >> 2 & _PAGE_MASK] |= what << (number & 3) * 2


class FilesystemWalk:
    """One walk through a file system.

    Attributes:
        problems: of directories whose damage was found after their node had been yielded.
    """

    def __init__(self, reader: FormatReader) -> None:
        """Nothing is read yet."""
        self.problems: list[str] = []
        self._reader = reader
        self._met = NumberBits()
        # Paths, inodes and depths of directories that are still to be entered, the next one last.
        self._ahead: list[tuple[bytes, int, int]] = [(b"", reader.root, 0)]

    def nodes(self) -> Iterator[FoundName]:
        """Yield all names, the root's first."""
        while self._ahead:
            yield from self._directory(*self._ahead.pop())

    def _directory(self, key: bytes, number: int, depth: int) -> Iterator[FoundName]:
        if self._met.of(number) & _ENTERED:
            yield FoundName(key, number, None, _TWICE)
            return
        try:
            inode, problem = self._reader.inode(number)
        except ImageError as error:
            yield FoundName(key, number, None, str(error))
            return
        if not stat.S_ISDIR(inode.mode):
            yield FoundName(key, number, None, "not a directory")
            return
        self._met.set(number, _ENTERED)
        names = self._reader.names(number)
        batch, trouble = _batch(names)
        if batch and depth == DEPTH_MAX:
            batch, trouble = [], "too deep: what is in it is not told"
        yield FoundName(key, number, inode, problem or trouble)
        prefix = key + b"\0" if key else b""
        inner: list[tuple[bytes, int, int]] = []
        while batch:
            for number_in_it, name in batch:
                node = self._node(prefix + name, number_in_it)
                if node is None:
                    inner.append((prefix + name, number_in_it, depth + 1))
                else:
                    yield node
            batch, trouble = _batch(names)
            if trouble:
                self._note(key, trouble)
        self._ahead.extend(reversed(inner))

    def _node(self, key: bytes, number: int) -> FoundName | None:
        """The node of a name; None for a directory, whose turn comes later."""
        if met := self._met.of(number):
            return FoundName(key, number, None, _TWICE if met & _ENTERED else "")
        try:
            inode, problem = self._reader.inode(number)
        except ImageError as error:
            return FoundName(key, number, None, str(error))
        if stat.S_ISDIR(inode.mode):
            return None
        self._met.set(number, _TOLD)
        return FoundName(key, number, inode, problem)

    def _note(self, key: bytes, trouble: str) -> None:
        if len(self.problems) < _PROBLEMS_MAX:
            path = printable(key.replace(b"\0", b"/"))
            self.problems.append(f"/{path}: {trouble}")


def _batch(names: Iterator[Name]) -> tuple[list[Name], str]:
    """The next names of a directory, in their inodes' order, and a problem that was found."""
    batch: list[Name] = []
    trouble = ""
    try:
        batch.extend(islice(names, _BATCH))  # keeps what came before an exception
    except ImageError as error:
        trouble = str(error)
    batch.sort()
    if len({name for _, name in batch}) != len(batch):
        batch = sorted((number, name) for name, number in {name: n for n, name in batch}.items())
        trouble = trouble or "it has names that stand there twice"
    return batch, trouble


def valid(name: bytes) -> bool:
    """Whether a file may have this name; `.` and `..` are not names of files."""
    return 0 < len(name) <= 255 and b"/" not in name and b"\0" not in name and name not in _DOTS
