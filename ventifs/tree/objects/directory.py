"""Directories as trees of entries, in the order of the bytes of their names."""

from collections.abc import Iterable, Iterator

from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Score, Store
from ventifs.text import printable
from ventifs.tree.objects.prolly import Builder, Put, find, walk
from ventifs.tree.objects.records import (
    Content,
    Directory,
    Empty,
    Entry,
    Symlink,
    Tree,
    decode_entry,
)


class NoSuchPath(VentifsError):
    """A path that a version does not have."""


def build(put: Put, entries: Iterable[tuple[bytes, bytes]]) -> Content:
    """Store a directory from (name, canonical entry) pairs, sorted by name, each name once."""
    builder = Builder(put)
    for name, data in entries:
        builder.add(data, key=name)
    return Tree(builder.finish(), builder.count) if builder.count else Empty()


def entries(store: Store, content: Content, start: int = 0) -> Iterator[Entry]:
    """A directory's entries in order, from the one at ordinal `start`.

    Raises:
        Corrupt, NotStored: where the archive is damaged, or out of order.
    """
    return (entry for entry, _ in encoded_entries(store, content, start))


def encoded_entries(
    store: Store, content: Content, start: int = 0
) -> Iterator[tuple[Entry, bytes]]:
    """`entries`, with the canonical bytes of each."""
    if not isinstance(content, Tree):
        return
    last = b""
    for _, data in walk(store.get, Score(content.score), start, None, content.length):
        entry = decode_entry(data)
        if entry.name <= last:
            raise Corrupt("directory is out of order", score=content.score)
        last = entry.name
        yield entry, data


def look_up(store: Store, content: Content, name: bytes) -> Entry | None:
    """The entry of one name, O(log n).

    Raises:
        Corrupt, NotStored: where the archive is damaged.
    """
    if not isinstance(content, Tree):
        return None
    found = find(store.get, Score(content.score), name, lambda data: decode_entry(data).name)
    return None if found is None else decode_entry(found)


def resolve(store: Store, root: Entry, path: bytes, above: bytes = b"") -> Entry:
    """The entry at a path below a root. Symbolic links are never followed.

    Args:
        store: where the directories are.
        root: the directory from which the path leads on.
        path: names between slashes.
        above: the path of `root`, for messages.

    Raises:
        NoSuchPath: naming the first path that does not exist, or is not a directory.
        Corrupt, NotStored: where the archive is damaged.
    """
    entry, walked = root, above
    for name in path.split(b"/"):
        if name in (b"", b"."):
            continue
        if not isinstance(entry.detail, Directory):
            what = (
                "a symbolic link, which is not followed"
                if isinstance(entry.detail, Symlink)
                else "not a directory"
            )
            raise NoSuchPath(f"{printable(walked)}: {what}")
        walked += b"/" + name
        found = look_up(store, entry.detail.content, name)
        if found is None:
            raise NoSuchPath(f"{printable(walked)}: no such path in this version")
        entry = found
    return entry


def tree(store: Store, entry: Entry, path: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
    """(path, entry) of everything below a directory, each directory before what it holds."""
    pending: list[tuple[bytes, Iterator[Entry]]] = []
    if isinstance(entry.detail, Directory):
        pending.append((path, entries(store, entry.detail.content)))
    while pending:
        prefix, iterator = pending[-1]
        child = next(iterator, None)
        if child is None:
            pending.pop()
            continue
        below = prefix + b"/" + child.name if prefix else child.name
        yield below, child
        if isinstance(child.detail, Directory):
            pending.append((below, entries(store, child.detail.content)))
