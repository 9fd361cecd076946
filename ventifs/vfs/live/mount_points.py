"""Mount points below a live export's root: each shows as an empty read-only directory.

What is mounted there is not exported. What it hides cannot be reached. This module opens nothing.
"""

import errno
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from blake3 import blake3

from ventifs.buffer import Buffer
from ventifs.vfs.interface import (
    DIRECTORY,
    Attributes,
    File,
    Identity,
    ReadOnlyFile,
    ReadOnlyOpened,
    Refused,
    Statfs,
    check_reading,
)

if TYPE_CHECKING:
    from ventifs.vfs.live.files import LiveFile

_KIND = stat.S_IFDIR >> 12
_SHOWN = 0xFFFE << 48  # above the numbers of all files


class MountPoint(ReadOnlyFile):
    """A directory on which something is mounted."""

    __slots__ = ("above", "name")

    def __init__(self, above: "LiveFile", name: bytes) -> None:
        """Under a name of a directory."""
        self.above: LiveFile = above
        self.name = name

    @property
    def identity(self) -> Identity:
        """See `File`: made of its place, since what it hides cannot be seen."""
        digest = blake3(self.above.identity.number.to_bytes(8, "little") + self.name).digest(6)
        return Identity(DIRECTORY, 1, _SHOWN | int.from_bytes(digest, "little"))

    @property
    def kind(self) -> int:
        """See `File`."""
        return _KIND

    def attributes(self) -> Attributes:
        """See `File`."""
        return Attributes(stat.S_IFDIR | 0o555, 0, 0, 2, 0, 4096, 0, 0, 0, 0)

    def walk(self, name: bytes) -> File:
        """See `File`."""
        if name == b"..":
            return self.above
        raise Refused(errno.ENOENT)

    def open(self, flags: int) -> "EmptyListing":
        """See `File`."""
        if flags & os.O_ACCMODE:
            raise Refused(errno.EISDIR)
        check_reading(flags)
        return EmptyListing(self)

    def readlink(self) -> NoReturn:
        """Refuse: it is no symbolic link."""
        raise Refused(errno.EINVAL)

    def xattr_names(self) -> list[bytes]:
        """See `File`."""
        return []

    def xattr(self, name: bytes) -> NoReturn:
        """Refuse: it has none."""
        raise Refused(errno.ENODATA)

    def statfs(self) -> Statfs:
        """See `File`: that of the export."""
        return self.above.statfs()


class EmptyListing(ReadOnlyOpened):
    """An open mount point."""

    __slots__ = ("_directory",)

    def __init__(self, directory: MountPoint) -> None:
        """Of `directory`."""
        self._directory = directory

    def attributes(self) -> Attributes:
        """See `Opened`."""
        return self._directory.attributes()

    def read(self, offset: int, count: int) -> list[Buffer]:
        """Refuse, as Linux does."""
        raise Refused(errno.EISDIR)

    def entries(self, cookie: int) -> Iterator[tuple[int, bytes, Identity, int]]:
        """See `Opened`."""
        if cookie == 0:
            yield 1, b".", self._directory.identity, _KIND
        if cookie <= 1:
            yield 2, b"..", self._directory.above.identity, _KIND

    def listed(self, name: bytes) -> File:
        """See `Opened`."""
        return self._directory if name == b"." else self._directory.walk(name)
