"""Puts a range of a content together from pieces: views of decoded clumps, never copies of blocks.

There are two ways through a leaf's items. `_take_items` asks a source for one block after another.
`take_runs` works in memory, and remembers where items were found the last time: in which clump, so
that neighbours become one piece, or in which leaf of the content that a slice is of. Always: only
blocks of a clump that were hashed get into a piece. Knows no cursor, and not where leaves and
blocks come from.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple
from weakref import ref

from ventifs.buffer import Buffer
from ventifs.errors import Corrupt
from ventifs.store import DecodedClump, Score
from ventifs.tree.objects.content import SLICE_DEPTH_MAX
from ventifs.tree.objects.records import Block, Content, Inline, Tree
from ventifs.vfs.archived.node_cache import ContentLeaf, Run, SliceLeaf
from ventifs.vfs.archived.tree_lookup import Missing

PIECES_MAX = 1024  # of one read in memory; more are joined by a thread
_ZEROS = memoryview(bytes(1 << 20))

LeafOf = Callable[[Tree, int], tuple[ContentLeaf, int]]
BlockOf = Callable[[Score], memoryview | None]
ClumpOf = Callable[[Score], DecodedClump | None]


class BlockSource(NamedTuple):
    """Where a content's parts come from.

    Attributes:
        leaf: gives the leaf that holds a byte of a content, and the offset it begins at.
        block: gives a block, or None if it is not in memory.
        clump: gives the decoded clump with a block, or None; is itself None for threads.
    """

    leaf: LeafOf
    block: BlockOf
    clump: ClumpOf | None


def take(
    source: BlockSource,
    content: Content,
    offset: int,
    end: int,
    pieces: list[Buffer],
    depth: int = SLICE_DEPTH_MAX,
) -> None:
    """Add a range of a content to the pieces; the range must be within the content.

    Args:
        source: of leaves and blocks.
        content: a regular file's.
        offset: of the first byte.
        end: after the last.
        pieces: to add to.
        depth: how deep slices may be nested.

    Raises:
        Missing: something is not in memory, or there are more than `PIECES_MAX`.
        Corrupt: as the source, and for slices that are too deep.
    """
    if offset >= end:
        return
    if isinstance(content, Tree):
        while offset < end:
            leaf, before = source.leaf(content, offset)
            if source.clump is None:
                _take_items(source, leaf, offset - before, end - before, pieces, depth)
            else:
                take_runs(source, leaf, offset - before, end - before, pieces, depth)
            offset = before + leaf.total
    elif isinstance(content, Block):
        _take_block(source, content.score, content.length, offset, end, pieces)
    elif isinstance(content, Inline):
        pieces.append(content.data[offset:end])


def take_runs(
    source: BlockSource,
    leaf: ContentLeaf,
    offset: int,
    end: int,
    pieces: list[Buffer],
    depth: int = SLICE_DEPTH_MAX,
) -> None:
    """Add what a leaf has of a range, out of memory; offsets count from the leaf's beginning.

    Raises:
        Missing, Corrupt: as `take`.
    """
    # The hot loop of reads from memory. Slices and padding are remembered because that makes reads
    # of a disk's small files much faster; see docs/performance.md.
    runs, ends = leaf.runs, leaf.ends
    index = bisect_right(ends, offset)
    end = min(end, leaf.total)
    while offset < end:
        run = runs[index]
        clump = run.clump() if run is not None else None
        if clump is None:
            run, clump = _run_at(leaf, index, source.clump)
        if run is None or clump is None:
            last = ends[index] if ends[index] < end else end
            _take_item(source, leaf, index, offset, last, pieces, depth)
            index += 1
        else:
            clump.used = True
            last = run.end if run.end < end else end
            held = run.held
            if last <= held:
                pieces.append(clump.data[offset + run.shift : last + run.shift])
            else:
                if offset < held:
                    pieces.append(clump.data[offset + run.shift : held + run.shift])
                    offset = held
                _zeros(last - offset, pieces)
            index = run.after
        offset = last
    if len(pieces) > PIECES_MAX:
        raise Missing  # too much work for the event loop


def _run_at(
    leaf: ContentLeaf, first: int, clump_of: ClumpOf | None
) -> tuple[Run, DecodedClump] | tuple[None, None]:
    """The run that begins with an item, and its clump; the leaf keeps the run for later reads.

    None for an item that is no block, and for a block that is not in memory or is longer than the
    leaf says.
    """
    items, ends = leaf.items, leaf.ends
    score = items[first]
    if clump_of is None or not isinstance(score, bytes):
        return None, None
    clump = clump_of(Score(score))
    if clump is None:
        return None, None
    spans = clump.spans
    begin = end = held = ends[first - 1] if first else 0
    start = at = spans[Score(score)][0]
    after = first
    while after < len(items) and held == end:
        item = items[after]
        span = spans.get(Score(item)) if isinstance(item, bytes) else None
        length = ends[after] - end
        if span is None or span[0] != at or span[1] - at > length:
            break
        held += span[1] - at
        at, end = span[1], ends[after]
        after += 1
    if after == first:
        return None, None
    if after < len(items) and items[after] is None:
        end = ends[after]  # a disk has one after each small file: this saves a round for each
        after += 1
    run = Run(held, end, after, start - begin, ref(clump))
    leaf.runs[first:after] = [run] * (after - first)
    return run, clump


def _take_items(
    source: BlockSource, leaf: ContentLeaf, offset: int, end: int, pieces: list[Buffer], depth: int
) -> None:
    """As `take_runs`, but from any source, and for any number of pieces."""
    # Hot: much of a thread's work for a disk's small files, while the event loop needs the
    # interpreter; see docs/performance.md.
    ends, items, block_of = leaf.ends, leaf.items, source.block
    index = bisect_right(ends, offset)
    start = ends[index - 1] if index else 0
    end = min(end, leaf.total)
    while offset < end:
        item, stop = items[index], ends[index]
        last = min(stop, end)
        if item is None:
            _zeros(last - offset, pieces)
        elif isinstance(item, bytes) and offset == start and last == stop:
            data = block_of(Score(item))
            if data is not None and len(data) == stop - start:
                pieces.append(data)
            else:
                _take_item(source, leaf, index, offset, last, pieces, depth)
        else:
            _take_item(source, leaf, index, offset, last, pieces, depth)
        offset = start = stop
        index += 1


def _take_item(
    source: BlockSource,
    leaf: ContentLeaf,
    index: int,
    offset: int,
    end: int,
    pieces: list[Buffer],
    depth: int,
) -> None:
    """Add part of an item; offsets count from the beginning of its leaf."""
    item = leaf.items[index]
    start = leaf.ends[index - 1] if index else 0
    if isinstance(item, bytes):
        length = leaf.ends[index] - start
        _take_block(source, item, length, offset - start, end - start, pieces)
    elif item is None:
        _zeros(end - offset, pieces)
    elif depth == 0:
        raise Corrupt("slices of slices, too deep")
    else:
        shift = item.offset - start
        _take_slice(
            source, leaf, index, item.content, offset + shift, end + shift, pieces, depth - 1
        )


def _take_slice(
    source: BlockSource,
    leaf: ContentLeaf,
    index: int,
    content: Content,
    offset: int,
    end: int,
    pieces: list[Buffer],
    depth: int,
) -> None:
    """Add a range of the content that an item is a slice of, and remember the leaf it was in."""
    inside = leaf.inside.get(index)
    if source.clump is not None and inside is not None and inside.before <= offset:
        found = inside.leaf()
        if found is not None and end <= inside.before + found.total:
            found.used = True
            take_runs(source, found, offset - inside.before, end - inside.before, pieces, depth)
            return
    take(source, content, offset, end, pieces, depth)
    if source.clump is not None and isinstance(content, Tree):
        found, before = source.leaf(content, end - 1)
        leaf.inside[index] = SliceLeaf(before, ref(found))


def _take_block(
    source: BlockSource, score: bytes, length: int, start: int, end: int, pieces: list[Buffer]
) -> None:
    """Add part of a block, with the trailing zeros that the store leaves out."""
    data = source.block(Score(score))
    if data is None:
        raise Missing
    have = len(data)
    if have > length:
        raise Corrupt(f"block of {have} bytes where {length} are said", score=score)
    if start < have:
        pieces.append(data if start == 0 and end >= have else data[start:end])
    if end > have:
        _zeros(end - max(start, have), pieces)


def _zeros(length: int, pieces: list[Buffer]) -> None:
    while length > 0:
        pieces.append(_ZEROS[:length])
        length -= len(_ZEROS)
