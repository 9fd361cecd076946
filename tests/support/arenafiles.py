"""Arenas for tests of the layers below `Store`: made by an `Appender`, or byte by byte."""

import random
from collections.abc import Sequence
from pathlib import Path

import zstandard

from ventifs.store.appender import Appender
from ventifs.store.arena import Arena
from ventifs.store.arenas import Arenas
from ventifs.store.clump import ClumpKind, encode, pack
from ventifs.store.files import Files
from ventifs.store.score import Score, score_of

STORE_ID = bytes(range(16))
COMPRESSOR = zstandard.ZstdCompressor(level=1)
DECOMPRESSOR = zstandard.ZstdDecompressor()


def new_arenas(root: Path) -> Arenas:
    """The directories of a store without a store around them."""
    for name in ("open", "sealed"):
        (root / "arenas" / name).mkdir(parents=True)
    return Arenas(root, STORE_ID)


def new_appender(root: Path, files: Files | None = None) -> Appender:
    """An appender to the first arena of a new set of directories."""
    return Appender.create(new_arenas(root), files or Files())


def append(appender: Appender, *blocks: bytes, kind: ClumpKind = ClumpKind.DATA) -> int:
    """Append one clump of blocks (or, for the journal's kinds, of bytes); its offset."""
    return appender.append(kind, _listed(kind, blocks), pack(b"".join(blocks), COMPRESSOR))


def clump_bytes(
    arena: bytes, offset: int, *blocks: bytes, kind: ClumpKind = ClumpKind.DATA
) -> bytes:
    """A whole clump as it would stand at one place."""
    packed = pack(b"".join(blocks), COMPRESSOR)
    head = encode(kind, _listed(kind, blocks), packed, arena=arena, offset=offset)
    return head.listed + bytes(packed.payload)


def _listed(kind: ClumpKind, blocks: Sequence[bytes]) -> list[tuple[Score, int]]:
    if kind not in (ClumpKind.DATA, ClumpKind.NODE):
        return []
    return [(score_of(block), len(block)) for block in blocks]


def incompressible(size: int, *, seed: int = 0) -> bytes:
    """A block that does not compress and does not end in zero."""
    return random.Random(seed).randbytes(size - 1) + b"."


def reading(appender: Appender) -> Arena:
    """The arena that an appender writes, opened as its readers do."""
    return Arena.open(appender.path)
