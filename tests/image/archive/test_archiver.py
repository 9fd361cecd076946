"""Whatever is told of a disk, its archive is bit-exact and sound, and always the same."""

import random
import resource
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support.imaging import (
    DIRECTORY,
    Archived,
    bytes_of,
    content_at,
    harms,
    image,
    paths_of,
    regular,
    surveyed,
    volume_of,
)
from tests.support.memorydisk import MemoryDisk
from tests.support.stores import new_store
from ventifs.image.archive.archiver import ImageArchiver
from ventifs.image.archive.disk_worker import disk_handlers
from ventifs.image.archive.extent_map import Placement
from ventifs.image.archive.spool import Spool
from ventifs.image.archive.volume_files import VolumeFiles
from ventifs.image.disk import Span
from ventifs.image.survey_events import (
    Ended,
    Event,
    FoundName,
    Free,
    Inode,
    Noted,
    Surveyed,
    Volume,
    VolumeBatch,
)
from ventifs.store import Store
from ventifs.tree.archive.worker import WorkerService
from ventifs.tree.objects.content import read
from ventifs.tree.objects.directory import resolve, tree
from ventifs.tree.objects.records import LENGTH_MAX, Inline, length_of
from ventifs.tree.process_pool import Done
from ventifs.tree.versions.catalog import tree_score

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
    mode=st.sampled_from(
        [0o100644] * 6
        + [0o40755] * 3
        + [0o120777, 0o20600, 0o60600, 0o10600, 0o140600, 0, -1, 2**20, 0o170000]
    ),
    uid=st.sampled_from([0, 2**32 - 1, 2**32, -1]),
    gid=st.just(0),
    mtime_ns=st.sampled_from([0, -1, 2**63, 2**64 - 1]),
    links=st.integers(0, 3),
    size=st.one_of(st.integers(0, 100_000), st.sampled_from([-1, 2**40, 2**62, 2**63 - 1, 2**63])),
    rdev=st.sampled_from([(0, 0), (8, 1), (2**20, 0)]),
    target=st.sampled_from([b"", b"t", b"\0", b"t" * 5000]),
    xattrs=st.lists(pairs, max_size=2).map(tuple),
    extents=extents,
    data=st.sampled_from([b""] * 4 + [b"inline", b"d" * 100]),
)
nodes = st.builds(
    FoundName,
    key=keys,
    number=st.sampled_from([2, 3, 4, 5, 2**64 - 1]),
    inode=st.one_of(st.none(), inodes, inodes, inodes),
    problem=st.sampled_from(["", "", "odd"]),
)
ranges = st.lists(st.tuples(places, places), max_size=3).map(tuple)
volumes = st.builds(
    Volume,
    name=st.sampled_from(["1", "2", "vg-root", "", ".", "a/b", "n" * 252, "ü" * 126]),
    logical=st.booleans(),
    ranges=ranges,
    filesystem=st.sampled_from(["", "ext4"]),
)
events = st.one_of(
    volumes,
    nodes,
    nodes,
    nodes,
    st.just(FoundName(b"", 2, DIRECTORY)),
    st.builds(Free, ranges),
    st.just(Ended()),
    st.just(Ended("damaged", ("note",))),
    st.just(Noted("a note")),
)


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
    archived = image(
        store, MemoryDisk(size, {0: data}), [first, FoundName(b"", 2, DIRECTORY), *told]
    )
    content = content_at(store, archived.root, b"disk.img")
    assert length_of(content) == size
    assert bytes_of(store, content) == data
    assert harms(store, archived.root) == []
    again = image(store, MemoryDisk(size, {0: data}), [first, FoundName(b"", 2, DIRECTORY), *told])
    assert tree_score(again.root) == tree_score(archived.root)


kib = st.integers(0, 24).map(lambda number: number * KIB)
crossing = st.lists(
    st.lists(st.tuples(kib, kib, st.integers(1, 8).map(lambda n: n * KIB)), max_size=4).map(tuple),
    max_size=5,
)


