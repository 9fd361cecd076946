"""Sets of small items of one size, such as scores, that are larger than memory.

Items are gathered in a set, where one that comes again soon costs little, then sorted and joined
into *runs*: sorted bytes without space between the items. Runs stay in memory up to a budget and
then go to one temporary file, which has no name. Always: the items of a run ascend and none is in
it twice; a run never changes. Reading takes a range of items from every run and sorts them
together, so its memory is bounded, too. This module does not know what items mean.
"""

import errno
import os
import tempfile
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
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
_WORTH_A_PAGE = 16  # items to look up; fewer are looked up one by one
_HELD_RUNS = 32  # in memory: fewer are not merged
_WRITTEN_RUNS = 16  # in the file
_WAYS = 256  # parts into which a range that is too large for memory is divided, at most
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SortedRun:
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

    def item(self, at: int) -> bytes:
        """The item with this ordinal."""
        return self._read(at * self._size, self._size)

    def place(self, item: bytes) -> int:
        """The ordinal of the first item that is not below `item`."""
        page = bisect_left(self._fences, item)
        if page == 0:
            return 0
        low, high = (page - 1) * _PAGE + 1, min(page * _PAGE, self.count)
        return bisect_left(range(self.count), item, low, high, key=self.item)

    def found(self, items: Sequence[bytes]) -> set[bytes]:
        """Those of some ascending items that are in it; reads only where they could be."""
        found: set[bytes] = set()
        at = bisect_left(items, self._fences[0])
        while at < len(items):
            page = bisect_right(self._fences, items[at])  # the first one behind the item
            end = bisect_left(items, self._fences[page], at) if page < self.pages else len(items)
            wanted = items[at:end]
            if len(wanted) < _WORTH_A_PAGE:
                found.update(item for item in wanted if self._has(item))
            else:
                there = self.items((page - 1) * _PAGE, min(page * _PAGE, self.count))
                found.update(set(wanted).intersection(there))
            at = end
        return found

    def _has(self, item: bytes) -> bool:
        place = self.place(item)
        return place < self.count and self.item(place) == item

    @property
    def pages(self) -> int:
        """Number of pages."""
        return len(self._fences)


