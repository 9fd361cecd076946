"""What files seem to be, by their bytes."""

import bz2
import gzip
import lzma
import os
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard

from tests.support.images import MIB, qemu_img, raw_image
from ventifs.image.formats.open_disk import look
from ventifs.image.formats.probe import HEAD, Guess, probe
from ventifs.image.formats.raw import RawDisk


def guess(path: Path) -> Guess:
    file = RawDisk(str(path))
    try:
        return look(file)
    finally:
        file.close()


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("qcow2", "compat=1.1", "qcow2"),
        ("qcow2", "compat=0.10", "qcow2"),
        ("qcow", "", "foreign"),
        ("vmdk", "subformat=monolithicSparse", "vmdk"),
        ("vmdk", "subformat=monolithicFlat", "vmdk"),
        ("vmdk", "subformat=streamOptimized", "vmdk"),
        ("vmdk", "subformat=twoGbMaxExtentSparse", "vmdk"),
        ("vpc", "subformat=dynamic", "vhd"),
        ("vpc", "subformat=fixed", "vhd"),
        ("vhdx", "", "vhdx"),
        ("vdi", "", "foreign"),
        ("qed", "", "foreign"),
        ("parallels", "", "foreign"),
    ],
)
def test_formats_of_qemu_are_known(tmp_path: Path, kind: str, options: str, expected: str) -> None:
    raw_image(tmp_path / "raw", MIB)
    image = tmp_path / "image"
    more = ["-o", options] if options else []
    qemu_img("convert", "-f", "raw", "-O", kind, *more, tmp_path / "raw", image)
    assert guess(image).kind == expected


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_archives_are_known(tmp_path: Path, kind: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
        tar.add(__file__, "ü" * 40)
    assert guess(tmp_path / "a.tar").kind == "tar"


def test_a_tar_of_the_seventh_edition_is_known() -> None:
    header = bytearray(tarfile.TarInfo("name").tobuf(tarfile.USTAR_FORMAT)[:512])
    header[257:] = bytes(255)  # no magic
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert probe(bytes(header), bytes(512), 1024).kind == "tar"
    header[0] ^= 1
    assert probe(bytes(header), bytes(512), 1024).kind == "unknown"


@pytest.mark.parametrize(
    "packed",
    [gzip.compress(b"x"), bz2.compress(b"x"), lzma.compress(b"x"), zstandard.compress(b"x")],
    ids=["gzip", "bzip2", "xz", "zstd"],
)
def test_packed_files_are_known(tmp_path: Path, packed: bytes) -> None:
    (tmp_path / "x").write_bytes(packed)
    assert guess(tmp_path / "x").kind == "packed"


def test_file_systems_are_raw_disks(tmp_path: Path) -> None:
    image = tmp_path / "x"
    image.write_bytes(bytes(4 * MIB))
    subprocess.run(["mke2fs", "-q", "-F", str(image)], check=True)
    assert guess(image) == ("raw", "an ext2, ext3 or ext4 file system")


def _mbr(kind: int) -> bytes:
    entry = struct.pack("<B3xB3xII", 0x80, kind, 2048, 4096)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (_mbr(0x83), "an MBR disk"),
        (_mbr(0xEE) + b"EFI PART", "a GPT disk"),
        (bytes(4096) + b"EFI PART", "a GPT disk"),
        (bytes(512) + b"LABELONE", "an LVM physical volume"),
        (b"XFSB", "an XFS file system"),
        (bytes(0x10040) + b"_BHRfS_M", "a btrfs file system"),
        (bytes(32769) + b"CD001", "an ISO 9660 file system"),
    ],
)
def test_structures_of_raw_disks_are_known(head: bytes, what: str) -> None:
    assert len(head) < HEAD
    assert probe(head, bytes(512), 1 << 30) == ("raw", what)


def test_a_boot_sector_without_partitions_is_no_mbr() -> None:
    assert probe(bytes(510) + b"\x55\xaa", bytes(512), 1 << 20).kind == "unknown"
    junk = b"\x11" * 510 + b"\x55\xaa"
    assert probe(junk, bytes(512), 1 << 20).kind == "unknown"


def test_a_luks_disk_is_known() -> None:
    assert probe(b"LUKS\xba\xbe\0\2" + bytes(4096), bytes(512), 1 << 20).kind == "luks"


def test_noise_is_never_mistaken() -> None:
    for _ in range(300):
        noise = os.urandom(2048)
        assert probe(noise, noise[:512], 2048).kind in ("unknown", "packed")
