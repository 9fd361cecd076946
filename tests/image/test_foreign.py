"""VMDK, VHD and VHDX images that QEMU makes, read as QEMU reads them; refusals; hostile ones."""

import multiprocessing
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.images import (
    MIB,
    bytes_by_qemu,
    bytes_by_spans,
    bytes_of,
    opened,
    qemu_img,
    raw_image,
)
from ventifs.image.disk import Disk, ImageError
from ventifs.image.foreign import ForeignDisk

SIZE = 5 * MIB
KINDS = {
    "vmdk": "vmdk",
    "vmdk flat": "subformat=monolithicFlat",
    "vmdk split": "subformat=twoGbMaxExtentSparse",
    "vmdk split flat": "subformat=twoGbMaxExtentFlat",
    "vmdk stream": "subformat=streamOptimized",
    "vmdk compat6": "compat6=on",
    "vpc": "subformat=dynamic",
    "vpc fixed": "subformat=fixed",
    "vpc exact": "subformat=dynamic,force_size=on",
    "vhdx": "subformat=dynamic",
    "vhdx fixed": "subformat=fixed",
    "vhdx small": "block_size=1M",
}
NAMES = {"vmdk": "vmdk", "vpc": "vhd", "vhdx": "vhdx"}


def open_disk(image: Path, kind: str = "") -> Disk:
    """As its name says; without a suffix it is a VMDK image."""
    return opened(image, kind or NAMES[image.suffix[1:] or "vmdk"])


def _make(tmp_path: Path, kind: str, size: int = SIZE) -> Path:
    raw_image(tmp_path / "raw", size)
    image = tmp_path / f"image.{kind.split()[0]}"
    options = () if "=" not in KINDS[kind] else ("-o", KINDS[kind])
    qemu_img("convert", "-f", "raw", "-O", kind.split()[0], *options, tmp_path / "raw", image)
    return image


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_qemu(tmp_path: Path, kind: str) -> None:
    image = _make(tmp_path, kind)
    driver = kind.split()[0]
    disk = open_disk(image)
    assert (disk.format, disk.label, disk.notes) == (NAMES[driver], str(image), [])
    expected = bytes_by_qemu(image, driver)
    assert disk.size == len(expected)
    assert expected.startswith((tmp_path / "raw").read_bytes())
    assert bytes_of(disk) == expected
    assert bytes_by_spans(disk, 100, 70_001) == expected[100:70_001]
    disk.close()
    disk.close()


@pytest.mark.parametrize("kind", ["vmdk", "vpc", "vhdx"])
def test_sparse_images(tmp_path: Path, kind: str) -> None:
    raw = tmp_path / "raw"
    with raw.open("wb") as file:
        file.truncate(60 * MIB)
        file.seek(41 * MIB)
        file.write(b"x" * 100_000)
    qemu_img("convert", "-f", "raw", "-O", kind, raw, tmp_path / "image")
    disk = open_disk(tmp_path / "image", NAMES[kind])
    assert bytes_of(disk, MIB) == bytes_by_qemu(tmp_path / "image", kind)
    disk.close()


@pytest.mark.parametrize("kind", ["vmdk flat", "vmdk split", "vmdk split flat"])
def test_files_are_all_that_an_image_consists_of(tmp_path: Path, kind: str) -> None:
    image = _make(tmp_path, kind)
    disk = open_disk(image)
    parts = {path.stat().st_ino for path in tmp_path.glob("image*.vmdk")}
    assert len(parts) == 2
    assert {status.st_ino for status in disk.files} == parts
    disk.close()


def test_an_image_is_read_under_another_name(tmp_path: Path) -> None:
    image = _make(tmp_path, "vmdk")
    disk = open_disk(image.rename(tmp_path / "other.vmdk"))
    assert bytes_of(disk) == (tmp_path / "raw").read_bytes()
    disk.close()


def _in_child(work: Callable[[], bool]) -> bool:
    child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(not work()))
    child.start()
    child.join(60)
    return child.exitcode == 0


@pytest.mark.parametrize("kind", ["vmdk stream", "vpc", "vhdx"])
def test_forked_processes_have_handles_of_their_own(tmp_path: Path, kind: str) -> None:
    disk = open_disk(_make(tmp_path, kind))
    expected = bytes_of(disk)
    fork = multiprocessing.get_context("fork")
    children = [
        fork.Process(target=lambda: os._exit(bytes_of(disk, 7001) != expected)) for _ in "12"
    ]
    for child in children:
        child.start()
    assert bytes_of(disk, 7001) == expected
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    disk.close()


