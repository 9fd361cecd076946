"""Tree nodes decoded so that a look-up is one step, and a cache of them bounded in bytes.

A cached node has passed every check that the tree layer makes of a node by itself: canonical bytes,
valid items, names in order. What a node's parent says of it (level, items, bytes, last name) is
checked on the way down, by `tree_lookup.py`, because one node may have several parents. Nothing
here knows files, versions or the protocol.
"""

import sys
from collections import deque
from itertools import accumulate
from threading import Lock
from typing import NamedTuple
from weakref import ReferenceType

from ventifs.errors import Corrupt
from ventifs.store import DecodedClump, Score
from ventifs.tree.objects import prolly
from ventifs.tree.objects.records import Chunk, Slice, decode_child, decode_entry, decode_item

KEPT_MIN = 128  # nodes that stay however little room there is: a request must find what it loaded
_ITEM = 140 + 230  # bytes for an item of a leaf: its score and end; and a run, as if each had one
_SLICE = 300 + 260  # bytes more for a slice: its content, and where it was found
_OBJECT = 160  # a node's own object, its place in the cache, its score


class DirectoryLeaf:
    """A leaf of a directory's tree: entries in order of their names.

    Attributes:
        entries: the encoded bytes of each entry, by its name.
        first: the first name.
        count, total, key: the number of entries, 0, and the last name. The parent says the same of
            this leaf, or one of the two is damaged; `TreeLookup` compares them.
        cost: bytes of memory to account for.
        used: whether the cache was asked for it since it last looked here for a node to drop.
    """

    __slots__ = ("cost", "count", "entries", "first", "key", "used")
    level = 0
    total = 0

    def __init__(self, score: Score, items: list[bytes]) -> None:
        """Check and decode.

        Raises:
            Corrupt: for entries that are invalid or out of order.
        """
        self.entries: dict[bytes, bytes] = {}
        last = b""
        for data in items:
            name = decode_entry(data).name
            if name <= last:
                raise Corrupt("directory is out of order", score=score)
            self.entries[name] = data
            last = name
        self.first = next(iter(self.entries))
        self.count = len(items)
        self.key = last
        self.used = False
        self.cost = (
            _OBJECT
            + sys.getsizeof(self.entries)
            + sum(sys.getsizeof(name) + sys.getsizeof(data) for name, data in self.entries.items())
        )


class Run(NamedTuple):
    """Consecutive items of a leaf that are also consecutive in a decoded clump.

    Attributes:
        held: offset in the leaf where the bytes that the clump has end.
        end: offset in the leaf where the last item ends; past `held` are zeros, which the store
            leaves out.
        after: index of the item that comes next.
        shift: added to a byte's offset in the leaf, it gives that byte's offset in the clump.
        clump: a weak reference, so that the run does not keep a clump that the cache has dropped.
    """

    held: int
    end: int
    after: int
    shift: int
    clump: "ReferenceType[DecodedClump]"


class SliceLeaf(NamedTuple):
    """The leaf that was read lately in the content that an item is a slice of.

    Attributes:
        before: bytes of that content before the leaf.
        leaf: a weak reference, so that it does not keep a leaf that the cache has dropped.
    """

    before: int
    leaf: "ReferenceType[ContentLeaf]"


class ContentLeaf:
    """A leaf of a content's tree: items of a file's content, by offset.

    Attributes:
        ends: where each ends, in bytes from the leaf's beginning.
        items: a chunk's score, None for a hole, or a slice.
        runs: for each item the run it was found in lately, if any; see `ranges.py`.
        inside: for items that are slices, where they were found lately; see `ranges.py`.
        count, total, key: the number of items, the bytes of content, and an empty name; the parent
            must say the same, as of `DirectoryLeaf`.
        cost, used: as of `DirectoryLeaf`.
    """

    __slots__ = (
        "__weakref__",
        "cost",
        "count",
        "ends",
        "inside",
        "items",
        "runs",
        "total",
        "used",
    )
    level = 0
    key = b""

    def __init__(self, items: list[bytes]) -> None:
        """Check and decode.

        Raises:
            Corrupt: for invalid items.
        """
        decoded = [decode_item(data) for data in items]
        self.ends = list(accumulate(item.length for item in decoded))
        self.items: list[bytes | Slice | None] = [
            item.score if isinstance(item, Chunk) else item if isinstance(item, Slice) else None
            for item in decoded
        ]
        self.runs: list[Run | None] = [None] * len(items)
        self.inside: dict[int, SliceLeaf] = {}
        self.count = len(items)
        self.total = self.ends[-1]
        self.used = False
        self.cost = _OBJECT + sum(
            _ITEM + (_SLICE if isinstance(item, Slice) else 0) for item in self.items
        )


