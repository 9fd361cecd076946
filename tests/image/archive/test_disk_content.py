"""Items are handed on in order, whoever is late, and parts of a disk are cut out of its items."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.imaging import bytes_of
from tests.support.stores import new_store
from tests.support.trees import noise
from ventifs.image.archive.disk_content import ItemBuilder, Sequencer, part
from ventifs.image.archive.gap_blocks import GapItem
from ventifs.store import Store
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import (
    Block,
    Chunk,
    Empty,
    Hole,
    Inline,
    Item,
    Slice,
    Tree,
    encode,
)


@given(st.lists(st.integers(0, 3), max_size=20), st.randoms())
def test_items_keep_their_order(kinds: list[int], chance: random.Random) -> None:
    """0 is an item that is there at once; others are places filled later, with so many less one."""
    found: list[GapItem] = []
    sequence = Sequencer(lambda data, length: found.append((data, length)))
    expected: list[GapItem] = []
    late: list[tuple[int, list[GapItem]]] = []
    number = 0
    for kind in kinds:
        pieces = [(b"", number + 1 + each) for each in range(max(kind - 1, kind == 0))]
        number += len(pieces)
        expected += pieces
        if kind:
            late.append((sequence.reserve(), pieces))
        else:
            sequence.add(*pieces[0])
        if late and chance.random() < 0.3:
            sequence.fill(*late.pop(chance.randrange(len(late))))
    chance.shuffle(late)
    for place, pieces in late:
        sequence.fill(place, pieces)
    assert found == expected


def add(builder: ItemBuilder, item: Item) -> None:
    builder.add(b"" if isinstance(item, Hole) else encode(item), item.length)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_store(tmp_path_factory.mktemp("assembly") / "store")


@given(data=st.data())
def test_parts_of_a_disk(path: Path, data: st.DataObject) -> None:
    with Store.open(path, "write") as store:
        writer = ContentWriter(store)
        file = writer.write_whole(noise(100_000))
        builder = ItemBuilder(writer.put_node)
        whole = b""
        for kind in data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=12)):
            length = data.draw(st.integers(33, 5000))
            bits = noise(length, length)
            if kind == 0:
                item: Item = Hole(length)
                bits = bytes(length)
            elif kind == 1:
                item = Chunk(store.put(bits)[0], length)
            elif kind == 2:
                item, bits = Slice(file, 50, length), noise(100_000)[50 : 50 + length]
            elif kind == 3:
                item, bits = Slice(Inline(b"some bytes"), 3, 5), b"e byt"
            else:
                item = Slice(Block(store.put(bits)[0], length), 1, length - 1)
                bits = bits[1:]
            add(builder, item)
            whole += bits
        assert builder.total == len(whole)
        content = builder.finish()
        assert bytes_of(store, content) == whole
        place = st.integers(0, len(whole) + 10)
        ranges = [
            (min(pair), max(pair))
            for pair in data.draw(st.lists(st.tuples(place, place), max_size=3))
        ]
        cut = part(store.get, content, writer.put_node, ranges)
        expected = b"".join(whole[start:end] for start, end in ranges)
        assert bytes_of(store, cut) == expected


def test_contents_are_as_simple_as_can_be(path: Path) -> None:
    with Store.open(path, "write") as store:
        writer = ContentWriter(store)
        score = store.put(b"x" * 100)[0]

        def made(*items: Item) -> object:
            builder = ItemBuilder(writer.put_node)
            for item in items:
                add(builder, item)
            return builder.finish()

        assert made() == Empty()
        assert made(Chunk(score, 100)) == Block(score, 100)
        assert made(Hole(5), Hole(7)) == made(Hole(12))
        tree = made(Chunk(score, 100), Chunk(score, 100))
        assert isinstance(tree, Tree)
        assert part(store.get, tree, writer.put_node, [(100, 200)]) == Block(score, 100)
