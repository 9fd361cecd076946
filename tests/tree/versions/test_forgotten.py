"""Forgotten versions: their records, and the words people name them by."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.stores import new_store
from tests.support.vectors import load_vectors
from tools import vectors_tree
from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Store
from ventifs.store.journal import Record
from ventifs.tree.objects.records import Directory, Empty, Entry
from ventifs.tree.versions.catalog import (
    TIME_NS_MAX,
    NoSuchVersion,
    Version,
    encode_version,
    tree_score,
    version_key,
    versions,
)
from ventifs.tree.versions.forgotten import (
    bringing_back,
    decode_forgotten,
    find_forgotten,
    forgetting,
    forgotten,
    forgotten_key,
    forgotten_of,
)
from ventifs.tree.versions.holds import Hold, encode_hold, held, hold_key

DAY_NS = 24 * 3600 * 10**9
ROOT = Entry(b"", 0o40755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")
OTHER = Entry(b"", 0o40700, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")
TREES = load_vectors("tree/trees.json")


def put(store: Store, *made: Version) -> None:
    store.commit([(version_key(v.name, v.time_ns), encode_version(v)) for v in made])


def forget(store: Store, doomed: Sequence[Version], now_ns: int) -> int:
    at_ns, changes = forgetting(store, doomed, now_ns)
    store.commit(*changes)
    return at_ns


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Five days of `web`, of which the second and the fourth are forgotten, and one of `db`."""
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        put(opened, *(Version("web", day * DAY_NS, ROOT, comment=f"{day}") for day in range(5)))
        put(opened, Version("db", 7, OTHER))
        of_web = versions(opened, "web")
        assert forget(opened, [of_web[1], of_web[3]], 100 * DAY_NS) == 100 * DAY_NS
        yield opened


def test_a_record_is_as_the_vector_says() -> None:
    [vector] = load_vectors("tree/catalog.json")["forgotten"]
    record = Record(bytes.fromhex(vector["key"]), b"i" * 16, bytes.fromhex(vector["value"]))
    found = decode_forgotten(record)
    assert (found.version.name, found.version.time_ns) == ("guest", vectors_tree.MTIME_NS)
    assert found.forgotten_ns == vectors_tree.FORGOTTEN_NS
    assert forgotten_key("guest", vectors_tree.MTIME_NS, found.forgotten_ns) == record.key
    assert encode_version(found.version) == record.value
    assert found.version.record is not None
    assert found.version.record.id == record.id


@pytest.mark.parametrize("name", TREES)
def test_records_of_older_programs_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    key, value = bytes.fromhex(TREES[name]["key"]), bytes.fromhex(TREES[name]["version"])
    with Store.open(new_store(tmp_path / "store"), "write") as store:
        store.commit([(key, value)])
        at_ns = forget(store, versions(store), 5)
        [kept] = store.records()
        assert kept.key == b"forgotten" + key.removeprefix(b"version") + bytes([0] * 7 + [at_ns])
        assert kept.value == value
        store.commit(*bringing_back(store, forgotten(store)))
        assert [(record.key, record.value) for record in store.records()] == [(key, value)]


@pytest.mark.parametrize(
    "key",
    [
        b"forgotten\0web\0" + bytes(15),
        b"forgotten\0web\0" + bytes(17),
        b"forgotten\0\xff\0" + bytes(16),
        b"forgotten\0../x\0" + bytes(16),
        b"forgotten\0",
    ],
)
def test_invalid_records_are_damage(store: Store, key: bytes) -> None:
    store.commit([(key, encode_version(Version("web", 0, ROOT)))])
    with pytest.raises(Corrupt, match="record"):
        forgotten(store)


def test_a_damaged_version_is_damage(store: Store) -> None:
    store.commit([(forgotten_key("web", 1, 1), b"\xc0")])
    with pytest.raises(Corrupt, match="version record"):
        forgotten(store, "web")
    assert forgotten(store, "db") == []


