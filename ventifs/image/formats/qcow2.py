"""Disks in qcow2 images, read by the published format: QEMU's docs/interop/qcow2.

A disk is a chain of layers; what one layer does not hold, its backing file does. Clusters that
follow each other in the file are one read. A table that lies outside the file, or contradicts the
format, is an `ImageError`. Data clusters past the end of a truncated file read as zeros, as in
QEMU, and a note says so.
"""

import itertools
import sys
import zlib
from array import array
from collections.abc import Iterator
from functools import lru_cache

import zstandard

from ventifs.image.disk import Disk, Span, joined
from ventifs.image.formats.qcow2_header import OFFSET, Qcow2Header, damaged
from ventifs.image.formats.raw import RawDisk

CACHE_BYTES = 2 << 20  # of tables, and as much of unpacked clusters; per layer and process
_COPIED, _COMPRESSED, _ZERO = 1 << 63, 1 << 62, 1
_DESCRIPTOR_BITS = 62
_ZSTD_WINDOW_MAX = 32 << 20
_DEFLATE = -15
_REFCOUNT_TABLE_MAX = 8 << 20  # QEMU's limit

# Kinds of extents.
_UNALLOCATED, _ZEROS, _DATA, _PACKED = range(4)
_ClusterExtent = tuple[int, int, int, int]  # kind, place in the file or descriptor, start, end


