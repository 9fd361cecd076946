"""Reads single files of a live file system into entries.

Everything is opened relative to a directory's descriptor and without following links, so that a
tree that changes while it is read cannot lead elsewhere. A file that changes while it is read is
read once more. If it changes again, it is recorded as it was found, or left out, and reported.
"""

import errno
import os
import resource
import stat
from collections.abc import Iterator
from functools import partial

import msgspec

from ventifs.errors import Corrupt, NotStored
from ventifs.tree.objects.content import WHOLE_MAX, ContentWriter, holds
from ventifs.tree.objects.records import (
    TIME_NS_MAX,
    TIME_NS_MIN,
    Content,
    Detail,
    Device,
    Empty,
    Entry,
    Listed,
    RegularFile,
    Special,
    Symlink,
    Xattrs,
    clamped_ns,
    encode,
    length_of,
)

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_WHOLE_MAX = 4 << 20  # read in one piece
_PIECE = 1 << 20
_PAGE = 4096
_FOR_GOOD = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ELOOP}  # a second try is useless
_NO_HOLES = {errno.EINVAL, errno.EOPNOTSUPP}  # the file system does not report holes: all is data
_NO_XATTRS = {errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES, errno.EINVAL}
_NO_XATTRS_AT_ALL = Empty()


class Trouble(msgspec.Struct, frozen=True):
    """Something that could not be archived, or not as it should be.

    Attributes:
        path: below the archive's root.
        reason: what happened, for people.
        missing: True when the version lacks the path; False when it holds what could be read.
    """

    path: bytes
    reason: str
    missing: bool


class Changed(Exception):
    """A file changed while it was read, or cannot be archived."""


