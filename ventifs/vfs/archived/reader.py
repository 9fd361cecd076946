"""Reads archived contents out of decoded memory, and reads ahead.

`StoreContents` is what readers share; a `Cursor` belongs to one open file. A read consists of views
of cached blocks, without a copy. If a block is missing, a thread puts the same pieces together from
the store, and leaves them for the read that waits. So a read ends however small the caches are.
"""

import errno
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import suppress
from functools import partial
from threading import Lock
from weakref import ReferenceType, ref

from ventifs.buffer import Buffer
from ventifs.errors import Corrupt, NotStored
from ventifs.tree.objects.content import read_whole
from ventifs.tree.objects.records import (
    Content,
    Tree,
    Xattrs,
    decode_xattrs,
    length_of,
)
from ventifs.vfs.archived.node_cache import ContentLeaf
from ventifs.vfs.archived.ranges import PIECES_MAX, BlockSource, take, take_runs
from ventifs.vfs.archived.tree_lookup import Missing, TreeLookup
from ventifs.vfs.interface import (
    RESULTS_MAX,
    Attributes,
    Cold,
    File,
    Identity,
    Load,
    ReadOnlyOpened,
    Refused,
)

# Bytes to read ahead for a sequential reader, once it has read a few times. They cover a step that
# takes several times as long as most, because its thread waits for a core or the interpreter: half
# as much costs throughput; see docs/performance.md.
AHEAD = 8 << 20
AHEAD_STEP = 1 << 20  # of these, by one load; half costs throughput: see docs/performance.md
_READERS_FULL = 8  # sequential readers that each get the whole window; more of them share it
_NEAR = 4 << 20  # a read so near to the last ones continues them: several may be in flight
_FOREVER = 2**64
_LANDED_MAX = RESULTS_MAX  # reads that threads have finished; with fewer, some are read again
LANDED_BYTES_MAX = 16 << 20  # that these keep in memory; a single one may keep more
_WASTE_MAX = 256 << 10  # bytes that such a read may keep in memory beyond twice its own
_AHEAD_MAX = 64  # loads wished for and not yet taken
_COMING_MAX = 256  # steps for which loads were wished; a read does not wait for older ones
_STEP_LOADS_MAX = 16  # loads of one step that a read may wait for
_XATTRS_BYTES_MAX = 1 << 20
_XATTRS_MIN = 4

_Step = tuple[Content, int]


