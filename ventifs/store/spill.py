"""Sets of small items of one size, such as scores, that are larger than memory.

Items are gathered, sorted and joined into *runs*: sorted bytes without space between the items.
Runs stay in memory up to a budget and then go to one temporary file, which has no name. Always: the
items of a run ascend and none is in it twice; a run never changes. Reading takes a range of items
from every run and sorts them together, so its memory is bounded, too. This module does not know
what items mean.
"""

import errno
import os
import tempfile
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, compress, islice
from operator import ne
from types import TracebackType
from typing import IO, Self

from ventifs.errors import NoSpace, VentifsError

MEMORY_DEFAULT = 64 << 20
PIECE_MAX = 1 << 16  # items of one list that `pieces` yields
_ITEMS_MIN = 1024  # in memory, however small the budget
_GATHERED_MAX = 1 << 15  # more are sorted slower, as the processor's caches do not hold them
_PAGE = 4096  # items read at a time; memory keeps the first of each page
_HELD_RUNS = 32  # in memory: fewer are not merged
_WRITTEN_RUNS = 16  # in the file
_WAYS = 256  # parts into which a range that is too large for memory is divided, at most
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Run:
    """Sorted, unique items: in a temporary file or in memory.

    Attributes:
        count: number of items.
    """

    __slots__ = ("_fences", "_read", "_size", "count")

    def __init__(self, size: int, fences: list[bytes], count: int, read: "Read") -> None:
        """`fences` are the first items of all pages; `read` returns bytes by offset and length."""
        self.count = count
        self._size = size
        self._fences = fences
        self._read = read

    def items(self, first: int, end: int) -> list[bytes]:
        """The items with these ordinals."""
        size = self._size
        data = self._read(first * size, (end - first) * size)
        return [data[at : at + size] for at in range(0, len(data), size)]

    def place(self, item: bytes) -> int:
        """The ordinal of the first item that is not below `item`."""
        page = bisect_left(self._fences, item)
        if page == 0:
            return 0
        size, read = self._size, self._read
        return bisect_left(
            range(self.count),
            item,
            (page - 1) * _PAGE + 1,
            min(page * _PAGE, self.count),
            key=lambda at: read(at * size, size),
        )

    def found(self, items: Sequence[bytes]) -> set[bytes]:
        """Those of some ascending items that are in it; reads only the pages they could be in."""
        found: set[bytes] = set()
        at = bisect_left(items, self._fences[0])
        while at < len(items):
            page = bisect_right(self._fences, items[at]) - 1
            following = page + 1
            end = len(items)
            if following < len(self._fences):
                end = bisect_left(items, self._fences[following], at)
            first = page * _PAGE
            there = self.items(first, min(first + _PAGE, self.count))
            found.update(set(items[at:end]).intersection(there))
            at = end
        return found


Read = Callable[[int, int], bytes]


