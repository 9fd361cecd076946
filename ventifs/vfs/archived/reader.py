"""Reading archived contents out of decoded memory, and having what comes next brought early.

`Contents` is what readers share, a `Cursor` is one open file's. A read is put together of views of
cached blocks, without a copy. Where one is missing, a thread puts the same pieces together over the
store and leaves them for the read that waits: so a read ends however small the caches are.
"""

from collections import OrderedDict
from collections.abc import Hashable
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
from ventifs.vfs.interface import RESULTS_MAX, Cold, Load

# Bytes a sequential reader is kept ahead of, once it has read a few times. It covers a step that
# takes several times as long as most, as its thread waits for a core or the interpreter: half as
# much costs 3 % of the rate.
AHEAD = 8 << 20
AHEAD_STEP = 1 << 20  # of these, one load brings; a half of it costs a sixth of the rate
_READERS_FULL = 8  # so many sequential readers are kept ahead of as far as may be
_NEAR = 4 << 20  # a read so near to the last ones goes on with them: several may be in flight
_FOREVER = 2**64
_LANDED_MAX = RESULTS_MAX  # reads that threads have put together: fewer, and some are read again
LANDED_BYTES_MAX = 16 << 20  # that these keep in memory, or one of them
_WASTE_MAX = 256 << 10  # bytes that such a read may keep in memory beside twice its own
_AHEAD_MAX = 64  # loads wished for and not yet taken
_COMING_MAX = 256  # steps that loads were wished for of; a read does not wait for older ones
_STEP_LOADS_MAX = 16  # of one step that a read may wait for
_XATTRS_BYTES_MAX = 1 << 20
_XATTRS_MIN = 4

_Step = tuple[Content, int]


