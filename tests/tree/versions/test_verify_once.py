"""A check of versions reads each node once, whatever number of versions and paths refer to it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dropping import arenas_of, copy_from, sealed
from tests.support.forging import commit_version, directory, file, tree_of
from tests.support.stores import new_store
from tests.support.trees import noise
from ventifs.store import Score, Store
from ventifs.store.arena import HEADER_SIZE
from ventifs.store.leases import Lease, Leases
from ventifs.store.score import score_of
from ventifs.tree.objects import prolly
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.directory import resolve
from ventifs.tree.objects.records import Block, Content, Directory, Entry, RegularFile, Slice, Tree
from ventifs.tree.versions import node_facts, verify
from ventifs.tree.versions.catalog import Version, versions
from ventifs.tree.versions.forgotten import bringing_back, forgetting, forgotten
from ventifs.tree.versions.reachable import RefKind, reach_version
from ventifs.tree.versions.verify import PATHS_MAX, REASONS_MAX, Harm, Verifier

LARGE = noise(4_000_000)  # some 250 chunks, in several nodes


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        yield opened


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each node was read."""
    load, found = prolly.load, Counter[bytes]()

    def counted(get: object, score: Score, level: int | None) -> object:
        found[score] += 1
        return load(get, score, level)  # type: ignore[arg-type]

    monkeypatch.setattr(node_facts, "load", counted)
    return found


def write(store: Store, data: bytes) -> Content:
    return ContentWriter(store).write_whole(data)


def nights(store: Store, count: int) -> list[Version]:
    """Versions of a disk's image and a directory: every night a few bytes and one name change."""
    made = []
    image = bytearray(LARGE)
    large = file(b"large", write(store, LARGE[::-1]))
    for night in range(count):
        image[night * 90_000] ^= 0xFF
        content = write(store, bytes(image))
        disk = file(b"disk", content)
        files = file(b"files", tree_of(store, [Slice(content, 7, 900_000), Slice(content, 9, 8)]))
        many = [file(b"%04d" % each, write(store, noise(90, each))) for each in range(300)]
        many[night] = file(b"%04d" % night, write(store, b"changed" * 90))
        sub = directory(store, b"sub", [*many, large])
        root = directory(store, b"", [disk, files, directory(store, b"other", many[50:]), sub])
        made.append(commit_version(store, root, time_ns=night))
    return made


def nodes_of(store: Store, some: list[Version]) -> set[bytes]:
    return {
        ref.score
        for version in some
        for ref in reach_version(store, version, set())
        if ref.kind is not RefKind.DATA
    }


def harms(verifier: Verifier, some: list[Version]) -> list[Harm]:
    return [harm for version in some for harm in verifier.version(version)]


def resolved(store: Store, version: Version, path: bytes) -> Content:
    detail = resolve(store, version.root, path).detail
    assert isinstance(detail, RegularFile | Directory)
    return detail.content


def score_at(store: Store, version: Version, path: bytes) -> Score:
    content = resolved(store, version, path)
    assert isinstance(content, Tree)
    return Score(content.score)


def test_each_node_is_read_once_for_all_versions_and_paths(
    store: Store, read: Counter[bytes]
) -> None:
    made = nights(store, 12)
    each_alone = [len(nodes_of(store, [version])) for version in made]
    distinct = nodes_of(store, made)
    assert sum(each_alone) > 2 * len(distinct)
    assert harms(Verifier(store), made) == []
    assert read == Counter(distinct)


def test_a_version_like_another_costs_nothing(store: Store, read: Counter[bytes]) -> None:
    [one] = nights(store, 1)
    verifier = Verifier(store)
    assert harms(verifier, [one]) == []
    read.clear()
    again = [commit_version(store, one.root, time_ns=100 + each) for each in range(20)]
    asked: list[object] = []
    absent = store.absent
    store.absent = lambda scores: asked.extend(scores) or absent(scores)  # type: ignore[func-returns-value,method-assign]
    assert harms(verifier, again) == []
    assert (read, asked) == (Counter(), [])


