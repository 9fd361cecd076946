"""Entries in any order, gathered on disk, and the directories that are built of them.

A temporary SQLite database holds one row a path. Its key is the path
with NUL between the names, so that rows in order of their keys are the tree in pre-order, names in
order of their bytes, and a tree of any size is built with a node a level in memory.

Whatever is no directory takes the place of all that was below its path until then: a row keeps
`cut`, the last time its path was none, and what is older below it is dropped in the end.
"""

import sqlite3
import stat
from collections.abc import Iterator
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
_SCHEMA = """
    CREATE TABLE entry (key BLOB PRIMARY KEY, time INTEGER NOT NULL, cut INTEGER NOT NULL,
                        file INTEGER NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE link (file INTEGER PRIMARY KEY, names INTEGER NOT NULL DEFAULT 0, least BLOB);
"""
_PUT = """
    INSERT INTO entry VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
        time = max(time, excluded.time), cut = max(cut, excluded.cut),
        file = iif(excluded.time > time, excluded.file, file),
        record = iif(excluded.time > time, excluded.record, record)
"""
_NAME = """
    UPDATE link SET names = names + 1, least = min(ifnull(least, ?1), ?1) WHERE file = ?2
"""
_IMPLIED = Entry(b"", stat.S_IFDIR | 0o755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")


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


class Gathered:
    """The gathered entries."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """Use a database of our schema."""
        self._database = database
        self._time = 0

    def reserve(self) -> int:
        """A moment for an entry that is put later, though it is at its path from now on."""
        self._time += 1
        return self._time

    def put(self, key: Key, entry: Entry, file: int | None = None, time: int | None = None) -> None:
        """An entry that is at a path now, or since a `time` that was reserved.

        `file` tells which it is another name of, if any: a number that `find` has given, or minus a
        time that was reserved for it. Directories come without content; their children need not
        come after them.
        """
        time = self.reserve() if time is None else time
        cut = 0 if entry.is_directory else time
        row = (key, time, cut, time if file is None else file, encode(entry))
        self._database.execute(_PUT, row)
        if file is not None:
            self._database.execute("INSERT OR IGNORE INTO link (file) VALUES (?)", (file,))

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
        names: list[bytes] = []  # of the open directories, but for the root
        frames = [_Frame(_IMPLIED, Builder(put))]
        for key, record, name_count, least in self._database.execute(
            "SELECT key, record, names, least FROM entry LEFT JOIN link USING (file) ORDER BY key"
        ):
            entry = own_entry(record)
            if not key:
                frames[0].entry = entry
                continue
            *parents, name = key.split(b"\0")
            shared = _shared(names, parents)
            while len(names) > shared:
                _close(frames)
                names.pop()
            for parent in parents[shared:]:
                frames.append(_Frame(msgspec.structs.replace(_IMPLIED, name=parent), Builder(put)))
                names.append(parent)
            if entry.is_directory:
                frames.append(_Frame(entry, Builder(put)))
                names.append(name)
            else:
                linked = name_count is not None and name_count > 1
                data = (
                    encode(msgspec.structs.replace(entry, link=link_id(least)))
                    if linked
                    else record
                )
                _add(frames[-1], name, data, 0, entry.size)
        while names:
            _close(frames)
            names.pop()
        return _closed(frames[0])


def path_of(key: Key) -> bytes:
    """The path, as people write it."""
    return key.replace(b"\0", b"/")


def _is_below(key: Key, above: Key) -> bool:
    return key.startswith(above) and key[len(above) : len(above) + 1] == b"\0"


def _shared(names: list[bytes], others: list[bytes]) -> int:
    """How many names two paths begin with in common."""
    for at, (name, other) in enumerate(zip(names, others, strict=False)):
        if name != other:
            return at
    return min(len(names), len(others))


def _close(frames: list[_Frame]) -> None:
    """All below the last directory is known: it is an entry of the one above."""
    frame = frames.pop()
    entry = _closed(frame)
    _add(frames[-1], entry.name, encode(entry), frame.paths, frame.total)


def _add(frame: _Frame, name: bytes, record: bytes, paths: int, total: int) -> None:
    frame.builder.add(record, key=name)
    frame.paths += paths + 1
    frame.total += total


def _closed(frame: _Frame) -> Entry:
    if frame.total > LENGTH_MAX:
        raise BadTar("the sizes of the files sum up to more than there can be")
    builder = frame.builder
    content: Content = Tree(builder.finish(), builder.count) if builder.count else Empty()
    detail = Directory(content, frame.paths, frame.total)
    return msgspec.structs.replace(frame.entry, detail=detail)
