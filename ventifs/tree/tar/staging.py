"""Gathers entries on disk, in any order, and builds directories from them.

A temporary SQLite database holds one row for each path, with the key that `tree_builder` expects.

An entry that is no directory replaces everything that was below its path until then. For that, a
row keeps `cut`, the last time at which its path was no directory; `prune` drops older rows below.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from ventifs.tree.archive.file_reader import Trouble
from ventifs.tree.objects.prolly import Put
from ventifs.tree.objects.records import Entry, decode_entry, encode
from ventifs.tree.objects.tree_builder import EntryRow, Key, build_tree, path_of, with_link
from ventifs.tree.temp_database import temporary_database

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


class _Above(msgspec.Struct):
    """A row above the current one, in the pass that drops replaced rows.

    Attributes:
        length: of its key.
        cut: rows below it that are older are dropped.
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
        """Use a database of this module's schema."""
        self._database = database
        self._time = 0  # counts the calls of `put`

    def put(self, key: Key, entry: Entry, file: int | None = None) -> None:
        """Put an entry at a path, in place of an earlier one.

        `file` is the number of the file that this is a name of, if the file may have several: a
        number that `find` returned, or one below 0 that all its names share. Directories come
        without content; their children need not come after them.
        """
        self._time += 1
        time = self._time
        cut = 0 if entry.is_directory else time
        row = (key, time, cut, time if file is None else file, entry.size, encode(entry))
        self._database.execute(_PUT, row)
        if file is not None:
            self._database.execute("INSERT OR IGNORE INTO link (file) VALUES (?)", (file,))

    def find(self, key: Key) -> tuple[Entry, int] | None:
        """The entry at a path now, and its file's number; None for nothing, or a directory."""
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
        """Drop entries that were replaced, and count the names of each file."""
        execute = self._database.execute
        (count,) = execute("SELECT count(*) FROM entry").fetchone()
        (below,) = execute(_BELOW).fetchone()
        if count < self._time or below:
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
        """Store all directories, after `prune`; return the root's entry."""
        rows = self._database.execute(
            "SELECT key, time != cut, size, record, names, least "
            "FROM entry LEFT JOIN link USING (file) ORDER BY key"
        )
        return build_tree(map(_row, rows), put)


def _row(row: tuple[Key, int, int, bytes, int | None, bytes]) -> EntryRow:
    key, directory, size, record, names, least = row
    linked = names is not None and names > 1
    return key, bool(directory), size, with_link(record, least) if linked else record


def _is_below(key: Key, above: Key) -> bool:
    return key.startswith(above) and key[len(above) : len(above) + 1] == b"\0"