class StoreContents:
    """The contents of one store.

    Concurrency: methods belong to the event loop; the loads they ask for run anywhere.
    """

    def __init__(self, trees: TreeLookup, ahead_max: int) -> None:
        """Over the store's trees, reading ahead up to `ahead_max` bytes of a file."""
        self.trees = trees
        self.ahead_max = ahead_max
        self.followed = 0  # cursors with read-ahead
        store = trees.store
        self.memory = BlockSource(
            partial(trees.content_leaf, trees.in_memory), store.cached, store.cached_clump
        )
        self._stored = BlockSource(partial(trees.content_leaf, trees.brought), store.get, None)
        self._wished: list[Load] = []
        # Loads wished for and not yet done, by step and by offset in the content: end, load.
        self._coming: OrderedDict[_Step, dict[int, tuple[int, Load]]] = OrderedDict()
        self._landed = Landed()
        self._xattrs: OrderedDict[Content, Xattrs] = OrderedDict()

    def read(
        self, content: Content, offset: int, count: int, *, again: bool = False
    ) -> list[Buffer]:
        """Bytes of a content, `count` of them unless it ends before.

        Args:
            content: a regular file's.
            offset: of the first.
            count: at most this many.
            again: whether this read was cold before.

        Raises:
            Cold: with a load of everything in the range, or a wished load that brings some of it.
        """
        if again:
            landed = self._landed.take((content, offset, count))
            if landed is not None:
                return landed
        pieces: list[Buffer] = []
        end = min(offset + count, length_of(content))
        try:
            take(self.memory, content, offset, end, pieces)
            return pieces
        except Missing:
            pass
        load = self._load_of(content, offset, end)
        if load is not None:
            raise Cold(load)  # a load of its own would wait for that one, clump by clump
        key = content, offset, count
        raise Cold(Load(("read", *key), partial(self._land, key, content, offset, end)))

    def _load_of(self, content: Content, offset: int, end: int) -> Load | None:
        """A load that was wished for, is not yet done, and brings some of a range."""
        for step in range(offset // AHEAD_STEP, -(-end // AHEAD_STEP)):
            coming = self._coming.get((content, step))
            for begin, (stop, load) in list(coming.items()) if coming else ():
                if begin < end and offset < stop:
                    return load
        return None

    def _land(self, key: Hashable, content: Content, offset: int, end: int) -> None:
        pieces: list[Buffer] = []
        take(self._stored, content, offset, end, pieces)
        kept = _kept_by(pieces)
        if kept > 2 * (end - offset) + _WASTE_MAX or len(pieces) > PIECES_MAX:
            pieces = [b"".join(pieces)]
            kept = end - offset
        self._landed.add(key, pieces, kept)

    def drop(self, content: Content, offset: int, count: int) -> None:
        """Drop a read that was cold and is not wanted any more."""
        self._landed.take((content, offset, count))

    @property
    def landed_bytes(self) -> int:
        """Bytes of memory that reads keep which threads have finished."""
        return self._landed.bytes

    @property
    def window_max(self) -> int:
        """Bytes to read ahead for each reader: many readers must not evict each other's data."""
        return min(self.ahead_max, _READERS_FULL * self.ahead_max // max(1, self.followed))

    # --- ahead ------------------------------------------------------------------------------

    def wish(self, content: Content, offset: int, end: int) -> None:
        """Wish for a load of a range that no read waits for yet, if it seems not to be in memory.

        The range is within one step. A read that lacks something in the range waits for this load.
        """
        if offset >= end or len(self._wished) >= _AHEAD_MAX:
            return
        if self._at_hand(content, offset) and self._at_hand(content, end - 1):
            return  # asking for every block between would cost too much; see docs/performance.md
        step = content, offset // AHEAD_STEP
        load = Load(("ahead", content, offset), partial(self._bring, step, offset, end))
        self._wished.append(load)
        coming = self._coming.setdefault(step, {})
        coming[offset] = end, load
        if len(coming) > _STEP_LOADS_MAX:
            coming.pop(next(iter(coming)), None)
        self._coming.move_to_end(step)
        if len(self._coming) > _COMING_MAX:
            self._coming.popitem(last=False)

    def _at_hand(self, content: Content, offset: int) -> bool:
        try:
            take(self.memory, content, offset, offset + 1, [])
        except Missing:
            return False
        return True

    def _bring(self, step: _Step, offset: int, end: int) -> None:
        try:
            with suppress(Corrupt, NotStored):  # a read that comes so far reports it
                take(self._stored, step[0], offset, end, [])
        finally:
            coming = self._coming.get(step)
            if coming is not None:
                coming.pop(offset, None)

    def wishes(self) -> list[Load]:
        """The loads wished for since the last call."""
        if not self._wished:
            return []
        loads, self._wished = self._wished, []
        return loads

    # --- extended attributes ----------------------------------------------------------------

    def xattrs(self, content: Content) -> Xattrs:
        """Extended attributes that were too long for their entry.

        Raises:
            Cold: with a load of them.
        """
        found = self._xattrs.get(content)
        if found is None:
            raise Cold(Load(("xattrs", content), partial(self._bring_xattrs, content)))
        return found

    def _bring_xattrs(self, content: Content) -> None:
        self._xattrs[content] = decode_xattrs(read_whole(self.trees.store, content))
        sizes = [length_of(kept) for kept in list(self._xattrs)]
        while len(sizes) > _XATTRS_MIN and sum(sizes) > _XATTRS_BYTES_MAX:
            self._xattrs.popitem(last=False)
            del sizes[0]


def _kept_by(pieces: list[Buffer]) -> int:
    """Bytes of memory that pieces keep: a view keeps the whole object that it is a view of."""
    wholes = [piece.obj if isinstance(piece, memoryview) else piece for piece in pieces]
    return sum({id(whole): memoryview(whole).nbytes for whole in wholes}.values())


class Landed:
    """Reads that threads have finished, kept until the requests that wait take them.

    A request that was flushed never takes its read. So the oldest are dropped when there are too
    many, or too many bytes. Any thread may use it.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.bytes = 0
        self._reads: OrderedDict[Hashable, tuple[list[Buffer], int]] = OrderedDict()
        self._lock = Lock()

    def add(self, key: Hashable, pieces: list[Buffer], kept: int) -> None:
        """Keep a read, which keeps `kept` bytes in memory."""
        with self._lock:
            self._drop(key)
            self._reads[key] = pieces, kept
            self.bytes += kept
            while len(self._reads) > _LANDED_MAX or (
                self.bytes > LANDED_BYTES_MAX and len(self._reads) > 1
            ):
                self._drop(next(iter(self._reads)))

    def take(self, key: Hashable) -> list[Buffer] | None:
        """Remove and return a read; None if it is not here."""
        if key not in self._reads:
            return None
        with self._lock:
            return self._drop(key)

    def _drop(self, key: Hashable) -> list[Buffer] | None:
        pieces, kept = self._reads.pop(key, (None, 0))
        self.bytes -= kept
        return pieces


class Cursor:
    """One reader of a content: it remembers its position, so that sequential reads are cheap."""

    __slots__ = (
        "_ahead",
        "_before",
        "_cold",
        "_content",
        "_contents",
        "_frontier",
        "_going",
        "_leaf",
        "_length",
        "_quiet",
        "_window",
    )

    def __init__(self, contents: StoreContents, content: Content) -> None:
        """At the beginning."""
        self._contents = contents
        self._content = content
        self._length = length_of(content)
        # The leaf read last; a weak reference, since a million readers must not keep one each.
        self._leaf: ReferenceType[ContentLeaf] | None = None
        self._before = 0
        self._cold: tuple[int, int] | None = None  # offset and count of the last read, if cold
        self._frontier = 0  # how far sequential reading has come
        self._ahead = 0  # the end of what was wished for
        self._quiet = 0  # reads that end up to here wish for nothing more
        self._window = 0  # how far beyond the frontier to wish
        self._going = True  # whether reads are sequential; assumed of one that begins near 0

    def read(self, offset: int, count: int) -> list[Buffer]:
        """Bytes, `count` of them unless the content ends before.

        Raises:
            Cold: with a load of everything in the range.
        """
        end = offset + count
        if end > self._frontier or offset < self._frontier - _NEAR:
            if offset == self._frontier and end <= self._quiet:
                self._frontier = end  # fast path for most sequential reads; see docs/performance.md
            else:
                self._follow(offset, end)
        content = self._content
        cold = self._cold
        if cold is None and isinstance(content, Tree):
            try:
                return self._pieces(content, offset, min(end, self._length))
            except Missing:
                pass
        try:
            pieces = self._contents.read(content, offset, count, again=cold is not None)
        except Cold:
            self._cold = offset, count
            raise
        self._cold = None
        return pieces

    def _pieces(self, content: Tree, offset: int, end: int) -> list[Buffer]:
        """Bytes out of memory, beginning with the leaf read last.

        Raises:
            Missing: some are not in memory.
        """
        pieces: list[Buffer] = []
        memory, before = self._contents.memory, self._before
        leaf = self._leaf() if self._leaf is not None else None
        while offset < end:
            if leaf is None or not before <= offset < before + leaf.total:
                leaf, before = memory.leaf(content, offset)
                self._leaf, self._before = ref(leaf), before
            leaf.used = True
            take_runs(memory, leaf, offset - before, end - before, pieces)
            offset = before + leaf.total
        return pieces

    def _follow(self, offset: int, end: int) -> None:
        """Note where a read ends, and wish for what comes next if reads are sequential."""
        if not self._frontier - _NEAR <= offset <= self._frontier + _NEAR:
            self._stop()
            self._frontier, self._ahead, self._quiet, self._going = end, 0, 0, False
            return
        self._frontier = end
        if not self._contents.ahead_max:
            return
        if not self._going:
            self._going = True
            return
        if not self._window:
            self._contents.followed += 1
        # Little at first, as Linux does, since of many files only the beginning is read.
        wanted = max(2 * self._window, 4 * (end - offset))
        self._window = max(1, min(wanted, self._contents.window_max))
        if end + self._window // 2 < self._ahead:
            return
        start, stop = max(self._ahead, end), min(end + self._window, self._length)
        whole = stop - stop % AHEAD_STEP
        if stop < self._length and whole - start > stop - whole:
            stop = whole  # a step brought in two parts costs throughput; see docs/performance.md
        at = start
        while at < stop:
            step_end = min((at // AHEAD_STEP + 1) * AHEAD_STEP, stop)
            self._contents.wish(self._content, at, step_end)
            at = step_end
        self._ahead = max(start, stop)
        self._quiet = self._ahead - self._window // 2 if self._ahead < self._length else _FOREVER

    def close(self) -> None:
        """End reading, and drop a cold read that was not taken."""
        if self._cold is not None:
            self._contents.drop(self._content, *self._cold)
            self._cold = None
        self._stop()

    def _stop(self) -> None:
        """Stop reading ahead."""
        if self._window:
            self._contents.followed -= 1
            self._window = 0


class OpenedContent(Cursor, ReadOnlyOpened):
    """An open regular file, or an empty one in the place of a special file."""

    __slots__ = ("_file",)

    def __init__(self, file: File, contents: StoreContents, content: Content) -> None:
        """Of a file, whose content is read from its beginning."""
        super().__init__(contents, content)
        self._file = file

    def attributes(self) -> Attributes:
        """See `Opened`."""
        return self._file.attributes()

    def entries(self, cookie: int) -> Iterator[tuple[int, bytes, Identity, int]]:
        """See `Opened`."""
        raise Refused(errno.ENOTDIR)
