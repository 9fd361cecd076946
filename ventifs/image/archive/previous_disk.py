"""The disk as the last version of its name has it: what is likely to be there still.

Its answers are guesses, except for ranges that are known not to have changed since.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import msgspec

from ventifs.errors import Corrupt
from ventifs.image.archive.file_stream import REST_MAX
from ventifs.image.survey_events import Extent, Range
from ventifs.store import Score, Store
from ventifs.tree.objects.prolly import load, walk
from ventifs.tree.objects.records import (
    INLINE_MAX,
    Block,
    Chunk,
    Content,
    Hole,
    Item,
    Slice,
    Tree,
    decode_child,
    decode_item,
    length_of,
    own_item,
)

_INNER = 1000  # nodes kept
_LEAVES = 16  # kept: names come in another order than their files lie on the disk


class _DiskLeaf(NamedTuple):
    """Items that follow one another.

    Attributes:
        starts: where each begins, from the leaf's own beginning.
        length: bytes they stand for.
    """

    starts: list[int]
    items: list[Item]
    length: int


class PreviousDisk:
    """The items of an archived disk, by place. Caches some nodes.

    Attributes:
        size: bytes of the disk.
        content: of the disk.
        same: ranges known not to have changed since, in order.
        free: whether zeros may stand for what was free then, whatever the disk had.
    """

    def __init__(
        self, store: Store, content: Content, same: Sequence[Range] = (), *, free: bool = False
    ) -> None:
        """Look up items of `content`.

        Args:
            store: where it is.
            content: the disk's.
            same: ranges known not to have changed since, in order.
            free: whether zeros may stand for what was free then, whatever the disk had.
        """
        self.size = length_of(content)
        self._store = store
        self.content = content
        self.same = list(within(same, 0, self.size))
        self.free = free
        self._height: int | None = None  # of the tree; None until it is known
        self._at, self._leaf = 0, _DiskLeaf([], [], 0)  # the current leaf, and where it begins
        self._inner = lru_cache(_INNER)(self._read_inner)
        self._leaves = lru_cache(_LEAVES)(self._read_leaf)

    def content_of(self, size: int, extents: Sequence[Extent]) -> tuple[Content | None, bool, int]:
        """What a file's content was, if its first extent is where such a file began.

        Returns:
            The content, or None; whether the file is known to still have it; and if so, how many
            zeros follow its end, as `Stream.zeros_after` returns.

        Raises:
            Corrupt, NotStored: where the archive is damaged.
        """
        content: Content | None = None
        certain = True
        for offset, start, whole in extents:
            item, skip = self._find(start)
            if content is None:
                if offset or skip:
                    return None, False, 0
                content = _whole_of(item)
                # So few bytes may be a block of the disk, but a file's content is inline then.
                if content is None or length_of(content) != size or size <= INLINE_MAX:
                    return None, False, 0
                if not self.same:
                    return content, False, 0
            length = min(whole, size - offset)
            if not (
                self._is_same(start, start + length)
                and self._refers(start, length, offset, content)
            ):
                certain = False
                break
        if content is None or not certain or not self._zeros_between(content, size, extents):
            return content, False, 0
        rest = self._rest(size, extents[-1])
        return content, rest is not None, rest or 0

    def _zeros_between(self, content: Content, size: int, extents: Sequence[Extent]) -> bool:
        """Whether a content has holes wherever no extent is, as the file has now."""
        gaps, at = [], 0
        for offset, _, length in extents:
            if offset > at:
                gaps.append((at, offset))
            at = offset + length
        if at < size:
            gaps.append((at, size))
        if not gaps:
            return True
        if not isinstance(content, Tree):
            return False
        holes, at = [], 0
        for _, data in walk(self._store.get, Score(content.score)):
            item = decode_item(data)
            if isinstance(item, Hole):
                holes.append((at, at + item.length))
            at += item.length
        return all(
            sum(high - low for low, high in within(holes, *gap)) == gap[1] - gap[0] for gap in gaps
        )

    def _rest(self, size: int, last: Extent) -> int | None:
        """How many zeros follow a file's end in its last extent; None if that is not known."""
        offset, start, length = last
        rest = offset + length - size
        if not 0 < rest <= min(length, REST_MAX):
            return 0
        at = start + length - rest
        if not self._is_same(at, at + rest):
            return None
        item, skip = self._find(at)
        if isinstance(item, Hole) and not self.free and item.length - skip >= rest:
            return rest
        # A chunk is not all zeros.
        return 0 if isinstance(item, Chunk) and not skip and item.length <= rest else None

    def blocks(self, start: int, end: int, origin: int, size: int) -> Iterator[tuple[int, Item]]:
        """Unchanged items of a stretch, with their places: holes, and blocks of `size` bytes."""
        for low, high in within(self.same, start, end):
            at = low
            while at < high:
                item, skip = self._find(at)
                stop = at - skip + item.length
                if isinstance(item, Hole) and not self.free:
                    # Whole blocks of it: zeros that share a block with other bytes are no hole.
                    first = at if at == start else origin + -(-(at - origin) // size) * size
                    last = min(stop, high)
                    last = last if last == end else origin + (last - origin) // size * size
                    if first < last:
                        yield first, Hole(last - first)
                elif isinstance(item, Chunk) and not skip and stop <= high:
                    # Only a chunk with the same borders as the block that reading would make.
                    begins = at == start or (at - origin) % size == 0
                    if begins and stop == min(end, at + size - (at - origin) % size):
                        yield at, item
                at = stop

    def _refers(self, start: int, length: int, offset: int, content: Content) -> bool:
        """Whether the disk had a part of a content at a place."""
        while length > 0:
            item, skip = self._find(start)
            if isinstance(item, Slice):
                if item.content != content or item.offset + skip != offset:
                    return False
            elif _whole_of(item) != content or skip != offset:
                return False
            step = item.length - skip
            start, offset, length = start + step, offset + step, length - step
        return True

    def _is_same(self, start: int, end: int) -> bool:
        return sum(high - low for low, high in within(self.same, start, end)) == end - start

    def _find(self, at: int) -> tuple[Item, int]:
        """The item at a place, and how far into it that is; past the end, a hole without end."""
        if at >= self.size:
            return Hole(1 << 62), 0
        if not 0 <= at - self._at < self._leaf.length:
            self._descend(at)
        within_leaf = at - self._at
        starts, items, _ = self._leaf
        index = bisect_right(starts, within_leaf) - 1
        return items[index], within_leaf - starts[index]

    def _descend(self, at: int) -> None:
        """Make the leaf that has a place the current one."""
        if not isinstance(self.content, Tree):
            item: Item = (
                Chunk(self.content.score, self.size)
                if isinstance(self.content, Block)
                else Slice(self.content, 0, self.size)
            )
            self._leaf = _DiskLeaf([0], [item], self.size)
            return
        before, length, score = 0, self.size, Score(self.content.score)
        if self._height is None:
            self._height = load(self._store.get, score, None).level
        for level in range(self._height, 0, -1):
            starts, scores = self._inner(score, level, length)
            index = bisect_right(starts, at - before, hi=len(scores)) - 1
            before, score = before + starts[index], scores[index]
            length = starts[index + 1] - starts[index]
        self._at, self._leaf = before, self._leaves(score, length)

    def _read_inner(self, score: Score, level: int, length: int) -> tuple[list[int], list[Score]]:
        """Where a node's children begin and the last one ends, from its beginning; their scores."""
        node = load(self._store.get, score, level)
        children = [decode_child(bytes(raw)) for raw in node.items]
        starts = list(accumulate((child.total for child in children), initial=0))
        if starts[-1] != length or not all(child.total for child in children):
            raise Corrupt("tree node covers more or less than its parent says", score=score)
        return starts, [Score(child.score) for child in children]

    def _read_leaf(self, score: Score, length: int) -> _DiskLeaf:
        raws = load(self._store.get, score, 0).items
        try:
            items = [own_item(raw) for raw in raws]
        except msgspec.DecodeError as error:
            raise Corrupt(f"content items cannot be read: {error}", score=score) from None
        *starts, total = accumulate([item.length for item in items], initial=0)
        if total != length or not all(item.length > 0 for item in items):
            raise Corrupt("content items contradict themselves", score=score)
        return _DiskLeaf(starts, items, length)


def _whole_of(item: Item) -> Content | None:
    """The content that an item begins with."""
    if isinstance(item, Chunk):
        return Block(item.score, item.length)
    if isinstance(item, Slice) and not item.offset:
        return item.content
    return None


def within(ranges: Sequence[Range], start: int, end: int) -> Iterator[Range]:
    """The parts of ranges, which are sorted and do not overlap, that lie between two places."""
    index = bisect_right(ranges, (start, 1 << 63))
    for place in range(max(0, index - 1), len(ranges)):
        low, high = ranges[place]
        if low >= end:
            return
        if max(low, start) < min(high, end):
            yield max(low, start), min(high, end)
