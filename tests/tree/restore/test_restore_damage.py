"""What can be restored of a damaged archive is, and what cannot is told, by its path."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.damage import flip
from tests.support.restoring import restored_by
from tests.support.stores import new_store
from tests.support.trees import archived, noise, remove
from tests.support.walker import look_at
from ventifs.errors import Corrupt
from ventifs.store import Score, Store
from ventifs.tree.objects.directory import resolve
from ventifs.tree.objects.records import Directory, Tree
from ventifs.tree.restore.dry_run import Plan
from ventifs.tree.restore.restorer import Restorer
from ventifs.tree.restore.selection import Selection
from ventifs.tree.versions.catalog import Version


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    new_store(tmp_path / "store")
    yield tmp_path
    for name in ("source", "target"):
        remove(tmp_path / name)


def archived_tree(work: Path) -> Version:
    for name in ("a", "b", "lost", "z"):
        (work / "source" / name).mkdir(parents=True)
        (work / "source" / name / "file").write_bytes(noise(1000, ord(name[0])))
    (work / "source" / "b" / "lost").write_bytes(noise(5000, 1))
    (work / "source" / "b" / "large").write_bytes(noise(300_000, 2))
    os.link(work / "source" / "b" / "lost", work / "source" / "z" / "linked")
    version, _ = archived(work / "store", work / "source")
    return version


def damage(work: Path, data: bytes) -> None:
    """Flip a bit of a block; noise is stored as it stands."""
    for arena in (work / "store" / "arenas").glob("*/*.arena"):
        if (at := arena.read_bytes().find(data)) >= 0:
            flip(arena, at)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_damaged_file_is_left_out_and_all_else_comes_back(work: Path, jobs: int) -> None:
    archived_tree(work)
    damage(work, noise(5000, 1))
    damage(work, noise(300_000, 2)[150_000:150_100])
    told = restored_by(work / "store", "t", work / "target", jobs)
    for path in ("b/lost", "b/large", "z/linked"):  # every name of a file is told
        assert repr(path.encode()) in told
    ours, theirs = look_at(work / "source"), look_at(work / "target")
    assert ours.keys() - theirs.keys() == {b"b/lost", b"b/large", b"z/linked"}
    for below, look in theirs.items():
        assert look == ours[below]


def test_a_damaged_directory_is_told_and_its_neighbours_come_back(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = archived_tree(work)
    real = Store.get
    with Store.open(work / "store") as opened:
        detail = resolve(opened, version.root, b"lost").detail
        assert isinstance(detail, Directory)
        assert isinstance(detail.content, Tree)
        lost = detail.content.score

        def get(store: Store, score: Score) -> memoryview:
            if score == lost:
                raise Corrupt("is damaged", score=score)
            return real(store, score)

        monkeypatch.setattr(Store, "get", get)
        done = Restorer(opened).run(version.root, work / "target")
        plan = Plan(opened, version.root, Selection(), lambda *_: None)
    [(path, reason)] = done.failed
    assert path == b"lost"
    assert "of 1 paths below it" in reason
    assert [path for path, _ in plan.failed] == [b"lost"]
    ours, theirs = look_at(work / "source"), look_at(work / "target")
    assert ours.keys() - theirs.keys() == {b"lost/file"}
    assert theirs[b"lost"] == ours[b"lost"]


def test_what_is_there_stays_where_the_archive_is_damaged(work: Path) -> None:
    version = archived_tree(work)
    damage(work, noise(5000, 1))
    shutil.copytree(work / "source", work / "target")
    (work / "target" / "b" / "lost").write_bytes(b"mine")
    with Store.open(work / "store") as opened:
        done = Restorer(opened, overwrite=True).run(version.root, work / "target")
    assert [path for path, _ in done.failed] == [b"b/lost", b"z/linked"]
    assert (work / "target" / "b" / "lost").read_bytes() == b"mine"
    assert sorted(os.listdir(work / "target")) == ["a", "b", "lost", "z"]
