"""Whether the nodes of a search tree are those that its items make, judged node by node.

Items decide where nodes end, so a tree is canonical exactly if every node ends where its items say,
every two neighbours of a level may not be joined, and every inner node says the truth of those
below. Each node is looked at by itself and leaves a `Shape`, from which the node above is judged.
So a node that several trees share is judged once; making the whole tree again from its items would
take time for each tree.
"""

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from ventifs.tree.objects.prolly import NODE_ITEMS_MIN, NODE_OVERHEAD, NODE_SIZE_MAX, ends_node
from ventifs.tree.objects.records import Child


class Edge(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How one level of a subtree begins and ends.

    Attributes:
        first: bytes of its first item.
        size: bytes of its last node, as builders count them, if that would take a further item that
            fits; 0 if it would not.
    """

    first: int
    size: int

    def joins(self, after: "Edge") -> bool:
        """Whether a builder would have put the next node's first item into this one's last node."""
        return self.size > 0 and self.size + after.first <= NODE_SIZE_MAX


class Shape(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is to be known of a node, with all below it, to judge what refers to it.

    Attributes:
        level: the node's.
        items: of the node itself.
        count: leaf items below.
        total: bytes of content below; for directories, 0.
        first, last: names, in directories.
        edges: of each level, from that of the leaves up to the node's own.
    """

    level: int
    items: int
    count: int
    total: int
    first: bytes
    last: bytes
    edges: tuple[Edge, ...]

    @property
    def is_root(self) -> bool:
        """Whether the node can be a tree's root: an inner node of one item cannot."""
        return self.level == 0 or self.items > 1


def leaf(items: Sequence[bytes], total: int = 0, names: Sequence[bytes] = ()) -> Shape | None:
    """The shape of a leaf; None if no builder makes it of these items.

    Args:
        items: their canonical bytes.
        total: bytes of content that they stand for.
        names: theirs, in a directory.
    """
    edge = _edge(0, items)
    first, last = (names[0], names[-1]) if names else (b"", b"")
    return Shape(0, len(items), len(items), total, first, last, (edge,)) if edge else None


def inner(
    level: int, items: Sequence[bytes], children: Sequence[Child], shapes: Sequence[Shape]
) -> Shape | None:
    """The shape of an inner node; None if no builder makes it over the nodes below.

    Args:
        level: the node's.
        items: their canonical bytes.
        children: what these say.
        shapes: of the nodes that they refer to.
    """
    edge = _edge(level, items)
    if edge is None or not all(map(_is_true, children, shapes)):
        return None
    if any(shape.level != level - 1 for shape in shapes):
        return None
    for before, after in pairwise(shapes):
        if any(one.joins(next_) for one, next_ in zip(before.edges, after.edges, strict=True)):
            return None
    start, end = shapes[0], shapes[-1]
    below = tuple(Edge(a.first, b.size) for a, b in zip(start.edges, end.edges, strict=True))
    count, total = sum(each.count for each in shapes), sum(each.total for each in shapes)
    return Shape(level, len(items), count, total, start.first, end.last, (*below, edge))


def _is_true(child: Child, shape: Shape) -> bool:
    return (child.count, child.total, child.key) == (shape.count, shape.total, shape.last)


def _edge(level: int, items: Sequence[bytes]) -> Edge | None:
    """The edge of a node by itself; None if a builder would have ended it earlier."""
    # Hot: for every item, much of it the hash, as in `Builder.add`.
    size, last = NODE_OVERHEAD, len(items) - 1
    for at, item in enumerate(items):
        if at and size + len(item) > NODE_SIZE_MAX:
            return None
        size += len(item)
        if at >= NODE_ITEMS_MIN - 1 and ends_node(level, item):
            return Edge(len(items[0]), 0) if at == last else None
    return Edge(len(items[0]), size)
