"""The layout of an ext2, ext3 or ext4 file system: its superblock and its groups' descriptors.

From the kernel's Documentation/filesystems/ext4. All numbers are little-endian; all offsets are
bytes from the volume's start. An `ExtLayout` always has a valid geometry: powers of two where the
format requires them, no sizes of 0, inode numbers that lie in a group's table. Knows nothing of
what inodes contain.
"""

import struct
from functools import lru_cache
from typing import NamedTuple

from ventifs.image.disk import ImageError
from ventifs.image.volumes.window import Window

ROOT = 2  # the root directory's inode

COMPAT_SPARSE_SUPER2 = 0x200
INCOMPAT_RECOVER = 0x4
INCOMPAT_JOURNAL_DEVICE = 0x8
INCOMPAT_META_BG = 0x10
INCOMPAT_64BIT = 0x80
INCOMPAT_EA_INODE = 0x400
INCOMPAT_LARGEDIR = 0x4000
# What this package reads: also FILETYPE, EXTENTS, MMP, FLEX_BG, CSUM_SEED, INLINE_DATA.
_INCOMPAT_KNOWN = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000
_INCOMPAT_KNOWN |= 0x8000 | 0x10000 | 0x20000
RO_SPARSE_SUPER = 0x1
RO_CHECKED_GROUPS = 0x10 | 0x400  # GDT_CSUM, METADATA_CSUM: groups' flags are valid
RO_BIGALLOC = 0x200

STATE_CLEAN = 0x1
STATE_ERRORS = 0x2

_SUPERBLOCK_AT = 1024
_MAGIC = 0xEF53
_DESCRIPTOR = struct.Struct("<IIIH4xH")
_DESCRIPTOR_HIGH = struct.Struct("<IIIH")
_PIECE = 64 << 10  # bytes of an inode table that are read at once


class BlockGroup(NamedTuple):
    """A group's descriptor: numbers of blocks, its count of free clusters, and flags."""

    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    free_clusters: int
    flags: int