class Spill:
    """A sorted set of items of one size.

    Not to be shared between threads. Items may be added while `pieces` is being read, which then
    may yield them or not.

    Attributes:
        added: how many items were added, duplicates included.
    """

    def __init__(self, item_size: int, *, memory: int = MEMORY_DEFAULT) -> None:
        """Start empty.

        Args:
            item_size: bytes of each item, at least 1.
            memory: bytes that it may take, about, before it uses a temporary file in $TMPDIR. A
                quarter of it is for items that were just added, a quarter for runs, and half for
                merging or reading.
        """
        self.added = 0
        self._size = item_size
        # A bytes object has 33 bytes more than its contents, rounded up to 16, and a place in a
        # list that has an eighth of its places free.
        cost = (item_size + 33 + 15) // 16 * 16 + 9
        self._merged_max = max(memory // 4 // cost, _ITEMS_MIN)
        self._gathered_max = min(self._merged_max, _GATHERED_MAX)
        self._held_max = max(memory // 4 // item_size, _ITEMS_MIN)
        self._gathered: list[bytes] = []
        self._held: list[Run] = []  # runs in memory
        self._file = _RunFile(item_size)
        self._written: list[Run] = []  # runs in the file; the first is the result of a merge

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget all items, and give the temporary file back. Idempotent."""
        self._gathered, self._held, self._written = [], [], []
        self._file.close()

    def add(self, items: Iterable[bytes]) -> None:
        """Add items, in any order, which may be there already.

        Raises:
            NoSpace: the directory of temporary files is full. Items stay as they are; those just
                added may be there or not.
            VentifsError: no temporary file can be made.
        """
        rest = iter(items)
        gathered = self._gathered
        while True:
            before = len(gathered)
            gathered.extend(islice(rest, self._gathered_max - before))
            self.added += len(gathered) - before
            if len(gathered) < self._gathered_max:
                return
            self._settle()
            gathered = self._gathered

    def pieces(self) -> Iterator[list[bytes]]:
        """All items, ascending, each once, in lists of up to 65,536; never an empty list.

        Raises:
            NoSpace, VentifsError: as `add`.
        """
        self._settle()
        return self._merged([*self._written, *self._held])

    def holds(self, items: Sequence[bytes]) -> list[bool]:
        """Whether each of some items, which ascend, is there.

        Reads only what lies near one of them: cheapest for many items at once.

        Raises:
            NoSpace, VentifsError: as `add`.
        """
        self._settle()
        found: set[bytes] = set()
        for run in (*self._written, *self._held):
            found |= run.found(items)
        return [item in found for item in items]

    def _settle(self) -> None:
        """Make a run of what is gathered, and keep the number of runs and their memory small."""
        if not self._gathered:
            return
        items, self._gathered = self._gathered, []
        items.sort()
        items = _unique(items)
        joined, fences = b"".join(items), items[::_PAGE]
        assert len(joined) == len(items) * self._size, "items of another size"
        self._held.append(_in_memory(self._size, joined, fences))
        del items, joined
        while len(self._held) > _HELD_RUNS and self._held[-2].count <= 2 * self._held[-1].count:
            self._held[-2:] = [self._joined(self._held[-2:])]
        if sum(run.count for run in self._held) > self._held_max:
            self._spill()

    def _joined(self, runs: Sequence[Run]) -> Run:
        """Some runs as one in memory."""
        parts: list[bytes] = []
        fences: list[bytes] = []
        count = 0
        for piece in self._merged(runs):
            fences += piece[-count % _PAGE :: _PAGE]
            count += len(piece)
            parts.append(b"".join(piece))
        return _in_memory(self._size, b"".join(parts), fences)

    def _spill(self) -> None:
        """Write all runs in memory as one to the file; merge the file's when that may shorten it.

        Items that are in several runs take space in each. So when the runs since the last merge are
        twice as long as its result, all are merged into a new file.
        """
        written = self._file.write(self._merged(self._held))
        self._written.append(written)
        self._held = []
        first, *others = self._written
        if len(others) >= _WRITTEN_RUNS and sum(run.count for run in others) > 2 * first.count:
            file = _RunFile(self._size)
            try:
                self._written = [file.write(self._merged(self._written))]
            except BaseException:
                file.close()
                raise
            self._file = file  # a reader of the old one keeps it open

    def _merged(self, runs: Sequence[Run]) -> Iterator[list[bytes]]:
        """What `pieces` yields, for some runs."""
        ends = [run.count for run in runs]
        yield from self._range(runs, [0] * len(runs), ends, 0, 1 << 8 * self._size)

    def _range(
        self, runs: Sequence[Run], starts: list[int], ends: list[int], low: int, high: int
    ) -> Iterator[list[bytes]]:
        """The items of some runs with ordinals from `starts` to `ends`, between two numbers.

        An item is taken as a number, big-endian: those here are at least `low` and below `high`.
        """
        parts = [part for part in zip(runs, starts, ends, strict=True) if part[1] < part[2]]
        if len(parts) == 1:
            run, start, end = parts[0]
            for at in range(start, end, PIECE_MAX):
                yield run.items(at, min(at + PIECE_MAX, end))
            return
        total = sum(end - start for _, start, end in parts)
        most = self._merged_max
        if total <= most or high - low == 1:
            items = list(chain.from_iterable(run.items(start, end) for run, start, end in parts))
            items.sort()  # takes sorted runs as they are, and merges them
            items = _unique(items)
            for at in range(0, len(items), PIECE_MAX):
                yield items[at : at + PIECE_MAX]
            return
        runs = [run for run, _, _ in parts]
        starts, lasts = [start for _, start, _ in parts], [end for _, _, end in parts]
        ways = min(max(-(-2 * total // most), 4), _WAYS, high - low)
        for way in range(1, ways + 1):
            bound = low + (high - low) * way // ways
            if way < ways:
                key = bound.to_bytes(self._size, "big")
                ends = [run.place(key) for run in runs]
            else:
                ends = lasts
            before = low + (high - low) * (way - 1) // ways
            yield from self._range(runs, starts, ends, before, bound)
            starts = ends


def _in_memory(size: int, joined: bytes, fences: list[bytes]) -> Run:
    return Run(size, fences, len(joined) // size, lambda at, length: joined[at : at + length])


def _unique(items: list[bytes]) -> list[bytes]:
    """Sorted items, each once."""
    return list(compress(items, chain((True,), map(ne, islice(items, 1, None), items))))


class _RunFile:
    """A temporary file of runs, one after the other; made when it is first written."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._file: IO[bytes] | None = None
        self._end = 0

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._end = 0

    def write(self, pieces: Iterable[list[bytes]]) -> Run:
        """Append a run.

        Raises:
            NoSpace, VentifsError: the run is not there, and others are as they were.
        """
        fences: list[bytes] = []
        count, start = 0, self._end
        with _errors():
            if self._file is None:
                # Unbuffered: on a full disk, closing would try to write a buffer again, and fail.
                self._file = tempfile.TemporaryFile(prefix="ventifs-", buffering=0)  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            file = self._file
            try:
                for piece in pieces:
                    fences += piece[-count % _PAGE :: _PAGE]
                    count += len(piece)
                    self._end += _write_all(file, b"".join(piece), self._end)
            except BaseException:
                self._end = start
                os.ftruncate(file.fileno(), start)
                raise

        def read(at: int, length: int) -> bytes:
            return self._read(start + at, length)

        return Run(self._size, fences, count, read)

    def _read(self, offset: int, length: int) -> bytes:
        assert self._file is not None, "closed"
        data = os.pread(self._file.fileno(), length, offset)
        if len(data) != length:
            raise VentifsError("a temporary file has become shorter; run the command again")
        return data


def _write_all(file: IO[bytes], data: bytes, offset: int) -> int:
    """Write to a file, which may take a part at a time; return the number of bytes."""
    done = 0
    while done < len(data):
        done += os.pwrite(file.fileno(), data[done:] if done else data, offset + done)
    return done


@contextmanager
def _errors() -> Iterator[None]:
    """Turn an OSError into a message that names the directory of temporary files."""
    try:
        yield
    except OSError as error:
        place = tempfile.tempdir or "temporary file"  # no directory can be written to
        kind = NoSpace if error.errno in _FULL else VentifsError
        reason = os.strerror(error.errno or 0).lower()
        raise kind(
            f"{place}: {reason}, for a list of blocks; name a directory with room in TMPDIR"
        ) from error