class Inner:
    """What an inner node says of the nodes below it.

    Attributes:
        scores, keys: the score and the last name of each; the names are empty in a content's tree.
        counts, totals: up to and including each: leaf items, and bytes of content.
        ordered: whether the keys are those of a directory, in order.
        level, count, total, key: its level, the last of `counts`, `totals` and `keys`; the parent
            must say the same, as of `DirectoryLeaf`.
        cost, used: as of `DirectoryLeaf`.
    """

    __slots__ = (
        "cost",
        "count",
        "counts",
        "key",
        "keys",
        "level",
        "ordered",
        "scores",
        "total",
        "totals",
        "used",
    )

    def __init__(self, level: int, items: list[bytes]) -> None:
        """Check and decode.

        Raises:
            Corrupt: for invalid items.
        """
        children = [decode_child(data) for data in items]
        self.level = level
        self.scores = [Score(child.score) for child in children]
        self.keys = [child.key for child in children]
        self.counts = list(accumulate(child.count for child in children))
        self.totals = list(accumulate(child.total for child in children))
        self.ordered = bool(self.keys[0]) and all(
            before < after for before, after in zip(self.keys, self.keys[1:], strict=False)
        )
        self.count, self.total, self.key = self.counts[-1], self.totals[-1], self.keys[-1]
        self.used = False
        self.cost = _OBJECT + sum(sys.getsizeof(key) + 190 for key in self.keys)


Node = DirectoryLeaf | ContentLeaf | Inner


def decode(get: prolly.Get, score: Score, level: int | None, *, directory: bool) -> Node:
    """Read a node of a directory's tree, or of a content's.

    Args:
        get: reads a block.
        score: the node's.
        level: what its parent expects; None for a root.
        directory: whether it is a node of a directory's tree.

    Raises:
        Corrupt, NotStored: when the score leads to no such node.
    """
    node = prolly.load(get, score, level)
    items = [bytes(raw) for raw in node.items]
    if node.level:
        return Inner(node.level, items)
    return DirectoryLeaf(score, items) if directory else ContentLeaf(items)


class NodeCache:
    """Decoded nodes by score; those not used lately are dropped first (the clock algorithm).

    Attributes:
        bytes: the sum of the nodes' costs.

    Concurrency: any number of threads; a hit takes no lock.
    """

    def __init__(self, bytes_max: int) -> None:
        """Hold up to `bytes_max` bytes, or the last `KEPT_MIN` nodes if these are more."""
        self.bytes_max = bytes_max
        self.bytes = 0
        self._nodes: dict[Score, Node] = {}
        self._order: deque[Score] = deque()  # next to go first
        self._lock = Lock()

    def get(self, score: Score) -> Node | None:
        """A node, if it is in the cache."""
        node = self._nodes.get(score)
        if node is not None:
            node.used = True
        return node

    def add(self, score: Score, node: Node) -> None:
        """Add a node, and drop others to make room."""
        with self._lock:
            if score in self._nodes:
                return
            self._nodes[score] = node
            self._order.append(score)
            self.bytes += node.cost
            while self.bytes > self.bytes_max and len(self._order) > KEPT_MIN:
                self._drop_one()

    def _drop_one(self) -> None:
        for _ in range(len(self._order) - KEPT_MIN):
            node = self._nodes[self._order[0]]
            if not node.used:
                break
            node.used = False
            self._order.rotate(-1)
        else:  # all were used; still, the newest are not dropped first
            self._order.rotate(-KEPT_MIN)
        self.bytes -= self._nodes.pop(self._order.popleft()).cost
