"""How libmount reads fstab, by findmnt and mount, which use it."""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """A line of fstab as libmount understands it; options are those it passes to the kernel."""

    source: str
    directory: str
    flags: str
    options: str | None


def read(fstab: Path, line: str) -> Line:
    """Write a file with this line; return how libmount reads it."""
    fstab.write_bytes(line.encode("utf-8", "surrogateescape") + b"\n")
    done = subprocess.run(
        ["findmnt", "--fstab", "-F", fstab, "-J", "-o", "SOURCE,TARGET,VFS-OPTIONS,FS-OPTIONS"],
        capture_output=True,
        check=True,
    )
    [found] = json.loads(done.stdout.decode("utf-8", "surrogateescape"))["filesystems"]
    return Line(found["source"], found["target"], found["vfs-options"], found["fs-options"])


def pretend(fstab: Path, directory: str) -> "subprocess.CompletedProcess[bytes]":
    """Run `mount --fake` for a directory that the file lists."""
    return subprocess.run(
        ["mount", "--fake", "--no-mtab", "--verbose", "-T", fstab, directory],
        capture_output=True,
        check=False,
    )
