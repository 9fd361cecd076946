"""A tar stream is archived as the tree it holds."""

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tests.support.stores import findings, new_store
from tests.support.tars import (
    END,
    PACKED,
    directory,
    gnu_tar,
    link,
    member,
    packed,
    taken,
    with_fields,
)
from tests.support.trees import ACL, archived, noise, odd_tree, plain_tree, remove
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree import temporary
from ventifs.tree.catalog import tree_score
from ventifs.tree.content import read
from ventifs.tree.directory import tree
from ventifs.tree.records import Device, Entry, File, Listed, Symlink
from ventifs.tree.tar import TarArchiver

GNU: Literal[1] = 1
PAX: Literal[2] = 2
FORMS = (GNU, PAX)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return new_store(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "source"
    remove(tmp_path / "source")


def entries_of(store: Path, data: bytes) -> dict[bytes, Entry]:
    """Every path of an archived stream, which must not have troubles."""
    root, archiver = taken(store, data)
    assert archiver.troubles == []
    with Store.open(store) as opened:
        return {b"": root, **dict(tree(opened, root))}


def told(archiver: TarArchiver) -> list[tuple[bytes, bool]]:
    return [(trouble.path, trouble.missing) for trouble in archiver.troubles]


def text(store: Path, entry: Entry) -> bytes:
    assert isinstance(entry.detail, File)
    with Store.open(store) as opened:
        return b"".join(bytes(piece) for piece in read(opened, entry.detail.content))


# --- canonical --------------------------------------------------------------------------------

OPTIONS = {
    "plain": [], "by-name": ["--sort=name"], "gzip": ["-z"], "xz": ["-J"], "zstd": ["--zstd"],
    "bzip2": ["-j"], "sparse-1.0": ["-S"], "sparse-0.1": ["-S", "--sparse-version=0.1"],
    "sparse-0.0": ["-S", "--sparse-version=0.0"], "acls": ["--acls", "--selinux"],
}  # fmt: skip


@as_root
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_tar_of_a_directory_has_the_directory_s_score(
    store: Path, source: Path, options: list[str]
) -> None:
    odd_tree(source)
    (source / "socket").unlink()  # no tar holds it
    (source / "empty" / "fifo too").unlink()  # GNU tar does not see that it is a link
    os.utime(source / "empty", ns=(0, 1))
    version, tally = archived(store, source)
    root, archiver = taken(store, gnu_tar(source, *options))
    assert archiver.troubles == []
    assert (root, tree_score(root)) == (version.root, tree_score(version.root))
    assert (archiver.tally.entries, archiver.tally.bytes) == (tally.entries, tally.bytes)
    assert archiver.tally.new_bytes == 0
    assert findings(store) == []


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=gnu", "-S"], ["--format=oldgnu"]])
def test_gnu_s_own_format_keeps_all_but_parts_of_seconds(
    store: Path, source: Path, options: list[str]
) -> None:
    plain_tree(source)
    for path in sorted(source.rglob("*"), reverse=True):
        os.utime(path, ns=(0, 10**18), follow_symlinks=False)
    os.utime(source, ns=(0, 10**18))
    version, _ = archived(store, source)
    root, archiver = taken(store, gnu_tar(source, "--no-xattrs", *options))
    assert (archiver.troubles, root) == ([], version.root)


@as_root
def test_bsdtar_s_archive_has_the_directory_s_score(store: Path, source: Path) -> None:
    odd_tree(source)
    for name in ("socket", "empty/fifo too", "size0"):  # it writes times before 1970 otherwise
        (source / name).unlink()
    version, _ = archived(store, source)
    words = ["bsdtar", "--format=pax", "--acls", "--xattrs", "-C", str(source), "-cf", "-", "."]
    done = subprocess.run(words, capture_output=True, check=True)
    root, archiver = taken(store, done.stdout)
    assert (archiver.troubles, root) == ([], version.root)


def test_the_order_of_members_does_not_matter(store: Path) -> None:
    parts = [directory("a", mtime=1), member("a/b", b"1"), member("a.b", b"2"), directory("./")]
    roots = [taken(store, b"".join(order) + END)[0] for order in (parts, parts[::-1])]
    assert roots[0] == roots[1]


# --- names ------------------------------------------------------------------------------------


def test_names_are_made_relative_and_parents_are_implied(store: Path) -> None:
    data = member("/a//./b/c", b"1") + member("./d", b"2") + directory("e///") + END
    found = entries_of(store, data)
    assert sorted(found) == [b"", b"a", b"a/b", b"a/b/c", b"d", b"e"]
    for path in (b"", b"a", b"a/b"):
        implied = found[path]
        assert (implied.mode, implied.uid, implied.mtime_ns) == (stat.S_IFDIR | 0o755, 0, 0)


def test_the_root_is_taken_from_its_member(store: Path) -> None:
    for name in ("./", ".", "/"):
        root = taken(store, member("a") + directory(name, mode=0o700, uid=5, mtime=9) + END)[0]
        assert (root.mode, root.uid, root.mtime_ns) == (stat.S_IFDIR | 0o700, 5, 9 * 10**9)


def test_names_that_lead_elsewhere_or_cannot_be_are_told(store: Path) -> None:
    names = ["../up", "a/../b", "x" * 256, "y/" * 10_000, "."]
    root, archiver = taken(store, b"".join(member(name, b"1") for name in names) + END)
    assert [missing for _, missing in told(archiver)] == [True] * len(names)
    assert told(archiver)[0] == (b"../up", True)
    assert root == taken(store, END)[0]


def test_names_may_be_any_bytes(store: Path) -> None:
    for form in FORMS:
        names = ["\udcff" * 200, "\udcc3\udca9", "new\nline", "d" * 200 + "/" + "e" * 250]
        data = b"".join(member(name, b"1", form=form) for name in names)
        found = entries_of(store, data + END)
        assert {name.encode("utf-8", "surrogateescape") for name in names} < set(found)


def test_gnu_s_times_are_no_part_of_the_name(store: Path) -> None:
    """An incremental GNU archive has access times where others have a prefix."""
    block = with_fields(member("file", form=GNU), {345: b"15301324507\0"})
    assert sorted(entries_of(store, block + END)) == [b"", b"file"]


# --- what becomes of a path -------------------------------------------------------------------


def test_the_last_of_a_path_s_members_counts(store: Path) -> None:
    data = (
        directory("d", mode=0o700) + member("d/kept", b"1") + directory("d", mode=0o711)
        + member("f", b"first") + member("f", b"last")
        + member("gone/below", b"1") + member("gone", b"now a file") + END
    )  # fmt: skip
    found = entries_of(store, data)
    assert sorted(found) == [b"", b"d", b"d/kept", b"f", b"gone"]
    assert stat.S_IMODE(found[b"d"].mode) == 0o711
    assert text(store, found[b"f"]) == b"last"


def test_what_is_below_no_directory_is_told(store: Path) -> None:
    root, archiver = taken(store, member("f", b"1") + member("f/x/y", b"2") + END)
    assert told(archiver) == [(b"f/x/y", True)]
    assert root == taken(store, member("f", b"1") + END)[0]


STEPS = st.lists(
    st.tuples(
        st.sampled_from("dfl"),
        st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join),
        st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join),
    ),
    max_size=12,
)


