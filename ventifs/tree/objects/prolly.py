"""The canonical search tree that file contents and directories share.

Encoded items, in order, are grouped into nodes. The items themselves decide where a node ends: an
item ends its node when the bits of BLAKE3(level, item) under a mask are zero. So the same items
always make the same nodes, in whatever way they arose, and a change rewrites one path. A node has
at least 4 items, unless it is the last of its level, and at most 64 KiB, counted from its own
start. Every level is at most a quarter as long as the one below, rounded up, even if the items are
chosen to defeat the mask.

For each node below it, an inner node holds the number of items and of bytes of content, and the
last key. So look-ups by ordinal, by offset and by key read one node a level.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator

import msgspec
from blake3 import blake3

from ventifs.errors import Corrupt
from ventifs.store import Score
from ventifs.tree.objects.records import Child, decode_child, encode_child

NODE_ITEMS_MIN = 4
NODE_SIZE_MAX = 64 << 10
LEVEL_MAX = 40  # with 4 items a node, more than any real tree has
NODE_OVERHEAD = 16
_MASK = 127  # of the hash's first byte: 128 items a node on average
_END = b"\xc1"  # closes a node: MessagePack never uses it, and a block must not end in a zero

_SALTS = [bytes([level]) for level in range(LEVEL_MAX + 1)]

Get = Callable[[Score], memoryview]
Put = Callable[[bytes], Score]  # stores a node


class Node(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One node: items of a leaf (level 0), or `Child` records."""

    level: int
    items: list[msgspec.Raw]


_encode_node = msgspec.msgpack.Encoder().encode
_decode_node = msgspec.msgpack.Decoder(Node).decode


def node_block(level: int, items: list[bytes]) -> bytes:
    """The block of a node that has these items."""
    return _encode_node(Node(level, [msgspec.Raw(item) for item in items])) + _END


def ends_node(level: int, item: bytes) -> bool:
    """Whether an item ends its node, if that has enough items."""
    return not blake3(_SALTS[level] + item).digest(1)[0] & _MASK


class Builder:
    """Builds a tree from items in order; memory holds one node a level.

    A builder is one level of the tree, by default that of the leaves. It gathers items into nodes,
    and adds each node to the builder of the level above.

    Attributes:
        count: leaf items so far.
        total: bytes of content so far.
    """

    def __init__(self, put: Put, level: int = 0) -> None:
        """`put` stores a node and returns its score."""
        self.count = self.total = 0
        self._put = put
        self._level = level
        self._salt = bytes([level])
        self._above: Builder | None = None
        self._nodes = 0
        self._score = Score(b"")  # of the last node
        # Of the node being gathered: items and their bytes, totals before it, its last key.
        self._items: list[bytes] = []
        self._size = NODE_OVERHEAD
        self._before = 0, 0
        self._key = b""

    def add(self, data: bytes, *, length: int = 0, key: bytes = b"", count: int = 1) -> None:
        """Append an item: its canonical bytes, the content it stands for, its key."""
        # Hot: for every item, much of it the hash; see docs/performance.md.
        size, items = len(data), self._items
        if self._size + size > NODE_SIZE_MAX and items:
            self._cut()
            items = self._items
        items.append(data)
        self._size += size
        self.count += count
        self.total += length
        self._key = key
        if len(items) >= NODE_ITEMS_MIN and not blake3(self._salt + data).digest(1)[0] & _MASK:
            self._cut()

    def _cut(self) -> None:
        """Write the gathered items as a node."""
        self._score = self._put(node_block(self._level, self._items))
        self._nodes += 1
        if self._above is None:
            self._above = Builder(self._put, self._level + 1)
        count, total = self.count - self._before[0], self.total - self._before[1]
        child = Child(self._score, count, total, self._key)
        self._above.add(encode_child(child), length=total, key=self._key, count=count)
        self._items = []
        self._size = NODE_OVERHEAD
        self._before = self.count, self.total

    def finish(self) -> Score:
        """Write the remaining nodes; return the score of the root.

        The root is the only node of the lowest level that has only one.
        """
        assert self.count > 0
        level = self
        while True:
            if level._items:
                level._cut()
            if level._nodes == 1:
                return level._score
            assert level._above is not None
            level = level._above


