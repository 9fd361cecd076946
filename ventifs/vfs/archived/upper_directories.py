"""The directories that one kind of peer sees above the versions: names, times and scores.

The root lists names; a name lists its versions by time; `score`, if it is served, lists trees by
score. These directories are read anew each time, so that new versions appear; what is below a
version never changes. A name that a peer may not reach looks like a name that does not exist.

The root lists live exports, too, of which this package knows only the names: attaching to one
raises `Elsewhere`, and walking there is refused with EXDEV.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

from ventifs.tree.versions.catalog import split_path
from ventifs.vfs.access.placed import PassThrough
from ventifs.vfs.archived.entry_bytes import S_DIRECTORY
from ventifs.vfs.archived.exports import (
    LATEST,
    Offered,
    OfferedSnapshot,
    Unknown,
    Wanted,
    by_score,
    choose,
    parse_aname,
)
from ventifs.vfs.archived.identities import number_of, token_of
from ventifs.vfs.archived.no_versions import NoVersions
from ventifs.vfs.archived.opened_entries import OpenedEntries, dots
from ventifs.vfs.archived.room import DIRECTORY_BLOCKS, DIRECTORY_SIZE
from ventifs.vfs.archived.served_versions import ServedVersions
from ventifs.vfs.interface import (
    DIRECTORY,
    Attributes,
    Elsewhere,
    File,
    Identity,
    Load,
    ReadOnlyFile,
    Refused,
    Statfs,
    User,
)

log = logging.getLogger(__name__)

_SCORES = "score"
_LOGGED_S = 60.0  # from one line about a live name to the next
_BOUND_MAX = 1024  # names that a session binds to versions; more are not bound


class View:
    """The names of a `ServedVersions` that some peers may reach; a `Filesystem` itself."""

    def __init__(
        self,
        files: ServedVersions | NoVersions,
        allowed: Callable[[str], bool],
        live: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show the names for which `allowed` returns true.

        Args:
            files: the versions.
            allowed: whether these peers may reach a name.
            live: the names of live exports, which hide versions of the same name.
            clock: returns seconds; limits the lines of the log.
        """
        self.files = files
        self.allowed = allowed
        self.live = frozenset(name for name in live if allowed(name))
        self._clock = clock
        self._logged: dict[str, float] = {}  # live names that were walked to, and when
        # With the generation that they are of: a view that is not used must not keep a whole
        # snapshot.
        self._names: tuple[bytes, list[str]] = b"", []
        self._listed: tuple[bytes, list[str]] = b"", []
        self._scores: tuple[bytes, list[Offered]] = b"", []
        self.root = ExportRoot(self)

    def attach(self, user: User, aname: bytes, pass_through: PassThrough | None = None) -> File:
        """See `placed.Attachable`; `parse_aname` has the grammar, and an empty name is the root."""
        self.depart(aname)
        try:
            return self._attach(aname, pass_through)
        except Unknown:
            raise Refused(errno.ENOENT) from None

    def _attach(self, aname: bytes, pass_through: PassThrough | None) -> File:
        wanted = parse_aname(aname)
        offered = self.offered(wanted)
        if offered is not None:
            return self.files.attached(offered, wanted.path, pass_through)
        return NameDirectory(self, wanted.name, None) if wanted.name else self.root

    def depart(self, aname: bytes) -> None:
        """Raise `Elsewhere` if an aname is a live export's, with a path or without."""
        if self.live:
            name, _ = split_path(aname.decode("utf-8", "surrogateescape").removeprefix("/"))
            if name in self.live:
                raise Elsewhere(name)

    def refuse_walk(self, name: str) -> NoReturn:
        """Refuse to walk to a live name, with a line in the log, but not each time.

        Raises:
            Refused: EXDEV.
        """
        now = self._clock()
        if now - self._logged.get(name, float("-inf")) > _LOGGED_S:
            self._logged[name] = now
            log.warning(
                "a client looks from / into live export '%s'; it can mount aname=%s", name, name
            )
        raise Refused(errno.EXDEV)

    def offered(self, wanted: Wanted) -> Offered | None:
        """The version that an aname means now; None for a directory above the versions.

        Raises:
            Unknown: when there is none, or this peer may not reach it.
            Cold: to be tried again.
        """
        snapshot = self.files.catalog.current()
        if wanted.score:
            if not self.files.scores:
                raise Unknown("no scores are served")
            return by_score(snapshot, wanted.score, self.allowed)
        if not wanted.name:
            return None
        versions = self.versions(snapshot, wanted.name)
        return (
            None
            if wanted.when is None
            else choose(versions, wanted.when, self.files.catalog.now_ns())
        )

    def session(self) -> "SessionView":
        """See `Filesystem`."""
        return SessionView(self)

    def ahead(self) -> list[Load]:
        """See `Filesystem`."""
        return self.files.ahead()

    def versions(self, snapshot: OfferedSnapshot, name: str) -> list[Offered]:
        """The versions of a name.

        Raises:
            Unknown: when there are none, or this peer may not reach them.
        """
        found = snapshot.of_name.get(name)
        if found is None or name in self.live or not self.allowed(name):
            raise Unknown("no such name")
        return found

    def names(self, snapshot: OfferedSnapshot) -> list[str]:
        """The names that the peer may see, sorted."""
        if self._names[0] != snapshot.generation:
            self._names = (
                snapshot.generation,
                [name for name in snapshot.of_name if name not in self.live and self.allowed(name)],
            )
        return self._names[1]

    def listed(self, snapshot: OfferedSnapshot) -> list[str]:
        """The names in the root directory, in order."""
        if self._listed[0] != snapshot.generation:
            names = self.names(snapshot)
            if self.live:
                names = sorted([*names, *self.live])
            if self.files.scores:
                names = [_SCORES, *(name for name in names if name != _SCORES)]
            self._listed = snapshot.generation, names
        return self._listed[1]

    def scores(self, snapshot: OfferedSnapshot) -> list[Offered]:
        """The oldest version of each tree that the peer may see, sorted by score."""
        if self._scores[0] != snapshot.generation:
            allowed = self.allowed
            oldest = (
                next(
                    (version for version in snapshot.of_score[score] if allowed(version.name)), None
                )
                for score in snapshot.scores
            )
            self._scores = snapshot.generation, [one for one in oldest if one is not None]
        return self._scores[1]


