"""What open directories of all levels have in common: the file that a listing gave last, and dots.

Knows neither versions nor trees.
"""

import errno
import stat
from collections.abc import Iterator
from typing import NoReturn

from ventifs.vfs.interface import File, Identity, ReadOnlyOpened, Refused

_KIND = stat.S_IFDIR >> 12
_NONE = 0, b"", Identity(0, 0, 0), 0


class OpenedEntries(ReadOnlyOpened):
    """Base class of an open directory.

    A dialect that lists attributes asks for the file of each entry. So while a listing goes on,
    the entry that it gave last is kept, with its file.
    """

    __slots__ = ("_entry", "_file")

    def __init__(self) -> None:
        """No listing goes on."""
        self._file: File | None = None
        self._entry = _NONE

    def read(self, offset: int, count: int) -> NoReturn:
        """See `Opened`."""
        raise Refused(errno.EISDIR)

    def listed(self, name: bytes) -> File:
        """See `Opened`."""
        file = self._file
        return file if file is not None and self._entry[1] == name else self._find(name)

    def _find(self, name: bytes) -> File:
        """The file of an entry that is not the last one."""
        raise NotImplementedError


def dots(directory: File, cookie: int) -> Iterator[tuple[int, bytes, Identity, int]]:
    """Those of the entries `.` and `..` that come at or after a cookie; theirs are 0 and 1."""
    if cookie == 0:
        yield 1, b".", directory.identity, _KIND
    if cookie <= 1:
        yield 2, b"..", directory.walk(b"..").identity, _KIND
