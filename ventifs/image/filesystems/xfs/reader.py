"""Reads the files inside an XFS file system, by its published format.

libfsxfs, the library for this format, was tried first. It fails on names that are not UTF-8, on
devices and on forks that have no extents, and it reports security attributes under a wrong name. So
the format is read here, after "XFS Algorithms & Data Structures".

Damage loses a file, names of a directory, or attributes, and is reported with them. In a directory
with blocks of its own, a damaged block loses only the names in the rest of that block. A file with
damaged attributes is kept. Checksums are not verified: what is structurally sound is taken as true,
since the image's bytes are archived as they are anyway. The log is not replayed: files are reported
as they are on disk.
"""

import stat
import struct
from collections.abc import Iterator
from itertools import takewhile

import msgspec

from ventifs.image.disk import ImageError
from ventifs.image.filesystems.extents import joined
from ventifs.image.filesystems.walk import Name
from ventifs.image.filesystems.xfs import block_map as xfs_map
from ventifs.image.filesystems.xfs import dirs as xfs_dirs
from ventifs.image.filesystems.xfs import free as xfs_free
from ventifs.image.filesystems.xfs import log as xfs_log
from ventifs.image.filesystems.xfs import xattrs as xfs_attrs
from ventifs.image.filesystems.xfs.layout import INCOMPAT_NEEDS_REPAIR, XfsLayout
from ventifs.image.survey_events import Extent, Inode, Range
from ventifs.image.volumes.window import Window
from ventifs.tree.objects.records import Xattrs

_CORE = struct.Struct(">2sHBBHIII4xQ8xQ8xQ8x4xIHBB6xH28xQ24xQ")
# magic mode version format links(1) uid gid links count(64) mtime size count count(16) forkoff
# format of the attribute fork, flags; in version 3 only: flags, the inode's number
_KIND = 0xF000  # bits of a mode
_DEVICE, _LOCAL = 0, 1  # formats of a fork, besides those in xfs_map
_REAL_TIME = 0x1
_BIG_TIME, _BIG_COUNTS, _METADATA = 0x8, 0x10, 0x20
_BIG_TIME_EPOCH_NS = (1 << 31) * 1_000_000_000
_TARGET_MAX = 1024
_TARGET_HEADER = struct.Struct(">4sII")
_TARGET_HEADER_SIZE = 56
_TYPES = frozenset(
    stat.S_IFMT(kind << 12)
    for kind in (1, 2, 4, 6, 8, 10, 12)  # all that Linux knows
)


class XfsInode(msgspec.Struct, frozen=True, gc=False):
    """An inode as it lies on the disk."""

    mode: int
    uid: int
    gid: int
    links: int
    mtime_ns: int
    size: int
    flags: int
    form: int  # format of the data fork
    extent_count: int
    fork: bytes
    attribute_form: int
    attribute_count: int
    attribute_fork: bytes  # empty if there are no attributes


