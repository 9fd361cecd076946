"""Linux system calls that `os` lacks, as plain functions, for x86_64 and aarch64.

Every function raises OSError with the kernel's errno. Calls that never wait for a disk keep the
interpreter's lock (`PyDLL`): giving it up costs as much as they do. Calls that may wait give it up
(`CDLL`), so that other threads go on. Buffers that calls fill belong to the thread. The calls that
change credentials are raw, and change those of the calling thread alone; libc's own would change
all threads. This module knows descriptors and names, and nothing of trees or users.
"""

import ctypes
import errno
import os
import platform
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple, NoReturn

_NUMBERS = {
    "x86_64": (303, 304, 217, 116, 122, 123, 125, 126),
    "aarch64": (264, 265, 61, 159, 151, 152, 90, 91),
}
(
    _NAME_TO_HANDLE_AT,
    _OPEN_BY_HANDLE_AT,
    _GETDENTS64,
    _SETGROUPS,
    _SETFSUID,
    _SETFSGID,
    _CAPGET,
    _CAPSET,
) = map(ctypes.c_long, _NUMBERS.get(platform.machine(), _NUMBERS["x86_64"]))
_OPENAT2, _FACCESSAT2 = ctypes.c_long(437), ctypes.c_long(439)  # the same on both

_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_SYMLINK_FOLLOW, _AT_EMPTY_PATH = -100, 0x100, 0x400, 0x1000
_AT_EACCESS = 0x200
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_HANDLE_MAX = 128  # MAX_HANDLE_SZ
_STATX_WANTED = 0xFFF  # STATX_BASIC_STATS | STATX_BTIME

# include/uapi/linux/openat2.h
_NO_XDEV, _NO_MAGICLINKS, _BENEATH, _CACHED = 0x01, 0x02, 0x08, 0x20

_RESOLVE = _BENEATH | _NO_XDEV | _NO_MAGICLINKS
_RESOLVE_CACHED = _RESOLVE | _CACHED
_OPEN_HOW = Struct("=QQQ")
_OPEN_HOW_SIZE = ctypes.c_long(_OPEN_HOW.size)

_U32 = Struct("=I")
_HANDLE_HEADER = Struct("=Ii")
_DIRENT = Struct("=QQHB")
_DIRENT_SIZE = _DIRENT.size
_TIMES = Struct("=qqqq")
_CAP_HEADER = Struct("=Ii").pack(0x2008_0522, 0)  # version 3, this thread

_waiting = ctypes.CDLL(None, use_errno=True)
_prompt = ctypes.PyDLL(None, use_errno=True)
_errno = ctypes.get_errno
_MESSAGES = {number: os.strerror(number) for number in errno.errorcode}


def _call(library: ctypes.CDLL, name: str) -> Callable[..., int]:
    """A function of libc; without declared arguments, a call converts them in half the time."""
    return library[name]


_syscall = _call(_prompt, "syscall")
_waiting_syscall = _call(_waiting, "syscall")
_statx = _call(_prompt, "statx")
_waiting_statx = _call(_waiting, "statx")
_fchownat = _call(_waiting, "fchownat")
_utimensat = _call(_waiting, "utimensat")
_linkat = _call(_waiting, "linkat")
_fstatfs = _call(_waiting, "fstatfs")


class _Buffers(threading.local):
    """What calls of one thread fill."""

    def __init__(self) -> None:
        self.statx = ctypes.create_string_buffer(256)
        self.handle = ctypes.create_string_buffer(8 + _HANDLE_MAX)
        self.mount = ctypes.create_string_buffer(4)


_buffers = _Buffers()


def _fail() -> NoReturn:
    number = _errno()
    raise OSError(number, _MESSAGES.get(number) or os.strerror(number))


class Statx(NamedTuple):
    """What statx(2) reports; times are nanoseconds since 1970.

    Attributes:
        dev, rdev: as makedev(3) packs them.
        blocks: in units of 512 bytes.
        btime_ns: when the file was made; 0 where the file system does not record that.
    """

    mode: int
    ino: int
    dev: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    blksize: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int


# mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, attributes_mask; then atime,
# btime, ctime, mtime of 16 bytes each, and the numbers of two devices
_STATX = Struct("=4xI8xIIIH2xQQQ8xqI4xqI4xqI4xqI4xIIII")
_unpack_statx = _STATX.unpack_from
_makedev = os.makedev
_new_tuple = tuple.__new__


def statx(fd: int) -> Statx:
    """The attributes of the file of a descriptor, which may be one of O_PATH."""
    buffer = _buffers.statx
    if _statx(fd, b"", _AT_EMPTY_PATH, _STATX_WANTED, buffer) < 0:
        _fail()
    return _unpacked(buffer)


Born = tuple[int, int, int, int, int]
"""What a file is known by: mode, inode, seconds and nanoseconds of its birth, and its device.

The device has its minor number in the upper half, its major number in the lower. A tuple without
names takes half the time of one with names.
"""
_BORN = Struct("=28xH2xQ40xqI44xQ")  # of a struct statx
_unpack_born = _BORN.unpack_from