def same_file(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether inode, size, mtime and ctime are the same in both."""
    return (
        before.st_ino == after.st_ino
        and before.st_size == after.st_size
        and before.st_mtime_ns == after.st_mtime_ns
        and before.st_ctime_ns == after.st_ctime_ns
    )


def pieces(fd: int, size: int, blocks: int) -> Iterator[bytes | int]:
    """A file's bytes in pieces of up to 1 MiB, and the lengths of reported holes.

    Raises:
        Changed: when the file ends early.
        OSError: from reading.
    """
    offset = 0
    sparse = blocks * 512 < size
    while offset < size:
        data_at = _next_data(fd, offset, size) if sparse else offset
        if data_at > offset:
            yield data_at - offset
            offset = data_at
            continue
        end = min(size, offset + _PIECE)
        data = _pread(fd, end - offset, offset)
        if len(data) < end - offset:
            raise Changed("shrank while it was read")
        yield data
        offset = end


def _next_data(fd: int, offset: int, end: int) -> int:
    """Where the next data begins, from `offset` on; `end` if there is only a hole before it.

    The result is rounded down to a page, but is never below `offset`. A file system that does not
    report holes counts as all data.

    Raises:
        OSError: any other error. It must not pass for a hole, which would be archived as zeros.
    """
    try:
        found = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end
        if error.errno in _NO_HOLES:
            return offset
        raise
    return min(end, max(offset, found // _PAGE * _PAGE))


def is_zero(fd: int, offset: int, length: int) -> bool:
    """Whether a range reads as zeros; holes, and what is past the file's end, are not read.

    Raises:
        OSError: it cannot be read.
    """
    end = offset + length
    while (offset := _next_data(fd, offset, end)) < end:
        data = os.pread(fd, min(_PIECE, end - offset), offset)
        if data.strip(b"\0"):
            return False
        if not data:
            break  # the file's end
        offset += len(data)
    return True


def _pread(fd: int, length: int, offset: int) -> bytes:
    data = os.pread(fd, length, offset)
    while 0 < len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def entry_of(
    name: bytes, status: os.stat_result, detail: Detail, xattrs: Listed | Content
) -> Entry:
    """The entry of a file; its time is the nearest that an entry holds (see `time_problem`)."""
    time_ns = status.st_mtime_ns
    if not TIME_NS_MIN <= time_ns <= TIME_NS_MAX:
        time_ns = clamped_ns(time_ns)
    return Entry(name, status.st_mode, status.st_uid, status.st_gid, time_ns, detail, xattrs, b"")


def allow_many_descriptors() -> None:
    """Raise the soft limit on open files to the hard one.

    A walk holds a descriptor for every directory on the path to where it is.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Opener:
    """Opens files and directories, without updating their atime where that is allowed."""

    def __init__(self) -> None:
        """Try O_NOATIME until the kernel refuses it."""
        self._noatime = os.O_NOATIME  # dropped when the kernel refuses it: not our file

    def open(self, name: bytes, directory: int) -> int:
        """Open a file or directory by name; a symbolic link is never followed.

        Raises:
            OSError: it cannot be opened, or is a symbolic link.
        """
        try:
            return os.open(name, _OPEN | self._noatime, dir_fd=directory)
        except PermissionError:
            fd = os.open(name, _OPEN, dir_fd=directory)
            self._noatime = 0
            return fd


def live_xattrs(target: int | bytes) -> Xattrs:
    """The extended attributes, in order of names, of a descriptor or of a path, never followed.

    Raises:
        OSError: when they cannot be read; what is not supported or permitted is left out.
    """
    follow = isinstance(target, int)
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    if not names:
        return ()  # the common case
    pairs = []
    for name in sorted(os.fsencode(name) for name in names):
        try:
            pairs.append((name, os.getxattr(target, name, follow_symlinks=follow)))
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise
    return tuple(pairs)


class FileReader:
    """Turns files into entries, and their contents into blocks."""

    def __init__(self, writer: ContentWriter, opener: Opener) -> None:
        """Contents go to `writer`."""
        self._writer = writer
        self._store = writer.store
        self._open = opener.open

    def regular(
        self, name: bytes, directory: int, known: Content | None = None
    ) -> tuple[Entry, os.stat_result, str]:
        """A regular file's entry, its status when it was read, and a problem, or an empty string.

        If the file's content at the previous run is `known`, it is compared first. A file that
        still has it is not cut, and its chunks are not looked up. This saves a good part
        of the time of a run over a tree of new inodes; see docs/performance.md.

        Raises:
            OSError: when it cannot be opened or read, even at a second try.
            Changed: when it is not a regular file any more, or not of the size that it reports.
            Changed, Unfit: as `xattrs`.
        """
        try:
            entry, status, problem = self._try_regular(name, directory, known)
        except OSError as error:
            if error.errno in _FOR_GOOD:
                raise
            problem = "cannot be read"
        if problem:
            entry, status, problem = self._try_regular(name, directory, None)
        if entry is None:
            raise Changed(problem)
        return entry, status, problem

    def _try_regular(
        self, name: bytes, directory: int, known: Content | None
    ) -> tuple[Entry | None, os.stat_result, str]:
        fd = self._open(name, directory)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                return None, before, "is no regular file any more"
            try:
                content = self._content(fd, before, known)
            except Changed as change:
                return None, before, str(change)
            entry = entry_of(name, before, RegularFile(content), self.xattrs(fd))
            unchanged = same_file(before, os.fstat(fd))
            return entry, before, "" if unchanged else "changed while it was read"
        finally:
            os.close(fd)

    def _content(self, fd: int, status: os.stat_result, known: Content | None) -> Content:
        size = status.st_size
        if known is not None and length_of(known) != size:
            known = None
        if size > _WHOLE_MAX:
            if known is not None and self._holds(known, fd, None):
                return known
            return self._writer.write(pieces(fd, size, status.st_blocks))
        data = _pread(fd, max(size, 1), 0)
        if len(data) != size:
            if os.fstat(fd).st_size < size:
                raise Changed("shrank while it was read")
            raise Changed("its size is not what it says")  # a file of /proc says 0, and has bytes
        if known is not None and self._holds(known, fd, memoryview(data)):
            return known
        return self._writer.write_whole(data)

    def _holds(self, content: Content, fd: int, data: memoryview | None) -> bool:
        """Whether a file still has a content; `data`, if given, is the whole file."""

        def piece(offset: int, length: int) -> bytes | memoryview:
            return _pread(fd, length, offset) if data is None else data[offset : offset + length]

        try:
            return holds(self._store, content, piece, partial(is_zero, fd))
        except (Corrupt, NotStored):  # the file is stored again
            return False

    def other(self, name: bytes, directory: int) -> tuple[Entry, os.stat_result, str]:
        """The entry and status of anything but a regular file or a directory; an empty problem.

        Raises:
            OSError: when its status, link target or attributes cannot be read.
            Changed: when it is a regular file or a directory now.
            Changed, Unfit: as `xattrs`.
        """
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        detail: Detail = Special()
        match stat.S_IFMT(status.st_mode):
            case stat.S_IFREG | stat.S_IFDIR:
                raise Changed("became another type of file")
            case stat.S_IFLNK:
                detail = Symlink(os.readlink(name, dir_fd=directory))
            case stat.S_IFCHR | stat.S_IFBLK:
                detail = Device(os.major(status.st_rdev), os.minor(status.st_rdev))
        xattrs = self._xattrs_by_path(name, directory)
        return entry_of(name, status, detail, xattrs), status, ""

    def xattrs(self, target: int | bytes) -> Listed | Content:
        """The extended attributes of a descriptor, or of a path that is not followed.

        Raises:
            OSError: when they cannot be read; what is not supported or permitted is left out.
            Changed: when they are too large to be restored.
            Unfit: when their names are invalid, as a faulty file system may report them.
        """
        xattrs = live_xattrs(target)
        if not xattrs:
            return _NO_XATTRS_AT_ALL  # the common case
        if len(encode(xattrs)) > WHOLE_MAX:
            raise Changed(f"has more than {WHOLE_MAX >> 20} MiB of attributes")
        return self._writer.write_xattrs(xattrs)

    def _xattrs_by_path(self, name: bytes, directory: int) -> Listed | Content:
        # Links and devices cannot be opened; /proc leads to the directory without its path.
        return self.xattrs(b"/proc/self/fd/%d/%s" % (directory, name))
