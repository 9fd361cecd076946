"""What is advised for LUKS needs device-mapper, and so a guest."""

import shutil
from pathlib import Path

import pytest

from tests.support import qemu
from tests.support.initramfs import kernels, scripted
from ventifs.image.formats.remedies import Remedy

pytestmark = pytest.mark.slow
_MODULES = ["virtio_pci", "virtio_blk", "dm_crypt", "xts", "aes_generic", "algif_skcipher"]


def test_a_luks_device_is_opened_as_advised(tmp_path: Path) -> None:
    if why := qemu.why_not():
        pytest.skip(why)
    cryptsetup = shutil.which("cryptsetup", path="/usr/sbin:/sbin")
    if cryptsetup is None:
        pytest.skip("needs cryptsetup")
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(20 << 20)
    (command,) = Remedy.LUKS.commands
    opened = command.replace("{path}", "/dev/vda")
    script = f"""
    export DM_DISABLE_UDEV=1 PATH=/bin:{Path(cryptsetup).parent}
    mkdir -p /run/cryptsetup
    echo -n secret | cryptsetup luksFormat --batch-mode --type luks1 \\
        --pbkdf-force-iterations 1000 /dev/vda - || exit 2
    echo secret | {opened} || exit 3
    echo precious >/dev/mapper/NAME && sync
    cryptsetup close NAME || exit 4
    grep -q precious /dev/vda && exit 5
    echo secret | {opened} || exit 6
    head -c 9 /dev/mapper/NAME
    """
    kernel = kernels()[-1]
    initrd = scripted(tmp_path, kernel, script, _MODULES, [Path(cryptsetup)])
    console = qemu.boot(kernel, initrd, tmp_path / "console.log", append="quiet", disk=disk)
    assert "script ended with 0" in console, console
    assert "precious" in console.splitlines()
    assert disk.read_bytes().startswith(b"LUKS\xba\xbe\0\1")
