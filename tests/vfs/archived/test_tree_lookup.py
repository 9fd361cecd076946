"""Look-ups in decoded nodes: as the tree layer has them, bounded, and never out of damaged ones."""

import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.driving import Driver
from tests.support.forging import file, put_node
from tests.support.stores import new_store
from ventifs.errors import Corrupt
from ventifs.store import Score, Store, score_of
from ventifs.tree.objects.directory import build, look_up
from ventifs.tree.objects.prolly import _END, Node, _encode_node
from ventifs.tree.objects.records import (
    Child,
    Content,
    Empty,
    Entry,
    Inline,
    RegularFile,
    Tree,
    encode,
)
from ventifs.vfs.archived import tree_lookup as trees_module
from ventifs.vfs.archived.node_cache import KEPT_MIN, DirectoryLeaf, NodeCache, decode
from ventifs.vfs.archived.tree_lookup import TreeLookup
from ventifs.vfs.interface import Cold

SHARED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=40,
)
ROOMY, TINY = 64 << 20, 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        yield opened


def numbered(count: int) -> list[bytes]:
    return [b"%06d" % (3 * number) for number in range(count)]


def built(store: Store, names: list[bytes]) -> Content:
    entries = [(name, encode(file(name, Inline(name[:32])))) for name in names]
    return build(lambda data: put_node(store, data), entries)


def listed(trees: TreeLookup, content: Content, start: int) -> list[bytes]:
    """Names from an ordinal on, begun anew after each load."""
    names: list[bytes] = []
    for _ in range(1000):
        try:
            for name, _ in trees.entries(content, start + len(names)):
                names.append(name)
            return names
        except Cold as cold:
            cold.load.run()
    raise AssertionError("still cold")


