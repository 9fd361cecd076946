"""Where the bytes of an XFS inode's forks are: lists of extents, and trees of them.

For each fork, a block of a tree is read at most once, and extents must come in the file's order, so
that the walk ends even if a damaged tree contains cycles. Unwritten extents are left out.
"""

import struct
from collections.abc import Iterator

from ventifs.image.disk import ImageError
from ventifs.image.filesystems.extents import Run, joined
from ventifs.image.filesystems.xfs.layout import XfsLayout
from ventifs.image.survey_events import Extent

EXTENTS, TREE = 2, 3  # formats of a fork

_RECORD = struct.Struct(">QQ")
_COUNT_MASK = (1 << 21) - 1
_HEADER = struct.Struct(">4sHH")
_ROOT = struct.Struct(">HH")
_LEVEL_MAX = 9  # the kernel's own limit


def runs(layout: XfsLayout, fork: bytes, form: int, count: int) -> Iterator[Run]:
    """The written runs of blocks of a fork, in the file's order.

    Args:
        layout: of the file system.
        fork: its bytes in the inode.
        form: its format, `EXTENTS` or `TREE`.
        count: the number of extents that the inode records for it.

    Raises:
        ImageError: the map is damaged; the runs yielded before are valid.
    """
    mapping = _FileMapping(layout)
    if form == EXTENTS:
        if count > len(fork) // _RECORD.size:
            raise ImageError("its list of extents is damaged")
        return mapping.records(fork[: count * _RECORD.size])
    if form == TREE:
        return mapping.root(fork, count)
    raise ImageError("its fork has a format that it cannot have")


def extents(layout: XfsLayout, fork: bytes, form: int, count: int, size: int) -> tuple[Extent, ...]:
    """Extents in bytes of a file of `size` bytes, with those that touch merged.

    Raises:
        ImageError: as `runs`.
    """
    if form == EXTENTS and not count:
        return ()
    if form == EXTENTS and count == 1 and len(fork) >= _RECORD.size:  # fast path
        high, low = _RECORD.unpack_from(fork)
        blocks = low & _COUNT_MASK
        if blocks and not high >> 63:
            unit, block = layout.block_size, high >> 9
            start = layout.place((high & 0x1FF) << 43 | low >> 21, blocks)
            blocks = min(blocks, -(-size // unit) - block)
            return ((block * unit, start * unit, blocks * unit),) if blocks > 0 else ()
    return joined(runs(layout, fork, form, count), layout.block_size, size)


class _FileMapping:
    def __init__(self, layout: XfsLayout) -> None:
        self._layout = layout
        self._seen: set[int] = set()
        self._next = 0  # the lowest block of the file that may come next
        self._count = 0  # extents so far
        self._head = 72 if layout.checked else 24
        self._magic = b"BMA3" if layout.checked else b"BMAP"

    def records(self, data: bytes) -> Iterator[Run]:
        """The runs of a list of extents."""
        for high, low in _RECORD.iter_unpack(data):
            block = high >> 9 & (1 << 54) - 1
            count = low & _COUNT_MASK
            if block < self._next or not count:
                raise ImageError("its list of extents is damaged")
            self._next = block + count
            self._count += 1
            start = self._layout.place((high & 0x1FF) << 43 | low >> 21, count)
            if not high >> 63:
                yield block, start, count

    def root(self, fork: bytes, count: int) -> Iterator[Run]:
        """The runs of the tree whose root is in the inode."""
        level, entries = _ROOT.unpack_from(fork) if len(fork) >= 4 else (0, 0)
        room = (len(fork) - 4) // 16
        if not 0 < level <= _LEVEL_MAX or not 0 < entries <= room:
            raise ImageError("its tree of extents is damaged")
        at = 4 + room * 8
        for child in struct.unpack_from(f">{entries}Q", fork, at):
            yield from self._below(child, level - 1)
        if self._count != count:
            raise ImageError(f"it has {self._count} extents of {count}")

    def _below(self, number: int, level: int) -> Iterator[Run]:
        place = self._layout.place(number)
        if place in self._seen:
            raise ImageError("its tree of extents is damaged")
        self._seen.add(place)
        block = self._layout.block(place)
        magic, its_level, entries = _HEADER.unpack_from(block)
        room = (len(block) - self._head) // 16
        if magic != self._magic or its_level != level or entries > room:
            raise ImageError("its tree of extents is damaged")
        if not level:
            yield from self.records(block[self._head : self._head + entries * 16])
            return
        for child in struct.unpack_from(f">{entries}Q", block, self._head + room * 8):
            yield from self._below(child, level - 1)