def test_an_image_that_is_replaced_is_not_mixed(tmp_path: Path) -> None:
    image = _make(tmp_path, "vhdx")
    disk = open_disk(image)
    other = tmp_path / "other"
    other.write_bytes(image.read_bytes())
    other.replace(image)

    def refused() -> bool:
        with pytest.raises(ImageError, match="it was replaced while it was read"):
            disk.read(0, 10)
        return True

    assert _in_child(refused)
    disk.close()


@pytest.mark.parametrize("kind", ["vmdk"])
def test_snapshots_that_need_a_parent_are_refused(tmp_path: Path, kind: str) -> None:
    image = _make(tmp_path, kind)
    top = tmp_path / "top"
    qemu_img("create", "-f", kind, "-F", kind, "-b", image, top)
    with pytest.raises(ImageError, match="only what differs from another VMDK image: convert it"):
        open_disk(top)


def test_a_differencing_vhd_is_refused(tmp_path: Path) -> None:
    image = _make(tmp_path, "vpc")
    data = bytearray(image.read_bytes())
    for footer in (0, len(data) - 512):
        struct.pack_into(">I", data, footer + 60, 4)
        struct.pack_into(">I", data, footer + 64, 0)
        checksum = ~sum(data[footer : footer + 512]) & 0xFFFF_FFFF
        struct.pack_into(">I", data, footer + 64, checksum)
    image.write_bytes(data)
    with pytest.raises(ImageError, match="VHD image"):
        open_disk(image)


def test_a_vhdx_with_a_log_is_refused(tmp_path: Path) -> None:
    image = _make(tmp_path, "vhdx")
    data = bytearray(image.read_bytes())
    for header in (64 << 10, 128 << 10):
        data[header + 48] = 1
    image.write_bytes(data)
    with pytest.raises(ImageError, match="not closed cleanly: replay its log first"):
        open_disk(image)


def test_an_unclean_vmdk_is_noted(tmp_path: Path) -> None:
    image = _make(tmp_path, "vmdk")
    data = bytearray(image.read_bytes())
    data[72] = 1
    image.write_bytes(data)
    disk = open_disk(image)
    assert disk.notes == ["not closed cleanly: it is in use, or its guest died"]
    disk.close()


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname"])
def test_extents_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    image = _make(tmp_path, "vmdk flat")
    text = image.read_bytes().replace(b"image-flat.vmdk", name.encode())
    assert name.encode() in text
    image.write_bytes(text)
    with pytest.raises(ImageError, match="is not in its own directory"):
        open_disk(image)


def test_missing_and_odd_extents_are_refused(tmp_path: Path) -> None:
    image = _make(tmp_path, "vmdk flat")
    (tmp_path / "image-flat.vmdk").unlink()
    with pytest.raises(ImageError, match="cannot be opened: no such file") as caught:
        open_disk(image)
    assert "\n" not in str(caught.value)
    os.mkfifo(tmp_path / "image-flat.vmdk")
    with pytest.raises(ImageError, match=r"image-flat\.vmdk: not a regular file"):
        open_disk(image)


def test_a_library_that_crashes_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = _make(tmp_path, "vmdk")
    monkeypatch.setattr(ForeignDisk, "_open", lambda disk: os.abort())
    with pytest.raises(ImageError, match="the library that reads it does not survive it"):
        open_disk(image)


@pytest.mark.parametrize("kind", ["vmdk", "vmdk stream", "vpc", "vhdx"])
def test_mutated_images_raise_nothing_else(tmp_path: Path, kind: str) -> None:
    image = _make(tmp_path, kind, MIB)
    whole = image.read_bytes()
    chance = random.Random(kind)
    for _ in range(25):
        data = bytearray(whole)
        place = chance.choice((0, 512, 1024, 64 << 10, 192 << 10, 2 * MIB, len(whole) - 512))
        at = min(len(whole) - 8, place + chance.randrange(128))
        data[at : at + 4] = chance.choice((chance.randbytes(4), b"\xff" * 4, bytes(4)))
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        image.write_bytes(data)
        try:
            disk = open_disk(image, NAMES[kind.split()[0]])
        except ImageError:
            continue
        disk.close()
