"""VMDK images made by hand, of kinds that qemu-img reads but cannot make."""

import struct
import zlib
from pathlib import Path

SECTOR = 512
GRAIN = 128  # sectors
ENTRIES = 512
AT_END = (1 << 64) - 1
HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")


def descriptor(kind: str, *lines: str, parent: str = "ffffffff", more: str = "") -> str:
    """A descriptor with these lines for its extents."""
    return (
        f'# Disk DescriptorFile\nversion=1\nCID=1234abcd\nparentCID={parent}\ncreateType="{kind}"\n'
        f"{more}\n# Extent description\n{chr(10).join(lines)}\n\n# The Disk Data Base\n#DDB\n\n"
        'ddb.virtualHWVersion = "4"\nddb.adapterType = "ide"\n'
    )


def header(capacity: int, **fields: int) -> bytes:
    """The header of a sparse extent, one sector long; `fields` replace the usual values."""
    told = {
        "version": 1,
        "flags": 1,
        "grain": GRAIN,
        "text": 0,
        "text_size": 0,
        "entries": ENTRIES,
        "second": 0,
        "directory": 0,
        "overhead": 0,
        "unclean": 0,
        "method": 0,
        **fields,
    }
    packed = HEADER.pack(
        b"KDMV",
        told["version"],
        told["flags"],
        capacity,
        told["grain"],
        told["text"],
        told["text_size"],
        told["entries"],
        told["second"],
        told["directory"],
        told["overhead"],
        told["unclean"],
        b"\n \r\n",
        told["method"],
    )
    return packed.ljust(SECTOR, b"\0")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % SECTOR)


def stream(grains: dict[int, bytes], capacity: int) -> bytes:
    """A stream-optimised image, as VMware makes it: its grain directory is at the end.

    Args:
        grains: bytes of some grains, by number.
        capacity: sectors of the disk.
    """
    fields = {
        "version": 3,
        "flags": 1 | 1 << 16 | 1 << 17,
        "text": 1,
        "text_size": 2,
        "overhead": 128,
        "method": 1,
    }
    text = descriptor("streamOptimized", f'RW {capacity} SPARSE "disk.vmdk"').encode()
    out = bytearray(header(capacity, directory=AT_END, **fields) + text.ljust(1024, b"\0"))
    out += bytes(128 * SECTOR - len(out))
    tables: dict[int, list[int]] = {}
    for number, data in grains.items():
        packed = zlib.compress(data)
        tables.setdefault(number // ENTRIES, [0] * ENTRIES)[number % ENTRIES] = len(out) // SECTOR
        out += _padded(struct.pack("<QI", number * GRAIN, len(packed)) + packed)
    directory = [0] * -(-capacity // (GRAIN * ENTRIES))
    for index, table in tables.items():
        out += _padded(struct.pack("<QII", 4, 0, 1))
        directory[index] = len(out) // SECTOR
        out += struct.pack(f"<{ENTRIES}I", *table)
    out += _padded(struct.pack("<QII", 1, 0, 2))
    at = len(out) // SECTOR
    out += _padded(struct.pack(f"<{len(directory)}I", *directory))
    out += _padded(struct.pack("<QII", 1, 0, 3)) + header(capacity, directory=at, **fields)
    return bytes(out + bytes(SECTOR))


def sparse_esx(grains: dict[int, bytes], capacity: int, grain: int = 1) -> bytes:
    """A sparse extent of ESX (COWD): grains of some sectors, 4096 in a table."""
    count = -(-capacity // (4096 * grain))
    directory, tables, data = [0] * count, bytearray(), bytearray()
    start = 4 + -(-count * 4 // SECTOR)
    used = sorted({number // 4096 for number in grains})
    first = start + len(used) * 32
    for at, index in enumerate(used):
        directory[index] = start + at * 32
        table = [0] * 4096
        for number, stored in grains.items():
            if number // 4096 == index:
                table[number % 4096] = first + len(data) // SECTOR
                data += stored
        tables += struct.pack("<4096I", *table)
    head = struct.pack("<4s7I", b"COWD", 1, 3, capacity, grain, 4, count, 0).ljust(2048, b"\0")
    return head + _padded(struct.pack(f"<{count}I", *directory)) + tables + data


def write_flat(top: Path, *lines: str, kind: str = "twoGbMaxExtentFlat") -> Path:
    """Write a descriptor in a directory; return its path."""
    image = top / "flat.vmdk"
    image.write_text(descriptor(kind, *lines))
    return image
