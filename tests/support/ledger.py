"""A ledger of what writers tried and what the store acknowledged, which survives a kill.

Lines are appended with one write(2) before a commit and one after it. A record holds the recipe of
every block that its commit relies on, so that a reader of the record can check that all its blocks
are in the store.
"""

import json
import os
import random
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from ventifs.store import Score, Store, score_of
from ventifs.store.arena import Arena
from ventifs.store.audit import audit
from ventifs.store.findings import Report
from ventifs.store.header import read_header
from ventifs.store.index import Index
from ventifs.store.journal import Record

Recipe = tuple[int, int]  # seed, size


@lru_cache(maxsize=4096)
def made(recipe: Recipe) -> tuple[Score, bytes]:
    """The block of a recipe and its score; large ones cannot be compressed."""
    seed, size = recipe
    chance = size // 2 + 1 if size < 100_000 else size - 1
    block = random.Random(seed).randbytes(chance).ljust(size - 1, b"v") + b"."
    return score_of(block), block


def encoded(recipes: Iterable[Recipe]) -> bytes:
    """A record's value."""
    return json.dumps(list(recipes)).encode()


class Ledger:
    """The writing side."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, word: str, keys: Iterable[bytes]) -> None:
        lines = [f"{word} {key.hex()}\n" for key in keys]
        if lines:
            os.write(self._fd, "".join(lines).encode())

    def commit(
        self, store: Store, puts: dict[bytes, list[Recipe]], deletes: Iterable[Record] = ()
    ) -> list[Record]:
        """Commit; write down the attempt before, and the success after."""
        deletes = list(deletes)
        doomed = [record.key for record in deletes]
        self._write("doom", doomed)
        self._write("try", puts)
        records = store.commit([(key, encoded(value)) for key, value in puts.items()], deletes)
        self._write("put", puts)
        self._write("gone", doomed)
        return records


def put_recipes(store: Store, recipes: Iterable[Recipe]) -> None:
    """Put the blocks; every third seed is a node's."""
    for recipe in recipes:
        score, _ = store.put(made(recipe)[1], node=recipe[0] % 3 == 0)
        assert score == made(recipe)[0]


def _events(path: Path) -> dict[str, set[bytes]]:
    events: dict[str, set[bytes]] = {word: set() for word in ("try", "put", "doom", "gone")}
    text = path.read_text() if path.exists() else ""
    for line in text.split("\n")[:-1]:  # a line without a newline is still being written
        word, key = line.split()
        events[word].add(bytes.fromhex(key))
    return events


def acknowledged(path: Path) -> int:
    """How many records were acknowledged."""
    return len(_events(path)["put"])


def assert_kept(store: Store, path: Path) -> None:
    """Check that all acknowledged records, none that was not tried, and their blocks are there."""
    events = _events(path)
    records = store.records()
    visible = {record.key for record in records}
    assert len(visible) == len(records), "a record is there twice"
    assert events["put"] - events["doom"] <= visible, "an acknowledged record is gone"
    assert visible <= events["try"] - events["gone"], "a record is there that should not be"
    for record in records:
        for seed, size in json.loads(record.value):
            score, block = made((seed, size))
            assert store.get(score) == block


def audited(root: Path) -> Report:
    """A full audit in this process; it must find nothing that does harm."""
    header = read_header(root)
    index = Index(root / "index", header.store_id)
    try:
        report = audit(root, header, index=index, read_data=True, jobs=1)
    finally:
        index.close()
    assert [finding for finding in report.findings if not finding.harmless] == []
    return report


def assert_whole(root: Path, path: Path, *, alone: bool = True) -> None:
    """Open the store for writing, and check that all is there and that it can be written.

    Args:
        root: the store.
        path: its ledger.
        alone: no other process has it open, and no two wrote at once: figures must agree.
    """
    ledger = Ledger(path)
    with Store.open(root, "write") as store:
        assert_kept(store, path)
        recipe = (random.randrange(1 << 40), 5_000)
        put_recipes(store, [recipe])
        ledger.commit(store, {b"reopened %d" % recipe[0]: [recipe]})
        assert_kept(store, path)
    ledger.close()
    report = audited(root)
    if alone:
        with Store.open(root) as store:
            assert store.stats().blocks == report.summary.blocks
        for arena in (root / "arenas/open").glob("*.arena"):
            assert Arena.open(arena).trailer() is None, "a sealed arena was not moved"
