"""What a reclaim keeps: catalogued versions, forgotten ones, leases."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forging import commit_version, directory, file
from tests.support.stores import new_store
from ventifs.errors import Corrupt, VentifsError
from ventifs.image.formats import kept_choice
from ventifs.store import Score, Store, score_of
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import (
    Block,
    Content,
    Empty,
    Entry,
    RegularFile,
    Symlink,
    encode_entry,
)
from ventifs.tree.reclaim import roots as module
from ventifs.tree.reclaim.roots import KINDS, Roots, roots_again, roots_before
from ventifs.tree.versions import catalog, forgotten, holds
from ventifs.tree.versions.catalog import Version, encode_version, version_key, versions
from ventifs.tree.versions.forgotten import bringing_back, forgetting
from ventifs.tree.versions.holds import Hold, encode_hold, hold_key
from ventifs.tree.versions.leasing import lease, roots_of
from ventifs.tree.versions.reachable import Ref, RefKind, top


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Five versions of `n`, the one of time t of a file with the byte t."""
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        for number in range(5):
            content = ContentWriter(opened).write_whole(bytes([number]) * 100)
            commit_version(opened, directory(opened, b"", [file(b"f", content)]), time_ns=number)
        yield opened


def forget(store: Store, time_ns: int, forgotten_ns: int) -> bytes:
    """Forget a version; return the id of the record that keeps it."""
    [version] = [each for each in versions(store) if each.time_ns == time_ns]
    _, (puts, deletes) = forgetting(store, [version], forgotten_ns)
    [record] = store.commit(puts, deletes)
    return record.id


def times(roots: Roots) -> tuple[list[int], list[int], list[int]]:
    return (
        [version.time_ns for version in roots.versions],
        [each.version.time_ns for each in roots.kept],
        [each.version.time_ns for each in roots.doomed],
    )


def with_troubles_beyond(store: Store, content: Content) -> Version:
    version = Version("t", 9, versions(store)[0].root, troubles_more=1, beyond=content)
    store.commit([(version_key("t", 9), encode_version(version))])
    return versions(store, "t")[0]


def test_an_empty_store_has_no_roots(tmp_path: Path) -> None:
    with Store.open(new_store(tmp_path / "store")) as store:
        assert roots_before(store, 2**64) == Roots([], [], [], [])
        assert list(roots_before(store, 2**64).references()) == []


def test_versions_are_doomed_that_were_forgotten_by_a_time(store: Store) -> None:
    for number in (1, 2, 3):
        forget(store, number, 100 * number)
    assert times(roots_before(store, 99)) == ([0, 4], [1, 2, 3], [])
    assert times(roots_before(store, 200)) == ([0, 4], [3], [1, 2])
    assert times(roots_before(store, 1000)) == ([0, 4], [], [1, 2, 3])


def test_doomed_are_later_only_those_that_were(store: Store) -> None:
    first, second = forget(store, 1, 100), forget(store, 2, 200)
    assert times(roots_again(store, [first])) == ([0, 3, 4], [2], [1])
    forget(store, 3, 50)
    assert times(roots_again(store, [first, second])) == ([0, 4], [3], [1, 2])
    assert times(roots_again(store, [])) == ([0, 4], [1, 2, 3], [])
    doomed = roots_again(store, [first]).doomed
    store.commit(*bringing_back(store, doomed))
    assert times(roots_again(store, [first, second])) == ([0, 1, 4], [3], [2])


def test_what_was_doomed_is_kept_when_it_is_forgotten_once_more(store: Store) -> None:
    """It was brought back meanwhile, so it counts from now on."""
    doomed = forget(store, 1, 100)
    store.commit(*bringing_back(store, roots_again(store, [doomed]).doomed))
    forget(store, 1, 150)
    assert times(roots_again(store, [doomed])) == ([0, 2, 3, 4], [1], [])


def test_references_are_of_versions_kept_ones_and_leases_but_not_of_doomed_ones(
    store: Store,
) -> None:
    every = versions(store)
    forget(store, 1, 100)
    forget(store, 2, 200)
    held = store.lease(roots_of(every[1])[0])
    roots = roots_before(store, 150)
    held.release()
    expected = [ref for number in (0, 3, 4, 2, 1) for ref in top(every[number])]
    assert list(roots.references()) == expected
    assert roots.leased_alone == 1
    assert set(roots_before(store, 150).references()) == set(expected[:-1])


