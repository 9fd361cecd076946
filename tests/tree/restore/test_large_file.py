"""Large files are made piece by piece, by all workers together, and named when they are whole."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.damage import flip
from tests.support.restoring import restored_by
from tests.support.stores import new_store
from tests.support.trees import archived, noise, remove
from tests.support.walker import look_at
from ventifs.store import Store
from ventifs.tree.objects.directory import resolve
from ventifs.tree.objects.records import Entry
from ventifs.tree.process_pool import Done, InlinePool
from ventifs.tree.restore.destination import LARGE
from ventifs.tree.restore.file_maker import Maker
from ventifs.tree.restore.restored import Restored
from ventifs.tree.restore.restorer import Restorer
from ventifs.tree.versions.catalog import find_version

SIZE = LARGE + (5 << 20) + 7


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A store with a tree `t`: `d/large` of two names, mostly holes, and small files around it."""
    new_store(tmp_path / "store")
    (tmp_path / "source" / "d").mkdir(parents=True)
    for name in ("a", "d/b", "d/z"):
        (tmp_path / "source" / name).write_bytes(noise(3000, len(name)))
    with (tmp_path / "source" / "d" / "large").open("wb") as file:
        for at in (0, 8 << 20, (8 << 20) - 5000, LARGE - 100_000):
            file.seek(at)
            file.write(noise(200_000, at % 251))
        file.truncate(SIZE)
    os.setxattr(tmp_path / "source" / "d" / "large", "user.a", b"1")
    os.link(tmp_path / "source" / "d" / "large", tmp_path / "source" / "linked")
    archived(tmp_path / "store", tmp_path / "source")
    yield tmp_path
    remove(tmp_path / "source")


class Stopping(InlinePool):
    """Stops by an exception in the middle of a large file."""

    def __init__(self, handle: Callable[[bytes, Sequence[int]], bytes], pieces: int) -> None:
        super().__init__(handle)
        self._left = pieces

    def submit(
        self, request: bytes, descriptors: Sequence[int], done: Done, *, alone: bool = False
    ) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt
        super().submit(request, descriptors, done)


def large(store: Store) -> Entry:
    return resolve(store, find_version(store, "t").root, b"d/large")


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("overwrite", [False, True])
def test_it_comes_back_with_all_its_names(work: Path, jobs: int, overwrite: bool) -> None:
    told = restored_by(work / "store", "t", work / "target", jobs, overwrite=overwrite)
    assert not told
    assert look_at(work / "target") == look_at(work / "source")
    assert (work / "target" / "linked").stat().st_nlink == 2
    assert (work / "target" / "linked").stat().st_blocks * 512 < SIZE / 8


def test_progress_is_told_within_it(work: Path) -> None:
    sizes: list[int] = []
    with Store.open(work / "store") as store:
        entry = large(store)
        done = Restorer(store, progress=lambda done, _: sizes.append(done.size)).run(
            entry, work / "back"
        )
    assert done == Restored(entries=1, size=SIZE)
    assert len(sizes) >= 5
    assert sizes == sorted(sizes)
    assert sizes[-1] == SIZE


@pytest.mark.parametrize("overwrite", [False, True])
def test_interrupted_it_leaves_what_was_there(work: Path, overwrite: bool) -> None:
    if overwrite:
        (work / "back").write_bytes(b"before")
    with Store.open(work / "store") as store:
        entry = large(store)
        pool = Stopping(Maker(store, overwrite=overwrite).handle, 3)
        with pytest.raises(KeyboardInterrupt):
            Restorer(store, pool=pool, overwrite=overwrite).run(entry, work / "back")
    assert sorted(os.listdir(work)) == ["back"] * overwrite + ["source", "store"]
    assert not overwrite or (work / "back").read_bytes() == b"before"


def test_damaged_it_is_left_out_and_told(work: Path) -> None:
    needle = noise(200_000, (LARGE - 100_000) % 251)[50_000:50_100]
    for arena in (work / "store" / "arenas").glob("*/*.arena"):
        if (at := arena.read_bytes().find(needle)) >= 0:
            flip(arena, at)
    told = restored_by(work / "store", "t", work / "target", 2)
    assert "d/large" in told
    assert "linked" in told
    ours, theirs = look_at(work / "source"), look_at(work / "target")
    assert ours.keys() - theirs.keys() == {b"d/large", b"linked"}


def test_what_gets_its_name_meanwhile_stays(work: Path) -> None:
    with Store.open(work / "store") as store:
        entry = large(store)

        def somebody(_: Restored, __: bytes) -> None:
            (work / "back").write_bytes(b"somebody's")

        done = Restorer(store, progress=somebody).run(entry, work / "back")
    assert [reason for _, reason in done.failed] == [
        "something is there already; --overwrite replaces it"
    ]
    assert done.size == 0
    assert (work / "back").read_bytes() == b"somebody's"


def test_what_is_the_same_already_is_left_alone(work: Path) -> None:
    os.unlink(work / "source" / "linked")
    version, _ = archived(work / "store", work / "source")
    with Store.open(work / "store") as store:
        entry = resolve(store, version.root, b"d/large")
        Restorer(store).run(entry, work / "back")
        before = (work / "back").stat()
        done = Restorer(store, overwrite=True).run(entry, work / "back")
        assert done.kept == 1
        assert (work / "back").stat().st_ino == before.st_ino
        with (work / "back").open("r+b") as file:
            file.write(b"x")
        os.utime(work / "back", ns=(0, before.st_mtime_ns))
        done = Restorer(store, overwrite=True).run(entry, work / "back")
    assert done.kept == 0
    assert (work / "back").read_bytes() == (work / "source" / "d" / "large").read_bytes()
