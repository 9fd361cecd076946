"""The types of bytes that pass from layer to layer without a copy."""

import os
from collections.abc import Iterable

import msgspec

Buffer = bytes | bytearray | memoryview


class FileRange(msgspec.Struct, gc=False, eq=False):
    """Bytes of an open file that are in the kernel's memory, and are sent from there.

    They are those that the file has when they are sent; what it has lost by then are zeros.

    Attributes:
        owner: keeps the descriptor open.
        fd: the descriptor.
        offset: of the first one.
        count: how many.
    """

    owner: object
    fd: int
    offset: int
    count: int

    def __len__(self) -> int:
        """How many."""
        return self.count

    def last(self, count: int) -> "FileRange":
        """The last ones."""
        return FileRange(self.owner, self.fd, self.offset + self.count - count, count)

    def content(self) -> bytes:
        """The bytes; reads them.

        Raises:
            OSError: the disk cannot.
        """
        found = bytearray()
        while piece := os.pread(self.fd, self.count - len(found), self.offset + len(found)):
            found += piece
        return bytes(found.ljust(self.count, b"\0"))


Piece = Buffer | FileRange


def joined(pieces: Iterable[Piece]) -> bytes:
    """The bytes of some pieces; reads those that are a file's."""
    return b"".join(piece.content() if isinstance(piece, FileRange) else piece for piece in pieces)