def test_a_lease_is_alone_only_if_no_version_that_stays_has_its_root(store: Store) -> None:
    forget(store, 1, 100)
    with Store.open(store.path) as reader:
        held = [lease(reader, version) for version in versions(reader)]
        kept = reader.lease(*(roots_of(roots_before(store, 0).kept[0].version)))
        roots = roots_before(store, 0)
        assert (len(roots.leases), roots.leased_alone) == (5, 0)
        forget(store, 2, 100)
        roots = roots_before(store, 100)
        assert (len(roots.leases), roots.leased_alone) == (5, 2)
        for each in [*held, kept]:
            each.release()


@pytest.mark.parametrize("size", [20, 3000, 300_000])
def test_troubles_beyond_the_record_are_referred_to_and_leased(store: Store, size: int) -> None:
    content = ContentWriter(store).write_whole(score_of(b"seed") * (size // 32 + 1))
    version = with_troubles_beyond(store, content)
    with Store.open(store.path) as reader:
        held = lease(reader, version)
        assert roots_before(store, 0).leased_alone == 0
        [there] = [each for each in versions(store) if each.name == "t"]
        assert there.record is not None
        store.commit(deletes=[there.record])
        roots = roots_before(store, 0)
        assert set(top(version)) <= set(roots.references())
        assert len(roots.leases) == 2
        held.release()


def test_a_lease_that_refers_to_nothing_is_sound(store: Store) -> None:
    empty = Entry(b"", stat.S_IFREG, 0, 0, 0, RegularFile(Empty()), Empty(), b"")
    one = Entry(b"", stat.S_IFREG, 0, 0, 0, RegularFile(Block(bytes(32), 5)), Empty(), b"")
    with Store.open(store.path) as reader:
        held = reader.lease(encode_entry(empty, root=True), encode_entry(one, root=True))
        roots = roots_before(store, 0)
        assert Ref(Score(bytes(32)), RefKind.DATA) in list(roots.references())
        assert roots.leased_alone == 2
        held.release()


LINK = Entry(b"", stat.S_IFLNK | 0o777, 0, 0, 0, Symlink(b"to"), Empty(), b"")


@pytest.mark.parametrize("root", [b"no entry", encode_entry(LINK, root=True)])
def test_a_lease_on_something_else_ends_the_reclaim(store: Store, root: bytes) -> None:
    held = store.lease(root)
    with pytest.raises(Corrupt, match=root[:16].hex()):
        roots_before(store, 0)
    with pytest.raises(Corrupt, match="end the servers"):
        roots_again(store, [])
    held.release()
    assert len(roots_before(store, 0).versions) == 5


@pytest.mark.parametrize("key", [b"clone\0n\0", b"version", b"versions\0n\0", b"\0", b"\xff\0"])
def test_a_record_of_an_unknown_kind_ends_the_reclaim(store: Store, key: bytes) -> None:
    [record] = store.commit([(key, b"value")])
    with pytest.raises(VentifsError, match="newer ventifs") as raised:
        roots_before(store, 0)
    assert str(raised.value).startswith(f"{store.path}: ")
    assert "\n" not in str(raised.value)
    store.commit(deletes=[record])
    assert len(roots_before(store, 0).versions) == 5


def test_all_kinds_of_records_are_known_that_this_program_writes(store: Store) -> None:
    theirs = {catalog._PREFIX, forgotten._PREFIX, holds._PREFIX}
    theirs |= {kept_choice._PREFIX, kept_choice._FORGOTTEN}
    assert {kind + b"\0" for kind in KINDS} == theirs
    assert module.VERSION + b"\0" == catalog._PREFIX
    assert module.FORGOTTEN + b"\0" == forgotten._PREFIX
    forget(store, 1, 100)
    store.commit(
        [
            (hold_key("n", 2), encode_hold(Hold())),
            (kept_choice.kept_key("n"), b"x"),
            (kept_choice._forgotten_key("n", 5), b"x"),
        ]
    )
    assert times(roots_before(store, 0)) == ([0, 2, 3, 4], [1], [])


def test_a_damaged_record_ends_the_reclaim(store: Store) -> None:
    store.commit([(version_key("n", 77), b"no version")])
    with pytest.raises(Corrupt):
        roots_before(store, 0)
