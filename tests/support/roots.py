"""Real guest roots, also on other file systems."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOTS = Path(__file__).parents[2] / "tools" / "roots"


def guest_roots() -> tuple[Path, Path]:
    """A Debian root, and a copy of it after upgrades; made once per machine."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("needs mmdebstrap")
    done = subprocess.run([ROOTS], stdout=subprocess.PIPE, text=True, check=True)
    directory = Path(done.stdout.strip())
    return directory / "root1", directory / "root2"


@contextmanager
def mounted(directory: Path, *mount: str | Path) -> Iterator[Path]:
    """Run `mount` with these arguments at a new directory; skips where that is impossible."""
    directory.mkdir()
    done = subprocess.run(["mount", *mount, directory], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        try:
            os.setxattr(directory, "user.test", b"1")
        except OSError:  # tmpfs has no user xattrs before Linux 6.6
            pytest.skip(f"no user xattrs on {' '.join(map(str, mount))}")
        os.removexattr(directory, "user.test")
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


def ext4_image(path: Path, size: int) -> Path:
    """Make an empty ext4 file system in a sparse file."""
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", path], check=True)
    return path