def test_data_is_confirmed_in_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = nights(store, 3)
    needed = {ref.score for version in made for ref in reach_version(store, version, set())}
    monkeypatch.setattr(verify, "_BATCH", 50)
    batches: list[list[Score]] = []
    absent = store.absent
    store.absent = lambda scores: batches.append(list(scores)) or absent(scores)  # type: ignore[func-returns-value,method-assign]
    assert harms(Verifier(store), made) == []
    assert set().union(*batches) == needed
    assert max(map(len, batches)) == 50


def test_what_is_harmed_is_read_a_second_time_and_named_in_every_version(
    store: Store, read: Counter[bytes]
) -> None:
    made = nights(store, 6)
    lost = score_at(store, made[0], b"sub/large")
    store._index.drop_block(lost)
    found = harms(Verifier(store), made)
    assert {(harm.version, harm.path) for harm in found} == {
        (str(version), b"sub/large") for version in made
    }
    assert {lost.hex() in harm.reason for harm in found} == {True}
    fresh = nodes_of_all_but(store, made, lost)
    # Each node: once to judge it, once to find what is harmed, and the harmed ones once a version.
    assert sum(read.values()) <= 2 * len(fresh) + 8 * len(made)


def nodes_of_all_but(store: Store, made: list[Version], lost: Score) -> set[bytes]:
    seen = {lost}
    return {
        ref.score
        for version in made
        for ref in reach_version(store, version, seen)
        if ref.kind is not RefKind.DATA
    }


def test_a_block_of_a_slices_content_harms_every_file_that_shows_it(store: Store) -> None:
    made = nights(store, 2)
    data = [
        ref.score
        for ref in reach_version(store, made[0], set())
        if ref.kind is RefKind.DATA and len(store.get(ref.score)) > 10_000
    ]
    in_image = next(score for score in data if bytes(store.get(score)) in LARGE)
    store._index.drop_block(in_image)
    found = {(harm.version, harm.path) for harm in harms(Verifier(store), made)}
    assert {path for _, path in found} == {b"disk", b"files"}
    assert (str(made[0]), b"disk") in found


def test_the_paths_of_a_version_and_the_reasons_of_a_path_are_bounded(store: Store) -> None:
    lost = write(store, noise(5000))
    many = [file(b"%05d" % each, lost) for each in range(PATHS_MAX + 50)]
    chunks = write(store, LARGE)
    wide = commit_version(store, directory(store, b"", many), time_ns=1)
    long = commit_version(store, directory(store, b"", [file(b"f", chunks)]), time_ns=2)
    for version in (wide, long):
        for ref in list(reach_version(store, version, set())):
            if ref.kind is RefKind.DATA:
                store._index.drop_block(ref.score)
    verifier = Verifier(store)
    found = harms(verifier, [wide])
    assert [harm.path for harm in found] == [entry.name for entry in many[:PATHS_MAX]]
    assert verifier.cut == [str(wide)]
    found = harms(verifier, [long])
    assert [harm.path for harm in found] == [b"f"] * (REASONS_MAX + 1)
    assert "more than the 10 reasons" in found[-1].reason
    assert verifier.cut == [str(wide)]


def test_what_is_damaged_or_not_indexed_is_said_as_such(store: Store) -> None:
    one, two = write(store, noise(5000)), write(store, noise(6000))
    files = [file(b"one", one), file(b"two", two)]
    version = commit_version(store, directory(store, b"", files))
    scores = [score_of(noise(5000)), score_of(noise(6000))]
    store._index.drop_block(scores[1])
    verifier = Verifier(store, damaged={scores[0]: "wrong bytes"}, unindexed=scores[1:])
    assert [(harm.path, harm.reason) for harm in verifier.version(version)] == [
        (b"one", f"block {scores[0].hex()}: wrong bytes"),
        (b"two", f"block {scores[1].hex()} is in an arena, but not in the index"),
    ]


def test_an_entry_that_leads_a_node_elsewhere_is_a_harm_and_no_failure(store: Store) -> None:
    [version] = nights(store, 1)
    score = score_at(store, version, b"sub")
    place = store._index.locate(score)
    assert place is not None
    store._index.add_blocks(place.arena, [(score, HEADER_SIZE, 3)])
    with Store.open(store.path) as opened:  # with nothing in memory
        verifier = Verifier(opened)
        [harm] = verifier.version(version)
    assert (harm.path, score.hex() in harm.reason) == (b"sub", True)
    assert verifier.misled


