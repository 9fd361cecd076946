"""Tables are read as sfdisk, and Linux, read them; damaged ones are noted."""

import random
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.memorydisk import FileDisk, MemoryDisk
from tests.support.tables import made, run, said
from ventifs.image.disk import ImageError
from ventifs.image.volumes.partitions import GPT_ENTRIES_MAX, NOTES_MAX, PartitionTable, read_table
from ventifs.image.volumes.window import Window

MIB = 1 << 20
ROOT = "0fc63daf-8483-4772-8e79-3d69d8477de4"
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"


def table_of(disk: MemoryDisk) -> PartitionTable:
    return read_table(Window(disk, [(0, disk.size)] if disk.size else []))


def table_in(path: Path) -> PartitionTable:
    disk = FileDisk(path)
    try:
        return table_of(disk)
    finally:
        disk.close()


def agree(path: Path) -> PartitionTable:
    """Check a table against sfdisk, by which extended partitions are partitions too."""
    table = table_in(path)
    theirs = said(path)
    sector = theirs.get("sectorsize", 512)
    expected = [
        (
            int(part["node"].removeprefix(str(path))),
            part["start"] * sector,
            (part["start"] + part["size"]) * sector,
            part["type"].lower().zfill(2),
            part.get("name", ""),
        )
        for part in theirs["partitions"]
        if part["type"] not in ("5", "f", "85")
    ]
    assert table.kind == theirs["label"]
    assert sorted(tuple(part) for part in table.partitions) == sorted(expected)
    assert expected
    return table


MBR = """label: dos
start=2048, size=4096, type=83, bootable
start=8192, size=2048, type=82
start=12288, size=40960, type=5
start=57344, size=4096, type=c
start=14336, size=2048, type=83
start=18432, size=2048, type=8e
start=22528, size=2048, type=83
"""
GPT = f"""label: gpt
1: start=2048, size=2048, type={ESP}, name="EFI System"
3: start=4096, size=4096, type={ROOT}, name="würzel"
128: start=8192, size=2048, type={ROOT}
"""


def test_primary_partitions_only(tmp_path: Path) -> None:
    path = made(tmp_path / "disk", 64 * MIB, "label: dos\n,16M,83\n,8M,7\n,,ef\n")
    assert agree(path).notes == ()


def test_logical_partitions_count_from_5(tmp_path: Path) -> None:
    path = made(tmp_path / "disk", 64 * MIB, MBR)
    table = agree(path)
    assert [part.number for part in table.partitions] == [1, 2, 4, 5, 6, 7]
    assert [part.type for part in table.partitions] == ["83", "82", "0c", "83", "8e", "83"]
    assert table.notes == ()


def test_logical_partitions_count_by_the_chain_not_by_place(tmp_path: Path) -> None:
    path = made(tmp_path / "disk", 64 * MIB, MBR)
    run("sfdisk", "-q", "--no-reread", "--no-tell-kernel", "--delete", path, "5")
    assert [part.number for part in agree(path).partitions] == [1, 2, 4, 5, 6]


def test_gpt(tmp_path: Path) -> None:
    path = made(tmp_path / "disk", 64 * MIB, GPT)
    table = agree(path)
    assert [part.number for part in table.partitions] == [1, 3, 128]
    assert table.partitions[0] == (1, MIB, 2 * MIB, ESP, "EFI System")
    assert table.notes == ()