class SessionView:
    """A view for one session, in which a name keeps meaning the version that it first meant.

    Linux attaches anew for each user of a mount. All of them must see the same version, whatever
    was archived or forgotten meanwhile.
    """

    def __init__(self, view: View) -> None:
        """Of a view."""
        self._view = view
        self._bound: dict[tuple[str, str | None, str], Offered] = {}  # the same for all paths
        self.ahead = view.files.ahead  # not through the view: it is called after each turn

    def attach(self, user: User, aname: bytes, pass_through: PassThrough | None = None) -> File:
        """See `placed.Attachable`."""
        self._view.depart(aname)
        try:
            wanted = parse_aname(aname)
            key = wanted.name, wanted.when, wanted.score
            offered = self._bound.get(key)
            if offered is None:
                offered = self._view.offered(wanted)
        except Unknown:
            raise Refused(errno.ENOENT) from None
        if offered is None:
            return self._view.attach(user, aname, pass_through)
        root = self._view.files.attached(offered, wanted.path, pass_through)
        if len(self._bound) < _BOUND_MAX:
            self._bound[key] = offered
        return root

    def session(self) -> "SessionView":
        """See `Filesystem`."""
        return SessionView(self._view)


class _Upper(ReadOnlyFile):
    """A directory above the versions."""

    __slots__ = ("_token", "view")

    def __init__(self, view: View, token: bytes) -> None:
        self.view = view
        self._token = token

    @property
    def identity(self) -> Identity:
        """See `File`; its version changes with what is listed, and with what `latest` means."""
        return Identity(DIRECTORY, self._revision() % (2**32 - 1) + 1, number_of(self._token))

    @property
    def name(self) -> bytes:
        """See `File`."""
        return b"/"

    @property
    def kind(self) -> int:
        """See `File`."""
        return S_DIRECTORY

    def _changed_ns(self) -> int:
        """The time of the latest version below."""
        raise NotImplementedError

    def _revision(self) -> int:
        return self._changed_ns()

    def _items(self, snapshot: OfferedSnapshot) -> Sequence[Any]:
        """What is in it, for `_list`; open directories of one generation share the sequence."""
        raise NotImplementedError

    def _list(self, items: Sequence[Any]) -> list[tuple[bytes, Callable[[], File]]]:
        """What is in it: each name, with a function that makes its file."""
        raise NotImplementedError

    def _find(self, snapshot: OfferedSnapshot, name: bytes) -> File:
        raise NotImplementedError

    def _parent(self) -> File:
        return self

    def attributes(self) -> Attributes:
        """See `File`."""
        changed = self._changed_ns()
        return Attributes(
            0o40555, 0, 0, 1, 0, DIRECTORY_SIZE, changed, changed, changed, DIRECTORY_BLOCKS
        )

    def walk(self, name: bytes) -> File:
        """See `File`."""
        if name == b"..":
            return self._parent()
        if name == b".":
            return self
        try:
            return self._find(self.view.files.catalog.current(), name)
        except Unknown:
            raise Refused(errno.ENOENT) from None

    def open(self, flags: int) -> "_OpenedUpper":
        """See `File`."""
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise Refused(errno.EROFS)
        return _OpenedUpper(self)

    def readlink(self) -> bytes:
        """See `File`."""
        raise Refused(errno.EINVAL)

    def xattr_names(self) -> list[bytes]:
        """See `File`."""
        return []

    def xattr(self, name: bytes) -> bytes:
        """See `File`."""
        raise Refused(errno.ENODATA)

    def home(self) -> None:
        """None, since it is above all trees; see `placed.Placed`."""

    def way(self) -> Sequence[File]:
        """See `placed.Placed`."""
        return ()

    def statfs(self) -> Statfs:
        """See `File`."""
        return Statfs(fsid=number_of(self.view.files.token))