class ExtLayout:
    """A file system's geometry.

    Attributes:
        block_size, cluster_size, inode_size: bytes.
        block_count: of the file system, which a truncated volume may not hold.
        first_block: 1 where a block is 1 KiB, else 0.
        blocks_per_group, inodes_per_group, group_count: the groups.
        first_inode: the first number that is not reserved.
        compat, incompat, ro_compat: feature bits.
        state: bits `STATE_*`.
    """

    def __init__(self, window: Window) -> None:
        """Read the superblock.

        Raises:
            ImageError: it is missing or damaged, or has features that are unknown here.
        """
        self.window = window
        data = window.read(_SUPERBLOCK_AT, 1024)

        def u32(at: int) -> int:
            return int.from_bytes(data[at : at + 4], "little")

        def u16(at: int) -> int:
            return int.from_bytes(data[at : at + 2], "little")

        if u16(0x38) != _MAGIC:
            raise ImageError("no ext superblock")
        dynamic = u32(0x4C) >= 1
        self.compat, self.incompat, self.ro_compat = (
            (u32(0x5C), u32(0x60), u32(0x64)) if dynamic else (0, 0, 0)
        )
        if self.incompat & INCOMPAT_JOURNAL_DEVICE:
            raise ImageError("an external journal, which holds no files")
        if unknown := self.incompat & ~_INCOMPAT_KNOWN:
            raise ImageError(f"ext features that are not known (incompat {unknown:#x})")
        log_block, log_cluster = u32(0x18), u32(0x1C)
        bigalloc = bool(self.ro_compat & RO_BIGALLOC)
        if log_block > 6 or (bigalloc and not log_block <= log_cluster <= 20):
            raise ImageError("a damaged ext superblock (block size)")
        self.block_size = 1024 << log_block
        self.cluster_size = 1024 << log_cluster if bigalloc else self.block_size
        self.inode_size = u16(0x58) if dynamic else 128
        self.first_inode = u32(0x54) if dynamic else 11
        self.first_block = u32(0x14)
        self.inode_count = u32(0)
        self.block_count = u32(0x4)
        self.descriptor_size = 32
        if self.incompat & INCOMPAT_64BIT:
            self.block_count |= u32(0x150) << 32
            self.descriptor_size = u16(0xFE)
        self.blocks_per_group = u32(0x20)
        self.inodes_per_group = u32(0x28)
        self.first_meta_group = u32(0x104)
        self.reserved_descriptors = u16(0xCE)
        self.backup_groups = (u32(0x24C), u32(0x250))
        self.groups_per_flex = 1 << min(data[0x174], 31)
        self.state = u16(0x3A)
        self._check()
        self.group_count = -(-(self.block_count - self.first_block) // self.blocks_per_group)
        self._inodes_per_piece = min(_PIECE // self.inode_size, self.inodes_per_group)
        # The piece used last, since the inodes of a directory lie close together.
        self._table, self._first, self._count = b"", 0, 0
        self._piece = lru_cache(64)(self._read_piece)
        self.group = lru_cache(256)(self._read_group)

    def _check(self) -> None:
        wrong = (
            self.inode_size < 128
            or self.inode_size > self.block_size
            or self.inode_size & (self.inode_size - 1)
            or not 32 <= self.descriptor_size <= 1024
            or self.descriptor_size & (self.descriptor_size - 1)
            or (self.incompat & INCOMPAT_64BIT and self.descriptor_size < 64)
            or not 0 < self.inodes_per_group <= 8 * self.block_size
            or not 256 <= self.blocks_per_group <= 8 * self.block_size * self.cluster_ratio
            or self.blocks_per_group % self.cluster_ratio
            or self.first_block > (self.block_size == 1024)
            or self.block_count <= self.first_block
        )
        if wrong:
            raise ImageError("a damaged ext superblock (geometry)")

    @property
    def cluster_ratio(self) -> int:
        """Blocks in a cluster, the unit of allocation."""
        return self.cluster_size // self.block_size

    @property
    def size(self) -> int:
        """Bytes of the file system, which a truncated volume may not hold."""
        return self.block_count * self.block_size

    def block(self, number: int) -> bytes:
        """One block.

        Raises:
            ImageError: it is not in the file system, or cannot be read.
        """
        if not self.first_block <= number < self.block_count:
            raise ImageError(f"block {number} is not in the file system")
        return self.window.read(number * self.block_size, self.block_size)

    def inode(self, number: int) -> tuple[bytes, int]:
        """Some bytes of an inode table, and the offset in them where an inode begins.

        Raises:
            ImageError: there is no such inode, or it cannot be read.
        """
        index = number - self._first
        if 0 <= index < self._count:
            return self._table, index * self.inode_size
        if not 0 < number <= self.inode_count:
            raise ImageError(f"inode {number} does not exist")
        group, index = divmod(number - 1, self.inodes_per_group)
        piece, index = divmod(index, self._inodes_per_piece)
        self._table = self._piece(group, piece)
        self._first = number - index
        self._count = min(len(self._table) // self.inode_size, self.inode_count + 1 - self._first)
        return self._table, index * self.inode_size

    def _read_piece(self, group: int, piece: int) -> bytes:
        table = self.group(group).inode_table
        first = piece * self._inodes_per_piece
        count = min(self._inodes_per_piece, self.inodes_per_group - first)
        start = table * self.block_size + first * self.inode_size
        if table < self.first_block:
            raise ImageError(f"group {group} has no inode table")
        return self.window.read(start, count * self.inode_size)

    def _read_group(self, group: int) -> BlockGroup:
        if not 0 <= group < self.group_count:
            raise ImageError(f"group {group} does not exist")
        per_block = self.block_size // self.descriptor_size
        block, index = divmod(group, per_block)
        at = self._descriptors_at(block) * self.block_size + index * self.descriptor_size
        data = self.window.read(at, self.descriptor_size)
        block_bitmap, inode_bitmap, table, free, flags = _DESCRIPTOR.unpack_from(data)
        if self.descriptor_size >= 64:
            high = _DESCRIPTOR_HIGH.unpack_from(data, 32)
            block_bitmap |= high[0] << 32
            inode_bitmap |= high[1] << 32
            table |= high[2] << 32
            free |= high[3] << 16
        return BlockGroup(block_bitmap, inode_bitmap, table, free, flags)

    def _descriptors_at(self, block: int) -> int:
        """The number of the block of descriptors whose index, counted from 0, is `block`."""
        in_place = not self.incompat & INCOMPAT_META_BG or block < self.first_meta_group
        if in_place:
            return 1024 // self.block_size + 1 + block
        group = block * (self.block_size // self.descriptor_size)
        # A cluster file system of 1 KiB blocks counts from 0, with the superblock in block 1.
        shifted = self.block_size == 1024 and self.first_block == 0 and group == 0
        return (
            self.first_block
            + group * self.blocks_per_group
            + self.has_superblock(group)
            + int(shifted)
        )

    def has_superblock(self, group: int) -> bool:
        """Whether a group begins with the superblock, or a copy of it."""
        if group == 0:
            return True
        if self.compat & COMPAT_SPARSE_SUPER2:
            return group in self.backup_groups
        if group == 1 or not self.ro_compat & RO_SPARSE_SUPER:
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    power = base
    while power < number:
        power *= base
    return power == number
