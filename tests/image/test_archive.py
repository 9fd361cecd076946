"""Whatever is told of a disk, its archive is bit-exact and sound, and always the same."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.imaging import (
    DIRECTORY,
    bytes_of,
    content_at,
    harms,
    image,
    paths_of,
    regular,
    volume_of,
)
from tests.support.memorydisk import MemoryDisk
from tests.support.stores import new_store
from ventifs.image.events import Ended, Event, Free, Inode, Node, Noted, Volume
from ventifs.store import Store
from ventifs.tree.catalog import tree_score
from ventifs.tree.records import LENGTH_MAX, Inline, length_of

KIB = 1024


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One that is never committed."""
    with Store.open(new_store(tmp_path_factory.mktemp("image") / "store"), "write") as opened:
        yield opened


# --- anything ---------------------------------------------------------------------------------

sizes = st.sampled_from([0, 1, 31, 32, 33, 511, 4095, 4096, 4097, 20_000, 65_536, 100_001])
places = st.one_of(
    st.integers(0, 30).map(lambda number: number * KIB),
    st.integers(-5000, 130_000),
    st.sampled_from([2**31, 2**62, 2**63 - 1, 2**63, 2**64 - 1]),
)
lengths = st.one_of(
    st.integers(0, 12).map(lambda number: number * KIB),
    st.integers(-100, 70_000),
    st.sampled_from([2**62, 2**63, 2**64 - 1]),
)
extents = st.lists(st.tuples(places, places, lengths), max_size=6).map(tuple)
names = st.sampled_from([b"a", b"b", b"c", b"", b".", b"..", b"x/y", b"n" * 255, b"n" * 256])
keys = st.lists(names, max_size=4).map(b"\0".join)
pairs = st.tuples(
    st.sampled_from([b"user.a", b"user.b", b"", b"n\0"]), st.sampled_from([b"", b"v" * 600])
)
inodes = st.builds(
    Inode,
    mode=st.sampled_from([0o100644] * 6 + [0o40755] * 3
                         + [0o120777, 0o20600, 0o60600, 0o10600, 0o140600, 0, -1, 2**20, 0o170000]),
    uid=st.sampled_from([0, 2**32 - 1, 2**32, -1]),
    gid=st.just(0),
    mtime_ns=st.sampled_from([0, -1, 2**63, 2**64 - 1]),
    links=st.integers(0, 3),
    size=st.one_of(st.integers(0, 100_000),
                   st.sampled_from([-1, 2**40, 2**62, 2**63 - 1, 2**63])),
    rdev=st.sampled_from([(0, 0), (8, 1), (2**20, 0)]),
    target=st.sampled_from([b"", b"t", b"\0", b"t" * 5000]),
    xattrs=st.lists(pairs, max_size=2).map(tuple),
    extents=extents,
    data=st.sampled_from([b""] * 4 + [b"inline", b"d" * 100]),
)  # fmt: skip
nodes = st.builds(
    Node, key=keys, number=st.sampled_from([2, 3, 4, 5, 2**64 - 1]),
    inode=st.one_of(st.none(), inodes, inodes, inodes), problem=st.sampled_from(["", "", "odd"]),
)  # fmt: skip
ranges = st.lists(st.tuples(places, places), max_size=3).map(tuple)
volumes = st.builds(
    Volume, name=st.sampled_from(["1", "2", "vg-root", "", ".", "a/b", "n" * 252, "ü" * 126]),
    logical=st.booleans(), ranges=ranges, filesystem=st.sampled_from(["", "ext4"]),
)  # fmt: skip
events = st.one_of(
    volumes, nodes, nodes, nodes,
    st.just(Node(b"", 2, DIRECTORY)),
    st.builds(Free, ranges), st.just(Ended()), st.just(Ended("damaged", ("note",))),
    st.just(Noted("a note")),
)  # fmt: skip


def bytes_for(size: int, seed: int) -> bytes:
    """Noise, text and zeros."""
    chance, parts, made = random.Random(seed), [], 0
    while made < size:
        length = chance.choice([512, 1024, 4096, 5000, 40_000])
        parts.append(chance.choice([bytes(length), b"x" * length, chance.randbytes(length)]))
        made += length
    return b"".join(parts)[:size]


@given(size=sizes, seed=st.integers(0, 5), told=st.lists(events, max_size=14))
@settings(max_examples=300)
def test_whatever_is_told_the_archive_is_exact_and_sound(
    store: Store, size: int, seed: int, told: list[Event]
) -> None:
    data = bytes_for(size, seed)
    first = Volume("1", False, ((0, size),))
    archived = image(store, MemoryDisk(size, {0: data}), [first, Node(b"", 2, DIRECTORY), *told])
    content = content_at(store, archived.root, b"disk.img")
    assert length_of(content) == size
    assert bytes_of(store, content) == data
    assert harms(store, archived.root) == []
    again = image(store, MemoryDisk(size, {0: data}), [first, Node(b"", 2, DIRECTORY), *told])
    assert tree_score(again.root) == tree_score(archived.root)


@given(size=sizes, seed=st.integers(0, 5), told=st.lists(events, max_size=14),
       change=st.integers(0, 99_999), drop_free=st.booleans())  # fmt: skip
@settings(max_examples=200)
def test_what_the_last_version_has_makes_no_difference(
    store: Store, size: int, seed: int, told: list[Event], change: int, drop_free: bool
) -> None:
    told = [Volume("1", False, ((0, size),)), Node(b"", 2, DIRECTORY), *told]
    before = bytes_for(size, seed)
    end = min(size, change + 5000)
    after = before[:change] + bytes(end - change if end > change else 0) + before[end:]
    after = after[:size]
    last = image(store, MemoryDisk(size, {0: before}), told, drop_free=drop_free)
    now = image(store, MemoryDisk(size, {0: after}), told, drop_free=drop_free)
    same = [(low, high) for low, high in [(0, min(change, size)), (end, size)] if low < high]
    for known in ([], same):
        archived = image(
            store, MemoryDisk(size, {0: after}), told, drop_free=drop_free,
            previous=content_at(store, last.root, b"disk.img"), same=known,
        )  # fmt: skip
        assert tree_score(archived.root) == tree_score(now.root)
        assert archived.troubles == now.troubles


