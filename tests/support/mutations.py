"""Random damage to images, from a seed, as fuzzing does to their metadata."""

import random
from collections.abc import Sequence

_VALUES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def used_blocks(data: bytes | bytearray, block_size: int) -> list[int]:
    """Numbers of the blocks that are not all zeros."""
    zeros = bytes(block_size)
    blocks = range(len(data) // block_size)
    return [n for n in blocks if data[n * block_size : (n + 1) * block_size] != zeros]


def damaged(data: bytes, blocks: Sequence[int], block_size: int, seed: int) -> bytearray:
    """A copy with a few changes in these blocks; now and then also cut off."""
    rng = random.Random(seed)
    copy = bytearray(data)
    for _ in range(rng.choice((1, 2, 10, 100))):
        start = rng.choice(blocks) * block_size
        at = start + rng.randrange(block_size // 4) * 4
        match rng.randrange(5):
            case 0:
                copy[at] ^= 1 << rng.randrange(8)
            case 1:
                width = rng.choice((1, 2, 4))
                value = rng.choice(_VALUES) & ((1 << 8 * width) - 1)
                copy[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
            case 2:
                copy[at : at + 4] = rng.randbytes(4)
            case 3:
                source = rng.choice(blocks) * block_size
                copy[start : start + block_size] = copy[source : source + block_size]
            case _:
                source = start + rng.randrange(block_size // 4) * 4
                copy[at : at + 4] = copy[source : source + 4]
    return copy[: rng.randrange(len(copy))] if rng.randrange(20) == 0 else copy
