"""Differences between trees: what an independent comparison of two directories says."""

import os
import random
from pathlib import Path

import pytest

from ventifs.store import Score, Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.objects.records import Entry
from ventifs.tree.versions.diff import Change, diff


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Store.create(tmp_path / "store")
    return tmp_path / "store"


def make_tree(top: Path) -> Path:
    for name in ("a", "b/deep", "b-c", "empty"):
        (top / name).mkdir(parents=True, exist_ok=True)
    for name in ("a/one", "a/two", "b/deep/three", "b-c/four", "five"):
        (top / name).write_bytes(name.encode() * 100)
    os.symlink("five", top / "link")
    for path in sorted(top.rglob("*"), reverse=True):
        os.utime(path, ns=(0, 10**18), follow_symlinks=False)
    os.utime(top, ns=(0, 10**18))
    return top


def archived(root: Path, top: Path) -> Entry:
    with Store.open(root, "write") as store:
        return archive(store, DirectorySource(top), "name")[0].root


def changes(root: Path, old: Entry, new: Entry) -> dict[bytes, tuple[str, tuple[str, ...]]]:
    with Store.open(root) as store:
        found: list[Change] = list(diff(store, old, new))
    assert len({change.path for change in found}) == len(found)
    return {change.path: (change.kind, change.what) for change in found}


def test_a_tree_does_not_differ_from_itself(root: Path, tmp_path: Path) -> None:
    top = make_tree(tmp_path / "top")
    assert changes(root, archived(root, top), archived(root, top)) == {}


def test_each_kind_of_change_is_told(root: Path, tmp_path: Path) -> None:
    top = make_tree(tmp_path / "top")
    old = archived(root, top)
    (top / "a" / "one").write_bytes(b"other")
    os.utime(top / "a" / "one", ns=(0, 10**18))
    (top / "b" / "deep" / "new").mkdir()
    (top / "b" / "deep" / "new" / "file").write_bytes(b"new")
    (top / "b-c" / "four").unlink()
    (top / "five").chmod(0o600)
    (top / "link").unlink()
    os.symlink("elsewhere", top / "link")
    os.utime(top / "link", ns=(0, 10**18), follow_symlinks=False)
    for name in ("a", "b/deep", "b-c", "."):
        os.utime(top / name, ns=(0, 10**18))
    assert changes(root, old, archived(root, top)) == {
        b"a/one": ("modified", ("content",)),
        b"b/deep/new": ("added", ()),
        b"b/deep/new/file": ("added", ()),
        b"b-c/four": ("removed", ()),
        b"five": ("metadata", ("mode",)),
        b"link": ("modified", ("target",)),
    }


def test_a_directory_in_a_files_place_brings_what_is_below_it(root: Path, tmp_path: Path) -> None:
    top = make_tree(tmp_path / "top")
    old = archived(root, top)
    (top / "five").unlink()
    (top / "five" / "below").mkdir(parents=True)
    new = archived(root, top)
    forth, back = changes(root, old, new), changes(root, new, old)
    assert forth[b"five"][0] == back[b"five"][0] == "modified"
    assert forth[b"five"][1][0] == "type"
    assert (forth[b"five/below"][0], back[b"five/below"][0]) == ("added", "removed")


def test_only_what_differs_is_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = make_tree(tmp_path / "top")
    rng = random.Random(1)
    for directory in range(30):
        (top / f"many{directory}").mkdir()
        for number in range(30):
            (top / f"many{directory}" / f"{number}").write_bytes(rng.randbytes(50))
    old = archived(root, top)
    (top / "a" / "one").write_bytes(b"changed")
    new = archived(root, top)
    read: list[Score] = []
    real = Store.get

    def get(self: Store, score: Score) -> memoryview:
        read.append(score)
        return real(self, score)

    monkeypatch.setattr(Store, "get", get)
    assert set(changes(root, old, new)) == {b"a/one"}
    # Two roots, of a few nodes each as their times have it, and two `a`; not 30 directories twice.
    assert len(read) < 30


def test_a_long_directory_is_compared_name_by_name(root: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    names = {f"{number:05}" for number in range(3000)}
    for name in names:
        (top / name).touch()
    old = archived(root, top)
    gone = set(random.Random(2).sample(sorted(names), 40))
    for name in gone:
        (top / name).unlink()
        (top / f"{name}x").touch()
    told = changes(root, old, archived(root, top))
    told.pop(b"")  # the directory's own mtime
    expected = {name.encode(): ("removed", ()) for name in gone}
    expected |= {f"{name}x".encode(): ("added", ()) for name in gone}
    assert told == expected