@given(files=crossing, size=st.integers(1, 30_000), seed=st.integers(0, 5))
def test_extents_may_cross_each_other(
    store: Store, files: list[tuple[tuple[int, int, int], ...]], size: int, seed: int
) -> None:
    """In a file, or between files; what is left of them is what the file holds."""
    data = bytes_for(33 * KIB, seed)
    told = [FoundName(b"%d" % n, 50 + n, regular(size, *each)) for n, each in enumerate(files)]
    archived = image(store, MemoryDisk(len(data), {0: data}), volume_of(len(data), *told))
    assert bytes_of(store, content_at(store, archived.root, b"disk.img")) == data
    assert harms(store, archived.root) == []


@given(
    size=sizes,
    seed=st.integers(0, 5),
    told=st.lists(events, max_size=14),
    change=st.integers(0, 99_999),
    drop_free=st.booleans(),
)
@settings(max_examples=200)
def test_what_the_last_version_has_makes_no_difference(
    store: Store, size: int, seed: int, told: list[Event], change: int, drop_free: bool
) -> None:
    told = [Volume("1", False, ((0, size),)), FoundName(b"", 2, DIRECTORY), *told]
    before = bytes_for(size, seed)
    end = min(size, change + 5000)
    after = before[:change] + bytes(end - change if end > change else 0) + before[end:]
    after = after[:size]
    last = image(store, MemoryDisk(size, {0: before}), told, drop_free=drop_free)
    now = image(store, MemoryDisk(size, {0: after}), told, drop_free=drop_free)
    same = [(low, high) for low, high in [(0, min(change, size)), (end, size)] if low < high]
    for known in ([], same):
        archived = image(
            store,
            MemoryDisk(size, {0: after}),
            told,
            drop_free=drop_free,
            previous=content_at(store, last.root, b"disk.img"),
            same=known,
        )
        assert tree_score(archived.root) == tree_score(now.root)
        assert archived.troubles == now.troubles


@given(size=sizes, seed=st.integers(0, 5), told=st.lists(events, max_size=14))
def test_only_what_is_told_to_be_free_is_dropped(
    store: Store, size: int, seed: int, told: list[Event]
) -> None:
    data = bytes_for(size, seed)
    free = {
        place
        for event in told
        if isinstance(event, Free)
        for low, high in event.ranges
        for place in range(max(low, 0), min(high, size))
    }
    archived = image(store, MemoryDisk(size, {0: data}), told, drop_free=True)
    content = bytes_of(store, content_at(store, archived.root, b"disk.img"))
    assert len(content) == size
    assert all(
        now == was or (now == 0 and place in free)
        for place, (now, was) in enumerate(zip(content, data, strict=True))
    )
    assert harms(store, archived.root) == []


def test_what_is_free_in_one_volume_is_kept_for_another(store: Store) -> None:
    """Partitions may overlap, when a table is damaged; the logical ones of LVM always do."""
    data = b"x" * 40_960

    def kept(*others: Volume) -> bytes:
        free = Free(((0, 20_480),))
        told: list[Event] = [Volume("1", False, ((0, 20_480),)), free, Ended()]
        for other in others:
            told += [other, Ended()]
        archived = image(store, MemoryDisk(40_960, {0: data}), told, drop_free=True)
        return bytes_of(store, content_at(store, archived.root, b"disk.img"))

    assert kept() == bytes(20_480) + data[20_480:]
    assert kept(Volume("2", False, ((20_480, 40_960),))) == kept()
    assert kept(Volume("2", False, ((0, 40_960),), filesystem="LVM2_member")) == kept()
    over = Volume("2", False, ((12_288, 16_384), (18_000, 40_960)))
    assert kept(over) == bytes(12_288) + data[:4096] + bytes(18_000 - 16_384) + data[18_000:]
    assert kept(over, Volume("a-b", True, ((12_288, 40_960),))) == bytes(12_288) + data[12_288:]


# --- always the same --------------------------------------------------------------------------


