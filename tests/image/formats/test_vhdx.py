"""VHDX images: copies of headers, logs, sectors of 4096 bytes; refusals; hostile ones."""

import struct
from pathlib import Path

import pytest

from tests.support import vhdxs
from tests.support.images import (
    KIB,
    MIB,
    assert_read_as_by_qemu,
    bytes_by_spans,
    bytes_of,
    mutations,
    qemu_img,
    qemu_io,
    raw_image,
    read_here,
    read_or_refuse,
)
from tests.support.vhdxs import HEADERS, REGIONS
from ventifs.image.disk import ImageError
from ventifs.image.formats.vhdx_header import crc32c

SIZE = 5 * MIB
_NUMBER, _LOG, _LOG_LENGTH = 8, 48, 68


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """One of blocks of a mebibyte, with a copy of what is in it: `raw`."""
    raw_image(tmp_path / "raw", SIZE)
    made = tmp_path / "image.vhdx"
    qemu_img("convert", "-f", "raw", "-O", "vhdx", "-o", "block_size=1M", tmp_path / "raw", made)
    return made


def _contents(image: Path) -> bytes:
    disk = read_here(image, "vhdx")
    try:
        data = bytes_of(disk)
        assert bytes_by_spans(disk) == data
        return data
    finally:
        disk.close()


def test_checksums_are_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE306_9283  # of every catalogue of them
    assert crc32c(bytes(32)) == 0x8A91_36AA  # RFC 3720, B.4


@pytest.mark.parametrize(
    "damaged", [HEADERS[:1], HEADERS[1:], REGIONS[:1], REGIONS[1:], HEADERS, REGIONS]
)
def test_one_intact_copy_is_enough(image: Path, tmp_path: Path, damaged: tuple[int, ...]) -> None:
    data = bytearray(image.read_bytes())
    for place in damaged:
        data[place + 20] ^= 1
    image.write_bytes(data)
    if len(damaged) == 1:
        assert _contents(image) == (tmp_path / "raw").read_bytes()
    else:
        with pytest.raises(ImageError, match="neither of its two"):
            read_here(image, "vhdx")


def test_the_newer_header_counts(image: Path, tmp_path: Path) -> None:
    data = bytearray(image.read_bytes())
    older = next(place for place in HEADERS if place != vhdxs.current(data))
    vhdxs.change(data, older, {66: b"\7"})  # of an unknown version
    image.write_bytes(data)
    assert _contents(image) == (tmp_path / "raw").read_bytes()
    (number,) = struct.unpack_from("<Q", data, vhdxs.current(data) + _NUMBER)
    vhdxs.change(data, older, {_NUMBER: struct.pack("<Q", number)})
    image.write_bytes(data)
    with pytest.raises(ImageError, match="its two headers have one number, and differ"):
        read_here(image, "vhdx")
    vhdxs.change(data, older, {_NUMBER: struct.pack("<Q", number + 1)})
    image.write_bytes(data)
    with pytest.raises(ImageError, match="it is of version 7"):
        read_here(image, "vhdx")


def test_a_log_is_refused_if_it_has_entries(image: Path, tmp_path: Path) -> None:
    data = bytearray(image.read_bytes())
    vhdxs.change(data, vhdxs.current(data), {_LOG: b"\1" * 16})
    image.write_bytes(data)
    assert _contents(image) == (tmp_path / "raw").read_bytes()  # none of the log's own
    assert_read_as_by_qemu(image, "vhdx", "vhdx")
    qemu_io(image, "write -P 1 0 64k", kind="vhdx")
    vhdxs.undo_replay(image)
    with pytest.raises(ImageError, match="with a log: replay it first: 'qemu-img check -r all"):
        read_here(image, "vhdx")


@pytest.mark.parametrize("length", [1, 512 * MIB, 128 * MIB])
def test_logs_elsewhere_are_refused(image: Path, length: int) -> None:
    data = bytearray(image.read_bytes())
    fields = {_LOG: b"\1" * 16, _LOG_LENGTH: struct.pack("<I", length)}
    vhdxs.change(data, vhdxs.current(data), fields)
    image.write_bytes(data)
    with pytest.raises(ImageError, match="it says its log has"):
        read_here(image, "vhdx")


def test_a_log_full_of_overlapping_entries_is_soon_judged(image: Path) -> None:
    data = bytearray(image.read_bytes())
    header = vhdxs.current(data)
    length, place = struct.unpack_from("<IQ", data, header + _LOG_LENGTH)
    for at in range(place, place + length, 4096):
        struct.pack_into("<4sIIIQII16s", data, at, b"loge", 0, length, 0, 1, 0, 0, b"\1" * 16)
    vhdxs.change(data, header, {_LOG: b"\1" * 16})
    image.write_bytes(data)
    with pytest.raises(ImageError, match="with a log"):
        read_here(image, "vhdx")


