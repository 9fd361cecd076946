"""Pieces out of memory: runs of neighbours, zeros stored nowhere, slices, and their limits.

That any range of any content comes back is in test_contents.
"""

import gc
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.driving import Driver
from tests.support.forging import tree_of
from tests.support.stores import new_store
from ventifs.buffer import Buffer
from ventifs.errors import Corrupt
from ventifs.store import Score, Store
from ventifs.tree.objects.content import SLICE_DEPTH_MAX, ContentWriter, read
from ventifs.tree.objects.records import Chunk, Content, Hole, Inline, Item, Slice, Tree
from ventifs.vfs.archived.node_cache import ContentLeaf
from ventifs.vfs.archived.ranges import PIECES_MAX, BlockSource, take
from ventifs.vfs.archived.reader import Cursor, StoreContents
from ventifs.vfs.archived.tree_lookup import Missing, TreeLookup
from ventifs.vfs.interface import Cold

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(new_store(tmp_path / "store"), "write", cache_bytes=64 * MIB) as opened:
        yield opened


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def chunk(store: Store, data: bytes) -> Chunk:
    return Chunk(store.put(data)[0], len(data))


def bytes_of(store: Store, content: Content, offset: int, count: int) -> bytes:
    return b"".join(bytes(piece) for piece in read(store, content, offset, count))


def leaf_of(contents: StoreContents, tree: Tree, offset: int = 0) -> ContentLeaf:
    return contents.memory.leaf(tree, offset)[0]


def warmed(store: Store, tree: Content, length: int) -> tuple[StoreContents, Cursor]:
    """A cursor that has read all of it, from memory too."""
    contents = StoreContents(TreeLookup(store, 64 * MIB), 0)
    cursor = Cursor(contents, tree)
    for _ in range(2):
        assert b"".join(Driver()(cursor.read, 0, length)) == bytes_of(store, tree, 0, length)
    return contents, cursor


# --- runs -------------------------------------------------------------------------------------


def test_neighbours_in_a_clump_are_one_piece(store: Store) -> None:
    tree = tree_of(store, [chunk(store, noise(4000 + n, n)) for n in range(20)])
    store.commit()
    contents, cursor = warmed(store, tree, tree.length)
    assert len(cursor.read(0, tree.length)) == 1
    assert len(cursor.read(5000, 30_000)) == 1
    runs = leaf_of(contents, tree).runs
    assert len(set(map(id, runs))) == 1
    assert runs[0] is not None
    assert (runs[0].held, runs[0].end, runs[0].after) == (tree.length, tree.length, 20)


def test_a_run_whose_clump_has_gone_is_read_again(tmp_path: Path) -> None:
    with Store.open(new_store(tmp_path / "store"), "write", cache_bytes=300 * KIB) as store:
        tree = tree_of(store, [chunk(store, noise(4000, n)) for n in range(20)])
        others = [store.put(noise(100 * KIB, 50 + n))[0] for n in range(6)]
        store.commit()
        contents, cursor = warmed(store, tree, tree.length)
        for score in others:
            store.get(score)
            store.get(score)
        gc.collect()
        leaf = leaf_of(contents, tree)
        gone = [run for run in leaf.runs if run is not None and run.clump() is None]
        assert len(gone) == leaf.count > 4
        with pytest.raises(Cold) as cold:
            cursor.read(0, tree.length)
        cold.value.load.run()
        assert b"".join(cursor.read(0, tree.length)) == bytes_of(store, tree, 0, tree.length)
        store.get(Score(leaf.items[0]))  # type: ignore[arg-type]
        assert len(cursor.read(0, leaf.total)) == 1
        assert all(run is not None and run.clump() is not None for run in leaf.runs)


