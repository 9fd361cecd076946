"""Guesses what a file is by its first bytes, and for VHD and DMG by its last. Opens no file."""

import re
import struct
from typing import NamedTuple

HEAD = 72 << 10  # bytes to look at; the magics of btrfs and ISO 9660 lie far in
TAIL = 512

_SECTOR = 512


class Guess(NamedTuple):
    """What a file seems to be.

    Attributes:
        kind: "qcow2", "vmdk", "vhd", "vhdx" or "raw" for disks that can be read; "tar"; "packed"
            for gzip, bzip2, xz and zstd; "luks"; "foreign" for disks in formats that are not read
            here; "unknown".
        what: its name for people, with an article: "a GPT disk".
    """

    kind: str
    what: str


_STARTS = (
    (b"QFI\xfb\0\0\0\1", "foreign", "a qcow (version 1) image"),
    (b"QFI\xfb", "qcow2", "a qcow2 image"),
    (b"KDMV", "vmdk", "a VMDK image"),
    (b"COWD", "vmdk", "a VMDK image of ESX"),
    (b"vhdxfile", "vhdx", "a VHDX image"),
    (b"conectix", "vhd", "a VHD image"),
    (b"LUKS\xba\xbe", "luks", "a LUKS-encrypted disk"),
    (b"QED\0", "foreign", "a QED image"),
    (b"WithoutFreeSpace", "foreign", "a Parallels image"),
    (b"WithouFreSpacExt", "foreign", "a Parallels image"),
    (b"Bochs Virtual HD Image", "foreign", "a Bochs image"),
    (b"#!/bin/sh\n#V2.0 Format\n", "foreign", "a cloop image"),
    (b"OOOM", "foreign", "a User-Mode Linux COW image"),
    (b"MSWIM\0\0\0", "foreign", "a WIM archive"),
    (b"EVF\x09\x0d\x0a\xff\0", "foreign", "an EWF (E01) image"),
    (b"\x1f\x8b\x08", "packed", "gzip data"),
    (b"BZh", "packed", "bzip2 data"),
    (b"\xfd7zXZ\0", "packed", "xz data"),
    (b"\x28\xb5\x2f\xfd", "packed", "zstd data"),
)
_VDI = struct.pack("<I", 0xBEDA107F), 0x40
_KOLY = b"koly\0\0\0\4\0\0\2\0"
_DESCRIPTOR = re.compile(rb"#\s*Disk\s*Descriptor\s*File", re.IGNORECASE)
# Offset and magic bytes, as blkid and the kernel use them.
_FILESYSTEMS = (
    (0, b"XFSB", "an XFS file system"),
    (1080, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (0x10040, b"_BHRfS_M", "a btrfs file system"),
    (1024, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    (0x10034, b"ReIsEr", "a ReiserFS file system"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (54, b"FAT1", "a FAT file system"),
    (82, b"FAT32   ", "a FAT file system"),
    (0, b"hsqs", "a squashfs file system"),
    (1024, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
    (32769, b"CD001", "an ISO 9660 file system"),
    (4086, b"SWAPSPACE2", "a swap area"),
    (65526, b"SWAPSPACE2", "a swap area"),
    (4096, b"\xfc\x4e\x2b\xa9", "a RAID member"),
    (0, b"\xfc\x4e\x2b\xa9", "a RAID member"),
)


def probe(head: bytes, tail: bytes, size: int) -> Guess:
    """Guess what a file of `size` bytes is, by its first `HEAD` bytes and its last `TAIL`."""
    for start, kind, what in _STARTS:
        if head.startswith(start):
            return Guess(kind, what)
    tests = (
        (_DESCRIPTOR.match(head) is not None, "vmdk", "a VMDK image"),
        (head.startswith(*_VDI), "foreign", "a VirtualBox VDI image"),
        (_is_footer(tail, size), "vhd", "a fixed VHD image"),
        (tail.startswith(_KOLY), "foreign", "an Apple disk image (DMG)"),
        (is_tar(head), "tar", "a tar archive"),
        (bool(structure := _structure(head)), "raw", structure),
    )
    for holds, kind, what in tests:
        if holds:
            return Guess(kind, what)
    return Guess("unknown", "unknown data")


def is_tar(head: bytes) -> bool:
    """Whether a tar archive of any kind begins here: its first header's checksum holds."""
    header = head[:_SECTOR]
    if len(header) < _SECTOR or header[0] == 0:
        return False
    try:
        told = int(header[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    rest = header[:148] + b" " * 8 + header[156:]
    signed = sum(rest) - 256 * sum(byte > 127 for byte in rest)  # some old tars summed signed bytes
    return told in (sum(rest), signed)


def _is_footer(tail: bytes, size: int) -> bool:
    """Whether a fixed VHD ends here.

    A guest can write such a sector, so the kind, the size and the checksum must all fit.
    """
    if len(tail) < TAIL or not tail.startswith(b"conectix"):
        return False
    current, kind, checksum = struct.unpack_from(">Q4xII", tail, 48)
    total = sum(tail[:64]) + sum(tail[68:])
    return bool(kind == 2 and current <= size - TAIL and checksum == ~total & 0xFFFF_FFFF)


def _structure(head: bytes) -> str:
    """What a raw disk begins with; empty if that is unknown."""
    if any(head.startswith(b"EFI PART", sector) for sector in (512, 4096)):
        return "a GPT disk"
    for sector in range(4):
        if head.startswith(b"LABELONE", sector * _SECTOR):
            return "an LVM physical volume"
    for offset, magic, what in _FILESYSTEMS:
        if head.startswith(magic, offset):
            return what
    return "an MBR disk" if _is_mbr(head) else ""


def _is_mbr(head: bytes) -> bool:
    if head[510:512] != b"\x55\xaa":
        return False
    entries = [struct.unpack_from("<B3xB3xII", head, 446 + 16 * number) for number in range(4)]
    return all(entry[0] in (0, 0x80) for entry in entries) and any(
        kind and sectors for _, kind, _, sectors in entries
    )