@pytest.mark.parametrize(
    ("text", "comment"),
    [
        ("web@latest", "3"),
        ("web@~0", "3"),
        ("web@~1", "1"),
        ("web@1970-01-02", "1"),
        ("web@1970", "3"),
        ("web@1970-01-04T00:00:00Z", "3"),
    ],
)
def test_what_a_text_means(store: Store, text: str, comment: str) -> None:
    assert find_forgotten(store, text).version.comment == comment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web@~2", "has no forgotten version of that time; 'ventifs versions --forgotten web'"),
        ("web@1970-01-03", "which have no 'undelete', cannot come back"),
        ("web@1970-01-03T00:00:00Z", "this version is not forgotten; it is in the catalog"),
        (
            "db@latest",
            "db: no version of this name is forgotten; versions of web are; what was",
        ),
        ("none@~1", "none: no version of this name is forgotten"),
        ("web", "web: name a version as NAME@TIME"),
        ("web:/x@1", "name a version as NAME@TIME"),
        ("web@1970:/etc", "is not a time"),
        ("../x@latest", "cannot name versions"),
        ("web@never", "is not a time"),
        ("score:12", "a score is 64 hexadecimal digits"),
        ("score:" + "0" * 64, "no forgotten version has this tree"),
        ("score:" + tree_score(ROOT).hex(), "this could be web@1970-01-02T00:00:00Z, web@1970-01"),
    ],
)
def test_what_no_text_means(store: Store, text: str, message: str) -> None:
    with pytest.raises(VentifsError, match=r"^[^\n]*$") as raised:
        find_forgotten(store, text)
    assert message in str(raised.value)


def test_a_tree_is_found_by_its_score(store: Store) -> None:
    forget(store, versions(store, "db"), 1)
    score = tree_score(OTHER).hex()
    for text in (f"score:{score}", f"score:{score[:8].upper()}"):
        assert find_forgotten(store, text).version.name == "db"


def test_a_time_that_is_forgotten_again_is_another(store: Store) -> None:
    """Whatever the clock says, the one that was forgotten last is the latest."""
    first = find_forgotten(store, "web@~1")
    for number, now_ns in enumerate((50 * DAY_NS, 100 * DAY_NS, 200 * DAY_NS), 1):
        put(store, Version("web", DAY_NS, ROOT, comment=f"again {number}"))
        doomed = [version for version in versions(store, "web") if version.time_ns == DAY_NS]
        forget(store, doomed, now_ns)
    found = forgotten_of(store, "web")
    assert [(each.version.comment, each.forgotten_ns) for each in found] == [
        ("1", 100 * DAY_NS),
        ("again 1", 100 * DAY_NS + 1),
        ("again 2", 100 * DAY_NS + 2),
        ("again 3", 200 * DAY_NS),
        ("3", 100 * DAY_NS),
    ]
    assert find_forgotten(store, "web@~1").version.comment == "again 3"
    assert find_forgotten(store, "web@~1", "1970-04-11T00:00:00.000000000Z") == first
    assert find_forgotten(store, "web@1970-01-02", "1970-04-11").version.comment == "again 2"
    with pytest.raises(
        NoSuchVersion, match="no version of this name is among those forgotten at 1971"
    ):
        find_forgotten(store, "web@latest", "1971")
    store.commit(*bringing_back(store, [first]))
    assert versions(store, "web")[1].comment == "1"
    assert len(forgotten_of(store, "web")) == 4


def test_holds_go_with_their_versions_and_do_not_come_back(store: Store) -> None:
    """One that ended; and one that an older program left over when it forgot its version."""
    store.commit([(hold_key("db", 7), encode_hold(Hold(5)))])
    forget(store, versions(store, "db"), 9)
    assert held(store) == {}
    store.commit([(hold_key("db", 7), encode_hold(Hold()))])
    store.commit(*bringing_back(store, forgotten(store, "db")))
    assert held(store) == {}
    assert len(versions(store, "db")) == 1


def test_at_the_end_of_time(store: Store) -> None:
    assert forget(store, versions(store, "db"), TIME_NS_MAX) == TIME_NS_MAX
    put(store, Version("db", 7, OTHER))
    assert forget(store, versions(store, "db"), TIME_NS_MAX) == TIME_NS_MAX
    assert len(forgotten_of(store, "db")) == 2


def test_what_cannot_come_back_changes_nothing(store: Store) -> None:
    one, other = forgotten(store)
    put(store, Version("web", DAY_NS, ROOT, comment="new"))
    with pytest.raises(VentifsError, match=r"web@1970-01-02T00:00:00Z: there is a version of this"):
        bringing_back(store, [other, one])
    put(store, Version("web", 9, ROOT))
    doomed = [version for version in versions(store, "web") if version.time_ns == 9]
    forget(store, doomed, 1)
    put(store, Version("web", 9, OTHER))
    doomed = [version for version in versions(store, "web") if version.time_ns == 9]
    forget(store, doomed, 1)
    both = [each for each in forgotten(store) if each.version.time_ns == 9]
    with pytest.raises(VentifsError, match="there is a version of this name and time"):
        bringing_back(store, both)
    store.commit(*bringing_back(store, both[:1]))
    with pytest.raises(NoSuchVersion, match=r"forgotten 1970-.*: it is not among the forgotten"):
        bringing_back(store, both[:1])