# --- forgotten versions --------------------------------------------------------------------------


def forget(store: Store, version: Version) -> None:
    _, (puts, deletes) = forgetting(store, [version], 10)
    store.commit(puts, deletes)


def test_a_forgotten_version_is_checked_as_long_as_it_is_kept(store: Store) -> None:
    one, two = nights(store, 2)
    store._index.drop_block(score_at(store, one, b"disk"))
    forget(store, one)
    [kept] = forgotten(store)
    assert harms(Verifier(store), [one, two]) == []
    [harm] = [each for each in Verifier(store).forgotten(kept) if each.path == b"disk"]
    assert harm.version == str(one)
    puts, deletes = bringing_back(store, [kept])
    store.commit(puts, deletes)
    assert list(Verifier(store).forgotten(kept)) == []


# --- beside a reclaim ----------------------------------------------------------------------------


def unleased(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be leased, as by a user who may not write."""
    monkeypatch.setattr(Leases, "take", lambda self, *_: Lease(self, (), confirmed=False))


@pytest.mark.parametrize("at", range(1, 20, 3))
def test_a_version_that_is_forgotten_and_reclaimed_meanwhile_is_left_out(
    store: Store, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """What was found of it counts for no other version, not even if the same is stored anew."""
    unleased(monkeypatch)
    one, two = nights(store, 2)
    needed = {ref.score for ref in reach_version(store, two, set())}
    only = {ref.score for ref in reach_version(store, one, set())} - needed
    reads = 0

    def reclaiming(opened: Store, node: bytes) -> node_facts.Facts:
        nonlocal reads
        reads += 1
        if reads == at:
            forget(store, one)
            for score in only:
                store._index.drop_block(score)
        return facts_of(opened, node)

    facts_of = node_facts.facts_of
    monkeypatch.setattr(verify, "facts_of", reclaiming)
    with Store.open(store.path, cache_bytes=0) as opened:
        verifier = Verifier(opened)
        assert harms(verifier, [one]) == []
        assert reads >= at
        nights(store, 1)  # stores the same anew, and commits a version of it
        assert harms(verifier, [two, *versions(opened)]) == []


def test_blocks_that_move_meanwhile_are_not_missed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time that data is confirmed, all arenas that are sealed by then have been copied."""
    made = nights(store, 4)
    needed = {ref.score for version in made for ref in reach_version(store, version, set())}
    seal(store)
    monkeypatch.setattr(verify, "_BATCH", 300)
    moved: list[bytes] = []
    with Store.open(store.path, cache_bytes=0) as opened:
        absent = opened.absent

        def moving(scores: set[Score]) -> dict[Score, str]:
            going = sealed(store)
            copy_from(store, going, sorted(needed))
            seal(store)
            store.drop_arenas(going)
            for arena in going:
                arenas_of(store).sealed_path(arena).unlink()
            moved.extend(going)
            return absent(scores)

        opened.absent = moving  # type: ignore[method-assign,assignment]
        assert harms(Verifier(opened), made) == []
    assert len(moved) > 3


def seal(store: Store) -> None:
    """Fill the open arena, so that it is sealed."""
    for number in range(5):
        store.put(noise(999_999, hash((number, store.stored_bytes))))
    store.commit()


def test_extended_attributes_that_are_content_are_checked_like_any_other(store: Store) -> None:
    attributes = tuple((b"user.%d" % each, noise(200, each)) for each in range(9))
    xattrs = ContentWriter(store).write_xattrs(attributes)
    entry: Entry = file(b"f", write(store, b"x" * 90), xattrs)
    version = commit_version(store, directory(store, b"", [entry]))
    assert harms(Verifier(store), [version]) == []
    assert isinstance(xattrs, Block)
    store._index.drop_block(Score(xattrs.score))
    assert [harm.path for harm in harms(Verifier(store), [version])] == [b"f"]
