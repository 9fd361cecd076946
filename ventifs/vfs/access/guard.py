"""`--access=mode`: a `Filesystem` that checks owner, group and other for the user who attaches.

It wraps any file system whose files have, in addition to what `File` needs, the root of their tree
(`Placed`). The client itself states which user attaches. So this separates honest users from each
other, and keeps out no client that can reach the socket. Rules:

- walking from a directory needs search permission there; opening a file needs read; listing a
  directory needs both, since a listing of 9P2000 shows attributes;
- an attach is a walk: nothing is looked up in a directory that its user may not search;
- access control lists are followed; root may do everything that only reads;
- a user's groups are those of the tree's own `/etc/passwd` and `/etc/group`; those of `nobody` only
  deny (`permission.py`);
- a user without a number is `nobody`, and may stat the root that it attaches to, since a mount does
  that first; behind a closed directory that root is made up (`Unseen`), so that it reveals nothing
  of what is there;
- extended attributes named `trusted.*` are only for root; reading those named `user.*` needs read
  permission;
- nothing is ever written: that would need more checks than these.
"""

import errno
import stat
from collections.abc import Iterator
from enum import Enum
from functools import partial
from typing import NoReturn

from blake3 import blake3

from ventifs.buffer import Buffer
from ventifs.vfs.access.groups import AccountBook
from ventifs.vfs.access.permission import (
    ACL,
    NOBODY,
    NOBODY_UID,
    READ,
    SEARCH,
    Credentials,
    permits,
)
from ventifs.vfs.access.placed import Attachable, Placed
from ventifs.vfs.interface import (
    DIRECTORY,
    Attributes,
    File,
    Identity,
    Load,
    Opened,
    ReadOnlyFile,
    ReadOnlyOpened,
    Refused,
    Statfs,
    User,
    check_reading,
)
from ventifs.vfs.memory_budget import DIRECTORY_BYTES, GUARDED_DIRECTORY_BYTES

_ROOTS = b"trusted."
_CONTENTS = b"user."


class Squash(Enum):
    """Which users become `nobody`."""

    NONE = "none"
    ROOT = "root"
    ALL = "all"


class GuardedFilesystem:
    """A file system that lets each user do only what files' permissions allow.

    Concurrency: that of the file system it guards.
    """

    def __init__(
        self,
        files: Attachable,
        accounts: AccountBook | None = None,
        *,
        squash: Squash = Squash.NONE,
    ) -> None:
        """Guard `files`; with `Squash.ALL` it serves only what the user `nobody` may read.

        Args:
            files: of one store.
            accounts: shared with other guards of that store; its own by default.
            squash: which users become `nobody`.
        """
        self._files = files
        self._squash = squash
        self.accounts = accounts or AccountBook()

    def attach(self, user: User, aname: bytes) -> File:
        """See `Filesystem`.

        Raises:
            Refused: EACCES for the first directory on the path that the user may not search,
                whatever lies below it.
        """
        uid = user.uid
        if self._squash is Squash.ALL or (self._squash is Squash.ROOT and uid == 0):
            uid = NOBODY_UID
        guard = Guard(self.accounts, NOBODY_UID if uid is None else uid)
        try:
            passage = _Passage(guard)
            inner: Placed = self._files.attach(user, aname, passage.pass_through)  # type: ignore[assignment]
            home = inner.home()
            return GuardedFile.of(inner, guard, home, passage.identity(home))
        except _Closed as closed:
            if uid is None:
                return Unseen(closed.at, aname)
            raise Refused(errno.EACCES) from None

    def session(self) -> "GuardedFilesystem":
        """See `Filesystem`; both share the accounts."""
        guarded = GuardedFilesystem(self._files.session(), squash=self._squash)
        guarded.accounts = self.accounts
        return guarded

    def ahead(self) -> list[Load]:
        """See `Filesystem`."""
        return self._files.ahead()


