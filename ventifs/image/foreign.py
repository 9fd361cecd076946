"""Disks in VMDK, VHD and VHDX images, read by libvmdk and libvhdi.

Their handles are never shared between processes: each process opens its own when it first reads,
and a lock lets one thread in at a time. The libraries are imported only when they are needed, and
have to open an image in a child first: what makes them crash or loop there is refused. They tell
nothing of sparse ranges, so all of a disk is data.
"""

import os
import re
import resource
import select
import signal
import stat
import struct
import threading
from collections.abc import Iterator
from typing import Any

from ventifs.image.disk import ImageError, Span
from ventifs.image.raw import RawDisk
from ventifs.image.references import Opener
from ventifs.tree.directory import printable

_PATIENCE_S = 30.0  # for a trial
_MEMORY_MAX = 4 << 30
_EDGE = 64 << 10
_NO_PARENT = (None, 0, 0xFFFF_FFFF)
_DIFFERENCING = 4
_NAMES = {"vmdk": "VMDK", "vhd": "VHD", "vhdx": "VHDX"}
_CONVERT = "convert it: 'qemu-img convert -O qcow2 {} NEW.qcow2'"


def open_foreign(file: RawDisk, kind: str, opener: Opener) -> "ForeignDisk":
    """An image of a kind: "vmdk", "vhd" or "vhdx". Takes over the file.

    Raises:
        ImageError: it cannot be read, or not without another image.
    """
    file.close()
    return ForeignDisk(file, kind, opener)


