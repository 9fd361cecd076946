"""A database on disk for one piece of work, so that memory does not grow with what is archived.

SQLite makes the file in the temporary directory, without a name, and removes it.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from ventifs.errors import VentifsError

_SETTINGS = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -16384;
"""


@contextmanager
def temporary_database(schema: str) -> Iterator[sqlite3.Connection]:
    """An empty database of that schema, in one transaction that never ends.

    Raises:
        VentifsError: for whatever SQLite raises in the meantime; in practice, a full disk.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        try:
            database.executescript(f"{_SETTINGS}{schema}BEGIN;")
            yield database
        except sqlite3.Error as error:
            raise VentifsError(
                f"temporary database: {error}; make room for it, or name another directory for "
                "it in SQLITE_TMPDIR"
            ) from error
