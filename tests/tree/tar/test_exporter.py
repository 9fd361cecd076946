"""A version as a tar stream: other tars unpack it to the same tree, and it archives as itself."""

import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.forging import directory, file
from tests.support.tars import unpacked
from tests.support.trees import archived, noise, odd_tree, plain_tree
from tests.support.walker import Look, look_at, same
from ventifs.store import Store
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.directory import resolve
from ventifs.tree.objects.records import (
    Device,
    Directory,
    Empty,
    Entry,
    Inline,
    Listed,
    RegularFile,
    Special,
    Symlink,
    encode,
)
from ventifs.tree.tar.exporter import Exported, Exporter
from ventifs.tree.tar.importer import TarArchiver
from ventifs.tree.tar.staging import gather
from ventifs.tree.tar.ustar import UstarHeader

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
GNU_TAR = ("tar", "--xattrs", "--xattrs-include=*")


def exported(store: Path, entry: Entry, name: bytes = b"") -> tuple[bytes, Exported]:
    stream = io.BytesIO()
    with Store.open(store) as opened:
        done = Exporter(opened, stream.write).run(entry, name)
    return stream.getvalue(), done


def archived_again(store: Path, data: bytes) -> Entry:
    with Store.open(store, "write") as opened:
        archiver = TarArchiver(opened)
        root = archiver.run(io.BytesIO(data))
    assert list(archiver.troubles) == []
    return root


def tree_without_warnings(source: Path) -> Path:
    """All of `odd_tree` but what the tars cannot hold, or warn of, and long names."""
    odd_tree(source)
    (source / "socket").unlink()
    (source / "size0").unlink()  # older than GNU tar thinks likely
    os.utime(source / "size1", ns=(0, 999_999_999))  # and not in the future
    for name in (b"\xff" * 200, b"a" * 200):
        (source / os.fsdecode(name)).write_bytes(b"long")
        (source / os.fsdecode(name[:150])).symlink_to(os.fsdecode(name * 3))
    os.setxattr(source / "size33", "security.selinux", b"system_u:object_r:etc_t:s0\0")
    os.setxattr(source / "size33", "user.raw", b"\0\n\xff=")
    (source / "ends with a hole").touch()
    os.truncate(source / "ends with a hole", 1 << 33)
    (source / os.fsdecode(b"\xfe")).write_bytes(b"1" + bytes(1 << 20) + b"2")
    return source


# --- other tars -------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
@pytest.mark.parametrize("more", [[], ["--acls", "--selinux"]], ids=["", "acls"])
def test_gnu_tar_unpacks_the_same_tree_and_says_nothing(
    store: Path, source: Path, tmp_path: Path, locale: str, more: list[str]
) -> None:
    tree_without_warnings(source)
    os.setxattr(source / "size33", "user.100%=b", b"1")
    version, _ = archived(store, source)
    data, done = exported(store, version.root)
    assert done.left == []
    said = unpacked(data, tmp_path / "out", *GNU_TAR, *more, LC_ALL=locale)
    lines = [line for line in said.splitlines() if "support is not available" not in line]
    assert lines == []
    same(source, tmp_path / "out")


@as_root
def test_bsdtar_unpacks_the_same_tree_and_says_nothing(
    store: Path, source: Path, tmp_path: Path
) -> None:
    """But for the time of the root, which it does not set from its own archives either."""
    tree_without_warnings(source)
    version, _ = archived(store, source)
    assert unpacked(exported(store, version.root)[0], tmp_path / "out", "bsdtar") == ""
    os.utime(tmp_path / "out", ns=(0, version.root.mtime_ns))
    same(source, tmp_path / "out")


@as_root
def test_gnu_tar_finds_acls_and_labels_where_it_looks_by_itself(
    store: Path, source: Path, tmp_path: Path
) -> None:
    odd_tree(source)
    version, _ = archived(store, source)
    unpacked(exported(store, version.root)[0], tmp_path / "out", "tar", "--acls")
    for name in (b"owned", b"empty"):
        ours, theirs = (dict(acls(look_at(root)[name])) for root in (source, tmp_path / "out"))
        assert ours == theirs != {}


def acls(look: Look) -> list[tuple[str, bytes]]:
    return [pair for pair in look.xattrs if "posix_acl" in pair[0]]


def test_tarfile_reads_the_same_names(store: Path, source: Path) -> None:
    version, _ = archived(store, plain_tree(source))
    data, done = exported(store, version.root)
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        names = [os.fsencode(member.name) for member in tar]
    assert len(names) == done.entries == len(look_at(source))
    assert sorted(names) == sorted(b"./" + path if path else b"." for path in look_at(source))