def test_members_in_any_order_make_what_a_simple_model_says(store: Path) -> None:
    """The model is a dictionary from which whatever is no directory removes what is below it."""
    with Store.open(store, "write") as opened:

        @given(STEPS)
        def run(steps: list[tuple[str, str, str]]) -> None:
            model: dict[str, bytes | None] = {}
            data, lost = b"", 0

            def barred(path: str) -> bool:
                parents = [path[:at] for at, c in enumerate(path) if c == "/"]
                return any(model.get(parent) is not None for parent in parents)

            for number, (kind, path, target) in enumerate(steps):
                content: bytes | None = None if kind == "d" else b"%d" % number
                if kind == "l":
                    data += link(path, target)
                    content = model.get(target)
                    if content is None or barred(target):
                        lost += 1
                        continue
                elif kind == "d":
                    data += directory(path)
                else:
                    data += member(path, content or b"")
                if content is not None:
                    model = {p: c for p, c in model.items() if not p.startswith(path + "/")}
                model[path] = content
            archiver = TarArchiver(opened)
            found = dict(tree(opened, archiver.run(io.BytesIO(data + END))))
            kept = {path: content for path, content in model.items() if not barred(path)}
            assert len(archiver.troubles) == lost + len(model) - len(kept)
            files = {path.encode(): content for path, content in kept.items() if content}
            assert files == {
                path: b"".join(bytes(piece) for piece in read(opened, entry.detail.content))
                for path, entry in found.items() if isinstance(entry.detail, File)
            }  # fmt: skip
            assert {path.encode() for path in kept} <= set(found)

        run()


