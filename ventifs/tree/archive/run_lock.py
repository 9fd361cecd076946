"""The lock of a version name: it keeps apart the archive runs, and what relies on there being none.

The lock is an flock of a file in the store's directory, so it ends with its process. All versions
of ventifs use the same file. It also protects what runs leave for one another under the name, such
as the stat cache; this module knows nothing of that but the directory.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from ventifs.errors import Busy
from ventifs.store import Store
from ventifs.store.files import readable_errors
from ventifs.store.permissions import make_directory, open_or_create

LEFT_BY_RUNS = "statcache"  # directory of a store: locks, and what runs leave for the next ones


class RunLock:
    """A lock that is held from its making until it is closed; a context manager.

    Attributes:
        name: of the versions.
    """

    def __init__(self, store: Store, name: str) -> None:
        """Take the lock of a version name, without waiting.

        Raises:
            Busy: another run under this name is at work.
        """
        self.name = name
        directory = store.path / LEFT_BY_RUNS
        with readable_errors(directory):
            make_directory(directory)
        self._fd = _locked(directory / f".{name}.lock", name)

    def close(self) -> None:
        """Give up the lock. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        """Return the lock itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give up the lock."""
        self.close()


def _locked(path: Path, name: str) -> int:
    with readable_errors(path):
        lock = open_or_create(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Busy(
            f"{name}: another run is archiving under this name; wait for it, or use another name"
        ) from None
    return lock
