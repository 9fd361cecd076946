"""Keeps the nodes of a disk's content readable for the run that makes them.

A store that only rehearses keeps no blocks. Then the nodes are kept in a temporary database.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ventifs.store import Score, Store
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.prolly import Get, Put
from ventifs.tree.temp_database import temporary_database

_SCHEMA = "CREATE TABLE node (score BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;"


@contextmanager
def readable_nodes(store: Store, writer: ContentWriter) -> Iterator[tuple[Get, Put]]:
    """Functions to get and to put nodes; they are put by `writer`, into `store`."""
    if store.mode != "rehearse":
        yield store.get, writer.put_node
        return
    with temporary_database(_SCHEMA) as database:

        def put(data: bytes) -> Score:
            score = writer.put_node(data)
            database.execute("INSERT OR IGNORE INTO node VALUES (?, ?)", (score, data))
            return score

        def get(score: Score) -> memoryview:
            row = database.execute("SELECT data FROM node WHERE score = ?", (score,)).fetchone()
            return store.get(score) if row is None else memoryview(row[0])

        yield get, put
