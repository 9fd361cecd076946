"""A disk's partition table: MBR or GPT, numbered as Linux numbers the partitions.

Whatever the bytes are, reading takes a bounded time and returns partitions that lie within the disk
and notes on what is wrong; no limit here depends on what the table says. An MBR counts in sectors
of 512 bytes. The tables are read here because libvsgpt returns no names and never reads a GPT's
backup, and libvsmbr has no wheels. Knows nothing of what is inside partitions.
"""

import struct
import uuid
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ventifs.image.volumes.window import Window

SECTOR_SIZES = (512, 4096)
GPT_ENTRIES_MAX = 1024  # 128 as a rule
LOGICAL_MAX = 256  # tables in the chain of logical partitions; each takes a read
NOTES_MAX = 8
_MBR_ENTRY = struct.Struct("<B3xB3xII")  # active, type, first sector, sectors
_MBR_ENTRIES = 446
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_GPT = struct.Struct("<8s4xII4xQQ16x16xQIII")  # a _Header
_GPT_ENTRY = struct.Struct("<16s16sQQQ72s")  # type, GUID; first and last LBA, attributes, name
_NOTHING = bytes(16)


class Partition(NamedTuple):
    """One partition.

    Attributes:
        start, end: bytes from the beginning of the disk.
        type: a GUID, or two hex digits.
        title: its name in the table, if it is a GPT.
    """

    number: int
    start: int
    end: int
    type: str
    title: str = ""


class PartitionTable(NamedTuple):
    """A partition table, as far as it is valid.

    Attributes:
        kind: "gpt", "dos" (as `blkid` calls them), or empty if there is none.
        partitions: in order of their numbers, without extended ones, which only make room for
            others. They can overlap; then a note says so.
        notes: what is wrong with it, a line each.
    """

    kind: str
    partitions: tuple[Partition, ...]
    notes: tuple[str, ...]


class _GptHeader(NamedTuple):
    """A GPT's header (UEFI 2.10, 5.3.2), without the fields that are not used here."""

    signature: bytes
    length: int
    crc: int
    mine: int  # the sector it is in
    other: int  # the sector of the other header
    entries: int  # the first sector of the entries
    number: int  # of entries
    size: int  # bytes of each entry
    entries_crc: int


def read_table(disk: Window) -> PartitionTable:
    """The partition table of a disk.

    Raises:
        ImageError: the disk cannot be read where the table should be.
    """
    notes: list[str] = []
    if disk.size < 512:
        return PartitionTable("", (), ())
    entries = _mbr_entries(disk.read(0, 512))
    protected = any(entry[1] == _PROTECTIVE for entry in entries)
    found = _gpt(disk, notes) if protected else None
    if found is not None:
        if any(type_ not in (0, _PROTECTIVE) for _, type_, _, _ in entries):
            notes.append("hybrid MBR: its own partitions are ignored in favour of the GPT's")
        kind = "gpt"
    else:
        if protected:
            notes.append("the GPT and its backup are damaged: its partitions are not told")
        kind, found = "dos", list(_mbr(disk, entries, notes))
    partitions = tuple(_within(disk.size, found, notes))
    if kind == "dos" and not partitions:  # most likely a boot sector that looks like a table
        return PartitionTable("", (), tuple(notes) if protected else ())
    _note_overlaps(partitions, notes)
    if len(notes) > NOTES_MAX:
        notes[NOTES_MAX:] = [f"{len(notes) - NOTES_MAX} more faults of the partition table"]
    return PartitionTable(kind, partitions, tuple(notes))


def _mbr_entries(sector: bytes) -> list[tuple[int, int, int, int]]:
    """The four entries of an MBR; none for another sector, a file system's boot sector, say."""
    entries = list(_MBR_ENTRY.iter_unpack(sector[_MBR_ENTRIES:510]))
    if sector[510:] != b"\x55\xaa" or any(active not in (0, 0x80) for active, *_ in entries):
        return []
    return entries


def _mbr(
    disk: Window, entries: list[tuple[int, int, int, int]], notes: list[str]
) -> Iterator[Partition]:
    """Primary partitions, then logical ones, numbered from 5 on."""
    extended: list[tuple[int, int]] = []
    for number, (_, type_, first, count) in enumerate(entries, 1):
        if type_ in _EXTENDED and count:
            extended.append((first, count))
        elif type_ not in (0, _PROTECTIVE) and count:
            yield Partition(number, first * 512, (first + count) * 512, f"{type_:02x}")
    number = 5
    for first, count in extended:
        for type_, start, length in _logical(disk, first, count, notes):
            yield Partition(number, start * 512, (start + length) * 512, f"{type_:02x}")
            number += 1


