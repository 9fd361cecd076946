"""Whatever an encoder accepts, its decoder gives back; whatever it refuses has a named error."""

import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.stores import new_store
from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Store
from ventifs.store.journal import (
    RECORD_KEY_MAX,
    RECORD_VALUE_MAX,
    Changes,
    Record,
    decode_changes,
    encode_changes,
)
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.file_reader import Trouble
from ventifs.tree.archive.statcache import Leaf, raw_leaves
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.prolly import Builder
from ventifs.tree.objects.records import (
    LENGTH_MAX,
    TIME_NS_MAX,
    TIME_NS_MIN,
    Block,
    Child,
    Chunk,
    Content,
    Device,
    Directory,
    Empty,
    Entry,
    Hole,
    Inline,
    Item,
    Listed,
    RegularFile,
    Slice,
    Special,
    Symlink,
    Tree,
    Unfit,
    Xattrs,
    clamped_ns,
    decode_child,
    decode_entry,
    decode_item,
    encode_child,
    encode_entry,
    encode_item,
    time_problem,
)
from ventifs.tree.tar.tar_source import TarSource
from ventifs.tree.versions.catalog import (
    COMMENT_MAX,
    TAG_MAX,
    TAGS_MAX,
    Version,
    check_notes,
    decode_version,
    encode_version,
    version_key,
)
from ventifs.tree.versions.troubles import Troubles, fitted, troubles_of
from ventifs.tree.versions.verify import Verifier

