"""Where the bytes of an ext inode are: extent trees, and the indirect blocks of ext2 and ext3.

For each inode, a block of a tree is read at most once, and extents must come in the file's order,
so that the walk ends even if a damaged tree contains cycles. Unwritten extents are left out.
"""

import struct
from collections.abc import Iterator

from ventifs.image.disk import ImageError
from ventifs.image.filesystems.ext.layout import ExtLayout
from ventifs.image.filesystems.extents import Run, joined
from ventifs.image.survey_events import Extent

_HEADER = struct.Struct("<HHHH4x")
_ENTRY = struct.Struct("<IHHI")  # leaf: block, length, start high and low
_ROOT = struct.Struct("<HHHH4xIHHI")  # a header and a leaf's entry
_ROOT_ROOM = 4  # entries that fit into the root, which is in the inode
_INDEX = struct.Struct("<IIH2x")  # block, child low and high
_MAGIC = 0xF30A
_DEPTH_MAX = 5
_WRITTEN_MAX = 32768  # blocks; a greater length, less this, is that of an unwritten extent
_DIRECT = 12


def runs(layout: ExtLayout, where: bytes, *, tree: bool) -> Iterator[Run]:
    """The written runs of blocks of an inode, in the file's order.

    Args:
        layout: of the file system.
        where: the 60 bytes of the inode that map its blocks.
        tree: whether they are the root of an extent tree.

    Raises:
        ImageError: the map is damaged; the runs yielded before are valid.
    """
    if tree:
        return _ExtentTree(layout).walk(where, None, 0)
    return _Indirect(layout).walk(where)


def extents(layout: ExtLayout, where: bytes, size: int, *, tree: bool) -> tuple[Extent, ...]:
    """Extents in bytes of a file of `size` bytes, with those that touch merged.

    Raises:
        ImageError: as `runs`.
    """
    if tree:
        magic, entries, room, depth, block, length, high, low = _ROOT.unpack_from(where)
        start = high << 32 | low
        if (
            entries == 1
            and not depth
            and magic == _MAGIC
            and room == _ROOT_ROOM
            and 0 < length <= _WRITTEN_MAX
            and layout.first_block <= start <= layout.block_count - length
        ):  # fast path: the common case
            count = min(length, -(-size // layout.block_size) - block)
            unit = layout.block_size
            return ((block * unit, start * unit, count * unit),) if count > 0 else ()
    return joined(runs(layout, where, tree=tree), layout.block_size, size)


class _ExtentTree:
    def __init__(self, layout: ExtLayout) -> None:
        self._layout = layout
        self._seen: set[int] = set()
        self._next = 0  # the lowest block of the file that may come next

    def walk(self, node: bytes, depth_expected: int | None, lowest: int) -> Iterator[Run]:
        """The runs below one node; none may begin before block `lowest` of the file."""
        magic, entries, room, depth = _HEADER.unpack_from(node)
        if (
            magic != _MAGIC
            or entries > room
            or room > (len(node) - 12) // 12
            or depth > _DEPTH_MAX
            or (depth_expected is not None and depth != depth_expected)
        ):
            raise ImageError("its extent tree is damaged")
        self._next = max(self._next, lowest)
        if depth:
            yield from self._children(node, entries, depth)
        else:
            yield from self._leaf(node, entries)

    def _leaf(self, node: bytes, entries: int) -> Iterator[Run]:
        for block, length, high, low in _ENTRY.iter_unpack(node[12 : 12 + 12 * entries]):
            written = length <= _WRITTEN_MAX
            count = length if written else length - _WRITTEN_MAX
            start = high << 32 | low
            if block < self._next or not count or start + count > self._layout.block_count:
                raise ImageError("its extent tree is damaged")
            self._next = block + count
            if written:
                if start < self._layout.first_block:
                    raise ImageError("its extent tree is damaged")
                yield block, start, count

    def _children(self, node: bytes, entries: int, depth: int) -> Iterator[Run]:
        for block, low, high in _INDEX.iter_unpack(node[12 : 12 + 12 * entries]):
            child = high << 32 | low
            if block < self._next or child in self._seen:
                raise ImageError("its extent tree is damaged")
            self._seen.add(child)
            yield from self.walk(self._layout.block(child), depth - 1, block)


class _Indirect:
    def __init__(self, layout: ExtLayout) -> None:
        self._layout = layout
        self._seen: set[int] = set()
        self._pointers = struct.Struct(f"<{layout.block_size // 4}I")

    def walk(self, where: bytes) -> Iterator[Run]:
        """The runs of an inode's direct pointers, then those of its three trees."""
        numbers = struct.unpack("<15I", where)
        yield from self._leaf(numbers[:_DIRECT], 0)
        at, span = _DIRECT, self._layout.block_size // 4
        for level in range(3):
            if numbers[_DIRECT + level]:
                yield from self._below(numbers[_DIRECT + level], level, at)
            at += span ** (level + 1)

    def _below(self, number: int, level: int, at: int) -> Iterator[Run]:
        if number in self._seen:
            raise ImageError("its block map is damaged")
        self._seen.add(number)
        pointers = self._pointers.unpack(self._layout.block(number))
        if not level:
            yield from self._leaf(pointers, at)
            return
        span = len(pointers) ** level
        for index, pointer in enumerate(pointers):
            if pointer:
                yield from self._below(pointer, level - 1, at + index * span)

    def _leaf(self, pointers: tuple[int, ...], at: int) -> Iterator[Run]:
        first = pointers[0]
        if first and pointers == tuple(range(first, first + len(pointers))):
            yield self._run(at, first, len(pointers))  # fast path for the common case
            return
        begin = start = count = 0
        for block, place in enumerate(pointers, at):
            if count and place == start + count:
                count += 1
                continue
            if count:
                yield self._run(begin, start, count)
            begin, start, count = block, place, int(place > 0)
        if count:
            yield self._run(begin, start, count)

    def _run(self, block: int, start: int, count: int) -> Run:
        if start < self._layout.first_block or start + count > self._layout.block_count:
            raise ImageError("its block map is damaged")
        return block, start, count
