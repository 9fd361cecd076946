"""VMDK images: those that qemu-img cannot make, by hand; issues of old; refusals; hostile ones."""

import os
import random
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.support import vmdks
from tests.support.images import (
    KIB,
    MIB,
    Beside,
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
from tests.support.vmdks import GRAIN, SECTOR, descriptor, header, write_flat
from ventifs.image.disk import ImageError
from ventifs.image.formats import vmdk_descriptor
from ventifs.image.formats.raw import RawDisk
from ventifs.image.formats.readers import open_foreign

GRAIN_BYTES = GRAIN * SECTOR


def _contents(image: Path) -> bytes:
    disk = read_here(image, "vmdk")
    try:
        data = bytes_of(disk)
        assert bytes_by_spans(disk) == data
        return data
    finally:
        disk.close()


def _converted(tmp_path: Path, options: str, size: int = 5 * MIB) -> Path:
    raw = raw_image(tmp_path / "raw", size)
    image = tmp_path / "image.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", options, raw, image)
    return image


# What was read wrong once


def test_zeroed_grains_are_zeros(tmp_path: Path) -> None:
    image = tmp_path / "z.vmdk"
    qemu_img("create", "-f", "vmdk", "-o", "zeroed_grain=on", image, "2M")
    qemu_io(image, "write -P 5 0 1M", "write -z 64k 64k", kind="vmdk")
    data = _contents(image)
    assert data == b"\5" * 64 * KIB + bytes(64 * KIB) + b"\5" * (MIB - 128 * KIB) + bytes(MIB)
    disk = read_here(image, "vmdk")
    assert [tuple(span) for span in disk.spans(0, MIB)][:2] == [
        (0, 64 * KIB, True),
        (64 * KIB, 128 * KIB, False),
    ]
    disk.close()


