"""The search tree is canonical, bounded, and searched in O(log n); hostile nodes are Corrupt."""

import itertools
import random
from collections.abc import Iterable, Iterator

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from ventifs.errors import Corrupt
from ventifs.store import Score, score_of
from ventifs.tree.objects.prolly import (
    NODE_ITEMS_MIN,
    NODE_SIZE_MAX,
    Builder,
    Node,
    find,
    load,
    walk,
)
from ventifs.tree.objects.records import Child, Hole, decode_item, encode


class Memory:
    """Blocks in memory, as the store keeps them; counts what is read."""

    def __init__(self) -> None:
        self.blocks: dict[Score, bytes] = {}
        self.gets = 0

    def put(self, data: bytes) -> Score:
        assert data[-1:] != b"\0"
        self.blocks[score_of(data)] = data
        return score_of(data)

    def get(self, score: Score) -> memoryview:
        self.gets += 1
        return memoryview(self.blocks[score])

    def levels(self, root: Score) -> list[list[Node]]:
        """All nodes, root first, a list a level."""
        found = [[load(self.get, root, None)]]
        while found[-1][0].level:
            scores = [Score(child.score) for node in found[-1] for child in children(node)]
            found.append([load(self.get, score, found[-1][0].level - 1) for score in scores])
        return found


def children(node: Node) -> list[Child]:
    return [msgspec.msgpack.decode(raw, type=Child) for raw in node.items]


def built(memory: Memory, items: Iterable[bytes]) -> Score:
    builder = Builder(memory.put)
    for item in items:
        builder.add(item, length=length_of(item), key=item)
    return builder.finish()


def length_of(item: bytes) -> int:
    return 1 + blake3(item).digest(1)[0]


def numbered(count: int) -> list[bytes]:
    return [msgspec.msgpack.encode(b"%08d" % number) for number in range(count)]


def sound(memory: Memory, root: Score, items: list[bytes]) -> None:
    """Sizes of nodes, totals, keys and order are as promised."""
    levels = memory.levels(root)
    assert [bytes(raw) for node in levels[-1] for raw in node.items] == items
    assert len(levels[0]) == 1
    for level in levels:
        assert all(len(node.items) >= NODE_ITEMS_MIN for node in level[:-1])
        for node in level:
            assert len(msgspec.msgpack.encode(node)) < NODE_SIZE_MAX
    for above, below in itertools.pairwise(levels):
        assert len(above) <= len(below) / 2 or len(below) <= NODE_ITEMS_MIN
        kids = [child for node in above for child in children(node)]
        for child, node in zip(kids, below, strict=True):
            if node.level == 0:
                inside = [bytes(raw) for raw in node.items]
                said = (len(inside), sum(map(length_of, inside)), inside[-1])
            else:
                deeper = children(node)
                said = (sum(k.count for k in deeper), sum(k.total for k in deeper), deeper[-1].key)
            assert (child.count, child.total, child.key) == said
            assert child.score == score_of(msgspec.msgpack.encode(node) + b"\xc1")


# --- building ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 127, 128, 1000, 20_000])
def test_nodes_keep_their_bounds(count: int) -> None:
    memory = Memory()
    sound(memory, built(memory, numbered(count)), numbered(count))


def test_the_root_of_given_items_is_fixed() -> None:
    assert built(Memory(), numbered(3)) == score_of(
        b"\x92\x00\x93" + b"".join(b"\xc4\x08%08d" % number for number in range(3)) + b"\xc1"
    )
    assert built(Memory(), numbered(5000)).hex() == (
        "3f600ee6e391784177fe31ed88d97255d4c958c7feca384492424ecb6ec286a4"
    )


@pytest.mark.parametrize(
    ("what", "items"),
    [
        ("equal", [msgspec.msgpack.encode(b"same")] * 200_000),
        ("in turn", [msgspec.msgpack.encode(b"one"), msgspec.msgpack.encode(b"two")] * 50_000),
        ("large", [msgspec.msgpack.encode(bytes([n % 256]) * 6000) for n in range(2000)]),
    ],
)
def test_repeated_items_end(what: str, items: list[bytes]) -> None:
    memory = Memory()
    sound(memory, built(memory, items), items)


