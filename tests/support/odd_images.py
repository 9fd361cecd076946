"""Images in formats that ventifs does not read, made by their own tools or by hand.

A maker takes a directory and the bytes of a disk, in whole sectors, and returns the image.
"""

import base64
import os
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.support.images import qemu_img

SECRET = "the passphrase"
Maker = Callable[[Path, bytes], Path]


def tool(*command: str | Path, text: str = "") -> None:
    """Run a program, which must succeed."""
    done = subprocess.run(
        [*map(str, command)], input=text, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stdout + done.stderr


def _raw(top: Path, disk: bytes) -> Path:
    path = top / "made.raw"
    path.write_bytes(disk)
    return path


def by_qemu(driver: str, *options: str) -> Maker:
    """A maker of images in a format that QEMU writes."""

    def make(top: Path, disk: bytes) -> Path:
        image = top / f"image.{driver}"
        qemu_img("convert", "-f", "raw", "-O", driver, *options, _raw(top, disk), image)
        return image

    return make


def encrypted_qcow2(top: Path, disk: bytes, options: str) -> Path:
    """An encrypted qcow2 image; the file KEY beside it has the passphrase."""
    (top / "KEY").write_text(SECRET)
    image, raw = top / "image.qcow2", _raw(top, disk)
    key = str(top / "KEY").replace(",", ",,")
    command = ["qemu-img", "convert", "--object", f"secret,id=key,file={key}"]
    command += ["-f", "raw", "-O", "qcow2", "-o", f"{options},encrypt.key-secret=key"]
    command += [str(raw), str(image)]
    for _ in range(50):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "accurate CPU usage" not in done.stderr:  # its measurement of the CPU failed
            break
    assert not done.returncode, done.stderr
    return image


def bochs(top: Path, disk: bytes) -> Path:
    """A growing image of Bochs with all its extents, of 4096 bytes each."""
    count, extent = -(-len(disk) // 4096), 4096
    head = struct.pack(
        "<32s16s16sIIIIIIQ",
        b"Bochs Virtual HD Image",
        b"Redolog",
        b"Growing",
        0x20000,
        512,
        count,
        512,
        extent,
        0,
        len(disk),
    )
    image = top / "image.bochs"
    with image.open("wb") as file:
        file.write(head.ljust(512, b"\0") + struct.pack(f"<{count}I", *range(count)))
        for at in range(0, len(disk), extent):
            file.write(b"\xff" * 512 + disk[at : at + extent].ljust(extent, b"\0"))
    return image


def cloop(top: Path, disk: bytes) -> Path:
    """A compressed loop image."""
    block = 64 << 10
    packed = [zlib.compress(disk[at : at + block]) for at in range(0, len(disk), block)]
    offsets, at = [], 128 + 8 + 8 * (len(packed) + 1)
    for one in packed:
        offsets.append(at)
        at += len(one)
    script = (
        b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"
    )
    image = top / "image.cloop"
    image.write_bytes(
        script.ljust(128, b"\0")
        + struct.pack(">II", block, len(packed))
        + struct.pack(f">{len(packed) + 1}Q", *offsets, at)
        + b"".join(packed)
    )
    return image


def dmg(top: Path, disk: bytes) -> Path:
    """An Apple disk image of one uncompressed chunk and a terminator."""
    sectors = len(disk) // 512
    mish = struct.pack(">IIQQQIII", 0x6D697368, 1, 0, sectors, 0, 0, 0, 0).ljust(200, b"\0")
    mish += struct.pack(">IIIQQQQ", 2, 1, 0, 0, sectors, 0, len(disk))
    mish += struct.pack(">IIQQQQ", 0xFFFF_FFFF, 0, sectors, 0, len(disk), 0)
    plist = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0"><dict>'
        "<key>resource-fork</key><dict><key>blkx</key><array><dict><key>Data</key><data>"
        f"{base64.b64encode(mish).decode()}</data></dict></array></dict></dict></plist>"
    ).encode()
    koly = bytearray(512)
    koly[:16] = b"koly\0\0\0\4\0\0\2\0\0\0\0\1"
    struct.pack_into(">QQ", koly, 24, 0, len(disk))
    struct.pack_into(">QQ", koly, 216, len(disk), len(plist))
    struct.pack_into(">Q", koly, 492, sectors)
    image = top / "image.dmg"
    image.write_bytes(disk + plist + koly)
    return image


def uml_cow(top: Path, disk: bytes) -> Path:
    """An image of User-Mode Linux over the disk."""
    image = top / "image.cow"
    tool("uml_mkcow", image, _raw(top, disk))
    return image


def ewf(top: Path, disk: bytes) -> Path:
    """An image of EnCase."""
    tool("ewfacquire", "-u", "-q", "-t", top / "image", _raw(top, disk))
    return top / "image.E01"


def wim(top: Path, disk: bytes) -> Path:
    """An archive of a directory with a file that has the disk's bytes."""
    (top / "files").mkdir()
    (top / "files" / "disk").write_bytes(disk)
    tool("wimlib-imagex", "capture", top / "files", top / "image.wim")
    return top / "image.wim"


def overlay(driver: str) -> Maker:
    """A maker of qcow2 images over a backing file in another format."""

    def make(top: Path, disk: bytes) -> Path:
        base = by_qemu(driver)(top, disk)
        qemu_img("create", "-f", "qcow2", "-F", driver, "-b", base, top / "top.qcow2")
        return top / "top.qcow2"

    return make


def deep(top: Path, disk: bytes) -> Path:
    """An image with more layers than ventifs follows."""
    base = by_qemu("qcow2")(top, disk)
    for number in range(66):
        layer = top / f"{number}.qcow2"
        qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", os.fspath(base), layer)
        base = layer
    return base
