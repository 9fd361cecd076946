"""A tar stream is archived as the tree it holds."""

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Literal

import pytest

from tests.support.stores import findings
from tests.support.tars import (
    END,
    PACKED,
    directory,
    entries_of,
    gnu_tar,
    member,
    packed,
    taken,
    text,
    told,
    with_fields,
)
from tests.support.trees import ACL, archived, noise, odd_tree, plain_tree
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree import temp_database as temporary
from ventifs.tree.objects.content import read
from ventifs.tree.objects.records import Listed, RegularFile
from ventifs.tree.tar.importer import TarArchiver
from ventifs.tree.versions.catalog import tree_score

GNU: Literal[1] = 1
PAX: Literal[2] = 2
FORMS = (GNU, PAX)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


# --- canonical --------------------------------------------------------------------------------

OPTIONS = {
    "plain": [],
    "by-name": ["--sort=name"],
    "gzip": ["-z"],
    "xz": ["-J"],
    "zstd": ["--zstd"],
    "bzip2": ["-j"],
    "sparse-1.0": ["-S"],
    "sparse-0.1": ["-S", "--sparse-version=0.1"],
    "sparse-0.0": ["-S", "--sparse-version=0.0"],
    "acls": ["--acls", "--selinux"],
}


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
    assert list(archiver.troubles) == []
    assert (root, tree_score(root)) == (version.root, tree_score(version.root))
    assert (archiver.tally.entries, archiver.tally.bytes) == (tally.entries, tally.bytes)
    assert archiver.tally.new_bytes == 0
    assert findings(store) == []


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=gnu", "-S"], ["--format=oldgnu"]])
def test_gnu_s_own_format_keeps_all_but_parts_of_seconds(
    store: Path, source: Path, options: list[str]
) -> None:
    plain_tree(source)
    # rglob follows links here and there, and fails at one whose target is too long for a name.
    for at, directories, names in os.walk(source):
        for name in (*directories, *names):
            os.utime(os.path.join(at, name), ns=(0, 10**18), follow_symlinks=False)
    os.utime(source, ns=(0, 10**18))
    version, _ = archived(store, source)
    root, archiver = taken(store, gnu_tar(source, "--no-xattrs", *options))
    assert (list(archiver.troubles), root) == ([], version.root)


@as_root
def test_bsdtar_s_archive_has_the_directory_s_score(store: Path, source: Path) -> None:
    odd_tree(source)
    for name in ("socket", "empty/fifo too", "size0"):  # it writes times before 1970 otherwise
        (source / name).unlink()
    version, _ = archived(store, source)
    words = ["bsdtar", "--format=pax", "--acls", "--xattrs", "-C", str(source), "-cf", "-", "."]
    done = subprocess.run(words, capture_output=True, check=True)
    root, archiver = taken(store, done.stdout)
    assert (list(archiver.troubles), root) == ([], version.root)


def test_the_order_of_members_does_not_matter(store: Path) -> None:
    parts = [directory("a", mtime=1), member("a/b", b"1"), member("a.b", b"2"), directory("./")]
    roots = [taken(store, b"".join(order) + END)[0] for order in (parts, parts[::-1])]
    assert roots[0] == roots[1]


# --- metadata ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1795533127.530883936", 1795533127530883936),
        ("-1.5", -1_500_000_000),
        ("7", 7 * 10**9),
        ("-1234567890.123456789", -1234567890123456789),
        ("0.0000000019", 1),
        ("3.", 3 * 10**9),
    ],
)
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


@pytest.mark.parametrize(
    ("pax", "pairs"),
    [
        ({"SCHILY.xattr.user.a": "\0\n\udcff="}, ((b"user.a", b"\0\n\xff="),)),
        ({"SCHILY.xattr.user.a%3Db%25c": ""}, ((b"user.a=b%c", b""),)),
        ({"LIBARCHIVE.xattr.user.a%20b": "AAr/Cg"}, ((b"user.a b", b"\0\n\xff\n"),)),
        ({"LIBARCHIVE.xattr.user.a": "AAr/Cg", "SCHILY.xattr.user.a": "x"}, ((b"user.a", b"x"),)),
        ({"RHT.security.selinux": "a:b:c:d"}, ((b"security.selinux", b"a:b:c:d\0"),)),
        ({ACCESS: "user::rw-,user:1000:rw-,group::r--,mask::rw-,other::r--"}, ACL_PAIR),
        ({ACCESS: "user::rw-\nuser:bob:rw-:1000\ngroup::r--\nmask:rw-\nother:r--\n"}, ACL_PAIR),
        ({ACCESS: "g::r--,o::r--,u::rw-,u:1000:rw- # bob\n,m::rw-"}, ACL_PAIR),
        ({ACCESS: "user::rw-,group::r--,other::r--"}, ()),
        (
            {ACCESS: "nonsense", "SCHILY.xattr.system.posix_acl_access": "x"},
            ((b"system.posix_acl_access", b"x"),),
        ),
    ],
)
def test_attributes_in_every_spelling(
    store: Path, pax: dict[str, str], pairs: tuple[tuple[bytes, bytes], ...]
) -> None:
    assert xattrs(store, **pax) == pairs


@pytest.mark.parametrize(
    "pax",
    [
        {ACCESS: "user::rw-,user:bob:rw-,group::r--,mask::rw-,other::r--"},
        {ACCESS: "user::rw-,nobody::r--"},
        {ACCESS: "user::rwx:1:2:3"},
        {ACCESS: "user:5000000000:r--"},
        {ACCESS: "user::rws"},
        {"LIBARCHIVE.xattr.user.a": "A"},
        {"SCHILY.acl.ace": "owner@:r::allow"},
        {"SCHILY.xattr.": "nameless"},
    ],
)
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
    newest = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "f",
        "GNU.sparse.realsize": str(TIB),
    }
    older = {"GNU.sparse.size": str(TIB), "GNU.sparse.numblocks": str(len(MAP))}
    old = member("f", DATA, kind=tarfile.GNUTYPE_SPARSE, form=GNU)
    fields = {386 + 12 * at: b"%011o\0" % int(number) for at, number in enumerate(numbers[:4])}
    large = b"\x80" + TIB.to_bytes(11, "big")
    return {
        "1.0": member("GNUSparseFile.0/f", stored, pax=newest),
        "1.0, size first": member("x", stored, pax={"size": str(len(stored)), **newest}),
        "1.0, size last": member("x", stored, pax={**newest, "size": str(len(stored))}),
        "0.1": member(
            "x", DATA, pax={**older, "GNU.sparse.map": ",".join(numbers), "GNU.sparse.name": "f"}
        ),
        "old GNU": with_fields(old, {**fields, 483: large}),
    }


@pytest.mark.parametrize("form", sparse_members())
def test_a_sparse_file_of_a_tebibyte_takes_no_time(store: Path, form: str) -> None:
    found = entries_of(store, sparse_members()[form] + member("next", b"after it") + END)
    assert text(store, found[b"next"]) == b"after it"
    entry = found[b"f"]
    assert entry.size == TIB
    assert isinstance(entry.detail, RegularFile)
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
    sparse, plain = (
        entries_of(store, data + END)[b"f"]
        for data in (member("f", stored, pax=pax), member("f", bytes(whole)))
    )
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
