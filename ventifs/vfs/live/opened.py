"""Open live files: each has a descriptor of its own, so that it goes on whatever becomes of names.

Always: a descriptor is closed when neither the fid nor a thread uses it. What changes a file acts
as the user who opened it, since the kernel clears set-uid bits, and counts blocks, by who writes;
permissions were checked when it was opened.
"""

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from ctypes import create_string_buffer
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from ventifs.buffer import Buffer, FileRange, Piece
from ventifs.vfs.interface import (
    DIRECTORY,
    FILE,
    SYMLINK,
    AttributeChanges,
    Attributes,
    Blocking,
    Cold,
    File,
    Identity,
    Load,
    Lock,
    Refused,
)
from ventifs.vfs.live.attributes import attributes_of, change
from ventifs.vfs.live.descriptors import Descriptor
from ventifs.vfs.live.leftovers import Leftover
from ventifs.vfs.live.marks import number_in
from ventifs.vfs.live.syscalls import entries_of, list_directory

if TYPE_CHECKING:
    from ventifs.vfs.live.files import LiveFile

OFFSET_MAX = (1 << 63) - 1
# Larger writes, and reads, are done by threads. See docs/performance.md.
WRITE_INLINE_MAX = 512 << 10
# Reads of so much or more are sent from the kernel's memory, once a read has shown that it has all
# of it. See docs/performance.md.
SENT_MIN = 32 << 10
_SIZED = 64 << 10  # reads that ask for more are cut to the file's size before memory is taken
_LISTED = 32 << 10  # bytes of one call of the kernel
_KINDS = [FILE] * 16
_KINDS[4], _KINDS[10] = DIRECTORY, SYMLINK


class LiveOpened:
    """An open regular file."""

    __slots__ = ("_descriptor", "_file", "_flags")

    def __init__(self, file: "LiveFile", descriptor: Descriptor, flags: int) -> None:
        """Release the hold on its file when it is closed.

        Args:
            file: which is held.
            descriptor: as it was opened; that of the pin, if the file was made so.
            flags: of open(2).
        """
        self._file = file
        self._descriptor: Descriptor | None = descriptor
        self._flags = flags

    @property
    def _open(self) -> Descriptor:
        descriptor = self._descriptor
        if descriptor is None:
            raise Refused(errno.EBADF)
        return descriptor

    def fileno(self) -> int:
        """See `locks.Lockable`."""
        return self._open.fd

    def reopen(self, mode: int) -> int:
        """See `locks.Lockable`: for writing as the user, unless it is open for that already.

        So who may not write a file gets no write lock of it, and does not keep the host from
        executing it.
        """
        access = self._file.access
        if mode != os.O_RDONLY and self._flags & os.O_ACCMODE == os.O_RDONLY:
            access.check_writable()
            access.act()
        else:
            access.tree.acting.as_server()
        return access.tree.reopen(self._open, mode)

    def attributes(self) -> Attributes:
        """See `Opened`."""
        return attributes_of(self._open.fd)

    def setattr(self, changes: AttributeChanges) -> None:
        """See `Opened`."""
        fd = self._open.fd
        access = self._file.access
        access.check_writable()
        access.act()
        change(fd, changes, access, fd if self._flags & os.O_ACCMODE != os.O_RDONLY else None)

    def read(self, offset: int, count: int) -> Sequence[Piece]:
        """See `Opened`: at once if all of it is in memory, else by a thread.

        File systems that cannot say what is in memory, as tmpfs and overlayfs, are read as `Pace`
        has it.
        """
        descriptor = self._open
        if count > OFFSET_MAX - offset:  # errnos as the kernel has them
            unreadable = self._flags & os.O_ACCMODE == os.O_WRONLY
            raise Refused(errno.EBADF if unreadable else errno.EINVAL)
        tree = self._file.access.tree
        if tree.nowait:
            found = self._read_now(descriptor, offset, count)
            if found is not None:
                return found
        work = partial(_read, descriptor, offset, _sized(descriptor, offset, count))
        if tree.nowait:
            raise Cold(Load(None, work))
        return tree.pace.run(work)

    def _read_now(self, descriptor: Descriptor, offset: int, count: int) -> Sequence[Piece] | None:
        """Read if that needs no disk; None if it does, or if the kernel cannot tell."""
        tree = self._file.access.tree
        buffer: bytearray | memoryview
        if SENT_MIN <= count <= len(tree.scratch):
            buffer = tree.scratch[:count]
        else:
            count = _sized(descriptor, offset, count)
            buffer = bytearray(count)
        try:
            size = os.preadv(descriptor.fd, (buffer,), offset, os.RWF_NOWAIT)
            if size < count and os.preadv(
                descriptor.fd, (bytearray(1),), offset + size, os.RWF_NOWAIT
            ):
                return None
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            tree.nowait = False
            return None
        if isinstance(buffer, bytearray):
            return [_filled(buffer, size)]
        if size < SENT_MIN:
            return self._read_now(descriptor, offset, size)
        return [FileRange(descriptor, descriptor.fd, offset, size)]

    def write(self, offset: int, data: Buffer) -> int:
        """See `Opened`."""
        work = partial(self._write, self._open, offset, data)
        if len(data) > WRITE_INLINE_MAX:
            raise Blocking(work)
        return work()

    def _write(self, descriptor: Descriptor, offset: int, data: Buffer) -> int:
        self._file.access.act()
        return os.pwrite(descriptor.fd, data, offset)

    def fsync(self, *, data_only: bool) -> None:
        """See `Opened`."""
        raise Blocking(partial(_sync, self._open, data_only))

    def entries(self, cookie: int) -> Iterator[tuple[int, bytes, Identity, int]]:
        """Refuse: it is no directory."""
        raise Refused(errno.ENOTDIR)

    def listed(self, name: bytes) -> File:
        """Refuse: it is no directory."""
        raise Refused(errno.ENOTDIR)

    def lock(self, lock: Lock, flags: int) -> int:
        """See `Opened`."""
        file = self._file
        return file.access.locks.lock(number_in(file.mark), self, lock, flags)

    def getlock(self, lock: Lock) -> Lock:
        """See `Opened`."""
        file = self._file
        return file.access.locks.getlock(number_in(file.mark), self, lock)

    def close(self) -> None:
        """See `Opened`. Idempotent."""
        descriptor = self._descriptor
        if descriptor is not None:
            self._descriptor = None
            self._file.release(descriptor if self._flags & os.O_ACCMODE else None)


