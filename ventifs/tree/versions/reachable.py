"""Finds every block that an entry refers to, directly or indirectly.

Nodes are read; data blocks are only named. This module does not know paths, and does not check that
nodes agree with each other: `verify` does.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from ventifs.store import Score, Store
from ventifs.tree.objects.prolly import load
from ventifs.tree.objects.records import (
    Block,
    Chunk,
    Content,
    Directory,
    Entry,
    Listed,
    RegularFile,
    Slice,
    Tree,
    decode_child,
    decode_entry,
    decode_item,
)
from ventifs.tree.versions.catalog import Version


class RefKind(Enum):
    """What a reference leads to."""

    DATA = "data"
    CONTENT = "content"  # a node of a file's tree
    DIRECTORY = "directory"  # a node of a directory's tree


class Ref(NamedTuple):
    """A reference to a block, typed by its referrer."""

    score: Score
    kind: RefKind


def reach(store: Store, entry: Entry, seen: set[Score]) -> Iterator[Ref]:
    """Every block below an entry; each node once, after everything below it.

    Data blocks that are referred to twice are yielded twice.

    Args:
        store: where the blocks are.
        entry: a version's root, or any other.
        seen: nodes to leave out, with everything below them. Nodes that are met are added, which
            takes about 100 bytes of memory each. A walk that ends early, by an error or because the
            generator is closed, takes those out again below which something was not yielded.

    Raises:
        Corrupt, NotStored: where nodes are damaged.
    """
    return _below(store, of_entry(entry), seen)


def _below(store: Store, top: Iterator[Ref], seen: set[Score]) -> Iterator[Ref]:
    """What `reach` yields for some references."""
    pending: list[tuple[Ref | None, Iterator[Ref]]] = [(None, top)]
    try:
        while pending:
            node, refs = pending[-1]
            ref = next(refs, None)
            if ref is None:
                pending.pop()
                if node is not None:
                    yield node
            elif ref.kind is RefKind.DATA:
                yield ref
            elif ref.score not in seen:
                seen.add(ref.score)
                pending.append((ref, below(store, ref)))
    finally:
        seen.difference_update(node.score for node, _ in pending if node is not None)


def reach_version(store: Store, version: Version, seen: set[Score]) -> Iterator[Ref]:
    """Every block that a version refers to: below its root, and the troubles beyond its record.

    Args, Raises: as `reach`.
    """
    yield from _below(store, top(version), seen)


def top(version: Version) -> Iterator[Ref]:
    """What a version refers to directly: by its list of troubles, and by its root."""
    yield from _of_content(version.beyond, RefKind.CONTENT)
    yield from of_entry(version.root)


def below(store: Store, ref: Ref) -> Iterator[Ref]:
    """What one node refers to directly.

    Raises:
        Corrupt, NotStored: the node is damaged.
    """
    node = load(store.get, ref.score, None)
    for raw in node.items:
        data = bytes(raw)
        if node.level:
            yield Ref(Score(decode_child(data).score), ref.kind)
        elif ref.kind is RefKind.DIRECTORY:
            yield from of_entry(decode_entry(data))
        else:
            item = decode_item(data)
            if isinstance(item, Chunk):
                yield Ref(Score(item.score), RefKind.DATA)
            elif isinstance(item, Slice):
                yield from _of_content(item.content, RefKind.CONTENT)


def of_entry(entry: Entry) -> Iterator[Ref]:
    """What an entry refers to directly: by its content and by its extended attributes."""
    if not isinstance(entry.xattrs, Listed):
        yield from _of_content(entry.xattrs, RefKind.CONTENT)
    if isinstance(entry.detail, RegularFile):
        yield from _of_content(entry.detail.content, RefKind.CONTENT)
    elif isinstance(entry.detail, Directory):
        yield from _of_content(entry.detail.content, RefKind.DIRECTORY)


def _of_content(content: Content, kind: RefKind) -> Iterator[Ref]:
    if isinstance(content, Block):
        yield Ref(Score(content.score), RefKind.DATA)
    elif isinstance(content, Tree):
        yield Ref(Score(content.score), kind)
