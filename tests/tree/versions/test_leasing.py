"""Leases on versions: taken before the catalog is looked at, and by all that reads a version."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

import pytest

from tests.support.forging import commit_version
from tests.support.leasing import files
from tests.support.stores import new_store
from tests.support.trees import archived, noise
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.store.leases import leased as all_leased
from ventifs.tree.archive.file_reader import Trouble
from ventifs.tree.objects.content import ContentWriter, read_whole
from ventifs.tree.objects.records import Empty, RegularFile, decode_entry, encode_entry
from ventifs.tree.versions.catalog import (
    Version,
    decode_version,
    encode_version,
    find_version,
    version_key,
    versions,
)
from ventifs.tree.versions.copy import copy
from ventifs.tree.versions.exclusive import exclusive
from ventifs.tree.versions.history import history
from ventifs.tree.versions.leasing import ForgottenMeanwhile, lease, leased
from ventifs.tree.versions.troubles import Troubles, fitted, troubles_of
from ventifs.tree.versions.verify import Verifier


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with two versions of `t`, which differ."""
    store, source = new_store(tmp_path / "store"), tmp_path / "source"
    (source / "dir").mkdir(parents=True)
    for number in range(2):
        (source / "dir" / "file").write_bytes(noise(100_000, number))
        archived(store, source, time_ns=number + 1)
    return store


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with Store.open(root, "write") as opened:
        yield opened


def root_of(version: Version) -> bytes:
    return encode_entry(version.root, root=True)


def forget(store: Store, version: Version) -> None:
    assert version.record is not None
    store.commit(deletes=[version.record])


def test_a_version_is_leased_until_it_is_released(store: Store) -> None:
    first, second = versions(store)
    with leased(store, first):
        held = lease(store, second)
        assert all_leased(store.path) == [root_of(first), root_of(second)]
    assert all_leased(store.path) == [root_of(second)]
    held.release()
    assert all_leased(store.path) == []


def test_a_version_that_was_forgotten_is_refused_and_not_leased(store: Store) -> None:
    first, _ = versions(store)
    forget(store, first)
    with pytest.raises(ForgottenMeanwhile, match=r"^t@1970-01-01T00:00:00.000000001Z: it was"):
        lease(store, first)
    assert all_leased(store.path) == []


def test_a_version_that_is_leased_is_leased_again_when_it_was_forgotten(store: Store) -> None:
    first, _ = versions(store)
    with leased(store, first):
        forget(store, first)
        with leased(store, first):
            pass
        with Store.open(store.path) as other, pytest.raises(ForgottenMeanwhile):
            lease(other, first)
    with pytest.raises(ForgottenMeanwhile):
        lease(store, first)