class Contents:
    """The contents of one store.

    Concurrency: methods belong to the event loop; the loads they ask for run anywhere.
    """

    def __init__(self, trees: TreeLookup, ahead_max: int) -> None:
        """Over the store's trees, bringing up to `ahead_max` bytes of a file early."""
        self.trees = trees
        self.ahead_max = ahead_max
        self.followed = 0  # cursors that are kept ahead of
        store = trees.store
        self.memory = BlockSource(
            partial(trees.content_leaf, trees.in_memory), store.cached, store.cached_clump
        )
        self._stored = BlockSource(partial(trees.content_leaf, trees.brought), store.get, None)
        self._wished: list[Load] = []
        # Wished for and not yet here, by number of step and by offset in the content: end, load.
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
            Cold: with a load of everything in the range, or one wished for that brings some of it.
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
            raise Cold(load)  # a thread of its own would wait for that one's, clump by clump
        key = content, offset, count
        raise Cold(Load(("read", *key), partial(self._land, key, content, offset, end)))

    def _load_of(self, content: Content, offset: int, end: int) -> Load | None:
        """What was wished for of a range, and is not yet here."""
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
        """Forget a read that was cold and is not wanted any more."""
        self._landed.take((content, offset, count))

    @property
    def landed_bytes(self) -> int:
        """What reads keep in memory that threads have put together."""
        return self._landed.bytes

    @property
    def window_max(self) -> int:
        """How far each reader is kept ahead of: many at once must not drive out each other's."""
        return min(self.ahead_max, _READERS_FULL * self.ahead_max // max(1, self.followed))

    # --- ahead ------------------------------------------------------------------------------

    def wish(self, content: Content, offset: int, end: int) -> None:
        """Have a range brought that nobody waits for yet, if it seems not to be here.

        The range is within one step; a read that lacks something of that step waits for it.
        """
        if offset >= end or len(self._wished) >= _AHEAD_MAX:
            return
        if self._at_hand(content, offset) and self._at_hand(content, end - 1):
            return  # asking for every block between them would cost a tenth of reading them
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
            with suppress(Corrupt, NotStored):  # whoever reads that far is told
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
    """Bytes of memory that pieces keep: views keep the whole of what they are views of."""
    wholes = [piece.obj if isinstance(piece, memoryview) else piece for piece in pieces]
    return sum({id(whole): memoryview(whole).nbytes for whole in wholes}.values())


class Landed:
    """Reads that threads have put together, until the request takes them that waits.

    A request that was flushed takes none: so the oldest go first, by number and by bytes. Any
    thread may use it.
    """

    def __init__(self) -> None:
        """There is nothing."""
        self.bytes = 0
        self._reads: OrderedDict[Hashable, tuple[list[Buffer], int]] = OrderedDict()
        self._lock = Lock()

    def add(self, key: Hashable, pieces: list[Buffer], kept: int) -> None:
        """Keep a read, which keeps so many bytes in memory."""
        with self._lock:
            self._drop(key)
            self._reads[key] = pieces, kept
            self.bytes += kept
            while len(self._reads) > _LANDED_MAX or (
                self.bytes > LANDED_BYTES_MAX and len(self._reads) > 1
            ):
                self._drop(next(iter(self._reads)))

    def take(self, key: Hashable) -> list[Buffer] | None:
        """A read, which is kept no more."""
        if key not in self._reads:
            return None
        with self._lock:
            return self._drop(key)

    def _drop(self, key: Hashable) -> list[Buffer] | None:
        pieces, kept = self._reads.pop(key, (None, 0))
        self.bytes -= kept
        return pieces


class Cursor:
    """One reader of a content: remembers where it is, so that going on is cheap."""

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

    def __init__(self, contents: Contents, content: Content) -> None:
        """At the beginning."""
        self._contents = contents
        self._content = content
        self._length = length_of(content)
        # The leaf read last, which may go all the same: a million readers must not keep one each.
        self._leaf: ReferenceType[ContentLeaf] | None = None
        self._before = 0
        self._cold: tuple[int, int] | None = None  # offset and count of the last read, if it was
        self._frontier = 0  # as far as reading has come
        self._ahead = 0  # up to here what comes was asked for
        self._quiet = 0  # up to here nothing more need be asked for
        self._window = 0  # how far ahead of the frontier that may be
        self._going = True  # whether reads go on with each other; those from 0 on always do

    def read(self, offset: int, count: int) -> list[Buffer]:
        """Bytes, `count` of them unless the content ends before.

        Raises:
            Cold: with a load of everything in the range.
        """
        end = offset + count
        if end > self._frontier or offset < self._frontier - _NEAR:
            if offset == self._frontier and end <= self._quiet:
                self._frontier = end  # 1 us less, for most sequential reads
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
        """Bytes out of memory, from the leaf read last on; `Missing`, if some are not there."""
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
        """Notice where reading goes on, and have what comes next brought early."""
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
        # As Linux does: little at first, since many files are looked at only at their beginning.
        wanted = max(2 * self._window, 4 * (end - offset))
        self._window = max(1, min(wanted, self._contents.window_max))
        if end + self._window // 2 < self._ahead:
            return
        start, stop = max(self._ahead, end), min(end + self._window, self._length)
        whole = stop - stop % AHEAD_STEP
        if stop < self._length and whole - start > stop - whole:
            stop = whole  # to bring a part of a step now, and later the rest, costs 5 % of the rate
        at = start
        while at < stop:
            step_end = min((at // AHEAD_STEP + 1) * AHEAD_STEP, stop)
            self._contents.wish(self._content, at, step_end)
            at = step_end
        self._ahead = max(start, stop)
        self._quiet = self._ahead - self._window // 2 if self._ahead < self._length else _FOREVER

    def close(self) -> None:
        """No more is read."""
        if self._cold is not None:
            self._contents.drop(self._content, *self._cold)
            self._cold = None
        self._stop()

    def _stop(self) -> None:
        """No more is read from here on."""
        if self._window:
            self._contents.followed -= 1
            self._window = 0
