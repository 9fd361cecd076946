"""Disks in VMDK images: sparse, flat, split and stream-optimised ones, and those of ESX (COWD).

Follows VMware's "Virtual Disk Format 5.0", and reads as QEMU does. A `ReferenceOpener` opens the
files that a descriptor names. Snapshots, encrypted disks and raw devices are refused. The sizes of
grains and tables are checked before memory is allocated for them.
"""

import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, Self

from ventifs.image.disk import ImageError
from ventifs.image.formats.mapped_disk import (
    SECTOR,
    SIZE_MAX,
    Cache,
    Concatenation,
    Damaged,
    Flat,
    MappedDisk,
    MappedPiece,
    Mapping,
    NumberTable,
    Zeros,
    damaged_image,
    page_cache,
)
from ventifs.image.formats.raw import RawDisk
from ventifs.image.formats.references import ReferenceOpener
from ventifs.image.formats.remedies import Remedy
from ventifs.image.formats.vmdk_descriptor import (
    BYTES_MAX,
    ONE_FILE,
    Descriptor,
    ExtentLine,
    parse_descriptor,
)

_MAGIC, _MAGIC_ESX = b"KDMV", b"COWD"
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_HEADER_ESX = struct.Struct("<4s7I")
_CHECK = b"\n \r\n"  # bytes that a transfer as text would change
_ZERO_GRAINS, _COMPRESSED, _MARKERS = 1 << 2, 1 << 16, 1 << 17
_DEFLATE = 1
_AT_END = (1 << 64) - 1
_FOOTER, _END = 3, 0  # types of markers
_MARKER = struct.Struct("<QII")
_GRAIN_MARKER = struct.Struct("<QI")
_GRAIN_MAX = 2 << 20  # bytes; programs make grains of 64 KiB
_TABLE_ENTRIES_MAX, _TABLE_ENTRIES_ESX = 512, 4096
_DIRECTORY_MAX = 1 << 25  # entries; QEMU's limit; searching more would take too long
_CACHE_BYTES = 2 << 20  # of tables, and as much of grains; per disk and process
_SPARSE_MAX = 4096  # extents of a disk: 8 TiB in extents of 2 GiB, the usual size
_SPARSE = ("SPARSE", "VMFSSPARSE")  # kinds of extents
_UNCLEAN = "not closed cleanly: it is in use, or its guest died"


class SparseHeader(NamedTuple):
    """The checked header of a sparse extent; places are in bytes.

    Attributes:
        size: of the extent, as the guest sees it.
        grain: bytes of a grain.
        entries: grains that a grain table maps.
        directory: where the grain directory is.
        descriptor: place and length of the embedded descriptor; the length is 0 if there is none.
        zero_grains: whether a grain table's entry 1 stands for a grain of zeros.
        compressed: whether grains are compressed, each after a marker.
        unclean: whether the extent was not closed cleanly.
    """

    size: int
    grain: int
    entries: int
    directory: int
    descriptor: tuple[int, int]
    zero_grains: bool = False
    compressed: bool = False
    unclean: bool = False


def open_vmdk(file: RawDisk, opener: ReferenceOpener) -> MappedDisk:
    """Open a VMDK image, by its descriptor or its only extent; the disk owns the file.

    Raises:
        ImageError: it cannot be read; the file is closed.
    """
    files = [file]
    try:
        return _opened(file, opener, files)
    except BaseException:
        for one in files:
            one.close()
        raise


def _opened(file: RawDisk, opener: ReferenceOpener, files: list[RawDisk]) -> MappedDisk:
    damaged = partial(damaged_image, "VMDK", file.label)
    if file.read_upto(0, 4) not in (_MAGIC, _MAGIC_ESX):
        if file.size > BYTES_MAX:
            raise damaged(f"a descriptor of {file.size} bytes")
        descriptor = parse_descriptor(file.read(0, file.size), file.label, damaged)
        if descriptor.kind in ONE_FILE:
            raise damaged(f"a descriptor alone, of type '{descriptor.kind}'")
        parts, unclean = _parts(file, descriptor, opener, files)
        return MappedDisk("vmdk", files, Concatenation(parts), [_UNCLEAN] * unclean)
    header = _header(file, damaged)
    text = file.read_upto(*header.descriptor)
    if not text.strip(b"\0"):
        raise ImageError(
            f"{file.label}: one extent of a VMDK image, of several: "
            + Remedy.VMDK_EXTENT.line(file.label)
        )
    descriptor = parse_descriptor(text, file.label, damaged)
    if descriptor.kind not in ONE_FILE or len(descriptor.extents) != 1:
        raise damaged(f"it has a descriptor of type '{descriptor.kind}' in it")
    # The descriptor's name for the file is ignored: it is out of date after a rename.
    sparse = Sparse(file, header, damaged, Caches.of([header]))
    return MappedDisk("vmdk", files, sparse, [_UNCLEAN] * header.unclean)


