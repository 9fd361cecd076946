"""Whatever an open arena's end looks like after a crash, the whole clumps before it count.

An arena is cut at every kind of place, and given tails of zeros, of garbage, of half-written
directories and of clumps that belong elsewhere. What is cut off and is neither zeros nor a half
directory is kept beside the arena.
"""

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from shutil import copytree, rmtree

import pytest

from tests.support.tiny import audited, made_up_blocks, tiny_store
from ventifs.store import Score, Store
from ventifs.store.appender import Appender, lock_arena
from ventifs.store.arena import DIRECTORY_MAGIC, HEADER_SIZE, Arena, Clump
from ventifs.store.arena_state import ArenaTotals
from ventifs.store.clump import ClumpKind
from ventifs.store.files import Files
from ventifs.store.journal import Record


@dataclass
class Written:
    """A store with one open arena, and what must be there after each of its clumps.

    Attributes:
        clumps: in the order they stand in the arena.
        commits: (end of the commit clump, the records from then on), in order.
        indexes: (arena length up to which it knows, LMDB's file), in order.
    """

    root: Path
    arena: Path
    data: bytes
    blocks: dict[Score, bytes]
    clumps: list[Clump]
    commits: list[tuple[int, frozenset[Record]]]
    indexes: list[tuple[int, bytes]]

    def records(self, length: int) -> frozenset[Record]:
        """The catalog of an arena of which `length` bytes are there."""
        return [records for end, records in self.commits if end <= length][-1]

    def whole(self, length: int) -> set[Score]:
        """The blocks in clumps that are wholly there."""
        clumps = [clump for clump in self.clumps if clump.end <= length]
        return {score for clump in clumps for score, _ in clump.head.blocks}

    def end(self, length: int) -> int:
        """Where the last clump ends that is wholly there."""
        return max([HEADER_SIZE, *(clump.end for clump in self.clumps if clump.end <= length)])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    root = tiny_store(tmp_path_factory.mktemp("written") / "store", arena_size=4 << 20)
    blocks = made_up_blocks(30)
    commits: list[tuple[int, frozenset[Record]]] = [(0, frozenset())]
    indexes = [(0, (root / "index" / "data.mdb").read_bytes())]
    with Store.open(root, "write") as store:
        records: list[Record] = []
        for number in range(6):
            for at, block in enumerate(blocks[5 * number : 5 * number + 5]):
                store.put(block, node=at == 4)
            doomed = records[:1] if number % 2 else []
            key = b"%d" % (number // 2)  # each key twice
            records = records[len(doomed) :] + store.commit([(key, b"v" * 60 * number)], doomed)
            [path] = (root / "arenas" / "open").iterdir()
            commits.append((path.stat().st_size, frozenset(records)))
            indexes.append((path.stat().st_size, (root / "index" / "data.mdb").read_bytes()))
        stored = {store.put(block)[0]: block for block in blocks}
        store.abandon()
    arena = Arena.open(path)
    clumps = list(arena.scan(HEADER_SIZE, arena.length()))
    assert all(isinstance(clump, Clump) for clump in clumps)
    return Written(
        root,
        path,
        path.read_bytes(),
        stored,
        [clump for clump in clumps if isinstance(clump, Clump)],
        commits,
        indexes,
    )


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def damaged_copy(written: Written, root: Path, data: bytes, index: bytes | None) -> Path:
    """The store at `root` with another arena and index; the arena's path."""
    rmtree(root, ignore_errors=True)
    copytree(written.root, root, ignore=lambda *_: ["data.mdb"] if index is None else [])
    if index is not None:
        (root / "index" / "data.mdb").write_bytes(index)
    arena = root / written.arena.relative_to(written.root)
    arena.write_bytes(data)
    return arena


def assert_recovered(written: Written, arena: Path, length: int) -> None:
    """The store is as if only the first `length` bytes of the arena had ever been written."""
    root = arena.parents[2]
    with Store.open(root, "write") as store:
        assert frozenset(store.records()) == written.records(length)
        has = {score for score in written.blocks if store.has(score)}
        assert has == written.whole(length)
        assert all(bytes(store.get(score)) == written.blocks[score] for score in has)
    assert audited(root).findings == []
    assert (arena.stat().st_size if arena.exists() else HEADER_SIZE) == written.end(length)


def interesting_lengths(written: Written) -> Iterator[int]:
    boundaries = [HEADER_SIZE, *(clump.end for clump in written.clumps)]
    heads = [clump.offset + len(clump.head.listed) for clump in written.clumps]
    near = [edge + by for edge in chain(boundaries, heads) for by in (-1, 0, 1)]
    dense = range(0, len(written.data), 997)
    yield from sorted({length for length in chain(near, dense) if length <= len(written.data)})


@pytest.mark.slow
@pytest.mark.parametrize("lagging", [False, True], ids=["without an index", "with an old index"])
def test_any_prefix_of_an_arena_gives_the_clumps_that_are_whole(
    written: Written, tmp_path: Path, lagging: bool
) -> None:
    for length in interesting_lengths(written):
        index = [data for known, data in written.indexes if known <= length][-1]
        arena = damaged_copy(
            written, tmp_path / "store", written.data[:length], index if lagging else None
        )
        assert_recovered(written, arena, length)


@pytest.mark.parametrize("lost", [1, 31, 32, 33, 5000])
def test_zeros_where_the_last_bytes_should_be_are_cut_off_and_not_kept(
    written: Written, tmp_path: Path, lost: int
) -> None:
    data = written.data[:-lost] + bytes(lost)
    arena = damaged_copy(written, tmp_path / "store", data, written.indexes[3][1])
    assert_recovered(written, arena, len(data) - lost)
    torn = [path.read_bytes() for path in arena.parent.glob("*.torn")]
    start = written.end(len(data) - lost)
    assert torn == ([] if not data[start:].strip(b"\0") else [data[start:]])


def tails(first_clump: bytes) -> dict[str, bytes]:
    rng = random.Random(5)
    return {
        "a byte": b"\x01",
        "garbage": rng.randbytes(70_000),
        "a magic": first_clump[:4],
        "a clump's header": first_clump[:32],
        "a clump from elsewhere in the arena": first_clump,
        "clump magics": b"vfC\x01" * 1000,
        "zeros, then garbage": bytes(5000) + rng.randbytes(100),
    }


@pytest.mark.parametrize("what", tails(b""))
@pytest.mark.parametrize("indexed", [False, True])
def test_a_tail_that_is_no_clump_is_cut_off_and_kept_beside_the_arena(
    written: Written, tmp_path: Path, what: str, indexed: bool
) -> None:
    first = written.clumps[0]
    tail = tails(written.data[first.offset : first.end])[what]
    index = written.indexes[-1 if indexed else 2][1]
    arena = damaged_copy(written, tmp_path / "store", written.data + tail, index)
    assert_recovered(written, arena, len(written.data))
    [torn] = arena.parent.glob("*.torn")
    assert torn.name == f"{arena.stem}-{len(written.data)}.torn"
    assert torn.read_bytes() == tail


def test_a_hole_between_clumps_becomes_a_gap_and_what_follows_counts(
    written: Written, tmp_path: Path
) -> None:
    hole = next(clump for clump in written.clumps[3:] if clump.head.kind is ClumpKind.DATA)
    data = bytearray(written.data)
    data[hole.offset : hole.end] = bytes(hole.head.size)
    arena = damaged_copy(written, tmp_path / "store", bytes(data), written.indexes[1][1])
    lost = {score for score, _ in hole.head.blocks}
    for _ in range(2):  # the second time from the index
        with Store.open(tmp_path / "store", "write") as store:
            assert frozenset(store.records()) == written.records(len(data))
            assert {score for score in written.blocks if not store.has(score)} == lost
            assert store.stats().gap_bytes == hole.head.size
        assert audited(tmp_path / "store").findings == []
    assert arena.stat().st_size == len(data)
    assert list(arena.parent.glob("*.torn")) == []  # zeros are not worth keeping


def sealed_bytes(written: Written, root: Path) -> bytes:
    """The whole arena as it would be if it had been sealed."""
    path = damaged_copy(written, root, written.data, None)
    arena = lock_arena(path)
    assert arena is not None
    Appender.resume(arena, Files(), ArenaTotals()).seal()
    return path.read_bytes()


def test_a_directory_that_is_not_whole_is_cut_off(written: Written, tmp_path: Path) -> None:
    sealed = sealed_bytes(written, tmp_path / "sealed")
    start = len(written.data)
    assert sealed[start:].startswith(DIRECTORY_MAGIC)
    for end in (*range(start + 8, len(sealed), 61), len(sealed) - 1):
        arena = damaged_copy(written, tmp_path / "store", sealed[:end], written.indexes[4][1])
        assert_recovered(written, arena, start)
        assert list(arena.parent.glob("*.torn")) == []


def test_a_seal_that_the_crash_left_whole_counts(written: Written, tmp_path: Path) -> None:
    sealed = sealed_bytes(written, tmp_path / "sealed")
    arena = damaged_copy(written, tmp_path / "store", sealed, written.indexes[4][1])
    with Store.open(tmp_path / "store", "write") as store:
        assert frozenset(store.records()) == written.commits[-1][1]
        assert all(store.has(score) for score in written.blocks)
    moved = tmp_path / "store" / "arenas" / "sealed" / arena.name
    assert moved.read_bytes() == sealed
    assert audited(tmp_path / "store").findings == []


@pytest.mark.parametrize("indexed", [False, True])
def test_a_trailer_after_a_directory_with_holes_does_not_seal(
    written: Written, tmp_path: Path, indexed: bool
) -> None:
    """The seal was not synced: its pages came to the disk in any order, or not at all."""
    data = bytearray(sealed_bytes(written, tmp_path / "sealed"))
    start = len(written.data)
    data[start : start + 200] = bytes(200)
    arena = damaged_copy(
        written, tmp_path / "store", bytes(data), written.indexes[-1 if indexed else 2][1]
    )
    assert_recovered(written, arena, start)


def test_a_writer_goes_on_where_a_tail_was_cut_off(written: Written, tmp_path: Path) -> None:
    arena = damaged_copy(written, tmp_path / "store", written.data[:-3], None)
    with Store.open(tmp_path / "store", "write") as store:
        store.put(b"one more")
    assert [path.name for path in arena.parent.glob("*.arena")] == [arena.name]
    assert arena.stat().st_size > written.end(len(written.data) - 3)
    assert audited(tmp_path / "store").findings == []
