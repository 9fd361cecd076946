"""Holds: their records, how long they hold, and what they keep."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.stores import new_store
from tests.support.vectors import VECTORS, load_vectors
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
    version_key,
)
from ventifs.tree.versions.holds import (
    Hold,
    decode_hold,
    encode_hold,
    held,
    hold,
    hold_key,
    release,
)

ROOT = Entry(b"", 0o40755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")
HOLDS = load_vectors("tree/catalog.json")["holds"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        made = [Version("web", time_ns, ROOT) for time_ns in (1, 2, 3)]
        opened.commit([(version_key(v.name, v.time_ns), encode_version(v)) for v in made])
        yield opened


def test_the_vectors_are_what_the_tool_makes() -> None:
    assert (VECTORS / "tree" / "catalog.json").read_text() == vectors_tree.catalog_text()


@pytest.mark.parametrize(("vector", "meant"), list(zip(HOLDS, vectors_tree.HOLDS, strict=True)))
def test_records_are_as_the_vectors_say(
    vector: dict[str, str], meant: tuple[str, int, int | None]
) -> None:
    name, time_ns, until_ns = meant
    record = Record(bytes.fromhex(vector["key"]), bytes(16), bytes.fromhex(vector["value"]))
    assert decode_hold(record) == ((name, time_ns), Hold(until_ns))
    assert (hold_key(name, time_ns), encode_hold(Hold(until_ns))) == (record.key, record.value)


@given(value=st.binary(max_size=12) | st.none() | st.integers(-5, 2**64 - 1))
def test_only_what_is_written_is_read(value: bytes | int | None) -> None:
    data = value if isinstance(value, bytes) else msgspec.msgpack.encode([value])
    try:
        _, found = decode_hold(Record(hold_key("web", 1), bytes(16), data))
    except Corrupt:
        return
    assert encode_hold(found) == data


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (hold_key("web", 1), b"\x91\xd3\0\0\0\0\0\0\0\1"),  # not the shortest form
        (hold_key("web", 1), b"\x92\xc0\xc0"),
        (hold_key("web", 1), b"\x91\xff"),
        (hold_key("web", 1), b"\xc0"),
        (hold_key("web", 1), b"\x91\xc0\0"),
        (hold_key("web", 1)[:-1], b"\x91\xc0"),
        (hold_key("web", 1) + b"\0", b"\x91\xc0"),
        (hold_key("../x", 1), b"\x91\xc0"),
        (b"hold\0\xff\0" + bytes(8), b"\x91\xc0"),
        (b"hold\0", b"\x91\xc0"),
    ],
)
def test_invalid_records_are_damage(store: Store, key: bytes, value: bytes) -> None:
    store.commit([(key, value)])
    with pytest.raises(Corrupt, match="hold record"):
        held(store)


def test_how_long_a_hold_holds() -> None:
    assert Hold().active(TIME_NS_MAX)
    assert Hold(5).active(4)
    assert not Hold(5).active(5)
    assert str(Hold()) == "held"
    assert str(Hold(10**9)) == "held until 1970-01-01T00:00:01Z"


def test_holds_are_replaced_and_released(store: Store) -> None:
    hold(store, [("web", 1), ("web", 2), ("web", 1)], now_ns=0)
    assert held(store) == {("web", 1): Hold(), ("web", 2): Hold()}
    hold(store, [("web", 2)], 9, now_ns=8)
    hold(store, [("web", 3)], 9, now_ns=8)
    assert held(store) == {("web", 1): Hold(), ("web", 2): Hold(9), ("web", 3): Hold(9)}
    assert [version.time_ns for version in release(store, [("web", 3), ("web", 1)])] == [3, 1]
    assert held(store) == {("web", 2): Hold(9)}


def test_the_longest_of_several_holds_counts(store: Store) -> None:
    """As two programs that know no lock of the catalog could leave them."""
    for holds in ([5, None, 7], [7, 5, None], [None, 5]):
        records = store.commit([(hold_key("web", 1), encode_hold(Hold(each))) for each in holds])
        assert held(store) == {("web", 1): Hold()}
        assert len(release(store, [("web", 1)])) == 1
        assert not set(records) & set(store.records())
    store.commit([(hold_key("web", 1), encode_hold(Hold(each))) for each in (5, 7, 6)])
    assert held(store) == {("web", 1): Hold(7)}


def test_what_is_refused_changes_nothing(store: Store) -> None:
    hold(store, [("web", 1)], now_ns=0)
    before = store.records()
    with pytest.raises(VentifsError, match=r"1970-01-01T00:00:00.000000009Z is past, so this"):
        hold(store, [("web", 1)], 9, now_ns=9)
    with pytest.raises(VentifsError, match="between 1970 and 2554"):
        hold(store, [("web", 1)], TIME_NS_MAX + 1, now_ns=9)
    with pytest.raises(NoSuchVersion, match=r"web@1970-01-01T00:00:00.000000004Z: there is no"):
        hold(store, [("web", 2), ("web", 4)], now_ns=9)
    with pytest.raises(NoSuchVersion):
        release(store, [("web", 1), ("web", 4)])
    with pytest.raises(VentifsError, match=r"web@1970-01-01T00:00:00.000000002Z: this version is"):
        release(store, [("web", 1), ("web", 2)])
    assert store.records() == before