def _parts(
    file: RawDisk, descriptor: Descriptor, opener: ReferenceOpener, files: list[RawDisk]
) -> tuple[list[Mapping], bool]:
    """A mapping for each extent, and whether any is unclean; appends opened files to `files`."""
    damaged = partial(damaged_image, "VMDK", file.label)
    if sum(extent.kind in _SPARSE for extent in descriptor.extents) > _SPARSE_MAX:
        raise damaged(f"it has more than {_SPARSE_MAX} sparse extents")
    opened: dict[bytes, RawDisk] = {}
    headers: dict[ExtentLine, SparseHeader] = {}
    for extent in descriptor.extents:
        if extent.name and extent.name not in opened:
            opened[extent.name] = opener.open(extent.name, file)
            files.append(opened[extent.name])
        if extent.kind in _SPARSE:
            headers[extent] = _extent_header(opened[extent.name], extent, damaged)
    caches = Caches.of([*headers.values()])
    parts: list[Mapping] = []
    for extent in descriptor.extents:
        size = extent.sectors * SECTOR
        if extent.kind == "ZERO":
            parts.append(Zeros(size))
        elif extent in headers:
            parts.append(Sparse(opened[extent.name], headers[extent], damaged, caches))
        else:
            parts.append(Flat(opened[extent.name], extent.offset * SECTOR, size, damaged))
    return parts, any(header.unclean for header in headers.values())


def _extent_header(part: RawDisk, extent: ExtentLine, damaged: Damaged) -> SparseHeader:
    magic = _MAGIC if extent.kind == "SPARSE" else _MAGIC_ESX
    if part.read_upto(0, 4) != magic:
        raise damaged(f"its extent {part.label} has no header of its kind")
    header = _header(part, damaged)
    if header.size != extent.sectors * SECTOR:
        raise damaged(f"its extent {part.label} has another size than it says")
    return header


def _header(file: RawDisk, damaged: Damaged) -> SparseHeader:
    """The header of a sparse extent; the one at its end, if the one at its start says so."""
    head = file.read_upto(0, SECTOR)
    if len(head) < SECTOR:
        raise damaged("its header is cut off")
    if head.startswith(_MAGIC_ESX):
        return _header_esx(head, damaged)
    header, directory = _checked(head, damaged)
    if directory == _AT_END:
        header, directory = _checked(_footer(file, damaged), damaged)
        if directory == _AT_END:
            raise damaged("its footer does not say where its grain directory is")
    return header


def _footer(file: RawDisk, damaged: Damaged) -> bytes:
    """The header at the end of a stream-optimised extent, between two markers."""
    tail = file.read_upto(max(0, file.size - 3 * SECTOR), 3 * SECTOR)
    if len(tail) == 3 * SECTOR:
        value, size, kind = _MARKER.unpack_from(tail)
        end = _MARKER.unpack_from(tail, 2 * SECTOR)
        if value <= 1 and not size and kind == _FOOTER and end == (0, 0, _END):
            return tail[SECTOR : 2 * SECTOR]
    raise damaged("it does not end with a footer: it was cut off")


def _checked(head: bytes, damaged: Damaged) -> tuple[SparseHeader, int]:
    """A header, and the sector of its grain directory; `_AT_END` if only the footer has that."""
    (
        magic,
        version,
        flags,
        capacity,
        grain,
        text,
        text_size,
        entries,
        _,
        directory,
        _,
        unclean,
        check,
        method,
    ) = _HEADER.unpack_from(head)
    if magic != _MAGIC or version not in (1, 2, 3) or check != _CHECK:
        raise damaged(f"a header of version {version} that is not known, or damaged")
    compressed = bool(flags & _COMPRESSED)
    if compressed != (method == _DEFLATE) or (compressed and not flags & _MARKERS) or method > 1:
        raise damaged("its header contradicts itself about compression")
    if not 0 < entries <= _TABLE_ENTRIES_MAX:
        raise damaged(f"its grain tables have {entries} entries")
    if text_size > BYTES_MAX // SECTOR or text > SIZE_MAX // SECTOR:
        raise damaged("its descriptor is larger than any")
    _check_sizes(capacity, grain, damaged)
    return SparseHeader(
        size=capacity * SECTOR,
        grain=grain * SECTOR,
        entries=entries,
        directory=directory * SECTOR,
        descriptor=(text * SECTOR, text_size * SECTOR if text else 0),
        zero_grains=bool(flags & _ZERO_GRAINS),
        compressed=compressed,
        unclean=bool(unclean),
    ), directory


def _header_esx(head: bytes, damaged: Damaged) -> SparseHeader:
    _, version, _, capacity, grain, directory, entries, _ = _HEADER_ESX.unpack_from(head)
    _check_sizes(capacity, grain, damaged)
    if version != 1 or entries * _TABLE_ENTRIES_ESX * grain < capacity:
        raise damaged("its header is of an unknown version, or its grain directory too small")
    return SparseHeader(
        capacity * SECTOR, grain * SECTOR, _TABLE_ENTRIES_ESX, directory * SECTOR, (0, 0)
    )


def _check_sizes(capacity: int, grain: int, damaged: Damaged) -> None:
    if not capacity or capacity * SECTOR > SIZE_MAX:
        raise damaged(f"its header says it has {capacity} sectors")
    if not 0 < grain <= _GRAIN_MAX // SECTOR:
        raise damaged(f"its header says its grains have {grain} sectors")