@pytest.mark.parametrize(
    ("sector", "count", "blocks"),
    [(512, 36, (0, 15, 16, 31, 32, 35)), (4096, 160, (0, 15, 16, 127, 128, 159))],
)
def test_bitmaps_in_the_table_are_passed_over(
    tmp_path: Path, sector: int, count: int, blocks: tuple[int, ...]
) -> None:
    """There is one for each 8 Mi sectors. QEMU does not read sectors of 4096 bytes."""
    made, block = tmp_path / "image", 256 * MIB
    qemu_img("create", "-f", "vhdx", "-o", "block_size=256M", made, str(count * block))
    data = bytearray(made.read_bytes())
    logical = next(
        at
        for at in (vhdxs.item(data, which) for which in range(5))
        if data[at : at + 4] == struct.pack("<I", 512)
    )
    struct.pack_into("<I", data, logical, sector)
    end, chunk = len(data) // MIB + 1, (sector << 23) // block
    for at, number in enumerate(blocks):
        entry = vhdxs.table(data) + 8 * (number + number // chunk)
        struct.pack_into("<Q", data, entry, 6 | (end + at * 256) << 20)
    with made.open("wb") as file:
        file.write(data)
        for at, number in enumerate(blocks):
            file.seek(end * MIB + at * block)
            file.write(bytes([number + 1]) * 4096)
        file.truncate(end * MIB + len(blocks) * block)
    disk = read_here(made, "vhdx")
    for number in range(count):
        expected = number + 1 if number in blocks else 0
        assert disk.read(number * block, 4096) == bytes([expected]) * 4096
    disk.close()
    if sector == 512:
        assert_read_as_by_qemu(made, "vhdx", "vhdx")


def _parameters(data: bytes | bytearray) -> int:
    return next(
        at
        for at in (vhdxs.item(data, which) for which in range(5))
        if data[at : at + 4] == struct.pack("<I", MIB)
    )


def test_a_differencing_image_is_refused(image: Path) -> None:
    data = bytearray(image.read_bytes())
    data[_parameters(data) + 4] |= 2
    image.write_bytes(data)
    with pytest.raises(ImageError, match="only what differs from another VHDX image: merge it"):
        read_here(image, "vhdx")


@pytest.mark.parametrize("block", [0, 512 * KIB, 3 * MIB, 512 * MIB])
def test_block_sizes_are_refused(image: Path, block: int) -> None:
    data = bytearray(image.read_bytes())
    struct.pack_into("<I", data, _parameters(data), block)
    image.write_bytes(data)
    with pytest.raises(ImageError, match=f"it says its blocks have {block} bytes"):
        read_here(image, "vhdx")


def test_what_is_required_and_unknown_is_refused(image: Path, tmp_path: Path) -> None:
    whole = bytearray(image.read_bytes())
    base = vhdxs.metadata(whole)
    (count,) = struct.unpack_from("<H", whole, base + 10)
    for flags, known in ((4, False), (0, True)):
        data = bytearray(whole)
        struct.pack_into("<H", data, base + 10, count + 1)
        unknown = struct.pack("<16sIIII", b"\7" * 16, 0, 0, flags, 0)
        data[base + 32 + 32 * count : base + 64 + 32 * count] = unknown
        image.write_bytes(data)
        if known:
            assert _contents(image) == (tmp_path / "raw").read_bytes()
        else:
            with pytest.raises(ImageError, match="its metadata has an item unknown here"):
                read_here(image, "vhdx")
    for required, known in ((1, False), (0, True)):
        data = bytearray(whole)
        region = struct.pack("<16sQII", b"\7" * 16, 0, 0, required)
        vhdxs.change(data, REGIONS[0], {8: struct.pack("<I", 3), 16 + 64: region})
        image.write_bytes(data)
        if known:
            assert _contents(image) == (tmp_path / "raw").read_bytes()
        else:
            with pytest.raises(ImageError, match="a region that is not known here"):
                read_here(image, "vhdx")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (4, "means nothing"),
        (7 | 8 << 20, "means nothing"),
        (6, "means nothing"),
        (6 | 1 << 50, "cut off"),
    ],
)
def test_entries_are_refused(image: Path, entry: int, reason: str) -> None:
    data = bytearray(image.read_bytes())
    struct.pack_into("<Q", data, vhdxs.table(data), entry)
    image.write_bytes(data)
    disk = read_here(image, "vhdx")
    with pytest.raises(ImageError, match=reason):
        disk.read(0, 1)
    with pytest.raises(ImageError, match=reason):
        list(disk.spans(0, SIZE))
    disk.close()


@pytest.mark.parametrize("state", [0, 1, 2, 3, 5])
def test_blocks_that_are_not_there_are_zeros(image: Path, state: int) -> None:
    data = bytearray(image.read_bytes())
    struct.pack_into("<Q", data, vhdxs.table(data), state)
    image.write_bytes(data)
    assert _contents(image)[:MIB] == bytes(MIB)
    assert_read_as_by_qemu(image, "vhdx", "vhdx")


def test_what_is_cut_off_is_refused(image: Path) -> None:
    whole = image.read_bytes()
    for length in (0, 8, 100 * KIB, 200 * KIB, 2 * MIB):
        image.write_bytes(whole[:length])
        with pytest.raises(ImageError, match="VHDX image that cannot be read"):
            read_here(image, "vhdx")
    image.write_bytes(whole[: -MIB // 2])
    disk = read_here(image, "vhdx")
    with pytest.raises(ImageError, match="cut off"):
        bytes_of(disk)
    disk.close()


def test_mutated_images_raise_nothing_else(image: Path) -> None:
    whole = image.read_bytes()
    for number, data in enumerate(mutations(whole, 30)):
        changed = bytearray(data)
        if number % 2 and len(changed) == len(whole):  # past the checksums
            for place in (*HEADERS, *REGIONS):
                vhdxs.change(changed, place, {})
        image.write_bytes(changed)
        read_or_refuse(image, "vhdx")
