"""Disks in VHDX images, fixed and dynamic, by Microsoft's [MS-VHDX].

Blocks that were never written, are zeros, or were unmapped read as zeros, as in QEMU. A partially
present block belongs to a differencing image; anywhere else it is damage.
"""

from collections.abc import Iterator
from functools import partial

from ventifs.image.formats.mapped_disk import (
    Damaged,
    MappedDisk,
    MappedPiece,
    NumberTable,
    damaged_image,
)
from ventifs.image.formats.raw import RawDisk
from ventifs.image.formats.vhdx_header import VhdxHeader, parse_vhdx

# Sectors that one sector bitmap covers; its entry follows those of their blocks in the table.
_CHUNK_SECTORS = 1 << 23
_STATE, _PLACE = 7, ~((1 << 20) - 1)
_EMPTY = (0, 1, 2, 3, 5)  # not present, undefined, zeros, unmapped, unmapped in version 0.95
_PRESENT = 6


def open_vhdx(file: RawDisk) -> MappedDisk:
    """Open a VHDX image; the disk owns the file.

    Raises:
        ImageError: it cannot be read; the file is closed.
    """
    damaged = partial(damaged_image, "VHDX", file.label)
    try:
        header = parse_vhdx(file, damaged)
        return MappedDisk("vhdx", [file], Blocks(file, header, damaged))
    except BaseException:
        file.close()
        raise


class Blocks:
    """Blocks that lie anywhere in the file.

    Concurrency: any method from any process or thread; each process has its own caches.
    """

    def __init__(self, file: RawDisk, header: VhdxHeader, damaged: Damaged) -> None:
        """Map a disk by its block allocation table.

        Raises:
            ImageError: the table is too small, or past the end of the file.
        """
        self.size = header.size
        self._file = file
        self._block = header.block
        self._damaged = damaged
        self._chunk = _CHUNK_SECTORS * header.sector // header.block  # blocks between two bitmaps
        blocks = -(-header.size // header.block)
        count = blocks + (blocks - 1) // self._chunk
        if count * 8 > header.table_bytes:
            raise damaged(f"its table is too small for a disk of {header.size} bytes")
        self._table = NumberTable(file, header.table, count, "Q", "little", damaged)

    def pieces(self, start: int, end: int) -> Iterator[MappedPiece]:
        """As `Mapping.pieces`.

        Raises:
            ImageError: as there.
        """
        covered = self._chunk * self._block
        while start < end:
            chunk = start // covered
            stop = min(end, (chunk + 1) * covered)
            yield from self._of_chunk(chunk, start, stop)
            start = stop

    def _of_chunk(self, chunk: int, start: int, end: int) -> Iterator[MappedPiece]:
        """Pieces of a range within one chunk: the blocks that share a sector bitmap."""
        block = self._block
        first, last = start // block + chunk, -(-end // block) + chunk
        for begin, stop, entry in self._table.runs(first, last):
            low, high = (begin - chunk) * block, (stop - chunk) * block
            state, place = entry & _STATE, entry & _PLACE
            if state in _EMPTY:
                yield MappedPiece(max(start, low), min(end, high))
                continue
            if state != _PRESENT or not place or stop - begin > 1:
                raise self._damaged(f"its table has an entry that means nothing: {entry:#x}")
            inner = max(start, low)
            yield MappedPiece(inner, min(end, high), self._file, place + inner - low)