def test_a_block_that_ends_in_zeros_ends_a_run(store: Store) -> None:
    first, last = noise(5000, 1), noise(3000, 2) + bytes(2000)
    tree = tree_of(store, [chunk(store, first), chunk(store, last), chunk(store, noise(100, 3))])
    store.commit()
    contents, cursor = warmed(store, tree, tree.length)
    data = first + last + noise(100, 3)
    assert [len(piece) for piece in cursor.read(0, tree.length)] == [8000, 2000, 100]
    [run, same, _] = leaf_of(contents, tree).runs
    assert run is same
    for offset, end in ((0, 8000), (4000, 8001), (7999, 10_000), (8000, 9000), (9000, 10_050)):
        assert b"".join(cursor.read(offset, end - offset)) == data[offset:end]
    assert [len(piece) for piece in cursor.read(8500, 700)] == [700]


def test_the_padding_of_a_small_file_on_a_disk_is_of_its_run(store: Store) -> None:
    items: list[Item] = []
    for n in range(50):
        items += [chunk(store, noise(1700, n)), Hole(2396)]
    tree = tree_of(store, [Hole(4096), *items, Hole(3 * MIB)])
    store.commit()
    contents, cursor = warmed(store, tree, 100_000)
    runs = leaf_of(contents, tree).runs
    assert runs[1] is not None
    assert (runs[1].held, runs[1].end, runs[1].after) == (4096 + 1700, 8192, 3)
    for offset, count in ((4096, 4096), (5796, 2396), (6000, 1), (5000, 10_000), (0, 70_000)):
        assert b"".join(cursor.read(offset, count)) == bytes_of(store, tree, offset, count)
    end = tree.length
    assert b"".join(cursor.read(end - 2 * MIB, 3 * MIB)) == bytes(2 * MIB)


def test_a_block_that_is_too_long_gets_into_no_run(store: Store) -> None:
    long = Chunk(store.put(noise(3000, 2))[0], 2999)
    tree = tree_of(store, [chunk(store, noise(1000, 1)), long])
    store.commit()
    contents = StoreContents(TreeLookup(store, 64 * MIB), 0)
    cursor = Cursor(contents, tree)
    for score in (tree.score, long.score):
        store.get(Score(score))
    for _ in range(2):
        assert b"".join(Driver()(cursor.read, 0, 1000)) == noise(1000, 1)
        with pytest.raises(Corrupt):
            Driver()(cursor.read, 500, 1000)


# --- slices -----------------------------------------------------------------------------------


def disk(store: Store, files: int = 30) -> Tree:
    """Files here and there, each whole or in two parts, between blocks and holes."""
    writer, items = ContentWriter(store), list[Item]()
    for n in range(files):
        data = noise(40 * KIB + 997 * n, n)
        content = writer.write_whole(data)
        half = 16 * KIB + 512 * n
        items += [
            Slice(content, half, len(data) - half),
            Hole(4096),
            chunk(store, noise(4096, -n)),
            Slice(content, 0, half),
            Slice(Inline(b"abcdef"), 1, 4),
        ]
    tree = tree_of(store, items)
    store.commit()
    return tree