# --- hard links -------------------------------------------------------------------------------


def test_hard_links_share_the_hash_of_their_smallest_path(store: Path) -> None:
    names = ["z/a", "a/b/name", "a.b/name"]
    data = member("z/first", b"1") + b"".join(link(name, "./z/first") for name in names) + END
    found = entries_of(store, data)
    identity = blake3(b"a.b/name").digest(16)  # '.' is less than '/'
    for path in (b"z/first", *(name.encode() for name in names)):
        assert found[path].link == identity
        assert text(store, found[path]) == b"1"


def test_a_link_is_what_its_target_is_at_that_moment(store: Path) -> None:
    data = member("f", b"old") + link("g", "f") + member("f", b"new") + link("h", "f")
    found = entries_of(store, data + END)
    assert {path: text(store, found[path]) for path in (b"f", b"g", b"h")} == {
        b"f": b"new", b"g": b"old", b"h": b"new"
    }  # fmt: skip
    assert found[b"g"].link == b""
    assert found[b"f"].link == found[b"h"].link != b""


@pytest.mark.parametrize(
    "before", [b"", directory("f"), member("f/x") + member("f") + link("g", "f/x")]
)
def test_a_link_to_what_is_not_there_is_told(store: Path, before: bytes) -> None:
    data = before or b""
    wanted = data if before.count(b"ustar") > 1 else data + link("g", "f")
    root, archiver = taken(store, wanted + END)
    assert told(archiver) == [(b"g", True)]
    with Store.open(store) as opened:
        assert b"g" not in dict(tree(opened, root))


def test_a_link_to_itself_is_one_name(store: Path) -> None:
    assert entries_of(store, member("f", b"1") + link("f", "f") + END)[b"f"].link == b""


def test_symbolic_links_and_devices_can_be_hard_linked(store: Path) -> None:
    data = (
        member("s", kind=tarfile.SYMTYPE, to="t") + link("s2", "s")
        + member("n", kind=tarfile.CHRTYPE, devmajor=259, devminor=300) + link("n2", "n") + END
    )  # fmt: skip
    found = entries_of(store, data)
    assert found[b"s2"].detail == Symlink(b"t")
    assert found[b"n2"].detail == Device(259, 300)
    assert found[b"n"].link == blake3(b"n").digest(16)


# --- what is left out -------------------------------------------------------------------------


def test_excluded_members_are_left_out_with_all_below_them(store: Path) -> None:
    data = (
        member("keep/a", b"1") + directory("drop") + member("drop/below/b", b"2")
        + member("keep/x.o", b"3") + member("keep/drop", b"no directory") + END
    )  # fmt: skip
    root, archiver = taken(store, data, (b"/drop/", b"*.o"))
    assert archiver.troubles == []
    with Store.open(store) as opened:
        assert [path for path, _ in tree(opened, root)] == [b"keep", b"keep/a", b"keep/drop"]


def test_a_very_deep_path_is_archived_also_with_patterns(store: Path) -> None:
    deep = "d/" * 8000 + "f"
    _, archiver = taken(store, member(deep, b"1") + link("g", deep) + END, (b"*.o", b"/x/y"))
    assert archiver.troubles == []
    assert archiver.tally.entries == 8003
    assert taken(store, member(deep, b"1") + END, (b"f",))[1].tally.entries == 1