def chosen(count: int, *, ends: bool) -> list[bytes]:
    """Items of which every one ends its node, or none does."""
    found = (msgspec.msgpack.encode(b"%d" % number) for number in itertools.count())
    wanted = (
        item
        for item in found
        if (not int.from_bytes(blake3(b"\0" + item).digest(4), "little") & 127) == ends
    )
    return list(itertools.islice(wanted, count))


@pytest.mark.parametrize("ends", [True, False])
def test_items_chosen_against_the_mask_keep_the_bounds(ends: bool) -> None:
    memory, items = Memory(), chosen(500 if ends else 30_000, ends=ends)
    root = built(memory, items)
    sound(memory, root, items)
    leaves = memory.levels(root)[-1]
    if ends:
        assert {len(node.items) for node in leaves} == {NODE_ITEMS_MIN}
    else:
        assert min(len(msgspec.msgpack.encode(node)) for node in leaves[:-1]) > NODE_SIZE_MAX - 32


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=600))
def test_any_items_come_back(raw: list[bytes]) -> None:
    memory, items = Memory(), [msgspec.msgpack.encode(item) for item in raw]
    root = built(memory, items)
    sound(memory, root, items)
    assert built(Memory(), iter(items)) == root


@pytest.mark.parametrize("change", ["replace", "insert", "remove"])
def test_a_change_rewrites_few_nodes(change: str) -> None:
    memory, items = Memory(), numbered(50_000)
    height = len(memory.levels(built(memory, items)))
    for at in random.Random(1).sample(range(50_000), 10):
        after = list(items)
        after[at : at + (change != "insert")] = [] if change == "remove" else [b"\xc4\x02hi"]
        before = set(memory.blocks)
        built(memory, after)
        assert 0 < len(set(memory.blocks) - before) <= 3 * height


# --- reading ----------------------------------------------------------------------------------


def test_a_walk_from_any_ordinal_is_a_slice() -> None:
    memory, items = Memory(), numbered(3000)
    root = built(memory, items)
    for skip in [*range(300), *range(300, 3010, 101), 2999, 3000, 3001]:
        assert list(walk(memory.get, root, skip)) == [(0, item) for item in items[skip:]]


def test_a_walk_from_any_byte_is_a_slice() -> None:
    memory, items = Memory(), numbered(3000)
    root = built(memory, items)
    ends = list(itertools.accumulate(map(length_of, items)))
    rng = random.Random(2)
    edges = [0, ends[0] - 1, ends[0], ends[-1] - 1, ends[-1], ends[-1] + 5]
    for skip in [*edges, *(rng.randrange(ends[-1]) for _ in range(200))]:
        left = [item for item, end in zip(items, ends, strict=True) if end > skip]
        got = list(itertools.islice(walk(memory.get, root, skip, length_of), 5))
        assert [item for _, item in got] == left[:5]
        if got:
            first = ends[len(items) - len(left)] - length_of(left[0])
            assert [inside for inside, _ in got] == [skip - first] + [0] * (len(got) - 1)


def test_find_finds_every_key_and_no_other() -> None:
    memory, items = Memory(), numbered(2000)
    root = built(memory, items[::2])
    for at, item in enumerate(items):
        found = find(memory.get, root, item, lambda data: data)
        assert found == (None if at % 2 else item)
    assert find(memory.get, root, b"", lambda data: data) is None
    assert find(memory.get, root, b"\xff", lambda data: data) is None


def test_seeking_costs_a_node_a_level() -> None:
    memory, items = Memory(), numbered(50_000)
    root = built(memory, items)
    height = len(memory.levels(root))
    for seek in (
        lambda: find(memory.get, root, items[40_000], lambda data: data),
        lambda: next(walk(memory.get, root, 40_000)),
        lambda: next(walk(memory.get, root, 4_000_000, length_of)),
    ):
        memory.gets = 0
        assert seek() is not None
        assert memory.gets == height


# --- hostile nodes ----------------------------------------------------------------------------


def node(memory: Memory, level: int, items: list[bytes]) -> Score:
    return memory.put(msgspec.msgpack.encode(Node(level, list(map(msgspec.Raw, items)))) + b"\xc1")


