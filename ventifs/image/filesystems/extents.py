"""Runs of blocks of a file, as file systems map them, made into extents of bytes."""

from collections.abc import Iterable

from ventifs.image.survey_events import Extent

Run = tuple[int, int, int]  # block of the file, block of the volume, count; written ones only


def joined(runs: Iterable[Run], block_size: int, size: int) -> tuple[Extent, ...]:
    """Extents of a file of `size` bytes, those that touch on both sides being one.

    They end with the block in which the file does. The runs are in the file's order, without
    overlaps.
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
