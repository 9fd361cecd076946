"""Reads the files inside an ext2, ext3 or ext4 file system, by its published format.

libfsext, the library for this format, was tried first. It fails on names that are not UTF-8,
returns devices without their numbers and access control lists in the form on disk, and shows inline
data as attributes. So the format is read here, after the kernel's Documentation/filesystems/ext4.

Damage loses a file or the rest of a directory, and is reported with it. Checksums are not verified:
what is structurally sound is taken as true, since the image's bytes are archived as they are
anyway. A journal is not replayed: files are reported as they are on disk.
"""

import stat
import struct
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from ventifs.image.disk import ImageError
from ventifs.image.filesystems.ext import block_map as ext_map
from ventifs.image.filesystems.ext import free as ext_free
from ventifs.image.filesystems.ext import xattrs as ext_xattrs
from ventifs.image.filesystems.ext.layout import (
    INCOMPAT_64BIT,
    INCOMPAT_EA_INODE,
    INCOMPAT_LARGEDIR,
    INCOMPAT_RECOVER,
    ROOT,
    STATE_CLEAN,
    STATE_ERRORS,
    ExtLayout,
)
from ventifs.image.filesystems.walk import Name, valid
from ventifs.image.survey_events import Extent, Inode, Range
from ventifs.image.volumes.window import Window
from ventifs.tree.objects.records import Xattrs

_INODE = struct.Struct("<HHI8xi4xHHII4x60s4xII4xHHHH")
# mode uid size mtime gid links blocks flags where acl size_high blocks_high acl_high uid_h gid_h
_LARGE = struct.Struct(_INODE.format + "4xH6xI")  # size of further fields, mtime's high part
_DIRENT = struct.Struct("<IHB")
_EXTENTS, _INLINE, _EA_INODE, _ENCRYPTED = 0x80000, 0x10000000, 0x200000, 0x800
_SMALL = 128  # bytes of an inode without the fields that ext4 added
_KIND = 0xF000  # bits of a mode
_HERE = 60  # bytes of the inode that map its blocks, or hold its data
_TARGET_MAX = 4095
_TYPES = frozenset(
    stat.S_IFMT(kind << 12)
    for kind in (1, 2, 4, 6, 8, 10, 12)  # all that Linux knows
)


class ExtInode(msgspec.Struct, frozen=True, gc=False):
    """An inode as it lies on the disk."""

    mode: int
    uid: int
    size: int
    mtime_ns: int
    gid: int
    links: int
    sectors: int
    flags: int
    where: bytes
    attributes: int  # the block of attributes outside the inode, or 0
    space: bytes  # the space behind the fields if it holds attributes, else empty