class LiveListing(LiveOpened):
    """An open directory."""

    __slots__ = ("_at", "_lock")

    def __init__(self, file: "LiveFile", descriptor: Descriptor, flags: int) -> None:
        """See `LiveOpened`."""
        super().__init__(file, descriptor, flags)
        self._at = 0  # where the descriptor is
        self._lock = threading.Lock()  # of that

    def read(self, offset: int, count: int) -> NoReturn:
        """Refuse, as Linux does."""
        raise Refused(errno.EISDIR)

    def write(self, offset: int, data: Buffer) -> NoReturn:
        """Refuse, as Linux does."""
        raise Refused(errno.EBADF)

    def entries(self, cookie: int) -> Iterator[tuple[int, bytes, Identity, int]]:
        """See `Opened`; cookies are the kernel's own, which deletions do not change.

        Identities have the version 1: a listing does not know when files were born.
        """
        if cookie > OFFSET_MAX:
            raise Refused(errno.EINVAL)
        tree, number = self._file.access.tree, number_in(self._file.mark)
        beside = tree.number_beside
        while True:
            left = tree.leftovers.take(self, cookie)
            if left is None:
                tree.pace.bring(self, partial(self._bring, self._open, cookie))
                continue
            if left.end:
                return
            whole = False
            try:
                for ino, cookie, kind, name in left:  # noqa: PLR1704
                    if name == b"..":
                        identity = self._above()
                    else:
                        identity = Identity(_KINDS[kind], 1, beside(number, ino))
                    yield cookie, name, identity, kind
                whole = True
            finally:
                if not whole:
                    tree.leftovers.put(self, left)

    def listed(self, name: bytes) -> File:
        """See `Opened`."""
        return self._file.walk(name)

    def _above(self) -> Identity:
        """The identity of `..`; nothing is revealed of what is above the root."""
        above = self._file if self._file.above is None else self._file.above
        return above.identity

    def _bring(self, descriptor: Descriptor, cookie: int) -> None:
        """Read entries from a cookie on. May wait for the disk."""
        buffer = create_string_buffer(_LISTED)
        with self._lock:
            if self._at != cookie:
                os.lseek(descriptor.fd, cookie, os.SEEK_SET)
            self._at = -1  # unless what follows goes well
            length = list_directory(descriptor.fd, buffer)
            found = list(entries_of(buffer, length))
            self._at = found[-1][1] if found else cookie
        tree = self._file.access.tree
        tree.leftovers.put(self, Leftover(cookie, iter(found), end=not found))

    def close(self) -> None:
        """See `Opened`."""
        self._file.access.tree.leftovers.forget(self)
        super().close()


def _sized(descriptor: Descriptor, offset: int, count: int) -> int:
    """How much memory a read needs, if it asks for much."""
    if count <= _SIZED:
        return count
    return max(min(count, os.fstat(descriptor.fd).st_size - offset), 1)


def _filled(buffer: bytearray, size: int) -> Buffer:
    """The filled part of a buffer, which is not kept for less than half of its bytes."""
    return memoryview(buffer)[:size] if 2 * size >= len(buffer) else bytes(buffer[:size])


def _read(descriptor: Descriptor, offset: int, count: int) -> list[Buffer]:
    """Read, and wait for the disk: `count` bytes unless the file ends before."""
    buffer = bytearray(count)
    view, size = memoryview(buffer), 0
    while size < count:
        more = os.preadv(descriptor.fd, (view[size:],), offset + size)
        if not more:
            break
        size += more
    return [_filled(buffer, size)]


def _sync(descriptor: Descriptor, data_only: bool) -> None:
    (os.fdatasync if data_only else os.fsync)(descriptor.fd)