def some_files(count: int, seed: int = 0, block: int = KIB) -> tuple[bytes, list[FoundName]]:
    """A disk of 1 MiB and files on it, in odd places, some in several pieces, some shared."""
    chance = random.Random(seed)
    data = bytearray(bytes_for(1 << 20, seed))
    blocks = (1 << 20) // block
    nodes: list[FoundName] = [FoundName(b"d", 3, DIRECTORY)]
    for number in range(count):
        places, logical = [], 0
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            length = block * chance.choice([1, 1, 2, 7, 20])
            logical += block * chance.choice([0, 0, 0, 1, 40])
            start = block * chance.randrange(blocks - length // block)
            places.append((logical, start, length))
            logical += length
        size = max(logical - chance.randrange(block), 1)
        links = chance.choice([1, 1, 2])
        key = b"d\0%d" % number if number % 2 else b"%d" % number
        nodes.append(FoundName(key, 100 + number, regular(size, *places, links=links)))
        if links == 2:
            nodes.append(FoundName(b"d\0also%d" % number, 100 + number, None))
    return bytes(data), nodes


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [512, KIB, 4 * KIB])
def test_files_hold_what_their_extents_do(store: Store, seed: int, block: int) -> None:
    data, nodes = some_files(30, seed, block)
    archived = image(store, MemoryDisk(len(data), {0: data}), volume_of(len(data), *nodes))
    assert archived.troubles == []
    assert bytes_of(store, content_at(store, archived.root, b"disk.img")) == data
    for node in nodes:
        if node.inode is not None and node.key != b"d":
            held = bytearray(node.inode.size)
            for logical, start, length in node.inode.extents:
                held[logical : logical + length] = data[start : start + length]
            path = b"files/1/" + node.key.replace(b"\0", b"/")
            assert (
                bytes_of(store, content_at(store, archived.root, path)) == held[: node.inode.size]
            )


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_files_makes_no_difference(store: Store, seed: int) -> None:
    data, nodes = some_files(40, seed)
    disk = MemoryDisk(len(data), {0: data})
    archived = image(store, disk, volume_of(len(data), *nodes))
    first = [node for node in nodes if node.inode is not None]
    random.Random(seed).shuffle(first)
    others = [node for node in nodes if node.inode is None]
    again = image(store, disk, volume_of(len(data), *first, *others))
    assert again == archived
    assert archived.troubles == []


def test_how_a_disk_keeps_zeros_makes_no_difference(store: Store) -> None:
    """Spans need not follow blocks: a partition may begin at any sector."""
    data = bytearray(bytes_for(300_000, 1))
    data[70_000:200_000] = bytes(130_000)

    class Sparse(MemoryDisk):
        def spans(self, start: int, end: int) -> Iterator[Span]:
            yield Span(start, max(start, min(end, 70_144)), True)
            if end > 70_144:
                yield Span(max(start, 70_144), min(end, 199_168), False)
            if end > 199_168:
                yield Span(max(start, 199_168), end, True)

    events: list[Event] = [Volume("1", False, ((63 * 512, len(data)),)), Ended()]
    pieces = {0: bytes(data)}
    sparse = image(store, Sparse(len(data), pieces), events)
    assert sparse == image(store, MemoryDisk(len(data), pieces), events)
    assert bytes_of(store, content_at(store, sparse.root, b"disk.img")) == data


def test_a_partition_is_archived_as_if_it_were_alone(store: Store) -> None:
    data, nodes = some_files(30, 3)
    alone = image(store, MemoryDisk(len(data), {0: data}), volume_of(len(data), *nodes))
    for start in (512, 63 * 512, 1 << 20):
        moved = [
            replace(
                node,
                inode=replace(
                    node.inode,
                    extents=tuple(
                        (logical, place + start, length)
                        for logical, place, length in node.inode.extents
                    ),
                ),
            )
            if node.inode is not None
            else node
            for node in nodes
        ]
        disk = MemoryDisk(start + len(data) + 700, {0: b"boot" * 100, start: data})
        whole = image(store, disk, volume_of(len(data), *moved, name="3", start=start))
        assert content_at(store, whole.root, b"partitions/3.img") == content_at(
            store, alone.root, b"disk.img"
        )
        assert replace(resolve(store, whole.root, b"files/3"), name=b"1") == resolve(
            store, alone.root, b"files/1"
        )
        assert harms(store, whole.root) == []


@pytest.mark.parametrize(
    "ranges",
    [
        ((8192, 20_000), (0, 4096), (40_960, 65_536)),
        ((0, 100), (0, 100)),
        ((65_000, 65_536),),
    ],
)
def test_logical_volumes_are_their_ranges_in_order(
    store: Store, ranges: tuple[tuple[int, int], ...]
) -> None:
    data = bytes_for(65_536, 2)
    disk = MemoryDisk(len(data), {0: data})
    archived = image(store, disk, [Volume("vg-root", True, ranges), Ended()])
    volume = content_at(store, archived.root, b"volumes/vg-root.img")
    assert bytes_of(store, volume) == b"".join(data[start:end] for start, end in ranges)
    assert harms(store, archived.root) == []


