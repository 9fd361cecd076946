"""Finds the ranges of a raw image on btrfs that have not changed since a mark was set.

btrfs never overwrites data in place. So a mark holds where the file's extents lay, and the number
of a transaction that was on disk by then. A range that still refers to the same place of the same
extent has the same bytes, if that extent was allocated in that transaction or before: an extent
that took the place of a freed one would be newer. The extent tree has these numbers. (The numbers
in the file's own items are not reliable: balancing and cloning do not change them.)

So a mark need not come from the same file: a snapshot of the image's subvolume, or a clone of the
image ('cp --reflink'), can be compared with a mark of another one. Moving extents (balancing,
defragmenting) only makes them seem changed. Two changes are not detected: the file system's own
devices were restored to an older state, or data was cloned into the image while it was being read.

There is no answer for files that may be written in place ('chattr +C', which libvirt sets for
images, and which swap files need), without CAP_SYS_ADMIN, or on any other file system: neither XFS
nor ext4 records when an extent was written. All of such a file is read.
"""

import fcntl
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress

from ventifs.image.disk import Disk
from ventifs.image.formats.raw import RawDisk
from ventifs.image.survey_events import Range

# linux/btrfs.h
_FS_INFO, _FS_INFO_SIZE, _FS_ID = 0x8400941F, 1024, slice(16, 32)
_START_SYNC, _WAIT_SYNC = 0x80089418, 0x40089416
_SEARCH = 0xC0709411  # BTRFS_IOC_TREE_SEARCH_V2
_KEY = struct.Struct("=7Q4I4QQ")  # what to search for, and the room for results
_FOUND = 9  # the field of `_KEY` with the number of items found
_HEADER = struct.Struct("=QQQII")  # transaction of the leaf; object, offset and type; length
# linux/btrfs_tree.h: trees, types of items, and their layouts
_THIS_SUBVOLUME, _EXTENT_TREE = 0, 2
_INODE_ITEM, _EXTENT_DATA, _EXTENT_ITEM = 1, 108, 168
_INODE_FLAGS = struct.Struct("<64xQ")
_NO_CHECKSUMS, _IN_PLACE = 1, 2
_FILE_EXTENT = struct.Struct("<QQBBHBQQQQ")
_REGULAR = 1
_ALLOCATED = struct.Struct("<8xQ")

_MARK = struct.Struct("<16sQ")  # file system, transaction; then `_PIECE`s, compressed
_PIECE = struct.Struct("<QQQq")
_PIECES_MAX = 4 << 20  # pieces in a mark
_ROOM, _ITEM_MAX = 1 << 20, 64 << 10  # bytes of items in one search, and the most of one item
_U32_MAX, _U64_MAX = (1 << 32) - 1, (1 << 64) - 1

ExtentPiece = tuple[int, int, int, int]  # start and end in the file, the extent, its start there


def mark(disk: Disk) -> bytes:
    """Set a mark, by which `unchanged` later finds what has not changed since.

    Set it before the disk is read. Waits until all written data is in the file system's trees.
    Empty if the file cannot be marked.
    """
    fd = _asked(disk)
    if fd is None:
        return b""
    with suppress(OSError, struct.error):
        file_system, number = _file_system(fd), _settled(fd)
        pieces = bytearray()
        for piece in _pieces(fd):
            pieces += _PIECE.pack(*piece)
            if len(pieces) > _PIECES_MAX * _PIECE.size:
                return b""
        return _MARK.pack(file_system, number) + zlib.compress(pieces, 1) if number else b""
    return b""


def unchanged(disk: Disk, mark: bytes) -> list[Range] | None:
    """The ranges of the disk that have not changed since a mark was set; sorted, not touching.

    Holes are left out. None if that is unknown.
    """
    fd = _asked(disk)
    if fd is None:
        return None
    with suppress(OSError, struct.error, zlib.error):
        file_system, number = _MARK.unpack_from(mark)
        if file_system != _file_system(fd) or _settled(fd) < number:
            return None
        then = _PIECE.iter_unpack(zlib.decompress(mark[_MARK.size :]))
        same = list(_common(then, _pieces(fd)))
        old = _older(fd, number, {extent for _, _, extent, _ in same})
        kept = ((start, end) for start, end, extent, _ in same if extent in old)
        return list(_joined(kept, disk.size))
    return None


def _asked(disk: Disk) -> int | None:
    """The descriptor of a raw image in a regular file; None for any other disk."""
    if isinstance(disk, RawDisk) and stat.S_ISREG(disk.status.st_mode):
        return disk.fileno()
    return None


