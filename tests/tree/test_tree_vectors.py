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
from ventifs.tree.attributes import xattrs_of
from ventifs.tree.catalog import decode_version, encode_version, tree_score, version_key
from ventifs.tree.content import read_whole
from ventifs.tree.directory import entries, resolve, tree
from ventifs.tree.records import Directory, File, decode_entry
from ventifs.tree.run import archive

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


def settle(root: Path) -> None:
    """User, group, mode and time of all that the vectors have."""
    for path in [*sorted(root.rglob("*"), reverse=True), root]:
        os.chown(path, 1000, 100, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, ns=(0, vectors_tree.MTIME_NS), follow_symlinks=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to a user")
@pytest.mark.parametrize(("name", "make"), [("flat", flat), ("mixed", mixed)])
def test_a_tree_is_archived_as_its_vector_says(tmp_path: Path, name: str, make: Any) -> None:
    source, vector = tmp_path / "source", TREES[name]
    source.mkdir()
    make(source)
    settle(source)
    with Store.open(new_store(tmp_path / "store"), "write") as store:
        version, _ = archive(store, source, "guest")
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
    assert version.troubles == ((b"etc/shadow", "permission denied", True),)
    assert (version.new_bytes, version.seconds, version.troubles_more) == (12345, 1.5, 2)
    with Store.open(new_store(tmp_path / "store"), "write") as store:
        for data in vector["blocks"].values():
            store.put(bytes.fromhex(data))
        found = dict(tree(store, version.root))
        assert isinstance(version.root.detail, Directory)
        assert len(found) == version.root.detail.paths
        if name == "flat":
            names = [entry.name for entry in entries(store, version.root.detail.content, 990)]
            assert names == [b"file%04d" % number for number in range(990, 1000)]
        else:
            sparse = resolve(store, version.root, b"d/sparse")
            assert isinstance(sparse.detail, File)
            assert read_whole(store, sparse.detail.content) == (
                bytes(32 << 10) + b"after the hole, " * 8
            )
            assert xattrs_of(store, sparse) == ((b"user.long", bytes(range(256)) * 3),)