# --- odd files --------------------------------------------------------------------------------


def told_about(store: Store, *nodes: FoundName, size: int = 65_536) -> Archived:
    archived = image(store, MemoryDisk(size, {0: bytes_for(size, 4)}), volume_of(size, *nodes))
    content = content_at(store, archived.root, b"disk.img")
    assert bytes_of(store, content) == bytes_for(size, 4)
    assert harms(store, archived.root) == []
    return archived


def test_a_second_name_of_a_file_that_says_it_has_one_is_a_trouble(store: Store) -> None:
    one = regular(100, (0, 4096, 4096))
    archived = told_about(
        store, FoundName(b"a", 12, one), FoundName(b"b", 12, None), FoundName(b"c", 13, None)
    )
    assert {trouble.path for trouble in archived.troubles} == {b"files/1/b", b"files/1/c"}
    assert b"files/1/a" in paths_of(store, archived.root)


def test_a_second_name_of_a_file_that_could_not_be_archived_is_a_trouble(store: Store) -> None:
    bad = regular(2**63, (0, 4096, 4096), links=2)
    archived = told_about(store, FoundName(b"a", 12, bad), FoundName(b"b", 12, None))
    assert [trouble.missing for trouble in archived.troubles] == [True, True]


def test_numbers_of_inodes_are_not_taken_for_something_else(store: Store) -> None:
    """A linked file may have any number, also one that counts entries."""
    single = [
        FoundName(b"s%d" % number, 100 + number, regular(10, (0, 0, 4096))) for number in range(9)
    ]
    for number in range(12):
        archived = told_about(
            store,
            *single[:4],
            FoundName(b"a", number, regular(50, (0, 4096, 4096), links=2)),
            FoundName(b"b", number, None),
            *single[4:],
        )
        links = {path: each.link for path, each in tree(store, archived.root) if each.link}
        assert set(links) == {b"files/1/a", b"files/1/b"}
        assert len(set(links.values())) == 1


def test_two_files_with_one_number_are_two_files(store: Store) -> None:
    archived = told_about(
        store,
        FoundName(b"a", 12, regular(50, (0, 4096, 4096), links=2)),
        FoundName(b"b", 12, regular(60, (0, 8192, 4096), links=2)),
        FoundName(b"c", 12, None),
    )
    size = {p: length_of(content_at(store, archived.root, b"files/1/" + p)) for p in (b"a", b"c")}
    assert size == {b"a": 50, b"c": 60}
    assert resolve(store, archived.root, b"files/1/a").link == b""


def test_a_file_in_any_number_of_pieces_is_read(store: Store) -> None:
    """More of them than a request to a worker can name."""
    places = tuple((16 * number, 16 * (5000 - number), 16) for number in range(5000))
    archived = told_about(store, FoundName(b"a", 12, regular(80_000, *places)), size=90_000)
    data = bytes_for(90_000, 4)
    assert archived.troubles == []
    assert bytes_of(store, content_at(store, archived.root, b"files/1/a")) == b"".join(
        data[start : start + 16] for _, start, _ in places
    )


def test_sizes_that_sum_up_to_more_than_a_total_holds_lose_nothing(store: Store) -> None:
    huge = regular(2**62 - 2**40)
    many = [FoundName(b"%d" % number, 100 + number, huge) for number in range(5)]
    archived = told_about(
        store,
        *many,
        FoundName(b"a", 12, regular(2**61, links=9)),
        *[FoundName(b"b%d" % number, 12, None) for number in range(9)],
    )
    assert archived.troubles == []
    assert len([path for path in paths_of(store, archived.root) if b"files/1/" in path]) == 15
    assert length_of(content_at(store, archived.root, b"files/1/0")) == 2**62 - 2**40


def test_bytes_after_a_files_end_are_kept(store: Store) -> None:
    data = b"a" * 100 + b"stale" * 100 + bytes(3496) + b"next" * 1024
    disk = MemoryDisk(8192, {0: data})
    archived = image(store, disk, volume_of(8192, FoundName(b"a", 12, regular(100, (0, 0, 4096)))))
    assert bytes_of(store, content_at(store, archived.root, b"files/1/a")) == b"a" * 100
    assert bytes_of(store, content_at(store, archived.root, b"disk.img")) == data


