"""Builds a disk's content from its beginning to its end.

The bytes of files become slices. Between them are free stretches, holes that the image knows of,
and stretches that workers read block by block. Replies come in any order; a `Sequencer` puts items
in the order of the disk. FORMAT.md has the rules by which the same disk always gives the same
items.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain

import msgspec

from ventifs.errors import Corrupt, NotStored
from ventifs.image.archive.disk_worker import BlocksRead, ReadBlocks
from ventifs.image.archive.extent_map import Placement
from ventifs.image.archive.gap_blocks import BLOCK, GapItem, Stretch
from ventifs.image.archive.previous_disk import PreviousDisk
from ventifs.image.disk import Disk
from ventifs.image.survey_events import Range
from ventifs.store import Score
from ventifs.tree.objects.prolly import Builder, Get, Put, walk
from ventifs.tree.objects.records import (
    Block,
    Chunk,
    Content,
    Empty,
    Hole,
    Inline,
    Item,
    Slice,
    Tree,
    decode_item,
    encode,
    length_of,
    own_item,
)
from ventifs.tree.process_pool import Pool

_BATCH_BYTES = 4 << 20  # of blocks, in one request
_BATCH_STRETCHES = 1000
_WAITING_MAX = 100_000  # items that wait for stretches still to be read
_SPAN_MIN = 64 << 10  # bytes: asking whether fewer are a hole costs as much as reading them
_BLOCK_ITEM, _CHUNK_ITEM = encode(Block(b"", 0))[:2], encode(Chunk(b"", 0))[:2]
_reply = msgspec.msgpack.Decoder(BlocksRead).decode
_encode = msgspec.msgpack.Encoder().encode


class ItemBuilder:
    """Builds a content from encoded items in order; joins adjacent holes."""

    def __init__(self, put: Put) -> None:
        """Nodes go to `put`."""
        self._builder = Builder(put)
        self._hole = 0
        self._only = b""

    @property
    def total(self) -> int:
        """Bytes so far."""
        return self._builder.total + self._hole

    def add(self, data: bytes, length: int) -> None:
        """Append an encoded item that stands for `length` bytes; an empty one is a hole."""
        if not data:
            self._hole += length
            return
        if self._hole:
            self._end_hole()
        self._builder.add(data, length=length)
        self._only = data

    def _end_hole(self) -> None:
        self._only = encode(Hole(self._hole))
        self._builder.add(self._only, length=self._hole)
        self._hole = 0

    def finish(self) -> Content:
        """The content of all items."""
        if self._hole:
            self._end_hole()
        if not self._builder.count:
            return Empty()
        if self._builder.count == 1:
            item = decode_item(self._only)
            if isinstance(item, Chunk):
                return Block(item.score, item.length)
        return Tree(self._builder.finish(), self._builder.total)


class Sequencer:
    """Passes pieces on in the order of their places, in whatever order they become known."""

    def __init__(self, emit: Callable[[bytes, int], None]) -> None:
        """Pass pieces on to `emit`."""
        self._emit = emit
        self._waiting: deque[list[GapItem] | None] = deque()
        self._first = 0  # number of the first place that waits

    def add(self, data: bytes, length: int) -> int:
        """Add the next piece; return how many places wait."""
        if self._waiting:
            self._waiting.append([(data, length)])
        else:
            self._emit(data, length)
        return len(self._waiting)

    def reserve(self) -> int:
        """Reserve the next place, which is filled later; return its number."""
        self._waiting.append(None)
        return self._first + len(self._waiting) - 1

    def fill(self, number: int, pieces: list[GapItem]) -> None:
        """Fill a reserved place, and pass on what need not wait any longer."""
        waiting, emit = self._waiting, self._emit
        waiting[number - self._first] = pieces
        while waiting and (head := waiting[0]) is not None:
            waiting.popleft()
            self._first += 1
            for data, length in head:
                emit(data, length)


class DiskAssembler:
    """Builds the content of one disk."""

    def __init__(
        self,
        disk: Disk,
        placed: Placement,
        borders: Sequence[int],
        pool: Pool,
        *,
        previous: PreviousDisk | None,
        report: Callable[[int, int], None],
    ) -> None:
        """Read `disk` where `placed` has nothing.

        Args:
            disk: the disk to read.
            placed: the places of files, and free ranges.
            borders: where volumes begin and end, sorted; blocks are counted from the last one.
            pool: the workers that read.
            previous: the last version's disk, with the ranges known not to have changed.
            report: gets how many more bytes are placed, and bytes of blocks new to the store.
        """
        self._disk = disk
        self._placed = placed
        self._borders = sorted({0, *borders})
        self._pool = pool
        self._previous = previous
        self._report = report
        self._stretches: list[Stretch] = []
        self._numbers: list[int] = []
        self._bytes = 0

    def run(self, put: Put) -> Content:
        """Build the whole content; nodes go to `put`.

        Raises:
            ImageError: the disk cannot be read.
            VentifsError: the store's own problems.
        """
        builder = ItemBuilder(put)
        sequence = Sequencer(builder.add)
        for planned in self._plan():
            if len(planned) == 3:
                self._read(planned, sequence)
                continue
            if sequence.add(*planned) >= _WAITING_MAX:
                self._flush(sequence)
                self._pool.drain()
            if not planned[0]:
                self._report(planned[1], 0)  # the bytes of files were reported before
        self._flush(sequence)
        self._pool.drain()
        assert builder.total == self._disk.size
        return builder.finish()

    def _plan(self) -> Iterator[GapItem | Stretch]:
        """Yield what stands at each place, in order: a piece, or a stretch to read."""
        # Hot: for the items of every file; see docs/performance.md.
        free = self._placed.free()
        at = 0
        low, high = next(free, (self._disk.size, self._disk.size))
        end = (self._disk.size, self._disk.size, 0, b"")
        for start, stop, offset, content in chain(self._placed.placed(), [end]):
            while at < start:  # between files
                while high <= at:
                    low, high = next(free, (self._disk.size, self._disk.size))
                if at >= low:
                    upto = min(high, start)
                    yield b"", upto - at
                else:
                    upto = min(low, start)
                    yield from self._between(at, upto)
                at = upto
            if content:
                yield _slice(content, offset, stop - start), stop - start
            elif stop > start:
                yield b"", stop - start
            at = stop

    def _between(self, start: int, end: int) -> Iterator[GapItem | Stretch]:
        """Plan a range that no file has: holes of the image, and stretches to read."""
        small = end - start < _SPAN_MIN
        at = start
        for low, high, data in [(start, end, True)] if small else self._disk.spans(start, end):
            if not data:
                continue
            # Whole blocks, so that it makes no difference how an image stores zeros.
            first, last = max(at, self._block(low)[0]), min(end, self._block(high - 1)[1])
            if first > at:
                yield b"", first - at
                at = first
            while at < last:
                origin, border = self._region(at)
                stop = min(last, border, origin + (at - origin + _BATCH_BYTES) // BLOCK * BLOCK)
                yield from self._changed(at, stop, origin)
                at = stop
        if at < end:
            yield b"", end - at

    def _block(self, at: int) -> Range:
        """The block that a place is in."""
        origin, border = self._region(at)
        start = at - (at - origin) % BLOCK
        return start, min(start + BLOCK, border)

    def _region(self, at: int) -> Range:
        """The borders before and after a place."""
        index = bisect_right(self._borders, at)
        after = self._borders[index] if index < len(self._borders) else self._disk.size
        return self._borders[index - 1], after

    def _changed(self, start: int, end: int, origin: int) -> Iterator[GapItem | Stretch]:
        """Plan a stretch to read, without what is known to be unchanged."""
        at = start
        if self._previous is not None:
            try:
                for place, item in self._previous.blocks(start, end, origin, BLOCK):
                    if place > at:
                        yield at, place, origin
                    yield b"" if isinstance(item, Hole) else encode(item), item.length
                    at = place + item.length
            except (Corrupt, NotStored):  # the last version is damaged: do without it
                self._previous = None
        if at < end:
            yield at, end, origin

    # --- blocks to read -----------------------------------------------------------------------

    def _read(self, stretch: Stretch, sequence: Sequencer) -> None:
        self._stretches.append(stretch)
        self._numbers.append(sequence.reserve())
        self._bytes += stretch[1] - stretch[0]
        if self._bytes >= _BATCH_BYTES or len(self._stretches) >= _BATCH_STRETCHES:
            self._flush(sequence)

    def _flush(self, sequence: Sequencer) -> None:
        """Hand over the stretches that are gathered."""
        if not self._stretches:
            return
        request = _encode(ReadBlocks(self._stretches))
        done = partial(self._were_read, sequence, self._numbers, self._bytes)
        self._stretches, self._numbers, self._bytes = [], [], 0
        self._pool.submit(request, (), done)

    def _were_read(self, sequence: Sequencer, numbers: list[int], size: int, reply: bytes) -> None:
        decoded = _reply(reply)
        for number, pieces in zip(numbers, decoded.pieces, strict=True):
            sequence.fill(number, pieces)
        self._report(size, decoded.new_bytes)


def _slice(content: bytes, offset: int, length: int) -> bytes:
    """The item for a part of an encoded content, in its simplest form."""
    # A block has the fields of the chunk that is all of it.
    if not offset and content[:2] == _BLOCK_ITEM and content[36:] == _encode(length):
        return _CHUNK_ITEM + content[2:]
    return _encode((Slice.__struct_config__.tag, msgspec.Raw(content), offset, length))


def part(get: Get, content: Content, put: Put, ranges: Sequence[Range]) -> Content:
    """Make a content of its own from some ranges of a disk: that of a volume.

    The items are the disk's, clipped where they reach over a range's ends.

    Raises:
        Corrupt, NotStored: the disk's own nodes cannot be read back.
    """
    # Hot: for every item, and there are two for each file; see docs/performance.md.
    builder = ItemBuilder(put)
    for start, end in ranges:
        at = start
        for skip, item, data in _items(get, content, start):
            if at >= end:
                break
            take = min(item.length - skip, end - at)
            if isinstance(item, Hole):
                builder.add(b"", take)
            else:
                builder.add(data if take == item.length else _clipped(item, skip, take), take)
            at += take
    return builder.finish()


def _items(get: Get, content: Content, start: int) -> Iterator[tuple[int, Item, bytes]]:
    """Items from a place on: how many bytes of each lie before it, the item, and its encoding."""
    if isinstance(content, Tree):
        for skip, data in walk(get, Score(content.score), start, _weigh, content.length):
            yield skip, own_item(data), data
        return
    if isinstance(content, Block):
        item: Item = Chunk(content.score, content.length)
    elif isinstance(content, Inline):
        item = Slice(content, 0, length_of(content))
    else:
        return
    yield start, item, encode(item)


def _weigh(data: bytes) -> int:
    return own_item(data).length


def _clipped(item: Chunk | Slice, skip: int, take: int) -> bytes:
    if isinstance(item, Slice):
        return _slice(encode(item.content), item.offset + skip, take)
    return encode(Slice(Block(item.score, item.length), skip, take))
