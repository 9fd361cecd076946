"""Reading a content over decoded memory gives what the tree layer gives, however small that is."""

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.driving import Driver
from tests.support.forging import put_node, tree_of
from tests.support.stores import new_store
from ventifs.errors import Corrupt, NotStored
from ventifs.store import Store
from ventifs.tree.objects.content import ContentWriter, read
from ventifs.tree.objects.records import (
    Block,
    Chunk,
    Content,
    Empty,
    Hole,
    Inline,
    Item,
    Slice,
    Tree,
    length_of,
)
from ventifs.vfs.archived import reader as module
from ventifs.vfs.archived.ranges import PIECES_MAX
from ventifs.vfs.archived.reader import AHEAD_STEP, Cursor, StoreContents
from ventifs.vfs.archived.tree_lookup import TreeLookup
from ventifs.vfs.interface import RESULTS_MAX, Cold

KIB, MIB = 1 << 10, 1 << 20
SHARED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=60,
)


@pytest.fixture(params=["tiny", "roomy"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store whose cache holds one clump, or all."""
    cache = 1 if request.param == "tiny" else 64 * MIB
    with Store.open(new_store(tmp_path / "store"), "write", cache_bytes=cache) as opened:
        yield opened


def contents(store: Store, node_bytes: int = 1, ahead: int = 0) -> StoreContents:
    return StoreContents(TreeLookup(store, node_bytes), ahead)


def expected(store: Store, content: Content, offset: int, count: int) -> bytes:
    return b"".join(bytes(piece) for piece in read(store, content, offset, count))


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def chunk(store: Store, data: bytes) -> Chunk:
    return Chunk(store.put(data)[0], len(data))


def some_contents(store: Store) -> list[Content]:
    """One of every kind: chunks, holes, slices of slices, blocks that end in zeros."""
    writer = ContentWriter(store)
    data = noise(3 * MIB)
    whole = writer.write_whole(data)
    sparse = writer.write_whole(data[: 100 * KIB] + bytes(2 * MIB) + data[:5000] + bytes(4096))
    padded = tree_of(
        store,
        [
            chunk(store, b"a" + bytes(9000)),
            Hole(3),
            chunk(store, noise(70 * KIB, 1)),
            Chunk(store.put(bytes(5000))[0], 5000),
            Hole(1 * MIB + 1),
            chunk(store, b"end"),
        ],
    )
    parts: list[Item] = [Slice(whole, 10_000, 1 * MIB), Hole(4096), Slice(Inline(b"inline"), 1, 4)]
    sliced = tree_of(store, [*parts, Slice(padded, 8000, 80 * KIB)])
    twice = tree_of(store, [Slice(sliced, MIB - 5, 20_000), Slice(sliced, 0, 3)])
    store.commit()
    return [
        Empty(),
        Inline(b"inline"),
        Block(store.put(b"b" * 100)[0], 200),
        whole,
        sparse,
        padded,
        sliced,
        twice,
    ]


def test_any_part_of_anything_comes_back(store: Store) -> None:
    every = some_contents(store)
    store.commit()
    shared = contents(store)

    @SHARED
    @given(st.sampled_from(every), st.data())
    def check(content: Content, data: st.DataObject) -> None:
        drive, cursor = Driver(), Cursor(shared, content)
        length = length_of(content)
        offset = 0
        for _ in range(data.draw(st.integers(1, 4))):
            if data.draw(st.booleans()):
                offset = data.draw(st.integers(0, length + 10))
            count = data.draw(st.integers(0, 5000) | st.integers(0, MIB))
            found = b"".join(drive(cursor.read, offset, count))
            assert found == expected(store, content, offset, count)
            offset += count

    check()


def test_a_cold_read_takes_one_load(store: Store) -> None:
    content = ContentWriter(store).write_whole(noise(8 * MIB))
    store.commit()
    drive = Driver()
    cursor = Cursor(contents(store), content)
    found = drive(cursor.read, MIB + 77, MIB)
    assert b"".join(found) == noise(8 * MIB)[MIB + 77 : 2 * MIB + 77]
    assert len(drive.loads) == 1


def test_equal_reads_share_a_load_and_both_end(store: Store) -> None:
    content = ContentWriter(store).write_whole(noise(2 * MIB))
    store.commit()
    shared = contents(store)
    cursors = [Cursor(shared, content) for _ in range(2)]
    keys = []
    for cursor in cursors:
        with pytest.raises(Cold) as cold:
            cursor.read(0, MIB)
        keys.append(cold.value.load.key)
    assert keys[0] == keys[1]
    drive = Driver()
    for cursor in cursors:
        assert b"".join(drive(cursor.read, 0, MIB)) == noise(2 * MIB)[:MIB]


def test_nothing_in_the_loop_reads_a_file_or_the_index(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = some_contents(store)
    store.commit()
    shared = contents(store, 64 * MIB)

    def refused(*_: object) -> None:
        raise AssertionError("the event loop read the store")

    for content in every:
        cursor = Cursor(shared, content)
        for _ in range(10):
            with monkeypatch.context() as patched:
                for name in ("get", "_load", "records", "has_many"):
                    patched.setattr(store, name, refused)
                try:
                    cursor.read(0, MIB)
                    break
                except Cold as cold:
                    load = cold.load
            load.run()
        else:
            raise AssertionError("still cold")


def test_what_is_read_is_not_copied(tmp_path: Path) -> None:
    with Store.open(new_store(tmp_path / "store"), "write", cache_bytes=64 * MIB) as store:
        content = ContentWriter(store).write_whole(noise(MIB))
        store.commit()
        drive, cursor = Driver(), Cursor(contents(store), content)
        drive(cursor.read, 0, MIB)
        pieces = cursor.read(0, MIB)
        assert not drive(Cursor(contents(store), Empty()).read, 0, 10)
        assert all(isinstance(piece, memoryview) and piece.readonly for piece in pieces)
        assert sum(len(piece) for piece in pieces) == MIB


def test_a_read_of_very_many_pieces_is_joined_by_a_thread(store: Store) -> None:
    items = [chunk(store, b"%d" % (number % 10)) for number in range(5 * PIECES_MAX)]
    content = tree_of(store, items)
    store.commit()
    drive, cursor = Driver(), Cursor(contents(store, 64 * MIB), content)
    for _ in range(2):
        pieces = drive(cursor.read, 0, len(items))
        assert b"".join(pieces) == b"0123456789" * (len(items) // 10)
        assert len(pieces) <= PIECES_MAX
    assert drive.loads


def test_scattered_blocks_keep_no_clumps_in_memory(tmp_path: Path) -> None:
    with Store.open(new_store(tmp_path / "store"), "write", cache_bytes=1) as store:
        items = []
        for number in range(40):
            items.append(chunk(store, noise(4000, number)))
            for filler in range(8):
                store.put(noise(16_000, 1000 + number * 8 + filler))
        content = tree_of(store, items)
        store.commit()
        pieces = Driver()(Cursor(contents(store), content).read, 0, MIB)
        assert b"".join(pieces) == b"".join(noise(4000, number) for number in range(40))
        held = {
            id(piece.obj): len(piece.obj) if isinstance(piece.obj, bytes) else 0
            for piece in pieces
            if isinstance(piece, memoryview)
        }
        assert sum(held.values()) <= 2 * 160_000 + 256 * KIB


# --- ahead ------------------------------------------------------------------------------------


def ranges(loads: list[object]) -> list[int]:
    """The offsets that loads wished for begin at."""
    return [load.key[2] for load in loads]  # type: ignore[attr-defined]


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Store]:
    with Store.open(new_store(tmp_path / "store"), "write", cache_bytes=64 * MIB) as opened:
        yield opened


def test_a_sequential_reader_is_kept_ahead_of(roomy: Store) -> None:
    data = noise(8 * MIB)
    content = ContentWriter(roomy).write_whole(data)
    roomy.commit()
    shared = contents(roomy, MIB, 2 * MIB)
    drive, cursor = Driver(), Cursor(shared, content)
    wished: list[int] = []
    for offset in range(0, 8 * MIB, 128 * KIB):
        found = b"".join(drive(cursor.read, offset, 128 * KIB))
        assert found == data[offset : offset + 128 * KIB]
        loads = shared.wishes()
        for load in loads:
            load.run()
        wished += ranges(loads)  # type: ignore[arg-type]
    assert len(drive.loads) == 1  # the first
    assert wished == sorted(set(wished))  # nothing twice
    assert wished[0] == 128 * KIB
    assert all(after - before <= AHEAD_STEP for before, after in pairwise([*wished, 8 * MIB]))
    assert not shared.wishes()


def test_whole_steps_are_brought_whatever_a_reader_asks_for(roomy: Store) -> None:
    content = ContentWriter(roomy).write_whole(noise(16 * MIB))
    roomy.commit()
    shared = contents(roomy, MIB, 4 * MIB)
    drive, cursor = Driver(), Cursor(shared, content)
    wished: list[int] = []
    for offset in range(0, 16 * MIB, 384 * KIB):
        drive(cursor.read, offset, 384 * KIB)
        wished += ranges(shared.wishes())  # type: ignore[arg-type]
    assert wished[-12:] == list(range(4 * MIB, 16 * MIB, AHEAD_STEP))


def test_nothing_is_brought_ahead_that_is_there(roomy: Store) -> None:
    content = ContentWriter(roomy).write_whole(noise(4 * MIB))
    roomy.commit()
    shared = contents(roomy, MIB, 2 * MIB)
    drive = Driver()
    drive(Cursor(shared, content).read, 0, 4 * MIB)
    shared.wishes()
    cursor = Cursor(shared, content)
    for offset in range(0, 4 * MIB, 128 * KIB):
        cursor.read(offset, 128 * KIB)
    assert not shared.wishes()


def test_random_reads_bring_nothing_ahead(roomy: Store) -> None:
    content = tree_of(roomy, [chunk(roomy, noise(64 * KIB, n)) for n in range(8)] * 200)
    roomy.commit()
    shared = contents(roomy, MIB, 2 * MIB)
    drive, cursor = Driver(), Cursor(shared, content)
    for number in range(1, 10):
        offset = (number * 7 % 10) * 10 * MIB + 5 * MIB
        drive(cursor.read, offset, 64 * KIB)
    assert not shared.wishes()
    for _ in range(3):  # but when it goes on
        offset += 64 * KIB
        drive(cursor.read, offset, 64 * KIB)
    assert shared.wishes() or roomy.cached(content.score)  # type: ignore[arg-type]


def test_a_look_at_the_beginning_brings_little(roomy: Store) -> None:
    content = ContentWriter(roomy).write_whole(noise(8 * MIB))
    roomy.commit()
    shared = contents(roomy, MIB, 4 * MIB)
    drive = Driver()
    drive(Cursor(shared, content).read, 0, 4 * KIB)
    before = roomy.cached_bytes
    for load in shared.wishes():
        load.run()
    assert roomy.cached_bytes - before <= 2 * 140 * KIB


def test_many_readers_are_kept_ahead_of_less_each(roomy: Store) -> None:
    content = ContentWriter(roomy).write_whole(noise(8 * MIB))
    roomy.commit()
    shared = contents(roomy, MIB, 4 * MIB)
    cursors = [Cursor(shared, content) for _ in range(64)]
    for cursor in cursors:
        with pytest.raises(Cold):
            cursor.read(0, MIB)
    assert shared.window_max == 512 * KIB
    with pytest.raises(Cold):
        cursors[0].read(7 * MIB, 1)  # not sequential any more
    for cursor in cursors[:3]:
        cursor.read(0, 0)
        cursor.read(10, 0)
    for cursor in cursors:
        cursor.close()
        cursor.close()
    assert shared.window_max == 4 * MIB
    assert shared.followed == 0


def test_wishes_are_bounded(roomy: Store) -> None:
    content = ContentWriter(roomy).write_whole(noise(4 * MIB))
    roomy.commit()
    shared = contents(roomy, MIB, 2 * MIB)
    for _ in range(100):
        with pytest.raises(Cold):
            Cursor(shared, content).read(0, 4096)
    assert 0 < len(shared.wishes()) <= 64


def test_damage_ahead_is_told_only_to_whoever_reads_it(roomy: Store) -> None:
    good = chunk(roomy, noise(MIB))
    content = tree_of(roomy, [good, good, Chunk(bytes(31) + b"x", 1000)])
    roomy.commit()
    shared = contents(roomy, MIB, 2 * MIB)
    drive, cursor = Driver(), Cursor(shared, content)
    assert len(b"".join(drive(cursor.read, 0, MIB))) == MIB
    for load in shared.wishes():
        load.run()
    assert len(b"".join(drive(cursor.read, MIB, MIB))) == MIB
    with pytest.raises(NotStored):
        drive(cursor.read, 2 * MIB, 1000)
    assert len(b"".join(drive(cursor.read, MIB, MIB))) == MIB


# --- a read waits for what is being brought ---------------------------------------------------


def ahead_of(store: Store, content: Content, node_bytes: int = MIB) -> tuple[StoreContents, Cursor]:
    """A cursor that has read 64 KiB, and wishes for what comes next."""
    shared = contents(store, node_bytes, 2 * MIB)
    cursor = Cursor(shared, content)
    Driver()(cursor.read, 0, 64 * KIB)
    return shared, cursor


def test_a_read_waits_for_the_step_that_covers_it(roomy: Store) -> None:
    content = ContentWriter(roomy).write_whole(noise(4 * MIB))
    roomy.commit()
    shared, cursor = ahead_of(roomy, content)
    [load] = shared.wishes()
    with pytest.raises(Cold) as cold:
        cursor.read(128 * KIB, 64 * KIB)
    assert cold.value.load is load
    load.run()
    assert b"".join(cursor.read(128 * KIB, 64 * KIB)) == noise(4 * MIB)[128 * KIB : 192 * KIB]
    with pytest.raises(Cold) as cold:
        cursor.read(3 * MIB, 64 * KIB)  # nobody brings this
    assert cold.value.load.key[0] == "read"  # type: ignore[index]


def test_a_read_that_has_waited_for_a_step_that_failed_finds_out_for_itself(roomy: Store) -> None:
    parts: list[Item] = [chunk(roomy, noise(64 * KIB, n)) for n in range(3)]
    content = tree_of(roomy, [*parts, Chunk(bytes(31) + b"x", 64 * KIB), *parts])
    roomy.commit()
    shared, cursor = ahead_of(roomy, content)
    [load] = shared.wishes()
    drive = Driver()
    with pytest.raises(NotStored):
        drive(cursor.read, 192 * KIB, 64 * KIB)
    assert drive.loads[0] is load
    assert len(drive.loads) == 2
    after = b"".join(Driver()(cursor.read, 256 * KIB, 64 * KIB))  # past the damage all is well
    assert after == noise(64 * KIB, 0)


def test_a_read_ends_that_has_waited_for_a_step_that_brought_nothing(tmp_path: Path) -> None:
    with Store.open(new_store(tmp_path / "store"), "write", cache_bytes=1) as tiny:
        content = ContentWriter(tiny).write_whole(noise(4 * MIB))
        tiny.commit()
        shared, cursor = ahead_of(tiny, content, 1)
        [load] = shared.wishes()
        drive = Driver()
        found = b"".join(drive(cursor.read, 64 * KIB, 64 * KIB))
        assert found == noise(4 * MIB)[64 * KIB : 128 * KIB]
        assert [drive.loads[0] is load, len(drive.loads)] == [True, 2]


def test_several_loads_of_one_step_are_waited_for_each(roomy: Store) -> None:
    content = ContentWriter(roomy).write_whole(noise(4 * MIB))
    roomy.commit()
    shared, cursor = ahead_of(roomy, content)
    drive = Driver()
    drive(cursor.read, 64 * KIB, 192 * KIB)
    first, *others = [*drive.loads, *shared.wishes()]
    assert {load.key[0] for load in [first, *others]} == {"ahead"}  # type: ignore[index]
    begins = [load.key[2] for load in others if load is not first]  # type: ignore[index]
    inside = [begin for begin in begins if begin < AHEAD_STEP]
    assert inside
    with pytest.raises(Cold) as cold:
        cursor.read(inside[-1] + 64 * KIB, 64 * KIB)
    assert cold.value.load in others
    cold.value.load.run()
    cursor.read(inside[-1] + 64 * KIB, 64 * KIB)


def test_a_wish_that_is_given_up_holds_nobody_up(roomy: Store) -> None:
    content = ContentWriter(roomy).write_whole(noise(4 * MIB))
    roomy.commit()
    shared, cursor = ahead_of(roomy, content)
    shared.wishes()  # and nobody runs them
    found = b"".join(Driver()(cursor.read, 64 * KIB, 64 * KIB))
    assert found == noise(4 * MIB)[64 * KIB : 128 * KIB]


# --- what lies --------------------------------------------------------------------------------


def test_a_block_longer_than_said_is_corrupt(store: Store) -> None:
    score = store.put(b"x" * 100)[0]
    store.commit()
    for content in (Block(score, 99), tree_of(store, [Chunk(score, 99), Hole(1)])):
        store.commit()
        with pytest.raises(Corrupt):
            Driver()(Cursor(contents(store), content).read, 0, 50)


@pytest.mark.parametrize("said", [-1, 1])
def test_a_tree_of_another_length_than_said_is_corrupt(store: Store, said: int) -> None:
    tree = tree_of(store, [chunk(store, b"x" * 100), Hole(100)])
    store.commit()
    lie = Tree(tree.score, tree.length + said)
    with pytest.raises(Corrupt):
        Driver()(Cursor(contents(store), lie).read, 0, 50)


def test_slices_too_deep_are_corrupt(store: Store) -> None:
    content: Content = tree_of(store, [chunk(store, b"x" * 100)])
    for _ in range(9):
        content = tree_of(store, [Slice(content, 0, 100)])
    store.commit()
    with pytest.raises(Corrupt, match="too deep"):
        Driver()(Cursor(contents(store), content).read, 0, 50)


def test_a_node_that_is_none_is_corrupt(store: Store) -> None:
    score = put_node(store, b"no node\xc1")
    store.commit()
    with pytest.raises(Corrupt):
        Driver()(Cursor(contents(store), Tree(score, 50)).read, 0, 50)


@pytest.mark.parametrize("store", ["tiny"], indirect=True)
def test_all_that_threads_bring_at_once_is_there_for_those_who_wait(store: Store) -> None:
    """Eight places once stood for sixteen results: half of these reads began anew."""
    every = [ContentWriter(store).write_whole(noise(3 * MIB, seed)) for seed in range(RESULTS_MAX)]
    store.commit()
    shared = contents(store)
    cursors = [Cursor(shared, content) for content in every]
    loads = []
    for cursor in cursors:
        with pytest.raises(Cold) as cold:
            cursor.read(MIB, 1000)
        loads.append(cold.value.load)
    for load in loads:
        load.run()
    for cursor, content in zip(cursors, every, strict=True):
        assert b"".join(cursor.read(MIB, 1000)) == expected(store, content, MIB, 1000)


def land(cursor: Cursor, offset: int, count: int) -> None:
    """Have a read brought that is not tried again, as when its request was flushed."""
    with pytest.raises(Cold) as cold:
        cursor.read(offset, count)
    cold.value.load.run()


def test_reads_that_nothing_waits_for_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LANDED_BYTES_MAX", 4 * MIB)
    with Store.open(new_store(tmp_path / "store"), "write", cache_bytes=1) as store:
        content = ContentWriter(store).write_whole(noise(8 * MIB))
        store.commit()
        shared = contents(store)
        for number in range(8):
            land(Cursor(shared, content), number * MIB, MIB)
            assert 0 < shared.landed_bytes <= 4 * MIB
        monkeypatch.setattr(module, "LANDED_BYTES_MAX", 1)
        cursor = Cursor(shared, content)
        assert Driver().read(cursor, 0, MIB) == noise(8 * MIB)[:MIB]  # type: ignore[arg-type]
        assert shared.landed_bytes == 0


def test_a_read_is_dropped_with_its_file(tmp_path: Path) -> None:
    with Store.open(new_store(tmp_path / "store"), "write", cache_bytes=1) as store:
        content = ContentWriter(store).write_whole(noise(MIB))
        store.commit()
        shared = contents(store)
        cursor = Cursor(shared, content)
        land(cursor, 5, MIB // 2)
        assert shared.landed_bytes >= MIB // 2
        cursor.close()
        assert shared.landed_bytes == 0
