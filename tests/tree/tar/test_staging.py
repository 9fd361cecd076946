"""Entries gathered by path: which of them are names of one file."""

import stat
from pathlib import Path

from tests.support.stores import new_store
from ventifs.store import Store
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.directory import entries
from ventifs.tree.objects.records import Detail, Directory, Empty, Entry, RegularFile
from ventifs.tree.tar.staging import gather


def _entry(name: bytes, mode: int, detail: Detail) -> Entry:
    return Entry(name, mode, 0, 0, 0, detail, Empty(), b"")


def test_only_names_told_of_one_file_are_linked_whatever_its_number(tmp_path: Path) -> None:
    """Numbers of rows are positive, and those that callers give are not."""
    with Store.open(new_store(tmp_path / "s"), "write") as store, gather() as gathered:
        gathered.put(b"", _entry(b"", stat.S_IFDIR | 0o755, Directory(Empty(), 0, 0)))
        for name in (b"a", b"b", b"c", b"d"):
            alone = _entry(name, stat.S_IFREG | 0o644, RegularFile(Empty()))
            gathered.put(name, alone)
        for name in (b"x", b"y"):
            gathered.put(name, _entry(name, stat.S_IFREG | 0o644, RegularFile(Empty())), -3)
        assert not list(gathered.prune())
        root = gathered.build(ContentWriter(store).put_node)
        assert isinstance(root.detail, Directory)
        linked = [entry.name for entry in entries(store, root.detail.content) if entry.link]
    assert linked == [b"x", b"y"]
