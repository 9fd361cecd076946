"""Trees that readers take and no writer makes: a check of versions finds them by their items."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from tests.support.forging import (
    commit_version,
    directory,
    directory_of,
    file,
    put_node,
    totals,
    tree_of,
)
from tests.support.stores import new_store
from tests.support.trees import noise
from ventifs.errors import Corrupt
from ventifs.store import Score, Store
from ventifs.tree.objects.content import SLICE_DEPTH_MAX, ContentWriter, read_whole
from ventifs.tree.objects.directory import entries
from ventifs.tree.objects.prolly import Node, load
from ventifs.tree.objects.records import (
    Block,
    Child,
    Chunk,
    Content,
    Directory,
    Empty,
    Entry,
    Hole,
    Inline,
    Slice,
    Tree,
    encode,
)
from ventifs.tree.versions.verify import Verifier

FILES = [file(b"%04d" % number, Inline(b"x")) for number in range(8)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        yield opened


def harms(store: Store, *roots: Entry) -> list[tuple[bytes, str]]:
    """What a check finds of versions with these roots, paths and reasons."""
    made = [commit_version(store, root, time_ns=number) for number, root in enumerate(roots)]
    verifier = Verifier(store)
    return [(harm.path, harm.reason) for version in made for harm in verifier.version(version)]


def content_of(entry: Entry) -> Content:
    assert isinstance(entry.detail, Directory)
    return entry.detail.content


def put(store: Store, level: int, items: Sequence[bytes]) -> Score:
    node = Node(level, [msgspec.Raw(item) for item in items])
    return put_node(store, msgspec.msgpack.encode(node) + b"\xc1")


def above(store: Store, parts: Sequence[Sequence[Entry]], level: int = 1) -> Score:
    """An inner node over leaves that hold these parts of a directory."""
    children = []
    for part in parts:
        score = put(store, 0, [encode(entry) for entry in part])
        children.append(encode(Child(score, len(part), 0, part[-1].name)))
    return put(store, level, children)


def root_of(score: Score, children: Sequence[Entry]) -> Entry:
    return directory_of(b"", Tree(score, len(children)), *totals(children))


def test_what_writers_make_is_sound(store: Store) -> None:
    many = [file(b"%05d" % number, Inline(b"%d" % number)) for number in range(3000)]
    slices = tree_of(store, [Slice(ContentWriter(store).write_whole(noise(99_000)), 1, 9000)] * 300)
    inside = [directory(store, b"many", many), file(b"slices", slices)]
    assert harms(store, directory(store, b"", inside)) == []


@pytest.mark.parametrize("cuts", [[1], [4], [7], [2, 5]])
def test_a_directory_cut_elsewhere_is_found(store: Store, cuts: list[int]) -> None:
    ends = [0, *cuts, len(FILES)]
    parts = [FILES[a:b] for a, b in pairwise(ends)]
    forged = root_of(above(store, parts), FILES)
    [(path, reason)] = harms(store, forged)
    assert path == b""
    assert "the same items make another tree" in reason
    assert list(entries(store, content_of(forged))) == FILES


def test_a_root_of_one_child_is_found(store: Store) -> None:
    [(_, reason)] = harms(store, root_of(above(store, [FILES]), FILES))
    assert "another tree" in reason


def test_a_lie_in_an_inner_node_is_found(store: Store) -> None:
    many = [file(b"%05d" % number, Inline(b"%d" % number)) for number in range(3000)]
    true = content_of(directory(store, b"", many))
    assert isinstance(true, Tree)
    node = load(store.get, Score(true.score), None)
    assert node.level == 1
    children = [msgspec.msgpack.decode(raw, type=Child) for raw in node.items]
    lies = [
        msgspec.structs.replace(children[0], key=b"00000"),
        msgspec.structs.replace(children[0], total=1),
    ]
    for lie in lies:
        score = put(store, 1, [encode(child) for child in (lie, *children[1:])])
        forged = directory_of(b"d", Tree(score, 3000), *totals(many))
        [(path, reason)] = harms(store, directory(store, b"", [forged]))
        assert path == b"d"
        assert "another tree" in reason


@pytest.mark.parametrize(("paths", "total"), [(8, 9), (9, 8), (2**62, 8)])
def test_a_directorys_totals_are_compared(store: Store, paths: int, total: int) -> None:
    content = content_of(directory(store, b"", FILES))
    true, false = (directory_of(b"d", content, *said) for said in ((8, 8), (paths, total)))
    good, bad = directory(store, b"", [true]), directory(store, b"", [false])
    [(path, reason)] = harms(store, good, bad)  # also where the directory is known to be sound
    assert (path, "directory of 8 paths and 8 bytes" in reason) == (b"d", True)
    with_nothing = directory_of(b"d", Empty(), 0, 1)
    [(path, reason)] = harms(store, directory(store, b"", [with_nothing]))
    assert path == b"d"


def test_contents_of_another_shape_than_their_bytes_have_are_found(store: Store) -> None:
    short, long = store.put(b"y" * 20)[0], store.put(noise(5000))[0]
    true = tree_of(store, [Hole(1 << 20), Chunk(long, 5000)])
    leaf = load(store.get, Score(true.score), None)
    halves = [put(store, 0, [bytes(raw)]) for raw in leaf.items]
    kids = [Child(halves[0], 1, 1 << 20, b""), Child(halves[1], 1, 5000, b"")]
    cut = put(store, 1, [encode(kid) for kid in kids])
    contents: list[tuple[Content, str]] = [
        (Block(short, 20), "should be inline"),
        (tree_of(store, [Hole(32)]), "should be inline"),
        (tree_of(store, [Chunk(long, 5000)]), "should be a block"),
        (Tree(true.score, true.length + 1), "are said"),
        (Tree(cut, true.length), "another tree"),
        (tree_of(store, [Slice(Tree(cut, true.length), 0, 99)]), "another tree"),
    ]
    for content, expected in contents:
        [(path, reason)] = harms(store, directory(store, b"", [file(b"f", content)]))
        assert (path, expected in reason) == (b"f", True), reason


def test_slices_of_slices_end(store: Store) -> None:
    content: Content = ContentWriter(store).write_whole(noise(1000))
    for depth in range(SLICE_DEPTH_MAX + 1):
        root = directory(store, b"", [file(b"f", content)])
        assert harms(store, root) == [], depth
        content = tree_of(store, [Slice(content, 0, 1000), Slice(content, 0, 1000)])
    assert harms(store, directory(store, b"", [file(b"f", content)])) == [
        (b"f", "slices of slices, too deep")
    ]
    with pytest.raises(Corrupt, match="too deep"):
        read_whole(store, content)