def drained(memory: Memory, root: Score) -> Iterator[object]:
    """Every way of reading a tree, to its end."""
    yield from walk(memory.get, root)
    yield from walk(memory.get, root, 3, lambda data: decode_item(data).length)
    yield find(memory.get, root, b"k", lambda data: encode(decode_item(data)))


HOLE = encode(Hole(10))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x92\x00\x90\xc1",
        b"\x92\x00\x91\x01",
        b"\x91\x00\xc1",
        b"\x93\x00\x91\x01\x01\xc1",
        b"\x92\x29\x91\x01\xc1",
        b"\x92\xff\x91\x01\xc1",
        b"\x92\xcc\x00\x91\x01\xc1",
        b"\x92\x00\xdc\x00\x01\x01\xc1",
        b"\x92\x00\x91\x01\x01\xc1",
        b"\x92\x00\xdf\xff\xff\xff\xff\xc1",
        b"\x92\x00\xdd\xff\xff\xff\xff\x01\xc1",
        b"\x92\x00" + b"\x91" * 60_000 + b"\x01\xc1",
        b"\x92\x00\x91\xc5\xff\xff" + bytes(65535) + b"\xc1",
        b"\x92\xa1x\x91\x01\xc1",
        b"\x92\xcf" + b"\xff" * 8 + b"\x91\x01\xc1",
    ],
    ids=range(17),
)
def test_bytes_that_are_no_node_are_corrupt(data: bytes) -> None:
    memory = Memory()
    memory.blocks[score_of(data)] = data
    with pytest.raises(Corrupt):
        list(drained(memory, score_of(data)))


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_a_changed_node_is_corrupt_or_another_node(at: int, junk: bytes) -> None:
    memory = Memory()
    data = memory.blocks[node(memory, 0, [HOLE] * 50 + numbered(20))]
    at %= len(data)
    changed = data[:at] + junk + data[at + len(junk) :]
    memory.blocks[score_of(changed)] = changed
    try:
        list(walk(memory.get, score_of(changed)))
    except Corrupt:
        return
    assert changed[-1:] == b"\xc1"
    assert len(load(memory.get, score_of(changed), None).items) > 0


@pytest.mark.parametrize("level", [0, 2, 7])
def test_a_child_of_another_level_is_corrupt(level: int) -> None:
    memory = Memory()
    below = node(memory, level, [HOLE] * 4)
    root = node(memory, 1 if level else 2, [encode(Child(below, 4, 40, b"k"))])
    with pytest.raises(Corrupt):
        list(walk(memory.get, root))


@pytest.mark.parametrize(("count", "total"), [(3, 40), (5, 40), (4, 39), (4, 41), (2**62, 2**62)])
def test_a_child_that_lies_is_corrupt(count: int, total: int) -> None:
    memory = Memory()
    below = node(memory, 0, [HOLE] * 4)
    lie = encode(Child(below, count, total, HOLE))
    truth = encode(Child(below, 4, 40, HOLE))
    root = node(memory, 1, [lie, truth, truth, truth])
    with pytest.raises(Corrupt):  # counts show by ordinal, totals by byte
        list(walk(memory.get, root))
        list(walk(memory.get, root, 0, lambda data: decode_item(data).length))


def test_an_inner_item_of_garbage_is_corrupt() -> None:
    memory = Memory()
    root = node(memory, 1, [HOLE, HOLE])
    with pytest.raises(Corrupt):
        list(walk(memory.get, root))
    with pytest.raises(Corrupt):
        find(memory.get, root, b"k", lambda data: data)


def test_a_tower_is_searched_without_going_through_it() -> None:
    memory = Memory()
    score, count = node(memory, 0, [HOLE] * 4), 4
    for level in range(1, 29):  # 4 ** 29 items in 29 nodes
        score = node(memory, level, [encode(Child(score, count, count * 10, b"k"))] * 4)
        count *= 4
    memory.gets = 0
    assert find(memory.get, score, b"z", lambda data: data) is None
    assert len(list(itertools.islice(walk(memory.get, score), 1000))) == 1000
    assert memory.gets < 1000
