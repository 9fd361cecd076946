"""Finds out whether a program has an image open for writing, as far as other processes can see.

QEMU locks bytes of an image to announce what it does and what it allows (block/file-posix.c): it
holds byte 100 + N while it uses permission N of the block layer. This module tests locks, and never
takes any. It opens a block device exclusively, which the kernel refuses while the device, or a part
of it, is mounted or held. Other programs show in the lists of open files in /proc, where these may
be read.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator

from ventifs.text import printable

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid
_LOCKS = 100
_WRITE, _WRITE_UNCHANGED, _RESIZE = 1, 2, 3  # QEMU's BLK_PERM_*, as bit numbers
_LOOPS = "/sys/block"


def in_use(path: str | os.PathLike[str]) -> str:
    """The reason why an image seems to be in use for writing, for people; empty if there is none.

    Also empty for a file that cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return ""
    try:
        status = os.fstat(fd)
        if _locked(fd):
            who = next(_writers(status), "")
            return f"a running guest has it open for writing{who and ': '}{who}"
        if stat.S_ISBLK(status.st_mode):
            return _held(os.fspath(path))
        if loop := _loop(status):
            return f"it is attached to {loop}"
        who = next(_writers(status), "")
        return f"it is open for writing: {who}" if who else ""
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    """Whether a QEMU has the file open for writing or resizing."""
    return any(_lock_at(fd, _LOCKS + bit) for bit in (_WRITE, _WRITE_UNCHANGED, _RESIZE))


def _lock_at(fd: int, offset: int) -> bool:
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
    except OSError:  # a file system without locks
        return False
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _held(path: str) -> str:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return "it is mounted, or held by something that is"
    return ""


def _loop(status: os.stat_result) -> str:
    """The writable loop device that is backed by a file; empty if there is none."""
    for name in sorted(os.listdir(_LOOPS)) if os.path.isdir(_LOOPS) else []:
        try:
            with open(f"{_LOOPS}/{name}/loop/backing_file", "rb") as file:
                backing = os.stat(file.read().rstrip(b"\n"))
            with open(f"{_LOOPS}/{name}/ro", "rb") as file:
                writable = file.read().strip() == b"0"
        except OSError:
            continue
        if writable and _same(backing, status):
            return f"/dev/{name}"
    return ""


def _writers(status: os.stat_result) -> Iterator[str]:
    """Names and ids of other processes that have a file open for writing."""
    for process in os.listdir("/proc"):
        if not process.isdecimal() or int(process) == os.getpid():
            continue
        try:
            for number in os.listdir(f"/proc/{process}/fd"):
                if _writes(f"/proc/{process}", number, status):
                    with open(f"/proc/{process}/comm", "rb") as file:
                        yield f"{printable(file.read().rstrip())}, process {process}"
                    break
        except OSError:  # it has ended, or may not be inspected
            continue


def _writes(process: str, number: str, status: os.stat_result) -> bool:
    try:
        if not _same(os.stat(f"{process}/fd/{number}"), status):
            return False
        with open(f"{process}/fdinfo/{number}", "rb") as file:
            flags = int(file.read().partition(b"flags:")[2].split()[0], 8)
    except (OSError, IndexError, ValueError):
        return False
    return flags & os.O_ACCMODE != os.O_RDONLY


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
