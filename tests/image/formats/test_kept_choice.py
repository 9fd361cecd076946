"""What a name keeps of its disk: its record's bytes, and how long it counts."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.imaging import image
from tests.support.memorydisk import MemoryDisk
from tests.support.stores import new_store
from ventifs.errors import Corrupt, VentifsError
from ventifs.image.disk import FORMATS
from ventifs.image.formats.advice import Following
from ventifs.image.formats.kept_choice import (
    PATHS_MAX,
    Kept,
    SourceType,
    absolute,
    all_kept,
    bringing_back_kept,
    changes,
    decode_kept,
    encode_kept,
    forgetting_kept,
    kept_key,
    kept_of,
    records_kept,
    useless_kept,
)
from ventifs.store import Store
from ventifs.store.journal import RECORD_VALUE_MAX, Record
from ventifs.tree.versions.catalog import Version, encode_version, version_key, versions
from ventifs.tree.versions.forgotten import forgotten, forgotten_key

RAW = Kept("raw", SourceType("file", b".img"), Following())
_PATHS = st.binary(max_size=40).map(lambda path: b"/" + path)
_KEPT = st.builds(
    Kept,
    st.sampled_from((*FORMATS, "tar", "")),
    st.builds(
        SourceType,
        st.sampled_from(("file", "device", "pipe")),
        st.one_of(st.binary(max_size=8), _PATHS.map(lambda end: b"." + end[1:])),
    ),
    st.builds(
        Following, *(st.lists(st.one_of(_PATHS, st.binary(max_size=3)), max_size=3).map(tuple),) * 2
    ),
)


@given(kept=_KEPT)
def test_what_can_be_encoded_is_decoded(kept: Kept) -> None:
    try:
        value = encode_kept(kept)
    except VentifsError:
        return
    assert decode_kept(Record(kept_key("a"), bytes(16), value)) == ("a", kept)


@given(
    stored=st.lists(st.one_of(st.integers(-5, 300), st.text(), st.binary(), st.lists(st.binary())))
)
def test_what_is_decoded_encodes_to_the_same(stored: list[object]) -> None:
    record = Record(kept_key("a"), bytes(16), msgspec.msgpack.encode(stored))
    try:
        _, kept = decode_kept(record)
    except VentifsError:
        return
    assert encode_kept(kept) == record.value


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        ([1, "raw", "file", b".img", [], [], 0], Corrupt),
        ([1, "raw", "file", b".img", []], Corrupt),
        ([0, "raw", "file", b".img", [], []], Corrupt),
        ([1, "tar", "file", b".img", [], []], Corrupt),
        ([1, "raw", "pipe", b"", [], []], Corrupt),
        ([1, "raw", "file", b"img", [], []], Corrupt),
        ([1, "raw", "file", b"./img", [], []], Corrupt),
        ([1, "raw", "file", b"-img", [], []], Corrupt),
        ([1, "raw", "file", b"x-flat.vmdk", [], []], Corrupt),
        ([1, "raw", "file", b"", [b"images"], []], Corrupt),
        ([1, "raw", "file", b"", [], [b"/dev/\0"]], Corrupt),
        ([1, "raw", "file", b"", [b"/" * 4096], []], Corrupt),
        ([1, "raw", "file", b"", [b"/a"] * (PATHS_MAX + 1), []], Corrupt),
        ("raw", Corrupt),
        ([2, "of", "a", "later", "version"], VentifsError),
    ],
)
def test_records_that_cannot_be_are_refused(stored: object, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        decode_kept(Record(kept_key("a"), bytes(16), msgspec.msgpack.encode(stored)))
    assert type(caught.value) is error
    with pytest.raises(VentifsError):
        decode_kept(Record(b"disk\0a/b\0", bytes(16), encode_kept(RAW)))
    with pytest.raises(Corrupt):
        decode_kept(Record(b"disk\0a", bytes(16), encode_kept(RAW)))
    with pytest.raises(Corrupt):
        decode_kept(Record(kept_key("a"), bytes(16), encode_kept(RAW) + b"\0"))


def test_a_suffix_of_a_raw_extent_is_kept() -> None:
    kept = Kept("raw", SourceType("file", b"-f001.vmdk"), Following())
    assert decode_kept(Record(kept_key("a"), bytes(16), encode_kept(kept)))[1] == kept


def test_what_a_record_cannot_hold_is_refused() -> None:
    long = tuple(b"/%04d" % number + b"x" * 4000 for number in range(PATHS_MAX))
    with pytest.raises(VentifsError, match="--follow-backing is given more than 64 times"):
        encode_kept(Kept("raw", SourceType("file", b""), Following((*long, b"/"))))
    with pytest.raises(VentifsError, match="more than 262,144 bytes"):
        encode_kept(Kept("raw", SourceType("file", b""), Following(long, long)))
    assert len(encode_kept(Kept("raw", SourceType("file", b""), Following(long[:63])))) < (
        RECORD_VALUE_MAX
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return new_store(tmp_path / "s")


def _version(store: Store, name: str, time_ns: int, kept: Kept) -> None:
    root = image(store, MemoryDisk(0, {})).root
    puts, deletes = changes(store, name, kept)
    value = encode_version(Version(name, time_ns, root))
    store.commit([(version_key(name, time_ns), value), *puts], deletes)


def test_a_name_keeps_the_last_and_one_record(store: Path) -> None:
    other = Kept("qcow2", SourceType("device", b""), Following((b"/a",), (b"/dev/b",)))
    with Store.open(store, "write") as opened:
        assert kept_of(opened, "vm") is None
        _version(opened, "vm", 1, RAW)
        assert kept_of(opened, "vm") == RAW
        assert changes(opened, "vm", RAW) == ([], [])
        _version(opened, "vm", 2, other)
        _version(opened, "vm2", 2, RAW)
        assert all_kept(opened) == {"vm": other, "vm2": RAW}
        assert len(opened.records(kept_key("vm"))) == 1
        opened.commit(deletes=records_kept(opened, "vm"))
        assert kept_of(opened, "vm") is None


def test_a_record_counts_only_while_its_name_has_versions(store: Path) -> None:
    """An older program forgets a name's versions, and knows of no such record."""
    with Store.open(store, "write") as opened:
        _version(opened, "vm", 1, RAW)
        opened.commit(deletes=[one.record for one in versions(opened) if one.record])
        assert opened.records(kept_key("vm"))
        assert kept_of(opened, "vm") is None


