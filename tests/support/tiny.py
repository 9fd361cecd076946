"""Stores with arenas below the smallest allowed size, so that tests seal them quickly."""

import random
from pathlib import Path

import pytest

from ventifs.store import Store
from ventifs.store.audit import audit
from ventifs.store.files import Files
from ventifs.store.findings import Report
from ventifs.store.header import read_header
from ventifs.store.index import Index
from ventifs.store.permissions import PRIVATE, Access

TINY_ARENA = 512 << 10


def tiny_store(
    root: Path,
    *,
    arena_size: int = TINY_ARENA,
    access: Access = PRIVATE,
    files: Files | None = None,
) -> Path:
    """Create a store at `root` that seals arenas at `arena_size` bytes; return its path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ventifs.store.store.ARENA_SIZE_MIN", 1)
        Store.create(root, arena_size=arena_size, access=access, files=files or Files())
    return root


def audited(root: Path, *, indexed: bool = True) -> Report:
    """The report of `check` with `read_data`, without its child process."""
    header = read_header(root)
    index = Index(root / "index", header.store_id) if indexed else None
    try:
        return audit(root, header, index=index, read_data=True, jobs=1)
    finally:
        if index is not None:
            index.close()


def made_up_blocks(count: int, *, seed: int = 0, size_max: int = 9000) -> list[bytes]:
    """Different blocks, half of each compressible, none ending in zero."""
    rng = random.Random(seed)
    sizes = [rng.randint(16, size_max) for _ in range(count)]
    return [
        b"%d %d " % (seed, number) + rng.randbytes(size // 2) + b"ventifs " * (size // 16) + b"."
        for number, size in enumerate(sizes)
    ]
