"""Stores for tests: small arenas, made-up blocks, and checks."""

import random
from collections.abc import Iterable
from pathlib import Path

from ventifs.store import Score, Store
from ventifs.store.audit import audit
from ventifs.store.check import check
from ventifs.store.findings import Finding
from ventifs.store.header import read_header
from ventifs.store.index import Index
from ventifs.store.lmdb_environment import IndexDamaged, IndexMissing

SMALL_ARENA = 4 << 20


def new_store(root: Path, *, arena_size: int = SMALL_ARENA) -> Path:
    """Create a store at `root`; return its path."""
    Store.create(root, arena_size=arena_size)
    return root


def some_blocks(count: int, *, seed: int = 0, size_max: int = 40_000) -> list[bytes]:
    """Different blocks, half of each compressible, none ending in zero."""
    rng = random.Random(seed)
    blocks = []
    for number in range(count):
        size = rng.randint(16, size_max)
        head = b"%d %d " % (seed, number) + rng.randbytes(size // 2)
        blocks.append((head + b"ventifs " * (size // 8 + 1))[:size] + b".")
    return blocks


def put_all(store: Store, blocks: Iterable[bytes]) -> list[Score]:
    """Put blocks; return their scores."""
    return [store.put(block)[0] for block in blocks]


def findings(root: Path, *, read_data: bool = True) -> list[Finding]:
    """The harmful findings of a check, without its child process, which costs a tenth of a second.

    The child is for an index that may kill its reader. Here it is for one that cannot be opened.
    """
    header = read_header(root)
    try:
        index = Index(root / "index", header.store_id)
    except (IndexDamaged, IndexMissing):
        report = check(root, read_data=read_data)
    else:
        try:
            report = audit(root, header, index=index, read_data=read_data, jobs=1)
        finally:
            index.close()
    return [finding for finding in report.findings if not finding.harmless]