def filesystem_type(fd: int) -> int:
    """The magic number of a descriptor's file system, as statfs(2) has it. May wait."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs has 120 bytes
    if _fstatfs(fd, buffer) < 0:
        _fail()
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFF_FFFF


def born(fd: int) -> Born:
    """What the file of a descriptor is known by; the descriptor may be one of O_PATH."""
    buffer = _buffers.statx
    if _statx(fd, b"", _AT_EMPTY_PATH, _STATX_WANTED, buffer) < 0:
        _fail()
    return _unpack_born(buffer)


def born_at(directory: int, name: bytes) -> Born:
    """What a name in a directory is known by; a symbolic link itself."""
    buffer = _buffers.statx
    if _waiting_statx(directory, name, _AT_SYMLINK_NOFOLLOW, _STATX_WANTED, buffer) < 0:
        _fail()
    return _unpack_born(buffer)


def _unpacked(buffer: Any) -> Statx:
    (
        blksize, nlink, uid, gid, mode, ino, size, blocks,
        atime, atime_ns, btime, btime_ns, ctime, ctime_ns, mtime, mtime_ns,
        rdev_major, rdev_minor, dev_major, dev_minor,
    ) = _unpack_statx(buffer)  # fmt: skip
    return _new_tuple(
        Statx,
        (
            mode,
            ino,
            _makedev(dev_major, dev_minor),
            nlink,
            uid,
            gid,
            _makedev(rdev_major, rdev_minor),
            size,
            blocks,
            blksize,
            atime * 1_000_000_000 + atime_ns,
            mtime * 1_000_000_000 + mtime_ns,
            ctime * 1_000_000_000 + ctime_ns,
            btime * 1_000_000_000 + btime_ns,
        ),
    )


@lru_cache(256)
def _how(flags: int, mode: int, resolve: int) -> bytes:
    """A struct open_how."""
    return _OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, resolve)


_LOOK_UP = _OPEN_HOW.pack(os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0, _RESOLVE_CACHED)


def look_up(directory: int, name: bytes) -> int:
    """Open a name in a directory by O_PATH if that needs no disk; see `open_beneath`."""
    fd = _syscall(_OPENAT2, directory, name, _LOOK_UP, _OPEN_HOW_SIZE)
    if fd < 0:
        _fail()
    return fd


def open_beneath(
    directory: int, name: bytes, flags: int, cached: bool = True, mode: int = 0
) -> int:
    """Open a name beneath a directory; neither mount points nor `/proc`'s links are passed.

    Args:
        directory: a descriptor; one of O_PATH will do.
        name: one component, or several.
        flags: of open(2); O_CLOEXEC is added.
        cached: fail with EAGAIN where a disk would have to be read; creating and truncating always
            fail so.
        mode: for O_CREAT, else 0.

    Returns:
        The new descriptor, which the caller closes.

    Raises:
        OSError: EXDEV if the name leads to a mount point or outside.
    """
    if cached:
        fd = _syscall(_OPENAT2, directory, name, _how(flags, mode, _RESOLVE_CACHED), _OPEN_HOW_SIZE)
    else:
        how = _how(flags, mode, _RESOLVE)
        fd = _waiting_syscall(_OPENAT2, directory, name, how, _OPEN_HOW_SIZE)
    if fd < 0:
        _fail()
    return fd


def handle_of(fd: int) -> bytes:
    """The file handle of a descriptor's file: its type in 4 bytes, and the handle itself.

    It names this file for ever: inode numbers of deleted files are used again, handles are not. The
    call needs no privilege.

    Raises:
        OSError: EOPNOTSUPP if the file system has no handles.
    """
    buffers = _buffers
    handle = buffers.handle
    _HANDLE_HEADER.pack_into(handle, 0, _HANDLE_MAX, 0)
    if _syscall(_NAME_TO_HANDLE_AT, fd, b"", handle, buffers.mount, _AT_EMPTY_PATH) < 0:
        _fail()
    (length,) = _U32.unpack_from(handle)
    return ctypes.string_at(ctypes.addressof(handle) + 4, 4 + length)


def open_handle(mount: int, handle: bytes, flags: int) -> int:
    """Open the file of a handle; needs CAP_DAC_READ_SEARCH.

    Args:
        mount: a descriptor of any file on that file system, but none of O_PATH.
        handle: of `handle_of`.
        flags: of open(2); O_CLOEXEC is added.

    Returns:
        The new descriptor, which the caller closes.

    Raises:
        OSError: ESTALE if the file does not exist any more.
    """
    packed = _U32.pack(len(handle) - 4) + handle
    fd = _waiting_syscall(_OPEN_BY_HANDLE_AT, mount, packed, flags | os.O_CLOEXEC)
    if fd < 0:
        _fail()
    return fd


def list_directory(fd: int, buffer: "ctypes.Array[ctypes.c_char]") -> int:
    """Fill a buffer with the next entries of an open directory, as getdents64(2).

    Args:
        fd: whose position, a `d_off` or 0, says where to begin; lseek(2) sets it.
        buffer: of `ctypes.create_string_buffer`, at least 288 bytes.

    Returns:
        How many bytes were filled; 0 at the end.
    """
    length = _waiting_syscall(_GETDENTS64, fd, buffer, ctypes.c_long(len(buffer)))
    if length < 0:
        _fail()
    return length


def entries_of(
    buffer: "ctypes.Array[ctypes.c_char]", length: int
) -> Iterator[tuple[int, int, int, bytes]]:
    """The entries in a buffer of `list_directory`.

    Yields:
        Inode number, d_off as an unsigned number, kind (DT_REG and so on), name; `.` and `..`
        included.
    """
    data = ctypes.string_at(buffer, length)
    unpack, find = _DIRENT.unpack_from, data.index
    at = 0
    while at < length:
        ino, offset, size, kind = unpack(data, at)
        start = at + _DIRENT_SIZE
        yield ino, offset, kind, data[start : find(0, start)]
        at += size


def chown_empty(fd: int, uid: int, gid: int) -> None:
    """Change the owner of a descriptor's file, which may be one of O_PATH; -1 leaves one as it is.

    A call with -1 for both changes the ctime alone.
    """
    if _fchownat(fd, b"", uid, gid, _AT_EMPTY_PATH) < 0:
        _fail()


def set_times(fd: int, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Change the times of a descriptor's file, which may be one of O_PATH.

    Args:
        fd: the descriptor.
        atime_ns: nanoseconds since 1970; -1 is now, None leaves it as it is.
        mtime_ns: likewise.
    """
    times = _TIMES.pack(*_timespec(atime_ns), *_timespec(mtime_ns))
    if _utimensat(fd, b"", times, _AT_EMPTY_PATH) < 0:
        _fail()


