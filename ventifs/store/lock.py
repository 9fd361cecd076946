"""The store's lock: an flock on one file, which ends with its holder and so is never stale."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ventifs.errors import Busy
from ventifs.store.files import readable_errors
from ventifs.store.permissions import open_or_create


@contextmanager
def store_lock(root: Path, *, alone: bool) -> Iterator[None]:
    """Hold the store's lock: shared by writers, exclusive (`alone`) for all that needs it alone.

    That is a rebuild, a repair, an upgrade, and the creation of a store.

    Raises:
        Busy: when the lock is held elsewhere in a conflicting mode.
        VentifsError: when the lock file cannot be opened.
    """
    path = root / "lock"
    with readable_errors(path):
        fd = open_or_create(path)
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        who = (
            "another ventifs is writing to it"
            if alone
            else "a rebuild, repair or upgrade is running"
        )
        raise Busy(f"{root}: the store is in use: {who}; try again when that is done") from None
    finally:
        os.close(fd)