def test_a_link_to_what_is_excluded_is_told(store: Path) -> None:
    """Its content was with the other name, as when GNU tar leaves that out."""
    data = member("x.o", b"1") + link("y", "x.o") + link("z.o", "x.o") + END
    _, archiver = taken(store, data, (b"*.o",))
    assert told(archiver) == [(b"y", True)]


def test_what_no_entry_can_hold_is_told(store: Path) -> None:
    bad = [
        member("type", kind=b"Q"),
        member("uid", form=GNU, uid=-2),
        member("gid", pax={"gid": "many"}),
        member("mtime", pax={"mtime": "1e9"}),
        member("late", pax={"mtime": "9" * 19}),
        member("target", kind=tarfile.SYMTYPE, to="x" * 5000),
        member("nowhere", kind=tarfile.SYMTYPE),
        member("device", kind=tarfile.BLKTYPE, devmajor=4096),
    ]
    _, archiver = taken(store, member("good", b"1") + b"".join(bad) + END)
    paths = [b"type", b"uid", b"gid", b"mtime", b"late", b"target", b"nowhere", b"device"]
    assert told(archiver) == [(path, True) for path in paths]
    assert archiver.tally.entries == 2


def test_labels_and_gnu_s_directories_are_understood(store: Path) -> None:
    data = member("label", kind=b"V") + member("d/", b"Yx\0\0", kind=b"D", mode=0o750) + END
    found = entries_of(store, data)
    assert sorted(found) == [b"", b"d"]
    assert found[b"d"].mode == stat.S_IFDIR | 0o750


# --- metadata ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "time_ns"), [
    ("1795533127.530883936", 1795533127530883936), ("-1.5", -1_500_000_000), ("7", 7 * 10**9),
    ("-1234567890.123456789", -1234567890123456789), ("0.0000000019", 1), ("3.", 3 * 10**9),
])  # fmt: skip
def test_times_are_exact(store: Path, text: str, time_ns: int) -> None:
    assert entries_of(store, member("f", pax={"mtime": text}) + END)[b"f"].mtime_ns == time_ns


def test_large_numbers_in_either_format(store: Path) -> None:
    for form in FORMS:
        large = member("f", form=form, uid=2**32 - 3, gid=2**31, mtime=2**33)
        entry = entries_of(store, large + END)[b"f"]
        assert (entry.uid, entry.gid, entry.mtime_ns) == (2**32 - 3, 2**31, 2**33 * 10**9)


def xattrs(store: Path, **pax: str) -> tuple[tuple[bytes, bytes], ...]:
    renamed = {name.replace("__", "."): value for name, value in pax.items()}
    entry = entries_of(store, member("f", pax=renamed) + END)[b"f"]
    return entry.xattrs.pairs if isinstance(entry.xattrs, Listed) else ()


ACCESS = "SCHILY.acl.access"
ACL_PAIR = ((b"system.posix_acl_access", ACL),)


@pytest.mark.parametrize(("pax", "pairs"), [
    ({"SCHILY.xattr.user.a": "\0\n\udcff="}, ((b"user.a", b"\0\n\xff="),)),
    ({"SCHILY.xattr.user.a%3Db%25c": ""}, ((b"user.a=b%c", b""),)),
    ({"LIBARCHIVE.xattr.user.a%20b": "AAr/Cg"}, ((b"user.a b", b"\0\n\xff\n"),)),
    ({"LIBARCHIVE.xattr.user.a": "AAr/Cg", "SCHILY.xattr.user.a": "x"}, ((b"user.a", b"x"),)),
    ({"RHT.security.selinux": "a:b:c:d"}, ((b"security.selinux", b"a:b:c:d\0"),)),
    ({ACCESS: "user::rw-,user:1000:rw-,group::r--,mask::rw-,other::r--"}, ACL_PAIR),
    ({ACCESS: "user::rw-\nuser:bob:rw-:1000\ngroup::r--\nmask:rw-\nother:r--\n"}, ACL_PAIR),
    ({ACCESS: "g::r--,o::r--,u::rw-,u:1000:rw- # bob\n,m::rw-"}, ACL_PAIR),
    ({ACCESS: "user::rw-,group::r--,other::r--"}, ()),
    ({ACCESS: "nonsense", "SCHILY.xattr.system.posix_acl_access": "x"},
     ((b"system.posix_acl_access", b"x"),)),
])  # fmt: skip
def test_attributes_in_every_spelling(
    store: Path, pax: dict[str, str], pairs: tuple[tuple[bytes, bytes], ...]
) -> None:
    assert xattrs(store, **pax) == pairs