def _logical(
    disk: Window, first: int, count: int, notes: list[str]
) -> Iterator[tuple[int, int, int]]:
    """Type, first sector and number of sectors of each logical partition of an extended one."""
    seen: set[int] = set()
    here: int | None = first
    while here is not None:
        if here in seen or len(seen) == LOGICAL_MAX or (here + 1) * 512 > disk.size:
            notes.append("the chain of logical partitions is damaged: not all of them are told")
            return
        seen.add(here)
        table, here = here, None
        for place, (_, type_, start, length) in enumerate(
            _mbr_entries(disk.read(table * 512, 512))
        ):
            if not length or not type_:
                continue
            if type_ in _EXTENDED:
                here = first + start if here is None else here
            elif place < 2 or first <= table + start <= table + start + length <= first + count:
                # As in Linux, the third and fourth count only if they fit: some are garbage.
                yield type_, table + start, length


def _gpt(disk: Window, notes: list[str]) -> list[Partition] | None:
    """The partitions of a GPT, or else of its backup; None if both are damaged."""
    others: list[tuple[int, int]] = []  # where the backup is, by headers whose entries are damaged
    for sector in SECTOR_SIZES:
        found = _gpt_at(disk, sector, 1, others)
        if found is not None:
            return found
    for sector, lba in [*others, *((sector, disk.size // sector - 1) for sector in SECTOR_SIZES)]:
        found = _gpt_at(disk, sector, lba, [])
        if found is not None:
            notes.append("the GPT is damaged: its backup is used")
            return found
    return None


def _gpt_at(
    disk: Window, sector: int, lba: int, others: list[tuple[int, int]]
) -> list[Partition] | None:
    """The partitions of the GPT whose header is at `lba`; None if that or its entries are damaged.

    Appends to `others` where an intact header says that the other header is.
    """
    header = _gpt_header(disk, sector, lba)
    if header is None:
        return None
    others.append((sector, header.other))
    start, length = header.entries * sector, header.number * header.size
    if header.number > GPT_ENTRIES_MAX or not _GPT_ENTRY.size <= header.size <= 4096:
        return None
    if start + length > disk.size:
        return None
    entries = disk.read(start, length)
    if header.entries_crc != zlib.crc32(entries):
        return None
    return list(_gpt_entries(entries, header.size, sector))


def _gpt_header(disk: Window, sector: int, lba: int) -> _GptHeader | None:
    if lba < 1 or (lba + 1) * sector > disk.size:
        return None
    block = disk.read(lba * sector, sector)
    header = _GptHeader(*_GPT.unpack_from(block))
    if header.signature != b"EFI PART" or not _GPT.size <= header.length <= sector:
        return None
    crc = zlib.crc32(block[:16] + bytes(4) + block[20 : header.length])
    return header if header.crc == crc and header.mine == lba else None


def _gpt_entries(entries: bytes, size: int, sector: int) -> Iterator[Partition]:
    for number, at in enumerate(range(0, len(entries), size), 1):
        type_, _, first, last, _, name = _GPT_ENTRY.unpack_from(entries, at)
        if type_ != _NOTHING:
            title = name.decode("utf-16-le", errors="replace").partition("\0")[0]
            guid = str(uuid.UUID(bytes_le=type_))
            yield Partition(number, first * sector, (last + 1) * sector, guid, title)


def _within(size: int, found: list[Partition], notes: list[str]) -> Iterator[Partition]:
    """The partitions that have bytes within the disk, clipped to it."""
    for partition in found:
        if partition.start >= size:
            notes.append(f"partition {partition.number} lies beyond the end of the disk")
        elif partition.start >= partition.end:
            notes.append(f"partition {partition.number} has no bytes")
        elif partition.end > size:
            notes.append(
                f"partition {partition.number} goes {partition.end - size} bytes beyond the end of "
                "the disk, and is cut there"
            )
            yield partition._replace(end=size)
        else:
            yield partition


def _note_overlaps(partitions: tuple[Partition, ...], notes: list[str]) -> None:
    furthest = None
    for before, after in pairwise(sorted(partitions, key=lambda partition: partition.start)):
        if furthest is None or before.end > furthest.end:
            furthest = before
        if after.start < furthest.end:
            notes.append(f"partitions {furthest.number} and {after.number} overlap")
