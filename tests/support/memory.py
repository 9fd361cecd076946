"""Measures the memory of a command and all its processes together."""

import os
import subprocess
from pathlib import Path

_EVERY_S = 0.05
_KIB = 1024


def peak_memory(child: "subprocess.Popen[bytes]") -> int:
    """Wait for a child; return the peak memory of it and its descendants, in bytes.

    Shared memory is counted once: the figure is the sum of their proportional set sizes, sampled
    twenty times a second.
    """
    most = 0
    while child.poll() is None:
        most = max(most, sum(_memory(pid) for pid in family(child.pid)))
        try:
            child.wait(_EVERY_S)
        except subprocess.TimeoutExpired:
            continue
    return most


def family(pid: int) -> list[int]:
    """The pids of a process and all its descendants."""
    found = [pid]
    for task in _listed(f"/proc/{pid}/task"):
        for child in _read(f"/proc/{pid}/task/{task}/children").split():
            found += family(int(child))
    return found


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""  # it has ended


def _memory(pid: int) -> int:
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * _KIB
    return 0
