"""Files with locks for tests, and processes of the host that hold locks of their own."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from struct import Struct

from tests.support import processes
from tests.support.patience import PATIENCE_S

_FLOCK = Struct("@hhqqi0q")
READ, WRITE = 0, 1


class OpenFile:
    """A file that is open, as `locks.Lockable` has it.

    Attributes:
        reopened: the modes in which it was opened once more.
    """

    def __init__(self, path: Path, mode: int = os.O_RDWR) -> None:
        self.path = path
        self.reopened: list[int] = []
        self._fd = os.open(path, mode | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Its descriptor."""
        return self._fd

    def reopen(self, mode: int) -> int:
        """Open it once more."""
        self.reopened.append(mode)
        return os.open(self.path, mode | os.O_CLOEXEC | os.O_NONBLOCK)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


def record(fd: int, command: int, kind: int, start: int, length: int) -> tuple[int, int, int, int]:
    """Call fcntl(2) for a record lock; return what it answers: type, start, length and process."""
    answer = fcntl.fcntl(fd, command, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    found, _, at, size, pid = _FLOCK.unpack(answer)
    return found, at, size, pid


@contextmanager
def held_by_process(
    path: Path, kind: int, start: int = 0, length: int = 0, *, command: int = fcntl.F_SETLK
) -> Iterator[int]:
    """A process of the host that holds a lock: its number. The lock ends with the block."""
    ours, theirs = Pipe()
    child = processes.start(_hold, str(path), command, kind, start, length, theirs)
    theirs.close()
    try:
        assert ours.poll(PATIENCE_S), "a process does not get its lock"
        yield ours.recv()
    finally:
        ours.close()
        assert processes.finished(child) == 0


def _hold(path: str, command: int, kind: int, start: int, length: int, say: Connection) -> None:
    fd = os.open(path, os.O_RDWR)
    record(fd, command, kind, start, length)
    say.send(os.getpid())
    with suppress(EOFError):
        say.recv()
