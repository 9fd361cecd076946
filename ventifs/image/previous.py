"""The disk as the last version of its name has it: what is likely to be there still.

Only a source of guesses, unless it is known that a range did not change since.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from ventifs.image.events import Extent, Range
from ventifs.store import Score, Store
from ventifs.tree.prolly import load
from ventifs.tree.records import (
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
)


class Previous:
    """Items of an archived disk, by place. Keeps one leaf; asking in order is cheap.

    Attributes:
        size: bytes of the disk.
    """

    def __init__(self, store: Store, content: Content, same: Sequence[Range] = ()) -> None:
        """Ask about `content`; `same` are the ranges known not to have changed since, in order."""
        self.size = length_of(content)
        self._store = store
        self._content = content
        self._same = same
        self._starts: list[int] = []  # of the leaf's items
        self._items: list[Item] = []
        self._end = 0  # of the leaf

    def content_of(self, size: int, extents: Sequence[Extent]) -> tuple[Content | None, bool]:
        """What a file's content was, if its first extent is where such a file began.

        Returns:
            The content, or None; and whether it is known that the file still has it.

        Raises:
            Corrupt, NotStored: where the archive is damaged.
        """
        content: Content | None = None
        certain = True
        for offset, start, whole in extents:
            item, skip = self._find(start)
            if content is None:
                if offset or skip:
                    return None, False
                content = _whole_of(item)
                if content is None or length_of(content) != size:
                    return None, False
                if not self._same:
                    return content, False
            length = min(whole, size - offset)
            if not (self._is_same(start, start + length)
                    and self._refers(start, length, offset, content)):  # fmt: skip
                certain = False
                break
        # Bytes that no extent holds are zeros, which are not looked at: all else must match.
        return content, certain and _covers(size, extents)

    def blocks(self, start: int, end: int, origin: int, size: int) -> Iterator[tuple[int, Item]]:
        """Items that a stretch still has, with their places: holes, and blocks of `size` bytes."""
        for low, high in _within(self._same, start, end):
            at = low
            while at < high:
                item, skip = self._find(at)
                stop = at - skip + item.length
                if isinstance(item, Hole):
                    yield at, Hole(min(stop, high) - at)
                elif isinstance(item, Chunk) and not skip and stop <= high:
                    whole = item.length == size or stop == end
                    if whole and (at - origin) % size == 0:
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
        return sum(high - low for low, high in _within(self._same, start, end)) == end - start

    def _find(self, at: int) -> tuple[Item, int]:
        """The item at a place, and how far into it that is; past the end, a hole without end."""
        if at >= self.size:
            return Hole(1 << 62), 0
        if not (self._starts and self._starts[0] <= at < self._end):
            self._descend(at)
        index = bisect_right(self._starts, at) - 1
        return self._items[index], at - self._starts[index]

    def _descend(self, at: int) -> None:
        if not isinstance(self._content, Tree):
            item: Item = (
                Chunk(self._content.score, self.size)
                if isinstance(self._content, Block)
                else Slice(self._content, 0, self.size)
            )
            self._starts, self._items, self._end = [0], [item], self.size
            return
        before, node = 0, load(self._store.get, Score(self._content.score), None)
        while node.level:
            for raw in node.items:
                child = decode_child(bytes(raw))
                if before + child.total > at:
                    break
                before += child.total
            node = load(self._store.get, Score(child.score), node.level - 1)
        self._starts, self._items = [], []
        for raw in node.items:
            self._starts.append(before)
            item = decode_item(bytes(raw))
            self._items.append(item)
            before += item.length
        self._end = before


def _whole_of(item: Item) -> Content | None:
    """The content that an item begins with."""
    if isinstance(item, Chunk):
        return Block(item.score, item.length)
    if isinstance(item, Slice) and not item.offset:
        return item.content
    return None


def _covers(size: int, extents: Sequence[Extent]) -> bool:
    at = 0
    for offset, _, length in extents:
        if offset != at:
            return False
        at += length
    return at >= size


def _within(ranges: Sequence[Range], start: int, end: int) -> Iterator[Range]:
    """The parts of sorted ranges that lie between two places."""
    index = bisect_right(ranges, (start, 1 << 63))
    for low, high in ranges[max(0, index - 1) :]:
        if low >= end:
            return
        if high > start:
            yield max(low, start), min(high, end)