def test_a_flat_extent_begins_at_its_offset(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(4096 * SECTOR)
    (tmp_path / "x.bin").write_bytes(noise)
    image = write_flat(tmp_path, 'RW 2048 FLAT "x.bin" 2048', kind="monolithicFlat")
    assert _contents(image) == noise[2048 * SECTOR :]
    assert_read_as_by_qemu(image, "vmdk", "vmdk")


# What qemu-img cannot make


def test_extents_follow_each_other(tmp_path: Path) -> None:
    noise = random.Random(2).randbytes(3000 * SECTOR)
    (tmp_path / "x.bin").write_bytes(noise)
    (tmp_path / "y.bin").write_bytes(noise[::-1])
    lines = ['RW 7 FLAT "x.bin" 100', 'RW 2000 FLAT "y.bin" 1000', '  RW  1  FLAT  "x.bin"  2999']
    image = write_flat(tmp_path, *lines)
    assert_read_as_by_qemu(image, "vmdk", "vmdk")
    disk = read_here(image, "vmdk")
    assert len(disk.files) == 3  # each once
    disk.close()


def test_an_extent_of_zeros(tmp_path: Path) -> None:
    """QEMU leaves it out, and all that follows is in the wrong place."""
    (tmp_path / "x.bin").write_bytes(b"x" * 2 * SECTOR)
    image = write_flat(tmp_path, 'RW 1 FLAT "x.bin" 0', "RW 3 ZERO", 'RW 1 FLAT "x.bin" 1')
    assert _contents(image) == b"x" * SECTOR + bytes(3 * SECTOR) + b"x" * SECTOR


@pytest.mark.parametrize("capacity", [3 * GRAIN * 512 + 5 * GRAIN, 3 * GRAIN * 512 + 77])
def test_a_stream_with_its_tables_at_the_end(tmp_path: Path, capacity: int) -> None:
    chance = random.Random(3)
    last = (capacity - 1) // GRAIN
    grains = {number: chance.randbytes(1000) * 65 + bytes(536) for number in (0, 1, 7, 600, last)}
    image = tmp_path / "s.vmdk"
    image.write_bytes(vmdks.stream(grains, capacity))
    data = _contents(image)
    assert data[GRAIN_BYTES:][:GRAIN_BYTES] == grains[1]
    assert len(data) == capacity * SECTOR
    assert_read_as_by_qemu(image, "vmdk", "vmdk")


@pytest.mark.parametrize("grain", [1, 8])
def test_a_sparse_extent_of_esx(tmp_path: Path, grain: int) -> None:
    chance = random.Random(4)
    capacity = 4096 * grain * 2 + 100
    grains = {number: chance.randbytes(grain * SECTOR) for number in (0, 1, 5, 4095, 4096, 8192)}
    (tmp_path / "x-delta.vmdk").write_bytes(vmdks.sparse_esx(grains, capacity, grain))
    line = f'RW {capacity} VMFSSPARSE "x-delta.vmdk"'
    image = write_flat(tmp_path, line, kind="vmfsSparse")
    assert_read_as_by_qemu(image, "vmdk", "vmdk")
    assert _contents(image)[: grain * SECTOR] == grains[0]


def test_a_flat_extent_of_esx(tmp_path: Path) -> None:
    (tmp_path / "x-flat.vmdk").write_bytes(random.Random(5).randbytes(50 * SECTOR))
    image = write_flat(tmp_path, 'RW 50 VMFS "x-flat.vmdk"', kind="vmfs")
    assert_read_as_by_qemu(image, "vmdk", "vmdk")


# What it consists of


def test_an_image_is_read_under_another_name(tmp_path: Path) -> None:
    image = _converted(tmp_path, "subformat=monolithicSparse")
    assert _contents(image.rename(tmp_path / "other")) == (tmp_path / "raw").read_bytes()


@pytest.mark.parametrize("kind", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_files_are_all_that_an_image_consists_of(tmp_path: Path, kind: str) -> None:
    image = _converted(tmp_path, f"subformat={kind}")
    disk = read_here(image, "vmdk")
    assert (disk.format, disk.label, disk.notes) == ("vmdk", str(image), [])
    parts = {path.stat().st_ino for path in tmp_path.glob("image*.vmdk")}
    assert len(parts) == 2
    assert {status.st_ino for status in disk.files} == parts
    disk.close()
    disk.close()


@pytest.mark.parametrize("kind", ["streamOptimized", "twoGbMaxExtentSparse"])
def test_forked_processes_read_at_once(tmp_path: Path, kind: str) -> None:
    disk = read_here(_converted(tmp_path, f"subformat={kind}"), "vmdk")
    expected = bytes_of(disk)
    children = []
    for step in (7001, 30_011):
        if not (child := os.fork()):
            os._exit(bytes_of(disk, step) != expected)
        children.append(child)
    assert bytes_of(disk, 7001) == expected
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    disk.close()


def test_an_unclean_image_is_noted(tmp_path: Path) -> None:
    image = _converted(tmp_path, "subformat=twoGbMaxExtentSparse")
    extent = tmp_path / "image-s001.vmdk"
    data = bytearray(extent.read_bytes())
    data[72] = 1
    extent.write_bytes(data)
    disk = read_here(image, "vmdk")
    assert disk.notes == ["not closed cleanly: it is in use, or its guest died"]
    disk.close()


class _Asked(Beside):
    """Opens nothing past the first few names."""

    def __init__(self, allowed: int) -> None:
        self.names: list[bytes] = []
        self._allowed = allowed

    def open(self, name: bytes, layer: RawDisk) -> RawDisk:
        self.names.append(name)
        if len(self.names) > self._allowed:
            raise ImageError("not allowed")
        return super().open(name, layer)


@pytest.mark.parametrize("allowed", [0, 1])
def test_only_the_opener_opens_extents(tmp_path: Path, allowed: int) -> None:
    (tmp_path / "x").write_bytes(bytes(SECTOR))
    image = write_flat(tmp_path, 'RW 1 FLAT "x" 0', 'RW 1 FLAT "/etc/shadow" 0')
    opener = _Asked(allowed)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ImageError, match=r"^not allowed$"):
        open_foreign(RawDisk(str(image)), "vmdk", opener)
    assert opener.names == [b"x", b"/etc/shadow"][: allowed + 1]
    assert os.listdir("/proc/self/fd") == before


# What is refused

_GOOD = 'RW 4 FLAT "x" 0'
_REFUSED_LINES = [
    'RW 4 FLAT "x"',  # without an offset
    'RW 4 FLAT "x" -1',
    'RW 4 FLAT "x" 0 1',
    'RW 0 FLAT "x" 0',
    'RW 4 SPARSE "x" 0',
    'RW 4 VMFS "x" 0',
    "RW 4 FLAT x 0",
    'RW 4 SESPARSE "x"',
    'RW 4 VMFSRDM "x"',
    'RDONLY 4 FLAT "x" 0',
    'NOACCESS 4 FLAT "x" 0',
    'RW 4 ZERO "x"',
    "RW 99999999999999 ZERO",
    "RW 999999999999999999999999 ZERO",
]


@pytest.mark.parametrize("line", _REFUSED_LINES)
def test_extents_that_are_not_understood_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "x").write_bytes(bytes(4096))
    image = write_flat(tmp_path, _GOOD, line)
    with pytest.raises(ImageError, match="VMDK image that cannot be read: its descriptor has"):
        read_here(image, "vmdk")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (descriptor("monolithicFlat", _GOOD, parent="1234abcd"), "only what differs from another"),
        (
            descriptor("monolithicFlat", _GOOD, more='parentFileNameHint="base.vmdk"'),
            "only what differs from another",
        ),
        (
            descriptor("monolithicFlat", _GOOD, more='encryption.keySafe = "vmware:key/list"'),
            "encrypted VMDK image",
        ),
        (descriptor("fullDevice", _GOOD), "of type 'fullDevice', which is not read"),
        (descriptor("custom", _GOOD), "of type 'custom', which is not read"),  # nor does QEMU
        (descriptor("seSparse", _GOOD), "of type 'seSparse', which is not read"),
        (descriptor("monolithicSparse", _GOOD), "a descriptor alone"),
        (descriptor("monolithicFlat"), "no extents"),
        (descriptor("monolithicFlat", 'RW 4 FLAT "x" 5'), "ends at 4096"),
        (descriptor("twoGbMaxExtentSparse", 'RW 4 SPARSE "x"'), "has no header of its kind"),
        (
            descriptor("monolithicFlat", _GOOD, more="a=" + " " * 5000 + "x"),
            "a line that is",
        ),
        ("garbage", "does not begin like one"),
        ("", "does not begin like one"),
        (descriptor("monolithicFlat", _GOOD) + "#" * MIB, "a descriptor of"),
    ],
)
def test_descriptors_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x").write_bytes(bytes(4096))
    (tmp_path / "a.vmdk").write_text(text)
    with pytest.raises(ImageError, match=reason) as caught:
        read_here(tmp_path / "a.vmdk", "vmdk")
    assert "\n" not in str(caught.value)


