"""What one node of a version's trees says by itself, and together with the nodes below it.

Nodes are judged one at a time: `facts_of` reads one, `judged` compares what it claims of the nodes
below with what was found there. Nothing here depends on paths or versions, so a node that many of
them share is judged once. Data is only named.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import msgspec

from ventifs.errors import VentifsError
from ventifs.store import SCORE_SIZE, Score, Store
from ventifs.tree.objects import shape
from ventifs.tree.objects.content import SLICE_DEPTH_MAX, read_whole
from ventifs.tree.objects.prolly import load
from ventifs.tree.objects.records import (
    INLINE_MAX,
    Block,
    Child,
    Chunk,
    Content,
    Directory,
    Empty,
    Entry,
    Listed,
    RegularFile,
    Slice,
    Tree,
    bounded_total,
    decode_child,
    decode_entry,
    decode_item,
    decode_xattrs,
    length_of,
)

Typed = bytes  # a node's score, then `CONTENT` or `DIRECTORY`: what it is read as
CONTENT, DIRECTORY = b"c", b"d"
Fault = tuple[bytes, str]  # the name of the entry that is wrong, empty for the node; the reason


class Claim(NamedTuple):
    """A reference to a node.

    Attributes:
        name: of the entry that refers to it; empty in other nodes.
        node: what is referred to.
        says: what the referrer says of it.
    """

    name: bytes
    node: Typed
    says: Child | Tree | Directory


class KnownNode(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is known of a node that was read, and of all nodes below it.

    Attributes:
        shape: None if a node is missing, or one that no builder makes.
        paths, bytes: of a directory: paths below, bytes of regular files below.
        height: of a content: how deep slices of slices go; 0 without slices.
        lone: whether it is one chunk alone.
    """

    shape: shape.Shape | None
    paths: int = 0
    bytes: int = 0
    height: int = 0
    lone: bool = False