def load(get: Get, score: Score, level: int | None) -> Node:
    """A node, checked to be canonical and of the level its parent expects (None for a root).

    Raises:
        Corrupt: for anything else.
    """
    data = bytes(get(score))
    problem = ""
    if len(data) > NODE_SIZE_MAX or data[-1:] != _END:
        problem = "is none, or too large"
    else:
        try:
            node = _decode_node(data[:-1])
        except (msgspec.DecodeError, RecursionError) as error:
            problem = f"cannot be read: {error}"
        else:
            expected = node.level if level is None else level
            if node.level != expected or not 0 <= node.level <= LEVEL_MAX or not node.items:
                problem = "is of the wrong level, or empty"
            elif _encode_node(node) + _END != data:
                problem = "is not in its canonical form"
            else:
                return node
    raise Corrupt(f"tree node {problem}", score=score)


def walk(
    get: Get,
    root: Score,
    skip: int = 0,
    weigh: Callable[[bytes], int] | None = None,
    said: int | None = None,
) -> Iterator[tuple[int, bytes]]:
    """Items in order, from the one at ordinal `skip`; with `weigh`, from the one with byte `skip`.

    Args:
        get: reads a block.
        root: the root node.
        skip: items, or bytes of content, to leave out; O(log n).
        weigh: returns the bytes of content that an item stands for.
        said: the size of the whole tree according to its referrer, in items or in bytes.

    Yields:
        (how much of the item itself is still to be skipped, the item's bytes). The first number is
        0 for all but the first item.

    Raises:
        Corrupt: where the tree is damaged, or contradicts itself.
    """
    return _walk(get, root, None, skip, weigh, said)


def _walk(
    get: Get,
    score: Score,
    level: int | None,
    skip: int,
    weigh: Callable[[bytes], int] | None,
    said: int | None,
) -> Iterator[tuple[int, bytes]]:
    node = load(get, score, level)
    weighed = [_weighed(bytes(raw), node.level, weigh) for raw in node.items]
    if said is not None and sum(weight for weight, _, _ in weighed) != said:
        raise Corrupt("tree node covers more or less than its parent says", score=score)
    for weight, child, data in weighed:
        if skip >= weight:
            skip -= weight
            continue
        if child is None:
            yield skip, data
        else:
            yield from _walk(get, Score(child.score), node.level - 1, skip, weigh, weight)
        skip = 0


def _weighed(
    data: bytes, level: int, weigh: Callable[[bytes], int] | None
) -> tuple[int, Child | None, bytes]:
    if level:
        child = decode_child(data)
        return child.count if weigh is None else child.total, child, data
    return 1 if weigh is None else weigh(data), None, data


def leaves(get: Get, root: Score) -> Iterator[Node]:
    """The nodes of level 0, in order.

    Raises:
        Corrupt: where the tree is damaged.
    """
    pending: list[tuple[Score, int | None]] = [(root, None)]
    while pending:
        node = load(get, *pending.pop())
        if not node.level:
            yield node
            continue
        children = [decode_child(bytes(raw)) for raw in node.items]
        pending += [(Score(child.score), node.level - 1) for child in reversed(children)]


def find(get: Get, root: Score, key: bytes, key_of: Callable[[bytes], bytes]) -> bytes | None:
    """The item with a key, in a tree whose items are in order of their keys.

    Raises:
        Corrupt: where the tree is damaged.
    """
    score, level = root, None
    while True:
        node = load(get, score, level)
        if node.level == 0:
            items = [bytes(raw) for raw in node.items]
            at = bisect_left(items, key, key=key_of)
            return items[at] if at < len(items) and key_of(items[at]) == key else None
        children = [decode_child(bytes(raw)) for raw in node.items]
        at = bisect_left(children, key, key=lambda child: child.key)
        if at == len(children):
            return None
        score, level = Score(children[at].score), node.level - 1