def test_tiny_and_inline_files(store: Store) -> None:
    archived = told_about(
        store,
        FoundName(b"a", 12, regular(20, (0, 4096, 4096))),
        FoundName(b"b", 13, regular(5, (0, 4096, 4096), data=b"other")),
        FoundName(b"c", 14, regular(0, (0, 4096, 4096))),
        FoundName(b"d", 15, regular(6, data=b"five.")),
    )
    assert content_at(store, archived.root, b"files/1/a") == Inline(bytes_for(4116, 4)[4096:])
    assert content_at(store, archived.root, b"files/1/b") == Inline(b"other")
    assert [trouble.path for trouble in archived.troubles] == [b"files/1/d"]


@pytest.mark.parametrize("key", [b"a/b\0c", b"\0c", b"a\0\0c", b"a\0..\0c", b"n" * 256 + b"\0c"])
def test_names_that_cannot_be_are_troubles(store: Store, key: bytes) -> None:
    archived = told_about(
        store,
        FoundName(key, 12, regular(20, (0, 4096, 4096))),
        FoundName(b"x\0y", 13, regular(20, (0, 4096, 4096))),
    )
    assert [(each.path[:7], each.missing) for each in archived.troubles if each.missing] == [
        (b"files/1", True)
    ]
    closed = [each.path for each in archived.troubles if not each.missing]
    assert closed == [b"files/1/x"]  # it was not told itself
    below = [path for path in paths_of(store, archived.root) if path.startswith(b"files/1/")]
    assert below == [b"files/1/x", b"files/1/x/y"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"uid": 2**32},
        {"gid": 2**32},
        {"mode": 0o40750 | 1 << 16},
    ],
)
def test_a_directory_whose_attributes_cannot_be_kept_is_closed(
    store: Store, wrong: dict[str, int]
) -> None:
    """It must look neither open nor another's; a file like it is left out."""
    private = replace(replace(DIRECTORY, mode=0o40750), **wrong)
    key = regular(20, (0, 4096, 4096))
    lost = replace(key, uid=2**32)
    archived = told_about(
        store,
        FoundName(b"private", 12, private),
        FoundName(b"private\0key", 13, key),
        FoundName(b"lost", 14, lost),
    )
    assert [(each.path, each.missing) for each in archived.troubles] == [
        (b"files/1/private", False),
        (b"files/1/lost", True),
    ]
    closed = resolve(store, archived.root, b"files/1/private")
    assert (closed.mode, closed.uid, closed.gid, closed.mtime_ns) == (0o40700, 0, 0, 0)
    assert b"files/1/private/key" in paths_of(store, archived.root)


def test_what_is_refused_is_not_stored_twice(store: Store) -> None:
    data = random.Random(7).randbytes(1 << 20)
    disk = MemoryDisk(1 << 20, {0: data})
    odd = FoundName(b"a/b", 12, regular(900_000, (0, 8192, 900_096)))
    archiver = ImageArchiver(store, disk)
    archiver.run(surveyed(volume_of(1 << 20, odd)))
    assert [trouble.reason for trouble in archiver.troubles]
    assert archiver.tally.new_bytes < 1.1 * len(data)


def test_the_first_end_that_a_parser_tells_counts(store: Store) -> None:
    """In whatever order batches come back."""
    garbage, ended = (
        VolumeBatch(b"\xff"),
        VolumeBatch(msgspec.msgpack.encode([Ended("", ("fine",))])),
    )
    for first, second, problem in ((garbage, ended, "cannot know"), (ended, garbage, "")):
        for backwards in (False, True):
            asked: list[tuple[bytes, Done]] = []
            ask = partial(_keep, asked)
            with Spool() as spool, Placement() as placed:
                files = VolumeFiles(
                    Volume("1", False, ()), spool, placed, lambda *_: None, drop_free=False
                )
                told: list[Surveyed] = [first, second, Ended("relay")]
                files.take(iter(told), ask)
                handle = WorkerService(
                    lambda: store, partial(disk_handlers, MemoryDisk(0, {}))
                ).handle
                for request, done in asked[::-1] if backwards else asked:
                    done(handle(request, ()))
            assert problem in files.ended.problem
            assert bool(problem) == bool(files.ended.problem)


