"""Sorts any number of rows: in memory, and in a temporary file what is too much for it.

This is an external merge sort: whenever enough rows have come, they are written as a sorted run,
and in the end all runs are merged. It costs much less than an SQLite table would; see
docs/performance.md.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from heapq import merge
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec

from ventifs.image.archive.spool import Spool, frames

ROWS_MAX = 1 << 16  # in memory: some 30 MB, if they are short
SIZE_MAX = 32 << 20  # bytes of rows in memory, as far as callers report sizes
_FRAME_ROWS = 500
_encode = msgspec.msgpack.Encoder().encode
SortedRow = TypeVar("SortedRow")


class Ordered(Generic[SortedRow]):
    """Rows, returned in order once all are added. A context manager.

    Rows of equal keys come in the order in which they were added.
    """

    def __init__(self, kind: Any, key: Callable[[SortedRow], Any] | None = None) -> None:
        """Start empty.

        Args:
            kind: the type of a row, which msgspec can decode.
            key: of a row, to sort by; None to sort by all of it.
        """
        self._decode: Callable[[memoryview], list[SortedRow]] = msgspec.msgpack.Decoder(
            list[kind]
        ).decode
        self._key = key
        self._rows: list[SortedRow] = []
        self._size = 0  # bytes of them, as far as callers reported it
        self._spool: Spool | None = None
        self._runs: list[tuple[int, int]] = []  # begin and end in the spool
        self._resources = ExitStack()

    def add(self, rows: Iterable[SortedRow], size: int = 0) -> None:
        """Add rows; `size` is their bytes, needed for rows that may be long.

        Raises:
            VentifsError: no room for the temporary file.
        """
        self._rows.extend(rows)
        self._size += size
        if len(self._rows) >= ROWS_MAX or self._size >= SIZE_MAX:
            self._write()

    def _write(self) -> None:
        if self._spool is None:
            self._spool = self._resources.enter_context(Spool())
        rows, self._rows, self._size = self._rows, [], 0
        rows.sort(key=self._key)
        start = self._spool.size
        for at in range(0, len(rows), _FRAME_ROWS):
            self._spool.add(_encode(rows[at : at + _FRAME_ROWS]))
        self._runs.append((start, self._spool.size))

    def __iter__(self) -> Iterator[SortedRow]:
        """All rows in order.

        Raises:
            VentifsError: the temporary file cannot be read.
        """
        self._rows.sort(key=self._key)
        if self._spool is None:
            return iter(self._rows)
        spool = self._spool.fileno()
        runs = [self._run(spool, *run) for run in self._runs]
        return merge(*runs, self._rows, key=self._key)  # type: ignore[arg-type]

    def _run(self, spool: int, start: int, end: int) -> Iterator[SortedRow]:
        for frame in frames(spool, start, end):
            yield from self._decode(frame)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the temporary file."""
        self._resources.close()
