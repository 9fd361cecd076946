"""What a run remembers of an image counts only as long as it can be trusted."""

import os
import stat
from pathlib import Path

import msgspec
import pytest

from tests.support.stores import new_store
from ventifs.image.archive.image_stat import (
    READERS,
    SeenImage,
    recall,
    remember,
    statuses,
    version_of,
)
from ventifs.store import Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.statcache import SETTLED_NS
from ventifs.tree.versions.catalog import tree_score, versions

NOW_NS = 10**18


def status(ctime_ns: int, mode: int = stat.S_IFREG, inode: int = 5) -> os.stat_result:
    times = {"st_atime_ns": 0, "st_mtime_ns": 8, "st_ctime_ns": ctime_ns}
    return os.stat_result((mode | 0o600, inode, 0, 1, 0, 0, 700, 0, 0, 0), times)


def test_files_are_told_once_they_are_settled() -> None:
    long_ago = NOW_NS - SETTLED_NS - 1
    assert statuses([status(long_ago)], NOW_NS) == [(5, 700, 8, long_ago)]
    assert statuses([status(long_ago + 1)], NOW_NS) == []
    assert statuses([status(long_ago), status(NOW_NS)], NOW_NS) == []
    assert statuses([status(long_ago, stat.S_IFBLK)], NOW_NS) == []


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    path = new_store(tmp_path / "store")
    with Store.open(path, "write") as opened:
        archive(opened, DirectorySource(tmp_path / "tree"), "vm", time_ns=7)
        archive(opened, DirectorySource(tmp_path / "tree"), "vm", time_ns=9)
    return path


def seen_by(store: Store) -> SeenImage:
    root = tree_score(versions(store, "vm")[0].root)
    return SeenImage(store.header.store_id, store.epoch, root, [(1, 2, 3, 4)], False)


def test_what_is_remembered_is_recalled(store: Path) -> None:
    with Store.open(store, "read") as opened:
        assert recall(opened, "vm") is None
        remember(opened, "vm", seen_by(opened))
        assert recall(opened, "vm") == seen_by(opened)
        assert recall(opened, "other") is None


def test_it_is_void_in_another_store(store: Path) -> None:
    with Store.open(store, "read") as opened:
        remember(opened, "vm", msgspec.structs.replace(seen_by(opened), store_id=b"another" * 3))
        assert recall(opened, "vm") is None


def test_it_counts_while_a_version_has_the_root(store: Path) -> None:
    """Whichever that is: the last, since its notes are the newest."""
    with Store.open(store, "write") as opened:
        seen = seen_by(opened)
        for left in (2, 1):
            of_name = versions(opened, "vm")
            assert len(of_name) == left
            assert version_of(seen, opened, of_name) == of_name[-1]
            record = of_name[-1].record
            assert record is not None
            opened.commit(deletes=[record])
        assert version_of(seen, opened, versions(opened, "vm")) is None
        assert record is not None
        opened.commit([(record.key, record.value)])
        assert version_of(seen, opened, versions(opened, "vm")) is not None


def test_another_root_or_epoch_voids_it(store: Path) -> None:
    with Store.open(store, "read") as opened:
        of_name, seen = versions(opened, "vm"), seen_by(opened)
        for wrong in ({"root": bytes(32)}, {"root": b""}, {"epoch": b"another."}):
            assert version_of(msgspec.structs.replace(seen, **wrong), opened, of_name) is None


def test_a_record_of_an_older_program_is_read_as_none(store: Path) -> None:
    """It has the time of its version in place of the root."""
    with Store.open(store, "read") as opened:
        seen = seen_by(opened)
        remember(opened, "vm", seen)
        path = store / "statcache" / ".vm~image"
        fields = msgspec.msgpack.decode(path.read_bytes())
        assert fields[2] == seen.root
        path.write_bytes(msgspec.msgpack.encode([*fields[:2], 7, *fields[3:]]))
        assert recall(opened, "vm") is None


def test_versions_made_otherwise_are_not_alike() -> None:
    one = SeenImage(b"", b"", b"", [], False, format="raw")
    assert one.is_like(SeenImage(b"", b"", b"root", [(1, 2, 3, 4)], False, b"mark", format="raw"))
    assert not one.is_like(SeenImage(b"", b"", b"", [], True, format="raw"))
    assert not one.is_like(SeenImage(b"", b"", b"", [], False, format="qcow2"))
    assert not one.is_like(SeenImage(b"", b"", b"", [], False, readers=READERS + 1, format="raw"))