EDGES = [
    -(2**63) - 1,
    -(2**63),
    -1,
    0,
    1,
    2**12,
    2**20,
    2**32 - 2,
    2**32 - 1,
    2**32,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    2**80,
]
numbers = st.one_of(st.sampled_from(EDGES), st.integers(-(2**70), 2**70), st.integers(0, 5000))
lengths = st.one_of(st.integers(1, 2**20), numbers)
scores = st.one_of(st.binary(min_size=32, max_size=32), st.binary(max_size=40))
blobs = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"x" * 512, b"y" * 4095]))
contents: st.SearchStrategy[Content] = st.one_of(
    st.just(Empty()),
    st.builds(Inline, st.binary(max_size=40)),
    st.builds(Block, scores, lengths),
    st.builds(Tree, scores, lengths),
)
pairs: st.SearchStrategy[Xattrs] = st.lists(
    st.tuples(st.sampled_from([b"", b"user.a", b"user.b", b"n\0", b"user.long"]), blobs), max_size=4
).map(tuple)
sorted_pairs = pairs.map(lambda found: tuple(sorted(dict(found).items())))
details = st.one_of(
    st.builds(RegularFile, contents),
    st.builds(Directory, contents, lengths, numbers),
    st.builds(Symlink, st.one_of(blobs, st.sampled_from([b"a\0b", b"z" * 4096]))),
    st.builds(Device, numbers, numbers),
    st.just(Special()),
)
MODE_OF = {
    RegularFile: stat.S_IFREG,
    Directory: stat.S_IFDIR,
    Symlink: stat.S_IFLNK,
    Device: stat.S_IFBLK,
    Special: stat.S_IFIFO,
}
names = st.one_of(
    st.binary(max_size=260),
    st.sampled_from([b"", b".", b"..", b"a/b", b"a\0b", b"n" * 255, b"n" * 256, b"\xff"]),
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """Mostly such as there can be, but for a field or two."""
    detail = draw(details)
    mode = MODE_OF[type(detail)] | draw(st.integers(0, 0o7777))
    return Entry(
        draw(names),
        draw(st.one_of(st.just(mode), numbers)),
        draw(st.one_of(st.just(0), numbers)),
        draw(st.one_of(st.just(0), numbers)),
        draw(numbers),
        detail,
        draw(st.one_of(contents, st.builds(Listed, st.one_of(pairs, sorted_pairs)))),
        draw(st.sampled_from([b"", b"", bytes(16), b"short"])),
    )


@given(entries(), st.booleans())
def test_entries(entry: Entry, root: bool) -> None:
    try:
        data = encode_entry(entry, root=root)
    except Unfit:
        return
    assert decode_entry(data, root=root) == entry


items: st.SearchStrategy[Item] = st.one_of(
    st.builds(Hole, lengths),
    st.builds(Chunk, scores, lengths),
    st.builds(Slice, contents, numbers, lengths),
)


@given(items)
def test_items(item: Item) -> None:
    try:
        data = encode_item(item)
    except Unfit:
        return
    assert decode_item(data) == item


@given(st.builds(Child, scores, numbers, numbers, blobs))
def test_children(child: Child) -> None:
    try:
        data = encode_child(child)
    except Unfit:
        return
    assert decode_child(data) == child


@given(numbers)
def test_the_nearest_time_is_kept(time_ns: int) -> None:
    held = clamped_ns(time_ns)
    assert TIME_NS_MIN <= held <= TIME_NS_MAX
    assert (held == time_ns) == (time_problem(time_ns) == "")
    entry = Entry(b"x", 0o10600, 0, 0, held, Special(), Empty(), b"")
    assert decode_entry(encode_entry(entry)).mtime_ns == held


# --- versions ---------------------------------------------------------------------------------

texts = st.text(st.characters(codec=None), max_size=30)  # also what cannot be encoded
troubles = st.lists(st.tuples(blobs, st.text(max_size=20), st.booleans()), max_size=3).map(tuple)


@given(
    st.sampled_from(["n", "", "a/b", "x" * 200, "x" * 201]),
    numbers,
    texts,
    texts,
    st.lists(texts, max_size=3).map(tuple),
    numbers,
    st.floats(allow_nan=False),
    troubles,
    numbers,
    contents,
    numbers,
    st.booleans(),
)
def test_versions(
    name: str,
    time_ns: int,
    source: str,
    comment: str,
    tags: tuple[str, ...],
    new_bytes: int,
    seconds: float,
    found: tuple[tuple[bytes, str, bool], ...],
    more: int,
    beyond: Content,
    mtime_ns: int,
    directory: bool,
) -> None:
    detail = Directory(Empty(), 0, 0) if directory else Special()
    mode = 0o40755 if directory else 0o10755
    root = Entry(b"", mode, 0, 0, mtime_ns, detail, Empty(), b"")
    version = Version(
        name, time_ns, root, source, comment, tags, new_bytes, seconds, found, more, beyond
    )
    try:
        value = encode_version(version)
    except VentifsError:
        return
    record = Record(version_key(name, time_ns), bytes(16), value)
    assert msgspec.structs.replace(decode_version(record), record=None) == version


ROOT = Entry(b"", 0o40755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_store(tmp_path_factory.mktemp("written") / "store")


@pytest.mark.parametrize(
    ("count", "length", "listed_count"),
    [
        (200, 100, 200),
        (201, 100, 200),
        (200, 2000, 32),
        (2, 60_000, 2),
        (3, 300_000, 0),
        (5000, 250, 200),
        (25_000, 20, 200),
        (1, 0, 1),
    ],
)
def test_all_troubles_come_back(store: Path, count: int, length: int, listed_count: int) -> None:
    found = Troubles(
        Trouble(b"%06d" % number + b"\xff" * length, "permission denied", number % 2 == 0)
        for number in reversed(range(count))
    )
    with Store.open(store, "write") as opened:
        version = fitted(Version("n", 7, ROOT), found, ContentWriter(opened))
        assert len(version.troubles) == listed_count
        record = Record(version_key("n", 7), bytes(16), encode_version(version))
        read = decode_version(record)
        assert len(read.troubles) + read.troubles_more == count
        back = list(troubles_of(opened, read))
    if length < 65_000:
        assert back == list(found)
    else:
        assert [(each[0][:6], each[0][-6:], each[2]) for each in back] == [
            (each[0][:6], each[0][-6:], each[2]) for each in found
        ]


GOOD = msgspec.msgpack.encode((b"etc/shadow", "permission denied", True))


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (framed(GOOD), 2),
        (framed(GOOD) * 2, 1),
        (framed(GOOD)[:-1], 1),
        (framed(GOOD) + b"\1", 1),
        (framed(b""), 1),
        (framed(GOOD + b"\xc0"), 1),
        (b"\xff" * 100, 1),
        (bytes(1 << 20), 1),
        (framed(b"\x93\xc5\x00\x01a\xa1b\xc3"), 1),
        ((69 << 10).to_bytes(4, "little") * 20_000, 1),
    ],
    ids=range(10),
)
def test_forged_troubles_are_corrupt(store: Path, data: bytes, count: int) -> None:
    with Store.open(store, "write") as opened:
        content = ContentWriter(opened).write_pieces([data])
        version = Version("n", 7, ROOT, troubles_more=count, beyond=content)
        with pytest.raises(Corrupt):
            list(troubles_of(opened, version))
        [harm] = Verifier(opened).version(version)
    assert "troubles" in harm.reason


@pytest.mark.parametrize("length", [69 << 10, 1 << 20, 1 << 50, 1 << 62])
@pytest.mark.parametrize("where", ["before", "between", "after", "alone", "sliced"])
def test_troubles_with_a_hole_are_corrupt(store: Path, where: str, length: int) -> None:
    """And no memory is taken for it; no other command that reads them ends otherwise."""
    with Store.open(store, "write") as opened:
        writer = ContentWriter(opened)
        listed = Chunk(opened.put(framed(GOOD) * 500)[0], len(framed(GOOD)) * 500)
        hole = writer.write([length])
        sliced = Slice(hole, 0, length)
        choices: dict[str, list[Item]] = {
            "before": [Hole(length), listed],
            "between": [listed, Hole(length), listed],
            "after": [listed, Hole(length)],
            "alone": [Hole(length)],
            "sliced": [listed, sliced],
        }
        builder = Builder(writer.put_node)
        for item in choices[where]:
            builder.add(encode_item(item), length=item.length)
        version = Version(
            "n", 7, ROOT, troubles_more=500, beyond=Tree(builder.finish(), builder.total)
        )
        with pytest.raises(Corrupt, match="a list of troubles has a hole"):
            list(troubles_of(opened, version))
        [harm] = Verifier(opened).version(version)
    assert "a list of troubles has a hole" in harm.reason


