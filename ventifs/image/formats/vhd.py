"""Disks in VHD images, fixed and dynamic, by Microsoft's "Virtual Hard Disk Image Format".

Read as QEMU reads them. Some programs show their guests only whole cylinders: for their images the
geometry gives the size. A guest can write a footer into the first sector of a fixed image, so the
footer at the end is checked first, and an image is refused if only one of its two footers calls it
fixed. Readers disagree about sectors that a bitmap marks as unwritten, so those must be zeros.
Differencing images are refused.
"""

import re
import struct
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from ventifs.image.disk import ImageError
from ventifs.image.formats.mapped_disk import (
    SECTOR,
    Cache,
    Damaged,
    Flat,
    MappedDisk,
    MappedPiece,
    NumberTable,
    damaged_image,
)
from ventifs.image.formats.raw import RawDisk
from ventifs.image.formats.remedies import Remedy

_COOKIE, _DYNAMIC_COOKIE = b"conectix", b"cxsparse"
_FOOTER = struct.Struct(">8sIIQI4sIIQQHBBII16sB")
_HEADER = struct.Struct(">8sQQIIII")
_HEADER_BYTES = 1024
_FOOTER_SUM, _HEADER_SUM = 64, 36  # where the checksums are
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_BY_GEOMETRY = (b"vpc ", b"qemu")  # programs whose disks end with the last whole cylinder
_GEOMETRY_MAX = 65535 * 16 * 255
_SIZE_MAX = 2040 << 30  # the most that sector numbers can address
_BLOCKS = range(4096, (256 << 20) + 1)  # QEMU reads smaller ones as having no bitmaps
_NOWHERE = 0xFFFF_FFFF
_BITMAPS_BYTES = 1 << 20  # of bitmaps, kept for each disk
_STEP = 1 << 20  # bytes of a block that are checked at once; whole bytes of its bitmap


class VhdFooter(NamedTuple):
    """A footer whose checksum holds.

    Attributes:
        kind: 2 for fixed, 3 for dynamic, 4 for differencing images.
        size: bytes of the disk.
        next: where the header of a dynamic image is.
        notes: lines for people about the image.
    """

    kind: int
    size: int
    next: int
    notes: tuple[str, ...]


def open_vhd(file: RawDisk) -> MappedDisk:
    """Open a VHD image; the disk owns the file.

    Raises:
        ImageError: it cannot be read; the file is closed.
    """
    try:
        return _opened(file)
    except BaseException:
        file.close()
        raise


def _opened(file: RawDisk) -> MappedDisk:
    damaged = partial(damaged_image, "VHD", file.label)
    first = _footer(file.read_upto(0, SECTOR))
    last = _footer(file.read_upto(max(0, file.size - SECTOR), SECTOR))
    if last is not None and last.kind == _FIXED:
        if first is not None and first.kind != _FIXED:
            raise damaged("it says it is dynamic at its beginning, and fixed at its end")
        if last.size + SECTOR > file.size:
            raise damaged("its disk is larger than the file")
        return MappedDisk("vhd", [file], Flat(file, 0, last.size, damaged), last.notes)
    footer = first or last
    if footer is None:
        raise damaged("it has no intact footer")
    if footer.kind == _DIFFERENCING:
        raise ImageError(
            f"{file.label}: only what differs from another VHD image: "
            + Remedy.VHD_PARENT.line(file.label)
        )
    if footer.kind != _DYNAMIC:
        raise damaged("its kind is unknown")
    return MappedDisk("vhd", [file], _dynamic(file, footer, damaged), footer.notes)


def _footer(data: bytes) -> VhdFooter | None:
    """The footer in a sector; None if it has no intact one."""
    if len(data) < SECTOR or not data.startswith(_COOKIE) or not _sums(data, _FOOTER_SUM):
        return None
    (
        _,
        _,
        _,
        following,
        _,
        program,
        _,
        _,
        _,
        size,
        cylinders,
        heads,
        sectors,
        kind,
        _,
        _,
        saved,
    ) = _FOOTER.unpack_from(data)
    size = size // SECTOR * SECTOR
    notes = ["its guest was suspended, and is not shut down"] * bool(saved)
    geometry = cylinders * heads * sectors
    if program in _BY_GEOMETRY and geometry != _GEOMETRY_MAX:
        if geometry * SECTOR != size:
            notes.append(
                f"its size is {geometry * SECTOR} bytes by its geometry, as its guest sees it, "
                f"and {size} by its footer"
            )
        size = geometry * SECTOR
    return VhdFooter(kind, size, following, tuple(notes))


