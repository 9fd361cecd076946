"""The few durable file operations the store is built from.

Everything that changes an arena, the header or a directory goes through one `Files` object, so that
tests can record the exact sequence and replay every state a power cut could leave behind. LMDB does
its own I/O. Operating system errors are turned into the store's exceptions here, and for the index
in `lmdb_environment`.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ventifs.buffer import Buffer
from ventifs.errors import NoSpace, VentifsError
from ventifs.store import permissions
from ventifs.store.exposure import shut_out


@contextmanager
def readable_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into one line that names the path, the reason and the remedy."""
    try:
        yield
    except OSError as error:
        raise explained(error, path) from error


def explained(error: OSError, path: Path) -> VentifsError:
    """The store's exception for an operating system error at `path`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return NoSpace(
                f"{path}: {reason.lower()}; nothing committed was lost: "
                "make room and run the command again"
            )
        case errno.EEXIST | errno.ENOTDIR:
            return VentifsError(f"{path}: {reason.lower()}; name another path")
        case errno.EROFS:
            return VentifsError(
                f"{path}: the file system is read-only; reading works, writing needs it "
                "mounted read-write"
            )
        case errno.EACCES | errno.EPERM:
            remedy = shut_out(path) or "run as its owner, or have the owner grant it"
            return VentifsError(f"{path}: permission denied; {remedy}")
    return VentifsError(f"{path}: {reason.lower()}")


class Files:
    """Durable operations on the real file system. Stateless; safe to share between threads.

    Raises:
        OSError: from every method; callers hold the path and use `readable_errors`.
    """

    def create(self, path: Path) -> int:
        """Create a file that must not exist yet, and return a read-write descriptor."""
        return permissions.create_file(path)

    def append(self, fd: int, parts: Sequence[Buffer], offset: int) -> int:
        """Write `parts` one after the other at `offset`, all or nothing; return the bytes written.

        If a write fails midway, the file is truncated to `offset` before the error is raised.
        """
        wanted = sum(map(len, parts))
        try:
            written = os.pwritev(fd, parts, offset)
            if written < wanted:
                rest = memoryview(b"".join(parts))
                while written < wanted:
                    written += os.pwrite(fd, rest[written:], offset + written)
        except OSError:
            self.truncate(fd, offset)
            raise
        return written

    def overwrite(self, fd: int, data: Buffer, offset: int) -> None:
        """Write `data` over bytes that are already there."""
        os.pwrite(fd, data, offset)

    def truncate(self, fd: int, length: int) -> None:
        """Cut the file to `length` bytes."""
        os.ftruncate(fd, length)

    def allocate(self, fd: int, length: int) -> None:
        """Give the file's first `length` bytes space on disk; new ones are zero."""
        os.posix_fallocate(fd, 0, length)

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        """Ask the kernel to start writing a range of dirty pages, without waiting for it."""
        # On Linux DONTNEED starts write-back of dirty pages and leaves them cached. So a commit
        # waits less in its final fdatasync; see docs/performance.md.
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)

    def sync(self, fd: int) -> None:
        """Make the file's contents and length durable."""
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        """Make names created in, moved into or removed from a directory durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Move a name, replacing `target`."""
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a name; does nothing if it does not exist."""
        path.unlink(missing_ok=True)

    def make_directory(self, path: Path) -> None:
        """Create a directory; one that exists already is no error."""
        permissions.make_directory(path)

    def write_whole(self, path: Path, pieces: Iterable[Buffer]) -> None:
        """Create or replace a file durably: temporary name, sync, rename, sync."""
        temporary = path.with_name(path.name + ".tmp")
        self.unlink(temporary)
        fd = self.create(temporary)
        try:
            offset = 0
            for piece in pieces:
                offset += self.append(fd, [piece], offset)
            self.sync(fd)
        finally:
            os.close(fd)
        self.rename(temporary, path)
        self.sync_directory(path.parent)