class Guard:
    """One attached user."""

    __slots__ = ("_above", "_accounts")

    def __init__(self, accounts: AccountBook, uid: int) -> None:
        """For a uid; the groups that it is in depend on the tree."""
        self._accounts = accounts
        self._above = NOBODY if uid == NOBODY_UID else Credentials(uid)

    def identity(self, home: File | None) -> Credentials:
        """The user's credentials in a tree; above all trees it is in no group.

        Raises:
            Cold: to be tried again.
            Refused, Corrupt: the tree's accounts cannot be read.
        """
        above = self._above
        if home is None or above.uid == 0:
            return above
        return self._accounts.identity(home, above.uid)


class _Passage:
    """Checks one user's path to what it attaches to, which is mostly within one tree."""

    __slots__ = ("_guard", "_home", "_who")

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._home: File | None = None
        self._who = guard.identity(None)

    def identity(self, home: File | None) -> Credentials:
        """See `Guard`; looked up again only when the tree changes."""
        if home is not self._home:
            self._who = self._guard.identity(home)
            self._home = home
        return self._who

    def pass_through(self, directory: Placed) -> None:
        """Check that the user may search a directory on the path of an attach.

        Raises:
            _Closed: it may not.
            Cold: to be tried again.
            Refused, Corrupt: it cannot be determined.
        """
        if not _permits(self.identity(directory.home()), SEARCH, directory):
            raise _Closed(directory)


class _Closed(Exception):
    """A user may not search a directory on the path of its attach."""

    def __init__(self, at: Placed) -> None:
        super().__init__()
        self.at = at


class GuardedFile(ReadOnlyFile):
    """A file, and the user for whom permissions are checked."""

    __slots__ = ("_inner", "_who")

    def __init__(self, inner: Placed, who: Credentials) -> None:
        """For a user that could walk to it."""
        self._inner = inner
        self._who = who

    @staticmethod
    def of(inner: Placed, guard: Guard, home: File | None, who: Credentials) -> "GuardedFile":
        """Wrap a file by the class for its kind and weight."""
        if inner.identity.kind == DIRECTORY:
            made = _HeavyGuardedDirectory if inner.weight else GuardedDirectory
            return made(inner, guard, home, who)
        return (_HeavyGuardedFile if inner.weight else GuardedFile)(inner, who)

    @property
    def identity(self) -> Identity:
        """See `File`."""
        return self._inner.identity

    @property
    def name(self) -> bytes:
        """See `File`."""
        return self._inner.name

    @property
    def above(self) -> File | None:  # type: ignore[override]
        """See `File`: the guarded directory is not kept, only the one inside it."""
        return self._inner.above

    @property
    def kind(self) -> int:
        """See `File`."""
        return self._inner.kind

    def attributes(self) -> Attributes:
        """See `File`; a user that could walk here may have them."""
        return self._inner.attributes()

    def walk(self, name: bytes) -> File:
        """See `File`."""
        raise Refused(errno.ENOTDIR)

    def open(self, flags: int) -> Opened:
        """See `File`."""
        check_reading(flags)
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


class _HeavyGuardedFile(GuardedFile):
    """A file that keeps more memory than most."""

    __slots__ = ("weight",)

    def __init__(self, inner: Placed, who: Credentials) -> None:
        super().__init__(inner, who)
        self.weight = inner.weight