@pytest.mark.parametrize("node_bytes", [TINY, ROOMY])
@pytest.mark.parametrize("count", [0, 1, 5, 127, 1000, 20_000])
def test_every_name_is_found_and_listed_from_any_ordinal(
    store: Store, count: int, node_bytes: int
) -> None:
    names = numbered(count)
    content = built(store, names)
    trees, drive = TreeLookup(store, node_bytes), Driver()
    for start in {0, 1, count // 3, max(0, count - 1), count, count + 5}:
        assert listed(trees, content, start) == names[start:]
    chosen = random.Random(1).sample(names, min(count, 200))
    for name in chosen:
        raw = drive(trees.entry, content, name)
        assert raw is not None
        assert raw == encode(look_up(store, content, name) or file(b"x", Empty()))
        assert drive(trees.entry, content, name + b"!") is None
    assert drive(trees.entry, content, b"") is None
    assert drive(trees.entry, content, b"~") is None


@SHARED
@given(
    st.sets(
        st.binary(min_size=1, max_size=4).filter(
            lambda name: not set(name) & {0, 47} and name not in (b".", b"..")
        ),
        max_size=300,
    )
)
def test_any_names(store: Store, raw_names: set[bytes]) -> None:
    names = sorted(raw_names)
    content = built(store, names)
    trees, drive = TreeLookup(store, TINY), Driver()
    assert listed(trees, content, 0) == names
    for name in [*names, b"q", b"\xff" * 5]:
        found = drive(trees.entry, content, name)
        assert (found is not None) == (name in raw_names)


def test_a_walk_in_a_cold_directory_takes_one_load(store: Store) -> None:
    content = built(store, numbered(20_000))
    trees, drive = TreeLookup(store, ROOMY), Driver()
    drive(trees.entry, content, b"000300")
    assert len(drive.loads) == 1
    drive(trees.entry, content, b"000303")
    assert len(drive.loads) == 1  # it is in the same leaf


def test_names_of_a_small_directory_share_a_load(store: Store) -> None:
    content = built(store, numbered(50))
    trees = TreeLookup(store, ROOMY)
    keys = []
    for name in (b"000000", b"000003", b"nosuch"):
        with pytest.raises(Cold) as cold:
            trees.entry(content, name)
        keys.append(cold.value.load.key)
    assert len(set(keys)) == 1


def test_listing_takes_a_load_for_thousands(store: Store) -> None:
    content = built(store, numbered(20_000))
    drive = Driver()
    trees = TreeLookup(store, ROOMY)
    start = 0
    while start < 20_000:
        start += len(drive(lambda at=start: list(trees.entries(content, at))))  # type: ignore[misc]
    assert 2 <= len(drive.loads) <= 20_000 // 128 // 16


def test_what_the_loop_looks_up_is_what_was_decoded_before(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = built(store, numbered(5000))
    trees, drive = TreeLookup(store, ROOMY), Driver()
    names = listed(trees, content, 0)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a node was decoded")

    monkeypatch.setattr(trees_module, "decode", refused)
    monkeypatch.setattr(store, "get", refused)
    monkeypatch.setattr(store, "cached", refused)
    assert listed(trees, content, 0) == names
    assert all(drive(trees.entry, content, name) for name in names)
    assert not drive.loads


# --- the cache --------------------------------------------------------------------------------


def leaf(number: int) -> tuple[Score, DirectoryLeaf]:
    name = b"%d" % number
    raw = encode(file(name, Inline(b"x" * 32)))
    score = score_of(name)
    return score, DirectoryLeaf(score, [raw])


def test_nodes_are_bounded_in_bytes_and_those_in_use_stay() -> None:
    used, node = leaf(0)
    cache = NodeCache((KEPT_MIN + 50) * node.cost)
    cache.add(used, node)
    for number in range(1, 2000):
        cache.add(*leaf(number))
        assert cache.get(used) is node
        assert cache.bytes <= cache.bytes_max + 10 * 50
    held = [number for number in range(2000) if cache.get(leaf(number)[0])]
    assert KEPT_MIN <= len(held) <= KEPT_MIN + 52
    assert set(range(2000 - KEPT_MIN + 5, 2000)) <= set(held)


def test_what_was_just_brought_stays_however_little_room_there_is() -> None:
    cache = NodeCache(0)
    for number in range(1000):
        cache.add(*leaf(number))
        for recent in range(max(0, number - KEPT_MIN + 1), number + 1):
            if recent % 3 == 0:
                cache.get(leaf(recent)[0])
        assert cache.get(leaf(number)[0])
    assert len([number for number in range(1000) if cache.get(leaf(number)[0])]) == KEPT_MIN


def test_the_cost_of_nodes_is_honest(store: Store) -> None:
    """What Python allocates for the nodes of a directory, by its own count."""
    import gc
    import tracemalloc

    content = built(store, [b"some-name-%05d" % number for number in range(20_000)])
    trees = TreeLookup(store, ROOMY)
    listed(TreeLookup(store, ROOMY), content, 0)  # so that the clumps are in memory
    gc.collect()
    tracemalloc.start()
    listed(trees, content, 0)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.9 < trees.nodes.bytes / taken < 1.3


# --- what lies --------------------------------------------------------------------------------


def crafted(store: Store, level: int, items: list[bytes]) -> Score:
    import msgspec

    node = Node(level, [msgspec.Raw(item) for item in items])
    return put_node(store, _encode_node(node) + _END)


def entry(name: bytes) -> bytes:
    return encode(Entry(name, stat.S_IFREG, 0, 0, 0, RegularFile(Empty()), Empty(), b""))


def two_leaves(
    store: Store, *, count: int = 2, key: bytes = b"b", level: int = 1, second: bytes = b"d"
) -> Tree:
    """A directory of two leaves, of which the inner node may say something else."""
    first = crafted(store, 0, [entry(b"a"), entry(b"b")])
    last = crafted(store, 0, [entry(b"c"), entry(b"d")])
    items = [encode(Child(first, count, 0, key)), encode(Child(last, 2, 0, second))]
    return Tree(crafted(store, level, items), count + 2)


def both(trees: TreeLookup, content: Tree) -> list[object]:
    """What a walk and a listing end with: a result, or Corrupt."""
    results: list[object] = []
    for operation in (
        lambda: Driver()(trees.entry, content, b"a"),
        lambda: listed(trees, content, 0),
    ):
        try:
            results.append(operation())
        except Corrupt:
            results.append(Corrupt)
    return results


def test_a_sound_tree_made_by_hand(store: Store) -> None:
    assert both(TreeLookup(store, ROOMY), two_leaves(store)) == [
        entry(b"a"),
        [b"a", b"b", b"c", b"d"],
    ]


@pytest.mark.parametrize(
    "lie",
    [
        {"count": 3},
        {"count": 1},
        {"key": b"bb"},
        {"level": 2},
        {"second": b"b"},
        {"second": b"a"},
        {"key": b""},
    ],
    ids=str,
)
@pytest.mark.parametrize("known", [False, True])
def test_a_parent_that_lies_is_corrupt(store: Store, lie: dict[str, object], known: bool) -> None:
    """Also when its children are in memory already, through a parent that does not."""
    trees = TreeLookup(store, ROOMY)
    if known:
        listed(trees, two_leaves(store), 0)
    results = both(trees, two_leaves(store, **lie))  # type: ignore[arg-type]
    assert results[1] is Corrupt
    assert results[0] in (Corrupt, entry(b"a"))


def test_leaves_that_overlap_are_corrupt(store: Store) -> None:
    first = crafted(store, 0, [entry(b"a"), entry(b"m")])
    last = crafted(store, 0, [entry(b"c"), entry(b"z")])
    items = [encode(Child(first, 2, 0, b"m")), encode(Child(last, 2, 0, b"z"))]
    tree = Tree(crafted(store, 1, items), 4)
    assert both(TreeLookup(store, ROOMY), tree)[1] is Corrupt


@pytest.mark.parametrize(
    "items",
    [
        [entry(b"b"), entry(b"a")],
        [entry(b"a"), entry(b"a")],
        [b"\xc0"],
        [entry(b"a")[:-1] + b"\xc0"],
    ],
)
def test_a_leaf_out_of_order_or_of_garbage_is_corrupt(store: Store, items: list[bytes]) -> None:
    tree = Tree(crafted(store, 0, items), len(items))
    assert both(TreeLookup(store, ROOMY), tree) == [Corrupt, Corrupt]


def test_a_node_of_a_content_is_no_directory(store: Store) -> None:
    from tests.support.forging import tree_of
    from ventifs.tree.objects.records import Hole

    content = tree_of(store, [Hole(5), Hole(5)])
    trees = TreeLookup(store, ROOMY)
    decoded = decode(store.get, Score(content.score), None, directory=False)
    trees.nodes.add(Score(content.score), decoded)
    assert both(trees, Tree(content.score, 2)) == [Corrupt, Corrupt]


def test_a_listing_goes_up_to_what_is_damaged(store: Store) -> None:
    first = crafted(store, 0, [entry(b"a"), entry(b"b")])
    missing = score_of(b"nothing of this kind was stored")
    items = [encode(Child(first, 2, 0, b"b")), encode(Child(missing, 2, 0, b"d"))]
    tree = Tree(crafted(store, 1, items), 4)
    trees = TreeLookup(store, ROOMY)
    names: list[bytes] = []
    with pytest.raises(Exception, match="not in the store"):
        for _ in range(3):
            try:
                for name, _ in trees.entries(tree, len(names)):
                    names.append(name)
            except Cold as cold:
                cold.load.run()
    assert names == [b"a", b"b"]
