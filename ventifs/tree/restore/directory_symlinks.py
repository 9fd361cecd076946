"""Symbolic links of a destination where a version has directories: which ones are followed.

A link is kept if it leads to a directory beneath the destination, and if everything on the way is
trusted. All other links are replaced by directories. `Symlinks` changes the second condition, never
the first.

Otherwise another user could redirect a restore by root anywhere. Trusted means:

- Each link on the way belongs to root or to the restoring user.
- So does each directory in which a name of the way is looked up, from the destination down to the
  link and on along what the link leads through.
- No other user can write in such a directory.

The last two conditions are needed because a user may rename a link of root within the user's own
directories, or rename a whole directory that holds one. The directory at the end of the way may
belong to any user: its name is in a trusted directory.

A sticky directory, such as `/tmp`, is no exception: a user cannot rename root's link in it, but can
move one there from a directory of the user's own. An access control list that lets others write
shows in the group bits of the mode.

The way is walked component by component. Each component is opened relative to the one before it and
never through a link. A link that is swapped between check and use therefore changes nothing: what
was checked is what is open. `..` goes back along the components that were walked. openat2 with
RESOLVE_BENEATH guarantees the same, but cannot report the owners of the links that it followed, and
some kernels lack it. As with openat2, an absolute link leads outside, whatever it would mean to a
guest with this root. Only if the destination is `/` itself does it lead beneath.
"""

import errno
import os
import stat
from collections import deque
from enum import Enum

from ventifs.text import printable

LINKS_MAX = 40  # on one way, as in the kernel
_FIND = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

DirectoryNames = tuple[bytes, ...]  # of directories, from the destination on, none of them a link


class Symlinks(Enum):
    """Which links to directories beneath the destination are kept."""

    TRUSTED = "trusted"  # those that only root and the user that restores can make or move
    KEEP = "keep"  # all
    REPLACE = "replace"  # none


class NotKept(Exception):
    """A link is to be replaced by a directory; the text is the reason."""


class _Way:
    """A way down from the destination; the directories on it stay open."""

    def __init__(self, top: int, trusted: set[int] | None = None) -> None:
        """Start at `top`; `trusted` are user ids, None to trust all."""
        self._fds = [os.dup(top)]
        self._trusted = trusted
        self.names: list[bytes] = []

    def find(self, name: bytes, *, directory: bool = False) -> int:
        """Look up a name in the current directory; return a descriptor (O_PATH).

        Raises:
            NotKept: other users could have put it there.
        """
        self.check()
        return os.open(name, _FIND | (os.O_DIRECTORY if directory else 0), dir_fd=self.fd)

    def check(self) -> None:
        """Check that only trusted users can make or move anything in the current directory.

        Raises:
            NotKept: others can.
        """
        if self._trusted is None:
            return
        status = os.fstat(self.fd)
        what = printable(b"/".join(self.names)) or "the destination"
        if status.st_uid not in self._trusted:
            raise NotKept(f"its way is through {what}, which belongs to user {status.st_uid}")
        if status.st_mode & _OTHERS_WRITE:
            raise NotKept(f"its way is through {what}, where other users can write")

    @property
    def fd(self) -> int:
        return self._fds[-1]

    def push(self, name: bytes, fd: int) -> None:
        self.names.append(name)
        self._fds.append(fd)

    def back(self) -> None:
        """Go up one directory.

        Raises:
            NotKept: the current directory is the destination itself.
        """
        if not self.names:
            raise NotKept("it leads outside the destination")
        self.names.pop()
        os.close(self._fds.pop())

    def to_top(self) -> None:
        while self.names:
            self.back()

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


def follow(
    top: int, where: DirectoryNames, directory: int, name: bytes, symlinks: Symlinks
) -> tuple[DirectoryNames, int]:
    """Follow a link; return the directory it leads to, as names and as a descriptor (O_PATH).

    Args:
        top: the destination.
        where: the names of the directory the link is in.
        directory: a descriptor of that directory.
        name: the link's name.
        symlinks: which links may be followed.

    Raises:
        NotKept: the link is to be replaced.
    """
    if symlinks is Symlinks.REPLACE:
        raise NotKept("--replace-symlinks")
    trusted = {0, os.geteuid()} if symlinks is Symlinks.TRUSTED else None
    way = _Way(top, trusted)
    try:
        for above in where[:-1]:
            way.push(above, way.find(above, directory=True))
        if where:
            way.check()
            way.push(where[-1], os.dup(directory))
        _walk(way, name, trusted, absolute=_is_root(top))
        return tuple(way.names), os.dup(way.fd)
    except (FileNotFoundError, NotADirectoryError):
        raise NotKept("it leads to no directory") from None
    except OSError as error:
        raise NotKept(os.strerror(error.errno or 0).lower()) from None
    finally:
        way.close()


def _walk(way: _Way, name: bytes, trusted: set[int] | None, *, absolute: bool) -> None:
    left, links = deque([name]), 0
    while left:
        part = left.popleft()
        if part in (b"", b"."):
            continue
        if part == b"..":
            way.back()
            continue
        fd = way.find(part)
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            way.push(part, fd)
            continue
        try:
            links += 1
            if not stat.S_ISLNK(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if trusted is not None and status.st_uid not in trusted:
                which = "it" if links == 1 else "a link on its way"
                raise NotKept(f"{which} belongs to user {status.st_uid}")
            if links > LINKS_MAX:
                raise NotKept("it leads through too many links, or in a circle")
            target = os.readlink(b"", dir_fd=fd)
        finally:
            os.close(fd)
        if target.startswith(b"/"):
            if not absolute:
                raise NotKept("it is absolute, so it leads outside the destination")
            way.to_top()
        left.extendleft(reversed(target.split(b"/")))


def _is_root(top: int) -> bool:
    return os.path.samestat(os.fstat(top), os.stat("/"))


def open_again(top: int, names: DirectoryNames, was: os.stat_result) -> int:
    """Open again a directory that a link led to, after its descriptor was closed.

    Raises:
        OSError: the directory is gone; another one in its place is not accepted.
    """
    way = _Way(top)
    try:
        for name in names:
            way.push(name, way.find(name, directory=True))
        fd = os.open(b".", _OPEN, dir_fd=way.fd)
    finally:
        way.close()
    if not os.path.samestat(os.fstat(fd), was):
        os.close(fd)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return fd


def described(name: bytes, directory: int, reason: str) -> str:
    """Describe a link that is replaced: its target, and the reason."""
    try:
        target = printable(os.readlink(name, dir_fd=directory))
    except OSError:  # swapped meanwhile
        target = "?"
    return f"a symbolic link to {target}: {reason}"
