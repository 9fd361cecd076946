"""Hard links: which names share what, files that change under the archiver, and what comes back."""

import os
import stat
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from blake3 import blake3

from tests.support.reading import before_reading, names_read, once_before_reading
from tests.support.stores import findings, new_store
from tests.support.trees import noise
from ventifs.store import Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.scan import Options
from ventifs.tree.archive.tally import Tally
from ventifs.tree.objects.content import read_whole
from ventifs.tree.objects.directory import resolve, tree
from ventifs.tree.objects.records import Directory, Entry, RegularFile
from ventifs.tree.patterns import Patterns
from ventifs.tree.restore.restorer import Restorer
from ventifs.tree.versions.catalog import Version, tree_score

OLD, NEW = b"old" * 100, b"new" * 100


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return new_store(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One file with a name in each of two directories."""
    for name in ("a", "b"):
        (tmp_path / "source" / name).mkdir(parents=True)
    (tmp_path / "source" / "a" / "x").write_bytes(OLD)
    os.link(tmp_path / "source" / "a" / "x", tmp_path / "source" / "b" / "x")
    return tmp_path / "source"


def run(
    root: Path,
    source: Path,
    *,
    between_names: Callable[[], object] | None = None,
    before_read: Callable[[], object] | None = None,
    exclude: tuple[bytes, ...] = (),
    read_all: bool = False,
) -> Version:
    """Archive, with something happening when `a` was looked at, or all was and nothing is read."""

    def progress(_: Tally, path: bytes) -> None:
        if path == b"a" and between_names is not None:
            between_names()

    changing = once_before_reading(before_read) if before_read is not None else nullcontext()
    with Store.open(root, "write") as store, changing:
        options = Options(Patterns(exclude))
        return archive(
            store,
            DirectorySource(source, options=options),
            "name",
            progress=progress,
            read_all=read_all,
        )[0]


def text(root: Path, version: Version, path: bytes) -> tuple[bytes, Entry]:
    with Store.open(root) as store:
        entry = resolve(store, version.root, path)
        assert isinstance(entry.detail, RegularFile)
        return read_whole(store, entry.detail.content), entry


def links(root: Path, version: Version) -> dict[bytes, bytes]:
    """Link id of every path that is no directory; checks the directories' totals on the way."""
    with Store.open(root) as store:
        found = {b"": version.root, **dict(tree(store, version.root))}
    for path, entry in found.items():
        if isinstance(entry.detail, Directory):
            inside = [
                below
                for name, below in found.items()
                if name != path and (not path or name.startswith(path + b"/"))
            ]
            assert entry.detail.paths == len(inside), path
            assert entry.detail.bytes == sum(below.size for below in inside), path
    return {path: entry.link for path, entry in found.items() if not entry.is_directory}


def link_id(path: bytes) -> bytes:
    return blake3(path).digest(16)


def sound(root: Path, source: Path, version: Version) -> None:
    """The store is whole, and the next run says the same as one that reads everything."""
    links(root, version)
    later = run(root, source)
    assert tree_score(later.root) == tree_score(run(root, source, read_all=True).root)
    assert findings(root) == []


# --- files that change between their names ----------------------------------------------------


def test_a_file_that_changes_between_its_names_is_told_and_read_again(
    root: Path, source: Path
) -> None:
    version = run(root, source, between_names=lambda: (source / "a" / "x").write_bytes(NEW))
    assert [(path, missing) for path, _, missing in version.troubles] == [(b"b/x", False)]
    assert text(root, version, b"b/x")[0] == NEW
    later = run(root, source)
    assert later.troubles == ()
    for name in (b"a/x", b"b/x"):
        data, entry = text(root, later, name)
        assert data == NEW
        assert entry.link == link_id(b"a/x")
    sound(root, source, later)


def test_another_file_under_the_same_number_is_not_taken_for_the_first(
    root: Path, source: Path
) -> None:
    """Ext4 gives the number of a file that is gone to the next one."""

    def other_file() -> None:
        (source / "a" / "x").unlink()
        (source / "b" / "x").unlink()
        (source / "b" / "x").write_bytes(b"other" * 100)
        os.link(source / "b" / "x", source / "b" / "y")

    version = run(root, source, between_names=other_file)
    assert text(root, version, b"b/x")[0] == text(root, version, b"b/y")[0] == b"other" * 100
    sound(root, source, version)


# --- files that change between the look at them and their reading -----------------------------


def test_when_the_first_name_is_gone_the_file_is_read_by_another(root: Path, source: Path) -> None:
    os.link(source / "a" / "x", source / "b" / "y")
    version = run(root, source, before_read=(source / "a" / "x").unlink)
    assert version.troubles == ((b"a/x", "no such file or directory", True),)
    assert links(root, version) == {b"b/x": link_id(b"b/x"), b"b/y": link_id(b"b/x")}
    assert text(root, version, b"b/x")[0] == OLD
    sound(root, source, version)


def test_when_the_directory_of_the_first_name_is_gone_another_is_read(
    root: Path, source: Path
) -> None:
    def remove() -> None:
        (source / "a" / "x").unlink()
        (source / "a").rmdir()

    version = run(root, source, before_read=remove)
    assert version.troubles == ((b"a/x", "no such file or directory", True),)
    assert links(root, version) == {b"b/x": b""}
    assert text(root, version, b"b/x")[0] == OLD
    sound(root, source, version)


def test_when_the_directory_of_the_next_name_is_another_too_the_third_is_read(
    root: Path, source: Path
) -> None:
    (source / "c").mkdir()
    os.link(source / "a" / "x", source / "c" / "x")

    def change() -> None:
        (source / "a" / "x").unlink()
        (source / "b").rename(source / "elsewhere")
        (source / "b").symlink_to("elsewhere")

    version = run(root, source, before_read=change)
    assert [(path, missing) for path, _, missing in sorted(version.troubles)] == [
        (b"a/x", True),
        (b"b/x", True),
    ]
    assert text(root, version, b"c/x")[0] == OLD
    sound(root, source, version)


def test_a_first_name_that_is_another_file_now_is_archived_as_that(
    root: Path, source: Path
) -> None:
    os.link(source / "a" / "x", source / "b" / "y")

    def replace() -> None:
        (source / "other").write_bytes(NEW * 2)
        (source / "other").rename(source / "a" / "x")

    version = run(root, source, before_read=replace)
    assert version.troubles == ()
    assert text(root, version, b"a/x")[0] == NEW * 2
    assert text(root, version, b"b/x")[0] == text(root, version, b"b/y")[0] == OLD
    assert links(root, version) == {b"a/x": b"", b"b/x": link_id(b"b/x"), b"b/y": link_id(b"b/x")}
    sound(root, source, version)


def test_a_file_whose_names_are_all_gone_is_told_by_each(root: Path, source: Path) -> None:
    (source / "a" / "stays").write_bytes(noise(100))

    def remove() -> None:
        for name in ("a/x", "b/x"):
            (source / name).unlink()

    version = run(root, source, before_read=remove)
    assert sorted(version.troubles) == [
        (name, "no such file or directory", True) for name in (b"a/x", b"b/x")
    ]
    assert links(root, version) == {b"a/stays": b""}
    sound(root, source, version)


@pytest.mark.parametrize("data", [NEW, NEW * 2, b""], ids=["rewritten", "longer", "empty"])
def test_a_file_that_changed_before_it_was_read_is_the_same_under_all_names(
    root: Path, source: Path, data: bytes
) -> None:
    version = run(root, source, before_read=lambda: (source / "b" / "x").write_bytes(data))
    for path in (b"a/x", b"b/x"):
        assert text(root, version, path)[0] == data
    assert set(links(root, version).values()) == {link_id(b"a/x")}
    sound(root, source, version)


def test_a_name_made_before_the_read_is_found_by_the_next_run(root: Path, source: Path) -> None:
    version = run(root, source, before_read=lambda: os.link(source / "a" / "x", source / "0"))
    assert set(links(root, version).values()) == {link_id(b"a/x")}
    assert set(links(root, run(root, source)).values()) == {link_id(b"0")}
    sound(root, source, version)


def test_what_cannot_be_read_by_any_name_is_told_by_each(root: Path, source: Path) -> None:
    def refuse(name: bytes) -> None:
        raise PermissionError(13, "")

    with Store.open(root, "write") as store, before_reading(refuse):
        version, tally = archive(store, DirectorySource(source), "name")
    assert sorted(version.troubles) == [
        (name, "permission denied", True) for name in (b"a/x", b"b/x")
    ]
    assert (links(root, version), tally.entries, tally.bytes) == ({}, 3, 0)
    sound(root, source, version)


# --- names that are not archived --------------------------------------------------------------


def test_names_left_out_do_not_count(root: Path, source: Path) -> None:
    os.link(source / "a" / "x", source / "b" / "y")
    version = run(root, source, exclude=(b"/a",))
    assert links(root, version) == {b"b/x": link_id(b"b/x"), b"b/y": link_id(b"b/x")}
    version = run(root, source, exclude=(b"x",))
    assert links(root, version) == {b"b/y": b""}
    version = run(root, source)
    assert set(links(root, version).values()) == {link_id(b"a/x")}
    sound(root, source, version)


def test_names_outside_the_source_do_not_count(root: Path, source: Path, tmp_path: Path) -> None:
    for number in range(3):
        os.link(source / "a" / "x", tmp_path / f"outside{number}")
    version = run(root, source)
    assert links(root, version) == {b"a/x": link_id(b"a/x"), b"b/x": link_id(b"a/x")}
    inside = tree_score(version.root)
    for number in range(3):
        (tmp_path / f"outside{number}").unlink()
    assert tree_score(run(root, source).root) == inside
    sound(root, source, version)


def test_a_lone_name_of_a_linked_file_is_taken_from_the_cache(
    root: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ventifs.tree.archive.read_batches.SETTLED_NS", -(10**18))
    (source / "b" / "x").rename(tmp_path / "outside")
    first = run(root, source)
    with names_read() as names:
        second = run(root, source)
    assert names == []
    assert tree_score(first.root) == tree_score(second.root)
    (tmp_path / "outside").rename(source / "b" / "x")
    third = run(root, source)
    assert set(links(root, third).values()) == {link_id(b"a/x")}
    sound(root, source, third)


def test_a_file_with_a_name_that_changed_is_read_once(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ventifs.tree.archive.read_batches.SETTLED_NS", -(10**18))
    with names_read() as names:
        run(root, source)
    assert names == [b"x"]
    os.link(source / "a" / "x", source / "b" / "new")
    with names_read() as names:
        version = run(root, source)
    assert len(names) == 1
    assert set(links(root, version).values()) == {link_id(b"a/x")}
    with names_read() as names:
        run(root, source)
    assert names == []


@pytest.mark.parametrize("move", ["a", "b"])
def test_a_renamed_directory_changes_the_link_of_names_elsewhere(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch, move: str
) -> None:
    monkeypatch.setattr("ventifs.tree.archive.read_batches.SETTLED_NS", -(10**18))
    run(root, source)
    (source / move).rename(source / "0")
    version = run(root, source)
    assert set(links(root, version).values()) == {link_id(b"0/x")}
    sound(root, source, version)


def test_links_that_are_no_regular_files_are_links_too(root: Path, source: Path) -> None:
    os.mkfifo(source / "a" / "fifo")
    os.link(source / "a" / "fifo", source / "b" / "fifo")
    (source / "a" / "symlink").symlink_to("x")
    os.link(source / "a" / "symlink", source / "b" / "symlink", follow_symlinks=False)
    version = run(root, source)
    assert links(root, version) == {
        path: link_id(b"a/" + path.rpartition(b"/")[2])
        for path in (b"a/x", b"b/x", b"a/fifo", b"b/fifo", b"a/symlink", b"b/symlink")
    }
    sound(root, source, version)


# --- restored ---------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another owner")
def test_set_uid_is_not_given_to_whoever_restores(root: Path, source: Path, tmp_path: Path) -> None:
    os.chown(source / "a" / "x", 1234, 1234)
    (source / "a" / "x").chmod(0o6755)
    version = run(root, source)
    target = tmp_path / "target"

    def chown(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with pytest.MonkeyPatch.context() as patch, Store.open(root) as store:
        patch.setattr(os, "chown", chown)
        done = Restorer(store).run(version.root, target)
    assert stat.S_IMODE((target / "a" / "x").stat().st_mode) == 0o755
    assert any("set-uid" in what for _, what in done.left)