class Caches(NamedTuple):
    """The caches of a disk, which all its sparse extents share.

    Attributes:
        pages: of grain directories.
        tables: of grains.
        grains: of compressed grains.
    """

    pages: "Cache[array[int]]"
    tables: "Cache[array[int]]"
    grains: Cache[bytes]

    @classmethod
    def of(cls, headers: Sequence[SparseHeader]) -> Self:
        """The caches for some extents, sized for the largest grain table and grain among them."""
        entries = max((header.entries for header in headers), default=1)
        grain = max((header.grain for header in headers), default=1)
        return cls(page_cache("I"), Cache(_CACHE_BYTES, 4 * entries), Cache(_CACHE_BYTES, grain))


class Sparse:
    """A sparse extent: two levels of tables say where in its file each grain lies.

    Concurrency: any method from any process or thread; each process has its own caches.
    """

    def __init__(
        self, file: RawDisk, header: SparseHeader, damaged: Damaged, caches: Caches
    ) -> None:
        """Map an extent to its file.

        Raises:
            ImageError: its grain directory lies past the end of the file, or is too large.
        """
        self.size = header.size
        self._file = file
        self._header = header
        self._damaged = damaged
        self._covered = header.entries * header.grain  # bytes that one grain table maps
        count = -(-header.size // self._covered)
        if count > _DIRECTORY_MAX:
            raise damaged(f"its grain directory has {count} entries")
        self._directory = NumberTable(
            file, header.directory, count, "I", "little", damaged, caches.pages
        )
        self._tables, self._grains = caches.tables, caches.grains
        # Bound once: the caches use these functions as part of their keys.
        self._read_table, self._unpack = self._table_at, self._grain_at

    def pieces(self, start: int, end: int) -> Iterator[MappedPiece]:
        """As `Mapping.pieces`.

        Raises:
            ImageError: as there.
        """
        covered = self._covered
        for first, last, sector in self._directory.runs(start // covered, -(-end // covered)):
            if not sector:
                yield MappedPiece(max(start, first * covered), min(end, last * covered))
                continue
            for index in range(first, last):
                base = index * covered
                table = self._tables.get(self._read_table, sector)
                yield from self._grains_of(table, base, max(start, base), min(end, base + covered))

    def _grains_of(
        self, table: "array[int]", base: int, start: int, end: int
    ) -> Iterator[MappedPiece]:
        """Pieces of a range within what one grain table maps; that begins at `base`."""
        size = self._header.grain
        index, last = (start - base) // size, -(-(end - base) // size)
        zeros = (0, 1) if self._header.zero_grains else (0,)
        step = size // SECTOR
        while index < last:
            sector = table[index]
            at = base + index * size
            index += 1
            if sector in zeros:
                while index < last and table[index] in zeros:
                    index += 1
                yield MappedPiece(max(start, at), min(end, base + index * size))
                continue
            if sector == 1:
                raise self._damaged("it has a zeroed grain, and its header says that it has none")
            low, high = max(start, at), min(end, at + size)
            if self._header.compressed:
                unpacked = partial(self._part, sector, at, low - at, high - at)
                yield MappedPiece(low, high, self._file, 0, unpacked)
                continue
            following = sector + step
            while index < last and table[index] == following:
                following += step
                index += 1
            high = min(end, base + index * size)
            yield MappedPiece(low, high, self._file, sector * SECTOR + low - at)

    def _table_at(self, sector: int) -> "array[int]":
        table = NumberTable(
            self._file, sector * SECTOR, self._header.entries, "I", "little", self._damaged
        )
        return table.page(0)

    def _part(self, sector: int, at: int, low: int, high: int) -> bytes:
        """Bytes `low` to `high` of the compressed grain that begins at `at` on the disk."""
        grain = self._grains.get(self._unpack, sector)
        if high > len(grain):
            raise self._damaged(f"the compressed grain of {at} is too short")
        return grain[low:high]

    def _grain_at(self, sector: int) -> bytes:
        """Read and decompress the grain at a sector of the file."""
        size = self._header.grain
        place = sector * SECTOR
        packed = self._file.read_upto(place, size)  # few grains need more
        if len(packed) < _GRAIN_MARKER.size:
            raise self._damaged(f"a compressed grain at sector {sector}, past the end of the file")
        length = _GRAIN_MARKER.unpack_from(packed)[1]
        if not 0 < length <= 2 * size:
            raise self._damaged(f"a compressed grain of {length} bytes at sector {sector}")
        end = _GRAIN_MARKER.size + length
        if end > len(packed):
            packed += self._file.read_upto(place + len(packed), end - len(packed))
        unpacker = zlib.decompressobj()
        try:
            grain = unpacker.decompress(memoryview(packed)[_GRAIN_MARKER.size : end], size + 1)
        except zlib.error as error:
            raise self._damaged(f"a compressed grain at sector {sector}: {error}") from error
        if len(grain) > size or not unpacker.eof:
            raise self._damaged(f"a compressed grain at sector {sector} that does not end")
        return grain
