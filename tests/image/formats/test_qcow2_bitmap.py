"""Persistent dirty bitmaps: read as QEMU writes them, and never trusted when they must not be."""

import random
import struct
import subprocess
from pathlib import Path

import pytest

from tests.support.images import (
    KIB,
    MIB,
    add_bitmap,
    bytes_of,
    opened,
    qemu_img,
    qemu_io,
    remove_bitmap,
)
from ventifs.image.disk import ImageError
from ventifs.image.formats import qcow2_bitmap as bitmap
from ventifs.image.survey_events import Range

SIZE = 16 * MIB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image full of data."""
    path = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", path, str(SIZE))
    qemu_io(path, f"write -P 1 0 {SIZE}")
    return path


def _dirty(image: Path, name: str = "b") -> list[Range] | None:
    disk = opened(image)
    try:
        return bitmap.dirty(disk, name)
    finally:
        disk.close()


def _changed(before: bytes, after: bytes, clean: list[Range]) -> bool:
    return any(before[start:end] != after[start:end] for start, end in clean)


def _clean(dirty: list[Range], size: int) -> list[Range]:
    edges = [0, *(edge for pair in dirty for edge in pair), size]
    return [(edges[at], edges[at + 1]) for at in range(0, len(edges), 2)]


def _contents(image: Path) -> bytes:
    disk = opened(image)
    data = bytes_of(disk, MIB)
    disk.close()
    return data


def test_what_is_written_is_dirty(image: Path) -> None:
    add_bitmap(image, "b")
    last = (SIZE - 64 * KIB, SIZE)  # always, or it was not this bitmap all the time
    assert _dirty(image) == [last]
    qemu_io(image, "write -P 2 1M 1k", "write -P 2 3M 200k", "write -P 2 15M 1k")
    assert _dirty(image) == [
        (MIB, MIB + 64 * KIB),
        (3 * MIB, 3 * MIB + 256 * KIB),
        (15 * MIB, 15 * MIB + 64 * KIB),
        last,
    ]
    qemu_io(image, f"write -P 3 0 {SIZE}")
    assert _dirty(image) == [(0, SIZE)]


@pytest.mark.parametrize("granularity", [512, 4096, 64 * KIB, MIB, 1 << 31])
def test_random_writes_lie_within_what_is_dirty(image: Path, granularity: int) -> None:
    add_bitmap(image, "b", granularity)
    before = _contents(image)
    chance = random.Random(granularity)
    writes = [
        f"{verb} {chance.randrange(SIZE // 512 - 400) * 512} {chance.randrange(1, 400) * 512}"
        for verb in chance.choices(("write -P 7", "write -z", "write -zu", "discard"), k=25)
    ]
    qemu_io(image, *writes)
    dirty = _dirty(image)
    assert dirty
    after = _contents(image)
    assert before != after
    assert not _changed(before, after, _clean(dirty, SIZE))


def test_a_bitmap_is_listed_and_removed(image: Path) -> None:
    assert _dirty(image) is None
    add_bitmap(image, "b")
    qemu_img("bitmap", "--add", "--disable", "-g", "4k", image, "off")
    disk = opened(image)
    listed = [
        (one.name, one.granularity, one.auto, one.in_use, one.consistent)
        for one in bitmap.bitmaps(disk)
    ]
    disk.close()
    assert sorted(listed) == [
        ("b", 65536, True, False, True),
        ("off", 4096, False, False, False),
    ]
    assert _dirty(image, "off") is None
    remove_bitmap(image, "b")
    assert _dirty(image) is None


@pytest.mark.parametrize("smaller", [10 * MIB, SIZE - 64 * KIB])
def test_a_disk_that_was_smaller_is_not_trusted(image: Path, smaller: int) -> None:
    # What was cut off reads as zeros afterwards, and QEMU calls it clean.
    add_bitmap(image, "b")
    qemu_img("resize", "-f", "qcow2", "--shrink", image, str(smaller))
    qemu_img("resize", "-f", "qcow2", image, str(SIZE))
    assert _contents(image)[smaller:] == bytes(SIZE - smaller)
    assert _dirty(image) is None


def test_a_disk_that_was_a_little_smaller_has_its_last_bit(image: Path) -> None:
    add_bitmap(image, "b")
    qemu_img("resize", "-f", "qcow2", "--shrink", image, str(SIZE - 512))
    qemu_img("resize", "-f", "qcow2", image, str(SIZE))
    assert _dirty(image) in (None, [(SIZE - 64 * KIB, SIZE)])


def test_a_disk_that_has_grown_is_not_trusted(image: Path) -> None:
    add_bitmap(image, "b")
    qemu_img("resize", "-f", "qcow2", image, "20M")
    assert _dirty(image) is None


def test_a_bitmap_that_others_added_is_not_trusted(image: Path) -> None:
    qemu_img("bitmap", "--add", image, "b")
    assert _dirty(image) is None


def test_an_internal_snapshot_cannot_be_gone_back_to_unseen(image: Path) -> None:
    qemu_img("snapshot", "-c", "s", image)
    qemu_io(image, "write -P 5 0 1M")
    add_bitmap(image, "b")
    before = _contents(image)
    command = ["qemu-img", "snapshot", "-a", "s", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode or "bitmap" in done.stderr  # QEMU refuses
    dirty = _dirty(image)
    assert dirty is None or not _changed(before, _contents(image), _clean(dirty, SIZE))


def _patch_flags(image: Path, flags: int) -> None:
    data = bytearray(image.read_bytes())
    at = data.index(struct.pack(">II", 0x23852875, 24)) + 8
    (directory,) = struct.unpack_from(">Q", data, at + 16)
    struct.pack_into(">I", data, directory + 12, flags)
    image.write_bytes(data)


@pytest.mark.parametrize("flags", [0, 1, 3, 2 | 8])
def test_a_bitmap_in_use_or_of_unknown_kind_is_not_trusted(image: Path, flags: int) -> None:
    add_bitmap(image, "b")
    _patch_flags(image, flags)
    assert _dirty(image) is None


def test_bitmaps_are_not_trusted_after_a_writer_that_knows_none(image: Path) -> None:
    add_bitmap(image, "b")
    data = bytearray(image.read_bytes())
    data[88:96] = bytes(8)  # such a one clears the bits that it does not know
    image.write_bytes(data)
    disk = opened(image)
    assert bitmap.bitmaps(disk) == []
    assert bitmap.dirty(disk, "b") is None
    disk.close()


def test_what_qemu_refuses_is_one_line(image: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"image: dirty bitmap 'b': .*not found") as caught:
        remove_bitmap(image, "b")
    assert "\n" not in str(caught.value)
    old = tmp_path / "old"
    qemu_img("create", "-f", "qcow2", "-o", "compat=0.10", old, "1M")
    with pytest.raises(ImageError, match="old: dirty bitmap 'b': "):
        add_bitmap(old, "b")


def test_without_qemu_img_it_says_what_to_install(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ImageError, match="install qemu-utils"):
        add_bitmap(image, "b")


def test_a_raw_disk_has_no_bitmaps(tmp_path: Path) -> None:
    (tmp_path / "x.img").write_bytes(b"x" * 512)
    disk = opened(tmp_path / "x.img", "raw")
    assert bitmap.dirty(disk, "b") is None
    disk.close()


def test_damaged_bitmaps_raise_nothing_else(image: Path) -> None:
    add_bitmap(image, "b")
    qemu_io(image, "write -P 2 1M 1k")
    whole = image.read_bytes()
    extension = whole.index(struct.pack(">II", 0x23852875, 24))
    (directory,) = struct.unpack_from(">Q", whole, extension + 24)
    (table,) = struct.unpack_from(">Q", whole, directory)
    chance = random.Random(1)
    told = 0
    for _ in range(300):
        place = chance.choice((extension + 8, directory, table)) + chance.randrange(24)
        with image.open("r+b") as file:
            file.seek(place)
            file.write(chance.choice((chance.randbytes(2), b"\xff\xff", b"\0\0")))
        try:
            told += _dirty(image) is not None
        except ImageError:
            told += 1
        with image.open("r+b") as file:
            file.seek(place)
            file.write(whole[place : place + 2])
    assert told