def _sums(data: bytes, place: int) -> bool:
    """Whether the checksum at a place of a structure holds."""
    (told,) = struct.unpack_from(">I", data, place)
    return bool(told == ~(sum(data) - sum(data[place : place + 4])) & 0xFFFF_FFFF)


def _dynamic(file: RawDisk, footer: VhdFooter, damaged: Damaged) -> "Dynamic":
    header = file.read_upto(footer.next, _HEADER_BYTES) if footer.next < file.size else b""
    if len(header) < _HEADER_BYTES or not header.startswith(_DYNAMIC_COOKIE):
        raise damaged("the header of its tables is not where it should be")
    if not _sums(header, _HEADER_SUM):
        raise damaged("the header of its tables is not intact")
    _, _, table, _, entries, block, _ = _HEADER.unpack_from(header)
    if block not in _BLOCKS or block & (block - 1):
        raise damaged(f"it says its blocks have {block} bytes")
    if not footer.size or footer.size > _SIZE_MAX or entries * block < footer.size:
        raise damaged(f"its table is too small for a disk of {footer.size} bytes")
    blocks = -(-footer.size // block)
    return Dynamic(
        file, footer.size, block, NumberTable(file, table, blocks, "I", "big", damaged), damaged
    )


class Dynamic:
    """Blocks that lie anywhere in the file, each after a bitmap of its sectors.

    Concurrency: any method from any process or thread; each process has its own caches.
    """

    def __init__(
        self, file: RawDisk, size: int, block: int, table: NumberTable, damaged: Damaged
    ) -> None:
        """Map a disk of `size` bytes by the table of its blocks."""
        self.size = size
        self._file = file
        self._block = block
        self._table = table
        self._damaged = damaged
        self._bitmap_bytes = -(-(block // SECTOR // 8) // SECTOR) * SECTOR
        self._bitmaps: Cache[bytes] = Cache(_BITMAPS_BYTES, self._bitmap_bytes)
        self._read = self._read_bitmap

    def pieces(self, start: int, end: int) -> Iterator[MappedPiece]:
        """As `Mapping.pieces`.

        Raises:
            ImageError: as there.
        """
        block = self._block
        for first, last, sector in self._table.runs(start // block, -(-end // block)):
            if sector == _NOWHERE:
                yield MappedPiece(max(start, first * block), min(end, last * block))
                continue
            if last - first > 1:
                raise self._damaged("two of its blocks lie in one place")
            low, high = max(start, first * block), min(end, last * block)
            self._check(sector, low - first * block, high - first * block)
            place = sector * SECTOR + self._bitmap_bytes
            yield MappedPiece(low, high, self._file, place + low - first * block)

    def _check(self, sector: int, start: int, end: int) -> None:
        """Refuse a range of a block that has data in sectors marked as unwritten."""
        bitmap = self._bitmaps.get(self._read, sector)
        while start < end:
            stop = min(end, (start // _STEP + 1) * _STEP)
            written = bitmap[start // SECTOR // 8 : -(-stop // SECTOR // 8)]
            if written.strip(b"\xff"):
                self._check_step(sector, written, start, stop)
            start = stop

    def _check_step(self, sector: int, written: bytes, start: int, end: int) -> None:
        """As `_check`, for a range within one `_STEP`; `written` is its part of the bitmap."""
        place = sector * SECTOR + self._bitmap_bytes
        data = self._file.read_upto(place + start, end - start)
        if not data.strip(b"\0"):
            return
        shift = start // (SECTOR * 8) * SECTOR * 8 - start  # of the first bit's sector in `data`
        for run in re.finditer("0+", "".join(f"{byte:08b}" for byte in written)):
            low, high = (max(0, shift + at * SECTOR) for at in run.span())
            if data[low:high].strip(b"\0"):
                raise self._damaged(
                    f"the block at sector {sector} has data where its bitmap says that none was "
                    "written"
                )

    def _read_bitmap(self, sector: int) -> bytes:
        """A block's bitmap: a bit for each sector, highest bit first; 1 means written."""
        bitmap = self._file.read_upto(sector * SECTOR, self._bitmap_bytes)
        if len(bitmap) < self._bitmap_bytes:
            raise self._damaged(f"a block at sector {sector}, past the end of the file")
        return bitmap
