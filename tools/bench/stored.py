"""Reads a version's file from a store: as the slices that a server sends, and as clumps."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import zstandard
from blake3 import blake3

from ventifs.store import Score, Store
from ventifs.store.arenas import Arenas
from ventifs.store.clump import ClumpKind, Head, decompress
from ventifs.store.header import read_header
from ventifs.store.index import Index
from ventifs.tree.objects.content import read
from ventifs.tree.objects.directory import resolve
from ventifs.tree.objects.records import Content, RegularFile
from ventifs.tree.versions.catalog import find_version

CACHE_BYTES = 1 << 30
Slices = list[bytes | memoryview]
Clumps = list[tuple[Head, bytes]]


def content_of(store: Store, version: str, path: str) -> Content:
    """The content of a regular file."""
    detail = resolve(store, find_version(store, version).root, path.encode()).detail
    assert isinstance(detail, RegularFile), path
    return detail.content


def slices(store: Store, content: Content, offset: int, count: int) -> Slices:
    """The decoded bytes of a range, not copied, with holes filled."""
    return [
        bytes(piece) if isinstance(piece, int) else piece
        for piece in read(store, content, offset, count)
    ]


class _Noting:
    """Stands in for a store and notes the scores asked for."""

    def __init__(self, store: Store) -> None:
        self.scores: list[Score] = []
        self._get = store.get

    def get(self, score: Score) -> memoryview:
        self.scores.append(score)
        return self._get(score)


def clumps(path: Path, version: str, files: Iterable[str]) -> Clumps:
    """The data clumps that hold the files' blocks, each once, in the order of reading."""
    with Store.open(path, cache_bytes=CACHE_BYTES) as store:
        noting = _Noting(store)
        for file in files:
            for _ in read(cast(Store, noting), content_of(store, version, file)):
                pass
    header = read_header(path)
    index, arenas = Index(path / "index", header.store_id), Arenas(path, header.store_id)
    found: dict[tuple[bytes, int], tuple[Head, bytes]] = {}
    for score in noting.scores:
        place = index.locate(score)
        if place is None or (place.arena, place.offset) in found:  # None: the zero block
            continue
        arena = arenas.reader(place.arena)
        head = arena.read_head(place.offset)
        found[place.arena, place.offset] = head, arena.read_payload(place.offset, head)
    index.close()
    arenas.close()
    return [clump for clump in found.values() if clump[0].kind is ClumpKind.DATA]


def decoding_seconds(packed: Clumps) -> float:
    """The seconds in which one thread decompresses clumps and hashes their blocks."""
    decompressor = zstandard.ZstdDecompressor()
    started = time.perf_counter()
    for head, payload in packed:
        raw = memoryview(decompress(head, payload, decompressor))
        at = 0
        for _, length in head.blocks:
            blake3(raw[at : at + length]).digest()
            at += length
    return time.perf_counter() - started
