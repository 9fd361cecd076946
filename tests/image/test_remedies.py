"""Every command that a refusal names is run, on an image that is refused so."""

import ast
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ventifs.image
from tests.support import odd_images, vhdxs
from tests.support.images import KIB, Beside, bytes_of, mixture, qemu_img, qemu_io, read_here
from ventifs.image.disk import ImageError
from ventifs.image.foreign import open_foreign
from ventifs.image.opening import open_disk
from ventifs.image.raw import RawDisk
from ventifs.image.remedies import OF_KINDS, OF_QEMU, Remedy

DISK = mixture(320 * KIB)  # whole cylinders, whatever a tool takes for one
IN_A_GUEST = {Remedy.LUKS}  # tests/guest/test_remedies.py


def _vmdk_parent(top: Path, disk: bytes) -> Path:
    base = odd_images.by_qemu("vmdk")(top, disk[: 64 * KIB] + bytes(len(disk) - 64 * KIB))
    image = top / "top.vmdk"
    qemu_img("create", "-f", "vmdk", "-F", "vmdk", "-b", base, image)
    (top / "rest").write_bytes(disk[64 * KIB :])
    qemu_io(image, f"write -s {top / 'rest'} 64k {len(disk) - 64 * KIB}", kind="vmdk")
    return image


def _vhdx_log(top: Path, disk: bytes) -> Path:
    """A disk in whose table a block is missing, until the log is replayed."""
    image = top / "image.vhdx"
    qemu_img("create", "-f", "vhdx", image, str(len(disk)))
    (top / "disk").write_bytes(disk)
    before = image.read_bytes()
    qemu_io(image, f"write -s {top / 'disk'} 0 {len(disk)}", kind="vhdx")
    data = bytearray(vhdxs.undo_replay(image))
    table = vhdxs.table(data)
    data[table : table + 8] = before[table : table + 8]
    image.write_bytes(data)
    return image


def _damaged_qcow2(top: Path, disk: bytes) -> Path:
    image = odd_images.by_qemu("qcow2")(top, disk)
    data = bytearray(image.read_bytes())
    data[40:48] = (123).to_bytes(8, "big")  # where the first table is
    image.write_bytes(data)
    return image


def _encrypted_qcow2(cipher: str) -> odd_images.Maker:
    options = f"encrypt.format={cipher},encrypt.key-secret=key"
    return odd_images.encrypted("qcow2", "-o", options)


# What is refused so, and the format it is opened as.
CASES: list[tuple[Remedy, str, odd_images.Maker]] = [
    (Remedy.QCOW, "qcow", odd_images.by_qemu("qcow")),
    (Remedy.QED, "qed", odd_images.by_qemu("qed")),
    (Remedy.VDI, "vdi", odd_images.by_qemu("vdi")),
    (Remedy.PARALLELS, "parallels", odd_images.by_qemu("parallels")),
    (Remedy.BOCHS, "bochs", odd_images.bochs),
    (Remedy.CLOOP, "cloop", odd_images.cloop),
    (Remedy.DMG, "dmg", odd_images.dmg),
    (Remedy.UML_COW, "", odd_images.uml_cow),
    (Remedy.EWF, "", odd_images.ewf),
    (Remedy.WIM, "", odd_images.wim),
    (Remedy.DECRYPT_QCOW2, "qcow2", _encrypted_qcow2("luks")),
    (Remedy.DECRYPT_QCOW2, "qcow2", _encrypted_qcow2("aes")),
    (Remedy.FLATTEN_QCOW2, "qcow2", odd_images.deep),
    (Remedy.FLATTEN_QCOW2, "qcow2", odd_images.overlay("vdi")),
    (Remedy.FLATTEN_QCOW2, "qcow2", odd_images.overlay("vmdk")),
    (Remedy.CHECK_QCOW2, "qcow2", _damaged_qcow2),
    (Remedy.VMDK_PARENT, "vmdk", _vmdk_parent),
    (Remedy.VHDX_LOG, "vhdx", _vhdx_log),
]


def test_every_command_has_a_case() -> None:
    cases = {remedy for remedy, _, _ in CASES} | IN_A_GUEST
    assert cases == {remedy for remedy in Remedy if remedy.commands}
    assert set(OF_KINDS.values()) | set(OF_QEMU.values()) < cases
    for remedy in Remedy:
        assert remedy.value.count("'") % 2 == 0
        for command in remedy.commands:
            assert "{path}" in command


def _run(command: str, image: Path, top: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory, as a shell would."""
    return subprocess.run(
        ["sh", "-c", command], cwd=top, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def _result(remedy: Remedy, image: Path, top: Path) -> bytes:
    """The disk that a remedy has made."""
    if remedy is Remedy.EWF:
        return (top / "NEW.raw").read_bytes()
    if remedy is Remedy.UML_COW:
        return (top / "NEW.img").read_bytes()
    if remedy is Remedy.WIM:
        return (top / "DIR" / "disk").read_bytes()
    made = image if remedy is Remedy.VHDX_LOG else top / "NEW.qcow2"
    disk = read_here(made, "vhdx" if remedy is Remedy.VHDX_LOG else "qcow2")
    try:
        return bytes_of(disk)
    finally:
        disk.close()
