"""File systems are recognised, and named, as blkid has it."""

import os
from pathlib import Path

import pytest

from tests.support.memorydisk import FileDisk, MemoryDisk
from tests.support.tables import blkid, run
from ventifs.image.disk import ImageError
from ventifs.image.volumes.signatures import VolumeContents, identify
from ventifs.image.volumes.window import Window

MIB = 1 << 20
UUID = "12345678-9abc-def0-1234-56789abcdef0"


def contents_of(path: Path) -> VolumeContents:
    disk = FileDisk(path)
    try:
        return identify(Window(disk, [(0, disk.size)]))
    finally:
        disk.close()


def agree(path: Path) -> VolumeContents:
    theirs = blkid(path)
    ours = contents_of(path)
    assert ours == (theirs["TYPE"], theirs.get("UUID", ""), theirs.get("LABEL", ""))
    return ours


@pytest.mark.parametrize(
    ("filesystem", "command"),
    [
        ("ext2", f"mke2fs -q -F -t ext2 -U {UUID} -L wurzel"),
        ("ext3", "mke2fs -q -F -t ext3"),
        ("ext4", "mke2fs -q -F -t ext4 -L 1234567890123456"),
        ("ext4", "mke2fs -q -F -t ext4 -O ^has_journal -b 1024"),
        ("jbd", "mke2fs -q -F -O journal_dev"),
        ("xfs", "mkfs.xfs -q -L wurzel"),
        ("btrfs", "mkfs.btrfs -q -L wurzel"),
        ("vfat", "mkfs.vfat -F 12 -n ESP"),
        ("vfat", "mkfs.vfat -F 16"),
        ("vfat", "mkfs.vfat -F 32 -n EFISYSTEM"),
        ("vfat", "mkfs.vfat -F 32 -S 4096"),
        ("swap", f"mkswap -q -U {UUID} -L swap"),
        ("swap", "mkswap -q -p 65536"),
        ("crypto_LUKS", f"cryptsetup -q luksFormat --type luks1 --uuid {UUID}"),
        ("crypto_LUKS", "cryptsetup -q luksFormat --type luks2 --label secret"),
    ],
)
def test_what_tools_make(tmp_path: Path, filesystem: str, command: str) -> None:
    path = tmp_path / "image"
    with open(path, "wb") as file:
        file.truncate((8 if "-F 12" in command else 320) * MIB)
    key = tmp_path / "key"
    key.write_text("secret")
    if filesystem == "crypto_LUKS":
        command += " --pbkdf-force-iterations 1000 --pbkdf pbkdf2"
        run(*command.split(), path, key)
    else:
        run(*command.split(), path)
    assert agree(path).filesystem == filesystem


def test_squashfs(tmp_path: Path) -> None:
    path = tmp_path / "image"
    (tmp_path / "tree").mkdir()
    run("mksquashfs", tmp_path / "tree", path, "-quiet", "-no-progress")
    assert agree(path) == ("squashfs", "", "")


def test_ntfs(tmp_path: Path) -> None:
    """Its label is a file's; that is not looked for."""
    path = tmp_path / "image"
    with open(path, "wb") as file:
        file.truncate(16 * MIB)
    run("mkntfs", "-q", "-F", "-Q", path, check=False)
    assert agree(path).filesystem == "ntfs"


def test_iso9660(tmp_path: Path) -> None:
    path = tmp_path / "image"
    descriptor = bytearray(2048)
    descriptor[:8] = b"\1CD001\1\0"
    descriptor[40:72] = b"Debian 12 amd64".ljust(32)
    descriptor[813:829] = b"2026112421000000"
    descriptor[830:846] = b"0" * 16
    descriptor[80:88] = (400).to_bytes(4, "little") + (400).to_bytes(4, "big")
    descriptor[128:132] = b"\0\x08\x08\0"
    path.write_bytes(bytes(32768) + descriptor + b"\xffCD001\1".ljust(2048, b"\0") + bytes(MIB))
    assert contents_of(path) == ("iso9660", "2026-11-24-21-00-00-00", "Debian 12 amd64")
    assert blkid(path)["UUID"] == "2026-11-24-21-00-00-00"


def test_raid(tmp_path: Path) -> None:
    head = bytearray(8192)
    head[4096:4104] = b"\xfc\x4e\x2b\xa9\1\0\0\0"
    head[4112:4128] = bytes.fromhex(UUID.replace("-", ""))
    head[4128:4135] = b"host:md"
    contents = identify(Window(MemoryDisk(MIB, {0: bytes(head)}), [(0, MIB)]))
    assert contents == ("linux_raid_member", UUID, "host:md")


def test_what_is_unknown_is_nothing() -> None:
    assert identify(Window(MemoryDisk(MIB), [(0, MIB)])) == VolumeContents()
    assert identify(Window(MemoryDisk(1, {0: b"x"}), [(0, 1)])) == VolumeContents()


def test_a_label_can_be_printed() -> None:
    head = bytearray(120)
    head[:4] = b"XFSB"
    head[108:120] = b"a\xff\x1b[31m\0rest"
    disk = MemoryDisk(4096, {0: bytes(head)})
    assert identify(Window(disk, [(0, 4096)])).label == "a\ufffd\ufffd[31m"


def test_what_cannot_be_read_is_said() -> None:
    disk = MemoryDisk(MIB)
    disk.broken = range(10)
    with pytest.raises(ImageError):
        identify(Window(disk, [(0, MIB)]))


def test_any_bytes_are_survived() -> None:
    from ventifs.image.volumes.signatures import _SIGNATURES

    noise = os.urandom(80_000)
    for offset, magic, _ in _SIGNATURES:
        for rest in (b"\xff" * 80_000, noise):
            head = rest[:offset] + magic + rest[offset + len(magic) :]
            for size in (len(head), offset + len(magic)):
                found = identify(Window(MemoryDisk(size, {0: head[:size]}), [(0, size)]))
                assert all(text.isprintable() for text in found)
