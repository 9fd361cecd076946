"""Maps exceptions to the errnos that clients get: one ordered table, whose first match counts."""

import errno
import logging

from ventifs.errors import Busy, Corrupt, NoSpace, NotStored, VentifsError
from ventifs.tree.objects.directory import NoSuchPath
from ventifs.tree.versions.catalog import NoSuchVersion
from ventifs.vfs.interface import Refused

log = logging.getLogger(__name__)

ERRNOS: tuple[tuple[type[BaseException], int], ...] = (
    (NoSuchVersion, errno.ENOENT),
    (NoSuchPath, errno.ENOENT),
    (Corrupt, errno.EIO),
    (NotStored, errno.EIO),
    (NoSpace, errno.ENOSPC),
    (Busy, errno.EAGAIN),
    (MemoryError, errno.ENOMEM),
)
_SILENT = frozenset({errno.ENOENT})  # clients' mistakes; the others are logged


def errno_of(error: BaseException) -> int:
    """The errno to send to a client; logs what an operator should know.

    Args:
        error: what an operation raised. A `Refused`, and an OSError that the table does not have,
            carry their own errno. Any other VentifsError is EIO, and logged. Anything else is a
            bug: it is EIO, and logged with its traceback.
    """
    if isinstance(error, Refused):
        return error.errno
    for kind, number in ERRNOS:
        if isinstance(error, kind):
            if number not in _SILENT:
                log.error("%s", error)
            return number
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, VentifsError):
        log.error("%s", error)
    else:
        log.error("an operation failed", exc_info=error)
    return errno.EIO