def test_gpt_of_4096_byte_sectors(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with open(path, "wb") as file:
        file.truncate(64 * MIB)
    device = run("losetup", "-f", "--show", "-b", "4096", path, check=False).strip()
    if not device:
        pytest.skip("no loop devices here")
    try:
        script = f"label: gpt\nstart=256, size=2048, type={ROOT}, name=a\nstart=4096, size=100\n"
        run("sfdisk", "-q", "--no-reread", device, text=script)
    finally:
        run("losetup", "-d", device)
    table = table_in(path)
    assert [part[:3] for part in table.partitions] == [
        (1, MIB, 9 * MIB),
        (2, 16 * MIB, 16 * MIB + 409600),
    ]
    assert table.kind == "gpt"
    damage(path, 4096 + 20)
    assert table_in(path).partitions == table.partitions
    assert table_in(path).notes == ("the GPT is damaged: its backup is used",)


def damage(path: Path, *offsets: int) -> None:
    with open(path, "r+b") as file:
        for offset in offsets:
            file.seek(offset)
            before = file.read(1)
            file.seek(offset)
            file.write(bytes([before[0] ^ 0xFF]))


@pytest.mark.parametrize("offset", [512, 512 + 16, 512 + 60, 1024, 1024 + 127 * 128])
def test_a_damaged_gpt_has_a_backup(tmp_path: Path, offset: int) -> None:
    path = made(tmp_path / "disk", 64 * MIB, GPT)
    good = table_in(path)
    damage(path, offset)
    table = table_in(path)
    assert table.partitions == good.partitions
    assert table.notes == ("the GPT is damaged: its backup is used",)


def test_the_backup_of_a_disk_that_grew_is_where_the_header_says(tmp_path: Path) -> None:
    path = made(tmp_path / "disk", 64 * MIB, GPT)
    good = table_in(path)
    with open(path, "r+b") as file:
        file.truncate(96 * MIB)
    damage(path, 1024)
    assert table_in(path).partitions == good.partitions


def test_a_gpt_without_a_sound_copy_is_noted(tmp_path: Path) -> None:
    path = made(tmp_path / "disk", 64 * MIB, GPT)
    damage(path, 512, 64 * MIB - 512)
    assert table_in(path) == PartitionTable(
        "", (), ("the GPT and its backup are damaged: its partitions are not told",)
    )


def test_a_hybrid_is_a_gpt(tmp_path: Path) -> None:
    path = made(tmp_path / "disk", 64 * MIB, GPT)
    good = table_in(path)
    run("sgdisk", "--hybrid", "3", path)
    table = table_in(path)
    assert table.partitions == good.partitions
    assert table.notes == ("hybrid MBR: its own partitions are ignored in favour of the GPT's",)


def test_a_stale_gpt_is_none(tmp_path: Path) -> None:
    """Linux and sfdisk want a protective MBR."""
    path = made(tmp_path / "disk", 64 * MIB, GPT)
    run("sfdisk", "-q", "--wipe", "never", "--no-reread", path, text="label: dos\n,8M,83\n")
    table = table_in(path)
    assert (table.kind, len(table.partitions)) == ("dos", 1)


def mbr(*entries: tuple[int, int, int], active: int = 0) -> bytes:
    """An MBR of partitions: type, first sector, sectors."""
    packed = b"".join(
        struct.pack("<B3xB3xII", active, type_, start, count) for type_, start, count in entries
    )
    return bytes(446) + packed.ljust(64, b"\0") + b"\x55\xaa"


def test_partitions_beyond_the_end_are_clipped_or_left_out() -> None:
    disk = MemoryDisk(MIB, {0: mbr((0x83, 8, 1 << 31), (0x83, 4096, 8), (0x83, 100, 0))})
    table = table_of(disk)
    assert [part[:3] for part in table.partitions] == [(1, 4096, MIB)]
    assert table.notes == (
        f"partition 1 goes {(1 << 40) + 4096 - MIB} bytes beyond the end of the disk, "
        "and is cut there",
        "partition 2 lies beyond the end of the disk",
    )


def test_a_truncated_gpt_disk_keeps_what_there_is(tmp_path: Path) -> None:
    path = made(tmp_path / "disk", 64 * MIB, GPT)
    with open(path, "r+b") as file:
        file.truncate(3 * MIB)
    table = table_in(path)
    assert [part[:3] for part in table.partitions] == [(1, MIB, 2 * MIB), (3, 2 * MIB, 3 * MIB)]
    assert len(table.notes) == 2


def test_overlaps_are_noted() -> None:
    disk = MemoryDisk(MIB, {0: mbr((0x83, 8, 1000), (0x83, 100, 10), (0x83, 500, 600))})
    table = table_of(disk)
    assert len(table.partitions) == 3
    assert table.notes == ("partitions 1 and 2 overlap", "partitions 1 and 3 overlap")


def test_an_isohybrid_partition_begins_with_the_disk() -> None:
    disk = MemoryDisk(MIB, {0: mbr((0x17, 0, 2048), active=0x80)})
    assert table_of(disk).partitions == ((1, 0, MIB, "17", ""),)


@pytest.mark.parametrize(
    "sector",
    [
        bytes(512),
        b"\xff" * 510 + b"\x55\xaa",  # boot code where entries would be
        mbr(),
        mbr((0x83, 4096, 10)),  # all beyond the end
        mbr((0x83, 1, 1), active=0x81),
        mbr((0x83, 1, 1))[:510] + b"\0\0",
    ],
)
def test_what_is_no_table(sector: bytes) -> None:
    assert table_of(MemoryDisk(MIB, {0: sector})) == PartitionTable("", (), ())


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1024])
def test_tiny_disks_have_none(size: int) -> None:
    assert table_of(MemoryDisk(size)).partitions == ()
    whole = mbr((0xEE, 1, 1))[:size]
    assert table_of(MemoryDisk(size, {0: whole})).partitions == ()