@pytest.mark.parametrize("pax", [
    {ACCESS: "user::rw-,user:bob:rw-,group::r--,mask::rw-,other::r--"},
    {ACCESS: "user::rw-,nobody::r--"}, {ACCESS: "user::rwx:1:2:3"}, {ACCESS: "user:5000000000:r--"},
    {ACCESS: "user::rws"}, {"LIBARCHIVE.xattr.user.a": "A"}, {"SCHILY.acl.ace": "owner@:r::allow"},
    {"SCHILY.xattr.": "nameless"},
])  # fmt: skip
def test_attributes_that_cannot_be_understood_are_told(store: Path, pax: dict[str, str]) -> None:
    _, archiver = taken(store, member("f", b"1", pax=pax) + END)
    assert told(archiver) == [(b"f", False)]


def test_many_attributes_become_content(store: Path) -> None:
    pax = {f"SCHILY.xattr.user.n{number}": "x" * 100 for number in range(20)}
    entry = entries_of(store, member("f", pax=pax) + END)[b"f"]
    assert not isinstance(entry.xattrs, Listed)


# --- sparse files -----------------------------------------------------------------------------

TIB = 1 << 40
MAP = [(0, 5000), (1 << 30, 4096), (TIB, 0)]
DATA = noise(5000) + noise(4096, 1)


def sparse_members() -> dict[str, bytes]:
    """The same sparse file in every format there is."""
    numbers = [str(number) for extent in MAP for number in extent]
    lines = ("\n".join([str(len(MAP)), *numbers]) + "\n").encode()
    stored = lines + bytes(-len(lines) % 512) + DATA
    newest = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "f",
              "GNU.sparse.realsize": str(TIB)}  # fmt: skip
    older = {"GNU.sparse.size": str(TIB), "GNU.sparse.numblocks": str(len(MAP))}
    old = member("f", DATA, kind=tarfile.GNUTYPE_SPARSE, form=GNU)
    fields = {386 + 12 * at: b"%011o\0" % int(number) for at, number in enumerate(numbers[:4])}
    large = b"\x80" + TIB.to_bytes(11, "big")
    return {
        "1.0": member("GNUSparseFile.0/f", stored, pax=newest),
        "1.0, size first": member("x", stored, pax={"size": str(len(stored)), **newest}),
        "1.0, size last": member("x", stored, pax={**newest, "size": str(len(stored))}),
        "0.1": member("x", DATA, pax={**older, "GNU.sparse.map": ",".join(numbers),
                                      "GNU.sparse.name": "f"}),
        "old GNU": with_fields(old, {**fields, 483: large}),
    }  # fmt: skip


@pytest.mark.parametrize("form", sparse_members())
def test_a_sparse_file_of_a_tebibyte_takes_no_time(store: Path, form: str) -> None:
    found = entries_of(store, sparse_members()[form] + member("next", b"after it") + END)
    assert text(store, found[b"next"]) == b"after it"
    entry = found[b"f"]
    assert entry.size == TIB
    assert isinstance(entry.detail, File)
    with Store.open(store) as opened:
        assert [bytes(piece) for piece in read(opened, entry.detail.content, 0, 5000)] == [
            DATA[:5000]
        ]
        pieces = list(read(opened, entry.detail.content, 5000, (1 << 30) + 4096 - 5000))
    assert (
        b"".join(bytes(piece) for piece in pieces if not isinstance(piece, int)).strip(b"\0")
        == DATA[5000:]
    )
    small = entries_of(store, member("f", b"", pax={}) + END)
    assert small[b"f"].size == 0


