"""Hard links of files that change under the archiver, and what a user may not take back."""

import os
import stat
from pathlib import Path

import pytest

from ventifs.store import Store
from ventifs.tree.archive import Tally
from ventifs.tree.catalog import Version
from ventifs.tree.content import read_whole
from ventifs.tree.directory import resolve
from ventifs.tree.records import Entry, File
from ventifs.tree.restore import Restorer
from ventifs.tree.run import archive
from ventifs.tree.scan import Options


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Store.create(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One file with a name in each of two directories."""
    for name in ("a", "b"):
        (tmp_path / "source" / name).mkdir(parents=True)
    (tmp_path / "source" / "a" / "x").write_bytes(b"old" * 100)
    os.link(tmp_path / "source" / "a" / "x", tmp_path / "source" / "b" / "x")
    return tmp_path / "source"


def run(root: Path, source: Path, after_first_name: object = None) -> Version:
    """Archive, with something happening once `a/x` has been read."""

    def progress(_: Tally, path: bytes) -> None:
        if path == b"a/x" and callable(after_first_name):
            after_first_name()

    with Store.open(root, "write") as store:
        return archive(store, source, "name", progress=progress)[0]


def text(root: Path, version: Version, path: bytes) -> tuple[bytes, Entry]:
    with Store.open(root) as store:
        entry = resolve(store, version.root, path)
        assert isinstance(entry.detail, File)
        return read_whole(store, entry.detail.content), entry


def test_a_file_that_changes_between_its_names_is_told_and_read_again(
    root: Path, source: Path
) -> None:
    version = run(root, source, lambda: (source / "a" / "x").write_bytes(b"new" * 100))
    assert [(path, missing) for path, _, missing in version.troubles] == [(b"b/x", False)]
    assert text(root, version, b"b/x")[0] == b"new" * 100
    later = run(root, source)
    assert later.troubles == ()
    for name in (b"a/x", b"b/x"):
        data, entry = text(root, later, name)
        assert data == b"new" * 100
        assert len(entry.link) == 16


def test_another_file_under_the_same_number_is_not_taken_for_the_first(
    root: Path, source: Path
) -> None:
    """Ext4 gives the number of a file that is gone to the next one."""

    def other_file() -> None:
        (source / "a" / "x").unlink()
        (source / "b" / "x").unlink()
        (source / "b" / "x").write_bytes(b"other" * 100)
        os.link(source / "b" / "x", source / "b" / "y")

    version = run(root, source, other_file)
    assert text(root, version, b"b/x")[0] == text(root, version, b"b/y")[0] == b"other" * 100


def test_the_store_does_not_archive_itself(tmp_path: Path) -> None:
    Store.create(tmp_path / "home" / "store")
    with Store.open(tmp_path / "home" / "store", "write") as store:
        version, tally = archive(store, tmp_path / "home", "home")
        entry = resolve(store, version.root, b"store")
    assert entry.is_directory
    assert tally.entries == 2
    assert version.troubles == ()


def test_a_stat_cache_that_cannot_be_written_fails_no_run(root: Path, source: Path) -> None:
    (root / "statcache" / "name").mkdir(parents=True)
    for _ in range(2):
        assert run(root, source).troubles == ()


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


def test_a_file_of_proc_that_says_it_is_empty_is_told(root: Path) -> None:
    with Store.open(root, "write") as store:
        version, _ = archive(
            store, Path("/proc/self/task"), "task", options=Options(one_file_system=True)
        )
    assert any("size" in reason for _, reason, _ in version.troubles)
