"""Archives are canonical, deduplicated, and not stopped by what cannot be read."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from tests.support.stores import findings, new_store
from tests.support.trees import archived, copied, noise, odd_tree, plain_tree, remove, settle
from tests.support.walker import look_at
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.scan import Options
from ventifs.tree.objects.directory import resolve, tree
from ventifs.tree.objects.records import Directory, Entry, Inline, Listed, RegularFile
from ventifs.tree.versions.catalog import Version, tree_score, versions

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on another file system than `tmp_path`."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield path
    remove(path)


def below(store: Path, version: Version, path: bytes) -> Entry:
    with Store.open(store) as opened:
        return resolve(opened, version.root, path)


# --- canonical --------------------------------------------------------------------------------


def test_order_and_file_system_do_not_matter(
    store: Path, source: Path, memory: Path, tmp_path: Path
) -> None:
    if memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other file system")
    scores = []
    for number, root in enumerate([source, memory / "source"]):
        plain_tree(root, backwards=number == 1)
        settle(root)
        version, _ = archived(store, root, time_ns=number)
        scores.append(tree_score(version.root))
    assert scores[0] == scores[1]


@as_root
def test_a_copy_has_the_same_score_in_another_store(
    store: Path, source: Path, memory: Path, tmp_path: Path
) -> None:
    first, _ = archived(store, odd_tree(source))
    second, _ = archived(new_store(tmp_path / "other"), copied(source, memory / "copy"))
    assert tree_score(first.root) == tree_score(second.root)


def test_a_second_archive_adds_nothing(store: Path, source: Path) -> None:
    first, tally = archived(store, plain_tree(source), time_ns=1)
    assert 0 < tally.new_bytes < 1_000_000
    assert (tally.entries, tally.bytes) == (
        len(look_at(source)),
        sum(look.size for look in look_at(source).values()),
    )
    second, tally = archived(store, source, time_ns=2)
    assert (second.new_bytes, tree_score(second.root)) == (0, tree_score(first.root))
    assert findings(store) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.chmod(0o640),
        lambda path: os.utime(path, ns=(0, 1)),
        lambda path: path.write_bytes(b"other"),
        lambda path: os.setxattr(path, "user.new", b"1"),
        lambda path: path.rename(path.parent / "other"),
        lambda path: os.link(path, path.parent / "other"),
        lambda path: (path.unlink(), path.symlink_to("x")),
    ],
    ids=range(7),
)
def test_every_change_changes_the_score(
    store: Path, source: Path, change: Callable[[Path], object]
) -> None:
    (source / "d").mkdir(parents=True)
    (source / "d" / "file").write_bytes(b"content")
    first, _ = archived(store, source, time_ns=1)
    change(source / "d" / "file")
    second, _ = archived(store, source, time_ns=2)
    assert tree_score(first.root) != tree_score(second.root)


def test_directories_carry_their_totals(store: Path, source: Path) -> None:
    version, _ = archived(store, plain_tree(source))
    looks = look_at(source)
    with Store.open(store) as opened:
        found = {b"": version.root, **dict(tree(opened, version.root))}
    assert sorted(found) == sorted(looks)
    for path, entry in found.items():
        if isinstance(entry.detail, Directory):
            inside = [p for p in looks if p.startswith(path and path + b"/") and p != path]
            said = (entry.detail.paths, entry.detail.bytes)
            assert said == (len(inside), sum(looks[p].size for p in inside)), path


# --- hard links -------------------------------------------------------------------------------


def test_hard_links_share_the_hash_of_their_smallest_path(store: Path, source: Path) -> None:
    for name in ("z", "a/b", "a.b"):
        (source / name).mkdir(parents=True)
    (source / "z" / "first").write_bytes(b"x")
    for other in ("a/b/name", "a.b/name", "z/second"):
        os.link(source / "z" / "first", source / other)
    version, _ = archived(store, source)
    link = blake3(b"a.b/name").digest(16)  # '.' is less than '/'
    for path in (b"z/first", b"z/second", b"a/b/name", b"a.b/name"):
        assert below(store, version, path).link == link


def test_a_lone_name_of_a_linked_file_is_no_link(store: Path, source: Path, tmp_path: Path) -> None:
    source.mkdir()
    (source / "in").write_bytes(b"x")
    alone, _ = archived(store, source, time_ns=1)
    os.link(source / "in", tmp_path / "out")
    version, _ = archived(store, source, time_ns=2)
    assert below(store, version, b"in").link == b""
    assert tree_score(version.root) == tree_score(alone.root)


# --- versions ---------------------------------------------------------------------------------


def test_a_version_says_what_was_done(store: Path, source: Path) -> None:
    source.mkdir()
    (source / "file").write_bytes(noise(1000))
    with Store.open(store, "write") as opened:
        version, tally = archive(
            opened, DirectorySource(source), "n", time_ns=5, comment="c", tags=("t", "u")
        )
        assert versions(opened, "n") == [version]
    assert (version.source, version.comment, version.tags) == (str(source), "c", ("t", "u"))
    assert (version.time_ns, version.new_bytes) == (5, tally.new_bytes)
    assert version.seconds > 0


def test_the_same_name_and_time_are_refused(store: Path, source: Path) -> None:
    source.mkdir()
    archived(store, source, time_ns=5)
    archived(store, source, "other", time_ns=5)
    with pytest.raises(VentifsError, match=r"t@1970-01-01T00:00:00\.000000005Z: there is such"):
        archived(store, source, time_ns=5)
    with Store.open(store) as opened:
        assert len(versions(opened)) == 2


@pytest.mark.parametrize("name", ["missing", "file", "file/x"])
def test_a_source_that_cannot_be_read_makes_no_version(
    store: Path, source: Path, name: str
) -> None:
    source.mkdir()
    (source / "file").write_bytes(b"x")
    with pytest.raises(VentifsError, match=str(source / name)):
        archived(store, source / name)
    with Store.open(store) as opened:
        assert versions(opened) == []


# --- what is left out -------------------------------------------------------------------------


def test_the_store_does_not_archive_itself(tmp_path: Path) -> None:
    Store.create(tmp_path / "home" / "store")
    with Store.open(tmp_path / "home" / "store", "write") as store:
        version, tally = archive(store, DirectorySource(tmp_path / "home"), "home")
        entry = resolve(store, version.root, b"store")
    assert entry.is_directory
    assert tally.entries == 2
    assert version.troubles == ()


@as_root
def test_other_file_systems_are_left_out(store: Path, source: Path) -> None:
    (source / "mounted").mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "none", str(source / "mounted")]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        (source / "mounted" / "file").write_bytes(b"there")
        with Store.open(store, "write") as opened:
            version, _ = archive(
                opened, DirectorySource(source, options=Options(one_file_system=True)), "t"
            )
            whole, _ = archive(opened, DirectorySource(source), "t")
            assert [path for path, _ in tree(opened, version.root)] == [b"mounted"]
            assert resolve(opened, whole.root, b"mounted/file").size == 5

            def interrupt(_: object, path: bytes) -> None:
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                archive(
                    opened,
                    DirectorySource(source, options=Options(one_file_system=True)),
                    "t",
                    progress=interrupt,
                )
    finally:
        subprocess.run(["umount", source / "mounted"], check=True)


def test_small_things_stay_in_their_entries(store: Path, source: Path) -> None:
    source.mkdir()
    (source / "f").write_bytes(b"small")
    os.setxattr(source / "f", "user.b", b"2")
    os.setxattr(source / "f", "user.a", b"1")
    version, _ = archived(store, source)
    entry = below(store, version, b"f")
    assert entry.detail == RegularFile(Inline(b"small"))
    assert entry.xattrs == Listed(((b"user.a", b"1"), (b"user.b", b"2")))