def test_a_chain_that_loops_is_left() -> None:
    table = mbr((0x83, 1, 1), (0x05, 0, 10))  # goes on where it is
    disk = MemoryDisk(MIB, {0: mbr((0x05, 100, 1000)), 100 * 512: table})
    found = table_of(disk)
    assert [part[:2] for part in found.partitions] == [(5, 101 * 512)]
    assert found.notes == ("the chain of logical partitions is damaged: not all of them are told",)


def test_a_chain_without_end_is_left() -> None:
    size = 1 << 40
    pieces = {0: mbr((0x0F, 1, 1 << 30))}
    for place in range(1000):
        pieces[(1 + place) * 512] = mbr((0x83, 1 << 20, 8), (0x05, place + 1, 1))
    disk = MemoryDisk(size, pieces)
    found = table_of(disk)
    assert len(found.partitions) == 256
    assert disk.reads < 300


def test_a_chain_that_leads_nowhere_is_left() -> None:
    disk = MemoryDisk(MIB, {0: mbr((0x83, 8, 8), (0x05, 1 << 30, 1 << 30))})
    assert len(table_of(disk).partitions) == 1
    assert len(table_of(disk).notes) == 1


def gpt(count: int, size: int = 128, **fields: int) -> MemoryDisk:
    """A disk whose GPT has so many entries, each a partition of a sector."""
    entry = struct.Struct("<16s16sQQQ72s")
    entries = b"".join(
        entry.pack(b"t" * 16, b"i" * 16, 100 + n, 100 + n, 0, b"").ljust(size, b"\0")
        for n in range(count)
    )
    values = {"mine": 1, "length": 92, "number": count, "size": size, **fields}

    def header(crc: int) -> bytes:
        return struct.pack(
            "<8sIIII4Q16sQIII",
            b"EFI PART",
            0x10000,
            values["length"],
            crc,
            0,
            values["mine"],
            0,
            0,
            0,
            bytes(16),
            2,
            values["number"],
            values["size"],
            zlib.crc32(entries),
        )

    head = header(zlib.crc32(header(0)))
    return MemoryDisk(16 * MIB, {0: mbr((0xEE, 1, 0xFFFFFFFF)), 512: head, 1024: entries})


def test_the_entries_of_a_gpt_can_be_larger_and_many() -> None:
    assert len(table_of(gpt(GPT_ENTRIES_MAX)).partitions) == GPT_ENTRIES_MAX
    assert len(table_of(gpt(4, size=256)).partitions) == 4


