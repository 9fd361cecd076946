"""Restores one large file with all workers, piece by piece, as fast as many small files.

If there is a staging directory, the file is made there, and gets its name only when it is whole.
"""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec

from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.objects.records import Content, Entry, RegularFile, length_of
from ventifs.tree.process_pool import Pool
from ventifs.tree.restore.file_maker import NEW, RestoreTrouble, decode_answer, put_in_place
from ventifs.tree.restore.metadata import dress, xattrs_of
from ventifs.tree.restore.range_writer import WriteRange

_PIECE_BYTES = 8 << 20

ReportBytes = Callable[[int], None]  # gets how many more bytes are done
_encode = msgspec.msgpack.Encoder().encode


class FileFailed(Exception):
    """A file that could not be made.

    Attributes:
        trouble: what went wrong.
    """

    def __init__(self, trouble: RestoreTrouble) -> None:
        """Fail because of `trouble`."""
        super().__init__(trouble.reason)
        self.trouble = trouble


def make_large(
    store: Store,
    pool: Pool,
    entry: Entry,
    directory: int,
    staging: int,
    *,
    overwrite: bool,
    report: ReportBytes,
) -> list[str]:
    """Make a regular file; return what was left out of it.

    Args:
        store: where its attributes are.
        pool: of processes whose task is `file_maker.making`, with nothing in flight.
        entry: of the file.
        directory: descriptor of the directory that it goes into.
        staging: descriptor of the directory to make it in; -1 to make it under its own name.
        overwrite: whether it replaces what has its name.
        report: called now and then.

    Raises:
        Failed: part of it is damaged, or cannot be written; nothing of it is left.
        OSError, VentifsError: the same.
    """
    assert isinstance(entry.detail, RegularFile)
    xattrs = xattrs_of(store, entry)
    where, name = (directory, entry.name) if staging < 0 else (staging, b"large")
    fd = os.open(name, NEW, 0o600, dir_fd=where)
    try:
        os.ftruncate(fd, entry.size)
        pour(pool, entry.detail.content, fd, report)
        less = dress(entry, xattrs, fd)
    except BaseException:
        os.unlink(name, dir_fd=where)
        raise
    finally:
        os.close(fd)
    if staging >= 0:
        settle(name, staging, entry.name, directory, overwrite=overwrite)
    return less


def settle(staged: bytes, staging: int, name: bytes, directory: int, *, overwrite: bool) -> None:
    """Give a staged file its name; without `overwrite`, nothing may have that name.

    Raises:
        OSError: what was there stays, and the staged file is removed.
    """
    if not overwrite:
        try:
            os.link(staged, name, src_dir_fd=staging, dst_dir_fd=directory)
        except OSError as error:
            taken = _is_there(name, directory)
            if taken or error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                os.unlink(staged, dir_fd=staging)
                raise
        else:
            os.unlink(staged, dir_fd=staging)
            return
    put_in_place(staged, staging, name, directory)


def _is_there(name: bytes, directory: int) -> bool:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=directory, follow_symlinks=False)
        return True
    return False


def pour(
    pool: Pool, content: Content, fd: int, report: ReportBytes, *, zeros: bool = False
) -> None:
    """Write a content into an open file that has its final size already, or onto a device.

    Args:
        pool: as for `make_large`.
        content: the content of a file.
        fd: descriptor of the file or device.
        report: called now and then.
        zeros: whether holes are written too, over what may be there.

    Raises:
        Failed: part of it is damaged, or cannot be written.
        VentifsError: a worker died.
    """
    troubles: list[RestoreTrouble] = []

    def answered(length: int, reply: bytes) -> None:
        troubles.extend(decode_answer(reply).troubles)
        report(length)

    total = length_of(content)
    for offset in range(0, total, _PIECE_BYTES):
        length = min(_PIECE_BYTES, total - offset)
        request = _encode(WriteRange(content, offset, length, zeros))
        pool.submit(request, (fd,), partial(answered, length))
        if troubles:
            break
    pool.drain()
    if troubles:
        raise FileFailed(troubles[0])


def pour_device(pool: Pool, entry: Entry, device: str, report: ReportBytes) -> int:
    """Write a whole file onto a block device, zeros too; return how much larger the device is.

    The result is in bytes.

    Raises:
        VentifsError: the device is too small, is in use, or cannot be written.
        Failed: part of the file is damaged or cannot be written; another part is on the device.
        OSError: the device cannot be opened or written.
    """
    assert isinstance(entry.detail, RegularFile)
    try:
        fd = os.open(device, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise VentifsError(f"{device}: in use: it is mounted, or part of another device") from None
    try:
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            raise VentifsError(f"{device}: is no block device any more: look what is there now")
        more = os.lseek(fd, 0, os.SEEK_END) - entry.size
        if more < 0:
            raise VentifsError(
                f"{device}: has {entry.size + more:,} bytes, and the disk {entry.size:,}: "
                "take a larger device"
            )
        pour(pool, entry.detail.content, fd, report, zeros=True)
        os.fsync(fd)
    finally:
        os.close(fd)
    return more
