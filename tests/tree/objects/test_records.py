"""Records have one encoding each, and decoders refuse all else with `Corrupt`."""

import stat
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventifs.errors import Corrupt
from ventifs.tree.objects.records import (
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
    Xattrs,
    decode_child,
    decode_entry,
    decode_item,
    decode_xattrs,
    encode,
)

SCORE = bytes(range(1, 33))
LINK = bytes(range(16))
HEX = SCORE.hex()

# --- what stands on disk ----------------------------------------------------------------------

GOLDEN_ENTRIES = {
    f"98c40166cd89ed0000cf17979cfe3d85cd1592009302c420{HEX}cd13889100c400": Entry(
        b"f",
        stat.S_IFREG | 0o4755,
        0,
        0,
        1_700_000_000_123_456_789,
        RegularFile(Block(SCORE, 5000)),
        Empty(),
        b"",
    ),
    f"98c40169cd81a4cd03e864ff92009201c40568656c6c6f9100c410{LINK.hex()}": Entry(
        b"i", stat.S_IFREG | 0o644, 1000, 100, -1, RegularFile(Inline(b"hello")), Empty(), LINK
    ),
    "98c40165cd81800000009200910092049192c406757365722e61c40131c400": Entry(
        b"e", stat.S_IFREG | 0o600, 0, 0, 0, RegularFile(Empty()), Listed(((b"user.a", b"1"),)), b""
    ),
    f"98c4016ccd81a400000092009303c420{HEX}cf00000100000000009302c420{HEX}cd0258c400": Entry(
        b"l",
        stat.S_IFREG | 0o644,
        0,
        0,
        0,
        RegularFile(Tree(SCORE, 1 << 40)),
        Block(SCORE, 600),
        b"",
    ),
    f"98c40164cd43ff00000094019303c420{HEX}0307cf00000002000000009100c400": Entry(
        b"d", stat.S_IFDIR | 0o1777, 0, 0, 0, Directory(Tree(SCORE, 3), 7, 1 << 33), Empty(), b""
    ),
    "98c40173cda1ff0000009202c40b2f6574632f7061737377649100c400": Entry(
        b"s", stat.S_IFLNK | 0o777, 0, 0, 0, Symlink(b"/etc/passwd"), Empty(), b""
    ),
    "98c40163cd21b6000500930301039100c400": Entry(
        b"c", stat.S_IFCHR | 0o666, 0, 5, 0, Device(1, 3), Empty(), b""
    ),
    "98c40162cd61b00006009303cd0103ce000fffff9100c400": Entry(
        b"b", stat.S_IFBLK | 0o660, 0, 6, 0, Device(259, 2**20 - 1), Empty(), b""
    ),
    "98c40170cd118000000091049100c400": Entry(
        b"p", stat.S_IFIFO | 0o600, 0, 0, 0, Special(), Empty(), b""
    ),
    "98c4016bcdc1edceffffffff00d3800000000000000091049100c400": Entry(
        b"k", stat.S_IFSOCK | 0o755, 2**32 - 1, 0, -(2**63), Special(), Empty(), b""
    ),
    "98c40174cd11800000cfffffffffffffffff91049100c400": Entry(
        b"t", stat.S_IFIFO | 0o600, 0, 0, 2**64 - 1, Special(), Empty(), b""
    ),
}

GOLDEN_ITEMS: dict[str, Item] = {
    "9200cf0000010000000000": Hole(1 << 40),
    f"9301c420{HEX}ce00010000": Chunk(SCORE, 65536),
    f"94029303c420{HEX}ce000186a0cd1000cd2000": Slice(Tree(SCORE, 100000), 4096, 8192),
    "94029201c403616263" + "0102": Slice(Inline(b"abc"), 1, 2),
}


@pytest.mark.parametrize("golden", GOLDEN_ENTRIES)
def test_the_bytes_of_an_entry(golden: str) -> None:
    entry = GOLDEN_ENTRIES[golden]
    assert encode(entry).hex() == golden
    assert decode_entry(bytes.fromhex(golden)) == entry


