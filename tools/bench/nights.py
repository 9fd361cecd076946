"""What happens to a guest's files in a night: a share of them is changed, and old ones go.

Run as a script, `python -m tools.bench.nights DIRECTORY BYTES SEED`, or with an image in place of
the directory, which is mounted. The same seed makes the same changes to the same files. Half of the
files that earlier nights have made are removed first, so that a guest hardly grows.
"""

import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.changes import change


def pass_night(directory: Path, budget: int, seed: int) -> None:
    """Remove what a night removes, and change files until about `budget` bytes are written."""
    made = sorted(directory.rglob("made-*"))
    random.Random(seed).shuffle(made)
    for path in made[len(made) // 2 :]:
        path.unlink()
    change(directory, budget, seed)


def pass_night_anywhere(source: Path, budget: int, seed: int) -> None:
    """Do it in a process of its own, in a directory, or in the file system of an image."""
    script = 'exec "$0" -m tools.bench.nights "$1" "$2" "$3"'
    if source.is_file():
        # In a mount namespace of its own: neither the mount nor the loop device outlives it.
        script = 'mount -o loop "$1" "$4"; "$0" -m tools.bench.nights "$4" "$2" "$3"; umount "$4"'
    with tempfile.TemporaryDirectory(prefix="bench-mount-") as mounted:
        words = [sys.executable, str(source), str(budget), str(seed), mounted]
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-euc", script, *words],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        sys.exit(f"cannot change the files of {source}:\n{done.stderr}")


if __name__ == "__main__":
    pass_night(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
