"""A restore's worker: makes the entries of a batch, in directories that are open.

A request lists pairs of (index of a descriptor, canonical entry), or is a `WriteRange` of a large
file. The reply lists what went wrong, by the entry's index in the list. Without `overwrite`, files
are made under their own names; a new directory lets only this user in until it is done. With
`overwrite`, files are made in a private staging directory (the next descriptor) and moved to their
names when they are whole. An entry that cannot be made whole is removed.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path

import msgspec

from ventifs.buffer import Buffer
from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Score, Store
from ventifs.store.lmdb_environment import IndexDamaged
from ventifs.tree.archive.file_reader import allow_many_descriptors
from ventifs.tree.objects.records import (
    Block,
    Content,
    Device,
    Empty,
    Entry,
    Inline,
    RegularFile,
    Symlink,
    Xattrs,
    length_of,
)
from ventifs.tree.process_pool import Handle
from ventifs.tree.restore.metadata import NOT_ALLOWED, because, dress, dress_name, xattrs_of
from ventifs.tree.restore.range_writer import WriteRange, write_all, write_piece
from ventifs.tree.restore.unchanged import is_there

CACHE_BYTES = 16 << 20  # decoded clumps in each worker; bounds all of them; see docs/performance.md
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
STOPPING = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
}
_REASONS = {
    errno.ENOTEMPTY: "a directory with things in it is in the way; move it away and run again",
    errno.EBUSY: "a mount point is in the way",
    errno.EEXIST: "something is there already; --overwrite replaces it",
}
_KIND_NAMES = {
    stat.S_IFLNK: "symbolic link",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
}


class Consequence(IntEnum):
    """What a trouble means for its entry."""

    LESS = 0  # made, but without something that the user may not restore
    LEFT_OUT = 1  # not made, because the user may not
    FAILED = 2  # not made
    STOPPED = 3  # not made, and neither can anything after it


class RestoreTrouble(msgspec.Struct, array_like=True, gc=False):
    """What went wrong with one entry of a batch."""

    number: int
    kind: int
    reason: str
    errno: int = 0


class Answer(msgspec.Struct, array_like=True):
    """The result of a batch; `kept` counts files that were there already, exactly as archived."""

    troubles: list[RestoreTrouble]
    kept: int = 0


encode = msgspec.msgpack.Encoder().encode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
# Entries were checked when their directory was read: here they are only decoded, which is cheap;
# see docs/performance.md.
_decode_request = msgspec.msgpack.Decoder(list[tuple[int, Entry]] | WriteRange).decode


class _NotAllowed(Exception):
    pass


@contextmanager
def making(store: Path, *, overwrite: bool) -> Iterator[Handle]:
    """The task of a worker: answers batches, with a store of its own."""
    allow_many_descriptors()
    before = os.umask(0)  # so that files are created with their final mode
    try:
        with Store.open(store, cache_bytes=CACHE_BYTES) as opened:
            yield Maker(opened, overwrite=overwrite).handle
    finally:
        os.umask(before)


class Maker:
    """Makes everything but directories."""

    def __init__(self, store: Store, *, overwrite: bool) -> None:
        """Contents come from `store`."""
        self._store = store
        self._overwrite = overwrite
        self._owner = os.geteuid(), os.getegid()
        self._staged = 0

    def handle(self, request: bytes, descriptors: Sequence[int]) -> bytes:
        """Make a batch, or write a piece; return the encoded `Answer`."""
        answer = Answer([])
        wanted = _decode_request(request)
        if isinstance(wanted, WriteRange):
            self._write_piece(wanted, descriptors[0], answer)
            return encode(answer)
        for number, (at, entry) in enumerate(wanted):
            try:
                if self._overwrite:
                    less = self._replace(entry, descriptors[at], descriptors[at + 1], answer)
                else:
                    less = self._make(entry, entry.name, descriptors[at])
            except _NotAllowed as error:
                answer.troubles.append(RestoreTrouble(number, Consequence.LEFT_OUT, str(error)))
            except IndexDamaged:  # rebuilding the index repairs it for all entries
                raise
            except VentifsError as error:
                answer.troubles.append(RestoreTrouble(number, Consequence.FAILED, str(error)))
            except OSError as error:
                answer.troubles.append(trouble_of(error, number))
                if answer.troubles[-1].kind == Consequence.STOPPED:
                    break
            else:
                answer.troubles += [RestoreTrouble(number, Consequence.LESS, what) for what in less]
        return encode(answer)

    def _replace(self, entry: Entry, directory: int, staging: int, answer: Answer) -> list[str]:
        if self._is_there(entry, directory):
            answer.kept += 1
            return []
        self._staged += 1
        staged = b"%d.%d" % (os.getpid(), self._staged)
        less = self._make(entry, staged, staging)
        put_in_place(staged, staging, entry.name, directory)
        return less

    def _make(self, entry: Entry, name: bytes, directory: int) -> list[str]:
        """Make one entry under a free name; return what was left out of it."""
        xattrs = xattrs_of(self._store, entry)
        if type(entry.detail) is RegularFile:
            return self._make_file(entry, entry.detail.content, xattrs, name, directory)
        _make_node(entry, name, directory)
        try:
            return dress_name(entry, xattrs, name, directory)
        except BaseException:
            os.unlink(name, dir_fd=directory)
            raise

    def _make_file(
        self, entry: Entry, content: Content, xattrs: Xattrs, name: bytes, directory: int
    ) -> list[str]:
        # Hot. Most files are one block: it is read before the file is made, and written by one
        # call. Setting attributes needs write permission, so a file with some starts as 0600.
        whole = self._whole(content)
        ours = (entry.uid, entry.gid) == self._owner and not xattrs
        fd = os.open(name, NEW, entry.mode & 0o777 if ours else 0o600, dir_fd=directory)
        try:
            if whole is None:
                size = length_of(content)
                if write_piece(self._store, WriteRange(content, 0, size), fd) < size:
                    os.ftruncate(fd, size)  # it ends in a hole
            else:
                if whole:
                    write_all(fd, [whole], 0)
                if len(whole) < length_of(content):
                    os.ftruncate(fd, length_of(content))
            return dress(entry, xattrs, fd)
        except BaseException:
            os.unlink(name, dir_fd=directory)
            raise
        finally:
            os.close(fd)

    def _whole(self, content: Content) -> Buffer | None:
        """Bytes of a content in one piece, without a block's trailing zeros; None for a tree."""
        match content:
            case Block(score, length):
                data = self._store.get(Score(score))
                if len(data) > length:
                    raise Corrupt(
                        f"block of {len(data)} bytes where {length} are said", score=score
                    )
                return data
            case Inline(data):
                return data
            case Empty():
                return b""
        return None

    def _write_piece(self, piece: WriteRange, fd: int, answer: Answer) -> None:
        try:
            write_piece(self._store, piece, fd)
        except IndexDamaged:
            raise
        except VentifsError as error:
            answer.troubles.append(RestoreTrouble(0, Consequence.FAILED, str(error)))
        except OSError as error:
            answer.troubles.append(trouble_of(error))

    def _is_there(self, entry: Entry, directory: int) -> bool:
        """Whether a regular file is there already, so that it need not be made again.

        Hard-linked files are always made again: other names may share them. A file that looks the
        same is read and compared, so that neither damage nor tampering survives. That takes as long
        as making the file again, but writes nothing.
        """
        if type(entry.detail) is not RegularFile or entry.link:
            return False
        return is_there(self._store, entry, entry.detail.content, directory)


