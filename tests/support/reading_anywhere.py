"""Reads of one file at many places, compared with those of a copy: run as a script in guests.

    python3 reading_anywhere.py FILE COPY

Where they differ, it exits with 1 and a line that names the place. Offsets lie on and around the
edges of pages and of the protocol's largest messages, at odd places, and past the end; they are the
same on every run.
"""

import mmap
import os
import random
import sys

_EDGES = (0, 1, 4095, 4096, 4097, 65535, 65536, 131047, 1048551, 1048552, 1048576)
_LENGTHS = (1, 2, 511, 4095, 4096, 4097, 70_001, 1_100_000)
_RANDOM_READS = 100


def main(name: str, copy_name: str) -> None:
    """Compare a file with its copy."""
    copy = os.open(copy_name, os.O_RDONLY)
    file = os.open(name, os.O_RDONLY)
    size = os.fstat(copy).st_size
    assert os.fstat(file).st_size == size
    chance = random.Random(0)
    places = [(at, length) for at in _EDGES for length in _LENGTHS]
    places += [(size - 1 - back, length) for back in _EDGES if back < size for length in (1, 5000)]
    places += [(chance.randrange(size), chance.randrange(1, 300_000)) for _ in range(_RANDOM_READS)]
    for at, length in places:
        same(os.pread(file, length, at), os.pread(copy, length, at), at, length)
    for at in (size, size + 1, size + 4096, 1 << 40):
        same(os.pread(file, 100, at), b"", at, 100)
    same(os.pread(file, 5000, size - 10), os.pread(copy, 10, size - 10), size - 10, 5000)
    with mmap.mmap(file, size, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as mapped:
        for at, length in places:
            same(mapped[at : at + length], os.pread(copy, length, at), at, length)


def same(read: bytes, expected: bytes, at: int, length: int) -> None:
    """Fail unless a read returned the expected bytes."""
    if read != expected:
        sys.exit(f"{length} bytes at {at}: {len(read)} bytes read, not {len(expected)} or not them")


if __name__ == "__main__":
    main(*sys.argv[1:])
