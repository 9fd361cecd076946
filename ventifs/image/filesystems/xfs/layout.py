"""The layout of an XFS file system: its superblock, and the places that its numbers stand for.

From "XFS Algorithms & Data Structures", third edition. All numbers on the disk are big-endian. XFS
numbers a block by its allocation group, in the high bits, and its place in the group; this module
converts that to the block's number in the volume. A `XfsLayout` always has a valid geometry.
"""

from functools import lru_cache

from ventifs.image.disk import ImageError
from ventifs.image.volumes.window import Window

INCOMPAT_NEEDS_REPAIR = 0x10
# FTYPE, SPARSE INODES, META_UUID, BIGTIME, NEEDS_REPAIR, NREXT64, EXCHANGE_RANGE, PARENT
_INCOMPAT_KNOWN = 0xFF
_INCOMPAT_FTYPE = 0x1
_FEATURES2_FTYPE = 0x200
_VERSION_DIRECTORIES_2 = 0x2000
_PIECE = 32 << 10  # bytes of inodes that are read at once: usually a chunk of 64


class XfsLayout:
    """A file system's geometry.

    Attributes:
        block_size, sector_size, inode_size, directory_block_size: bytes.
        block_count: of the file system, which a truncated volume may not hold.
        group_blocks, group_count: of its allocation groups.
        checked: whether it is of version 5, whose blocks have longer headers with checksums.
        typed: whether directories hold the types of files.
        root: the root directory's inode.
        log_start, log_blocks: the log; its start is 0 if it is on another device.
        incompat: feature bits.
    """

    def __init__(self, window: Window) -> None:
        """Read the superblock.

        Raises:
            ImageError: it is missing or damaged, or has features that are unknown here.
        """
        self.window = window
        data = window.read(0, 512)

        def number(at: int, size: int) -> int:
            return int.from_bytes(data[at : at + size], "big")

        if data[:4] != b"XFSB":
            raise ImageError("no XFS superblock")
        flags = number(100, 2)
        self.version = flags & 0xF
        if self.version not in (4, 5) or not flags & _VERSION_DIRECTORIES_2:
            raise ImageError(f"XFS of a version that is not known ({flags:#x})")
        self.checked = self.version == 5
        self.incompat = number(216, 4) if self.checked else 0
        if unknown := self.incompat & ~_INCOMPAT_KNOWN:
            raise ImageError(f"XFS features that are not known (incompat {unknown:#x})")
        self.typed = bool(
            self.incompat & _INCOMPAT_FTYPE if self.checked else number(200, 4) & _FEATURES2_FTYPE
        )
        self.block_size = number(4, 4)
        self.block_count = number(8, 8)
        self.group_blocks = number(84, 4)
        self.group_count = number(88, 4)
        self.sector_size = number(102, 2)
        self.inode_size = number(104, 2)
        self.root = number(56, 8)
        self.log_blocks = number(96, 4)
        self._group_bits = data[124]
        self._inode_bits = data[123]
        directory_bits = data[192]
        valid = (
            512 <= self.block_size <= 65536
            and self.block_size == 1 << data[120]
            and 256 <= self.inode_size <= min(2048, self.block_size)
            and self.inode_size << self._inode_bits == self.block_size
            and 512 <= self.sector_size <= self.block_size
            and not self.sector_size & (self.sector_size - 1)
            and 64 <= self.group_blocks <= 1 << self._group_bits <= 1 << 31
            and self.group_count > 0
            and (self.group_count - 1) * self.group_blocks < self.block_count
            and self.block_count <= self.group_count * self.group_blocks
            and self.block_size << directory_bits <= 65536
            and data[126] == 0
        )
        if not valid:
            raise ImageError("a damaged XFS superblock (geometry)")
        self.directory_block_size = self.block_size << directory_bits
        log = number(48, 8)
        self.log_start = self.place(log, self.log_blocks) if log else 0
        # The piece used last, since the inodes of a directory lie close together.
        self._inodes, self._first, self._count = b"", 0, 0
        self._piece = lru_cache(64)(self._read_piece)

    @property
    def size(self) -> int:
        """Bytes of the file system, which a truncated volume may not hold."""
        return self.block_count * self.block_size

    def group_size(self, group: int) -> int:
        """Blocks of an allocation group; the last may be shorter."""
        return min(self.group_blocks, self.block_count - group * self.group_blocks)

    def place(self, number: int, count: int = 1) -> int:
        """Convert XFS's number of a block to the volume's.

        The block is the first of `count` blocks, which must all be in one group.

        Raises:
            ImageError: they are not in the file system.
        """
        group, block = number >> self._group_bits, number & ((1 << self._group_bits) - 1)
        place = group * self.group_blocks + block
        if block + count > self.group_blocks or place + count > self.block_count:
            raise ImageError(f"block {number} is not in the file system")
        return place

    def block(self, place: int) -> bytes:
        """One block, by the volume's number.

        Raises:
            ImageError: it cannot be read.
        """
        return self.window.read(place * self.block_size, self.block_size)

    def inode(self, number: int) -> tuple[bytes, int]:
        """Some bytes of an allocation group, and the offset in them where an inode begins.

        Raises:
            ImageError: the number is not valid, or the inode cannot be read.
        """
        index = number - self._first
        if 0 <= index < self._count:
            return self._inodes, index * self.inode_size
        block, index = number >> self._inode_bits, number & ((1 << self._inode_bits) - 1)
        group, block = block >> self._group_bits, block & ((1 << self._group_bits) - 1)
        if group >= self.group_count or block >= self.group_size(group):
            raise ImageError(f"inode {number} does not exist")
        piece, at = divmod(block * self.block_size + index * self.inode_size, _PIECE)
        self._inodes = self._piece(group, piece)
        self._first = number - at // self.inode_size
        self._count = len(self._inodes) // self.inode_size
        if at + self.inode_size > len(self._inodes):
            raise ImageError(f"inode {number} is past the end of the volume")
        return self._inodes, at

    def _read_piece(self, group: int, piece: int) -> bytes:
        base = group * self.group_blocks * self.block_size
        start = base + piece * _PIECE
        end = min(start + _PIECE, base + self.group_size(group) * self.block_size, self.window.size)
        return self.window.read(start, max(end - start, 0))