@pytest.mark.parametrize("size", [1, 33, 5000, 70_000, 300_001])
def test_a_sparse_file_is_what_the_whole_file_is(store: Path, size: int) -> None:
    """Extents that begin and end anywhere, also in the middle of pages."""
    whole, extents, stored = bytearray(size), [], b""
    for number, at in enumerate(range(size // 7, size, max(size // 3, 1))):
        part = noise(min(size - at, size // 9 + 1), number)
        whole[at : at + len(part)] = part
        extents.append((at, len(part)))
        stored += part
    spelled = ",".join(f"{at},{length}" for at, length in extents)
    pax = {"GNU.sparse.size": str(size), "GNU.sparse.map": spelled}
    sparse, plain = (entries_of(store, data + END)[b"f"] for data in (
        member("f", stored, pax=pax), member("f", bytes(whole))))  # fmt: skip
    assert sparse == plain


# --- the stream -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", PACKED)
def test_packed_streams_may_come_in_several_frames_and_with_padding(
    store: Path, command: str
) -> None:
    data = member("f", noise(200_000)) + END
    frames = packed(data[:70_000], command) + packed(data[70_000:], command)
    for stream in (frames, frames + bytes(10_000), frames + b"what is no frame"):
        assert taken(store, stream)[0] == taken(store, data)[0]


def test_a_first_name_that_looks_like_a_compression_is_a_name(store: Path) -> None:
    assert b"BZh91AY" in entries_of(store, member("BZh91AY", b"1") + END)


def test_what_follows_the_end_is_read_and_left_out(store: Path) -> None:
    read_end, write_end = os.pipe()
    writer = subprocess.Popen(
        ["dd", "bs=1M", "count=4", "if=/dev/urandom", "status=none"], stdout=write_end
    )
    os.close(write_end)
    head = io.BytesIO(member("f", b"1") + END)
    with open(read_end, "rb") as rest, Store.open(store, "write") as opened:

        class Joined(io.RawIOBase):
            def readable(self) -> bool:
                return True

            def read(self, size: int = -1) -> bytes:
                return head.read(min(size, 100)) or rest.read(size)

        root = TarArchiver(opened).run(Joined())  # type: ignore[arg-type]
    assert writer.wait() == 0
    assert root == taken(store, member("f", b"1") + END)[0]


def test_a_temporary_directory_that_is_full_is_told(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporary, "_SETTINGS", "PRAGMA max_page_count = 10;")
    data = b"".join(member(f"f{number}") for number in range(1000)) + END
    with pytest.raises(VentifsError, match="full; make room for it"):
        taken(store, data)


def test_global_headers_are_no_members(store: Path) -> None:
    """As git archive writes one."""
    comment = tarfile.TarInfo.create_pax_global_header({"comment": "0" * 40})
    assert sorted(entries_of(store, comment + member("f", b"1") + END)) == [b"", b"f"]


def test_a_rehearsal_finds_the_same_and_keeps_nothing(store: Path) -> None:
    data = member("f", noise(100_000)) + END
    with Store.open(store, "rehearse") as opened:
        rehearsed = TarArchiver(opened)
        root = rehearsed.run(io.BytesIO(data))
    again, archiver = taken(store, data)
    assert (again, archiver.tally) == (root, rehearsed.tally)
    assert archiver.tally.new_bytes > 100_000


def test_progress_is_told_for_every_member(store: Path) -> None:
    seen = []
    with Store.open(store, "write") as opened:
        archiver = TarArchiver(
            opened, progress=lambda tally, path: seen.append((tally.entries, path))
        )
        archiver.run(io.BytesIO(directory("d") + member("d/f", b"1") + END))
    assert seen == [(1, b"d"), (2, b"d/f")]
    assert archiver.tally.entries == 3
