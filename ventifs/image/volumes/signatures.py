"""Identifies what a volume holds, by magic numbers: its name as `blkid` has it, UUID and label.

A table says where each magic number is. Nothing here reads beyond the first superblock, or trusts
it. Knows nothing of partitions, nor of what can be done with a file system.
"""

import struct
import uuid
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from ventifs.image.volumes.window import Window

_HEAD_BYTES = 69 << 10  # covers the table below; superblocks at 64 KiB are the last
_PAGES = (4096, 8192, 16384, 65536)  # page sizes of the machines that made the swap space


class VolumeContents(NamedTuple):
    """What a volume holds; all fields are empty if that is unknown.

    Attributes:
        filesystem: its type, as `blkid` calls it: "ext4", "LVM2_member".
        uuid, label: if it has them; else empty.
    """

    filesystem: str = ""
    uuid: str = ""
    label: str = ""


def identify(volume: Window) -> VolumeContents:
    """Identify what a volume holds. Takes one read.

    Raises:
        ImageError: its first bytes cannot be read.
    """
    head = volume.read(0, min(volume.size, _HEAD_BYTES))
    head += bytes(_HEAD_BYTES - len(head))
    for offset, magic, describe in _SIGNATURES:
        if head.startswith(magic, offset):
            contents = describe(head)
            if contents is not None:
                return contents
    return VolumeContents()


def _text(raw: bytes, encoding: str = "utf-8") -> str:
    """A name up to its first NUL, without outer spaces; unprintable characters are replaced."""
    text = raw.decode(encoding, errors="replace").partition("\0")[0].strip()
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _uuid(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw)) if any(raw) else ""


def _serial(raw: bytes) -> str:
    """A volume's serial number as DOS shows it; empty if it is 0."""
    text = f"{int.from_bytes(raw, 'little'):08X}"
    return f"{text[:4]}-{text[4:]}" if any(raw) else ""


def _plain(
    name: str, uuid_at: int = 0, label_at: int = 0, label_size: int = 0, encoding: str = "utf-8"
) -> Callable[[bytes], VolumeContents]:
    """Describes a file system by the offsets of its UUID and label; 0 if it has none."""

    def describe(head: bytes) -> VolumeContents:
        return VolumeContents(
            name,
            _uuid(head[uuid_at : uuid_at + 16]) if uuid_at else "",
            _text(head[label_at : label_at + label_size], encoding) if label_at else "",
        )

    return describe


def _ext(head: bytes) -> VolumeContents:
    """Ext2, 3 or 4, distinguished by the features that each was the first to have."""
    compatible, incompatible, read_only = struct.unpack_from("<III", head, 1024 + 92)
    if incompatible & 0x8:
        name = "jbd"  # a journal that lives apart from its file system
    elif incompatible & ~0x16 or read_only & ~0x7:  # filetype recover meta_bg; sparse large btree
        name = "ext4"
    else:
        name = "ext3" if compatible & 0x4 or incompatible & 0x4 else "ext2"
    return VolumeContents(name, _uuid(head[1128:1144]), _text(head[1144:1160]))


def _luks(head: bytes) -> VolumeContents:
    version = int.from_bytes(head[6:8], "big")
    label = _text(head[24:72]) if version == 2 else ""
    return VolumeContents("crypto_LUKS", _text(head[168:208]), label)


def _lvm(head: bytes) -> VolumeContents | None:
    for sector in range(0, 2048, 512):
        label = head[sector : sector + 512]
        if label.startswith(b"LABELONE") and label[24:32] == b"LVM2 001":
            at = sector + int.from_bytes(label[20:24], "little")
            return VolumeContents("LVM2_member", hyphened(_text(head[at : at + 32], "ascii")))
    return None


def hyphened(identifier: str) -> str:
    """LVM's 32 characters as its tools show them."""
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(identifier[a:b] for a, b in pairwise(cuts))


def _raid(base: int) -> Callable[[bytes], VolumeContents]:
    def describe(head: bytes) -> VolumeContents:
        return VolumeContents(
            "linux_raid_member",
            _uuid(head[base + 16 : base + 32]),
            _text(head[base + 32 : base + 64]),
        )

    return describe