def _file_system(fd: int) -> bytes:
    """The id of a file's file system.

    Raises:
        OSError: it is not btrfs.
    """
    return fcntl.ioctl(fd, _FS_INFO, bytes(_FS_INFO_SIZE))[_FS_ID]


def _settled(fd: int) -> int:
    """The number of a transaction that is on disk, with all that was written to a file until now.

    Syncing the file starts writing what is still only in the page cache, and the transaction waits
    for that. 0 if the file may have been written in place.

    Raises:
        OSError: the search is not allowed, or the file cannot be written.
    """
    if not _copies_on_write(fd):
        return 0
    os.fsync(fd)
    number = fcntl.ioctl(fd, _START_SYNC, bytes(8))
    fcntl.ioctl(fd, _WAIT_SYNC, number)
    # Checked again: the flags may have reached the tree only now.
    return int.from_bytes(number, "little") if _copies_on_write(fd) else 0


def _copies_on_write(fd: int) -> bool:
    """Whether a file, and every file that it can share extents with, is never written in place.

    A file without checksums can share extents with one that is written in place.

    Raises:
        OSError: the search is not allowed.
    """
    for _, item in _search(fd, _THIS_SUBVOLUME, os.fstat(fd).st_ino, _INODE_ITEM, 1):
        flags = _INODE_FLAGS.unpack_from(item)[0]
        return not flags & (_NO_CHECKSUMS | _IN_PLACE)
    return False


def _pieces(fd: int) -> Iterator[ExtentPiece]:
    """Where a file's data lies, without inline data, and without what is not written yet."""
    for start, item in _search(fd, _THIS_SUBVOLUME, os.fstat(fd).st_ino, _EXTENT_DATA):
        if len(item) != _FILE_EXTENT.size:
            continue
        *_, kind, extent, _, skipped, length = _FILE_EXTENT.unpack(item)
        if kind == _REGULAR and extent:
            yield start, start + length, extent, start - skipped


def _common(these: Iterator[ExtentPiece], those: Iterator[ExtentPiece]) -> Iterator[ExtentPiece]:
    """The pieces that two sorted sequences have in common."""
    one, other = next(these, None), next(those, None)
    while one is not None and other is not None:
        start, end = max(one[0], other[0]), min(one[1], other[1])
        if start < end and one[2:] == other[2:]:
            yield start, end, *one[2:]
        if one[1] <= end:
            one = next(these, None)
        else:
            other = next(those, None)


def _older(fd: int, number: int, extents: set[int]) -> set[int]:
    """The extents that were allocated in the transaction `number` or before."""
    old: set[int] = set()
    for extent in extents:
        for _, item in _search(fd, _EXTENT_TREE, extent, _EXTENT_ITEM, 1):
            if _ALLOCATED.unpack_from(item)[0] <= number:
                old.add(extent)
    return old


def _search(
    fd: int, tree: int, number: int, kind: int, most: int = _U32_MAX
) -> Iterator[tuple[int, bytes]]:
    """Offsets and data of items of one kind, of one object in a tree; at most `most` of them.

    Raises:
        OSError: the search is not allowed, or the file system is not btrfs.
    """
    room = _ROOM if most > 1 else _ITEM_MAX
    buffer = bytearray(_KEY.size + room)
    start = 0
    while most and start <= _U64_MAX:
        _KEY.pack_into(
            buffer,
            0,
            tree,
            number,
            number,
            start,
            _U64_MAX,
            0,
            _U64_MAX,
            kind,
            kind,
            most,
            0,
            0,
            0,
            0,
            0,
            room,
        )
        fcntl.ioctl(fd, _SEARCH, buffer)
        count = _KEY.unpack_from(buffer)[_FOUND]
        if not count:
            return
        at = _KEY.size
        for _ in range(count):
            *_, offset, _, size = _HEADER.unpack_from(buffer, at)
            at += _HEADER.size
            yield offset, bytes(buffer[at : at + size])
            at += size
        most -= count
        start = offset + 1


def _joined(ranges: Iterator[Range], end: int) -> Iterator[Range]:
    """Sorted ranges up to an end, with those that touch merged."""
    low = high = 0
    for start, stop in ranges:
        if start >= end:
            break
        if start != high:
            if low < high:
                yield low, high
            low = start
        high = min(stop, end)
    if low < high:
        yield low, high