# --- archived again ---------------------------------------------------------------------------


@as_root
def test_an_export_of_everything_odd_has_the_same_score_archived_again(
    store: Path, source: Path
) -> None:
    odd_tree(source)
    os.setxattr(source / "size33", "user.100%=b", b"1")
    os.setxattr(source / "size1", "user.large", noise(3000))
    with_socket, _ = archived(store, source, "socket")
    data, done = exported(store, with_socket.root)
    assert [path for path, _ in done.left] == [b"socket"]
    when = source.stat().st_mtime_ns
    (source / "socket").unlink()
    os.utime(source, ns=(0, when))
    version, _ = archived(store, source)
    assert archived_again(store, data) == version.root


def test_an_export_of_what_users_make_has_the_same_score_archived_again(
    store: Path, source: Path
) -> None:
    version, _ = archived(store, plain_tree(source))
    data, _ = exported(store, version.root)
    assert archived_again(store, data) == version.root
    assert exported(store, version.root)[0] == data


NAMES = st.binary(min_size=1, max_size=6) | st.binary(min_size=90, max_size=130)
SOUND_NAMES = NAMES.filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))
PATHS = st.lists(SOUND_NAMES, min_size=1, max_size=3).map(b"\0".join)
XATTRS = st.dictionaries(
    st.binary(min_size=1, max_size=9).filter(lambda name: 0 not in name),
    st.binary(max_size=20),
    max_size=2,
)
NUMBERS = st.integers(0, 2**32 - 1)
KINDS: dict[int, st.SearchStrategy[object]] = {
    stat.S_IFREG: st.binary(max_size=100),
    stat.S_IFDIR: st.just(Directory(Empty(), 0, 0)),
    stat.S_IFLNK: st.binary(min_size=1, max_size=200)
    .filter(lambda target: 0 not in target)
    .map(Symlink),
    stat.S_IFBLK: st.builds(Device, st.integers(0, 4095), st.integers(0, 2**20 - 1)),
    stat.S_IFIFO: st.just(Special()),
}
MEMBERS = st.lists(
    st.tuples(
        PATHS,
        st.sampled_from(list(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), KINDS[kind])),
        st.integers(0, 0o7777),
        NUMBERS,
        NUMBERS,
        st.integers(-(2**62), 2**62),
        XATTRS,
        st.booleans(),
    ),
    max_size=6,
)


def test_any_tree_has_the_same_score_archived_again(store: Path) -> None:
    with Store.open(store, "write") as opened:
        writer = ContentWriter(opened)

        @settings(max_examples=200)
        @given(MEMBERS)
        def run(
            members: list[
                tuple[bytes, tuple[int, object], int, int, int, int, dict[bytes, bytes], bool]
            ],
        ) -> None:
            last = b""
            with gather() as gathered:
                for key, (kind, what, *_), mode, uid, gid, mtime_ns, xattrs, linked in members:
                    detail = (
                        RegularFile(writer.write_whole(what)) if isinstance(what, bytes) else what
                    )
                    name = key.rpartition(b"\0")[2]
                    found = gathered.find(last) if linked else None
                    if found is not None:
                        gathered.put(key, renamed(found[0], name), found[1])
                        continue
                    pairs = Listed(tuple(sorted(xattrs.items()))) if xattrs else Empty()
                    entry = Entry(name, kind | mode, uid, gid, mtime_ns, detail, pairs, b"")  # type: ignore[arg-type]
                    gathered.put(key, entry)
                    last = key
                list(gathered.prune())
                root = gathered.build(writer.put_node)
            stream = io.BytesIO()
            assert Exporter(opened, stream.write).run(root).left == []
            stream.seek(0)
            archiver = TarArchiver(opened)
            again = archiver.run(stream)
            assert list(archiver.troubles) == []
            assert encode(again) == encode(root)

        run()


def renamed(entry: Entry, name: bytes) -> Entry:
    return Entry(
        name, entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.detail, entry.xattrs, b""
    )


# --- the stream -------------------------------------------------------------------------------


def test_part_of_a_version_and_a_single_file(store: Path, source: Path, tmp_path: Path) -> None:
    version, _ = archived(store, plain_tree(source))
    with Store.open(store) as opened:
        part = resolve(opened, version.root, b"links")
        file = resolve(opened, version.root, b"links/b")
    unpacked(exported(store, part, b"links")[0], tmp_path / "part", "tar")
    assert sorted(look_at(tmp_path / "part")) == [b"", b"b", b"c", b"in", b"in/a"]
    unpacked(exported(store, file, b"b")[0], tmp_path / "file", "tar")
    assert (tmp_path / "file" / "b").read_bytes() == b"linked" * 100