# Times of forgetting: of versions that stay, of those that go for good, of settings; what goes.
@pytest.mark.parametrize(
    ("staying", "doomed", "settings", "useless"),
    [
        ([], [], [5], [5]),  # the version is back, without its settings: a run was at work
        ([], [5], [5], [5]),
        ([5], [], [5], []),
        ([5], [], [3, 5, 7], [3]),
        ([9, 5], [3, 4], [3, 4, 7, 9], [3, 4]),
        ([], [3, 5], [1, 3, 5, 9], [1, 3, 5, 9]),
        ([9], [9], [9], []),
        ([9], [3], [], []),
    ],
)
def test_settings_that_nothing_brings_back_are_useless(
    store: Path, staying: list[int], doomed: list[int], settings: list[int], useless: list[int]
) -> None:
    with Store.open(store, "write") as opened:
        root = image(opened, MemoryDisk(0, {})).root
        value = encode_version(Version("vm", 1, root))
        going = [(forgotten_key("vm", number, when), value) for number, when in enumerate(doomed)]
        there = [
            (forgotten_key("vm", 100 + number, when), value) for number, when in enumerate(staying)
        ]
        others = [(forgotten_key(name, 1, 8), value) for name in ("v", "vm-1")]
        kept = [Record(kept_key("vm"), bytes(16), encode_kept(RAW))]
        puts = [put for when in settings for put in forgetting_kept(kept, "vm", when)]
        ends = forgetting_kept(kept, "vm-1", 8)
        odd = [(b"forgotten-disk\0x\0later", b""), (b"forgotten-disk\0x", b"")]
        records = opened.commit([*going, *there, *others, *puts, *ends, *odd])
        ids = {record.id for record in records[: len(doomed)]}
        gone = [
            each
            for each in forgotten(opened)
            if each.version.record and each.version.record.id in ids
        ]
        assert len(gone) == len(doomed)
        found = useless_kept(opened, gone)
        assert {(each.key, each.value) for each in found} == {
            put for when in useless for put in forgetting_kept(kept, "vm", when)
        }
        opened.commit(deletes=[*found, *records[: len(doomed)]])
        back = set()
        for each in forgotten(opened, "vm"):
            while (changes := bringing_back_kept(opened, "vm", each.forgotten_ns))[1]:
                opened.commit(deletes=changes[1])
                back |= {record.key for record in changes[1]}
        left = {put[0] for when in settings for put in forgetting_kept(kept, "vm", when)}
        assert back == left - {record.key for record in found}


def test_paths_are_kept_as_given_but_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path, expected in (
        ("/a/../b", b"/a/../b"),
        ("/", b"/"),
        ("//a/./b/", b"/a/b"),
        (".", bytes(tmp_path)),
        ("./images/.", bytes(tmp_path / "images")),
        ("images", bytes(tmp_path / "images")),
    ):
        assert absolute(path, "--follow-backing") == expected
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(VentifsError, match=r"--follow-backing \.: the working directory has been"):
        absolute(".", "--follow-backing")
