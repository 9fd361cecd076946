"""Directories in memory, for tests of stores that do not depend on the kind of disk.

A store syncs at every commit, and tests commit thousands of times. Waiting for a disk proves
nothing: what a power cut costs is decided by the order of operations, which `recording.py` records
and replays. The system calls are the same in memory: `fsync` is called, and its errors are seen.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

_MEMORY = Path("/dev/shm")
_FREE_MIN = 2 << 30  # a container may have 64 MiB


def memory_or(disk: Path, failures: Callable[[], int]) -> Iterator[Path]:
    """Yield an empty directory in memory, or `disk` where memory is short; remove it in the end.

    Like pytest's own, it is below a directory that is closed to other users.

    Args:
        disk: an empty directory. What a failed test leaves is copied here.
        failures: returns the number of failures so far.
    """
    if not _is_there_room():
        yield disk
        return
    before = failures()
    closed = Path(mkdtemp(prefix="ventifs-test-", dir=_MEMORY))
    path = closed / disk.name
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        if failures() > before:
            subprocess.run(["cp", "-a", path, disk], check=False)
        shutil.rmtree(closed)


def _is_there_room() -> bool:
    try:
        status = os.statvfs(_MEMORY)
    except OSError:
        return False
    return os.access(_MEMORY, os.W_OK) and status.f_bavail * status.f_frsize >= _FREE_MIN
