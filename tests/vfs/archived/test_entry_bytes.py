"""What is read of an entry's bytes where it stands is what decoding it tells."""

import stat

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ventifs.tree.objects.records import (
    Block,
    Content,
    Detail,
    Device,
    Directory,
    Empty,
    Entry,
    Inline,
    Listed,
    RegularFile,
    Special,
    Symlink,
    Tree,
    decode_entry,
    encode,
)
from ventifs.vfs.archived.entry_bytes import (
    S_DIRECTORY,
    S_REGULAR,
    S_SYMLINK,
    is_linked,
    name_of,
    rest_of,
    seems_directory,
    type_of,
    version_of,
)

scores = st.binary(min_size=32, max_size=32)
contents: st.SearchStrategy[Content] = st.one_of(
    st.just(Empty()),
    st.builds(Inline, st.binary(min_size=1, max_size=32)),
    st.builds(Block, scores, st.integers(1, 1 << 20)),
    st.builds(Tree, scores, st.integers(1, 2**63 - 1)),
)
details: st.SearchStrategy[tuple[int, Detail]] = st.one_of(
    st.tuples(st.just(stat.S_IFREG), st.builds(RegularFile, contents)),
    st.tuples(st.just(stat.S_IFDIR), st.just(Directory(Empty(), 0, 0))),
    st.tuples(
        st.just(stat.S_IFDIR), st.builds(lambda score: Directory(Tree(score, 3), 9, 2**40), scores)
    ),
    st.tuples(
        st.just(stat.S_IFLNK),
        st.builds(
            Symlink, st.binary(min_size=1, max_size=300).filter(lambda target: b"\0" not in target)
        ),
    ),
    st.tuples(
        st.sampled_from([stat.S_IFCHR, stat.S_IFBLK]),
        st.builds(Device, st.integers(0, 4095), st.integers(0, 2**20 - 1)),
    ),
    st.tuples(st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK]), st.just(Special())),
)
names = st.binary(min_size=1, max_size=255).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
# Ids that look like the end of an entry without one, and entries that look like the head of an id.
links = st.one_of(
    st.just(b""),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=14, max_size=14).map(lambda start: start + b"\xc4\x00"),
)
xattrs = st.one_of(
    st.just(Empty()),
    st.binary(max_size=40).map(lambda value: Listed(((b"user.a", value),))),
    st.binary(max_size=13).map(lambda value: Listed(((b"user.a", b"\xc4\x10" + value),))),
    contents.filter(lambda content: not isinstance(content, Inline)),
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind, detail = draw(details)
    link = b"" if isinstance(detail, Directory) else draw(links)
    return Entry(
        draw(names),
        kind | draw(st.integers(0, 0o7777)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(-(2**63), 2**63 - 1)),
        detail,
        draw(xattrs),
        link,
    )


@given(entries())
def test_any_entry_tells_the_same_undecoded(entry: Entry) -> None:
    raw = encode(entry)
    decode_entry(raw)
    assert name_of(raw) == entry.name
    assert type_of(raw) << 12 == stat.S_IFMT(entry.mode)
    assert seems_directory(raw) == entry.is_directory
    assert is_linked(raw) == bool(entry.link)
    assert 0 < version_of(raw) < 2**32


@given(st.binary(max_size=10))
def test_bytes_of_any_kind_are_looked_at(raw: bytes) -> None:
    assert seems_directory(raw) in (False, True)


@given(entries(), names)
def test_the_rest_is_all_but_the_name(entry: Entry, other: bytes) -> None:
    raw, renamed = encode(entry), encode(msgspec.structs.replace(entry, name=other))
    assert rest_of(raw) == rest_of(renamed)
    assert version_of(raw) == version_of(renamed)
    touched = encode(msgspec.structs.replace(entry, mode=entry.mode ^ 1))
    assert rest_of(touched) != rest_of(raw)
    assert version_of(touched) != version_of(raw)


def test_a_root_has_an_empty_name() -> None:
    root = Entry(b"", stat.S_IFDIR | 0o755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")
    raw = encode(root)
    assert (name_of(raw), type_of(raw), is_linked(raw)) == (b"", S_DIRECTORY, False)


def test_a_head_of_an_id_that_is_none() -> None:
    """The bytes 16 before the end look like an id's head, and the end says there is none."""
    for length in range(20):
        pair = (b"user.a", b"\xc4\x10" + b"y" * length)
        raw = encode(Entry(b"n", stat.S_IFREG, 0, 0, 0, RegularFile(Empty()), Listed((pair,)), b""))
        if raw[-18:-16] == b"\xc4\x10":
            assert not is_linked(raw)
            return
    raise AssertionError("no entry of this kind was made")


def test_types() -> None:
    assert S_DIRECTORY << 12 == stat.S_IFDIR
    assert S_REGULAR << 12 == stat.S_IFREG
    assert S_SYMLINK << 12 == stat.S_IFLNK