# Each is tried at every length by a pattern that goes back: for hours, if several parts do.
_SPACES = " " * 4000
_HOSTILE_LINES = [
    f'a={_SPACES}"x"y',
    f'a={_SPACES}"x',
    f'a{_SPACES[:2000]}=x{_SPACES[:2000]}y"',
    f"a{_SPACES}x",
    f"{_SPACES}=",
    f'a="{_SPACES}" {_SPACES[:90]}"',
    "a" * 4000,
    "a=" + '"' * 4000,
    f"#{_SPACES}Disk",
]
_HOSTILE_EXTENTS = [
    f"RW 4 FLAT{_SPACES}x",
    f'RW 4 FLAT "x"{_SPACES}x',
    f'RW{_SPACES[:1300]}4{_SPACES[:1300]}FLAT "x" 0{_SPACES[:1300]}x',
    "RW " + "4" * 4000,
    "RW 4 " + "F" * 4000 + "x",
    'RW 4 FLAT "' + "x" * 4000,
]


@pytest.mark.parametrize("line", _HOSTILE_LINES, ids=lambda line: line.replace(" ", "")[:8])
def test_a_mebibyte_of_any_lines_is_looked_through(tmp_path: Path, line: str) -> None:
    (tmp_path / "x").write_bytes(bytes(4096))
    image = write_flat(tmp_path, _GOOD, kind="monolithicFlat")
    image.write_text(image.read_text() + f"{line}\n" * ((MIB - 1000) // (len(line) + 1)))
    assert _contents(image) == bytes(4 * SECTOR)


@pytest.mark.parametrize("line", _HOSTILE_EXTENTS, ids=lambda line: line.replace(" ", "")[:8])
def test_long_lines_of_extents_are_refused(tmp_path: Path, line: str) -> None:
    image = write_flat(tmp_path, line, kind="monolithicFlat")
    with pytest.raises(ImageError, match="its descriptor has an extent that is not read here"):
        read_here(image, "vmdk")


def test_no_pattern_of_descriptors_goes_back() -> None:
    """Every repetition without a bound is possessive, whatever follows it."""
    patterns = [each for each in vars(vmdk_descriptor).values() if isinstance(each, re.Pattern)]
    assert len(patterns) >= 4
    for pattern in patterns:
        assert not re.search(rb"[*+]", re.sub(rb"[*+?}][+]", b"", pattern.pattern)), pattern


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('  createType = "a b" ', ("createtype", "a b")),
        ("a=b", ("a", "b")),
        ("a.b:c-d =  x y", ("a.b:c-d", "x y")),
        ('a="  b  "', ("a", "  b  ")),
        ("a=b=c", ("a", "b=c")),
        ('a="', ("a", "")),
        ("a=", ("a", "")),
        ('a="b"c', None),
        ("a b=c", None),
        ("=c", None),
        ("a", None),
        ("#a=b", None),
    ],
)
def test_settings(line: str, found: tuple[str, str] | None) -> None:
    assert vmdk_descriptor._setting(line.strip().encode()) == found