class _OpenedUpper(OpenedEntries):
    """An open directory above the versions: what was there when reading began.

    It keeps the names or versions that it lists, and never a whole snapshot.
    """

    __slots__ = ("_directory", "_items")

    def __init__(self, directory: _Upper) -> None:
        super().__init__()
        self._directory = directory
        self._items: Sequence[Any] | None = None

    def attributes(self) -> Attributes:
        """See `Opened`."""
        return self._directory.attributes()

    def entries(self, cookie: int) -> Iterator[tuple[int, bytes, Identity, int]]:
        """See `Opened`; cookies are ordinals: 1 after `.`, 2 after `..`, 3 after the next."""
        directory = self._directory
        yield from dots(directory, cookie)
        start = max(cookie - 2, 0)
        if cookie == 0 or self._items is None:
            self._items = directory._items(directory.view.files.catalog.current())
        try:
            for ordinal, (name, make) in enumerate(directory._list(self._items)[start:], start):
                file = self._file = make()
                entry = self._entry = ordinal + 3, name, file.identity, file.kind
                yield entry
        finally:
            self._file = None

    def _find(self, name: bytes) -> File:
        for each, make in self._directory._list(self._items or ()):
            if each == name:
                return make()
        raise Refused(errno.ENOENT)


class ExportRoot(_Upper):
    """The directory of all names."""

    __slots__ = ()

    def __init__(self, view: View) -> None:
        """Of a view."""
        super().__init__(view, view.files.token)

    def _changed_ns(self) -> int:
        catalog = self.view.files.catalog
        found = (catalog.known.of_name[name] for name in self.view.names(catalog.known))
        return max((of_name[catalog.latest(of_name)].time_ns for of_name in found), default=0)

    def _items(self, snapshot: OfferedSnapshot) -> Sequence[str]:
        return self.view.listed(snapshot)

    def _list(self, items: Sequence[str]) -> list[tuple[bytes, Callable[[], File]]]:
        return [(name.encode(), partial(self._made, name)) for name in items]

    def _made(self, name: str) -> File:
        if name in self.view.live:
            return LiveName(self.view, name, self)
        if name == _SCORES and self.view.files.scores:
            return ScoreDirectory(self.view)
        return NameDirectory(self.view, name, self)

    def _find(self, snapshot: OfferedSnapshot, name: bytes) -> File:
        if name == _SCORES.encode() and self.view.files.scores:
            return ScoreDirectory(self.view)
        try:
            text = name.decode("ascii")
        except UnicodeDecodeError:
            raise Unknown("no such name") from None
        if text in self.view.live:
            self.view.refuse_walk(text)
        self.view.versions(snapshot, text)
        return NameDirectory(self.view, text, self)