def test_zeros_in_paths_are_no_hole(store: Path) -> None:
    """Of a tar archive's name, say: the blocks of the list end with zeros, or leave them out."""
    found = Troubles(Trouble(bytes(60_000) + b"%d" % number, "why", True) for number in range(40))
    with Store.open(store, "write") as opened:
        version = fitted(Version("n", 7, ROOT), found, ContentWriter(opened))
        assert version.troubles_more
        assert list(troubles_of(opened, version)) == list(found)
        assert list(Verifier(opened).version(version)) == []


@pytest.mark.parametrize("content", [Block(bytes(31), 100), Tree(bytes(32), 0), Empty()])
def test_a_record_of_nine_fields_that_cannot_be_is_corrupt(content: Content) -> None:
    fields = [encode_entry(ROOT, root=True), "", "", [], 0, 0.0, [], 3, content]
    with pytest.raises(Corrupt):
        decode_version(Record(version_key("n", 7), bytes(16), msgspec.msgpack.encode(fields)))


def test_a_record_within_the_bound_has_no_ninth_field(store: Path) -> None:
    found = Troubles(Trouble(b"%0200d" % number, "why", True) for number in range(200))
    with Store.open(store, "write") as opened:
        version = fitted(Version("n", 7, ROOT), found, ContentWriter(opened))
    assert (len(version.troubles), version.troubles_more) == (200, 0)
    assert encode_version(version)[:1] == b"\x98"


@given(st.lists(st.tuples(st.binary(max_size=20), texts, st.booleans()), max_size=5))
def test_any_reason_can_be_recorded(found: list[tuple[bytes, str, bool]]) -> None:
    version = Version("n", 7, ROOT, troubles=tuple(Troubles(Trouble(*each) for each in found)))
    record = Record(version_key("n", 7), bytes(16), encode_version(version))
    assert decode_version(record).troubles == version.troubles


@pytest.mark.parametrize(
    ("comment", "tags", "message"),
    [
        ("x" * (COMMENT_MAX + 1), (), "a comment may have 4,096 bytes, this one has 4,097"),
        ("ü" * (COMMENT_MAX // 2 + 1), (), "this one has 4,098"),
        ("", ("t",) * (TAGS_MAX + 1), "a version may have 64 tags, not 65"),
        ("", ("ü" * (TAG_MAX // 2 + 1),), "a tag may have 256 bytes, this one has 258"),
        ("two\nlines", (), "one line of text"),
        ("\udcff", (), "one line of text"),
    ],
)
def test_long_notes_are_refused_before_anything_is_read(
    store: Path, tmp_path: Path, comment: str, tags: tuple[str, ...], message: str
) -> None:
    with (
        Store.open(store, "write") as opened,
        (tmp_path / "stream").open("w+b") as stream,
        pytest.raises(VentifsError, match=message),
    ):
        archive(opened, TarSource(stream, "tar"), "notes", comment=comment, tags=tags)


def test_notes_as_long_as_they_may_be() -> None:
    check_notes("x" * COMMENT_MAX, ("t" * TAG_MAX,) * TAGS_MAX)


def test_longer_notes_of_older_versions_are_read() -> None:
    version = Version("n", 7, ROOT, comment="c" * 100_000, tags=("t" * 1000,) * 100)
    record = Record(version_key("n", 7), bytes(16), encode_version(version))
    assert decode_version(record).comment == version.comment


# --- journal and cache ------------------------------------------------------------------------

sizes = st.sampled_from([0, 1, RECORD_KEY_MAX, RECORD_KEY_MAX + 1])
value_sizes = st.sampled_from([0, 1, RECORD_VALUE_MAX, RECORD_VALUE_MAX + 1])


@given(st.lists(st.tuples(sizes, value_sizes), max_size=3))
def test_journal_records(lengths_of: list[tuple[int, int]]) -> None:
    records = [Record(b"k" * key, bytes(16), b"v" * value) for key, value in lengths_of]
    try:
        payloads = list(encode_changes(Changes(records), 64 << 10))
    except ValueError:
        return
    assert decode_changes(payloads).puts == records


@given(
    st.lists(
        st.tuples(names, st.integers(0, 2**64 - 1), st.integers(0, LENGTH_MAX), numbers, numbers),
        max_size=4,
    )
)
def test_leaves_of_the_stat_cache(leaves: list[Leaf]) -> None:
    held = msgspec.msgpack.decode(raw_leaves(leaves), type=list[Leaf])
    assert held == [
        (name, inode, size, clamped_ns(mtime_ns), clamped_ns(ctime_ns))
        for name, inode, size, mtime_ns, ctime_ns in leaves
    ]


@given(st.one_of(pairs, sorted_pairs))
def test_attributes(xattrs: Xattrs) -> None:
    entry = Entry(b"x", 0o10600, 0, 0, 0, Special(), Listed(xattrs), b"")
    try:
        data = encode_entry(entry)
    except Unfit:
        return
    assert decode_entry(data) == entry
