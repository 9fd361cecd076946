"""What a store holds, and what it saves by zeros, by deduplication and by compression."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from ventifs.store.arena_state import ArenaTotals, Place
from ventifs.store.arenas import Arenas
from ventifs.store.index import Index
from ventifs.store.reserve import reserve_space


class Stats(msgspec.Struct, frozen=True):
    """What a store holds and saves, as of its last commit.

    put_bytes = zero_bytes + known_bytes + raw_bytes, except for blocks that two writers stored at
    the same time and blocks whose writer died before its commit. raw_bytes - stored_bytes is what
    compression saves, net of headers.

    Attributes:
        blocks: stored blocks; `node_blocks` of them are nodes.
        put_blocks, put_bytes: everything ever passed to `put`.
        zero_bytes: trailing zeros in these.
        known_blocks, known_bytes: passed to `put`, but stored already.
        raw_bytes: size of the stored blocks before compression; `node_bytes` of it are nodes.
        stored_bytes: size of all clumps in the arenas, those of the journal and gaps included.
        gap_bytes: bytes of arenas that crashes left unreadable.
        arenas_open, arenas_sealed: number of arena files.
        arena_bytes: space the arena files take on disk.
        index_entries, index_bytes: block entries in the index, and its size.
        records: committed records.
        reserve_bytes: space that the reserve takes on disk.
    """

    blocks: int
    node_blocks: int
    put_blocks: int
    put_bytes: int
    zero_bytes: int
    known_blocks: int
    known_bytes: int
    raw_bytes: int
    node_bytes: int
    stored_bytes: int
    gap_bytes: int
    arenas_open: int
    arenas_sealed: int
    arena_bytes: int
    index_entries: int
    index_bytes: int
    records: int
    reserve_bytes: int


def measured(root: Path, arenas: Arenas, index: Index) -> Stats:
    """The statistics of a store, as of its last commit."""
    figures = index.figures()
    counters = figures.counters
    totals = ArenaTotals()
    for state in figures.states:
        totals.add(state.totals)
    return Stats(
        blocks=totals.data_blocks + totals.node_blocks,
        node_blocks=totals.node_blocks,
        put_blocks=counters.put_blocks,
        put_bytes=counters.put_bytes,
        zero_bytes=counters.zero_bytes,
        known_blocks=counters.known_blocks,
        known_bytes=counters.known_bytes,
        raw_bytes=totals.data_bytes + totals.node_bytes,
        node_bytes=totals.node_bytes,
        stored_bytes=totals.stored_bytes,
        gap_bytes=totals.gap_bytes,
        arenas_open=len(arenas.open_ids()),
        arenas_sealed=len(arenas.sealed_ids()),
        arena_bytes=sum(map(_space, (root / "arenas").glob("*/*.arena"))),
        index_entries=figures.entries,
        index_bytes=index.size(),
        records=figures.records,
        reserve_bytes=reserve_space(root),
    )


class Sizes(msgspec.Struct, frozen=True):
    """The space that some blocks take.

    Attributes:
        raw_bytes: without their trailing zeros, before compression.
        stored_bytes: their share of their clumps, by raw length; heads included.
    """

    raw_bytes: int
    stored_bytes: int


def sizes_of(arenas: Arenas, places: Iterable[Place]) -> Sizes:
    """The space that the blocks at `places` take; reads the head of each of their clumps once."""
    parts = sizes_by_part(arenas, ((0, place) for place in places))
    return parts[0][1] if parts else Sizes(0, 0)


def sizes_by_part(
    arenas: Arenas, places: Iterable[tuple[int, Place]]
) -> dict[int, tuple[int, Sizes]]:
    """The number of blocks, and the space that they take, of each part that blocks belong to.

    Reads the head of each clump once, and uses about 200 bytes of memory for each part of one.
    """
    positions: dict[tuple[bytes, int, int], int] = {}  # by clump, part: a bit for each block of it
    for part, place in places:
        key = place.arena, place.offset, part
        positions[key] = positions.get(key, 0) | 1 << place.position
    found: dict[int, tuple[int, Sizes]] = {}
    at: tuple[bytes, int] | None = None
    for (arena, offset, part), wanted in sorted(positions.items()):
        if at != (arena, offset):
            at, head = (arena, offset), arenas.reader(arena).read_head(offset)
        raw = sum(size for bit, (_, size) in enumerate(head.blocks) if wanted >> bit & 1)
        count, sizes = found.get(part, (0, Sizes(0, 0)))
        found[part] = (
            count + wanted.bit_count(),
            Sizes(
                sizes.raw_bytes + raw,
                sizes.stored_bytes + head.size * raw // max(head.raw_length, 1),
            ),
        )
    return found


def _space(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:  # it was moved meanwhile
        return 0
