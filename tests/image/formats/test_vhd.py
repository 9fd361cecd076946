"""VHD images: sizes by what made them, bitmaps of sectors, what a guest can fake, refusals."""

import random
import struct
import tracemalloc
from pathlib import Path

import pytest

from tests.support.images import (
    KIB,
    MIB,
    assert_read_as_by_qemu,
    bytes_by_spans,
    bytes_of,
    mutations,
    qemu_img,
    raw_image,
    read_here,
    read_or_refuse,
)
from ventifs.image.disk import ImageError

SIZE = 5 * MIB
SECTOR = 512
_CREATOR, _SIZE, _GEOMETRY, _KIND, _SUM, _SUSPENDED = 28, 48, 56, 60, 64, 84


def _image(tmp_path: Path, options: str = "subformat=dynamic,force_size=on") -> Path:
    raw = raw_image(tmp_path / "raw", SIZE)
    image = tmp_path / "image.vhd"
    qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", options, raw, image)
    return image


def _changed(footer: bytes | bytearray, fields: dict[int, bytes]) -> bytes:
    """A footer, or a header of tables, with other fields and the checksum that they have."""
    data = bytearray(footer)
    for at, field in fields.items():
        data[at : at + len(field)] = field
    place = _SUM if data.startswith(b"conectix") else 36
    data[place : place + 4] = bytes(4)
    struct.pack_into(">I", data, place, ~sum(data) & 0xFFFF_FFFF)
    return bytes(data)


def _change(image: Path, fields: dict[int, bytes]) -> None:
    """Change all footers of an image."""
    data = bytearray(image.read_bytes())
    for at in {0, len(data) - SECTOR}:
        if data.startswith(b"conectix", at):
            data[at : at + SECTOR] = _changed(data[at : at + SECTOR], fields)
    image.write_bytes(data)


def _contents(image: Path) -> bytes:
    disk = read_here(image, "vhd")
    try:
        data = bytes_of(disk)
        assert bytes_by_spans(disk) == data
        return data
    finally:
        disk.close()


