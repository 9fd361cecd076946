"""Disks in memory, of any size: given bytes at given offsets, zeros between."""

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path

from ventifs.image.disk import ImageError, Span


class MemoryDisk:
    """A `Disk` whose bytes are in memory, or in a file.

    Attributes:
        reads: the number of reads in this process.
        broken: the range of offsets that cannot be read.
    """

    format = "raw"

    def __init__(self, size: int, pieces: Mapping[int, bytes] | None = None) -> None:
        self.size = size
        self.label = "/memory.img"
        times = {"st_atime_ns": 0, "st_mtime_ns": 5, "st_ctime_ns": 0}
        self.status = os.stat_result(
            (0o100644, 7, 0, 1, 0, 0, min(size, 2**63 - 1), 0, 0, 0), times
        )
        self.files = [self.status]
        self.notes: list[str] = []
        self.reads = 0
        self.broken = range(0)
        self._pieces = sorted((pieces or {}).items())
        self._starts = [start for start, _ in self._pieces]

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size, (offset, length, self.size)
        self.reads += 1
        if offset < self.broken.stop and offset + length > self.broken.start:
            raise ImageError(f"{self.label} cannot be read at {offset}")
        data = bytearray(length)
        for start, piece in self._pieces[: bisect_right(self._starts, offset + length)]:
            low, high = max(start, offset), min(start + len(piece), offset + length)
            if low < high:
                data[low - offset : high - offset] = piece[low - start : high - start]
        return bytes(data)

    def spans(self, start: int, end: int) -> Iterator[Span]:
        yield Span(start, end, True)

    def close(self) -> None:
        pass


class FileDisk(MemoryDisk):
    """A raw image file as a disk."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.stat().st_size)
        self.label = str(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.status = os.fstat(self._fd)
        self.files = [self.status]

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size, (offset, length, self.size)
        self.reads += 1
        return os.pread(self._fd, length, offset)

    def close(self) -> None:
        os.close(self._fd)