def test_headers_have_these_bytes() -> None:
    """By hand, from POSIX.1-2017, pax, 'ustar Interchange Format'."""
    block = UstarHeader(b"0", b"./f", 0o4755, 1, 2, 3 * 10**9, 5).encode()
    fields = [
        b"./f" + bytes(97),
        b"0004755\0",
        b"0000001\0",
        b"0000002\0",
        b"00000000005\0",
        b"00000000003\0",
        b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * 32),
        b"0",
        bytes(100),
        b"ustar\0",
        b"00",
        bytes(32),
        bytes(32),
        bytes(16),
        bytes(155),
        bytes(12),
    ]
    assert block == b"".join(fields)
    long = UstarHeader(b"2", b"./l", mtime_ns=-1_500_000_000, uid=2**31, target=b"t" * 101).encode()
    assert long[156:157] == b"x"
    assert long[512:].startswith(b"115 linkpath=" + b"t" * 101 + b"\n18 uid=2147483648\n")
    assert b"\n14 mtime=-1.5\n" in long
    assert len(long) == 3 * 512


@pytest.mark.parametrize(
    "header",
    [
        UstarHeader(b"0", b"./" + b"n" * 98, 0o7777, 2**21, 2**32 - 1, -1, 8 << 30),
        UstarHeader(b"0", b"./" + b"n" * 99, 0, 2**21 - 1, 0, 2**33 * 10**9, (8 << 30) - 1),
        UstarHeader(b"2", b"./" + b"\xff" * 300, target=b"\xfe" * 101, mtime_ns=10**9),
        UstarHeader(b"4", b"./\xc3\xa9" * 60, device=(4095, 2**20 - 1), mtime_ns=1),
    ],
)
def test_tarfile_reads_in_headers_what_was_written(header: UstarHeader) -> None:
    stream = io.BytesIO(header.encode() + bytes(1024))
    tar = tarfile.TarFile(fileobj=stream, encoding="utf-8", errors="surrogateescape")
    member = tar.firstmember  # type: ignore[attr-defined]
    said = (
        member.type,
        os.fsencode(member.name),
        os.fsencode(member.linkname),
        member.mode,
        member.uid,
        member.gid,
        member.size,
        member.devmajor,
        member.devminor,
    )
    assert said == (
        header.type,
        header.name,
        header.target,
        header.mode,
        header.uid,
        header.gid,
        header.size,
        *header.device,
    )
    assert member.mtime == pytest.approx(header.mtime_ns / 10**9, abs=1e-9)


def test_an_export_has_these_bytes(store: Path, source: Path) -> None:
    """Pinned: whoever keeps exports, or signs them, gets the same bytes for the same version."""
    source.mkdir()
    (source / "f").write_bytes(b"content")
    (source / "link").symlink_to("f")
    (source / "sparse").write_bytes(b"1" + bytes(99_999))
    for name in ("f", "link", "sparse", ""):
        os.utime(source / name, ns=(0, 1_500_000_000), follow_symlinks=False)
        if os.geteuid() == 0:
            os.chown(source / name, 1000, 2_097_152, follow_symlinks=False)
    for name, mode in (("", 0o755), ("f", 0o640), ("sparse", 0o644)):
        (source / name).chmod(mode)
    version, _ = archived(store, source)
    data, _ = exported(store, version.root)
    assert len(data) % 10240 == 0
    assert data.endswith(bytes(1024))
    if os.geteuid() == 0:
        assert (
            hashlib.sha256(data).hexdigest()
            == "269ab308ba26b6d9c5cf175023157c135f8dbfb1a7a6ca279bc1e84bf44220ad"
        )


def test_a_claim_to_be_another_files_link_gets_its_own_contents(store: Path) -> None:
    """As in a restore: only entries that are alike in everything but their names are one file."""
    names = {b"a": b"secret", b"b": b"secret", b"c": b"other", b"d": b"other"}
    with Store.open(store, "write") as opened:
        children = [
            msgspec.structs.replace(file(name, Inline(data)), link=b"1" * 16)
            for name, data in names.items()
        ]
        root = directory(opened, b"", children)
        opened.commit()
    data, _ = exported(store, root)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {member.name: member for member in tar}
        assert found["./b"].linkname == "./a"
        assert found["./d"].linkname == "./c"
        body = tar.extractfile(found["./c"])
        assert body is not None
        assert body.read() == b"other"