def test_one_that_is_about_to_be_refused_lets_no_other_in(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads lease a version that was forgotten: neither vouches for the other."""
    first, _ = versions(store)
    forget(store, first)
    look_up = Store.has_record
    seen: list[bytes] = []

    def meanwhile(self: Store, key: bytes, record_id: bytes) -> bool:
        if not seen:
            seen.append(key)
            with pytest.raises(ForgottenMeanwhile):
                lease(self, first)
        return look_up(self, key, record_id)

    monkeypatch.setattr(Store, "has_record", meanwhile)
    with pytest.raises(ForgottenMeanwhile):
        lease(store, first)
    assert all_leased(store.path) == []


def test_a_version_under_another_name_or_record_is_the_same_one(store: Store) -> None:
    """As after a rename, or with another comment."""
    first, _ = versions(store)
    assert first.record is not None
    store.commit([(version_key("renamed", first.time_ns), first.record.value)], [first.record])
    with leased(store, first):
        assert all_leased(store.path) == [root_of(first)]


def test_an_equal_tree_of_another_time_is_another_version(store: Store) -> None:
    first, _ = versions(store)
    commit_version(store, first.root, "t", 99)
    forget(store, first)
    with pytest.raises(ForgottenMeanwhile):
        lease(store, first)


def test_the_slot_is_written_before_the_catalog_is_looked_at(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = Store.has_record
    seen: list[list[bytes]] = []

    def watched(self: Store, key: bytes, record_id: bytes) -> bool:
        seen.append(all_leased(self.path))
        return look_up(self, key, record_id)

    monkeypatch.setattr(Store, "has_record", watched)
    first, _ = versions(store)
    with leased(store, first):
        assert seen == [[root_of(first)]]


def accepted(root: Path, order: tuple[str, ...]) -> bool:
    """Let a taker, a forgetter and a reclaimer take their steps in an order.

    Returns:
        Whether a version was accepted that the reclaimer saw neither in catalog nor in leases.
    """
    with Store.open(root, "write") as writer, Store.open(root) as reader:
        version = commit_version(writer, find_version(writer, "t").root, "raced", 7)
        assert version.record is not None
        seen: set[bytes] = set()
        found = False
        for step in order:
            if step == "lease":
                held = reader.lease(root_of(version))
            elif step == "look up":
                found = reader.has_record(version.record.key, version.record.id)
            elif step == "forget":
                writer.commit(deletes=[version.record])
            elif step == "read catalog":
                # Other versions have this root: the version's own record is what counts here.
                there = version.record.id in {record.id for record in writer.records()}
                seen |= {root_of(version)} if there else set()
            else:
                seen |= set(all_leased(root))
        held.release()
        return found and root_of(version) not in seen


ORDERS = [
    order
    for order in permutations(("lease", "look up", "forget", "read catalog", "read leases"))
    if order.index("lease") < order.index("look up")
]


def test_in_every_order_a_reclaimer_sees_what_is_accepted(root: Path) -> None:
    lost = [order for order in ORDERS if accepted(root, order)]
    catalog_first = [
        order for order in ORDERS if order.index("read catalog") < order.index("read leases")
    ]
    assert len(catalog_first) == 30
    assert set(lost).isdisjoint(catalog_first)
    # So FORMAT.md forbids the other order.
    assert lost == [("read leases", "lease", "look up", "forget", "read catalog")]


def test_further_troubles_are_kept_too(root: Path, store: Store) -> None:
    troubles = Troubles([Trouble(b"%d" % number, "why" * 50, True) for number in range(2000)])
    first, _ = versions(store)
    version = fitted(Version("much", 5, first.root), troubles, ContentWriter(store))
    assert not isinstance(version.beyond, Empty)
    [record] = store.commit([(version_key("much", 5), encode_version(version))])
    version = decode_version(record)
    with leased(store, version):
        kept = [decode_entry(each, root=True) for each in all_leased(root)]
        assert kept[0] == version.root
        assert isinstance(kept[1].detail, RegularFile)
        assert kept[1].detail.content == version.beyond
        assert read_whole(store, kept[1].detail.content)


def test_a_version_that_was_never_committed_needs_no_lease(store: Store) -> None:
    first, _ = versions(store)
    with leased(store, Version("rehearsed", 3, first.root)):
        assert files(store.path) == []


def test_a_closed_store_gives_no_lease(root: Path) -> None:
    with Store.open(root) as store:
        first, _ = versions(store)
    with pytest.raises(VentifsError, match="is closed"):
        lease(store, first)


# --- what reads versions -------------------------------------------------------------------------


def copied(store: Store, tmp_path: Path) -> None:
    copy_of(store, versions(store)[0], tmp_path)


def copy_of(store: Store, version: Version, tmp_path: Path) -> None:
    with Store.open(new_store(tmp_path / "target"), "write") as target:
        copy(store, target, version)


READERS: dict[str, Callable[[Store, Path], object]] = {
    "copy": copied,
    "verify": lambda store, _: [list(Verifier(store).version(each)) for each in versions(store)],
    "exclusive": lambda store, _: exclusive(store, versions(store)[0], versions(store)[1:]),
    "history": lambda store, _: list(history(store, versions(store), b"dir/file")),
}


@pytest.mark.parametrize("reads", READERS)
def test_what_reads_a_version_has_a_lease_on_it(
    root: Path, tmp_path: Path, reads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = Store.get
    seen: list[list[bytes]] = []

    def watched(self: Store, score: object) -> memoryview:
        seen.append(all_leased(root))
        return get(self, score)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "get", watched)
    with Store.open(root) as store:
        READERS[reads](store, tmp_path)
        roots = set(map(root_of, versions(store)))
        assert seen
        assert all(each and roots.issuperset(each) for each in seen)
        assert reads == "copy" or {one for each in seen for one in each} == roots
        assert all_leased(root) == []


def test_what_is_forgotten_meanwhile_is_left_out_of_what_reads_many(store: Store) -> None:
    both = first, second = versions(store)
    forget(store, first)
    assert list(Verifier(store).version(first)) == []
    assert len(exclusive(store, second, [first])) > len(exclusive(store, second, [second]))
    assert [step.version for step in history(store, both, b"dir/file")] == [second]
    with pytest.raises(ForgottenMeanwhile):
        exclusive(store, first, [second])
    with pytest.raises(ForgottenMeanwhile):
        copy_of(store, first, store.path.parent)


def test_an_iterator_that_is_left_gives_its_lease_back(store: Store) -> None:
    steps = history(store, versions(store), b"dir/file")
    next(steps)
    deque(Verifier(store).version(versions(store)[0]), 0)
    del steps
    assert all_leased(store.path) == []
    assert list(troubles_of(store, versions(store)[0])) == []