def _timespec(time_ns: int | None) -> tuple[int, int]:
    if time_ns is None:
        return 0, _UTIME_OMIT
    if time_ns == -1:
        return 0, _UTIME_NOW
    return divmod(time_ns, 1_000_000_000)


def proc_path(fd: int) -> bytes:
    """A path to the file of a descriptor; it leads to a symbolic link itself."""
    return b"/proc/self/fd/%d" % fd


def permitted(fd: int, wanted: int) -> bool:
    """Whether this thread may use a descriptor's file, which may be one of O_PATH, as it acts now.

    It counts as which user and group the thread uses files, and what its effective capabilities
    are, unlike with access(2). Nothing may be executed on a mount with `noexec`.

    Args:
        fd: the descriptor.
        wanted: os.R_OK, os.W_OK, os.X_OK, or several.
    """
    flags = _AT_EACCESS | _AT_EMPTY_PATH
    return not _waiting_syscall(_FACCESSAT2, fd, b"", wanted, flags)


def link_by_fd(fd: int, directory: int, name: bytes) -> None:
    """Give a descriptor's file, which may be one of O_PATH or a symbolic link, another name.

    The kernel checks that the calling thread's user may do so, as for link(2).
    """
    if _linkat(_AT_FDCWD, proc_path(fd), directory, name, _AT_SYMLINK_FOLLOW) < 0:
        _fail()


def set_groups(groups: Sequence[int]) -> None:
    """Set the supplementary groups of this thread; needs CAP_SETGID."""
    if _syscall(_SETGROUPS, len(groups), array("I", groups).tobytes()) < 0:
        _fail()


def set_fsuid(uid: int) -> None:
    """Set the user as which this thread uses files.

    Raises:
        OSError: EPERM if it is not so afterwards; the kernel itself reports no error.
    """
    _set_fs_id(_SETFSUID, uid)


def set_fsgid(gid: int) -> None:
    """Set the group as which this thread uses files.

    Raises:
        OSError: EPERM if it is not so afterwards; the kernel itself reports no error.
    """
    _set_fs_id(_SETFSGID, gid)


def _set_fs_id(call: ctypes.c_long, number: int) -> None:
    _syscall(call, number)
    if _syscall(call, -1) & 0xFFFF_FFFF != number:  # -1 changes nothing, and returns what is set
        raise OSError(errno.EPERM, f"cannot use files as {number}")


def capabilities() -> tuple[int, int, int]:
    """This thread's effective, permitted and inheritable capabilities, one bit each."""
    held = ctypes.create_string_buffer(24)
    if _syscall(_CAPGET, _CAP_HEADER, held) < 0:
        _fail()
    low = Struct("=6I").unpack(held)
    effective, permitted, inheritable = (low[i] | low[i + 3] << 32 for i in range(3))
    return effective, permitted, inheritable


def set_capabilities(effective: int, permitted: int) -> None:
    """Set this thread's capabilities, one bit each; none are inheritable afterwards.

    Raises:
        OSError: EPERM for a permitted one that the thread has not.
    """
    if _syscall(_CAPSET, _CAP_HEADER, _packed_capabilities(effective, permitted)) < 0:
        _fail()


@lru_cache(16)
def _packed_capabilities(effective: int, permitted: int) -> bytes:
    low = 0xFFFF_FFFF
    return Struct("=6I").pack(
        effective & low, permitted & low, 0, effective >> 32, permitted >> 32, 0
    )
