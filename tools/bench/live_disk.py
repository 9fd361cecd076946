"""The disk that live trees are measured on: ext4 of its own, with what guests work on.

It has a journal, as hosts' disks have: without one ext4 passes over each inode that was freed in
the last minute, which costs whoever creates and unlinks more than any server does. It is mounted
without set-uid bits and devices, as a writable live tree must be.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.bench.rounds import run, tell

DISK_BYTES = 12 << 30  # of a sparse file
INODES = 600_000
UNMOUNTED_WITHIN_S = 20.0
USER = 1000  # of the raw client
SMALL = 64  # files
PARTS = ("etc", "usr/bin", "usr/sbin", "usr/include")  # of the Debian root: 3,700 paths
REPOSITORY = "usr/share/doc"  # is what the git repository has


@dataclass(frozen=True)
class Contents:
    """What stands in the live tree, and what is taken from elsewhere.

    Attributes:
        tree: the directory to serve. `raw` is the raw client's own, with small files and
            `large`; `root` is a part of a Debian root, `repository` has it in git, `data` is a
            file to read and write anywhere; `work` is where each run begins anew.
        tar: the same part of a Debian root, on the host's own disk.
        bytes: the size of `data` and `raw/large`.
    """

    tree: Path
    tar: Path
    bytes: int

    @property
    def small(self) -> list[str]:
        """Small files for the raw client."""
        return [f"raw/file-{number:02}" for number in range(SMALL)]

    @contextmanager
    def work(self) -> Iterator[str]:
        """A new directory in the tree, whose name it gives; what is dirty is written first."""
        path = self.tree / "work"
        subprocess.run(["sync", "-f", self.tree], check=True)
        path.mkdir()
        try:
            yield path.name
        finally:
            shutil.rmtree(path)


@contextmanager
def mounted_disk(scratch: Path) -> Iterator[Path]:
    """Make the disk in a file and mount it; yields the mount point."""
    scratch.chmod(0o755)  # diod walks from the host's root as the user of each request
    image, top = scratch / "disk.img", scratch / "disk"
    top.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    run(["mke2fs", "-q", "-t", "ext4", "-N", str(INODES), "-E", "lazy_itable_init=0", str(image)])
    run(["mount", "-t", "ext4", "-o", "loop,nosuid,nodev", str(image), str(top)])
    try:
        yield top
    finally:
        unmount(top)


def unmount(top: Path) -> None:
    """Unmount a disk; processes of a server that was killed may use it for a moment."""
    ends = time.monotonic() + UNMOUNTED_WITHIN_S
    while subprocess.run(["umount", top], check=False, capture_output=True).returncode:
        if time.monotonic() > ends:
            sys.exit(f"{top} is in use and stays mounted: end what uses it, and unmount it")
        time.sleep(0.1)


def make_contents(root: Path, top: Path, scratch: Path, scale: float, *, whole: bool) -> Contents:
    """Fill the live tree; not `whole` for the raw client alone."""
    contents = Contents(top / "live", scratch / "root.tar", max(int(scale * (1 << 30)), 16 << 20))
    tell("making the live tree")
    raw = contents.tree / "raw"
    raw.mkdir(parents=True)
    for name in contents.small:
        (contents.tree / name).write_text(f"{name}\n")
    noise(raw / "large", min(contents.bytes, 64 << 20))
    for path in (raw, *raw.iterdir()):
        os.chown(path, USER, USER)
    if whole:
        noise(contents.tree / "data", contents.bytes)
        directory = contents.tree / "root"
        directory.mkdir()
        parts = PARTS if scale >= 1 else PARTS[:2]
        run(["tar", "-C", str(root), "-cf", str(contents.tar), *parts])
        run(["tar", "-C", str(directory), "-xf", str(contents.tar)])
        make_repository(root / REPOSITORY, contents.tree / "repository")
    tell("")
    return contents


def make_repository(source: Path, repository: Path) -> None:
    """Commit a directory's files, whose times stay old, so that git trusts them."""
    run(["cp", "-a", str(source), str(repository)])
    git = [
        "git",
        "-C",
        str(repository),
        "-c",
        "user.name=bench",
        "-c",
        "user.email=bench@localhost",
    ]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        run([*git, *words])


def noise(path: Path, size: int) -> None:
    """Make a file of random bytes, in MiB."""
    rng = random.Random(1)
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(rng.randbytes(1 << 20))
