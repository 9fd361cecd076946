"""A file's content as a binary file object.

Always: a read either gives bytes that were verified against their scores, or raises; then the
position is where it was. Holes are read as zeros. This module knows no versions and no names.
"""

import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ventifs.buffer import Buffer
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.objects.content import read
from ventifs.tree.objects.records import Content, length_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class ContentReader(io.RawIOBase):
    """Reads a content: unbuffered, seekable, read-only.

    Reading on from where the last read ended costs no look-up; every seek costs one, O(log n).

    Concurrency: one thread at a time. `io.BufferedReader` locks, so that several may read from it.

    Attributes:
        name: for users, as `open` has it.
        mode: "rb".
    """

    mode = "rb"

    def __init__(self, store: Store, content: Content, name: str, *, keeps: object = None) -> None:
        """Read `content`, whose blocks are in `store`, from its beginning.

        Args:
            store: where its blocks are.
            content: the file's.
            name: for users.
            keeps: what has to stay as long as this object, such as a lease.
        """
        super().__init__()
        self._keeps = keeps
        self.name = name
        self._store = store
        self._content = content
        self._size = length_of(content)
        self._at = 0
        self._next = -1  # where `_rest` and `_pieces` begin; -1 if there are none
        self._rest: Buffer | int = b""  # of the current piece
        self._pieces: Iterator[Buffer | int] = iter(())

    def readable(self) -> bool:
        """True."""
        self._check()
        return True

    def seekable(self) -> bool:
        """True."""
        self._check()
        return True

    def tell(self) -> int:
        """The position, in bytes from the beginning."""
        self._check()
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position, which may be beyond the end: nothing is read there.

        Raises:
            ValueError: for a position before the beginning, or another `whence` than 0, 1 and 2.
        """
        self._check()
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}.get(whence)
        if start is None:
            raise ValueError(f"whence {whence} is not 0, 1 or 2")
        if start + offset < 0:
            raise ValueError(f"position {start + offset} is before the beginning")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill a buffer, or what of it the rest of the file fills; return the number of bytes.

        Raises:
            ValueError: the file object is closed.
            VentifsError: the archive is closed.
            Corrupt, NotStored: the archive is damaged there; the position stays.
        """
        self._check()
        target = memoryview(buffer).cast("B")
        wanted = max(min(len(target), self._size - self._at), 0)
        if self._next != self._at:
            self._rest, self._pieces = b"", read(self._store, self._content, self._at)
        self._next = -1  # until all is read: a piece that cannot be read ends the iterator
        done = 0
        while done < wanted:
            done += self._take(target[done:wanted])
        self._at += done
        self._next = self._at
        return done

    def _take(self, target: memoryview) -> int:
        """Fill a part of `target` from the current piece, or the next one."""
        rest = self._rest
        if not (rest if isinstance(rest, int) else len(rest)):
            rest = next(self._pieces)
        if isinstance(rest, int):
            taken = min(rest, len(target))
            target[:taken] = bytes(taken)
            self._rest = rest - taken
        else:
            taken = min(len(rest), len(target))
            view = memoryview(rest)
            target[:taken] = view[:taken]
            self._rest = view[taken:]
        return taken

    def readall(self) -> bytes:
        """The rest of the file, with zeros for holes, in memory."""
        self._check()
        pieces = read(self._store, self._content, self._at)
        data = b"".join(bytes(piece) if isinstance(piece, int) else piece for piece in pieces)
        self._at += len(data)
        return data

    def close(self) -> None:
        """Release what reading on takes; idempotent. The archive stays open."""
        self._keeps = None
        self._rest, self._pieces, self._next = b"", iter(()), -1
        super().close()

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._store.closed:
            raise VentifsError(f"{self._store.path}: the archive is closed")
