"""Search trees in decoded memory: the leaf that holds a name, an ordinal or an offset.

Each look-up is written once. The event loop runs it over what is in memory. If something is
missing, it raises `Cold` with a load, which runs the same look-up in a thread, over the store. So
one load brings everything that an operation lacks, and finds in memory what an equal load brought
before. Knows contents and raw entries; not versions, files or the protocol.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

from ventifs.errors import Corrupt, NotStored, VentifsError
from ventifs.store import Score, Store
from ventifs.tree.objects.records import Content, Directory, Tree, own_entry
from ventifs.vfs.archived.node_cache import (
    ContentLeaf,
    DirectoryLeaf,
    Inner,
    Node,
    NodeCache,
    decode,
)
from ventifs.vfs.interface import Cold, Load

LISTED_LEAVES = 32  # of a directory that one load brings: about 4,000 entries
_SMALL = 64  # a directory of so many entries is nearly always one node

NodeOf = Callable[[Score, int | None, bool], Node]


class Missing(Exception):
    """Something is not in memory."""


class TreeLookup:
    """Finds names, ordinals and offsets in the trees of one store, and keeps decoded nodes.

    Concurrency: methods that may raise `Cold` look in memory alone, and are for the event loop. The
    loads in a `Cold`, `brought` and `bring_path` also read the store, and run in any thread.
    """

    def __init__(self, store: Store, node_bytes: int) -> None:
        """Keep up to `node_bytes` of an open store's nodes, decoded."""
        self.store = store
        self.nodes = NodeCache(node_bytes)

    # --- nodes ------------------------------------------------------------------------------

    def in_memory(self, score: Score, level: int | None, directory: bool) -> Node:
        """A node that is in memory.

        Raises:
            Missing: it is not.
        """
        node = self.nodes.get(score)
        if node is None:
            raise Missing
        return node

    def brought(self, score: Score, level: int | None, directory: bool) -> Node:
        """A node, read from the store if it is not in memory; for threads.

        Raises:
            Corrupt, NotStored: the score leads to no such node.
        """
        node = self.nodes.get(score)
        if node is None:
            node = decode(self.store.get, score, level, directory=directory)
            self.nodes.add(score, node)
        return node

    def _leaf(
        self, node_of: NodeOf, tree: Tree, directory: bool, at: int | bytes
    ) -> tuple[Node, int]:
        """The leaf that holds an ordinal, an offset or a name, and how much comes before it.

        How much is counted in entries of a directory, or in bytes of a content. A name past all
        others is in no leaf, and gets the last one.

        Raises:
            Corrupt: a node is not what its parent says of it.
            Missing, NotStored: as `node_of`.
        """
        score, before, floor = Score(tree.score), 0, b""
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
            if index:
                floor = node.keys[index - 1]
            above, score = node, node.scores[index]
            start = ends[index - 1] if index else 0
            node = node_of(score, above.level - 1, directory)
            said = above.counts[index] - (above.counts[index - 1] if index else 0)
            total = above.totals[index] - (above.totals[index - 1] if index else 0)
            if (node.level, node.count, node.total, node.key) != (
                above.level - 1,
                said,
                total,
                above.keys[index],
            ):
                raise Corrupt("tree node is not what its parent says", score=score)
            before += start
        if isinstance(node, DirectoryLeaf) is not directory:
            raise Corrupt("tree node is of the wrong kind", score=score)
        if isinstance(node, DirectoryLeaf) and node.first <= floor:
            raise Corrupt("directory is out of order", score=tree.score)
        return node, before

    def content_leaf(self, node_of: NodeOf, tree: Tree, offset: int) -> tuple[ContentLeaf, int]:
        """The leaf that holds a byte of a content, and the offset it begins at.

        Raises:
            Corrupt, Missing, NotStored: as `_leaf`.
        """
        leaf, before = self._leaf(node_of, tree, False, offset)
        assert isinstance(leaf, ContentLeaf)
        return leaf, before

    # --- directories ------------------------------------------------------------------------

    def entry(self, content: Content, name: bytes) -> bytes | None:
        """The raw entry of a name in a directory.

        Raises:
            Cold: with a load of all nodes on the way to it.
            Corrupt: a node is not what its parent says of it.
        """
        if not isinstance(content, Tree):
            return None
        node = self.nodes.get(Score(content.score))
        if isinstance(node, DirectoryLeaf) and node.count == content.length:
            return node.entries.get(name)
        try:
            return self._find(self.in_memory, content, name)
        except Missing:
            # All names of a small directory share one load, whichever is asked for first.
            key = ("entry", content.score, b"" if content.length <= _SMALL else name)
            raise Cold(Load(key, partial(self._bring, content, name))) from None

    def _find(self, node_of: NodeOf, tree: Tree, name: bytes) -> bytes | None:
        leaf, _ = self._leaf(node_of, tree, True, name)
        assert isinstance(leaf, DirectoryLeaf)
        return leaf.entries.get(name)

    def _bring(self, tree: Tree, name: bytes) -> None:
        self._find(self.brought, tree, name)

    def bring_path(
        self, content: Content, names: Sequence[bytes], strict: int
    ) -> tuple[bytes, ...]:
        """The raw entries on the path from a directory along some names; for threads.

        Args:
            content: the directory's.
            names: of the entries; the path ends before the first that does not exist, or after the
                first that is no directory.
            strict: so many of the first names must be readable; errors of later ones only end the
                path.

        Raises:
            VentifsError, OSError: one of the first `strict` names cannot be looked up.
        """
        way: list[bytes] = []
        for number, name in enumerate(names):
            if not isinstance(content, Tree):
                break
            try:
                raw = self._find(self.brought, content, name)
            except (VentifsError, OSError):
                if number < strict:
                    raise
                break
            if raw is None:
                break
            way.append(raw)
            detail = own_entry(raw).detail
            if not isinstance(detail, Directory):
                break
            content = detail.content
        return tuple(way)

    def entries(self, content: Content, start: int) -> Iterator[tuple[bytes, bytes]]:
        """(name, raw entry) of a directory from an ordinal on, O(log n).

        Raises:
            Cold: with a load of this leaf and the next ones.
            Corrupt: a node is not what its parent says of it.
        """
        if not isinstance(content, Tree):
            return
        while start < content.length:
            try:
                leaf, before = self._leaf(self.in_memory, content, True, start)
            except Missing:
                key = ("entries", content.score, start)
                raise Cold(Load(key, partial(self._list, content, start))) from None
            assert isinstance(leaf, DirectoryLeaf)
            yield from islice(leaf.entries.items(), start - before, None)
            start = before + leaf.count

    def _list(self, tree: Tree, start: int) -> None:
        for number in range(LISTED_LEAVES):
            try:
                leaf, before = self._leaf(self.brought, tree, True, start)
            except (Corrupt, NotStored):
                if number:
                    return  # what comes before the damage can still be listed
                raise
            start = before + leaf.count
            if start >= tree.length:
                return
