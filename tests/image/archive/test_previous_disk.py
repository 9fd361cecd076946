"""The last version of a disk is a source of guesses, and never a hindrance."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.imaging import bytes_of, content_at, image, regular, volume_of
from tests.support.memorydisk import MemoryDisk
from tests.support.stores import new_store
from tests.support.trees import noise
from ventifs.errors import Corrupt
from ventifs.image.archive.previous_disk import PreviousDisk, within
from ventifs.image.survey_events import Event, FoundName
from ventifs.store import Store
from ventifs.tree.objects.records import Block, Child, Chunk, Content, Hole, Tree, encode

SIZE = 200_000
DATA = noise(100_000) + bytes(50_000) + noise(50_000, 1)
FILE = regular(30_000, (0, 8192, 32_768))
EVENTS: list[Event] = volume_of(SIZE, FoundName(b"a", 12, FILE))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        yield opened


@pytest.fixture
def before(store: Store) -> Content:
    root = image(store, MemoryDisk(SIZE, {0: DATA}), EVENTS).root
    return content_at(store, root, b"disk.img")


def test_a_file_is_guessed_where_it_was(store: Store, before: Content) -> None:
    root = image(store, MemoryDisk(SIZE, {0: DATA}), EVENTS).root
    held = content_at(store, root, b"files/1/a")
    guesses = PreviousDisk(store, before)
    assert guesses.content_of(30_000, FILE.extents) == (held, False, 0)
    assert guesses.content_of(30_001, FILE.extents) == (None, False, 0)
    assert guesses.content_of(30_000, ((0, 12_288, 32_768),)) == (None, False, 0)
    assert guesses.content_of(30_000, ((4096, 8192, 32_768),)) == (None, False, 0)
    assert guesses.content_of(30_000, ((0, 1 << 60, 32_768),)) == (None, False, 0)
    assert guesses.content_of(30_000, ()) == (None, False, 0)


@pytest.mark.parametrize("kind", ["child", "leaf", "odd", "empty"])
def test_nodes_that_contradict_themselves_are_damage(store: Store, kind: str) -> None:
    """Their scores hold; no writer of ours makes such."""
    chunk, hole = encode(Chunk(b"s" * 32, 4096)), encode(Hole(0))
    items = {"odd": [b"\xc0"], "empty": [chunk, hole]}.get(kind, [chunk])
    leaf = store.put(_node(0, *items), node=True)[0]
    said = 4096 if kind != "leaf" else 8192
    inner = store.put(_node(1, encode(Child(leaf, 1, said, b""))), node=True)[0]
    previous = PreviousDisk(store, Tree(inner, 4096 if kind != "child" else 8192), [(0, 4096)])
    with pytest.raises(Corrupt):
        list(previous.blocks(0, 4096, 0, 4096))


def _node(level: int, *items: bytes) -> bytes:
    return msgspec.msgpack.encode([level, [msgspec.Raw(item) for item in items]]) + b"\xc1"


def test_it_is_certain_only_where_all_is_the_same(store: Store, before: Content) -> None:
    def certain(*same: tuple[int, int], size: int = 30_000) -> bool:
        return PreviousDisk(store, before, same).content_of(size, FILE.extents)[1]

    assert certain((0, SIZE))
    assert certain((0, 20_000), (20_000, 40_960))
    assert not certain((0, 20_000), (20_001, SIZE))
    assert not certain((9000, SIZE))
    assert not PreviousDisk(store, before, [(0, SIZE)]).content_of(
        30_000, ((0, 8192, 4096), (8192, 12_288, 28_672))
    )[1]  # with a hole
    assert not PreviousDisk(store, before, [(0, SIZE)]).content_of(
        30_000, ((0, 8192, 4096), (4096, 49_152, 28_672))
    )[1]  # in other places


def test_a_sparse_file_is_certain_if_its_content_has_the_holes(store: Store) -> None:
    part = ((0, 0, 65_536), (131_072, 65_536, 65_536))
    disk = MemoryDisk(1 << 20, {0: noise(131_072, 7)})
    events = volume_of(disk.size, FoundName(b"sparse", 5, regular(196_608, *part)))
    content = content_at(store, image(store, disk, events).root, b"disk.img")
    held = PreviousDisk(store, content, [(0, disk.size)])
    assert held.content_of(196_608, part)[1]
    moved = ((0, 0, 65_536), (135_168, 65_536, 61_440))
    assert not held.content_of(196_608, moved)[1]  # zeros where data was
    assert not PreviousDisk(store, content).content_of(196_608, part)[1]


def test_blocks_that_are_the_same(store: Store, before: Content) -> None:
    """Just those that reading would make."""
    found = list(PreviousDisk(store, before, [(0, SIZE)]).blocks(53_248, SIZE, 0, 4096))
    at = 53_248
    for place, item in found:
        assert place == at
        assert isinstance(item, Hole | Chunk)
        if isinstance(item, Chunk):
            assert bytes_of(store, Block(item.score, item.length)) == DATA[at : at + item.length]
        else:
            assert not DATA[at : at + item.length].strip(b"\0")
        at += item.length
    assert at == SIZE
    assert list(PreviousDisk(store, before).blocks(53_248, SIZE, 0, 4096)) == []
    assert (
        list(PreviousDisk(store, before, [(0, SIZE)]).blocks(53_249, SIZE - 1, 1, 4096))[1:] == []
    )


def test_it_is_no_guide_past_its_end(store: Store, before: Content) -> None:
    previous = PreviousDisk(store, before, [(0, 2 * SIZE)])
    assert list(previous.blocks(SIZE, 2 * SIZE, 0, 4096)) == []


@pytest.mark.parametrize("same", [(), ((0, SIZE),)])
def test_a_damaged_version_is_done_without(store: Store, same: tuple[tuple[int, int], ...]) -> None:
    root = image(store, MemoryDisk(SIZE, {0: DATA}), EVENTS).root
    lost = Tree(b"\1" * 32, SIZE)
    again = image(store, MemoryDisk(SIZE, {0: DATA}), EVENTS, previous=lost, same=list(same))
    assert again.root == root


def test_ranges_within() -> None:
    ranges = [(0, 10), (20, 30), (30, 40)]
    assert list(within(ranges, 5, 35)) == [(5, 10), (20, 30), (30, 35)]
    assert list(within(ranges, 10, 20)) == []
    assert list(within(ranges, 25, 25)) == []
    assert list(within([], 0, 9)) == []
