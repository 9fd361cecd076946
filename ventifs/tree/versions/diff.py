"""Finds what differs between two trees, and walks only where their scores differ."""

from collections.abc import Iterator
from dataclasses import dataclass

from ventifs.store import Store
from ventifs.tree.objects.directory import entries
from ventifs.tree.objects.directory import tree as walk_tree
from ventifs.tree.objects.records import Content, Directory, Empty, Entry

ADDED, REMOVED, MODIFIED, METADATA = "added", "removed", "modified", "metadata"


@dataclass(slots=True, frozen=True)
class Change:
    """One path that is not the same in both trees.

    Attributes:
        kind: "added", "removed", "modified" (its content, target or type) or "metadata".
        old, new: its entries; None where there is none.
        what: the fields that differ, for "modified" and "metadata".
    """

    path: bytes
    kind: str
    old: Entry | None
    new: Entry | None
    what: tuple[str, ...] = ()


def diff(store: Store, old: Entry, new: Entry) -> Iterator[Change]:
    """Every path that differs between two entries, in order of names; their own is empty.

    Raises:
        Corrupt, NotStored: where the archive is damaged.
    """
    changed = compared(b"", old, new)
    if changed is not None:
        yield changed
    pending = [_pairs(store, b"", old, new)]
    while pending:
        pair = next(pending[-1], None)
        if pair is None:
            pending.pop()
            continue
        path, before, after = pair
        if before is None or after is None:
            yield from _one_sided(store, path, before, after)
            continue
        changed = compared(path, before, after)
        if changed is not None:
            yield changed
        if _is_directory(before) and _is_directory(after):
            pending.append(_pairs(store, path, before, after))
        elif _is_directory(before):
            for below, entry in walk_tree(store, before, path):
                yield Change(below, REMOVED, entry, None)
        elif _is_directory(after):
            for below, entry in walk_tree(store, after, path):
                yield Change(below, ADDED, None, entry)


def _is_directory(entry: Entry) -> bool:
    return isinstance(entry.detail, Directory)


def _content(entry: Entry) -> Content:
    return entry.detail.content if isinstance(entry.detail, Directory) else Empty()


def _pairs(
    store: Store, path: bytes, old: Entry, new: Entry
) -> Iterator[tuple[bytes, Entry | None, Entry | None]]:
    """The entries that differ between two directories, matched by name."""
    if _content(old) == _content(new):
        return
    ours, theirs = entries(store, _content(old)), entries(store, _content(new))
    before, after = next(ours, None), next(theirs, None)
    while before is not None or after is not None:
        name = min(entry.name for entry in (before, after) if entry is not None)
        left = before if before is not None and before.name == name else None
        right = after if after is not None and after.name == name else None
        if left != right:
            yield path + b"/" + name if path else name, left, right
        before = next(ours, None) if left is not None else before
        after = next(theirs, None) if right is not None else after


def _one_sided(store: Store, path: bytes, old: Entry | None, new: Entry | None) -> Iterator[Change]:
    """A name that only one side has, and everything below it."""
    entry = old or new
    assert entry is not None
    kind = REMOVED if old is not None else ADDED
    yield Change(path, kind, old, new)
    for below, child in walk_tree(store, entry, path):
        yield Change(below, kind, child if old else None, child if new else None)


def compared(path: bytes, old: Entry, new: Entry) -> Change | None:
    """How two entries of one name differ, apart from what is below them; None if they do not."""
    what = []
    if type(old.detail) is not type(new.detail):
        what.append("type")
    elif not isinstance(old.detail, Directory):
        what += [
            field
            for field in old.detail.__struct_fields__
            if getattr(old.detail, field) != getattr(new.detail, field)
        ]
    kind = MODIFIED if what else METADATA
    what += [
        field
        for field in ("mode", "uid", "gid", "mtime_ns", "xattrs", "link")
        if getattr(old, field) != getattr(new, field)
    ]
    return Change(path, kind, old, new, tuple(what)) if what else None