@pytest.mark.parametrize(
    "disk",
    [
        gpt(GPT_ENTRIES_MAX + 1),
        gpt(1, number=0xFFFFFFFF),
        gpt(1, size=64),
        gpt(1, size=0),
        gpt(1, size=8192),
        gpt(1, mine=2),
        gpt(1, length=91),
        gpt(1, length=513),
    ],
    ids=range(8),
)
def test_an_absurd_gpt_is_none(disk: MemoryDisk) -> None:
    assert table_of(disk).kind == ""
    assert disk.reads < 10


def test_notes_are_few() -> None:
    disk = gpt(500)
    entries = bytearray(disk.read(1024, 500 * 128))
    for place in range(500):
        entries[place * 128 + 32 : place * 128 + 40] = struct.pack("<Q", 1 << 40)
        entries[place * 128 + 40 : place * 128 + 48] = struct.pack("<Q", 1 << 41)
    head = bytearray(disk.read(512, 92))
    head[88:92] = struct.pack("<I", zlib.crc32(entries))
    head[16:20] = bytes(4)
    head[16:20] = struct.pack("<I", zlib.crc32(head))
    found = table_of(
        MemoryDisk(16 * MIB, {0: mbr((0xEE, 1, 1)), 512: bytes(head), 1024: bytes(entries)})
    )
    assert len(found.notes) == NOTES_MAX + 1
    assert found.notes[-1] == f"{500 - NOTES_MAX} more faults of the partition table"


def test_a_disk_that_cannot_be_read_is_said() -> None:
    disk = gpt(4)
    disk.broken = range(512, 1024)
    with pytest.raises(ImageError):
        table_of(disk)


def sane(disk: MemoryDisk) -> None:
    """Whatever a disk holds, reading it ends soon with partitions that it has."""
    before = disk.reads
    table = table_of(disk)
    assert disk.reads - before < 600
    numbers = [part.number for part in table.partitions]
    assert len(set(numbers)) == len(numbers) <= GPT_ENTRIES_MAX
    for part in table.partitions:
        assert 0 <= part.start < part.end <= disk.size
    assert len(table.notes) <= NOTES_MAX + 1
    assert all(note.isprintable() for note in table.notes)


@given(st.data())
def test_any_mutation_of_a_table_is_survived(data: st.DataObject) -> None:
    pieces = {
        0: mbr((0x83, 8, 8), (0x05, 100, 1000), (0xEE, 1, 99)),
        100 * 512: mbr((0x83, 1, 1), (0x05, 200, 10)),
        300 * 512: mbr((0x83, 1, 1), (0x05, 300, 10)),
        400 * 512: mbr((0x83, 1, 1)),
    }
    at = data.draw(st.sampled_from(sorted(pieces)))
    sector = bytearray(pieces[at])
    for offset, value in data.draw(
        st.lists(st.tuples(st.integers(446, 511), st.integers(0, 255)), max_size=8)
    ):
        sector[offset] = value
    sane(MemoryDisk(data.draw(st.integers(0, MIB)), {**pieces, at: bytes(sector)}))


def test_any_mutation_of_a_gpt_is_survived() -> None:
    """With its checksums put right again, or hardly anything would get past them."""
    chance = random.Random(5)
    for _ in range(500):
        disk = gpt(8)
        entries = bytearray(disk.read(1024, 1024))
        head = bytearray(disk.read(512, 92))
        for _ in range(chance.randrange(6)):
            which = head if chance.random() < 0.4 else entries
            which[chance.randrange(len(which))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        if chance.random() < 0.8:
            head[88:92] = struct.pack("<I", zlib.crc32(entries))
            head[16:20] = bytes(4)
            head[16:20] = struct.pack("<I", zlib.crc32(head))
        pieces = {0: mbr((0xEE, 1, 1)), 512: bytes(head), 1024: bytes(entries)}
        sane(MemoryDisk(chance.choice((4096, 60_000, MIB)), pieces))