def test_the_bytes_of_a_root() -> None:
    root = Entry(b"", stat.S_IFDIR | 0o755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")
    assert encode(root).hex() == "98c400cd41ed0000009401910000009100c400"
    assert decode_entry(encode(root), root=True) == root


@pytest.mark.parametrize("golden", GOLDEN_ITEMS)
def test_the_bytes_of_a_content_item(golden: str) -> None:
    assert encode(GOLDEN_ITEMS[golden]).hex() == golden
    assert decode_item(bytes.fromhex(golden)) == GOLDEN_ITEMS[golden]


def test_the_bytes_of_an_inner_item() -> None:
    golden = f"94c420{HEX}cd012cce00100000c4027a7a"
    assert encode(Child(SCORE, 300, 1 << 20, b"zz")).hex() == golden
    assert decode_child(bytes.fromhex(golden)) == Child(SCORE, 300, 1 << 20, b"zz")


# --- round trips ------------------------------------------------------------------------------

lengths = st.integers(1, 2**63 - 1)
scores = st.binary(min_size=32, max_size=32)
contents: st.SearchStrategy[Content] = st.one_of(
    st.just(Empty()),
    st.builds(Inline, st.binary(min_size=1, max_size=32)),
    st.builds(Block, scores, st.integers(1, 65536)),
    st.builds(Tree, scores, lengths),
)
names = st.binary(min_size=1, max_size=255).filter(
    lambda name: name not in (b".", b"..") and b"/" not in name and b"\0" not in name
)
pairs = st.dictionaries(
    st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name),
    st.binary(max_size=20),
    min_size=1,
    max_size=8,
).map(lambda found: tuple(sorted(found.items())))
numbers = st.integers(0, 2**32 - 1)
directories = st.builds(
    Directory,
    st.one_of(st.just(Empty()), st.builds(Tree, scores, st.integers(1, 1000))),
    st.integers(1000, 2**63 - 1),
    st.integers(0, 2**63 - 1),
)
typed = st.one_of(
    st.tuples(st.just(stat.S_IFREG), st.builds(RegularFile, contents)),
    st.tuples(st.just(stat.S_IFDIR), directories),
    st.tuples(
        st.just(stat.S_IFLNK),
        st.builds(Symlink, st.binary(min_size=1, max_size=4095).filter(lambda t: b"\0" not in t)),
    ),
    st.tuples(
        st.sampled_from([stat.S_IFCHR, stat.S_IFBLK]),
        st.builds(Device, st.integers(0, 2**12 - 1), st.integers(0, 2**20 - 1)),
    ),
    st.tuples(st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK]), st.just(Special())),
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind, detail = draw(typed)
    link = b"" if kind == stat.S_IFDIR else draw(st.sampled_from([b"", LINK]))
    xattrs = draw(st.one_of(st.builds(Listed, pairs), contents))
    return Entry(
        draw(names),
        kind | draw(st.integers(0, 0o7777)),
        draw(numbers),
        draw(numbers),
        draw(st.integers(TIME_NS_MIN, TIME_NS_MAX)),
        detail,
        xattrs,
        link,
    )


@given(entries())
def test_an_entry_comes_back(entry: Entry) -> None:
    assert decode_entry(encode(entry)) == entry
    assert decode_entry(memoryview(encode(entry))) == entry
    with pytest.raises(Corrupt):
        decode_entry(encode(entry), root=True)


@st.composite
def slices(draw: st.DrawFn) -> Slice:
    content = Tree(draw(scores), draw(st.integers(2, 2**63 - 1)))
    offset = draw(st.integers(0, content.length - 1))
    return Slice(content, offset, draw(st.integers(1, content.length - offset)))


@given(
    st.one_of(st.builds(Hole, lengths), st.builds(Chunk, scores, st.integers(1, 65536)), slices())
)
def test_an_item_comes_back(item: Item) -> None:
    assert decode_item(encode(item)) == item


@given(st.builds(Child, scores, lengths, st.integers(0, 2**63 - 1), st.binary(max_size=255)))
def test_an_inner_item_comes_back(child: Child) -> None:
    assert decode_child(encode(child)) == child


@given(pairs, st.binary(min_size=513, max_size=2000))
def test_long_extended_attributes_come_back(some: Xattrs, value: bytes) -> None:
    xattrs = tuple(sorted({**dict(some), b"user.long": value}.items()))
    assert decode_xattrs(encode(xattrs)) == xattrs


