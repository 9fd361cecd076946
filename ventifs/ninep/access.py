"""`--access=mode`: a `Filesystem` that checks owner, group and other for the user who attaches.

It wraps any file system whose files say, beside what `File` asks, where their tree's root is
(`Placed`). Who a user is, he says himself: this keeps honest users apart, and nobody out who can
reach the socket. What holds:

- walking from a directory needs search there, opening a file read, listing a directory both, since
  a listing of 9P2000 tells attributes;
- access control lists are followed; root passes everything;
- a user's groups are those of the tree's own `/etc/passwd` and `/etc/group`;
- whoever gives no number is nobody, but may stat the root he attaches to, for this is what a mount
  does first;
- attributes named `trusted.` are root's, reading those named `user.` needs read;
- nothing is ever written: that would need more checks than these.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import partial
from typing import NoReturn, Protocol

from ventifs.ninep.accounts import AccountBook
from ventifs.ninep.fs import (
    QTDIR,
    Attributes,
    Buffer,
    File,
    Filesystem,
    Load,
    Opened,
    ReadOnlyFile,
    ReadOnlyOpened,
    Refused,
    Statfs,
    User,
)
from ventifs.ninep.messages import NONUNAME
from ventifs.ninep.permission import ACL, NOBODY, READ, SEARCH, Identity, permits
from ventifs.ninep.wire import Qid

_ROOTS = b"trusted."
_CONTENTS = b"user."


class Placed(File, Protocol):
    """A file that can be guarded."""

    def home(self) -> File | None:
        """The root of the tree whose users these are; None above all trees.

        The same object for all files of a tree, as long as any is in use.
        """

    def way(self) -> Sequence[File]:
        """Of the root of an attach: the directories that lead from `home` to it."""


class Squash(Enum):
    """Who is made nobody."""

    NONE = "none"
    ROOT = "root"
    ALL = "all"


class GuardedFilesystem:
    """A file system that lets users do what modes say.

    Concurrency: as of the file system it guards.
    """

    def __init__(
        self,
        files: Filesystem,
        accounts: AccountBook | None = None,
        *,
        squash: Squash = Squash.NONE,
    ) -> None:
        """Guard `files`; with `Squash.ALL` it serves what anybody at all may read.

        Args:
            files: of one store.
            accounts: shared with other guards of that store; its own by default.
            squash: who is nobody.
        """
        self._files = files
        self._squash = squash
        self.accounts = accounts or AccountBook()

    def attach(self, user: User, aname: bytes) -> File:
        """See `Filesystem`.

        Raises:
            Refused: EACCES also when the way there may not be gone.
        """
        inner: Placed = self._files.attach(user, aname)  # type: ignore[assignment]
        uid = user.uid
        if self._squash is Squash.ALL or (self._squash is Squash.ROOT and uid == 0):
            uid = NOBODY.uid
        guard = Guard(self.accounts, NOBODY.uid if uid == NONUNAME else uid)
        home = inner.home()
        who = guard.identity(home)
        if all(_permits(who, SEARCH, above) for above in inner.way()):
            return GuardedFile.of(inner, guard, home, who)
        if uid == NONUNAME:
            return Sealed(inner)
        raise Refused(errno.EACCES)

    def session(self) -> "GuardedFilesystem":
        """See `Filesystem`; what is known of accounts is shared."""
        guarded = GuardedFilesystem(self._files.session(), squash=self._squash)
        guarded.accounts = self.accounts
        return guarded

    def ahead(self) -> list[Load]:
        """See `Filesystem`."""
        return self._files.ahead()


class Guard:
    """One attached user."""

    __slots__ = ("_accounts", "_uid")

    def __init__(self, accounts: AccountBook, uid: int) -> None:
        """Of a number; what groups it is in depends on the tree."""
        self._accounts = accounts
        self._uid = uid

    def identity(self, home: File | None) -> Identity:
        """Who he is in a tree.

        Raises:
            Cold: to be tried again.
        """
        if home is None or self._uid in (0, NOBODY.uid):
            return NOBODY if self._uid == NOBODY.uid else Identity(self._uid)
        return Identity(self._uid, self._accounts.of(home).gids(self._uid))


class GuardedFile(ReadOnlyFile):
    """A file, and whom it is guarded for."""

    __slots__ = ("_inner", "_who")

    def __init__(self, inner: Placed, who: Identity) -> None:
        """For somebody who could walk to it."""
        self._inner = inner
        self._who = who

    @staticmethod
    def of(inner: Placed, guard: Guard, home: File | None, who: Identity) -> "GuardedFile":
        """The guarded file of a file."""
        if inner.qid.type & QTDIR:
            return GuardedDirectory(inner, guard, home, who)
        return GuardedFile(inner, who)

    @property
    def qid(self) -> Qid:
        """See `File`."""
        return self._inner.qid

    @property
    def name(self) -> bytes:
        """See `File`."""
        return self._inner.name

    @property
    def kind(self) -> int:
        """See `File`."""
        return self._inner.kind

    def attributes(self) -> Attributes:
        """See `File`. Whoever could walk here may have them."""
        return self._inner.attributes()

    def walk(self, name: bytes) -> File:
        """See `File`."""
        raise Refused(errno.ENOTDIR)

    def open(self, flags: int) -> Opened:
        """See `File`."""
        _check_reading(flags)
        self._require(READ)
        return self._inner.open(flags)

    def readlink(self) -> bytes:
        """See `File`."""
        return self._inner.readlink()

    def xattr_names(self) -> list[bytes]:
        """See `File`."""
        names = self._inner.xattr_names()
        root = self._who.uid == 0
        return names if root else [name for name in names if not name.startswith(_ROOTS)]

    def xattr(self, name: bytes) -> bytes:
        """See `File`."""
        if name.startswith(_ROOTS) and self._who.uid != 0:
            raise Refused(errno.ENODATA)
        if name.startswith(_CONTENTS):
            self._require(READ)
        return self._inner.xattr(name)

    def statfs(self) -> Statfs:
        """See `File`."""
        return self._inner.statfs()

    def _require(self, wanted: int) -> None:
        if not _permits(self._who, wanted, self._inner):
            raise Refused(errno.EACCES)


class GuardedDirectory(GuardedFile):
    """A directory, and whom it is guarded for."""

    __slots__ = ("_guard", "_home", "_may", "_seen")

    def __init__(self, inner: Placed, guard: "Guard", home: File | None, who: Identity) -> None:
        """For `who`, which is what `guard` says of the tree at `home`."""
        super().__init__(inner, who)
        self._guard = guard
        self._home = home
        self._seen: Attributes | None = None  # which `_may` is true of
        self._may = False

    def walk(self, name: bytes) -> File:
        """See `File`."""
        attributes = self._inner.attributes()
        if attributes is not self._seen:  # the same object tells the same
            self._may = _permits(self._who, SEARCH, self._inner)
            self._seen = attributes
        if not self._may:
            raise Refused(errno.EACCES)
        return self._guarded(self._inner.walk(name))  # type: ignore[arg-type]

    def _guarded(self, inner: Placed) -> GuardedFile:
        home = inner.home()
        who = self._who if home is self._home else self._guard.identity(home)
        return GuardedFile.of(inner, self._guard, home, who)

    def open(self, flags: int) -> Opened:
        """See `File`."""
        _check_reading(flags)
        self._require(READ | SEARCH)
        return _GuardedListing(self._inner.open(flags), self)

    def guarded(self, inner: File) -> File:
        """The guarded file of one in this directory."""
        return self._guarded(inner)  # type: ignore[arg-type]


class _GuardedListing(ReadOnlyOpened):
    """An open directory."""

    __slots__ = ("_directory", "_inner")

    def __init__(self, inner: Opened, directory: GuardedDirectory) -> None:
        self._inner = inner
        self._directory = directory

    def read(self, offset: int, count: int) -> list[Buffer]:
        """See `Opened`."""
        raise Refused(errno.EISDIR)

    def entries(self, start: int) -> Iterator[tuple[bytes, File]]:
        """See `Opened`."""
        guarded = self._directory.guarded
        for name, inner in self._inner.entries(start):
            yield name, guarded(inner)

    def close(self) -> None:
        """See `Opened`."""
        self._inner.close()


class Sealed(GuardedFile):
    """The root of an attach by nobody, who may stat it and no more."""

    __slots__ = ()

    def __init__(self, inner: Placed) -> None:
        """Of where somebody attaches who could not walk there."""
        super().__init__(inner, NOBODY)

    def walk(self, name: bytes) -> NoReturn:
        """Refuse."""
        raise Refused(errno.EACCES)

    def open(self, flags: int) -> NoReturn:
        """Refuse."""
        raise Refused(errno.EACCES)

    def xattr_names(self) -> NoReturn:
        """Refuse."""
        raise Refused(errno.EACCES)

    def xattr(self, name: bytes) -> NoReturn:
        """Refuse."""
        raise Refused(errno.EACCES)


def _permits(who: Identity, wanted: int, file: File) -> bool:
    attributes = file.attributes()
    return permits(who, wanted, attributes.mode, attributes.uid, attributes.gid,
                   partial(_acl_of, file))  # fmt: skip


def _acl_of(file: File) -> bytes | None:
    try:
        return file.xattr(ACL)
    except Refused as refused:
        if refused.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def _check_reading(flags: int) -> None:
    if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
        raise Refused(errno.EROFS)
