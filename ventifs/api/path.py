"""Paths in a version: what is there, and what can be done with it.

Always: a version never changes, so what a path has once found stays true. A path is looked up when
it is first used, and then remembered. Names in archives are bytes; where they are text here, they
are decoded as UTF-8 with `surrogateescape`, as `os.fsdecode` does, and come back unchanged.

Concurrency: paths may be used from any thread, while their archive is open.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from ventifs.api.content_reader import ContentReader
from ventifs.buffer import Buffer
from ventifs.errors import VentifsError
from ventifs.text import printable
from ventifs.tree.objects.content import read
from ventifs.tree.objects.directory import NoSuchPath, entries, resolve, tree
from ventifs.tree.objects.records import Content, Device, Directory, Entry, RegularFile, Symlink
from ventifs.tree.versions.catalog import versions

if TYPE_CHECKING:
    from ventifs.api.results import HistoryStep
    from ventifs.api.version import ArchivedVersion
    from ventifs.tree.patterns import Patterns
    from ventifs.tree.process_pool import Pool
    from ventifs.tree.restore.directory_symlinks import Symlinks
    from ventifs.tree.restore.restored import Restored
    from ventifs.tree.tar.exporter import Exported
    from ventifs.tree.versions.diff import Change

    GivenPatterns = Patterns | Iterable[str | bytes]
    GivenSymlinks = Symlinks | Literal["trusted", "keep", "replace"]

AnyPath = str | bytes | os.PathLike[str]
BUFFER_SIZE_DEFAULT = 64 << 10  # bytes; a typical chunk
_ZEROS = bytes(1 << 20)


class NotARegularFile(VentifsError):
    """Something else was opened as a file."""


class NotADirectory(VentifsError):
    """Something else was listed as a directory."""


def as_bytes(path: AnyPath) -> bytes:
    """A path, or the text of a pattern, as bytes."""
    path = os.fspath(path)
    return path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")


def given_path(path: AnyPath) -> Path:
    """A path of this machine that was given, such as a destination.

    Raises:
        ValueError: it is empty, as an unset variable is; that would mean the working directory.
    """
    text = os.fsdecode(path)
    if not text:
        raise ValueError("an empty path; '.' is the working directory")
    return Path(text)


def as_patterns(given: "GivenPatterns") -> "Patterns":
    """Compiled gitignore patterns; one alone may be given as it is.

    Raises:
        VentifsError: naming the invalid pattern.
    """
    from ventifs.tree.patterns import Patterns

    if isinstance(given, Patterns):
        return given
    return Patterns(map(as_bytes, [given] if isinstance(given, str | bytes) else given))


class ArchivedPath:
    """A path in a version, whether or not there is anything.

    It is no path of this host, so it has no `__fspath__`. Symbolic links are never followed, and
    `..` is not understood. Everything but `/`, `name`, `parent` and the tests (`exists`, `is_dir`,
    `is_file`, `is_symlink`) raises `NoSuchPath` where there is nothing, `Corrupt` or `NotStored`
    where the archive is damaged, and `VentifsError` when the archive is closed.

    Attributes:
        version: the version.
        path: from the root, without a slash before it; empty for the root.
    """

    __slots__ = ("_above", "_entry", "path", "version")

    def __init__(
        self,
        version: "ArchivedVersion",
        path: bytes,
        entry: Entry | None = None,
        above: "ArchivedPath | None" = None,
    ) -> None:
        """Use `/`, `iterdir`, `walk`, or `Archive.path`."""
        self.version = version
        self.path = path
        self._entry = entry
        self._above = above  # a path that this one is below, from which it is looked up

    # --- paths --------------------------------------------------------------------------------

    def __truediv__(self, path: AnyPath) -> "ArchivedPath":
        """A path from here. A slash before it means nothing: it never leads out of this path."""
        names = [name for name in as_bytes(path).split(b"/") if name not in (b"", b".")]
        if not names:
            return self
        whole = b"/".join([self.path, *names] if self.path else names)
        return ArchivedPath(self.version, whole, None, self)

    @property
    def name(self) -> str:
        """The last name of the path; empty for the root."""
        return self.path.rpartition(b"/")[2].decode("utf-8", "surrogateescape")

    @property
    def parent(self) -> "ArchivedPath":
        """The directory that it is in; the root's is the root."""
        above = self.path.rpartition(b"/")[0]
        return self.version.root / above

    def __str__(self) -> str:
        """The path from the root, with a slash before it; as text, see the module."""
        return "/" + self.path.decode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.version}:/{printable(self.path)}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArchivedPath) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> "tuple[ArchivedVersion, bytes]":
        return self.version, self.path

    def _shown(self) -> str:
        return f"{self.version.called}:/{printable(self.path)}"

    # --- what is there ------------------------------------------------------------------------

    @property
    def entry(self) -> Entry:
        """All that is kept of it: mode, owner, time, size, attributes, content.

        Raises:
            NoSuchPath: naming the version as it was asked for, and the path that is not there.
        """
        if self._entry is None:
            start, above = self.version.stored.root, b""
            if self._above is not None and self._above._entry is not None:
                start, above = self._above._entry, self._above.path
            below = self.path[len(above) :]
            try:
                self._entry = resolve(
                    self.version.store, start, below, b"/" + above if above else b""
                )
            except NoSuchPath as error:
                raise NoSuchPath(f"{self.version.called}:{error}") from None
        return self._entry

    def exists(self) -> bool:
        """Whether there is anything, a dangling symbolic link included."""
        try:
            return self.entry is not None
        except NoSuchPath:
            return False

    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.exists() and isinstance(self.entry.detail, Directory)

    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.exists() and isinstance(self.entry.detail, RegularFile)

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self.exists() and isinstance(self.entry.detail, Symlink)

    @property
    def mode(self) -> int:
        """Type and permissions, as in st_mode; for the functions of `stat`."""
        return self.entry.mode

    @property
    def uid(self) -> int:
        """The owner's number."""
        return self.entry.uid

    @property
    def gid(self) -> int:
        """The group's number."""
        return self.entry.gid

    @property
    def mtime_ns(self) -> int:
        """When its content changed last: nanoseconds since 1970, negative before."""
        return self.entry.mtime_ns

    @property
    def size(self) -> int:
        """Bytes of a regular file, holes included; 0 for everything else."""
        return self.entry.size

    @property
    def device(self) -> tuple[int, int] | None:
        """Major and minor number of a device; None for everything else."""
        detail = self.entry.detail
        return (detail.major, detail.minor) if isinstance(detail, Device) else None

    def readlink(self) -> str:
        """The target of a symbolic link.

        Raises:
            VentifsError: it is something else.
        """
        detail = self.entry.detail
        if not isinstance(detail, Symlink):
            raise VentifsError(f"{self._shown()}: not a symbolic link")
        return detail.target.decode("utf-8", "surrogateescape")

    def xattrs(self) -> dict[bytes, bytes]:
        """Its extended attributes, access control lists included, by name."""
        from ventifs.tree.restore.metadata import xattrs_of

        return dict(xattrs_of(self.version.store, self.entry))

    # --- directories --------------------------------------------------------------------------

    def iterdir(self) -> Iterator["ArchivedPath"]:
        """What is in a directory, in the order of the bytes of the names.

        Raises:
            NotADirectory: it is something else.
        """
        prefix = self.path + b"/" if self.path else b""
        return (
            ArchivedPath(self.version, prefix + entry.name, entry)
            for entry in entries(self.version.store, self._names())
        )

    def walk(self) -> Iterator["ArchivedPath"]:
        """Everything below, each directory before what is in it; nothing if it is no directory."""
        version = self.version
        return (
            ArchivedPath(version, path, entry)
            for path, entry in tree(version.store, self.entry, self.path)
        )

    def scan(self, *, recursive: bool = False) -> Iterator[tuple[bytes, Entry]]:
        """What is in a directory, or everything below it, as records: for millions of names.

        Returns:
            (path from here, record), in the order of `iterdir` or `walk`.

        Raises:
            NotADirectory: it is something else.
        """
        store, content = self.version.store, self._names()
        if recursive:
            return self.version.keeping(tree(store, self.entry))
        return self.version.keeping((entry.name, entry) for entry in entries(store, content))

    def _names(self) -> Content:
        detail = self.entry.detail
        if not isinstance(detail, Directory):
            raise NotADirectory(f"{self._shown()}: {_instead(self.entry, 'a directory')}")
        return detail.content

    # --- files --------------------------------------------------------------------------------

    def open(self, *, buffer_size: int = BUFFER_SIZE_DEFAULT) -> io.BufferedReader:
        """Open a regular file to read its bytes. `io.TextIOWrapper` makes text of them.

        The file object is seekable, and reads holes as zeros. Its `raw` is unbuffered.

        Args:
            buffer_size: bytes that are read ahead.

        Raises:
            NotARegularFile: it is something else; symbolic links are not followed.
        """
        reader = ContentReader(self.version.store, self._content(), str(self), keeps=self.version)
        return io.BufferedReader(reader, buffer_size)

    def read_bytes(self) -> bytes:
        """All bytes of a regular file, in memory. Raises as `open`."""
        with self.open() as file:
            return file.read()

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """A regular file as text, in memory, with its newlines as they are. Raises as `open`."""
        return self.read_bytes().decode(encoding, errors)

    def pieces(self, offset: int = 0, length: int | None = None) -> Iterator[Buffer | int]:
        """A regular file, or a part of it, without copying: the quickest way to read it.

        Args:
            offset: of the first byte wanted, 0 or more; beyond the end there is nothing.
            length: how many bytes, 0 or more; None for the rest.

        Returns:
            Pieces of up to 1 MiB in order, none of them empty. An int is a hole of so many zeros.

        Raises:
            NotARegularFile: it is something else.
            ValueError: for a negative offset or length.
        """
        if offset < 0 or (length is not None and length < 0):
            raise ValueError("an offset or a length is negative")
        return self.version.keeping(read(self.version.store, self._content(), offset, length))

    def write_to(self, stream: BinaryIO) -> None:
        """Write a regular file to a stream whose `write` takes all bytes, as buffered ones do.

        Raises:
            NotARegularFile: it is something else.
        """
        for piece in self.pieces():
            if not isinstance(piece, int):
                stream.write(piece)
                continue
            while piece > 0:
                stream.write(_ZEROS[:piece])
                piece -= len(_ZEROS)  # noqa: PLW2901

    def _content(self) -> Content:
        detail = self.entry.detail
        if not isinstance(detail, RegularFile):
            raise NotARegularFile(f"{self._shown()}: {_instead(self.entry, 'a regular file')}")
        return detail.content

    # --- more than one ------------------------------------------------------------------------

    def diff(self, other: "ArchivedVersion | ArchivedPath") -> Iterator["Change"]:
        """What is different in `other`, in order of paths; only what differs is read.

        The path of a change is relative to both: empty for themselves.

        Raises:
            ValueError: `other` is in another archive.
        """
        from ventifs.tree.versions.diff import diff

        other = other if isinstance(other, ArchivedPath) else other.root
        store = self.version.store
        if not other.version.is_in(store):
            raise ValueError(f"{other.version} is in another archive than {self.version}")
        _ = other.version.store  # leases it
        found = diff(store, self.entry, other.entry)
        return self.version.keeping(other.version.keeping(found))

    def history(self) -> Iterator["HistoryStep"]:
        """In which versions of the name, up to this one, the path changed: the newest first.

        Raises:
            NoSuchPath: none of them has it.
        """
        from ventifs.api.results import HistoryStep
        from ventifs.api.version import ArchivedVersion
        from ventifs.tree.versions.history import history

        store, last = self.version.store, self.version.stored
        before = [each for each in versions(store, last.name) if each.time_ns < last.time_ns]
        for step in history(store, [*before, last], self.path):
            version = ArchivedVersion(store, step.version)
            yield HistoryStep(version, step.kind, step.entry, step.what)

    def restore(
        self,
        destination: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        symlinks: "GivenSymlinks" = "trusted",
        include: "GivenPatterns" = (),
        exclude: "GivenPatterns" = (),
        pool: "Pool | None" = None,
        progress: "Callable[[Restored, bytes], None] | None" = None,
    ) -> "Restored":
        """Bring a directory back into `destination`, or anything else as `destination`.

        What is damaged, in the way, or not allowed to this user is reported in the result and left
        out; everything else is restored.

        Args:
            destination: a new or empty directory, or the path of a file that is not there.
            overwrite: replace what is there; what is not archived stays.
            symlinks: with `overwrite`, which links to directories stay: "trusted", those that only
                root and this user can make or move; "keep", all that lead below the destination;
                "replace", none.
            include: gitignore patterns, relative to this path; only what they match is restored.
            exclude: of that, what is left out.
            pool: processes that work for this one; None works in this process alone. See
                `ventifs.tree.restore.file_maker.making`.
            progress: called now and then with what is done, and the path at hand.

        Returns:
            What was done: counts, and lists of what failed and what was left out.

        Raises:
            VentifsError: the destination is occupied, or cannot be written.
            NoSpace: its disk is full. What was restored stays.
        """
        from ventifs.tree.restore.directory_symlinks import Symlinks
        from ventifs.tree.restore.restorer import Restorer
        from ventifs.tree.restore.selection import Selection

        return Restorer(
            self.version.store,
            pool=pool,
            overwrite=overwrite,
            symlinks=Symlinks(symlinks),
            selection=Selection(as_patterns(include), as_patterns(exclude)),
            progress=progress,
        ).run(self.entry, given_path(destination))

    def export(
        self,
        stream: BinaryIO,
        *,
        progress: "Callable[[Exported, bytes], None] | None" = None,
    ) -> "Exported":
        """Write it as a POSIX tar, to a stream whose `write` takes all bytes.

        A directory becomes `./` with all below it, anything else `./` and its name.

        Returns:
            What was done. Sockets are left out, and listed.
        """
        from ventifs.tree.tar.exporter import Exporter

        exporter = Exporter(self.version.store, stream.write, progress=progress)
        return exporter.run(self.entry, self.path.rpartition(b"/")[2])


def _instead(entry: Entry, wanted: str) -> str:
    """What an entry is, where something else is wanted."""
    match entry.detail:
        case Symlink():
            return "a symbolic link, which is not followed"
        case Directory():
            kind = "a directory"
        case RegularFile():
            kind = "a regular file"
        case Device():
            kind = "a device"
        case _:
            kind = "a FIFO or socket"
    return f"{kind}, not {wanted}"
