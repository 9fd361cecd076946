"""Raw disks: image files and block devices whose bytes are the guest's.

A disk has any number of bytes, not only whole sectors. Holes that the file system reports are not
read. Other formats read their files through this module, too: a backing file or an external data
file, say.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator

from ventifs.image.disk import ImageError, Span
from ventifs.text import printable
from ventifs.tree.archive.read_batches import reason_of

_BLKGETSIZE64 = 0x80081272  # linux/fs.h: bytes of a block device, as 64 bits


def label_of(path: str) -> str:
    """A file's name in messages: its absolute path, printable."""
    return printable(os.fsencode(os.path.abspath(path)))


class RawDisk:
    """An open raw image or block device.

    Concurrency: any method from any process or thread; reads carry their offset.
    """

    format = "raw"

    def __init__(self, path: str, fd: int | None = None) -> None:
        """Open a regular file or block device; never blocks, as opening a pipe would.

        Args:
            path: where it is. Relative names in the image start at the directory of `place`, which
                is this path with its directory resolved: only the last component can be a symbolic
                link.
            fd: an open descriptor of it, which the disk then owns. The path is not opened again,
                and must be absolute.

        Raises:
            ImageError: it is neither, or cannot be opened; `fd` is closed.
        """
        self.label = label_of(path)
        self.notes: list[str] = []
        self._fd = -1
        if fd is None:
            self.place, fd = self._opened(path)
        else:
            self.place = path
        try:
            self.status = os.fstat(fd)
            self.files = [self.status]
            self.size = self._measured(fd)
        except OSError as error:
            os.close(fd)
            raise ImageError(f"{self.label}: cannot be read: {reason_of(error)}") from error
        except ImageError:
            os.close(fd)
            raise
        self._fd = fd
        self._holes = stat.S_ISREG(self.status.st_mode)

    def _opened(self, path: str) -> tuple[str, int]:
        try:
            directory, name = os.path.split(path)
            place = os.path.join(os.path.realpath(directory or "."), name)
            # Without O_NONBLOCK, opening a pipe that is named as a backing file would block.
            return place, os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise ImageError(f"{self.label}: cannot be opened: {reason_of(error)}") from error

    def reopened(self, flags: int = os.O_RDONLY) -> int:
        """A new descriptor of this very file, whatever its path leads to by now.

        Raises:
            OSError: the file may not be opened with these flags.
        """
        return os.open(f"/proc/self/fd/{self._fd}", flags | os.O_CLOEXEC | os.O_NONBLOCK)

    def again(self) -> "RawDisk":
        """This very file with a new descriptor, and with its current size and status.

        Raises:
            ImageError: it cannot be opened.
        """
        try:
            fd = self.reopened()
        except OSError as error:
            raise ImageError(f"{self.label}: cannot be opened: {reason_of(error)}") from error
        other = RawDisk(self.place, fd)
        other.label = self.label
        return other

    def _measured(self, fd: int) -> int:
        if stat.S_ISREG(self.status.st_mode):
            return self.status.st_size
        if not stat.S_ISBLK(self.status.st_mode):
            raise ImageError(f"{self.label}: neither a regular file nor a block device")
        answer = fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8))
        return int(struct.unpack("=Q", answer)[0])

    @property
    def identity(self) -> tuple[int, int]:
        """Identifies the file, whatever name it was opened by; for a device, the device itself."""
        if stat.S_ISBLK(self.status.st_mode):
            return -1, self.status.st_rdev
        return self.status.st_dev, self.status.st_ino

    def fileno(self) -> int:
        """The descriptor, for system calls on the file itself."""
        return self._fd

    def read(self, offset: int, length: int) -> bytes:
        """As `Disk.read`. A file that has become shorter since it was opened is an error.

        Raises:
            ImageError: the range cannot be read.
        """
        data = self.read_upto(offset, length)
        if len(data) != length:
            raise ImageError(f"{self.label}: ends at {offset + len(data)}: it has become shorter")
        return data

    def read_upto(self, offset: int, length: int) -> bytes:
        """The bytes of a range, or fewer where the file ends.

        Raises:
            ImageError: the range cannot be read.
        """
        data = self._pread(offset, length)
        if len(data) == length or not data:
            return data
        parts = [data]  # a read ends early at 2 GiB, at a signal, or at the end
        while data and length > len(data):
            offset += len(data)
            length -= len(data)
            data = self._pread(offset, length)
            parts.append(data)
        return b"".join(parts)

    def _pread(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except (OSError, OverflowError) as error:
            reason = reason_of(error)
            raise ImageError(f"{self.label}: cannot be read at {offset}: {reason}") from error

    def spans(self, start: int, end: int) -> Iterator[Span]:
        """As `Disk.spans`; the range may go past the end, where there is no data.

        Raises:
            ImageError: the file cannot be read.
        """
        while start < end:
            data, next_start = self._place(start, end)
            yield Span(start, next_start, data)
            start = next_start

    def _place(self, start: int, end: int) -> tuple[bool, int]:
        """Whether there is data at an offset, and up to which offset that holds."""
        if not self._holes:
            return True, end
        try:
            data = os.lseek(self._fd, start, os.SEEK_DATA)
            if data > start:
                return False, min(data, end)
            hole = os.lseek(self._fd, start, os.SEEK_HOLE)
            return True, min(hole, end) if hole > start else end  # punched in between
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data from here to the file's end
                return False, end
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                self._holes = False
                return True, end
            raise ImageError(f"{self.label}: cannot be read: {reason_of(error)}") from error

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