@dataclass(slots=True)
class Facts:
    """What one node says.

    Attributes:
        node: which it is; empty for what is in no node, as a version's root.
        level: the node's.
        items: of an inner node, encoded.
        entries: number of entries of a directory in it.
        claims: references to nodes, in order.
        data: blocks of data, each with the name of the entry that refers to it.
        faults: what is wrong with the node by itself.
        known: what is known without the nodes below.
    """

    node: Typed = b""
    level: int = 0
    items: Sequence[bytes] = ()
    entries: int = 0
    claims: list[Claim] = field(default_factory=list)
    data: list[tuple[bytes, Score]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    known: KnownNode = field(default_factory=lambda: KnownNode(None))

    def add_content(self, name: bytes, content: Content) -> None:
        """Add what a content refers to directly."""
        if isinstance(content, Block | Tree) and length_of(content) <= INLINE_MAX:
            reason = f"content of {length_of(content)} bytes that should be inline"
            self.faults.append((name, reason))
        elif isinstance(content, Block):
            self.data.append((name, Score(content.score)))
        elif isinstance(content, Tree):
            self.claims.append(Claim(name, content.score + CONTENT, content))

    def add_entry(self, store: Store, entry: Entry) -> None:
        """Add what an entry refers to directly; reads extended attributes that are not listed."""
        self.entries += 1
        name, detail = entry.name, entry.detail
        if not isinstance(entry.xattrs, Listed | Empty):
            try:
                decode_xattrs(read_whole(store, entry.xattrs))
            except VentifsError as error:
                self.faults.append((name, str(error)))
            else:
                self.add_content(name, entry.xattrs)
        if isinstance(detail, RegularFile):
            self.add_content(name, detail.content)
        elif isinstance(detail, Directory):
            if isinstance(detail.content, Tree):
                self.claims.append(Claim(name, detail.content.score + DIRECTORY, detail))
            elif (detail.paths, detail.bytes) != (0, 0):
                self.faults.append((name, _other_totals(0, 0, detail)))


def facts_of(store: Store, node: Typed) -> Facts:
    """Read a node.

    Raises:
        Corrupt, NotStored: it is missing or damaged.
        IndexDamaged: the index leads to something else.
    """
    score = Score(node[:SCORE_SIZE])
    read = load(store.get, score, None)
    items = [bytes(raw) for raw in read.items]
    facts = Facts(node, read.level)
    if read.level:
        facts.items = items
        children = map(decode_child, items)
        role = node[SCORE_SIZE:]
        facts.claims = [Claim(b"", child.score + role, child) for child in children]
    elif node.endswith(DIRECTORY):
        _add_entries(store, items, facts)
    else:
        _add_items(items, facts)
    if not read.level and facts.known.shape is None:
        facts.faults.append((b"", _another_tree(node)))
    return facts


def _add_entries(store: Store, items: Sequence[bytes], facts: Facts) -> None:
    names: list[bytes] = []
    paths = total = 0
    for item in items:
        entry = decode_entry(item)
        facts.add_entry(store, entry)
        if names and entry.name <= names[-1]:
            facts.faults.append((b"", _out_of_order(facts.node)))
        names.append(entry.name)
        paths, total = paths + 1, total + entry.size
        if isinstance(entry.detail, Directory):
            paths, total = paths + entry.detail.paths, total + entry.detail.bytes
    facts.known = KnownNode(shape.leaf(items, 0, names), paths, bounded_total(total))


def _add_items(items: Sequence[bytes], facts: Facts) -> None:
    total = height = 0
    last = None
    for data in items:
        last = decode_item(data)
        total += last.length
        if isinstance(last, Chunk):
            facts.data.append((b"", Score(last.score)))
        elif isinstance(last, Slice):
            height = 1
            facts.add_content(b"", last.content)
    facts.claims = list(dict.fromkeys(facts.claims))  # slices often refer to one content
    lone = len(items) == 1 and isinstance(last, Chunk)
    facts.known = KnownNode(shape.leaf(items, total), height=height, lone=lone)


def judged(
    facts: Facts, look: Callable[[Typed], KnownNode | None]
) -> tuple[KnownNode, list[Fault]]:
    """What is known of a node, and what is wrong with it but for its data.

    Args:
        facts: what it says.
        look: what is known of a node below; None if that cannot be read.
    """
    below = [look(claim.node) for claim in facts.claims]
    if facts.level:
        return _judged_inner(facts, below)
    faults, height = list(facts.faults), facts.known.height
    for claim, known in zip(facts.claims, below, strict=True):
        if known is None:
            continue
        if facts.node.endswith(CONTENT):
            height = max(height, 1 + known.height)
        faults += ((claim.name, reason) for reason in _lies(claim, known))
    return msgspec.structs.replace(facts.known, height=height), faults


def _judged_inner(facts: Facts, below: Sequence[KnownNode | None]) -> tuple[KnownNode, list[Fault]]:
    there = [known for known in below if known is not None]
    shapes = [known.shape for known in there if known.shape is not None]
    faults, made = list(facts.faults), None
    if len(shapes) == len(facts.claims):
        children = [claim.says for claim in facts.claims if isinstance(claim.says, Child)]
        made = shape.inner(facts.level, facts.items, children, shapes)
        if made is None:
            faults.append((b"", _another_tree(facts.node)))
        elif facts.node.endswith(DIRECTORY) and any(
            after.first <= before.last for before, after in pairwise(shapes)
        ):
            faults.append((b"", _out_of_order(facts.node)))
    known = KnownNode(
        made,
        sum(each.paths for each in there),
        bounded_total(sum(each.bytes for each in there)),
        max((each.height for each in there), default=0),
    )
    return known, faults


def _lies(claim: Claim, known: KnownNode) -> Iterator[str]:
    """What is wrong with the root of a tree according to what refers to it."""
    made, says = known.shape, claim.says
    if isinstance(says, Tree) and known.height > SLICE_DEPTH_MAX:
        yield "slices of slices, too deep"
    if made is None:
        return
    if not made.is_root:
        yield _another_tree(claim.node)
    elif isinstance(says, Tree):
        if made.total != says.length:
            yield f"content of {made.total:,} bytes, where {says.length:,} are said"
        elif known.lone:
            yield f"block {says.score.hex()}, a tree of one chunk, which should be a block"
    elif isinstance(says, Directory):
        if made.count != length_of(says.content):
            said = length_of(says.content)
            yield f"directory of {made.count:,} entries, where {said:,} are said"
        if (known.paths, known.bytes) != (says.paths, says.bytes):
            yield _other_totals(known.paths, known.bytes, says)


def _other_totals(paths: int, total: int, says: Directory) -> str:
    return (
        f"directory of {paths:,} paths and {total:,} bytes, "
        f"where {says.paths:,} and {says.bytes:,} are said"
    )


def _another_tree(node: Typed) -> str:
    return f"block {node[:SCORE_SIZE].hex()}, the same items make another tree than this"


def _out_of_order(node: Typed) -> str:
    return f"block {node[:SCORE_SIZE].hex()}, directory is out of order"
