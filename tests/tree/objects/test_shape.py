"""Shapes judge a tree node by node exactly as making it again from its items would."""

from collections.abc import Iterator, Sequence
from unittest import mock

import msgspec
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ventifs.store import Score, score_of
from ventifs.tree.objects import prolly, shape
from ventifs.tree.objects.prolly import NODE_OVERHEAD, Builder, Node
from ventifs.tree.objects.records import Child, encode

SIZE_MAX = 400  # bytes of a node here: several levels of a few items


@pytest.fixture(autouse=True, scope="module")
def small_nodes() -> Iterator[None]:
    with (
        mock.patch.object(prolly, "_MASK", 7),
        mock.patch.object(prolly, "NODE_SIZE_MAX", SIZE_MAX),
        mock.patch.object(shape, "NODE_SIZE_MAX", SIZE_MAX),
    ):
        yield


class Made(msgspec.Struct):
    """A node: what its parent says of it, and what is known of it."""

    child: Child
    known: shape.Shape | None


def put(level: int, items: Sequence[bytes]) -> Score:
    return score_of(msgspec.msgpack.encode(Node(level, list(map(msgspec.Raw, items)))) + b"\xc1")


def groups(level: int, items: Sequence[bytes]) -> list[int]:
    """Where a builder ends the nodes of a level."""
    ends, start, size = [], 0, NODE_OVERHEAD
    for at, item in enumerate(items):
        if at > start and size + len(item) > SIZE_MAX:
            ends.append(at)
            start, size = at, NODE_OVERHEAD
        size += len(item)
        if at - start + 1 >= 4 and prolly.ends_node(level, item):
            ends.append(at + 1)
            start, size = at + 1, NODE_OVERHEAD
    return ends if ends and ends[-1] == len(items) else [*ends, len(items)]


@st.composite
def ends(draw: st.DrawFn, level: int, items: Sequence[bytes], changes: int) -> list[int]:
    """The ends of nodes: those that a builder makes, some moved, added or taken out."""
    found = set(groups(level, items))
    for _ in range(changes):
        found ^= {draw(st.integers(1, len(items)))}
    return sorted(found | {len(items)})


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[bytes], Made]:
    """Items, and the root of a tree that holds them; it may be no builder's."""
    names = draw(st.lists(st.binary(min_size=1, max_size=90), min_size=1, max_size=60, unique=True))
    names = sorted(names)
    items = [msgspec.msgpack.encode((b"", name)) for name in names]
    change_at, lie_at = draw(st.integers(-2, 3)), draw(st.integers(-6, 3))
    level, children, data = 0, list[Made](), items
    while True:
        made = []
        start = 0
        for end in draw(ends(level, data, int(level == change_at))):
            part = data[start:end]
            below = children[start:end]
            start, known = end, None
            if level == 0:
                keys = names[end - len(part) : end]
                known = shape.leaf(part, 0, keys)
                child = Child(put(0, part), len(part), 0, keys[-1])
            else:
                shapes = [each.known for each in below if each.known is not None]
                if len(shapes) == len(below):
                    known = shape.inner(level, part, [each.child for each in below], shapes)
                count = sum(each.child.count for each in below)
                child = Child(put(level, part), count, 0, below[-1].child.key)
            made.append(Made(child, known))
        if lie_at == level and len(made) > 1:
            each = made[draw(st.integers(0, len(made) - 1))]
            lies = (
                replace(each.child, count=1000),
                replace(each.child, total=9),
                replace(each.child, key=b"\xff" * 91),
            )
            each.child = draw(st.sampled_from(lies))
        if len(made) == 1 and (level != change_at or draw(st.booleans())):
            return items, made[0]
        level, children, data = level + 1, made, [encode(each.child) for each in made]
        if level > 12:
            return items, made[0]


def is_sound(root: Made) -> bool:
    return root.known is not None and root.known.is_root


@given(trees())
def test_a_tree_is_sound_exactly_if_its_items_make_it(tree: tuple[list[bytes], Made]) -> None:
    items, root = tree
    builder = Builder(score_of)
    names = [msgspec.msgpack.decode(item)[1] for item in items]
    for item, name in zip(items, names, strict=True):
        builder.add(item, key=name)
    assert is_sound(root) == (builder.finish() == root.child.score)
    if root.known is not None:
        assert (root.known.first, root.known.last) == (names[0], names[-1])
        assert (root.known.count, root.known.total) == (len(items), 0)


@pytest.mark.parametrize("sound", [True, False])
def test_the_trees_above_are_of_both_kinds(sound: bool) -> None:
    generated = settings(phases=[Phase.generate], max_examples=500)

    def wanted(tree: tuple[list[bytes], Made]) -> bool:
        return is_sound(tree[1]) == sound and tree[1].child.count > 9

    assert find(trees(), wanted, settings=generated)
