"""Contents come back whole or in part, holes cost nothing, and what lies is Corrupt."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.stores import new_store
from ventifs.errors import Corrupt, NotStored
from ventifs.store import Store, score_of
from ventifs.tree.objects.content import ContentWriter, holds, read, read_whole
from ventifs.tree.objects.prolly import Builder
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
    encode,
    length_of,
)

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
SHARED_STORE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        yield opened


def joined(pieces: Iterator[bytes | memoryview | int]) -> bytes:
    found = []
    for piece in pieces:
        assert piece if isinstance(piece, int) else len(piece)
        found.append(bytes(piece))
    return b"".join(found)


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def paged(data: bytes) -> list[bytes | int]:
    return [data[at : at + MIB] for at in range(0, len(data), MIB)]


def tree_of(store: Store, *items: Item, length: int | None = None) -> Tree:
    """A tree of items, that may say another length than it has."""
    builder = Builder(lambda data: store.put(data, node=True)[0])
    for item in items:
        builder.add(encode(item), length=item.length)
    return Tree(builder.finish(), builder.total if length is None else length)


def chunk(store: Store, data: bytes) -> Chunk:
    return Chunk(store.put(data)[0], len(data))


# --- kinds of content -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", Empty),
        (b"x", Inline),
        (b"x" * 32, Inline),
        (bytes(32), Inline),
        (b"x" * 33, Block),
        (noise(4096), Block),
        (noise(4097), Block),
        (noise(200 * KIB), Tree),
        (bytes(33), Tree),
        (bytes(4096), Tree),
        (bytes(100 * KIB), Tree),
        (b"x" + bytes(1000), Block),
        (bytes(1000) + b"x", Block),
        (b"x" + bytes(40 * KIB), Tree),
    ],
    ids=range(14),
)
def test_the_bytes_alone_decide_what_a_content_is(
    store: Store, data: bytes, kind: type[Content]
) -> None:
    writer = ContentWriter(store)
    content = writer.write_whole(data)
    assert type(content) is kind
    assert (length_of(content), read_whole(store, content)) == (len(data), data)
    if len(data) > 32:
        assert ContentWriter(store).write([data]) == content
        one = [data[at : at + 4096] for at in range(0, len(data), 4096)]
        assert ContentWriter(store).write(one) == content


@SHARED_STORE
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50_000)), max_size=6))
def test_any_bytes_come_back(store: Store, runs: list[tuple[int, int]]) -> None:
    data = b"".join(bytes(length) if not kind else noise(length, kind) for kind, length in runs)
    content = ContentWriter(store).write_whole(data)
    assert joined(read(store, content)) == data
    assert length_of(content) == len(data)


def test_any_part_comes_back(store: Store) -> None:
    data = (
        noise(300 * KIB) + bytes(100 * KIB) + noise(5000, 1) + bytes(70 * KIB) + b"end" + bytes(9)
    )
    content = ContentWriter(store).write_whole(data)
    rng = random.Random(3)
    edges = [0, 1, 300 * KIB - 1, 300 * KIB, 400 * KIB, len(data) - 1, len(data), len(data) + 9]
    for offset in [*edges, *(rng.randrange(len(data)) for _ in range(100))]:
        for length in (0, 1, 5000, rng.randrange(len(data)), None):
            end = None if length is None else offset + length
            assert joined(read(store, content, offset, length)) == data[offset:end]


def test_a_store_holds_nothing_twice_and_counts_what_is_new(store: Store) -> None:
    writer, data = ContentWriter(store), noise(400 * KIB)
    content = writer.write_whole(data)
    first = writer.new_bytes
    assert len(data) < first < len(data) + 10 * KIB
    assert writer.write_whole(data) == content
    assert writer.new_bytes == first


def test_an_edit_in_the_middle_costs_a_few_chunks(store: Store) -> None:
    writer, data = ContentWriter(store), noise(2 * MIB)
    writer.write(paged(data))
    before = writer.new_bytes
    writer.write(paged(data[:MIB] + b"inserted" + data[MIB:]))
    assert 0 < writer.new_bytes - before < 200 * KIB


# --- holes ------------------------------------------------------------------------------------


def test_holes_come_back_as_holes(store: Store) -> None:
    content = ContentWriter(store).write_whole(noise(64 * KIB) + bytes(100 * KIB) + noise(9, 1))
    pieces = list(read(store, content))
    assert [piece for piece in pieces if isinstance(piece, int)] == [100 * KIB]
    assert list(read(store, content, 64 * KIB + 5, 10)) == [10]


def test_a_sparse_tebibyte_costs_nothing(store: Store) -> None:
    writer = ContentWriter(store)
    content = writer.write([noise(4096), TIB, noise(4096, 1), TIB])
    assert length_of(content) == 2 * TIB + 8192
    assert writer.new_bytes < 10 * KIB
    assert joined(read(store, content, TIB + 4096, 4096)) == noise(4096, 1)
    assert list(read(store, content, 2 * TIB, 50)) == [50]
    assert sum(p if isinstance(p, int) else len(p) for p in read(store, content)) == 2 * TIB + 8192
    assert writer.write([noise(4096), *[MIB] * 100]) == writer.write([noise(4096), 100 * MIB])


# --- slices -----------------------------------------------------------------------------------


def test_slices_are_served(store: Store) -> None:
    inner = noise(200 * KIB) + bytes(50 * KIB) + noise(10_000, 1)
    whole = ContentWriter(store).write_whole(inner)
    small = ContentWriter(store).write_whole(b"small but more than thirty-two bytes")
    items: list[Item] = [
        Slice(whole, 1000, 90_000),
        Hole(4096),
        chunk(store, b"plain"),
        Slice(small, 6, 3),
        Slice(Inline(b"inline"), 2, 4),
        Slice(whole, 190 * KIB, len(inner) - 190 * KIB),
    ]
    data = inner[1000:91_000] + bytes(4096) + b"plain" + b"but" + b"line" + inner[190 * KIB :]
    content = tree_of(store, *items)
    assert joined(read(store, content)) == data
    for offset in [*range(0, len(data), 7001), 90_000, 94_096, 94_101, 94_104, 94_107]:
        assert joined(read(store, content, offset, 9000)) == data[offset : offset + 9000]


def test_slices_of_slices_end(store: Store) -> None:
    content: Content = Inline(b"bottom")
    for depth in itertools.count():
        content = tree_of(store, Slice(content, 0, 6))
        if depth < 8:
            assert read_whole(store, content) == b"bottom"
        else:
            with pytest.raises(Corrupt, match="too deep"):
                read_whole(store, content)
            break


# --- what lies --------------------------------------------------------------------------------


def test_a_block_longer_than_said_is_corrupt(store: Store) -> None:
    score = store.put(b"x" * 100)[0]
    for content in (Block(score, 99), tree_of(store, Hole(5), Chunk(score, 99))):
        with pytest.raises(Corrupt):
            read_whole(store, content)


def test_a_tree_shorter_than_said_is_corrupt(store: Store) -> None:
    content = tree_of(store, chunk(store, b"x" * 100), Hole(100), length=201)
    with pytest.raises(Corrupt):
        read_whole(store, content)
    with pytest.raises(Corrupt):
        read_whole(store, tree_of(store, Slice(content, 0, 201)))


def test_a_tree_longer_than_said_is_corrupt(store: Store) -> None:
    content = tree_of(store, chunk(store, b"x" * 100), Hole(100), length=150)
    with pytest.raises(Corrupt):
        read_whole(store, content)


def test_a_huge_length_is_refused_and_not_allocated(store: Store) -> None:
    score = store.put(b"x" * 600)[0]
    for content in (Block(score, 2**62), tree_of(store, Chunk(score, 600), Hole(2**62))):
        with pytest.raises(Corrupt):
            read_whole(store, content)


def test_a_missing_block_says_so(store: Store) -> None:
    gone = score_of(b"never put")
    for content in (Block(gone, 9), Tree(gone, 9), tree_of(store, Hole(1), Chunk(gone, 9))):
        with pytest.raises(NotStored):
            read_whole(store, content)


def test_data_where_a_node_is_said_is_corrupt(store: Store) -> None:
    with pytest.raises(Corrupt):
        read_whole(store, Tree(store.put(b"just data")[0], 9))
    with pytest.raises(Corrupt):  # a directory's tree is no file's
        builder = Builder(lambda data: store.put(data, node=True)[0])
        builder.add(encode(Inline(b"x")), length=1)
        read_whole(store, Tree(builder.finish(), 1))


# --- compared by scores -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        noise(100),
        noise(5000),
        noise(300_000),
        bytes(100_000),
        noise(4096) + bytes(64 * KIB),
        bytes(64 * KIB) + noise(40_000),
        noise(100) + bytes(3000),
        noise(2 * MIB) + bytes(1),
    ],
    ids=range(8),
)
def test_a_file_holds_its_own_content_and_no_other(store: Store, data: bytes) -> None:
    content = ContentWriter(store).write_whole(data)

    def held(other: bytes) -> bool:
        return holds(
            store,
            content,
            lambda offset, length: other[offset : offset + length],
            lambda offset, length: other[offset : offset + length] == bytes(length),
        )

    assert held(data)
    for at in {0, len(data) // 2, len(data) - 1}:
        assert not held(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert not held(data[:-1])
    assert not held(b"")


def test_slices_are_not_compared(store: Store) -> None:
    block = Block(store.put(b"b" * 100)[0], 100)
    content = tree_of(store, Slice(block, 0, 50))
    assert not holds(store, content, lambda *_: b"b" * 50, lambda *_: True)


def test_a_content_whose_nodes_are_gone_is_told(store: Store) -> None:
    with pytest.raises(NotStored):
        holds(store, Tree(score_of(b"nothing here"), 10), lambda *_: b"", lambda *_: True)
