"""Exports a version as a POSIX tar stream, which GNU tar and bsdtar unpack to the same tree.

Members come in the tree's order, each directory before what it holds, so the same entry always
gives the same bytes. The first name of a hard-linked file carries the content; an entry that only
claims to be another name of it gets its own. Files with holes become sparse members of GNU's format
1.0. A tar cannot hold sockets; they are left out and reported.
"""

import sqlite3
import stat
from collections.abc import Callable, Iterator

import msgspec

from ventifs.store import Score, Store
from ventifs.tree.archive.hardlinks import claim_of
from ventifs.tree.objects.content import read
from ventifs.tree.objects.directory import tree
from ventifs.tree.objects.prolly import walk
from ventifs.tree.objects.records import (
    Content,
    Device,
    Directory,
    Entry,
    Hole,
    RegularFile,
    Symlink,
    Tree,
    decode_item,
    length_of,
    weigh_item,
)
from ventifs.tree.restore.metadata import xattrs_of
from ventifs.tree.tar.pax_xattrs import records_of
from ventifs.tree.tar.ustar import BLOCK, END_SIZE, UstarHeader
from ventifs.tree.temp_database import temporary_database

_LINK = b"1"
_TYPES = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_SCHEMA = "CREATE TABLE first (claim BLOB PRIMARY KEY, name BLOB NOT NULL) WITHOUT ROWID;"
_ZEROS = bytes(1 << 20)

Write = Callable[[bytes | memoryview], object]
ExportProgress = Callable[["Exported", bytes], None]


class Exported(msgspec.Struct):
    """What an export has done so far.

    Attributes:
        entries: members written.
        size: bytes of regular files, holes included.
        left: (path, what was left out).
    """

    entries: int = 0
    size: int = 0
    left: list[tuple[bytes, str]] = []


class Exporter:
    """One export. Not to be used twice."""

    def __init__(
        self, store: Store, write: Write, *, progress: ExportProgress | None = None
    ) -> None:
        """Export from `store`; `write` must take all the bytes it gets."""
        self.done = Exported()
        self._store = store
        self._write = write
        self._progress = progress
        self._written = 0

    def run(self, entry: Entry, name: bytes = b"") -> Exported:
        """Export a directory as `./`, with all below it; or anything else as `./` and its name.

        Raises:
            Corrupt, NotStored: where the archive is damaged.
        """
        with temporary_database(_SCHEMA) as database:
            self._member(entry, b"" if isinstance(entry.detail, Directory) else name, database)
            for path, child in tree(self._store, entry):
                self._member(child, path, database)
        end = 2 * BLOCK
        self._put(bytes(end + -(self._written + end) % END_SIZE))
        return self.done

    def _member(self, entry: Entry, path: bytes, database: sqlite3.Connection) -> None:
        letter = _TYPES.get(stat.S_IFMT(entry.mode))
        if letter is None:
            self.done.left.append((path, "a socket, which a tar cannot hold"))
            return
        header = UstarHeader(
            letter, b"./" + path, stat.S_IMODE(entry.mode), entry.uid, entry.gid, entry.mtime_ns
        )
        first = _first(database, entry, header.name) if entry.link else header.name
        if first != header.name:
            header.type, header.target = _LINK, first
            self._put(header.encode())
        else:
            header.records = list(records_of(xattrs_of(self._store, entry)))
            self._body(entry, header)
        self.done.entries += 1
        self.done.size += entry.size
        if self._progress is not None:
            self._progress(self.done, path)

    def _body(self, entry: Entry, header: UstarHeader) -> None:
        match entry.detail:
            case RegularFile(Tree() as content) if self._has_holes(content):
                self._sparse(content, header)
                return
            case RegularFile(content):
                header.size = length_of(content)
                self._put(header.encode())
                self._data(content, 0, header.size)
                self._pad(header.size)
                return
            case Directory():
                header.name += b"/" if header.name != b"./" else b""
            case Symlink(target):
                header.target = target
            case Device(major, minor):
                header.device = (major, minor)
        self._put(header.encode())

    def _sparse(self, content: Tree, header: UstarHeader) -> None:
        """Write a file with holes: the map of its data, then the data."""
        count = stored = lines = 0
        for offset, length in self._extents(content):
            count, stored = count + 1, stored + length
            lines += len(_line(offset, length))
        first = b"%d\n" % count
        map_size = len(first) + lines
        header.records[:0] = [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.realsize", b"%d" % content.length),
        ]
        header.size = map_size + -map_size % BLOCK + stored
        self._put(header.encode())
        self._put(first)
        for offset, length in self._extents(content):
            self._put(_line(offset, length))
        self._pad(map_size)
        for offset, length in self._extents(content):
            self._data(content, offset, length)
        self._pad(stored)

    def _has_holes(self, content: Tree) -> bool:
        return sum(length for _, length in self._extents(content)) < content.length

    def _extents(self, content: Tree) -> Iterator[tuple[int, int]]:
        """(offset, length) of the data between holes; after a hole at the end, an empty one."""
        start = at = 0
        items = walk(self._store.get, Score(content.score), 0, weigh_item, content.length)
        for _, data in items:
            item = decode_item(data)
            if isinstance(item, Hole):
                if at > start:
                    yield start, at - start
                start = at + item.length
            at += item.length
        yield start, at - start

    def _data(self, content: Content, offset: int, length: int) -> None:
        for piece in read(self._store, content, offset, length):
            if not isinstance(piece, int):
                self._put(piece)
                continue
            for at in range(0, piece, len(_ZEROS)):
                self._put(_ZEROS[: piece - at])

    def _pad(self, size: int) -> None:
        self._put(bytes(-size % BLOCK))

    def _put(self, data: bytes | memoryview) -> None:
        self._written += len(data)
        self._write(data)


def _first(database: sqlite3.Connection, entry: Entry, name: bytes) -> bytes:
    """The name of the first member of a hard-linked file; `name` if there was none yet."""
    claim = claim_of(entry)
    database.execute("INSERT OR IGNORE INTO first VALUES (?, ?)", (claim, name))
    found: tuple[bytes] = database.execute(
        "SELECT name FROM first WHERE claim = ?", (claim,)
    ).fetchone()
    return found[0]


def _line(offset: int, length: int) -> bytes:
    return b"%d\n%d\n" % (offset, length)
