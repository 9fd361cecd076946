"""Every kind of image that qemu-img can make here, read byte by byte as QEMU reads it.

Images are small and full of random writes, writes of zeros and discards. VENTIFS_ROUNDS=N makes
more of each.
"""

import os
import random
from pathlib import Path

import pytest

from tests.support.images import KIB, MIB, assert_read_as_by_qemu, qemu_img, qemu_io

ROUNDS = int(os.environ.get("VENTIFS_ROUNDS", "1"))
NAMES = {"vpc": "vhd"}

# What a guest writes to, by driver and options.
WRITTEN = [
    ("vmdk", "subformat=monolithicSparse"),
    ("vmdk", "subformat=monolithicSparse,zeroed_grain=on"),
    ("vmdk", "subformat=monolithicSparse,compat6=on,adapter_type=lsilogic"),
    ("vmdk", "subformat=monolithicSparse,hwversion=11,adapter_type=buslogic,toolsversion=10"),
    ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=monolithicFlat,adapter_type=legacyESX"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vmdk", "subformat=twoGbMaxExtentSparse,zeroed_grain=on"),
    ("vmdk", "subformat=twoGbMaxExtentFlat"),
    ("vpc", "subformat=dynamic"),
    ("vpc", "subformat=dynamic,force_size=on"),
    ("vpc", "subformat=fixed"),
    ("vpc", "subformat=fixed,force_size=on"),
    ("vhdx", "subformat=dynamic"),
    ("vhdx", "subformat=dynamic,block_size=1M,log_size=2M"),
    ("vhdx", "subformat=dynamic,block_size=2M,block_state_zero=off"),
    ("vhdx", "subformat=dynamic,block_size=256M"),
    ("vhdx", "subformat=fixed"),
    ("vhdx", "subformat=fixed,block_size=1M,block_state_zero=off"),
    ("qcow2", "compat=0.10"),
    ("qcow2", "compat=0.10,cluster_size=512"),
    ("qcow2", "compat=1.1"),
    ("qcow2", "compat=1.1,cluster_size=512"),
    ("qcow2", "compat=1.1,cluster_size=4096,refcount_bits=1"),
    ("qcow2", "compat=1.1,cluster_size=2M,refcount_bits=64"),
    ("qcow2", "compat=1.1,lazy_refcounts=on"),
    ("qcow2", "compat=1.1,extended_l2=on"),
    ("qcow2", "compat=1.1,extended_l2=on,cluster_size=16k"),
    ("qcow2", "compat=1.1,extended_l2=on,cluster_size=2M"),
    ("qcow2", "preallocation=metadata"),
    ("qcow2", "preallocation=metadata,extended_l2=on"),
    ("qcow2", "preallocation=falloc"),
    ("qcow2", "preallocation=full,cluster_size=4096"),
    ("qcow2", "data_file={}.data"),
    ("qcow2", "data_file={}.data,extended_l2=on"),
    ("qcow2", "data_file={}.data,data_file_raw=on"),
]

# What is only ever converted, and with which options of qemu-img.
CONVERTED = [
    ("vmdk", "subformat=streamOptimized", ""),
    ("vmdk", "subformat=streamOptimized,compat6=on", ""),
    ("vmdk", "subformat=monolithicSparse", "-S 0"),
    ("vmdk", "subformat=twoGbMaxExtentSparse,zeroed_grain=on", "-S 0"),
    ("vpc", "subformat=dynamic", "-S 0"),
    ("vhdx", "subformat=dynamic,block_size=1M", "-S 0"),
    ("qcow2", "compression_type=zlib", "-c"),
    ("qcow2", "compression_type=zstd", "-c"),
    ("qcow2", "compression_type=zlib,cluster_size=512", "-c"),
    ("qcow2", "compression_type=zstd,cluster_size=2M", "-c"),
    ("qcow2", "compression_type=zstd,extended_l2=on,cluster_size=16k", "-c"),
    ("qcow2", "compat=0.10", "-c"),
]
CASES = pytest.mark.parametrize("number", range(ROUNDS))