def _keep(asked: list[tuple[bytes, Done]], request: bytes, done: Done) -> None:
    asked.append((request, done))


def test_a_thousand_volumes_need_no_thousand_descriptors(store: Store) -> None:
    data = bytes_for(1 << 20, 3)
    told: list[Event] = []
    for number in range(1100):
        told += volume_of(
            512,
            FoundName(b"f", 12, regular(100, (0, 512 * number, 512))),
            name=str(number),
            start=512 * number,
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        archived = image(store, MemoryDisk(1 << 20, {0: data}), told)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert archived.troubles == []
    for number in (0, 7, 1099):
        content = content_at(store, archived.root, b"files/%d/f" % number)
        assert bytes_of(store, content) == data[512 * number : 512 * number + 100]


def test_attributes_that_cannot_be_are_left_out(store: Store) -> None:
    inode = regular(20, (0, 4096, 4096))
    wrong = ((b"user.b", b"1"), (b"user.a", b"x" * 600))
    archived = told_about(
        store,
        FoundName(b"a", 12, replace(inode, xattrs=wrong)),
        FoundName(b"b", 13, replace(inode, xattrs=wrong[::-1])),
    )
    assert [(each.path, each.missing) for each in archived.troubles] == [(b"files/1/a", False)]


def test_volumes_with_names_that_cannot_be_are_noted(store: Store) -> None:
    events: list[Event] = []
    for name in ("1", "1", "a/b", "", "n" * 252):
        events += volume_of(4096, FoundName(b"f", 9, regular(10, (0, 0, 4096))), name=name)
    archived = image(store, MemoryDisk(4096, {0: b"x" * 4096}), events)
    assert paths_of(store, archived.root) == [
        b"disk.img",
        b"files",
        b"files/1",
        b"files/1/f",
        b"partitions",
        b"partitions/1.img",
    ]
    assert len(archived.facts.notes) == 4
    assert harms(store, archived.root) == []


# --- size -------------------------------------------------------------------------------------


class SparseDisk(MemoryDisk):
    """One that tells where its pieces are."""

    def spans(self, start: int, end: int) -> Iterator[Span]:
        at = start
        for place, piece in self._pieces:
            low, high = max(place, at), min(place + len(piece), end)
            if low < high:
                if low > at:
                    yield Span(at, low, False)
                yield Span(low, high, True)
                at = high
        if at < end:
            yield Span(at, end, False)


@pytest.mark.parametrize("size", [1 << 40, LENGTH_MAX])
def test_huge_sparse_disks_are_read_where_they_have_data(store: Store, size: int) -> None:
    pieces = {place * (size // 50) // 4096 * 4096: b"%d" % place * 3000 for place in range(50)}
    disk = SparseDisk(size, pieces)
    archived = image(store, disk, volume_of(size))
    assert disk.reads < 300
    content = content_at(store, archived.root, b"disk.img")
    assert length_of(content) == size
    for place, piece in pieces.items():
        held = b"".join(map(bytes, read(store, content, place, len(piece))))
        assert held == piece
    assert harms(store, archived.root) == []


def test_a_huge_sparse_file_is_no_work_though_it_is_known(store: Store) -> None:
    inode = regular(1 << 60, (0, 4096, 4096), ((1 << 60) - 4096, 8192, 4096))
    data = bytes_for(65_536, 4)
    events = volume_of(65_536, FoundName(b"a", 12, inode))
    first = image(store, MemoryDisk(65_536, {0: data}), events)
    previous = content_at(store, first.root, b"disk.img")
    again = image(store, MemoryDisk(65_536, {0: data}), events, previous=previous)
    assert again == first


# --- rehearsals -------------------------------------------------------------------------------


def test_a_rehearsal_tells_what_the_run_will_make(tmp_path: Path) -> None:
    path = new_store(tmp_path / "store")
    data, nodes = some_files(30, 3)
    disk = MemoryDisk(len(data) + 8192, {4096: data})
    events = volume_of(len(data), *nodes, start=4096)
    with Store.open(path, "rehearse") as rehearsing:
        told = image(rehearsing, disk, events)
    with Store.open(path, "write") as writing:
        assert image(writing, disk, events) == told