# --- hostile bytes ----------------------------------------------------------------------------

DECODERS: list[Callable[[bytes], object]] = [decode_entry, decode_item, decode_child, decode_xattrs]
VALID = [
    *(bytes.fromhex(golden) for golden in [*GOLDEN_ENTRIES, *GOLDEN_ITEMS]),
    encode(Child(SCORE, 300, 1 << 20, b"zz")),
    encode(((b"user.a", b"x" * 600),)),
]


def decodes_canonically(data: bytes) -> None:
    """Every decoder either refuses with `Corrupt`, or gives what encodes to the same bytes."""
    for decode in DECODERS:
        try:
            record = decode(data)
        except Corrupt:
            continue
        assert msgspec.msgpack.encode(record) == data


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_canonical(data: bytes) -> None:
    decodes_canonically(data)


@given(st.sampled_from(VALID), st.data())
def test_mutated_bytes_are_refused_or_canonical(valid: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(valid)))
    gone = data.draw(st.integers(0, 9))
    decodes_canonically(valid[:at] + data.draw(st.binary(max_size=9)) + valid[at + gone :])


@pytest.mark.parametrize("valid", VALID, ids=range(len(VALID)))
def test_every_prefix_and_every_extension_is_refused(valid: bytes) -> None:
    for decode in DECODERS:
        for data in [*(valid[:length] for length in range(len(valid))), valid + b"\0"]:
            with pytest.raises(Corrupt):
                decode(data)


def test_deep_nesting_is_refused() -> None:
    for data in (b"\x91" * 100_000, b"\x98" + b"\x91" * 100_000):
        for decode in DECODERS:
            with pytest.raises(Corrupt):
                decode(data)


ENTRY = GOLDEN_ENTRIES["98c40165cd81800000009200910092049192c406757365722e61c40131c400"]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("cd81800000", "ce0000818000" + "00"),  # a mode in five bytes
        ("cd81800000", "cd8180cc0000"),  # a uid in two bytes
        ("cd81800000", "cd8180d00000"),  # a uid as a signed byte
        ("c40165", "c5000165"),  # a name with a longer length
        ("c40165", "a165"),  # a name as text
        ("92009100", "dc0002009100"),  # an array with a longer length
        ("98c40165", "99c40165"),  # a field more said than there is
    ],
)
def test_other_encodings_of_the_same_are_refused(good: str, bad: str) -> None:
    data = encode(ENTRY).hex()
    assert good in data
    with pytest.raises(Corrupt):
        decode_entry(bytes.fromhex(data.replace(good, bad, 1)))


@pytest.mark.parametrize("fields", [0, 7, 9])
def test_missing_and_extra_fields_are_refused(fields: int) -> None:
    values = [*msgspec.msgpack.decode(encode(ENTRY)), 0][:fields]
    with pytest.raises(Corrupt):
        decode_entry(msgspec.msgpack.encode(values))


def changed(**fields: object) -> Entry:
    return msgspec.structs.replace(ENTRY, **fields)


def listed(*xattrs: tuple[bytes, bytes]) -> Entry:
    return changed(xattrs=Listed(xattrs))


def of_content(content: Content) -> Entry:
    return changed(detail=RegularFile(content))


def of_directory(content: Content, paths: int, total: int = 0) -> Entry:
    return changed(mode=stat.S_IFDIR, detail=Directory(content, paths, total))


