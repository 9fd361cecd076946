"""Made-up blocks for stores, half of each compressible."""

import random


def mixed_blocks(count: int, *, seed: int = 0, size_max: int = 40_000) -> list[bytes]:
    """Different blocks of 32 bytes to `size_max`, none ending in zero."""
    rng = random.Random(seed)
    blocks = []
    for number in range(count):
        size = rng.randint(32, size_max)
        head = b"%d %d " % (seed, number) + rng.randbytes(size // 2)
        blocks.append(head[: size - 1].ljust(size - 1, b"v") + b".")
    return blocks