def test_one_extent_of_several_is_refused(tmp_path: Path) -> None:
    _converted(tmp_path, "subformat=twoGbMaxExtentSparse")
    with pytest.raises(ImageError, match=r"one extent of a VMDK image, of several: archive the"):
        read_here(tmp_path / "image-s001.vmdk", "vmdk")


def test_an_extent_of_another_size_is_refused(tmp_path: Path) -> None:
    image = _converted(tmp_path, "subformat=twoGbMaxExtentSparse")
    image.write_text(image.read_text(errors="replace").replace("RW 10240 ", "RW 10239 "))
    with pytest.raises(ImageError, match="has another size than it says"):
        read_here(image, "vmdk")


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 4},
        {"version": 0},
        {"grain": 0},
        {"grain": 1 << 40},
        {"entries": 0},
        {"entries": 513},
        {"entries": 1 << 31},
        {"entries": 1, "grain": 1, "capacity": (1 << 25) + 1},
        {"flags": 1 | 1 << 16},
        {"method": 1},
        {"method": 2},
        {"text": 1 << 60},
        {"text_size": 1 << 60},
        {"directory": 1 << 62},
        {"directory": vmdks.AT_END},
    ],
    ids=str,
)
def test_headers_are_refused(tmp_path: Path, fields: dict[str, int]) -> None:
    image = tmp_path / "a"
    text = descriptor("monolithicSparse", 'RW 2048 SPARSE "a"').encode().ljust(1024, b"\0")
    rest = text + bytes(20 * SECTOR)

    def write(capacity: int = 2048, **fields: int) -> None:
        usual = {"text": 1, "text_size": 2, "directory": 3}
        image.write_bytes(header(capacity, **(usual | fields)) + rest)

    write()
    assert _contents(image) == bytes(MIB)
    write(**fields)
    with pytest.raises(ImageError, match="VMDK image that cannot be read"):
        _contents(image)
    image.write_bytes(header(1 << 60, text=1, text_size=2, directory=3) + rest)
    with pytest.raises(ImageError, match="says it has"):
        read_here(image, "vmdk")


def _peak_of_reads(image: Path, places: Iterable[int]) -> int:
    """The most memory that it takes to open an image and read some bytes here and there."""
    tracemalloc.start()
    try:
        disk = read_here(image, "vmdk")
        for place in places:
            disk.read(place, SECTOR)
        disk.close()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_extents_share_the_memory_for_grains(tmp_path: Path) -> None:
    count = 400
    (tmp_path / "s.vmdk").write_bytes(vmdks.stream({0: b"x" * GRAIN_BYTES}, GRAIN))
    lines = [f'RW {GRAIN} SPARSE "s.vmdk"'] * count
    image = write_flat(tmp_path, *lines, kind="twoGbMaxExtentSparse")
    assert _peak_of_reads(image, range(0, count * GRAIN_BYTES, GRAIN_BYTES)) < 6 * MIB


def test_extents_share_the_memory_for_directories(tmp_path: Path) -> None:
    """Directories of several pages each, for tables of one grain that has one sector."""
    count, capacity = 200, 16 * 4096
    (tmp_path / "s.vmdk").write_bytes(header(capacity, grain=1, entries=1, directory=1))
    os.truncate(tmp_path / "s.vmdk", MIB)
    lines = [f'RW {capacity} SPARSE "s.vmdk"'] * count
    image = write_flat(tmp_path, *lines, kind="twoGbMaxExtentSparse")
    places = range(0, count * capacity * SECTOR, 4096 * SECTOR)
    assert _peak_of_reads(image, places) < 6 * MIB