def _fat(head: bytes) -> VolumeContents | None:
    """Any FAT, if the numbers before its name are valid: a partition table may hold the name."""
    sector, cluster, reserved, fats = struct.unpack_from("<HBHB", head, 11)
    if sector not in (512, 1024, 2048, 4096) or cluster.bit_count() != 1:
        return None
    if not reserved or not fats or not (head[21] == 0xF0 or head[21] >= 0xF8):
        return None
    at = 67 if head[82:87] == b"FAT32" else 39
    label = _text(head[at + 4 : at + 15], "cp437")
    return VolumeContents("vfat", _serial(head[at : at + 4]), "" if label == "NO NAME" else label)


def _ntfs(head: bytes) -> VolumeContents:
    return VolumeContents("ntfs", f"{int.from_bytes(head[72:80], 'little'):016X}")


def _exfat(head: bytes) -> VolumeContents:
    return VolumeContents("exfat", _serial(head[100:104]))


def _iso(head: bytes) -> VolumeContents | None:
    primary = head[32768:34816]
    if primary[0] != 1:
        return None
    made, changed = (primary[at : at + 16].decode("ascii", "replace") for at in (813, 830))
    when = changed if changed.strip("0\0 ") else made
    parts = (when[:4], *(when[at : at + 2] for at in range(4, 16, 2)))
    return VolumeContents(
        "iso9660", "-".join(parts) if when.isdigit() else "", _text(primary[40:72])
    )


def _swap(head: bytes) -> VolumeContents:
    return VolumeContents("swap", _uuid(head[1036:1052]), _text(head[1052:1068]))


def _squashfs(head: bytes) -> VolumeContents:
    return VolumeContents("squashfs" if int.from_bytes(head[28:30], "little") >= 4 else "squashfs3")


# The order matters: containers of other volumes come before file systems, whose magic numbers may
# be left from an older use. RAIDs whose superblock is at the end are left out, so that each half of
# a mirror is read as the file system that it holds.
_SIGNATURES: tuple[tuple[int, bytes, Callable[[bytes], VolumeContents | None]], ...] = (
    (0, b"LUKS\xba\xbe", _luks),
    *((sector + 24, b"LVM2 001", _lvm) for sector in range(0, 2048, 512)),
    (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0", _raid(4096)),
    (0, b"\xfc\x4e\x2b\xa9\x01\0\0\0", _raid(0)),
    (3, b"-FVE-FS-", _plain("BitLocker")),
    (0, b"XFSB", _plain("xfs", 32, 108, 12)),
    (1080, b"\x53\xef", _ext),
    (65600, b"_BHRfS_M", _plain("btrfs", 65568, 65835, 256)),
    *((page - 10, b"SWAPSPACE2", _swap) for page in _PAGES),
    *((page - 10, b"SWAP-SPACE", _plain("swap")) for page in _PAGES),
    (3, b"NTFS    ", _ntfs),
    (3, b"EXFAT   ", _exfat),
    (82, b"FAT32   ", _fat),
    *((54, name, _fat) for name in (b"FAT12   ", b"FAT16   ", b"FAT     ")),
    (0, b"hsqs", _squashfs),
    (1024, b"\xe2\xe1\xf5\xe0", _plain("erofs", 1072, 1088, 16)),
    (1024, b"\x10\x20\xf5\xf2", _plain("f2fs", 1132, 1148, 1024, "utf-16-le")),
    (0, b"\x45\x3d\xcd\x28", _plain("cramfs")),
    (32769, b"CD001", _iso),
    (32, b"NXSB", _plain("apfs", 72)),
    (1024, b"H+\0\4", _plain("hfsplus")),
    (1024, b"HX\0\5", _plain("hfsplus")),
    (32768, b"JFS1", _plain("jfs", 32904, 32920, 16)),
    (65588, b"ReIsEr", _plain("reiserfs", 65620, 65636, 16)),
    (9564, b"\x54\x19\x01\x00", _plain("ufs")),
    (66908, b"\x19\x01\x54\x19", _plain("ufs")),
)
