"""Versions made by hand, such as no archiver makes yet, or ever should."""

import stat
from collections.abc import Sequence

from ventifs.store import Score, Store
from ventifs.tree.objects.directory import build
from ventifs.tree.objects.prolly import Builder
from ventifs.tree.objects.records import (
    Content,
    Detail,
    Directory,
    Empty,
    Entry,
    Item,
    Listed,
    RegularFile,
    Tree,
    encode,
    length_of,
)
from ventifs.tree.versions.catalog import Version, decode_version, encode_version, version_key


def put_node(store: Store, data: bytes) -> Score:
    return store.put(data, node=True)[0]


def tree_of(store: Store, items: Sequence[Item]) -> Tree:
    """A file's content of these items."""
    builder = Builder(lambda data: put_node(store, data))
    for item in items:
        builder.add(encode(item), length=item.length)
    return Tree(builder.finish(), builder.total)


def file(name: bytes, content: Content, xattrs: Listed | Content | None = None) -> Entry:
    return _entry(name, stat.S_IFREG | 0o644, RegularFile(content), xattrs)


def directory(store: Store, name: bytes, children: Sequence[Entry]) -> Entry:
    """A directory with correct totals."""
    pairs = [(child.name, encode(child)) for child in children]
    content = build(lambda data: put_node(store, data), pairs)
    return directory_of(name, content, *totals(children))


def directory_of(name: bytes, content: Content, paths: int, total: int) -> Entry:
    return _entry(name, stat.S_IFDIR | 0o755, Directory(content, paths, total), None)


def totals(children: Sequence[Entry]) -> tuple[int, int]:
    """Paths and bytes of a directory that has these children."""
    paths = total = 0
    for child in children:
        detail = child.detail
        paths += 1 + (detail.paths if isinstance(detail, Directory) else 0)
        if isinstance(detail, Directory):
            total += detail.bytes
        elif isinstance(detail, RegularFile):
            total += length_of(detail.content)
    return paths, total


def _entry(name: bytes, mode: int, detail: Detail, xattrs: Listed | Content | None) -> Entry:
    return Entry(name, mode, 0, 0, 0, detail, Empty() if xattrs is None else xattrs, b"")


def commit_version(store: Store, root: Entry, name: str = "n", time_ns: int = 0) -> Version:
    """Commit a version of this root in which every field has a value."""
    version = Version(
        name, time_ns, root, "/src", "comment", ("tag",), 5, 1.5, ((b"\xff", "why", True),), 3
    )
    [record] = store.commit([(version_key(name, time_ns), encode_version(version))])
    return decode_version(record)
