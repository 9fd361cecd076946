"""What becomes of the paths of a tar's members: names, duplicates, hard links, patterns."""

import io
import stat
import tarfile
from pathlib import Path
from typing import Literal

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tars import (
    END,
    directory,
    entries_of,
    link,
    member,
    taken,
    text,
    told,
    with_fields,
)
from ventifs.store import Store
from ventifs.tree.objects.content import read
from ventifs.tree.objects.directory import tree
from ventifs.tree.objects.records import Device, RegularFile, Symlink
from ventifs.tree.tar.importer import TarArchiver

GNU: Literal[1] = 1
PAX: Literal[2] = 2
FORMS = (GNU, PAX)


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
    assert (b"../up", True) in told(archiver)
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
        directory("d", mode=0o700)
        + member("d/kept", b"1")
        + directory("d", mode=0o711)
        + member("f", b"first")
        + member("f", b"last")
        + member("gone/below", b"1")
        + member("gone", b"now a file")
        + END
    )
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
                for path, entry in found.items()
                if isinstance(entry.detail, RegularFile)
            }
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
        b"f": b"new",
        b"g": b"old",
        b"h": b"new",
    }
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
        member("s", kind=tarfile.SYMTYPE, to="t")
        + link("s2", "s")
        + member("n", kind=tarfile.CHRTYPE, devmajor=259, devminor=300)
        + link("n2", "n")
        + END
    )
    found = entries_of(store, data)
    assert found[b"s2"].detail == Symlink(b"t")
    assert found[b"n2"].detail == Device(259, 300)
    assert found[b"n"].link == blake3(b"n").digest(16)


# --- what is left out -------------------------------------------------------------------------


def test_excluded_members_are_left_out_with_all_below_them(store: Path) -> None:
    data = (
        member("keep/a", b"1")
        + directory("drop")
        + member("drop/below/b", b"2")
        + member("keep/x.o", b"3")
        + member("keep/drop", b"no directory")
        + END
    )
    root, archiver = taken(store, data, (b"/drop/", b"*.o"))
    assert list(archiver.troubles) == []
    with Store.open(store) as opened:
        assert [path for path, _ in tree(opened, root)] == [b"keep", b"keep/a", b"keep/drop"]


def test_a_very_deep_path_is_archived_also_with_patterns(store: Path) -> None:
    deep = "d/" * 8000 + "f"
    _, archiver = taken(store, member(deep, b"1") + link("g", deep) + END, (b"*.o", b"/x/y"))
    assert list(archiver.troubles) == []
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
        member("target", kind=tarfile.SYMTYPE, to="x" * 5000),
        member("nowhere", kind=tarfile.SYMTYPE),
        member("device", kind=tarfile.BLKTYPE, devmajor=4096),
    ]
    _, archiver = taken(store, member("good", b"1") + b"".join(bad) + END)
    paths = [b"type", b"uid", b"gid", b"mtime", b"target", b"nowhere", b"device"]
    assert told(archiver) == [(path, True) for path in sorted(paths)]
    assert archiver.tally.entries == 2


def test_labels_and_gnu_s_directories_are_understood(store: Path) -> None:
    data = member("label", kind=b"V") + member("d/", b"Yx\0\0", kind=b"D", mode=0o750) + END
    found = entries_of(store, data)
    assert sorted(found) == [b"", b"d"]
    assert found[b"d"].mode == stat.S_IFDIR | 0o750


# --- what is kept as nearly as it can be ------------------------------------------------------


@pytest.mark.parametrize(
    ("pax", "kept"),
    [
        ("18446744073.709551616", 2**64 - 1),
        ("9" * 19, 2**64 - 1),
        ("9" * 40, 2**64 - 1),
        ("-9223372036.854775809", -(2**63)),
        ("-11644473600", -(2**63)),
    ],
)
def test_of_a_time_beyond_an_entry_the_nearest_is_kept(store: Path, pax: str, kept: int) -> None:
    root, archiver = taken(store, member("late", b"1", pax={"mtime": pax}) + END)
    assert told(archiver) == [(b"late", False)]
    with Store.open(store) as opened:
        [(_, entry)] = tree(opened, root)
    assert entry.mtime_ns == kept


@pytest.mark.parametrize("time_ns", [-(2**63), 2**63, 2**64 - 1])
def test_the_first_and_the_last_time_come_through(store: Path, time_ns: int) -> None:
    seconds, rest = divmod(abs(time_ns), 10**9)
    text = f"{'-' if time_ns < 0 else ''}{seconds}.{rest:09}"
    assert entries_of(store, member("x", pax={"mtime": text}) + END)[b"x"].mtime_ns == time_ns


@pytest.mark.parametrize("wrong", [{"uid": "4294967296"}, {"gid": "many"}, {"mtime": "1e9"}])
def test_a_directory_whose_attributes_cannot_be_kept_is_closed(
    store: Path, wrong: dict[str, str]
) -> None:
    private = member("private", kind=tarfile.DIRTYPE, mode=0o750, pax=wrong)
    root, archiver = taken(store, private + member("private/key", b"1") + END)
    assert told(archiver) == [(b"private", False)]
    [(_, reason, _)] = archiver.troubles
    assert "0700" in reason
    with Store.open(store) as opened:
        found = dict(tree(opened, root))
    assert set(found) == {b"private", b"private/key"}
    closed = found[b"private"]
    assert (closed.mode, closed.uid, closed.gid, closed.mtime_ns) == (0o40700, 0, 0, 0)


def test_a_directory_without_a_member_is_as_gnu_tar_makes_it(store: Path) -> None:
    found = entries_of(store, member("a/b", b"1") + END)
    assert (found[b"a"].mode, found[b"a"].uid, found[b"a"].gid) == (0o40755, 0, 0)


def test_a_name_of_300_kilobytes_is_reported_in_short(store: Path) -> None:
    _, archiver = taken(store, member("good") + member("n" * 300_000) + END)
    [(path, reason, _)] = archiver.troubles
    assert reason == "a path of 300,000 bytes; up to 16,384 are taken"
    assert len(path) <= 4096
    assert b"..." in path
