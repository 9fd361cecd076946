"""Frames of bytes written now and read later, maybe by another process: a temporary file."""

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self

from ventifs.errors import VentifsError
from ventifs.tree.archive.read_batches import reason_of

_LENGTH = struct.Struct("<I")
_READ = 256 << 10  # bytes at a time


class Spool:
    """A file without a name, to append to. A context manager.

    Attributes:
        size: bytes so far, lengths of frames included.
    """

    def __init__(self) -> None:
        """Make an empty file."""
        self.size = 0
        with _told_plainly():
            self._file = TemporaryFile()  # noqa: SIM115, closed in __exit__

    def add(self, frame: bytes) -> None:
        """Append a frame."""
        with _told_plainly():
            self._file.write(_LENGTH.pack(len(frame)))
            self._file.write(frame)
        self.size += _LENGTH.size + len(frame)

    def fileno(self) -> int:
        """Its descriptor, from which all that was added can be read."""
        with _told_plainly():
            self._file.flush()
        return self._file.fileno()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the file."""
        with suppress(OSError):  # from writing the rest
            self._file.close()


def frames(spool: int, start: int = 0, end: int | None = None) -> Iterator[memoryview]:
    """The frames of the spool with that descriptor, or those between two sizes that it had.

    Raises:
        VentifsError: it cannot be read.
    """
    at, data = start, b""
    while end is None or at < end:
        with _told_plainly():  # by offset: the descriptor has other users
            more = os.pread(spool, _READ if end is None else min(_READ, end - at), at)
        if not more:
            break
        at += len(more)
        data, first = data + more, 0
        while first + _LENGTH.size <= len(data):
            last = first + _LENGTH.size + _LENGTH.unpack_from(data, first)[0]
            if last > len(data):
                break
            yield memoryview(data)[first + _LENGTH.size : last]
            first = last
        data = data[first:]
    if data or (end is not None and at < end):
        raise VentifsError("temporary file: it has become shorter; run the command again")


@contextmanager
def _told_plainly() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "make room for it, or name another directory for it in TMPDIR"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            remedy = "raise the limit of open files ('ulimit -n')"
        raise VentifsError(f"temporary file: {reason_of(error)}; {remedy}") from error
