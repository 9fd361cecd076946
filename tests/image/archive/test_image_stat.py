"""What a run remembers of an image counts only as long as it can be trusted."""

import os
import stat
from pathlib import Path

import pytest

from tests.support.stores import new_store
from ventifs.image.archive.image_stat import READERS, SeenImage, recall, remember, statuses
from ventifs.store import Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.statcache import SETTLED_NS
from ventifs.tree.versions.catalog import version_records

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


def seen_by(store: Store, time_ns: int = 7) -> SeenImage:
    return SeenImage(store.header.store_id, store.epoch, time_ns, [(1, 2, 3, 4)], False)


def test_what_is_remembered_is_recalled(store: Path) -> None:
    with Store.open(store, "read") as opened:
        assert recall(opened, "vm") is None
        remember(opened, "vm", seen_by(opened))
        found = recall(opened, "vm")
        assert found is not None
        assert (found[0], found[1].time_ns) == (seen_by(opened), 7)
        assert recall(opened, "other") is None


def test_it_is_void_without_its_version_store_or_epoch(store: Path) -> None:
    with Store.open(store, "write") as opened:
        for wrong in (
            seen_by(opened, 8),
            SeenImage(b"another" * 3, opened.epoch, 7, [], False),
            SeenImage(opened.header.store_id, b"another.", 7, [], False),
        ):
            remember(opened, "vm", wrong)
            assert recall(opened, "vm") is None
        remember(opened, "vm", seen_by(opened))
        opened.commit(deletes=version_records(opened))
        assert recall(opened, "vm") is None


def test_versions_made_otherwise_are_not_alike() -> None:
    one = SeenImage(b"", b"", 0, [], False, format="raw")
    assert one.is_like(SeenImage(b"", b"", 9, [(1, 2, 3, 4)], False, b"mark", format="raw"))
    assert not one.is_like(SeenImage(b"", b"", 0, [], True, format="raw"))
    assert not one.is_like(SeenImage(b"", b"", 0, [], False, format="qcow2"))
    assert not one.is_like(SeenImage(b"", b"", 0, [], False, readers=READERS + 1, format="raw"))