Read = Callable[[int, int], bytes]
RunPart = tuple[SortedRun, int, int]  # a run, and the ordinals of the first item and the one after


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
        # A set takes more than a list, and one call of `add` may double it.
        self._gathered_max = min(self._merged_max // 2, _GATHERED_MAX)
        self._piece_max = min(self._merged_max, PIECE_MAX)
        self._held_max = max(memory // 4 // item_size, _ITEMS_MIN)
        self._gathered: set[bytes] = set()
        self._held: list[SortedRun] = []  # runs in memory
        self._file = _RunFile(item_size)
        self._written: list[SortedRun] = []  # runs in the file; the first is the result of a merge

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
        self._gathered, self._held, self._written = set(), [], []
        self._file.close()

    def add(self, items: Iterable[bytes]) -> None:
        """Add items, in any order, which may be there already.

        Raises:
            NoSpace: the directory of temporary files is full. Items stay as they are; those just
                added may be there or not.
            VentifsError: no temporary file can be made.
        """
        rest = iter(items)
        while some := list(islice(rest, self._gathered_max)):
            self._gathered.update(some)
            self.added += len(some)
            if len(self._gathered) >= self._gathered_max:
                self._settle()

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
        items = sorted(self._gathered)
        self._gathered = set()
        joined, fences = b"".join(items), items[::_PAGE]
        assert len(joined) == len(items) * self._size, "items of another size"
        self._held.append(_in_memory(self._size, joined, fences))
        del items, joined
        while len(self._held) > _HELD_RUNS and self._held[-2].count <= 2 * self._held[-1].count:
            self._held[-2:] = [self._joined(self._held[-2:])]
        if sum(run.count for run in self._held) > self._held_max:
            self._spill()

    def _joined(self, runs: Sequence[SortedRun]) -> SortedRun:
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

    def _merged(self, runs: Sequence[SortedRun]) -> Iterator[list[bytes]]:
        """What `pieces` yields, for some runs."""
        yield from self._range([(run, 0, run.count) for run in runs])

    def _range(self, parts: Sequence[RunPart]) -> Iterator[list[bytes]]:
        """The items of parts of runs, each once.

        What is too large for memory is divided between its lowest and its highest item, taken as
        numbers, until it is not.
        """
        parts = [(run, start, end) for run, start, end in parts if start < end]
        total = sum(end - start for _, start, end in parts)
        if len(parts) == 1:
            [(run, start, end)] = parts
            for at in range(start, end, self._piece_max):
                yield run.items(at, min(at + self._piece_max, end))
            return
        if total > self._merged_max:
            low = _number(min(run.item(start) for run, start, _ in parts))
            width = _number(max(run.item(end - 1) for run, _, end in parts)) + 1 - low
            if width > 1:
                ways = min(max(2 * total // self._merged_max, 4), _WAYS, width)
                bounds = [low + width * way // ways for way in range(1, ways)]
                keys = [bound.to_bytes(self._size, "big") for bound in bounds]
                for key in [*keys, None]:
                    ends = [end if key is None else run.place(key) for run, _, end in parts]
                    yield from self._range(
                        [(run, start, to) for (run, start, _), to in zip(parts, ends, strict=True)]
                    )
                    parts = [(run, to, end) for (run, _, end), to in zip(parts, ends, strict=True)]
                return
        items = list(chain.from_iterable(run.items(start, end) for run, start, end in parts))
        items.sort()  # finds the sorted runs in it, and merges them
        items = _unique(items)
        for at in range(0, len(items), self._piece_max):
            yield items[at : at + self._piece_max]


def _number(item: bytes) -> int:
    return int.from_bytes(item, "big")


def _in_memory(size: int, joined: bytes, fences: list[bytes]) -> SortedRun:
    return SortedRun(size, fences, len(joined) // size, lambda at, length: joined[at : at + length])


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

    def write(self, pieces: Iterable[list[bytes]]) -> SortedRun:
        """Append a run.

        Raises:
            NoSpace, VentifsError: the run is not there, and others are as they were.
        """
        fences: list[bytes] = []
        count, start = 0, self._end
        try:
            file = self._opened()
            for piece in pieces:
                fences += piece[-count % _PAGE :: _PAGE]
                count += len(piece)
                self._end += _write_all(file, b"".join(piece), self._end)
        except BaseException as error:
            self._end = start
            if self._file is not None:
                os.ftruncate(self._file.fileno(), start)
            if isinstance(error, OSError):
                raise _explained(error) from error
            raise

        def read(at: int, length: int) -> bytes:
            return self._read(start + at, length)

        return SortedRun(self._size, fences, count, read)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            # Unbuffered: on a full disk, closing would try to write a buffer again, and fail.
            self._file = tempfile.TemporaryFile(prefix="ventifs-", buffering=0)  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        return self._file

    def _read(self, offset: int, length: int) -> bytes:
        assert self._file is not None, "closed"
        try:
            data = os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            raise _explained(error) from error
        if len(data) != length:
            raise VentifsError("a temporary file has become shorter; run the command again")
        return data


def _write_all(file: IO[bytes], data: bytes, offset: int) -> int:
    """Write to a file, which may take a part at a time; return the number of bytes."""
    done = 0
    while done < len(data):
        done += os.pwrite(file.fileno(), data[done:] if done else data, offset + done)
    return done


def _explained(error: OSError) -> VentifsError:
    """The exception for a failure of the temporary file, which names its directory."""
    place = tempfile.tempdir or "temporary file"  # no directory can be written to
    kind = NoSpace if error.errno in _FULL else VentifsError
    reason = os.strerror(error.errno or 0).lower()
    return kind(f"{place}: {reason}, for a list of blocks; name a directory with room in TMPDIR")