def test_sparse_extents_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "s.vmdk").write_bytes(header(1, directory=1))
    os.truncate(tmp_path / "s.vmdk", MIB)
    line = 'RW 1 SPARSE "s.vmdk"'
    assert len(_contents(write_flat(tmp_path, *[line] * 4096))) == 4096 * SECTOR
    with pytest.raises(ImageError, match="it has more than 4096 sparse extents"):
        read_here(write_flat(tmp_path, *[line] * 4097), "vmdk")


def _entries(image: Path) -> tuple[bytearray, int]:
    """A sparse image, and where its first grain table is."""
    data = bytearray(image.read_bytes())
    directory = vmdks.HEADER.unpack_from(data)[9] * SECTOR
    return data, struct.unpack_from("<I", data, directory)[0] * SECTOR


@pytest.mark.parametrize(
    ("sector", "reason"), [(1, "its header says that it has none"), (1 << 31, "cut off")]
)
def test_grains_that_cannot_be_are_refused(tmp_path: Path, sector: int, reason: str) -> None:
    image = _converted(tmp_path, "subformat=monolithicSparse")
    data, table = _entries(image)
    struct.pack_into("<I", data, table, sector)
    image.write_bytes(data)
    disk = read_here(image, "vmdk")
    with pytest.raises(ImageError, match=reason):
        disk.read(0, 100)
    with pytest.raises(ImageError, match=reason):
        list(disk.spans(0, disk.size))
    disk.close()


def _bomb(length: int) -> bytes:
    packed = zlib.compress(bytes(length))
    return struct.pack("<QI", 0, len(packed)) + packed


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (_bomb(GRAIN_BYTES + 1), "that does not end"),
        (_bomb(64 * MIB), "that does not end"),
        (_bomb(GRAIN_BYTES - 1), "too short"),
        (struct.pack("<QI", 0, 0), "a compressed grain of 0 bytes"),
        (struct.pack("<QI", 0, 1 << 31), "a compressed grain of 2147483648 bytes"),
        (struct.pack("<QI", 0, 20) + b"garbage" * 9, "incorrect header check"),
    ],
)
def test_compressed_grains_are_bounded(tmp_path: Path, stored: bytes, reason: str) -> None:
    image = tmp_path / "a"
    whole = bytearray(vmdks.stream({0: b"x" * GRAIN_BYTES}, GRAIN))
    room = len(stored) + -len(stored) % SECTOR
    whole[128 * SECTOR : 129 * SECTOR] = stored.ljust(room, b"\0")
    moved = room // SECTOR - 1
    tail = len(whole) - 4 * SECTOR  # the directory, the footer's marker, the footer, the end
    (table,) = struct.unpack_from("<I", whole, tail)
    struct.pack_into("<I", whole, tail, table + moved)
    fields = list(vmdks.HEADER.unpack_from(whole, tail + 2 * SECTOR))
    fields[9] += moved
    vmdks.HEADER.pack_into(whole, tail + 2 * SECTOR, *fields)
    image.write_bytes(whole)
    disk = read_here(image, "vmdk")
    with pytest.raises(ImageError, match=reason):
        disk.read(0, GRAIN_BYTES)
    disk.close()


@pytest.mark.parametrize("missing", [1, SECTOR, 2 * SECTOR, 3 * SECTOR])
def test_a_stream_that_was_cut_off_is_refused(tmp_path: Path, missing: int) -> None:
    image = tmp_path / "a"
    image.write_bytes(vmdks.stream({0: bytes(GRAIN_BYTES)}, GRAIN)[:-missing])
    with pytest.raises(ImageError, match="it does not end with a footer"):
        read_here(image, "vmdk")


@pytest.mark.parametrize(
    "make",
    [
        lambda top: _converted(top, "subformat=monolithicSparse", MIB),
        lambda top: _converted(top, "subformat=streamOptimized", MIB),
        lambda top: _converted(top, "subformat=monolithicFlat", MIB),
    ],
    ids=["sparse", "stream", "descriptor"],
)
def test_mutated_images_raise_nothing_else(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    image = make(tmp_path)
    for data in mutations(image.read_bytes(), 150):
        image.write_bytes(data)
        read_or_refuse(image, "vmdk")
