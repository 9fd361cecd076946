"""The lock of a store's catalog: one change of records at a time reads the catalog and commits.

The lock is an flock of `catalog.lock` in the store's directory, so it ends with its process. It is
held from reading the catalog until the change is committed, and never while anything is archived
or sent. Order of locks: run locks, then this one; nothing else is locked while it is held. Readers
do without it. Programs older than the lock do not know it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ventifs.store import Store
from ventifs.store.files import readable_errors
from ventifs.store.lock import let_go, take
from ventifs.store.permissions import open_or_create

LOCK_NAME = "catalog.lock"
UNLOCKED_BYTES = 16 << 20  # more new blocks than this are committed before the lock is taken


@contextmanager
def catalog_lock(store: Store) -> Iterator[None]:
    """Hold the lock of a store's catalog; wait for it, which takes as long as a commit.

    The store may have been opened with a limit to waiting.

    Concurrency: keeps out other threads of this process too. Not reentrant.

    Raises:
        Busy: the limit is reached.
        VentifsError: the store is not open for writing, or the lock file cannot be opened.
    """
    store.check_writable()
    path = store.path / LOCK_NAME
    holder = os.getpid()
    fd = _locked(path, store.wait_s)
    try:
        yield
    finally:
        let_go(fd, holder)


def _locked(path: Path, wait_s: float | None) -> int:
    """A descriptor of the lock file, locked."""
    while True:
        with readable_errors(path):
            fd = open_or_create(path)
            try:
                in_use = "another command is changing the catalog"
                take(fd, str(path), in_use, alone=True, wait_s=wait_s)
                if _is_at(fd, path):
                    return fd
            except BaseException:
                os.close(fd)
                raise
        os.close(fd)  # the file was removed meanwhile, and others lock the next one


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