class Qcow2Disk:
    """An open qcow2 image.

    Concurrency: any method from any process or thread; reads carry their offset, and each process
    has its own caches.
    """

    format = "qcow2"

    def __init__(
        self,
        file: RawDisk,
        header: Qcow2Header,
        backing: Disk | None = None,
        data: RawDisk | None = None,
    ) -> None:
        """A disk from its parts, which it owns and closes.

        `backing` is the layer below, of any size; `data` is the external data file.

        Raises:
            ImageError: the L1 table lies past the end of the file.
        """
        self.size = header.size
        self.label = file.label
        self.status = file.status
        self.files = [
            *file.files,
            *(data.files if data else []),
            *(backing.files if backing else []),
        ]
        self.header = header
        self.backing = backing
        self.file = file
        self._data = data or file
        self._cluster = header.cluster
        self._bits = header.cluster_bits
        self._covered = header.l2_entries << header.cluster_bits  # bytes that one L2 table maps
        self._l1 = self._entries(header.l1_offset, header.l1_entries, "its L1 table")
        count = max(1, CACHE_BYTES // self._cluster)
        self._table = lru_cache(count)(self._read_table)
        self._unpacked = lru_cache(count)(self._unpack)
        self.notes = [*header.notes, *self._shortfalls(data)]

    def read(self, offset: int, length: int) -> bytes:
        """As `Disk.read`.

        Raises:
            ImageError: a file of the chain cannot be read, or is damaged there.
        """
        parts = [self._bytes(extent) for extent in self._extents(offset, offset + length)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def spans(self, start: int, end: int) -> Iterator[Span]:
        """As `Disk.spans`; holes of the files also count as having no data.

        Raises:
            ImageError: as `read`.
        """
        found = (self._spans_of(extent) for extent in self._extents(start, end))
        return joined(itertools.chain.from_iterable(found))

    @property
    def cached_bytes(self) -> int:
        """Bytes of this layer that this process keeps decoded."""
        kept = self._table.cache_info().currsize + self._unpacked.cache_info().currsize
        return kept * self._cluster

    def close(self) -> None:
        """Close the files. Idempotent."""
        self.file.close()
        self._data.close()
        if self.backing is not None:
            self.backing.close()
        self._table.cache_clear()
        self._unpacked.cache_clear()

    # What an extent holds

    def _bytes(self, extent: _ClusterExtent) -> bytes:
        kind, place, start, end = extent
        if kind == _DATA:
            return _filled(self._data.read_upto(place, end - start), end - start)
        if kind == _PACKED:
            within = start & (self._cluster - 1)
            return self._unpacked(place)[within : within + end - start]
        if kind == _UNALLOCATED and self.backing is not None and start < self.backing.size:
            below = self.backing.read(start, min(end, self.backing.size) - start)
            return _filled(below, end - start)
        return bytes(end - start)

    def _spans_of(self, extent: _ClusterExtent) -> Iterator[Span]:
        kind, place, start, end = extent
        if kind == _DATA:
            shift = start - place
            for span in self._data.spans(place, place + end - start):
                yield Span(span.start + shift, span.end + shift, span.data)
        elif kind == _UNALLOCATED and self.backing is not None:
            covered = max(start, min(end, self.backing.size))
            yield from self.backing.spans(start, covered)
            yield Span(covered, end, data=False)
        else:
            yield Span(start, end, kind == _PACKED)

    def _unpack(self, descriptor: int) -> bytes:
        """The cluster that a compressed cluster descriptor refers to, decompressed."""
        place_bits = _DESCRIPTOR_BITS - (self._bits - 8)
        place = descriptor & ((1 << place_bits) - 1)
        sectors = ((descriptor & (_COMPRESSED - 1)) >> place_bits) + 1  # two clusters at most
        packed = self.file.read_upto(place, sectors * 512 - (place & 511))
        try:
            # The rest of the last sector belongs to other clusters.
            if self.header.compression == "zlib":
                cluster = zlib.decompressobj(_DEFLATE).decompress(packed, self._cluster)
            else:
                unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
                stream = unpacker.stream_reader(packed, read_across_frames=True)
                cluster = stream.read(self._cluster)
        except (zlib.error, zstandard.ZstdError) as error:
            raise damaged(self.label, f"a compressed cluster at {place}: {error}") from error
        if len(cluster) != self._cluster:
            raise damaged(self.label, f"the compressed cluster at {place} is too short")
        return cluster

    # What lies where

    def _extents(self, start: int, end: int) -> Iterator[_ClusterExtent]:
        """Extents that cover a range without gaps."""
        follow = self._subclusters if self.header.extended else self._clusters
        while start < end:
            index = start // self._covered
            table = self._l1[index] & OFFSET
            index += 1
            if not table:  # the common case on a large, sparse disk
                while index * self._covered < end and not self._l1[index] & OFFSET:
                    index += 1
            stop = min(end, index * self._covered)
            if table:
                yield from follow(self._table(table), start, stop)
            else:
                yield _UNALLOCATED, 0, start, stop
            start = stop

    def _clusters(self, table: "array[int]", start: int, end: int) -> Iterator[_ClusterExtent]:
        """Extents of a range that one table maps; clusters that form a run are one extent."""
        first = start - start % self._covered
        index = (start - first) >> self._bits
        last = (end - first + self._cluster - 1) >> self._bits
        # Only in an external data file can a data cluster be at offset 0.
        empty = _COMPRESSED | OFFSET | _ZERO | (_COPIED if self.header.external else 0)
        while index < last:
            entry = table[index]
            at = first + (index << self._bits)
            index += 1
            place = 0
            if entry & _COMPRESSED:
                kind, place = self._packed(entry)
            elif entry & _ZERO:
                kind = self._zero()
                while index < last and table[index] & (_COMPRESSED | _ZERO) == _ZERO:
                    index += 1
            elif entry & empty:
                kind, place = _DATA, self._place(entry)
                following = place + self._cluster
                while index < last and table[index] & (empty & ~_COPIED) == following:
                    following += self._cluster
                    index += 1
                place += max(0, start - at)
            else:
                kind = _UNALLOCATED
                while index < last and not table[index] & empty:
                    index += 1
            yield kind, place, max(start, at), min(end, first + (index << self._bits))

    def _subclusters(self, table: "array[int]", start: int, end: int) -> Iterator[_ClusterExtent]:
        """As `_clusters`, for an image with extended L2 entries; takes one cluster at a time."""
        size = self._cluster // 32
        at = start - start % self._cluster
        while at < end:
            index = (at % self._covered) >> self._bits
            entry, bitmap = table[2 * index], table[2 * index + 1]
            if entry & _COMPRESSED:
                yield *self._packed(entry), max(start, at), min(end, at + self._cluster)
            else:
                place = self._place(entry)
                for kind, begin, stop in self._runs(entry, bitmap):
                    low, high = max(start, at + begin * size), min(end, at + stop * size)
                    if low < high:
                        yield kind, place + low - at, low, high
            at += self._cluster

    def _runs(self, entry: int, bitmap: int) -> Iterator[tuple[int, int, int]]:
        """Each run in a cluster: its kind, first subcluster, and the one after its last."""
        present, zeros = bitmap & 0xFFFF_FFFF, bitmap >> 32
        if present & zeros or (present and not entry & OFFSET and not self.header.external):
            raise damaged(self.label, "an L2 entry whose subclusters contradict each other")
        kinds = (
            _DATA if present >> bit & 1 else _ZEROS if zeros >> bit & 1 else _UNALLOCATED
            for bit in range(32)
        )
        begin = 0
        for kind, run in itertools.groupby(kinds):
            stop = begin + sum(1 for _ in run)
            yield kind, begin, stop
            begin = stop

    def _place(self, entry: int) -> int:
        place = entry & OFFSET
        if place & (self._cluster - 1):
            raise damaged(self.label, f"a data cluster at {place}, where no cluster begins")
        return place

    def _packed(self, entry: int) -> tuple[int, int]:
        if self.header.external:
            raise damaged(self.label, "a compressed cluster beside an external data file")
        return _PACKED, entry

    def _zero(self) -> int:
        if self.header.version == 2:
            raise damaged(self.label, "a zero cluster, which version 2 does not have")
        return _ZEROS

    # The tables

    def _read_table(self, offset: int) -> "array[int]":
        if offset & (self._cluster - 1):
            raise damaged(self.label, f"an L2 table at {offset}, where no cluster begins")
        return self._entries(offset, self._cluster // 8, f"the L2 table at {offset}")

    def _entries(self, offset: int, count: int, what: str) -> "array[int]":
        # QEMU reads a table past the end as zeros: the disk looks empty. A backup must refuse it.
        data = self.file.read_upto(offset, count * 8) if count else b""
        if len(data) != count * 8:
            raise damaged(self.label, f"{what} is past the end of the file, which was cut off")
        return numbers(data)

    def _shortfalls(self, data: RawDisk | None) -> Iterator[str]:
        """Notes on missing ends of files, as far as they show without reading all tables."""
        last = self._last_in_use()
        if last >= self.file.size:
            yield (
                f"cut off: the file ends at {self.file.size}, but the cluster at {last} is in use; "
                "what is missing reads as zeros"
            )
        if data is not None and data.size < self.size:
            yield (
                f"the data file {data.label} is shorter than the disk: ends at {data.size}; "
                "what is missing reads as zeros"
            )

    def _last_in_use(self) -> int:
        """The offset of the last cluster whose refcount is not 0; 0 if that is unknown."""
        header = self.header
        length = min(header.refcount_clusters << self._bits, _REFCOUNT_TABLE_MAX)
        if not length or header.refcount_offset >= self.file.size:
            return header.refcount_offset if length else 0
        table = numbers(_whole(self.file.read_upto(header.refcount_offset, length)))
        for index in reversed(range(len(table))):
            if block := table[index] & OFFSET:
                break
        else:
            return 0
        counts = self.file.read_upto(block, self._cluster).rstrip(b"\0")
        if not counts:
            return block
        bit = 8 * len(counts) - 1
        if header.refcount_order < 3:
            bit = 8 * (len(counts) - 1) + counts[-1].bit_length() - 1
        per_block = 8 * self._cluster >> header.refcount_order
        return (index * per_block + (bit >> header.refcount_order)) << self._bits


def _filled(data: bytes, length: int) -> bytes:
    return data if len(data) == length else data + bytes(length - len(data))


def _whole(data: bytes) -> bytes:
    return data[: len(data) // 8 * 8]


def numbers(data: bytes) -> "array[int]":
    """The 64-bit numbers of a table."""
    numbers = array("Q", data)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
