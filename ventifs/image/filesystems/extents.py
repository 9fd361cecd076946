"""Converts runs of blocks, as file systems map files, to extents of bytes."""

from collections.abc import Iterable

from ventifs.image.survey_events import Extent

Run = tuple[int, int, int]  # block of the file, block of the volume, count; written ones only


def joined(runs: Iterable[Run], block_size: int, size: int) -> tuple[Extent, ...]:
    """Extents of a file of `size` bytes; runs that touch in the file and on the volume are merged.

    The extents end with the block in which the file ends. The runs must be in the file's order and
    not overlap.
    """
    last = -(-size // block_size)
    found: list[Extent] = []
    begin = start = count = 0
    for block, place, blocks in runs:
        if block >= last:
            break
        length = min(blocks, last - block)
        if count and block == begin + count and place == start + count:
            count += length
            continue
        if count:
            found.append((begin * block_size, start * block_size, count * block_size))
        begin, start, count = block, place, length
    if count:
        found.append((begin * block_size, start * block_size, count * block_size))
    return tuple(found)