@pytest.mark.parametrize(
    "creator", [b"vpc ", b"qemu", b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS"]
)
@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_the_size_is_that_which_qemu_finds(tmp_path: Path, creator: bytes, kind: str) -> None:
    image = _image(tmp_path, f"subformat={kind},force_size=on")
    geometry = struct.pack(">HBB", 150, 4, 17)  # 10,200 sectors of 10,240
    _change(image, {_CREATOR: creator, _GEOMETRY: geometry})
    assert_read_as_by_qemu(image, "vhd", "vpc")


def test_two_sizes_are_noted(tmp_path: Path) -> None:
    image = _image(tmp_path)
    _change(image, {_CREATOR: b"vpc ", _GEOMETRY: struct.pack(">HBB", 150, 4, 17)})
    disk = read_here(image, "vhd")
    assert disk.size == 150 * 4 * 17 * SECTOR
    assert disk.notes == [
        "its size is 5222400 bytes by its geometry, as its guest sees it, and 5242880 by its footer"
    ]
    disk.close()


def test_another_program_means_the_size_that_it_says(tmp_path: Path) -> None:
    """QEMU cuts such a disk off, at the last whole cylinder."""
    image = _image(tmp_path)
    _change(image, {_CREATOR: b"vbox", _GEOMETRY: struct.pack(">HBB", 150, 4, 17)})
    assert _contents(image) == (tmp_path / "raw").read_bytes()


def test_a_suspended_guest_is_noted(tmp_path: Path) -> None:
    image = _image(tmp_path)
    _change(image, {_SUSPENDED: b"\1"})
    disk = read_here(image, "vhd")
    assert disk.notes == ["its guest was suspended, and is not shut down"]
    disk.close()


def test_a_differencing_image_is_refused(tmp_path: Path) -> None:
    image = _image(tmp_path)
    _change(image, {_KIND: struct.pack(">I", 4)})
    with pytest.raises(
        ImageError, match="only what differs from another VHD image: merge it into its parent"
    ) as caught:
        read_here(image, "vhd")
    assert "qemu-img would leave out the parent" in str(caught.value)


@pytest.mark.parametrize("kind", [0, 1, 5, 6])
def test_unknown_kinds_are_refused(tmp_path: Path, kind: int) -> None:
    image = _image(tmp_path)
    _change(image, {_KIND: struct.pack(">I", kind)})
    with pytest.raises(ImageError, match="its kind is unknown"):
        read_here(image, "vhd")


def test_a_guest_cannot_make_a_fixed_image_dynamic(tmp_path: Path) -> None:
    """It may write any header to its first sector, with tables that map the file as it likes."""
    dynamic = _image(tmp_path).read_bytes()
    image = _image(tmp_path, "subformat=fixed,force_size=on")
    data = bytearray(image.read_bytes())
    data[: 8 * KIB] = dynamic[: 8 * KIB]
    image.write_bytes(data)
    with pytest.raises(ImageError, match="dynamic at its beginning, and fixed at its end"):
        read_here(image, "vhd")
    data[_SUM] ^= 1  # and garbage is a guest's data
    image.write_bytes(data)
    assert _contents(image) == data[:-SECTOR]


def test_a_damaged_copy_of_the_footer_does_no_harm(tmp_path: Path) -> None:
    image = _image(tmp_path)
    data = bytearray(image.read_bytes())
    data[-100] ^= 1
    image.write_bytes(data)
    assert_read_as_by_qemu(image, "vhd", "vpc")
    data[100] ^= 1
    image.write_bytes(data)
    with pytest.raises(ImageError, match="it has no intact footer"):
        read_here(image, "vhd")
    data[-100] ^= 1
    image.write_bytes(data)
    assert _contents(image) == (tmp_path / "raw").read_bytes()


def _first_block(data: bytes | bytearray) -> int:
    (table,) = struct.unpack_from(">Q", data, SECTOR + 16)
    return int(struct.unpack_from(">I", data, table)[0]) * SECTOR


def test_sectors_that_were_never_written_must_be_zeros(tmp_path: Path) -> None:
    image = _image(tmp_path)
    data = bytearray(image.read_bytes())
    block = _first_block(data)
    data[block] &= 0x7F  # the first sector of the disk
    image.write_bytes(data)
    disk = read_here(image, "vhd")
    with pytest.raises(ImageError, match="has data where its bitmap says that none was written"):
        disk.read(0, 1000)
    with pytest.raises(ImageError, match="has data where its bitmap says that none was written"):
        list(disk.spans(0, SIZE))
    disk.read(512, 1000)
    disk.close()
    data[block + 512 : block + 1024] = bytes(512)
    image.write_bytes(data)
    assert_read_as_by_qemu(image, "vhd", "vpc")


def test_every_sector_by_its_own_bit(tmp_path: Path) -> None:
    """Ranges that begin and end within bytes of the bitmap, and data only where it says so."""
    image = _image(tmp_path)
    whole = image.read_bytes()
    block = _first_block(whole)
    chance = random.Random(7)
    written = [chance.random() < 0.5 for _ in range(64)]
    for number in (None, written.index(False), 63 - written[::-1].index(False)):
        data = bytearray(whole)
        for sector, is_written in enumerate(written):
            if not is_written:
                data[block + sector // 8] &= ~(0x80 >> sector % 8)
                if sector != number:
                    start = block + 512 + sector * 512
                    data[start : start + 512] = bytes(512)
        image.write_bytes(data)
        disk = read_here(image, "vhd")
        for _ in range(300):
            start, length = chance.randrange(64 * 512), chance.randrange(1, 2000)
            expected = data[block + 512 + start :][:length]
            sectors = range(start // 512, (start + length - 1) // 512 + 1)
            if number in sectors:
                with pytest.raises(ImageError, match="has data where its bitmap says"):
                    disk.read(start, length)
            else:
                assert disk.read(start, length) == expected
        disk.close()


BLOCK_MAX = 256 * MIB


def _large_blocks(tmp_path: Path, count: int) -> Path:
    """Blocks as large as can be, in which every other sector was written, and all are holes."""
    base, image = _image(tmp_path).read_bytes(), tmp_path / "large.vhd"
    size, step = count * BLOCK_MAX, (BLOCK_MAX // SECTOR // 8 + BLOCK_MAX) // SECTOR
    footer = _changed(
        base[:SECTOR],
        {
            16: struct.pack(">Q", 512),
            40: struct.pack(">QQ", size, size),
            _CREATOR: b"win ",
        },
    )
    head = _changed(
        base[SECTOR : SECTOR + 1024],
        {
            16: struct.pack(">Q", 1536),
            28: struct.pack(">II", count, BLOCK_MAX),
        },
    )
    with image.open("wb") as file:
        file.write(footer + head)
        for number in range(count):
            file.write(struct.pack(">I", 8 + number * step))
        for number in range(count):
            file.seek((8 + number * step) * SECTOR)
            file.write(b"\xaa" * (BLOCK_MAX // SECTOR // 8))
        file.truncate((8 + count * step) * SECTOR)
    return image


def test_memory_for_bitmaps_is_bounded(tmp_path: Path) -> None:
    """A range in each of many blocks, then all of one block at once."""
    count = 40
    disk = read_here(_large_blocks(tmp_path, count), "vhd")
    tracemalloc.start()
    try:
        for number in range(count):
            assert disk.read(number * BLOCK_MAX + 512, 512) == bytes(512)
        assert not any(span.data for span in disk.spans(0, BLOCK_MAX))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        disk.close()
    assert peak < 8 * MIB


def test_blocks_of_other_sizes(tmp_path: Path) -> None:
    """Small ones, with a bitmap of a sector each."""
    for bits in (12, 15, 16, 21):
        block, chance = 1 << bits, random.Random(bits)
        count = 40
        # A copy of the footer, the header of the tables, the table, then blocks.
        base = bytearray(_image(tmp_path).read_bytes())
        head = base[SECTOR : SECTOR + 1024]
        head = bytearray(
            _changed(
                head,
                {
                    16: struct.pack(">Q", 1536),
                    28: struct.pack(">II", count, block),
                },
            )
        )
        size = (count * block - block // 2) & ~511 or SECTOR
        footer = _changed(
            base[:SECTOR],
            {
                16: struct.pack(">Q", 512),
                40: struct.pack(">QQ", size, size),
                _CREATOR: b"win ",
            },
        )
        table, blocks = [0xFFFF_FFFF] * 128, bytearray()
        for number in chance.sample(range(count), 20):
            table[number] = (1536 + 512 + len(blocks)) // SECTOR
            blocks += b"\xff" * SECTOR + chance.randbytes(block)
        image = tmp_path / f"{bits}.vhd"
        image.write_bytes(footer + head + struct.pack(">128I", *table) + blocks + footer)
        assert_read_as_by_qemu(image, "vhd", "vpc")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({0: b"cxsparsf"}, "is not where it should be"),
        ({16: struct.pack(">Q", 1 << 62)}, "past the end of the file"),
        ({28: struct.pack(">I", 1)}, "its table is too small"),
        ({32: struct.pack(">I", 0)}, "its blocks have 0 bytes"),
        ({32: struct.pack(">I", 512)}, "its blocks have 512 bytes"),
        ({32: struct.pack(">I", 3 << 20)}, "its blocks have 3145728 bytes"),
        ({32: struct.pack(">I", 1 << 31)}, "its blocks have 2147483648 bytes"),
    ],
)
def test_headers_of_tables_are_refused(
    tmp_path: Path, fields: dict[int, bytes], reason: str
) -> None:
    image = _image(tmp_path)
    data = bytearray(image.read_bytes())
    data[SECTOR : SECTOR + 1024] = _changed(data[SECTOR : SECTOR + 1024], fields)
    image.write_bytes(data)
    with pytest.raises(ImageError, match=reason):
        read_here(image, "vhd")


def test_what_is_cut_off_is_refused(tmp_path: Path) -> None:
    image = _image(tmp_path)
    whole = image.read_bytes()
    image.write_bytes(whole[: _first_block(whole) + 512 + 100 * KIB])
    disk = read_here(image, "vhd")
    with pytest.raises(ImageError, match="cut off"):
        disk.read(100 * KIB, 1)
    assert disk.read(0, 100 * KIB) == (tmp_path / "raw").read_bytes()[: 100 * KIB]
    disk.close()
    fixed = _image(tmp_path, "subformat=fixed")
    data = fixed.read_bytes()
    fixed.write_bytes(data[MIB:])
    with pytest.raises(ImageError, match="its disk is larger than the file"):
        read_here(fixed, "vhd")
    for length in (0, 1, 511, 512, 1535):
        image.write_bytes(whole[:length])
        with pytest.raises(ImageError, match="VHD image that cannot be read"):
            read_here(image, "vhd")


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_mutated_images_raise_nothing_else(tmp_path: Path, kind: str) -> None:
    image = _image(tmp_path, f"subformat={kind},force_size=on")
    whole = image.read_bytes()
    for data in mutations(whole, 50):
        image.write_bytes(data)
        read_or_refuse(image, "vhd")
    for data in mutations(whole, 50, 8):  # past the checksums
        fixed = bytearray(data)
        for at, length in ((0, SECTOR), (SECTOR, 1024), (len(whole) - SECTOR, SECTOR)):
            if len(fixed) == len(whole) and bytes(fixed[at : at + 8]) in (b"conectix", b"cxsparse"):
                fixed[at : at + length] = _changed(fixed[at : at + length], {})
        image.write_bytes(fixed)
        read_or_refuse(image, "vhd")