def _make_node(entry: Entry, name: bytes, directory: int) -> None:
    """Make a symbolic link, device, FIFO or socket.

    Raises:
        _NotAllowed: the user may not make it.
        OSError: for other reasons.
    """
    try:
        if isinstance(entry.detail, Symlink):
            os.symlink(entry.detail.target, name, dir_fd=directory)
            return
        device = 0
        if isinstance(entry.detail, Device):
            device = os.makedev(entry.detail.major, entry.detail.minor)
        os.mknod(name, stat.S_IFMT(entry.mode) | 0o600, device, dir_fd=directory)
    except OSError as error:
        if error.errno not in NOT_ALLOWED:
            raise
        raise _NotAllowed(
            because(f"{_KIND_NAMES[stat.S_IFMT(entry.mode)]} not made", error)
        ) from None


def put_in_place(staged: bytes, staging: int, name: bytes, directory: int) -> None:
    """Move a staged entry to its name, over anything but a directory that is not empty.

    Raises:
        OSError: what was there stays, and the staged entry is removed.
    """
    try:
        try:
            os.rename(staged, name, src_dir_fd=staging, dst_dir_fd=directory)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=directory)
            os.rename(staged, name, src_dir_fd=staging, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(staged, dir_fd=staging)
        raise


def trouble_of(error: OSError, number: int = 0) -> RestoreTrouble:
    """What an error of the operating system means for an entry."""
    code = error.errno or 0
    reason = _REASONS.get(code) or os.strerror(code).lower()
    return RestoreTrouble(
        number, Consequence.STOPPED if code in STOPPING else Consequence.FAILED, reason, code
    )
