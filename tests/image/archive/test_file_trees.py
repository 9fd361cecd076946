"""Trees of what batches say of names, in whatever order they come; odd batches harm nothing."""

import random
from collections.abc import Iterator

import msgspec
import pytest

from tests.support.stores import new_store
from ventifs.image.archive.file_trees import Built, build
from ventifs.image.archive.ingest import BatchNames, NameRow
from ventifs.image.archive.spool import Spool, frames
from ventifs.store import Store
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.directory import tree
from ventifs.tree.objects.records import (
    LENGTH_MAX,
    Block,
    Content,
    Directory,
    Empty,
    Entry,
    RegularFile,
    Tree,
    decode_entry,
    encode,
    own_entry,
)
from ventifs.tree.objects.tree_builder import AS_CLOSED

LOST = "its other names could not be archived"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(new_store(tmp_path_factory.mktemp("trees") / "store"), "write") as opened:
        yield opened


def row(path: str, time: int, *, size: int = 0, linked: bool = False, uid: int = 0) -> NameRow:
    """A file's, or if its path ends in a slash a directory's."""
    key = path.strip("/").encode().replace(b"/", b"\0")
    name = key.rpartition(b"\0")[2]
    if path.endswith("/"):
        entry = Entry(name, 0o40755, uid, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")
    else:
        content: Content = Block(b"b" * 32, size) if size else Empty()
        if size > 1 << 20:
            content = Tree(b"t" * 32, size)
        entry = Entry(name, 0o100644, uid, 0, 0, RegularFile(content), Empty(), b"")
    return key, time, path.endswith("/"), -time if linked else 0, size, encode(entry)


def built(store: Store, *batches: BatchNames) -> tuple[Built, dict[str, Entry]]:
    """What becomes of batches, and the entries by their paths; in any order the same."""
    found = []
    for seed in range(3):
        shuffled = random.Random(seed).sample(batches, len(batches))
        with Spool() as spool:
            for names in shuffled:
                spool.add(msgspec.msgpack.encode(names))
            told = frames(spool.fileno())
            found.append(build(told, ContentWriter(store).put_node))
    assert found[0] == found[1] == found[2]
    entries = {}
    if found[0].root:
        root = own_entry(found[0].root)
        entries = {path.decode(): entry for path, entry in tree(store, root)}
    return found[0], entries


def names(
    time: int,
    *rows: NameRow,
    linked: tuple[tuple[int, int], ...] = (),
    others: tuple[tuple[bytes, int, str], ...] = (),
    troubles: tuple[tuple[bytes, str, bool], ...] = (),
) -> BatchNames:
    return BatchNames(time, list(rows), list(linked), list(others), list(troubles))


def test_batches_make_one_tree(store: Store) -> None:
    result, entries = built(
        store,
        names(1, row("/", 1), row("b/", 2), row("a", 3, size=5)),
        names(9, row("b/c/", 9), row("b/c/d", 10, size=7), row("b/x", 11)),
        names(20, row("b.", 20), row("lost/in/here", 21)),
    )
    assert set(entries) == {
        "a",
        "b",
        "b/c",
        "b/c/d",
        "b/x",
        "b.",
        "lost",
        "lost/in",
        "lost/in/here",
    }
    top = own_entry(result.root).detail
    assert isinstance(top, Directory)
    assert (top.paths, top.bytes) == (9, 12)


def test_a_directory_that_was_not_told_is_closed(store: Store) -> None:
    result, entries = built(store, names(1, row("/", 1), row("lost/in/here", 2)))
    for path in ("lost", "lost/in"):
        found = entries[path]
        assert (found.mode, found.uid, found.gid) == (0o40700, 0, 0)
    reason = f"its attributes are not known; {AS_CLOSED}"
    assert result.troubles == [(b"lost", reason, False), (b"lost\0in", reason, False)]


def test_of_names_told_twice_the_later_counts(store: Store) -> None:
    result, entries = built(
        store,
        names(1, row("/", 1), row("a", 2, uid=1), row("b/", 3), row("b/c", 4)),
        names(9, row("a", 9, uid=2), row("b", 10)),
    )
    assert entries["a"].uid == 2
    assert "b/c" not in entries
    assert result.troubles == [(b"b\0c", "is below what is no directory", True)]


def test_names_of_one_file_have_one_link(store: Store) -> None:
    first = row("m", 2, size=5, linked=True)
    result, entries = built(
        store,
        names(1, row("/", 1), first, row("alone", 3, linked=True), linked=((7, 1), (8, 2))),
        names(9, row("d/", 9), others=((b"d\0n", 7, ""), (b"a", 7, ""), (b"none", 9, ""))),
    )
    links = {path: entry.link for path, entry in entries.items() if entry.link}
    assert set(links) == {"m", "d/n", "a"}
    assert len(set(links.values())) == 1
    assert entries["d/n"].name == b"n"
    assert result.troubles == [(b"none", LOST, True)]


def test_troubles_come_in_the_order_of_the_survey(store: Store) -> None:
    result, _ = built(
        store,
        names(1, row("/", 1), troubles=((b"x", "odd", False),)),
        names(5, others=((b"y", 7, "broken"),)),
        names(9, troubles=((b"z", "odd", True),)),
        names(12, row("f", 12, linked=True), linked=((8, 0),), others=((b"g", 8, "odd"),)),
    )
    assert result.troubles == [
        (b"x", "odd", False),
        (b"z", "odd", True),
        (b"y", "broken", True),
        (b"g", "odd", False),
    ]


def test_sizes_that_sum_up_to_more_than_a_total_holds(store: Store) -> None:
    half = row("m", 3, size=LENGTH_MAX // 2 + 1, linked=True)
    result, entries = built(
        store,
        names(1, row("/", 1), row("a", 2, size=LENGTH_MAX), half, linked=((7, 2),)),
        names(12, others=((b"d", 7, ""),)),
    )
    assert set(entries) == {"a", "m", "d"}
    assert result.troubles == []
    top = decode_entry(result.root, root=True).detail
    assert isinstance(top, Directory)
    assert top.bytes == LENGTH_MAX


def test_without_a_root_there_is_no_tree(store: Store) -> None:
    result, _ = built(store, names(1, row("a", 1), row("a/b", 2)))
    assert result.root == b""
    assert result.troubles == [(b"a\0b", "is below what is no directory", True)]