BAD_ENTRIES = {
    "no name": changed(name=b""),
    "dot": changed(name=b"."),
    "dot dot": changed(name=b".."),
    "slash": changed(name=b"a/b"),
    "nul": changed(name=b"a\0b"),
    "long name": changed(name=b"n" * 256),
    "mode of a directory": changed(mode=stat.S_IFDIR | 0o755),
    "mode without a type": changed(mode=0o644),
    "mode of 17 bits": changed(mode=0o200000 | stat.S_IFREG),
    "huge mode": changed(mode=2**40 + stat.S_IFREG),
    "hugest mode": changed(mode=2**64 - 1),
    "negative mode": changed(mode=-1),
    "link as a fifo": changed(mode=stat.S_IFLNK, detail=Special()),
    "negative uid": changed(uid=-1),
    "uid of 33 bits": changed(uid=2**32),
    "gid of 33 bits": changed(gid=2**32),
    "short link id": changed(link=b"1" * 15),
    "long link id": changed(link=b"1" * 17),
    "hard-linked directory": msgspec.structs.replace(of_directory(Empty(), 0), link=LINK),
    "empty target": changed(mode=stat.S_IFLNK, detail=Symlink(b"")),
    "target too long": changed(mode=stat.S_IFLNK, detail=Symlink(b"t" * 4096)),
    "target with a nul": changed(mode=stat.S_IFLNK, detail=Symlink(b"a\0b")),
    "device out of range": changed(mode=stat.S_IFCHR, detail=Device(2**12, 0)),
    "negative device": changed(mode=stat.S_IFCHR, detail=Device(0, -1)),
    "xattrs listed but none": listed(),
    "xattrs twice": listed((b"user.a", b"1"), (b"user.a", b"2")),
    "xattrs unsorted": listed((b"user.b", b"1"), (b"user.a", b"2")),
    "xattr without a name": listed((b"", b"1")),
    "xattr with a nul": listed((b"user.\0", b"1")),
    "xattrs too long to list": listed((b"user.a", b"1" * 512)),
    "inline but empty": of_content(Inline(b"")),
    "inline too long": of_content(Inline(b"1" * 33)),
    "block of nothing": of_content(Block(SCORE, 0)),
    "block of less": of_content(Block(SCORE, -1)),
    "block of short score": of_content(Block(SCORE[1:], 1)),
    "block longer than a chunk can be": of_content(Block(SCORE, 2**40)),
    "tree past 63 bits": of_content(Tree(SCORE, 2**63)),
    "tree of long score": of_content(Tree(SCORE + b"1", 100)),
    "directory in a block": of_directory(Block(SCORE, 1), 1),
    "directory with fewer paths than names": of_directory(Tree(SCORE, 5), 4),
    "empty directory with negative paths": of_directory(Empty(), -1),
    "directory of negative bytes": of_directory(Empty(), 0, -1),
    "directory of too many bytes": of_directory(Empty(), 0, 2**63),
}


@pytest.mark.parametrize("what", BAD_ENTRIES)
def test_an_entry_that_cannot_be_is_refused(what: str) -> None:
    with pytest.raises(Corrupt):
        decode_entry(encode(BAD_ENTRIES[what]))


@pytest.mark.parametrize(
    "item",
    [
        Hole(0),
        Hole(-1),
        Hole(2**63),
        Chunk(SCORE, 0),
        Chunk(SCORE, 2**63),
        Chunk(b"", 1),
        Chunk(SCORE, 2**40),
        Slice(Tree(SCORE, 10), -1, 2),
        Slice(Tree(SCORE, 10), 5, 6),
        Slice(Tree(SCORE, 10), 2, 0),
        Slice(Tree(SCORE[1:], 10), 0, 1),
        Slice(Empty(), 0, 1),
        Slice(Inline(b"1" * 33), 0, 1),
    ],
    ids=str,
)
def test_an_item_that_cannot_be_is_refused(item: Item) -> None:
    with pytest.raises(Corrupt):
        decode_item(encode(item))


@pytest.mark.parametrize(
    "child",
    [
        Child(SCORE[1:], 1, 1, b""),
        Child(SCORE, 0, 1, b""),
        Child(SCORE, -1, 1, b""),
        Child(SCORE, 1, -1, b""),
        Child(SCORE, 1, 2**63, b""),
    ],
    ids=str,
)
def test_an_inner_item_that_cannot_be_is_refused(child: Child) -> None:
    with pytest.raises(Corrupt):
        decode_child(encode(child))


@pytest.mark.parametrize(
    "xattrs",
    [
        (),
        ((b"user.a", b"short"),),
        ((b"user.b", b"x" * 600), (b"user.a", b"")),
        ((b"user.a", b"x" * 600), (b"user.a", b"")),
        ((b"", b"x" * 600),),
        ((b"a\0", b"x" * 600),),
    ],
    ids=range(6),
)
def test_long_extended_attributes_that_cannot_be_are_refused(xattrs: Xattrs) -> None:
    with pytest.raises(Corrupt):
        decode_xattrs(encode(xattrs))
