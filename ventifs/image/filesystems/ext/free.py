"""The free blocks of an ext file system, from its groups' bitmaps.

In doubt, clusters count as used: a group has no free clusters if its bitmap cannot be read, or has
another number of free clusters than its descriptor says. A group that was never initialised has no
bitmap; the layout determines what is used in it.
"""

import re
from collections.abc import Iterator

from ventifs.image.disk import ImageError
from ventifs.image.filesystems.ext.layout import (
    INCOMPAT_META_BG,
    INCOMPAT_RECOVER,
    RO_CHECKED_GROUPS,
    STATE_CLEAN,
    STATE_ERRORS,
    ExtLayout,
)
from ventifs.image.survey_events import Range

_UNINITIALISED = 0x2
_TOGETHER_MAX = 128  # groups; tables of more show as a wrong count of free clusters
_RUN = re.compile("0+")


def is_clean(layout: ExtLayout) -> bool:
    """Whether the bitmaps can be trusted: nothing is cut off or to be replayed, no known errors."""
    return (
        not layout.incompat & INCOMPAT_RECOVER
        and layout.size <= layout.window.size
        and layout.state & (STATE_CLEAN | STATE_ERRORS) == STATE_CLEAN
    )


def free_ranges(layout: ExtLayout) -> Iterator[Range]:
    """Ranges of the volume that are in no used cluster, in order, with those that touch merged."""
    start = end = 0
    for group in range(layout.group_count):
        for first, last in _of_group(layout, group):
            if first == end:
                end = last
                continue
            if end > start:
                yield start, end
            start, end = first, last
    if end > start:
        yield start, end


def _of_group(layout: ExtLayout, group: int) -> Iterator[Range]:
    first = layout.first_block + group * layout.blocks_per_group
    count = min(layout.blocks_per_group, layout.block_count - first)
    clusters = -(-count // layout.cluster_ratio)
    try:
        descriptor = layout.group(group)
        if descriptor.flags & _UNINITIALISED and layout.ro_compat & RO_CHECKED_GROUPS:
            bits = _uninitialised(layout, group, first, clusters)
        else:
            bitmap = layout.block(descriptor.block_bitmap)
            bits = int.from_bytes(bitmap, "little") & ((1 << clusters) - 1)
    except ImageError:
        return
    if clusters - bits.bit_count() != descriptor.free_clusters:
        return
    size = layout.cluster_size
    end = min((first + count) * layout.block_size, layout.window.size)
    for run in _RUN.finditer(format(bits, f"0{clusters}b")[::-1]):
        begin = first * layout.block_size + run.start() * size
        if begin < end:
            yield begin, min(begin + (run.end() - run.start()) * size, end)


def _uninitialised(layout: ExtLayout, group: int, first: int, clusters: int) -> int:
    """The bitmap, as an integer, that a group would have before anything is allocated in it."""
    used = [(first, first + _heads(layout, group))]
    table = -(-layout.inodes_per_group * layout.inode_size // layout.block_size)
    together = min(layout.groups_per_flex, _TOGETHER_MAX)
    flex = group - group % together
    # Groups of one flex group keep their tables together, perhaps in this group.
    for other in range(flex, min(flex + together, layout.group_count)):
        descriptor = layout.group(other)
        used.append((descriptor.block_bitmap, descriptor.block_bitmap + 1))
        used.append((descriptor.inode_bitmap, descriptor.inode_bitmap + 1))
        used.append((descriptor.inode_table, descriptor.inode_table + table))
    bits = 0
    for start, end in used:
        low = max(start - first, 0) // layout.cluster_ratio
        high = min(-(-(end - first) // layout.cluster_ratio), clusters)
        if low < high:
            bits |= (1 << high) - (1 << low)
    return bits


def _heads(layout: ExtLayout, group: int) -> int:
    """Number of blocks at a group's start for the superblock or its copy, and descriptors."""
    per_block = layout.block_size // layout.descriptor_size
    has_superblock = layout.has_superblock(group)
    with_meta = bool(layout.incompat & INCOMPAT_META_BG)
    if with_meta and group >= layout.first_meta_group * per_block:
        return has_superblock + (group % per_block in (0, 1, per_block - 1))
    if not has_superblock:
        return 0
    blocks = layout.first_meta_group if with_meta else -(-layout.group_count // per_block)
    return 1 + blocks + layout.reserved_descriptors
