"""The types of bytes that pass from layer to layer without a copy."""

import os
from collections.abc import Iterable

Buffer = bytes | bytearray | memoryview


class FileRange:
    """Bytes of an open file that are in the kernel's memory, and are sent from there.

    They are those that the file has when they are sent; what it has lost by then are zeros.
    """

    __slots__ = ("_owner", "count", "fd", "offset")

    def __init__(self, owner: object, fd: int, offset: int, count: int) -> None:
        """Bytes of a descriptor, which stays open as long as `owner` is there."""
        self._owner = owner
        self.fd = fd
        self.offset = offset
        self.count = count

    def __len__(self) -> int:
        """How many."""
        return self.count

    def after(self, count: int) -> "FileRange":
        """Without the first ones."""
        return FileRange(self._owner, self.fd, self.offset + count, self.count - count)

    def content(self) -> bytes:
        """The bytes; reads them."""
        return os.pread(self.fd, self.count, self.offset).ljust(self.count, b"\0")


Piece = Buffer | FileRange


def joined(pieces: Iterable[Piece]) -> bytes:
    """The bytes of some pieces; reads those that are a file's."""
    return b"".join(piece.content() if isinstance(piece, FileRange) else piece for piece in pieces)