class Ext:
    """An ext2, ext3 or ext4 file system as a `walk.FormatReader`.

    Attributes:
        layout: its geometry and features.
        root: the root directory's inode.
        clean: whether the volume holds all of it, nothing is to be replayed, and no errors are
            known.
    """

    root = ROOT

    def __init__(self, window: Window) -> None:
        """Read the superblock.

        Raises:
            ImageError: it cannot be read, or has features that are unknown here.
        """
        self.layout = ExtLayout(window)
        self.clean = ext_free.is_clean(self.layout)
        self._truncated = self.layout.size > window.size
        self._attributes = lru_cache(16)(self._read_attributes)

    def notes(self) -> list[str]:
        """Lines for people about the state of the file system."""
        layout, notes = self.layout, []
        if layout.incompat & INCOMPAT_RECOVER:
            notes.append("its journal was not replayed: files are told as they are on the disk")
        if not layout.state & STATE_CLEAN:
            notes.append("it was not unmounted cleanly")
        if layout.state & STATE_ERRORS:
            notes.append("it is marked as having errors: check it with e2fsck")
        if layout.size > layout.window.size:
            notes.append(f"it has {layout.size} bytes, but its volume {layout.window.size}")
        return notes

    def free_ranges(self) -> Iterator[Range]:
        """Ranges of the volume that are not in use, in order."""
        return ext_free.free_ranges(self.layout)

    def inode(self, number: int) -> tuple[Inode, str]:
        """See `walk.FormatReader`."""
        record = self._record(number)
        pairs: list[ext_xattrs.Pair] = []
        shown: Xattrs = ()
        problem = wrong = ""
        if record.space or record.attributes:
            pairs, problem = self._pairs(record)
            shown, wrong = ext_xattrs.shown(pairs)
        kind = record.mode & _KIND
        size, rdev, target, data = 0, (0, 0), b"", b""
        extents: tuple[Extent, ...] = ()
        if record.flags & _ENCRYPTED and kind in (stat.S_IFREG, stat.S_IFLNK):
            raise ImageError("encrypted")
        if kind == stat.S_IFREG:
            size = record.size
            if record.flags & _INLINE:
                data = self._inline(record, pairs, problem)
            else:
                extents = self._extents(record)
        elif kind == stat.S_IFLNK:
            target = self._target(record, pairs, problem)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            rdev = _device(record.where)
        elif kind == stat.S_IFDIR and record.flags & _ENCRYPTED:
            problem = "encrypted: what is in it is not told"
        inode = Inode(
            record.mode,
            record.uid,
            record.gid,
            record.mtime_ns,
            record.links,
            size,
            rdev,
            target,
            shown,
            extents,
            data,
        )
        return inode, problem or wrong

    def names(self, number: int) -> Iterator[Name]:
        """See `walk.FormatReader`.

        Blocks of an index (htree) are read like all others: they look like blocks without names.
        """
        record = self._record(number)
        if record.flags & _ENCRYPTED:
            return
        if record.flags & _INLINE:
            pairs, problem = self._pairs(record)
            for area in (record.where[4:], ext_xattrs.inline_data(pairs)):
                yield from _entries(area)
            if problem:
                raise ImageError(problem)
            return
        block_size, window = self.layout.block_size, self.layout.window
        troubles = []
        told = 0  # bytes
        extents = self._extents(record)
        # A directory larger than the volume must map the same blocks repeatedly.
        if sum(length for _, _, length in extents) > window.size:
            raise ImageError("the directory is damaged")
        for at, start, length in extents:
            if at != told:
                troubles.append("the directory has a hole")
            told = at + length
            for offset in range(start, start + length, block_size):
                try:
                    yield from _entries(window.read(offset, block_size))
                except ImageError as error:
                    troubles.append(str(error))
        if told < record.size:
            troubles.append("the directory has a hole")
        if troubles:
            raise ImageError(troubles[0])

    def _record(self, number: int) -> ExtInode:
        if number < self.layout.first_inode and number != ROOT:
            raise ImageError(f"inode {number} is the file system's own")
        return self._own_record(number)

    def _own_record(self, number: int) -> ExtInode:
        layout = self.layout
        table, at = layout.inode(number)
        extra = more = 0
        if layout.inode_size > _SMALL:
            (
                mode,
                uid,
                size,
                seconds,
                gid,
                links,
                sectors,
                flags,
                where,
                attributes,
                size_high,
                sectors_high,
                attributes_high,
                uid_high,
                gid_high,
                extra,
                more,
            ) = _LARGE.unpack_from(table, at)
        else:
            (
                mode,
                uid,
                size,
                seconds,
                gid,
                links,
                sectors,
                flags,
                where,
                attributes,
                size_high,
                sectors_high,
                attributes_high,
                uid_high,
                gid_high,
            ) = _INODE.unpack_from(table, at)
        kind = mode & _KIND
        if not links or kind not in _TYPES:
            raise ImageError(f"inode {number} is not in use, or damaged")
        if kind == stat.S_IFREG or layout.incompat & INCOMPAT_LARGEDIR:
            size |= size_high << 32
        if layout.incompat & INCOMPAT_64BIT:
            attributes |= attributes_high << 32
        mtime_ns = seconds * 1_000_000_000
        space = b""
        if layout.inode_size > _SMALL:
            if extra & 3 or extra > layout.inode_size - _SMALL:
                raise ImageError(f"inode {number} is damaged")
            if extra >= 12:
                mtime_ns += ((more & 3) << 32) * 1_000_000_000 + (more >> 2)
            begin = at + _SMALL + extra
            if table.startswith(ext_xattrs.MAGIC_BYTES, begin):
                space = table[begin : at + layout.inode_size]
        return ExtInode(
            mode,
            uid_high << 16 | uid,
            size,
            mtime_ns,
            gid_high << 16 | gid,
            links,
            sectors_high << 32 | sectors,
            flags,
            where,
            attributes,
            space,
        )

    def _extents(self, record: ExtInode) -> tuple[Extent, ...]:
        tree = bool(record.flags & _EXTENTS)
        extents = ext_map.extents(self.layout, record.where, record.size, tree=tree)
        size = self.layout.window.size
        if self._truncated and any(start + length > size for _, start, length in extents):
            raise ImageError("some of it is past the end of the volume")
        return extents

    def _pairs(self, record: ExtInode) -> tuple[list[ext_xattrs.Pair], str]:
        """All extended attributes, hidden ones included; those in the inode come first."""
        pairs, problem = ext_xattrs.in_inode(record.space, self._value)
        if record.attributes:
            try:
                outside, wrong = self._attributes(record.attributes)
            except ImageError as error:
                outside, wrong = [], f"its extended attributes: {error}"
            pairs, problem = pairs + outside, problem or wrong
        return pairs, problem

    def _read_attributes(self, block: int) -> tuple[list[ext_xattrs.Pair], str]:
        return ext_xattrs.in_block(self.layout.block(block), self._value)

    def _value(self, number: int, size: int) -> bytes:
        """A value that has an inode of its own."""
        record = self._own_record(number)
        if not record.flags & _EA_INODE or record.size < size:
            raise ImageError(f"inode {number} holds no attribute of {size} bytes")
        return self._read(record, size)

    def _read(self, record: ExtInode, size: int) -> bytes:
        """The first `size` bytes of an inode's data; the caller limits `size`."""
        data = bytearray(size)
        for at, start, length in self._extents(record):
            if at < size:
                count = min(length, size - at)
                data[at : at + count] = self.layout.window.read(start, count)
        return bytes(data)

    def _inline(self, record: ExtInode, pairs: list[ext_xattrs.Pair], problem: str) -> bytes:
        data = record.where[: record.size]
        if record.size > len(data):
            data += ext_xattrs.inline_data(pairs)[: record.size - len(data)]
        if len(data) < record.size:
            raise ImageError(problem or "its data is not all in its inode")
        return data

    def _target(self, record: ExtInode, pairs: list[ext_xattrs.Pair], problem: str) -> bytes:
        if not 0 < record.size <= min(_TARGET_MAX, self.layout.block_size):
            raise ImageError("the target of the symbolic link is damaged")
        if record.flags & _INLINE:
            target = self._inline(record, pairs, problem)
        elif self._is_fast(record):
            target = record.where[: record.size]
        else:
            target = self._read(record, record.size)
        target = target.partition(b"\0")[0]  # the kernel reads up to the first NUL
        if not target:
            raise ImageError("the target of the symbolic link is damaged")
        return target

    def _is_fast(self, record: ExtInode) -> bool:
        """Whether a symbolic link's target is in the inode, by the kernel's own rule."""
        if self.layout.incompat & INCOMPAT_EA_INODE:
            return record.size < _HERE
        outside = self.layout.cluster_size >> 9 if record.attributes else 0
        return record.size <= _HERE and record.sectors == outside


def _entries(block: bytes) -> Iterator[Name]:
    """The names in a block of a directory."""
    at, end = 0, len(block)
    large = end > 1 << 15  # lengths beyond 16 bits have another encoding
    damaged = False
    unpack = _DIRENT.unpack_from
    while at + 8 <= end:
        number, step, length = unpack(block, at)
        if large:
            step = end if step in (0, 0xFFFF) else (step & 0xFFFC) | (step & 3) << 16
        if step < 8 + length or step & 3 or at + step > end:
            raise ImageError("the directory is damaged")
        if number:
            name = block[at + 8 : at + 8 + length]
            if valid(name):
                yield number, name
            elif name not in (b".", b".."):
                damaged = True
        at += step
    if damaged:
        raise ImageError("it has names that no file can have")


def _device(where: bytes) -> tuple[int, int]:
    """Major and minor number, from the kernel's old or new encoding."""
    old, new = struct.unpack_from("<II", where)
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    return new >> 8 & 0xFFF, (new & 0xFF) | (new >> 12 & 0xFFF00)