def _id(case: object) -> str:
    return str(case).replace("subformat=", "").replace("compression_type=", "") or "plain"


def guest(chance: random.Random, size: int, count: int) -> list[str]:
    """What a guest writes: commands of qemu-io, within a disk of some bytes."""
    commands = []
    for _ in range(count):
        verb = chance.choice(("write -P", "write -P", "write -z", "write -z -u", "discard"))
        step = chance.choice((512, 4 * KIB, 64 * KIB))
        length = min(chance.randrange(1, 40) * step, size)
        at = chance.randrange(0, size - length + 1) // step * step
        pattern = f" {chance.randrange(1, 256)}" if verb.endswith("-P") else ""
        commands.append(f"{verb}{pattern} {at} {length}")
    return commands


def random_size(chance: random.Random) -> int:
    """Bytes of a disk: whole sectors, and rarely whole grains, clusters or blocks."""
    return chance.choice((chance.randrange(1, 6 * MIB // 512) * 512, chance.randrange(1, 6) * MIB))


@CASES
@pytest.mark.parametrize(("driver", "options"), WRITTEN, ids=_id)
def test_what_a_guest_wrote(tmp_path: Path, driver: str, options: str, number: int) -> None:
    chance = random.Random(f"{driver} {options} {number}")
    image, size = tmp_path / f"a.{driver}", random_size(chance)
    qemu_img("create", "-f", driver, "-o", options.format(image), image, str(size))
    qemu_io(image, *guest(chance, size, 25), kind=driver)
    qemu_io(image, *guest(chance, size, 5), kind=driver)
    assert_read_as_by_qemu(image, NAMES.get(driver, driver), driver)


@CASES
@pytest.mark.parametrize(("driver", "options", "how"), CONVERTED, ids=_id)
def test_what_was_converted(
    tmp_path: Path, driver: str, options: str, how: str, number: int
) -> None:
    chance = random.Random(f"{driver} {options} {how} {number}")
    image, raw, size = tmp_path / "a", tmp_path / "raw", random_size(chance)
    qemu_img("create", "-f", "raw", raw, str(size))
    text = chance.randbytes(1000) * 2 + b"text " * 5000
    raw.write_bytes((chance.randbytes(70_001) + text * (1 + size // len(text)))[:size])
    qemu_io(raw, *guest(chance, size, 25), kind="raw")
    qemu_img("convert", *how.split(), "-f", "raw", "-O", driver, "-o", options, raw, image)
    assert_read_as_by_qemu(image, NAMES.get(driver, driver), driver)


@pytest.mark.parametrize(
    ("driver", "options", "size"),
    [
        ("vmdk", "subformat=monolithicSparse,zeroed_grain=on", 70 << 30),
        ("vmdk", "subformat=twoGbMaxExtentSparse", 5 << 30),
        ("vmdk", "subformat=twoGbMaxExtentFlat", 5 << 30),
        ("vpc", "subformat=dynamic", 150 << 30),
        ("vpc", "subformat=dynamic,force_size=on", 1900 << 30),
        ("vhdx", "block_size=1M", 9 << 30),
        ("vhdx", "block_size=32M", 9 << 30),
        ("qcow2", "cluster_size=64k", 1 << 40),
    ],
    ids=_id,
)
def test_large_disks(tmp_path: Path, driver: str, options: str, size: int) -> None:
    chance = random.Random(f"{driver} {options}")
    image = tmp_path / "a"
    qemu_img("create", "-f", driver, "-o", options, image, str(size))
    borders = [0, 2 << 30, 4 << 30, 4 << 30, 32 << 30, size]
    places = [min(max(0, border - 64 * KIB), size - 128 * KIB) for border in borders]
    qemu_io(
        image, *(f"write -P {chance.randrange(1, 256)} {at} 128k" for at in places), kind=driver
    )
    assert_read_as_by_qemu(image, NAMES.get(driver, driver), driver)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_a_sweep(tmp_path: Path, seed: int) -> None:
    driver, options = random.Random(seed).choice(WRITTEN)
    test_what_a_guest_wrote(tmp_path, driver, options, 1000 + seed)