class ForeignDisk:
    """An open VMDK, VHD or VHDX image.

    Concurrency: any method from any process or thread; one thread of a process at a time.
    """

    def __init__(self, layer: RawDisk, kind: str, opener: Opener) -> None:
        """As `open_foreign`.

        Raises:
            ImageError: as there.
        """
        path = layer.place
        self._layer, self._opener = layer, opener
        file = RawDisk(path)
        try:
            self.label = file.label
            self.status = file.status
            self.notes = _judged(file, kind)
            self._embedded = file.read_upto(0, 4) == b"KDMV"
        finally:
            file.close()
        self.format = kind
        self._path = os.path.abspath(path)
        self._locks: dict[int, threading.Lock] = {}
        self._handles: dict[int, Any] = {}  # of processes; only this process's is ever used
        self._try()
        handle = self._open()
        self.size = handle.get_media_size()
        self.files = [self.status, *self._extents(handle)]
        self._handles[os.getpid()] = handle

    def read(self, offset: int, length: int) -> bytes:
        """As `Disk.read`.

        Raises:
            ImageError: the library cannot read it.
        """
        process = os.getpid()
        with self._locks.setdefault(process, threading.Lock()):
            handle = self._handles.get(process)
            if handle is None:
                handle = self._handles[process] = self._open()
            return self._read(handle, offset, length)

    def spans(self, start: int, end: int) -> Iterator[Span]:
        """As `Disk.spans`: data everywhere."""
        if start < end:
            yield Span(start, end, data=True)

    def close(self) -> None:
        """Close this process's handle. Again is harmless."""
        if handle := self._handles.pop(os.getpid(), None):
            handle.close()

    def _read(self, handle: Any, offset: int, length: int) -> bytes:
        parts: list[bytes] = []
        while length:
            try:
                part = handle.read_buffer_at_offset(length, offset)
            except (OSError, MemoryError) as error:
                raise self._unreadable(f"at {offset}: {_reason(error)}") from error
            if not part:
                raise self._unreadable(f"at {offset}: it ends there")
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _open(self) -> Any:
        status = os.stat(self._path)
        if (status.st_dev, status.st_ino) != (self.status.st_dev, self.status.st_ino):
            raise ImageError(f"{self.label}: it was replaced while it was read")
        try:
            handle = self._vmdk() if self.format == "vmdk" else self._vhd()
            if handle.get_media_size() < 0:
                raise OSError("no size")
        except (OSError, MemoryError) as error:
            raise self._unreadable(_reason(error)) from error
        return handle

    def _vmdk(self) -> Any:
        import pyvmdk

        handle = pyvmdk.handle()
        handle.open(self._path)
        if handle.get_parent_content_identifier() not in _NO_PARENT:
            raise self._needs_parent()
        for number in range(handle.get_number_of_extents()):
            self._check(handle.get_extent_descriptor(number).get_filename())
        handle.open_extent_data_files()
        return handle

    def _check(self, name: str | None) -> None:
        """Refuse extents that are not plain files beside the image."""
        if name is None:
            return
        if "/" in name or "\\" in name:
            raise ImageError(
                f"{self.label}: an extent of it, '{printable(os.fsencode(name))}', is not in its "
                "own directory: put them together, or " + _CONVERT.format(self.label)
            )
        extent = os.path.join(os.path.dirname(self._path), name)
        if extent != self._path and not self._embedded:
            self._opener.open(os.fsencode(name), self._layer).close()
        if os.path.exists(extent) and not stat.S_ISREG(os.stat(extent).st_mode):
            raise ImageError(f"{self.label}: an extent of it, '{name}', is not a regular file")

    def _extents(self, handle: Any) -> Iterator[os.stat_result]:
        """The other files that a VMDK consists of. Its own name in itself may be an old one."""
        count = handle.get_number_of_extents() if self.format == "vmdk" else 0
        for number in range(count):
            name = handle.get_extent_descriptor(number).get_filename()
            path = os.path.join(os.path.dirname(self._path), name or "")
            if name and os.path.exists(path):
                yield os.stat(path)

    def _vhd(self) -> Any:
        import pyvhdi

        handle = pyvhdi.file()
        handle.open(self._path)
        if handle.get_disk_type() == _DIFFERENCING:
            raise self._needs_parent()
        return handle

    def _needs_parent(self) -> ImageError:
        return ImageError(
            f"{self.label}: only what differs from another {_NAMES[self.format]} image: "
            + _CONVERT.format(self.label)
        )

    def _unreadable(self, what: str) -> ImageError:
        return ImageError(
            f"{self.label}: {_NAMES[self.format]} image that cannot be read: {what}; "
            + _CONVERT.format(self.label)
        )

    def _try(self) -> None:
        """Open the image in a child that may crash.

        Raises:
            ImageError: it cannot be read there, or the child did not survive.
        """
        answer, answering = os.pipe()
        child = os.fork()
        if not child:
            os.close(answer)
            self._trial(answering)
        os.close(answering)
        said = b""
        try:
            while select.select([answer], [], [], _PATIENCE_S)[0] and (
                part := os.read(answer, 4096)
            ):
                said += part
        finally:
            os.close(answer)
            if not said.endswith(b"\n"):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        if said == b"\n":
            return
        if said.endswith(b"\n"):
            raise ImageError(os.fsdecode(said[:-1]))
        raise self._unreadable("the library that reads it does not survive it")

    def _trial(self, answering: int) -> None:
        """In the child: read both ends, say what happened, and end."""
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_MAX, _MEMORY_MAX))
            handle = self._open()
            size = handle.get_media_size()
            self._read(handle, 0, min(size, _EDGE))
            self._read(handle, max(0, size - _EDGE), min(size, _EDGE))
            os.write(answering, b"\n")
        except ImageError as error:
            os.write(answering, os.fsencode(str(error)).replace(b"\n", b" ") + b"\n")
        finally:
            os._exit(0)


def _judged(file: RawDisk, kind: str) -> list[str]:
    """Notes on an image, by what the libraries do not look at.

    Raises:
        ImageError: they would read it wrong.
    """
    if kind == "vhdx" and _has_log(file):
        # libvhdi reads past the log, and so an old state, without a word.
        raise ImageError(
            f"{file.label}: VHDX image that was not closed cleanly: replay its log first by "
            "'qemu-img check -r all'"
        )
    head = file.read_upto(0, 512)
    if kind == "vmdk" and head.startswith(b"KDMV") and head[72:73] not in (b"", b"\0"):
        return ["not closed cleanly: it is in use, or its guest died"]
    return []


def _has_log(file: RawDisk) -> bool:
    """Whether the current one of the two VHDX headers names a log."""
    headers = [file.read_upto(place, 64) for place in (64 << 10, 128 << 10)]
    found = [
        (struct.unpack_from("<Q", header, 8)[0], header[48:64])
        for header in headers
        if len(header) == 64 and header.startswith(b"head")
    ]
    return bool(found) and any(max(found)[1])


def _reason(error: Exception) -> str:
    """The cause, of what a library says: its messages list functions, the outermost first."""
    said = re.split(r"\.\s+", " ".join(str(error).split()))
    cause = said[1] if len(said) > 1 else said[0]
    return printable(os.fsencode(cause.partition(": ")[2] or cause)).rstrip(".")[:200]
