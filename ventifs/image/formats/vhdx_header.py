"""The headers, regions and metadata of a VHDX image, by Microsoft's [MS-VHDX].

Reads and checks them. A header or a table of regions counts only if its checksum holds. An image
whose log has entries is refused: its tables are those of an older state until the log is replayed.
Unknown items that are marked as required are refused, as the format demands.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID

from ventifs.image.disk import ImageError
from ventifs.image.formats.mapped_disk import SIZE_MAX, Damaged
from ventifs.image.formats.raw import RawDisk
from ventifs.image.formats.remedies import Remedy

_KIB, _MIB = 1 << 10, 1 << 20
_MAGIC = b"vhdxfile"
_HEADERS, _REGIONS = (64 * _KIB, 128 * _KIB), (192 * _KIB, 256 * _KIB)
_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_HEADER_BYTES, _REGIONS_BYTES = 4 * _KIB, 64 * _KIB
_ENTRIES_MAX = 2047  # of a table of regions, or of metadata
_REGION = struct.Struct("<16sQII")
_ITEM = struct.Struct("<16sIIII")
_LOG_ENTRY = struct.Struct("<4sIIIQII16sQQ")
_LOG_SECTOR = 4 * _KIB
_LOG_MAX = 64 * _MIB
_CHECKED_MAX = 4 * _MIB  # bytes of log entries to check in all; entries may overlap
_NONE = bytes(16)
_REQUIRED_REGION, _REQUIRED_ITEM = 1, 4
_LEAVE, _HAS_PARENT = 1, 2
_BLOCKS = range(_MIB, 256 * _MIB + 1)
_SECTORS = (512, 4096)


def _id(text: str) -> bytes:
    return UUID(text).bytes_le


_BAT = _id("2dc27766-f623-4200-9d64-115e9bfd4a08")
_METADATA = _id("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_PARAMETERS = _id("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_SIZE = _id("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_LOGICAL = _id("8141bf1d-a96f-4709-ba47-f233a8faab5f")
_KNOWN = {
    _PARAMETERS: 8,
    _SIZE: 8,
    _LOGICAL: 4,
    _id("beca12ab-b2e6-4523-93ef-c309e000c746"): 16,  # the disk's id
    _id("cda348c7-445d-4471-9cc9-e9885251c556"): 4,  # size of physical sectors
    _id("a8d35f2d-b30b-454d-abf7-d3d84834ab0c"): 0,  # the parent's name, if there is one
}


class VhdxHeader(NamedTuple):
    """The checked metadata of an image.

    Attributes:
        size: bytes of the disk.
        block: bytes of a block.
        sector: bytes of a logical sector.
        table, table_bytes: place and length of the block allocation table.
    """

    size: int
    block: int
    sector: int
    table: int
    table_bytes: int


def parse_vhdx(file: RawDisk, damaged: Damaged) -> VhdxHeader:
    """The header of an image.

    Raises:
        ImageError: it is damaged, needs a parent, or its log must be replayed first.
    """
    if file.read_upto(0, len(_MAGIC)) != _MAGIC:
        raise damaged("it does not begin like one")
    _check_log(file, damaged)
    regions = _regions(file, damaged)
    items = _items(file, regions, damaged)
    block, flags = struct.unpack("<II", items[_PARAMETERS])
    if flags & _HAS_PARENT:
        raise ImageError(
            f"{file.label}: only what differs from another VHDX image: "
            + Remedy.VHDX_PARENT.line(file.label)
        )
    (size,) = struct.unpack("<Q", items[_SIZE])
    (sector,) = struct.unpack("<I", items[_LOGICAL])
    if block not in _BLOCKS or block & (block - 1):
        raise damaged(f"it says its blocks have {block} bytes")
    if sector not in _SECTORS or not 0 < size <= SIZE_MAX or size % sector:
        raise damaged(f"it says it has {size} bytes, in sectors of {sector}")
    return VhdxHeader(size, block, sector, *regions[_BAT])


def _check_log(file: RawDisk, damaged: Damaged) -> None:
    """Refuse an image whose current header names a log that has entries."""
    found = [
        _HEADER.unpack_from(data)
        for data in (file.read_upto(place, _HEADER_BYTES) for place in _HEADERS)
        if len(data) == _HEADER_BYTES and data.startswith(b"head") and _sums(data)
    ]
    if not found:
        raise damaged("neither of its two headers is intact")
    if len(found) == 2 and found[0][2] == found[1][2] and found[0][3:] != found[1][3:]:
        raise damaged("its two headers have one number, and differ")
    current = max(found, key=lambda header: int(header[2]))
    log, log_version, version, length, place = current[5:]
    if version != 1 or log_version:
        raise damaged(f"it is of version {version}, its log of {log_version}")
    if log != _NONE and _is_used(file, log, place, length, damaged):
        raise ImageError(
            f"{file.label}: VHDX image that was not closed cleanly, with a log: "
            + Remedy.VHDX_LOG.line(file.label)
        )


def _is_used(file: RawDisk, log: bytes, place: int, length: int, damaged: Damaged) -> bool:
    """Whether a log has an intact entry of its own, or too many bytes of entries to check."""
    if length > _LOG_MAX or length % _MIB or place + length > file.size:
        raise damaged(f"it says its log has {length} bytes at {place}")
    data = file.read(place, length)
    checked = 0
    for at in range(0, length, _LOG_SECTOR):
        if not data.startswith(b"loge", at):
            continue
        _, _, size, _, _, _, _, owner, _, _ = _LOG_ENTRY.unpack_from(data, at)
        if owner != log or not 0 < size <= length or size % _LOG_SECTOR:
            continue
        checked += size
        entry = data[at : at + size] + data[: max(0, at + size - length)]  # the log is a ring
        if checked > _CHECKED_MAX or _sums(entry):
            return True
    return False


def _regions(file: RawDisk, damaged: Damaged) -> dict[bytes, tuple[int, int]]:
    """Place and length of the known regions, by their ids."""
    for place in _REGIONS:
        data = file.read_upto(place, _REGIONS_BYTES)
        if len(data) == _REGIONS_BYTES and data.startswith(b"regi") and _sums(data):
            break
    else:
        raise damaged("neither of its two tables of regions is intact")
    (count,) = struct.unpack_from("<I", data, 8)
    regions: dict[bytes, tuple[int, int]] = {}
    for which, place, length, required in _entries(_REGION, data, 16, count, damaged):
        if which in (_BAT, _METADATA):
            if which in regions or place < _MIB or place + length > file.size:
                raise damaged(f"it says it has a region of {length} bytes at {place}")
            regions[which] = place, length
        elif required & _REQUIRED_REGION:
            raise damaged(f"it has a region that is not known here ({UUID(bytes_le=which)})")
    if len(regions) != 2:
        raise damaged("its table of regions lacks one")
    return regions


def _items(
    file: RawDisk, regions: dict[bytes, tuple[int, int]], damaged: Damaged
) -> dict[bytes, bytes]:
    """The known items of the metadata, by their ids."""
    base, length = regions[_METADATA]
    data = file.read_upto(base, min(length, _REGIONS_BYTES))
    if len(data) < _REGIONS_BYTES or not data.startswith(b"metadata"):
        raise damaged("its table of metadata is not where it should be")
    (count,) = struct.unpack_from("<H", data, 10)
    items: dict[bytes, bytes] = {}
    for which, place, size, flags, _ in _entries(_ITEM, data, 32, count, damaged):
        if which in _KNOWN:
            known = _KNOWN[which]
            if which in items or place + size > length or (known and size != known):
                raise damaged(f"its metadata has an item of {size} bytes at {place}")
            items[which] = file.read_upto(base + place, known)
            if len(items[which]) != known:
                raise damaged("its metadata is cut off")
        elif flags & _REQUIRED_ITEM:
            raise damaged(f"its metadata has an item unknown here ({UUID(bytes_le=which)})")
    if not {_PARAMETERS, _SIZE, _LOGICAL} <= items.keys():
        raise damaged("its metadata lacks an item")
    return items


def _entries(
    layout: struct.Struct, data: bytes, start: int, count: int, damaged: Damaged
) -> Iterator[tuple[Any, ...]]:
    if count > _ENTRIES_MAX or start + count * layout.size > len(data):
        raise damaged(f"one of its tables has {count} entries")
    for number in range(count):
        yield layout.unpack_from(data, start + number * layout.size)


def _sums(data: bytes) -> bool:
    """Whether the checksum of a structure, its second 32-bit number, holds."""
    (told,) = struct.unpack_from("<I", data, 4)
    return bool(told == crc32c(data[:4] + bytes(4) + data[8:]))


def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (0x82F6_3B78 if value & 1 else 0) for value in table]
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C, Castagnoli's checksum."""
    table, crc = _TABLE, 0xFFFF_FFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFF_FFFF
