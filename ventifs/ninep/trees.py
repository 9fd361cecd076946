"""Archived trees in decoded memory: look-ups by name, ordinal and offset, and the loads they lack.

Each look-up is written once. The event loop runs it over what is in memory, and where something is
not, raises `Cold` with a load that runs it again in a thread, over the store; so one load brings
everything an operation lacks, and finds in memory what an equal one brought before. Knows contents
and raw entries; not versions, files or the protocol.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from functools import partial

from ventifs.errors import Corrupt
from ventifs.ninep.fs import Buffer, Cold, Load
from ventifs.ninep.nodes import ContentLeaf, DirectoryLeaf, Inner, Node, NodeCache, decode
from ventifs.store import Score, Store
from ventifs.tree.content import SLICE_DEPTH_MAX, read_whole
from ventifs.tree.records import (
    Block,
    Content,
    Inline,
    Slice,
    Tree,
    Xattrs,
    decode_xattrs,
    length_of,
)

LISTED_AHEAD = 4096  # entries of a directory that one load brings
_SMALL = 64  # a directory of so many entries is nearly always one node
_LANDED_MAX = 8  # reads brought by threads and not yet taken
_AHEAD_MAX = 64  # loads asked for and not yet taken
_XATTRS_BYTES_MAX = 1 << 20
_XATTRS_MIN = 4
_ZEROS = memoryview(bytes(1 << 20))

NodeOf = Callable[[Score, int | None, bool], Node]
BlockOf = Callable[[Score], memoryview | None]


class _Missing(Exception):
    """Something is not in memory."""


class Trees:
    """The trees of one store.

    Concurrency: methods that may raise `Cold` belong to the event loop; the loads run anywhere.
    """

    def __init__(self, store: Store, node_bytes: int, ahead_max: int) -> None:
        """Over an open store, whose own cache keeps the blocks.

        Args:
            store: where the trees are.
            node_bytes: of decoded nodes to keep.
            ahead_max: bytes of a file that may be brought before they are asked for.
        """
        self.store = store
        self.ahead_max = ahead_max
        self.nodes = NodeCache(node_bytes)
        self._ahead: list[Load] = []
        self._landed: OrderedDict[Hashable, list[Buffer]] = OrderedDict()
        self._xattrs: OrderedDict[Content, Xattrs] = OrderedDict()

    # --- nodes ------------------------------------------------------------------------------

    def _in_memory(self, score: Score, level: int | None, directory: bool) -> Node:
        node = self.nodes.get(score)
        if node is None:
            raise _Missing
        return node

    def _brought(self, score: Score, level: int | None, directory: bool) -> Node:
        node = self.nodes.get(score)
        if node is None:
            node = decode(self.store.get, score, level, directory=directory)
            self.nodes.add(score, node)
        return node

    def _leaf(
        self, node_of: NodeOf, tree: Tree, directory: bool, at: int | bytes
    ) -> tuple[Node, int]:
        """The leaf that holds an ordinal, an offset or a name, and what comes before it.

        The latter in entries of a directory, in bytes of a content. A name past all others is in no
        leaf, and gets the last one.
        """
        score, before = Score(tree.score), 0
        node = node_of(score, None, directory)
        if (node.count if directory else node.total) != tree.length:
            raise Corrupt("tree node covers more or less than its parent says", score=score)
        while isinstance(node, Inner):
            if directory and not node.ordered:
                raise Corrupt("directory is out of order", score=score)
            ends = node.counts if directory else node.totals
            if isinstance(at, bytes):
                index = min(bisect_left(node.keys, at), len(ends) - 1)
            else:
                index = bisect_right(ends, at - before)
            above, score = node, node.scores[index]
            start = ends[index - 1] if index else 0
            node = node_of(score, above.level - 1, directory)
            said = above.counts[index] - (above.counts[index - 1] if index else 0)
            total = above.totals[index] - (above.totals[index - 1] if index else 0)
            if (node.level, node.count, node.total, node.key) != (
                above.level - 1, said, total, above.keys[index]
            ):  # fmt: skip
                raise Corrupt("tree node is not what its parent says", score=score)
            before += start
        if isinstance(node, DirectoryLeaf) is not directory:
            raise Corrupt("tree node is of the wrong kind", score=score)
        return node, before

    # --- directories ------------------------------------------------------------------------

    def entry(self, content: Content, name: bytes) -> bytes | None:
        """The raw entry of a name in a directory.

        Raises:
            Cold: with a load of all nodes on the way to it.
        """
        if not isinstance(content, Tree):
            return None
        node = self.nodes.get(Score(content.score))
        if isinstance(node, DirectoryLeaf) and node.count == content.length:
            return node.entries.get(name)
        try:
            return self._find(self._in_memory, content, name)
        except _Missing:
            # Of a small directory the names share a load, whichever is asked for first.
            key = ("entry", content.score, b"" if content.length <= _SMALL else name)
            raise Cold(Load(key, partial(self._bring, content, name))) from None

    def _find(self, node_of: NodeOf, tree: Tree, name: bytes) -> bytes | None:
        leaf, _ = self._leaf(node_of, tree, True, name)
        assert isinstance(leaf, DirectoryLeaf)
        return leaf.entries.get(name)

    def _bring(self, tree: Tree, name: bytes) -> None:
        self._find(self._brought, tree, name)

    def entries(self, content: Content, start: int) -> Iterator[tuple[bytes, bytes]]:
        """(name, raw entry) of a directory from an ordinal on, O(log n).

        Raises:
            Cold: with a load of this leaf and the next ones.
        """
        if not isinstance(content, Tree):
            return
        last = b""
        while start < content.length:
            try:
                leaf, before = self._leaf(self._in_memory, content, True, start)
            except _Missing:
                key = ("entries", content.score, start)
                raise Cold(Load(key, partial(self._list, content, start))) from None
            assert isinstance(leaf, DirectoryLeaf)
            pairs = iter(leaf.entries.items())
            for _ in range(start - before):
                last = next(pairs)[0]
            for pair in pairs:
                if pair[0] <= last:
                    raise Corrupt("directory is out of order", score=content.score)
                last = pair[0]
                yield pair
            start = before + leaf.count

    def _list(self, tree: Tree, start: int) -> None:
        end = min(tree.length, start + LISTED_AHEAD)
        while start < end:
            leaf, before = self._leaf(self._brought, tree, True, start)
            start = before + leaf.count

    # --- contents ---------------------------------------------------------------------------

    def read(self, content: Content, offset: int, count: int) -> list[Buffer]:
        """Bytes of a content, `count` of them unless it ends before.

        Raises:
            Cold: with a load of all nodes and blocks of the range, which are kept for the next
                equal read whatever the caches do meanwhile.
        """
        key = None
        if self._landed:
            key = ("read", content, offset, count)
            landed = self._landed.pop(key, None)
            if landed is not None:
                return landed
        pieces: list[Buffer] = []
        end = min(offset + count, length_of(content))
        try:
            self._read(self._in_memory, self.store.cached, content, offset, end, pieces)
        except _Missing:
            key = ("read", content, offset, count)
            raise Cold(Load(key, partial(self._land, key, content, offset, end))) from None
        return pieces

    def _land(self, key: Hashable, content: Content, offset: int, end: int) -> None:
        pieces: list[Buffer] = []
        self._read(self._brought, self.store.get, content, offset, end, pieces)
        views = [piece for piece in pieces if isinstance(piece, memoryview)]
        pinned = {id(view.obj): memoryview(view.obj).nbytes for view in views}
        if sum(pinned.values()) > 2 * (end - offset) + (1 << 18):
            pieces = [b"".join(pieces)]  # else a few bytes of each keep many clumps in memory
        self._landed[key] = pieces
        while len(self._landed) > _LANDED_MAX:
            self._landed.popitem(last=False)

    def ahead(self, content: Content, offset: int, end: int) -> None:
        """Have a range of a content brought that nobody waits for, if it seems not to be here."""
        end = min(end, length_of(content))
        if offset < end and len(self._ahead) < _AHEAD_MAX:
            if self._at_hand(content, offset) and self._at_hand(content, end - 1):
                return  # asking for every block would cost a fifth of reading them
            run = partial(self._read, self._brought, self.store.get, content, offset, end, [])
            self._ahead.append(Load(("ahead", content, offset, end), run))

    def _at_hand(self, content: Content, offset: int) -> bool:
        try:
            self._read(self._in_memory, self.store.cached, content, offset, offset + 1, [])
        except _Missing:
            return False
        return True

    def take_ahead(self) -> list[Load]:
        """The loads that `ahead` asked for since the last call."""
        if not self._ahead:
            return []
        loads, self._ahead = self._ahead, []
        return loads

    def _read(
        self,
        node_of: NodeOf,
        block_of: BlockOf,
        content: Content,
        offset: int,
        end: int,
        pieces: list[Buffer],
        depth: int = SLICE_DEPTH_MAX,
    ) -> None:
        if offset >= end:
            return
        if isinstance(content, Tree):
            self._read_tree(node_of, block_of, content, offset, end, pieces, depth)
        elif isinstance(content, Block):
            data = block_of(Score(content.score))
            if data is None:
                raise _Missing
            _part(data, content.length, offset, end, content.score, pieces)
        elif isinstance(content, Inline):
            pieces.append(content.data[offset:end])

    def _read_tree(
        self,
        node_of: NodeOf,
        block_of: BlockOf,
        tree: Tree,
        offset: int,
        end: int,
        pieces: list[Buffer],
        depth: int,
    ) -> None:
        while offset < end:
            leaf, before = self._leaf(node_of, tree, False, offset)
            assert isinstance(leaf, ContentLeaf)
            ends, items = leaf.ends, leaf.items
            index = bisect_right(ends, offset - before)
            start = before + (ends[index - 1] if index else 0)
            for index in range(index, len(items)):  # noqa: B020
                stop = before + ends[index]
                item = items[index]
                last = stop if stop < end else end
                if isinstance(item, bytes):
                    data = block_of(Score(item))
                    if data is None:
                        raise _Missing
                    if len(data) == stop - start and offset == start and last == stop:
                        pieces.append(data)
                    else:
                        _part(data, stop - start, offset - start, last - start, item, pieces)
                elif item is None:
                    _zeros(last - offset, pieces)
                else:
                    self._read_slice(node_of, block_of, item, offset - start, last - start,
                                     pieces, depth)  # fmt: skip
                offset = start = stop
                if stop >= end:
                    return

    def _read_slice(
        self,
        node_of: NodeOf,
        block_of: BlockOf,
        part: Slice,
        offset: int,
        end: int,
        pieces: list[Buffer],
        depth: int,
    ) -> None:
        if depth == 0:
            raise Corrupt("slices of slices, too deep")
        self._read(node_of, block_of, part.content, part.offset + offset, part.offset + end,
                   pieces, depth - 1)  # fmt: skip

    # --- extended attributes ------------------------------------------------------------------

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
        self._xattrs[content] = decode_xattrs(read_whole(self.store, content))
        sizes = [length_of(kept) for kept in list(self._xattrs)]
        while len(sizes) > _XATTRS_MIN and sum(sizes) > _XATTRS_BYTES_MAX:
            self._xattrs.popitem(last=False)
            del sizes[0]


def _part(
    data: memoryview, length: int, start: int, end: int, score: bytes, pieces: list[Buffer]
) -> None:
    """Part of a block, with the trailing zeros that the store leaves out."""
    have = len(data)
    if have > length:
        raise Corrupt(f"block of {have} bytes where {length} are said", score=score)
    if start < have:
        pieces.append(data if start == 0 and end >= have else data[start:end])
    if end > have:
        _zeros(end - max(start, have), pieces)


def _zeros(length: int, pieces: list[Buffer]) -> None:
    while length > 0:
        pieces.append(_ZEROS[:length])
        length -= len(_ZEROS)
