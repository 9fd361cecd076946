"""The lock of a version name: it keeps apart the archive runs, and what relies on there being none.

The lock is an flock of a file in the store's directory, so it ends with its process. All versions
of ventifs use the same file. It also protects what runs leave for one another under the name, such
as the stat cache; this module knows nothing of that but the directory and the files' names:
`NAME`, and names that begin with `.NAME~`, for no version's name has a tilde.
"""

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ventifs.store import Store
from ventifs.store.files import readable_errors
from ventifs.store.lock import take
from ventifs.store.permissions import make_directory, open_or_create

LEFT_BY_RUNS = "statcache"  # directory of a store: locks, and what runs leave for the next ones


def move_left(store: Store, name: str, new: str) -> None:
    """Move what runs left under a name to a new name, in place of what they left there.

    The caller has the locks of both names. A failure costs only time.
    """
    directory = store.path / LEFT_BY_RUNS
    with suppress(OSError):
        left = os.listdir(directory)
        for each in left:
            if _is_left(each, new):
                (directory / each).unlink()
        for each in left:
            if _is_left(each, name):
                (directory / each).replace(directory / each.replace(name, new, 1))


def _is_left(file: str, name: str) -> bool:
    """Whether a run under a name has left the file; locks and temporary files are others."""
    return file == name or file.startswith(f".{name}~")


class RunLock:
    """A lock that is held from its making until it is closed; a context manager.

    Attributes:
        name: of the versions.
    """

    def __init__(self, store: Store, name: str, *, wait: bool = True) -> None:
        """Take the lock of a version name.

        Args:
            store: the store.
            name: of the versions.
            wait: whether to wait for it as long as the store was opened to wait for locks.

        Raises:
            Busy: another run or a rename is at work under this name.
        """
        self.name = name
        directory = store.path / LEFT_BY_RUNS
        with readable_errors(directory):
            make_directory(directory)
        self._fd = _locked(directory / f".{name}.lock", name, (store.wait_s or 0) if wait else 0)

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


def _locked(path: Path, name: str, wait_s: float) -> int:
    with readable_errors(path):
        fd = open_or_create(path)
    try:
        in_use = "another archive run or rename is at work under this name"
        take(fd, name, in_use, alone=True, wait_s=wait_s)
    except BaseException:
        os.close(fd)
        raise
    return fd
