"""Changes VHDX images made by QEMU: headers, metadata, and a log that is not replayed."""

import struct
from pathlib import Path

from ventifs.image.formats.vhdx_header import crc32c

KIB, MIB = 1 << 10, 1 << 20
HEADERS, REGIONS = (64 * KIB, 128 * KIB), (192 * KIB, 256 * KIB)
_LENGTHS = dict.fromkeys(HEADERS, 4 * KIB) | dict.fromkeys(REGIONS, 64 * KIB)


def change(data: bytearray, place: int, fields: dict[int, bytes]) -> None:
    """Change fields of a header or region table, and its checksum."""
    length = _LENGTHS[place]
    for at, field in fields.items():
        data[place + at : place + at + len(field)] = field
    data[place + 4 : place + 8] = bytes(4)
    struct.pack_into("<I", data, place + 4, crc32c(bytes(data[place : place + length])))


def current(data: bytes | bytearray) -> int:
    """The offset of the current header."""
    return max(HEADERS, key=lambda place: int(struct.unpack_from("<Q", data, place + 8)[0]))


def item(data: bytes | bytearray, which: int) -> int:
    """The offset of an item of the metadata, by its number in the table."""
    base = metadata(data)
    return base + int(struct.unpack_from("<I", data, base + 32 + 32 * which + 16)[0])


def metadata(data: bytes | bytearray) -> int:
    """The offset of the metadata."""
    return _region(data, bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e"))


def table(data: bytes | bytearray) -> int:
    """The offset of the block allocation table."""
    return _region(data, bytes.fromhex("6677c22d23f600429d64115e9bfd4a08"))


def _region(data: bytes | bytearray, which: bytes) -> int:
    for at in (16, 48):
        if data[REGIONS[0] + at :][:16] == which:
            return int(struct.unpack_from("<Q", data, REGIONS[0] + at + 16)[0])
    raise AssertionError("no such region")


def undo_replay(image: Path) -> bytes:
    """Have an image say that its log was not replayed, and undo what the last entry of it did.

    QEMU leaves entries in the log when it has replayed them. Returns what the table had before.
    """
    data = bytearray(image.read_bytes())
    header = current(data)
    length, place = struct.unpack_from("<IQ", data, header + 68)
    entries = [at for at in range(place, place + length, 4 * KIB) if data[at : at + 4] == b"loge"]
    last = max(entries, key=lambda at: int(struct.unpack_from("<Q", data, at + 16)[0]))
    change(data, header, {48: bytes(data[last + 32 : last + 48])})
    image.write_bytes(data)
    return bytes(data)
