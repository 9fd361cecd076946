"""The words people name versions by, and the records behind them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.stores import new_store
from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Store
from ventifs.store.journal import Record
from ventifs.tree.objects.records import Directory, Empty, Entry, encode
from ventifs.tree.versions.catalog import (
    NoSuchVersion,
    Version,
    check_name,
    decode_version,
    encode_version,
    find_version,
    pick,
    split_path,
    tree_score,
    version_key,
    versions,
)
from ventifs.tree.versions.times import SKEW_NS, parse_time

SECOND = 10**9
ROOT = Entry(b"", 0o40755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")
OTHER = Entry(b"", 0o40700, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")


def ns(*when: int) -> int:
    moment = datetime(*when, tzinfo=UTC)  # type: ignore[misc,arg-type]
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) * SECOND


NOW = ns(2026, 11, 26)

TIMES = [
    ns(2024, 2, 28, 23, 59, 59),
    ns(2024, 2, 29, 12),
    ns(2024, 3, 1),
    ns(2025, 12, 31, 23, 59, 59),
    ns(2026, 1, 1),
    ns(2026, 11, 23, 6),
    ns(2026, 11, 23, 6) + 500_000_000,
    ns(2026, 11, 23, 6, 0, 1),
    ns(2026, 11, 23, 7, 30),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        made = [Version("web01", time_ns, ROOT) for time_ns in TIMES]
        made += [Version("web0", 1, OTHER), Version("web01.x", 2, OTHER)]
        opened.commit([(version_key(v.name, v.time_ns), encode_version(v)) for v in made])
        yield opened


# --- which version ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "which"),
    [
        ("web01", 8),
        ("web01@latest", 8),
        ("web01@~0", 8),
        ("web01@~1", 7),
        ("web01@~8", 0),
        ("web01@2024", 2),
        ("web01@2024-02", 1),
        ("web01@2024-02-28", 0),
        ("web01@2024-02-29", 1),
        ("web01@2025", 3),
        ("web01@2025-12", 3),
        ("web01@2025-12-31", 3),
        ("web01@2026-01", 4),
        ("web01@2026-01-01T00", 4),
        ("web01@2026-11-23T06", 7),
        ("web01@2026-11-23T06:00", 7),
        ("web01@2026-11-23T06:00:00", 6),
        ("web01@2026-11-23T06:00:00Z", 5),
        ("web01@2026-11-23 07:30:00Z", 8),
        ("web01@2026-11-23T06:00:00.0", 5),
        ("web01@2026-11-23T06:00:00.5", 6),
        ("web01@2026-11-23T06:00:00.50000Z", 6),
        ("web01@2026-11-23T07:00:00+01:00", 6),
        ("web01@2026-11-23T01:00:00-0500", 6),
        ("web01@2026-11-23T13:00+05:30", 8),
        ("web01@2026-01-01T01+01:00", 4),
    ],
)
def test_a_version_is_found(store: Store, text: str, which: int) -> None:
    assert find_version(store, text, NOW).time_ns == TIMES[which]


def test_every_version_is_found_by_what_it_is_called(store: Store) -> None:
    for version in versions(store):
        assert find_version(store, str(version)) == version


def test_a_version_is_found_by_the_score_of_its_tree(store: Store) -> None:
    assert tree_score(ROOT) != tree_score(OTHER)
    assert find_version(store, f"score:{tree_score(OTHER).hex()}").root == OTHER
    with pytest.raises(NoSuchVersion, match="no version has this tree"):
        find_version(store, "score:" + "0" * 64)


@pytest.mark.parametrize(
    ("when", "place"),
    [
        ("latest", 4),
        ("~0", 4),
        ("~4", 0),
        ("~5", None),
        ("2026-11-23", 3),
        ("2026", 4),
        ("2026-11-23T06:00:00Z", 1),
        ("2026-11-23T06:00:00", 2),
        ("2026-11-23T06:00:00.5Z", 2),
        ("2026-11-24", None),
        ("1970", 0),
        ("1969", None),
        ("2026-11-25T00:00:00Z", 4),
    ],
)
def test_pick(when: str, place: int | None) -> None:
    six = parse_time("2026-11-23T06:00:00Z")[0]
    later = parse_time("2026-11-23T06:01Z")[0]
    times = [5, six, six + 5 * 10**8, later, parse_time("2026-11-25")[0]]
    assert pick(times, when, NOW) == place
    assert pick([], when, NOW) is None


@pytest.mark.parametrize(
    ("now", "latest"),
    [
        (TIMES[8], 8),
        (TIMES[8] - SKEW_NS, 8),  # of a host whose clock is a little ahead
        (TIMES[8] - SKEW_NS - 1, 7),
        (TIMES[0], 0),
        (TIMES[0] - SKEW_NS - 1, 8),  # a clock at 1970: all lie in the future
        (0, 8),
        (2**64, 8),
    ],
)
def test_a_version_of_the_future_is_not_the_latest_while_others_are_there(
    store: Store, now: int, latest: int
) -> None:
    for text in ("web01", "web01@latest", "web01@~0"):
        assert find_version(store, text, now).time_ns == TIMES[latest]
    if latest:
        assert find_version(store, "web01@~1", now).time_ns == TIMES[latest - 1]
        assert find_version(store, f"web01@~{latest}", now).time_ns == TIMES[0]
    with pytest.raises(NoSuchVersion, match="only") as caught:
        find_version(store, f"web01@~{latest + 1}", now)
    later = len(TIMES) - latest - 1
    assert (f"and {later} in the future" in str(caught.value)) == bool(later)
    for version in versions(store, "web01"):  # whenever that is
        assert find_version(store, str(version), now) == version


def test_a_partial_time_means_the_last_of_it_that_is_not_in_the_future(store: Store) -> None:
    now = ns(2026, 11, 23, 7)
    assert find_version(store, "web01@2026-11-23", now).time_ns == TIMES[7]
    assert find_version(store, "web01@2026", now).time_ns == TIMES[7]
    assert find_version(store, "web01@2026-11-23T07", now).time_ns == TIMES[8]


@given(st.lists(st.integers(0, 50), unique=True), st.integers(0, 60))
def test_the_latest_by_looking_at_each(seconds: list[int], second: int) -> None:
    times = sorted(each * SKEW_NS for each in seconds)
    now = second * SKEW_NS
    known = [time for time in times if time <= now + SKEW_NS] or times
    for back in range(len(times) + 1):
        found = pick(times, f"~{back}", now)
        expected = known[-1 - back] if back < len(known) else None
        assert (None if found is None else times[found]) == expected


@pytest.mark.parametrize("when", ["", "~", "~x", "soon", "~-1", "~1e3"])
def test_what_is_no_time_is_not_picked(when: str) -> None:
    with pytest.raises(VentifsError):
        pick([1, 2], when, NOW)


def test_the_beginning_of_a_score_will_do_if_it_is_of_one_tree(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, other = tree_score(ROOT).hex(), tree_score(OTHER).hex()
    assert find_version(store, f"score:{root[:8]}").root == ROOT
    assert find_version(store, f"score:{other[:63].upper()}").root == OTHER
    for text in ("score:", f"score:{root[:7]}", f"score:{root}0", "score:xyzxyzxyz"):
        with pytest.raises(VentifsError, match="8 or more"):
            find_version(store, text)
    scores = {ROOT: "ab" * 4 + root[8:], OTHER: "ab" * 4 + other[8:]}
    monkeypatch.setattr(
        "ventifs.tree.versions.catalog.tree_score", lambda e: bytes.fromhex(scores[e])
    )
    with pytest.raises(NoSuchVersion) as caught:
        find_version(store, "score:abababab")
    for entry, version in ((ROOT, "web01@2024-02-28T23:59:59Z"), (OTHER, "web0@1970")):
        assert f"score:{scores[entry]} ({version}" in str(caught.value)


def test_versions_are_listed_by_name_and_time(store: Store) -> None:
    assert [v.time_ns for v in versions(store, "web01")] == TIMES
    assert [v.name for v in versions(store)] == ["web0", *["web01"] * 9, "web01.x"]
    assert versions(store, "web") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wbe01", "wbe01: no version has this name; did you mean web01, web01.x, web0?"),
        ("zzz", "zzz: no version has this name; there are web0, web01, web01.x"),
        ("web01@~9", "web01@~9: web01 has only 9 versions"),
        (
            "web01@2024-02-27",
            "web01@2024-02-27: web01 has no version of that time; the nearest are "
            "web01@2024-02-28T23:59:59Z, web01@2024-02-29T12:00:00Z, web01@2024-03-01T00:00:00Z",
        ),
        (
            "web0@2024",
            "web0@2024: web0 has no version of that time; the nearest are "
            "web0@1970-01-01T00:00:00.000000001Z",
        ),
        ("web01@2026-11-23T06:00:00.4", None),
        ("web01@2026-11-23T06:00:00-01:00", None),
    ],
)
def test_what_is_absent_names_the_nearest(store: Store, text: str, message: str | None) -> None:
    with pytest.raises(NoSuchVersion) as caught:
        find_version(store, text)
    if message is not None:
        assert str(caught.value) == message


def test_an_empty_store_says_how_to_make_a_version(tmp_path: Path) -> None:
    nothing = pytest.raises(NoSuchVersion, match="'ventifs archive' makes the first")
    with Store.open(new_store(tmp_path / "empty")) as store, nothing:
        find_version(store, "web01")


@pytest.mark.parametrize(
    "when",
    [
        "",
        "noon",
        "~",
        "~x",
        "~-1",
        "~1.5",
        "~\N{SUPERSCRIPT TWO}",
        "~" + "9" * 5000,
        "2026-",
        "26",
        "2026-13",
        "2026-00",
        "2026-02-30",
        "2025-02-29",
        "2026-11-23T24",
        "2026-11-23T06:60",
        "2026-11-23T06:00:61",
        "2026-11-23T06:00:00.",
        "2026-11-23T06:00:00.1234567890",
        "2026Z",
        "2026-11-23Z",
        "2026-11-23T06:00:00+1",
        "0000",
        "2026-11-23T",
        " 2026",
        "2026 ",
        "Latest",
        "9999",
        "9999-12",
        "0001-01-01T00:00+01:00",
        "9999-12-31T23:59-01:00",
        "2026-11-23T06:00+99:99",
    ],
)
def test_what_is_no_time_is_refused(store: Store, when: str) -> None:
    with pytest.raises(VentifsError):
        find_version(store, f"web01@{when}")


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-d", "x" * 200])
def test_names_that_can_be(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".a",
        "-a",
        "_a",
        "a b",
        "a/b",
        "a:b",
        "a@b",
        "a\n",
        "a\0",
        "\u00e9",
        "x" * 201,
        "../x",
    ],
)
def test_names_that_cannot_be(store: Store, name: str) -> None:
    with pytest.raises(VentifsError, match="cannot name versions"):
        check_name(name)


@pytest.mark.parametrize(
    ("text", "version", "path"),
    [
        ("web01", "web01", b""),
        ("web01:/", "web01", b""),
        ("web01:/etc/x", "web01", b"etc/x"),
        ("web01@2026-11-23T06:00:00Z:/a:/b", "web01@2026-11-23T06:00:00Z", b"a:/b"),
        ("score:00ff:/etc", "score:00ff", b"etc"),
        ("score:00ff", "score:00ff", b""),
        ("web01:", "web01", b""),
        ("web01:/\udcff", "web01", b"\xff"),
    ],
)
def test_the_path_starts_after_the_first_colon_and_slash(
    text: str, version: str, path: bytes
) -> None:
    assert split_path(text) == (version, path)


# --- records ----------------------------------------------------------------------------------


def record(key: bytes, value: bytes) -> Record:
    return Record(key, bytes(16), value)


def test_a_record_comes_back() -> None:
    version = Version("n", 7, ROOT, "/src", "c", ("t",), 5, 1.5, ((b"\xff", "why", True),), 3)
    made = record(version_key("n", 7), encode_version(version))
    decoded = decode_version(made)
    assert decoded.record == made
    assert encode_version(decoded) == made.value
    assert (decoded.name, decoded.time_ns, decoded.root) == ("n", 7, ROOT)
    assert (decoded.troubles, decoded.troubles_more) == (((b"\xff", "why", True),), 3)


def value_of(root: Entry, *more: object) -> bytes:
    """A record's value of any root; `more` comes after the fields that all have."""
    fields = [encode(root), "", "", [], 0, 0.0, [], 0, *more]
    return msgspec.msgpack.encode(fields)


VALUE = encode_version(Version("n", 7, ROOT))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (version_key("n", 7), b""),
        (version_key("n", 7), VALUE[:-1]),
        (version_key("n", 7), b"\xc0"),
        (version_key("n", 7), VALUE + b"\0"),
        (version_key("n", 7), b"\x91" * 5000),
        (version_key("n", 7)[:-1], VALUE),
        (version_key("n", 7) + b"x", VALUE),
        (b"version\0n", VALUE),
        (b"version\0\xff\0" + bytes(8), VALUE),
        (version_key("a/b", 7), VALUE),
        (version_key("", 7), VALUE),
        (
            version_key("n", 7),
            value_of(Entry(b"named", 0o40755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")),
        ),
        (
            version_key("n", 7),
            value_of(Entry(b"", 0o40755, -1, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")),
        ),
    ],
    ids=range(13),
)
def test_a_record_that_cannot_be_is_corrupt(key: bytes, value: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_version(record(key, value))
