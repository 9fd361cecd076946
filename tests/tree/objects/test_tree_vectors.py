"""Whole trees, laid out by hand from FORMAT.md, against what is written and what is read."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.stores import new_store
from tests.support.vectors import VECTORS, load_vectors
from tools import vectors_tree
from ventifs.store import Score, Store
from ventifs.store.journal import Record
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.objects.content import read_whole
from ventifs.tree.objects.directory import entries, resolve, tree
from ventifs.tree.objects.records import Directory, Entry, RegularFile, decode_entry
from ventifs.tree.restore.metadata import xattrs_of
from ventifs.tree.versions.catalog import decode_version, encode_version, tree_score, version_key
from ventifs.tree.versions.troubles import troubles_of

TREES = load_vectors("tree/trees.json")


def test_the_vectors_are_what_the_tool_makes() -> None:
    assert (VECTORS / "tree" / "trees.json").read_text() == vectors_tree.text()


def flat(root: Path) -> None:
    for number in range(1000):
        (root / f"file{number:04}").write_bytes(b"%d" % number)


def mixed(root: Path) -> None:
    (root / "d").mkdir()
    (root / "l").symlink_to("d/sparse")
    with open(os.fsencode(root) + b"/d/\xff\n", "wb") as file:
        file.write(b"b" * 1000)
    (root / "d" / "sparse").write_bytes(bytes(32 << 10) + b"after the hole, " * 8)
    os.setxattr(root / "d" / "sparse", "user.long", bytes(range(256)) * 3)
    os.setxattr(root / "d", "user.a", b"1")


def times(root: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / "z").write_text("late\n")
    (root / "a").write_text("latest\n")
    (root / "l").symlink_to("d/z")


TIMES = {
    "d/z": vectors_tree.LATE_NS,
    "a": vectors_tree.LATEST_NS,
    "d": vectors_tree.LATE_NS,
    "l": vectors_tree.EARLY_NS,
}


def settle(root: Path, name: str) -> None:
    """User, group, mode and time of all that the vectors have."""
    own = TIMES if name == "times" else {}
    for path in [*sorted(root.rglob("*"), reverse=True), root]:
        os.chown(path, 1000, 100, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
        time_ns = own.get(str(path.relative_to(root)), vectors_tree.MTIME_NS)
        os.utime(path, ns=(0, time_ns), follow_symlinks=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to a user")
@pytest.mark.parametrize(("name", "make"), [("flat", flat), ("mixed", mixed), ("times", times)])
def test_a_tree_is_archived_as_its_vector_says(tmp_path: Path, name: str, make: Any) -> None:
    source, vector = tmp_path / "source", TREES[name]
    source.mkdir()
    make(source)
    settle(source, name)
    with Store.open(new_store(tmp_path / "store"), "write") as store:
        version, _ = archive(store, DirectorySource(source), "guest")
        assert tree_score(version.root).hex() == vector["score"]
        for score, data in vector["blocks"].items():
            assert bytes(store.get(Score(bytes.fromhex(score)))).hex() == data
        assert store.stats().blocks == len(vector["blocks"])


@pytest.mark.parametrize("name", TREES)
def test_a_vector_is_read_as_the_tree_it_says(tmp_path: Path, name: str) -> None:
    vector = TREES[name]
    record = Record(bytes.fromhex(vector["key"]), bytes(16), bytes.fromhex(vector["version"]))
    version = decode_version(record)
    assert version.root == decode_entry(bytes.fromhex(vector["root"]), root=True)
    assert encode_version(version) == record.value
    assert version_key("guest", vectors_tree.MTIME_NS) == record.key
    assert (version.source, version.comment, version.tags) == (
        "/srv/guest",
        "a comment",
        ("x", "y"),
    )
    assert (version.new_bytes, version.seconds) == (12345, 1.5)
    if name == "troubles":
        assert (len(version.troubles), version.troubles_more) == (200, 3)
    else:
        assert version.troubles == ((b"etc/shadow", "permission denied", True),)
        assert version.troubles_more == 2
    with Store.open(new_store(tmp_path / "store"), "write") as store:
        for data in vector["blocks"].values():
            store.put(bytes.fromhex(data))
        found = dict(tree(store, version.root))
        assert isinstance(version.root.detail, Directory)
        assert len(found) == version.root.detail.paths
        if name == "flat":
            _check_flat(store, version.root)
        elif name == "mixed":
            _check_mixed(store, version.root)
        elif name == "times":
            found_ns = {path.decode(): entry.mtime_ns for path, entry in found.items()}
            assert found_ns == TIMES
        else:
            assert list(troubles_of(store, version)) == [
                (b"etc/%03d\xff" % number, "permission denied", number % 2 == 0)
                for number in range(vectors_tree.TROUBLES)
            ]


def _check_flat(store: Store, root: Entry) -> None:
    assert isinstance(root.detail, Directory)
    names = [entry.name for entry in entries(store, root.detail.content, 990)]
    assert names == [b"file%04d" % number for number in range(990, 1000)]


def _check_mixed(store: Store, root: Entry) -> None:
    sparse = resolve(store, root, b"d/sparse")
    assert isinstance(sparse.detail, RegularFile)
    assert read_whole(store, sparse.detail.content) == bytes(32 << 10) + b"after the hole, " * 8
    assert xattrs_of(store, sparse) == ((b"user.long", bytes(range(256)) * 3),)