def test_a_slice_is_found_again_without_a_way_down_its_tree(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = disk(store)
    contents, cursor = warmed(store, tree, MIB)
    assert leaf_of(contents, tree).inside
    leaf = contents.memory.leaf

    def outer(content: Tree, offset: int) -> tuple[ContentLeaf, int]:
        assert content == tree, "a file's tree was walked"
        return leaf(content, offset)

    monkeypatch.setattr(contents, "memory", contents.memory._replace(leaf=outer))
    assert b"".join(cursor.read(0, 500 * KIB)) == bytes_of(store, tree, 0, 500 * KIB)
    assert b"".join(cursor.read(77_777, 8000)) == bytes_of(store, tree, 77_777, 8000)


def test_a_slice_over_many_leaves_is_read_from_wherever(store: Store) -> None:
    content = tree_of(store, [chunk(store, noise(300 + n, n)) for n in range(6000)])
    tree = tree_of(store, [Hole(100), Slice(content, 1000, content.length - 2000), Hole(100)])
    store.commit()
    whole = bytes_of(store, tree, 0, tree.length)
    contents = StoreContents(TreeLookup(store, 64 * MIB), 0)
    drive, cursor, chance = Driver(), Cursor(contents, tree), random.Random(5)
    places = [chance.randrange(tree.length) for _ in range(300)]
    for offset in [*range(0, tree.length, 64 * KIB), *places]:
        assert b"".join(drive(cursor.read, offset, 64 * KIB)) == whole[offset : offset + 64 * KIB]
    assert len({contents.memory.leaf(content, at)[1] for at in places if at < content.length}) > 2
    assert len(leaf_of(contents, tree).inside) == 1


def test_a_slice_whose_leaf_has_gone_is_read_again(store: Store) -> None:
    tree = disk(store)
    contents, cursor = warmed(store, tree, MIB)
    leaf = leaf_of(contents, tree)
    contents.trees.nodes._nodes.clear()
    contents.trees.nodes._order.clear()
    gc.collect()
    assert leaf.inside
    assert all(inside.leaf() is None for inside in leaf.inside.values())
    drive = Driver()
    assert b"".join(drive(cursor.read, 0, MIB)) == bytes_of(store, tree, 0, MIB)
    assert len(drive.loads) == 1


def test_reading_ahead_brings_the_nodes_of_slices(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = disk(store, 60)
    contents = StoreContents(TreeLookup(store, 64 * MIB), 4 * MIB)
    drive, cursor = Driver(), Cursor(contents, tree)
    for offset in range(0, 512 * KIB, 128 * KIB):
        drive(cursor.read, offset, 128 * KIB)
    loads = contents.wishes()
    assert loads
    for load in loads:
        load.run()
    reached = max(load.key[2] for load in loads)  # type: ignore[index]
    assert reached >= MIB

    def refused(*_: object) -> None:
        raise AssertionError("the event loop read the store")

    for name in ("get", "_load"):
        monkeypatch.setattr(store, name, refused)
    found = [b"".join(cursor.read(offset, 64 * KIB)) for offset in range(512 * KIB, MIB, 64 * KIB)]
    monkeypatch.undo()
    assert b"".join(found) == bytes_of(store, tree, 512 * KIB, 512 * KIB)


def test_slices_of_slices_are_as_deep_in_memory_as_in_threads(store: Store) -> None:
    content: Content = tree_of(store, [chunk(store, noise(1000))])
    for _ in range(SLICE_DEPTH_MAX):
        content = tree_of(store, [Slice(content, 0, 1000)])
    deeper = tree_of(store, [Slice(content, 0, 1000)])
    store.commit()
    contents = StoreContents(TreeLookup(store, MIB), 0)
    for _ in range(3):
        assert b"".join(Driver()(Cursor(contents, content).read, 0, 1000)) == noise(1000)
        with pytest.raises(Corrupt, match="too deep"):
            Driver()(Cursor(contents, deeper).read, 0, 1000)


def test_very_many_pieces_of_slices_are_no_work_for_the_loop(store: Store) -> None:
    letters = [chunk(store, b"%d" % (n % 10)) for n in range(500)]
    content = tree_of(store, letters)
    tree = tree_of(store, [Slice(content, 0, 500)] * 100)
    store.commit()
    contents = StoreContents(TreeLookup(store, MIB), 0)
    drive, cursor = Driver(), Cursor(contents, tree)
    for _ in range(2):
        assert b"".join(drive(cursor.read, 0, 50_000)) == b"0123456789" * 5000
    pieces: list[Buffer] = []
    with pytest.raises(Missing):
        take(contents.memory, tree, 0, 50_000, pieces)
    assert len(pieces) <= PIECES_MAX + 500
    assert len(drive.loads) == 2


def test_what_threads_read_remembers_nothing(store: Store) -> None:
    tree = disk(store, 3)
    trees = TreeLookup(store, MIB)
    source = BlockSource(partial(trees.content_leaf, trees.brought), store.get, None)
    pieces: list[Buffer] = []
    take(source, tree, 0, tree.length, pieces)
    assert b"".join(pieces) == bytes_of(store, tree, 0, tree.length)
    leaf, _ = source.leaf(tree, 0)
    assert not leaf.inside
    assert leaf.runs == [None] * leaf.count
