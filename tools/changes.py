"""Changes files as a guest does between two images, reproducibly.

Run as a script: `python3 changes.py DIRECTORY BYTES SEED`. Files are made, written over in place,
rewritten as editors and package managers do (a new file that is renamed), appended to, renamed and
removed, until about that many bytes have been written. All new data is noise, so that compression
does not hide its cost. Uses only the standard library.
"""

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

_PIECE_MAX = 64 << 10
_REWRITTEN_MAX = 1 << 20  # of a file that is rewritten for a few bytes


def made(path: Path, rng: random.Random) -> int:
    """Make a new file beside the given one; return the bytes written, as all changes do."""
    data = rng.randbytes(rng.randint(1, 4 * _PIECE_MAX))
    path.with_name(f"made-{rng.randrange(10**9)}").write_bytes(data)
    return len(data)


def written_over(path: Path, rng: random.Random) -> int:
    """Overwrite a piece of it in place, as databases do."""
    data = rng.randbytes(rng.randint(1, _PIECE_MAX))
    with path.open("r+b") as file:
        file.seek(rng.randrange(path.stat().st_size))
        file.write(data)
    return len(data)


def rewritten(path: Path, rng: random.Random) -> int:
    """Insert a few bytes somewhere, so that all data after them moves."""
    data = path.read_bytes() if path.stat().st_size <= _REWRITTEN_MAX else b""
    at = rng.randrange(len(data) + 1)
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(data[:at] + rng.randbytes(100) + data[at:])
    shutil.copystat(path, new)
    new.rename(path)
    return len(data)


def appended(path: Path, rng: random.Random) -> int:
    """Append data, as to a log."""
    data = rng.randbytes(rng.randint(1, _PIECE_MAX))
    with path.open("ab") as file:
        file.write(data)
    return len(data)


def renamed(path: Path, rng: random.Random) -> int:
    """Give it another name."""
    path.rename(path.with_name(f"renamed-{rng.randrange(10**9)}"))
    return 4096  # for its directory


def removed(path: Path, _: random.Random) -> int:
    """Remove it; its content becomes stale data in free space."""
    path.unlink()
    return 4096


CHANGES: tuple[Callable[[Path, random.Random], int], ...] = (
    made,
    made,
    written_over,
    written_over,
    rewritten,
    appended,
    renamed,
    removed,
)


def change(directory: Path, budget: int, seed: int) -> None:
    """Change documentation and data, which a boot does not need, up to a budget in bytes."""
    rng = random.Random(seed)
    files = [
        Path(where, name)
        for top in ("usr/share", "usr/include", "usr/src", "var")
        for where, _, names in os.walk(directory / top)
        for name in names
    ]
    files = sorted(
        file
        for file in files
        if file.is_file()
        and not file.is_symlink()
        and file.stat().st_nlink == 1
        and file.stat().st_blocks
    )
    rng.shuffle(files)
    while budget > 0:
        budget -= rng.choice(CHANGES)(files.pop(), rng)


if __name__ == "__main__":
    change(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