class Xfs:
    """An XFS file system as a `walk.FormatReader`.

    Attributes:
        layout: its geometry and features.
        root: the root directory's inode.
        clean: whether the volume holds all of it, and its log has nothing to be replayed.
    """

    def __init__(self, window: Window) -> None:
        """Read the superblock, and check whether the log is clean.

        Raises:
            ImageError: the superblock cannot be read, or has features that are unknown here.
        """
        self.layout = XfsLayout(window)
        self.root = self.layout.root
        self._truncated = self.layout.size > window.size
        try:
            whole = self.layout.size <= window.size
            self.clean = whole and xfs_log.is_clean(self.layout)
        except ImageError:
            self.clean = False

    def notes(self) -> list[str]:
        """Lines for people about the state of the file system."""
        layout, notes = self.layout, []
        if not layout.log_start:
            notes.append("its log is on another device: files are told as they are on this one")
        elif not self.clean and layout.size <= layout.window.size:
            notes.append("its log was not replayed: files are told as they are on the disk")
        if layout.incompat & INCOMPAT_NEEDS_REPAIR:
            notes.append("it is marked as having errors: check it with xfs_repair")
        if layout.size > layout.window.size:
            notes.append(f"it has {layout.size} bytes, but its volume {layout.window.size}")
        return notes

    def free_ranges(self) -> Iterator[Range]:
        """Ranges of the volume that are not in use, in order."""
        return xfs_free.free_ranges(self.layout)

    def inode(self, number: int) -> tuple[Inode, str]:
        """See `walk.FormatReader`."""
        record = self._record(number)
        xattrs, problem = self._xattrs(record) if record.attribute_fork else ((), "")
        kind = record.mode & _KIND
        size, rdev, target = 0, (0, 0), b""
        extents: tuple[Extent, ...] = ()
        if kind == stat.S_IFREG:
            if record.flags & _REAL_TIME:
                raise ImageError("on the real-time device, which is not in the image")
            size = record.size
            extents = self._extents(record)
        elif kind == stat.S_IFLNK:
            target = self._target(record)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            if record.form != _DEVICE or len(record.fork) < 4:
                raise ImageError("the device's number is damaged")
            device = int.from_bytes(record.fork[:4], "big")
            rdev = device >> 18 & 0x3FFF, device & 0x3FFFF
        inode = Inode(
            record.mode,
            record.uid,
            record.gid,
            record.mtime_ns,
            record.links,
            size,
            rdev,
            target,
            xattrs,
            extents,
        )
        return inode, problem

    def names(self, number: int) -> Iterator[Name]:
        """See `walk.FormatReader`."""
        record = self._record(number)
        if record.form == _LOCAL:
            if not 0 < record.size <= len(record.fork):
                raise ImageError("the directory is damaged")
            yield from xfs_dirs.in_inode(self.layout, record.fork[: record.size])
            return
        end = xfs_dirs.NAMES_END // self.layout.block_size
        runs = xfs_map.runs(self.layout, record.fork, record.form, record.extent_count)
        names = takewhile(lambda run: run[0] < end, runs)
        extents = joined(names, self.layout.block_size, xfs_dirs.NAMES_END)
        yield from xfs_dirs.in_blocks(self.layout, extents)

    def _record(self, number: int) -> XfsInode:
        data, at = self.layout.inode(number)
        (
            magic,
            mode,
            version,
            form,
            old_links,
            uid,
            gid,
            links,
            big_count,
            mtime,
            size,
            count,
            short_count,
            fork_offset,
            attribute_form,
            flags,
            flags2,
            own_number,
        ) = _CORE.unpack_from(data, at)
        begin = at + 176
        if version != 3:
            begin, flags2 = at + 100, 0
        elif own_number != number:
            raise ImageError(f"inode {number} is damaged")
        if magic != b"IN" or (version == 3) != self.layout.checked or not 1 <= version <= 3:
            raise ImageError(f"inode {number} is damaged")
        links = old_links if version == 1 else links
        if not links or mode & _KIND not in _TYPES:
            raise ImageError(f"inode {number} is not in use, or damaged")
        if flags2 & _METADATA:
            raise ImageError(f"inode {number} is the file system's own")
        last = at + self.layout.inode_size
        end = begin + fork_offset * 8 if fork_offset else last
        if end > last or size >> 63:
            raise ImageError(f"inode {number} is damaged")
        if flags2 & _BIG_TIME:
            mtime_ns = mtime - _BIG_TIME_EPOCH_NS
        else:
            seconds = (mtime >> 32) - (mtime >> 63 << 32)
            mtime_ns = seconds * 1_000_000_000 + (mtime & 0xFFFFFFFF)
        attribute_count = short_count
        if flags2 & _BIG_COUNTS:
            count, attribute_count = big_count, count
        attributes = b""
        if fork_offset and (attribute_count or attribute_form != xfs_map.EXTENTS):
            attributes = data[end:last]
        return XfsInode(
            mode,
            uid,
            gid,
            links,
            mtime_ns,
            size,
            flags,
            form,
            count,
            data[begin:end],
            attribute_form,
            attribute_count,
            attributes,
        )

    def _extents(self, record: XfsInode) -> tuple[Extent, ...]:
        extents = xfs_map.extents(
            self.layout, record.fork, record.form, record.extent_count, record.size
        )
        size = self.layout.window.size
        if self._truncated and any(start + length > size for _, start, length in extents):
            raise ImageError("some of it is past the end of the volume")
        return extents

    def _xattrs(self, record: XfsInode) -> tuple[Xattrs, str]:
        if record.attribute_form == _LOCAL:
            return xfs_attrs.shown(xfs_attrs.in_inode(record.attribute_fork))
        try:
            runs = list(
                xfs_map.runs(
                    self.layout,
                    record.attribute_fork,
                    record.attribute_form,
                    record.attribute_count,
                )
            )
        except ImageError as error:
            return (), f"its extended attributes: {error}"
        if not runs:
            return (), ""
        return xfs_attrs.shown(xfs_attrs.Outside(self.layout, runs).attributes())

    def _target(self, record: XfsInode) -> bytes:
        size = record.size
        if not 0 < size <= _TARGET_MAX:
            raise ImageError("the target of the symbolic link is damaged")
        if record.form == _LOCAL:
            target = record.fork[:size]
        else:
            target = b"".join(self._target_pieces(record))[:size]
        if len(target) < size or b"\0" in target:
            raise ImageError("the target of the symbolic link is damaged")
        return target

    def _target_pieces(self, record: XfsInode) -> Iterator[bytes]:
        """The parts of a target, by extents; in version 5, each extent begins with a header."""
        room = record.size + _TARGET_HEADER_SIZE * (record.size + 1)
        for _, start, length in joined(
            xfs_map.runs(self.layout, record.fork, record.form, record.extent_count),
            self.layout.block_size,
            room,
        ):
            data = self.layout.window.read(start, min(length, _TARGET_MAX + _TARGET_HEADER_SIZE))
            if not self.layout.checked:
                yield data
                continue
            magic, _, count = _TARGET_HEADER.unpack_from(data)
            if magic != b"XSLM":
                raise ImageError("the target of the symbolic link is damaged")
            yield data[_TARGET_HEADER_SIZE : _TARGET_HEADER_SIZE + count]