class GuardedDirectory(GuardedFile):
    """A directory, and the user for whom permissions are checked."""

    __slots__ = ("_guard", "_home", "_may", "_seen")
    weight = GUARDED_DIRECTORY_BYTES

    def __init__(self, inner: Placed, guard: "Guard", home: File | None, who: Credentials) -> None:
        """For `who`, the credentials that `guard` gives for the tree at `home`."""
        super().__init__(inner, who)
        self._guard = guard
        self._home = home
        self._seen: Attributes | None = None  # what `_may` was computed from
        self._may = False

    def walk(self, name: bytes) -> File:
        """See `File`."""
        attributes = self._inner.attributes()
        if attributes is not self._seen:  # the same object has the same values
            self._may = _permits(self._who, SEARCH, self._inner)
            self._seen = attributes
        if not self._may:
            raise Refused(errno.EACCES)
        inner: Placed = self._inner.walk(name)  # type: ignore[assignment]
        home = inner.home()
        if home is not self._home:
            return self._guarded(inner)
        return GuardedFile.of(inner, self._guard, home, self._who)  # fast path for the common case

    def _guarded(self, inner: Placed) -> GuardedFile:
        home = inner.home()
        who = self._who if home is self._home else self._guard.identity(home)
        return GuardedFile.of(inner, self._guard, home, who)

    def open(self, flags: int) -> Opened:
        """See `File`."""
        check_reading(flags)
        self._require(READ | SEARCH)
        return _GuardedListing(self._inner.open(flags), self)

    def listed(self, inner: File) -> File:
        """The file that a listing of this directory shows for a file in it.

        A file of another tree is `Sealed`: that tree's users are read only when a user walks there.
        Otherwise a listing of a name's versions would read the accounts of each.
        """
        placed: Placed = inner  # type: ignore[assignment]
        return Sealed(placed) if placed.home() is not self._home else self._guarded(placed)


class _HeavyGuardedDirectory(GuardedDirectory):
    """A directory that keeps more memory than most, even without being guarded."""

    __slots__ = ("weight",)

    def __init__(self, inner: Placed, guard: "Guard", home: File | None, who: Credentials) -> None:
        super().__init__(inner, guard, home, who)
        self.weight = inner.weight + GUARDED_DIRECTORY_BYTES


class _GuardedListing(ReadOnlyOpened):
    """An open directory."""

    __slots__ = ("_directory", "_inner")

    def __init__(self, inner: Opened, directory: GuardedDirectory) -> None:
        self._inner = inner
        self._directory = directory

    def attributes(self) -> Attributes:
        """See `Opened`."""
        return self._inner.attributes()

    def read(self, offset: int, count: int) -> list[Buffer]:
        """See `Opened`."""
        raise Refused(errno.EISDIR)

    def entries(self, cookie: int) -> Iterator[tuple[int, bytes, Identity, int]]:
        """See `Opened`."""
        return self._inner.entries(cookie)

    def listed(self, name: bytes) -> File:
        """See `Opened`."""
        return self._directory.listed(self._inner.listed(name))

    def close(self) -> None:
        """See `Opened`."""
        self._inner.close()


class Sealed(GuardedFile):
    """A file that shows its attributes, but refuses walk, open and extended attributes."""

    __slots__ = ()

    def __init__(self, inner: Placed) -> None:
        """Seal a file."""
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


class Unseen(Sealed):
    """A made-up directory behind a closed one: the same whether or not anything is there."""

    __slots__ = ("_identity",)

    def __init__(self, closed: Placed, aname: bytes) -> None:
        """Behind `closed`, as the root of an attach to `aname`."""
        super().__init__(closed)
        digest = blake3(closed.identity.number.to_bytes(8, "little") + aname).digest(8)
        self._identity = Identity(DIRECTORY, 1, int.from_bytes(digest, "little") >> 2 | 1)

    @property
    def weight(self) -> int:  # type: ignore[override]
        """See `File`: it also keeps the closed directory."""
        return self._inner.weight + DIRECTORY_BYTES

    @property
    def identity(self) -> Identity:
        """See `File`."""
        return self._identity

    @property
    def name(self) -> bytes:
        """See `File`."""
        return b"/"

    def attributes(self) -> Attributes:
        """See `File`; the client's kernel lets every user in, and the server checks each."""
        return Attributes(stat.S_IFDIR | 0o755, 0, 0, 1, 0, 4096, 0, 0, 0, 8)

    def readlink(self) -> NoReturn:
        """See `File`."""
        raise Refused(errno.EINVAL)


def _permits(who: Credentials, wanted: int, file: File) -> bool:
    attributes = file.attributes()
    return permits(
        who, wanted, attributes.mode, attributes.uid, attributes.gid, partial(_acl_of, file)
    )


def _acl_of(file: File) -> bytes | None:
    try:
        return file.xattr(ACL)
    except Refused as refused:
        if refused.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise
