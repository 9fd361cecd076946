"""Entries in any order, gathered on disk, and the directories that are built of them.

A temporary SQLite database holds one row a path. Its key is the path
with NUL between the names, so that rows in order of their keys are the tree in pre-order, names in
order of their bytes, and a tree of any size is built with a node a level in memory.

Whatever is no directory takes the place of all that was below its path until then: a row keeps
`cut`, the last time its path was none, and what is older below it is dropped in the end. Rows may
be put in any order; their times say what came before what.
"""

import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from ventifs.tree.links import link_id
from ventifs.tree.live import Trouble
from ventifs.tree.prolly import Builder, Put
from ventifs.tree.records import (
    LENGTH_MAX,
    Content,
    Directory,
    Empty,
    Entry,
    Tree,
    decode_entry,
    encode,
    own_entry,
)
from ventifs.tree.temporary import temporary_database
from ventifs.tree.unpack import BadTar

Key = bytes  # a path, with NUL between its names
Row = tuple[Key, int, int, int, int, bytes]
"""Key; time it was put; the same again unless it is a directory, else 0; what tells its file; bytes
of a regular file; encoded entry."""

_SCHEMA = """
    CREATE TABLE entry (key BLOB PRIMARY KEY, time INTEGER NOT NULL, cut INTEGER NOT NULL,
                        file INTEGER NOT NULL, size INTEGER NOT NULL, record BLOB NOT NULL)
        WITHOUT ROWID;
    CREATE TABLE link (file INTEGER PRIMARY KEY, names INTEGER NOT NULL DEFAULT 0, least BLOB);
"""
_PUT = """
    INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
        time = max(time, excluded.time), cut = max(cut, excluded.cut),
        file = iif(excluded.time > time, excluded.file, file),
        size = iif(excluded.time > time, excluded.size, size),
        record = iif(excluded.time > time, excluded.record, record)
"""
_NAME = """
    UPDATE link SET names = names + 1, least = min(ifnull(least, ?1), ?1) WHERE file = ?2
"""
_BELOW = """
    SELECT EXISTS (SELECT 1 FROM entry AS above JOIN entry AS below
                   ON below.key > CAST(above.key || x'00' AS BLOB)
                   AND below.key < CAST(above.key || x'01' AS BLOB) WHERE above.cut != 0)
"""
_IMPLIED = Entry(b"", stat.S_IFDIR | 0o755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")


TOO_LARGE = "the sizes of all files sum up to more than there can be"


class _Frame(msgspec.Struct):
    """A directory on the way: its own entry, and what is below it so far."""

    entry: Entry
    builder: Builder
    paths: int = 0
    total: int = 0  # bytes of regular files


class _Above(msgspec.Struct):
    """A row with rows below it, in the pass that drops what is not there in the end.

    Attributes:
        length: of its key.
        cut: what is older, below it, is dropped.
        barred: whether it is no directory, so that nothing can be below it.
    """

    length: int
    cut: int
    barred: bool


@contextmanager
def gather() -> "Iterator[Gathered]":
    """A place for the entries of one archive."""
    with temporary_database(_SCHEMA) as database:
        yield Gathered(database)


def row_of(key: Key, entry: Entry, time: int, file: int | None = None) -> Row:
    """An entry that is at a path since a time; `file` as for `Gathered.put`."""
    return (
        key,
        time,
        0 if entry.is_directory else time,
        time if file is None else file,
        entry.size,
        encode(entry),
    )


class Gathered:
    """The gathered entries."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """Use a database of our schema."""
        self._database = database
        self._time = 0  # the latest
        self._count = 0  # of rows that were put

    def put(self, key: Key, entry: Entry, file: int | None = None) -> None:
        """An entry that is at a path now.

        `file` tells which it is another name of, if any: a number that `find` has given, or one
        below 0 for a file whose names have it in common. Directories come without content; their
        children need not come after them.
        """
        self.put_rows([row_of(key, entry, self._time + 1, file)])

    def put_rows(self, rows: Sequence[Row]) -> None:
        """Entries that are at their paths since the times of their rows, no two the same."""
        if not rows:
            return
        self._database.executemany(_PUT, rows)
        self._count += len(rows)
        self._time = max(self._time, rows[-1][1])
        linked = [(row[3],) for row in rows if row[3] != row[1]]
        if linked:
            self._database.executemany("INSERT OR IGNORE INTO link (file) VALUES (?)", linked)

    @property
    def size(self) -> int:
        """The sum of the sizes of all regular files, each of their names counted."""
        sizes = self._database.execute("SELECT size FROM entry WHERE size")
        return sum(size for (size,) in sizes)  # SQLite's own sum has 63 bits

    def limit(self, size: int) -> Iterator[Trouble]:
        """Leave out whatever regular files take the sum of all sizes over `size`."""
        over: list[Key] = []
        for key, each in self._database.execute("SELECT key, size FROM entry ORDER BY time"):
            if each > size:
                over.append(key)
            else:
                size -= each
        self._database.executemany("DELETE FROM entry WHERE key = ?", [(key,) for key in over])
        for key in over:
            yield Trouble(path_of(key), TOO_LARGE, missing=True)

    def find(self, key: Key) -> tuple[Entry, int] | None:
        """What is at a path now, and its file's number; never a directory."""
        row = self._database.execute(
            "SELECT time, cut, file, record FROM entry WHERE key = ?", (key,)
        ).fetchone()
        if row is None or row[0] != row[1]:
            return None
        at = key.rfind(b"\0")
        while at > 0:
            above = self._database.execute(
                "SELECT time, cut FROM entry WHERE key = ?", (key[:at],)
            ).fetchone()
            if above is not None and (above[1] > row[0] or above[0] == above[1]):
                return None
            at = key.rfind(b"\0", 0, at)
        return decode_entry(row[3]), row[2]

    def prune(self) -> Iterator[Trouble]:
        """Drop what is not there in the end, and count the names of each file."""
        execute = self._database.execute
        (count,) = execute("SELECT count(*) FROM entry").fetchone()
        (below,) = execute(_BELOW).fetchone()
        if count < self._count or below:
            yield from self._dropped()
            return
        for key, file in execute("SELECT key, file FROM entry JOIN link USING (file)").fetchall():
            execute(_NAME, (path_of(key), file))

    def _dropped(self) -> Iterator[Trouble]:
        above: list[_Above] = []
        last = b""
        for key, time, cut, file, names in self._database.execute(
            "SELECT key, time, cut, file, names FROM entry LEFT JOIN link USING (file) "
            "WHERE key != x'' ORDER BY key"
        ):
            while above and not _is_below(key, last[: above[-1].length]):
                above.pop()
            older, barred = (above[-1].cut, above[-1].barred) if above else (0, False)
            dropped = time < older
            if dropped or barred:
                self._database.execute("DELETE FROM entry WHERE key = ?", (key,))
                if not dropped:
                    yield Trouble(path_of(key), "is below what is no directory", missing=True)
            elif names is not None:
                self._database.execute(_NAME, (path_of(key), file))
            above.append(_Above(len(key), max(cut, older), barred or (time == cut and not dropped)))
            last = key

    def build(self, put: Put) -> Entry:
        """Store all directories, after `prune`; the root's entry.

        Raises:
            BadTar: when their sizes sum up to more than there can be.
        """
        # Hot: 4 us a row.
        frames = [_Frame(_IMPLIED, Builder(put))]
        here = b""  # the key of the last of them
        for key, directory, size, record, names, least in self._database.execute(
            "SELECT key, time != cut, size, record, names, least "
            "FROM entry LEFT JOIN link USING (file) ORDER BY key"
        ):
            above, _, name = key.rpartition(b"\0")
            if above != here:
                _move(frames, here, above, put)
                here = above
            frame = frames[-1]
            if not key:
                frame.entry = own_entry(record)
            elif directory:
                frames.append(_Frame(own_entry(record), Builder(put)))
                here = key
            else:
                linked = names is not None and names > 1
                frame.builder.add(_linked(record, least) if linked else record, key=name)
                frame.paths += 1
                frame.total += size
        _move(frames, here, b"", put)
        return _closed(frames[0])


def path_of(key: Key) -> bytes:
    """The path, as people write it."""
    return key.replace(b"\0", b"/")


def _is_below(key: Key, above: Key) -> bool:
    return key.startswith(above) and key[len(above) : len(above) + 1] == b"\0"


def _linked(record: bytes, least: bytes) -> bytes:
    return encode(msgspec.structs.replace(own_entry(record), link=link_id(least)))


def _move(frames: list[_Frame], here: Key, to: Key, put: Put) -> None:
    """Close directories, and open those that no row speaks of, to get from one to another."""
    names, wanted = _names(here), _names(to)
    shared = 0
    while shared < min(len(names), len(wanted)) and names[shared] == wanted[shared]:
        shared += 1
    for _ in names[shared:]:
        _close(frames)
    for name in wanted[shared:]:
        frames.append(_Frame(msgspec.structs.replace(_IMPLIED, name=name), Builder(put)))


def _names(key: Key) -> list[bytes]:
    return key.split(b"\0") if key else []


def _close(frames: list[_Frame]) -> None:
    """All below the last directory is known: it is an entry of the one above."""
    frame = frames.pop()
    entry, above = _closed(frame), frames[-1]
    above.builder.add(encode(entry), key=entry.name)
    above.paths += frame.paths + 1
    above.total += frame.total


def _closed(frame: _Frame) -> Entry:
    if frame.total > LENGTH_MAX:
        raise BadTar(TOO_LARGE)
    builder = frame.builder
    content: Content = Tree(builder.finish(), builder.count) if builder.count else Empty()
    detail = Directory(content, frame.paths, frame.total)
    return msgspec.structs.replace(frame.entry, detail=detail)