class NameDirectory(_Upper):
    """The directory of one name: its versions by time, and `latest`."""

    __slots__ = ("_above", "_text")

    def __init__(self, view: View, text: str, above: ExportRoot | None) -> None:
        """Of a name; without `above` its `..` is itself."""
        super().__init__(view, token_of(view.files.token, b"/", text.encode()))
        self._text = text
        self._above = above

    @property
    def name(self) -> bytes:
        """See `File`."""
        return b"/" if self._above is None else self._text.encode()

    def _parent(self) -> File:
        return self if self._above is None else self._above

    def _changed_ns(self) -> int:
        catalog = self.view.files.catalog
        versions = catalog.known.of_name.get(self._text)
        return versions[catalog.latest(versions)].time_ns if versions else 0

    def _revision(self) -> int:
        versions = self.view.files.catalog.known.of_name.get(self._text, ())
        future = len(versions) - 1 - self.view.files.catalog.latest(versions)
        return self._changed_ns() + future

    def _items(self, snapshot: OfferedSnapshot) -> Sequence[Offered]:
        return snapshot.of_name.get(self._text, ())

    def _list(self, items: Sequence[Offered]) -> list[tuple[bytes, Callable[[], File]]]:
        of_time: dict[bytes, Offered] = {}
        for version in items:
            of_time.setdefault(version.when, version)  # the first of one time, as `pick` does
        if items:
            of_time[LATEST] = items[self.view.files.catalog.latest(items)]
        root = self.view.files.listed
        return [(name, partial(root, version, self, name)) for name, version in of_time.items()]

    def _find(self, snapshot: OfferedSnapshot, name: bytes) -> File:
        versions = self.view.versions(snapshot, self._text)
        text = name.decode("utf-8", "surrogateescape")
        found = choose(versions, text, self.view.files.catalog.now_ns())
        if name not in (LATEST, found.when):
            raise Unknown("only whole times are listed")
        return self.view.files.entered(found, self, name)


class LiveName(_Upper):
    """A live export as an entry of the root, which cannot be walked to."""

    __slots__ = ("_above", "_text")

    def __init__(self, view: View, text: str, above: ExportRoot) -> None:
        """Of a name."""
        super().__init__(view, token_of(view.files.token, b"live", text.encode()))
        self._text = text
        self._above = above

    @property
    def name(self) -> bytes:
        """See `File`."""
        return self._text.encode()

    def _parent(self) -> File:
        return self._above

    def _changed_ns(self) -> int:
        return 0

    def _items(self, snapshot: OfferedSnapshot) -> Sequence[Any]:
        return ()

    def _list(self, items: Sequence[Any]) -> list[tuple[bytes, Callable[[], File]]]:
        return []

    def _find(self, snapshot: OfferedSnapshot, name: bytes) -> File:
        raise Unknown("another process has it")


class ScoreDirectory(_Upper):
    """The directory of all trees by score."""

    __slots__ = ()

    def __init__(self, view: View) -> None:
        """Of a view."""
        super().__init__(view, token_of(view.files.token, b"\0", b"scores"))

    @property
    def name(self) -> bytes:
        """See `File`."""
        return _SCORES.encode()

    def _parent(self) -> File:
        return self.view.root

    def _changed_ns(self) -> int:
        return self.view.root._changed_ns()

    def _items(self, snapshot: OfferedSnapshot) -> Sequence[Offered]:
        return self.view.scores(snapshot)

    def _list(self, items: Sequence[Offered]) -> list[tuple[bytes, Callable[[], File]]]:
        root = self.view.files.listed
        return [(one.score, partial(root, one, self, one.score)) for one in items]

    def _find(self, snapshot: OfferedSnapshot, name: bytes) -> File:
        if len(name) != 64:
            raise Unknown("no such score")
        found = by_score(snapshot, name.decode("ascii", "replace"), self.view.allowed)
        return self.view.files.entered(found, self, name)
