"""The free blocks of an XFS file system, from each allocation group's tree by block number.

In doubt, blocks count as used: a group has no free blocks if its tree is damaged, or has another
number of free blocks than its header says. The few blocks that a group reserves for its own trees
also count as used.
"""

import struct
from collections.abc import Iterator

from ventifs.image.disk import ImageError
from ventifs.image.filesystems.xfs.layout import XfsLayout
from ventifs.image.survey_events import Range

_HEADER = struct.Struct(">4sHH")
_RECORD = struct.Struct(">II")
_LEVEL_MAX = 9


def free_ranges(layout: XfsLayout) -> Iterator[Range]:
    """Ranges of the volume that no file and no structure uses, in order."""
    for group in range(layout.group_count):
        try:
            header = _group_header(layout, group)
            whole = int.from_bytes(header[52:56], "big")
            if sum(count for _, count in _records(layout, group, header)) != whole:
                continue
        except ImageError:
            continue
        base = group * layout.group_blocks
        for start, count in _records(layout, group, header):
            begin = (base + start) * layout.block_size
            end = min(begin + count * layout.block_size, layout.window.size)
            if begin < end:
                yield begin, end


def _group_header(layout: XfsLayout, group: int) -> bytes:
    at = group * layout.group_blocks * layout.block_size + layout.sector_size
    header = layout.window.read(at, 64)
    if header[:4] != b"XAGF" or int.from_bytes(header[8:12], "big") != group:
        raise ImageError("the header of an allocation group is damaged")
    return header


def _records(layout: XfsLayout, group: int, header: bytes) -> Iterator[tuple[int, int]]:
    """Free ranges of a group: first block, counted from the group's start, and number of blocks."""
    root = int.from_bytes(header[16:20], "big")
    level = int.from_bytes(header[28:32], "big")
    size = layout.group_size(group)
    seen: set[int] = set()
    expected = 0

    def below(number: int, level: int) -> Iterator[tuple[int, int]]:
        nonlocal expected
        if number >= size or number in seen:
            raise ImageError("the tree of free blocks is damaged")
        seen.add(number)
        block = layout.block(group * layout.group_blocks + number)
        head, name = (56, b"AB3B") if layout.checked else (16, b"ABTB")
        magic, its_level, entries = _HEADER.unpack_from(block)
        room = (len(block) - head) // (12 if level else 8)
        if magic != name or its_level != level or entries > room:
            raise ImageError("the tree of free blocks is damaged")
        if level:
            for child in struct.unpack_from(f">{entries}I", block, head + room * 8):
                yield from below(child, level - 1)
            return
        for start, count in _RECORD.iter_unpack(block[head : head + entries * 8]):
            if start < expected or not count or start + count > size:
                raise ImageError("the tree of free blocks is damaged")
            expected = start + count
            yield start, count

    if not 0 < level <= _LEVEL_MAX:
        raise ImageError("the tree of free blocks is damaged")
    yield from below(root, level - 1)
