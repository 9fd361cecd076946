"""Staging directories of restores that run at once: none takes another's away.

A run makes its directory, opens it and locks it. Between any two of these steps another run may
take it for what a killed run has left; the hooks run that other one at exactly these points.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.restoring import restored_by
from tests.support.stores import new_store
from tests.support.trees import archived, plain_tree, remove
from tests.support.walker import same
from ventifs.store import Store
from ventifs.tree.restore.destination import Staging
from ventifs.tree.restore.restorer import Restorer
from ventifs.tree.versions.catalog import Version

STEPS = ["mkdir", "open", "flock"]


def before(monkeypatch: pytest.MonkeyPatch, step: str, other: Callable[[], object]) -> list[bytes]:
    """Have `other` run once, before a run opens or locks what it made; what it has made so far."""
    made: list[bytes] = []
    real_mkdir, real_open, real_flock = os.mkdir, os.open, fcntl.flock

    def once(now: str) -> None:
        if now == step and len(made) == 1:
            made.append(b"")
            other()

    def mkdir(name: bytes, *args: object, **more: object) -> None:
        real_mkdir(name, *args, **more)  # type: ignore[arg-type]
        if os.fsencode(name).startswith(b".ventifs-restore."):
            made.append(name)
            once("mkdir")

    def opened(name: bytes, *args: object, **more: object) -> int:
        fd = real_open(name, *args, **more)  # type: ignore[arg-type]
        if made and name == made[0]:
            once("open")
        return fd

    def flock(fd: int, how: int) -> None:
        once("flock")
        real_flock(fd, how)

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(fcntl, "flock", flock)
    return made


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A store with a version of a small tree."""
    new_store(tmp_path / "store")
    yield tmp_path
    processes.kill_all()
    for name in ("source", "target"):
        remove(tmp_path / name)


@pytest.mark.parametrize("step", STEPS)
def test_two_restores_in_one_place_leave_each_others_staging_alone(
    work: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The other is a process of its own, and runs from its beginning to its end."""
    source = plain_tree(work / "source")
    version: Version = archived(work / "store", source)[0]
    (work / "target").mkdir()

    def other() -> None:
        assert restored_by(work / "store", "t", work / "target", 1, overwrite=True) == ""

    made = before(monkeypatch, step, other)
    with Store.open(work / "store") as opened:
        done = Restorer(opened, overwrite=True).run(version.root, work / "target")
    assert len(made) == 3  # ours, the other's mark, ours again
    assert done.failed == []
    monkeypatch.undo()
    same(source, work / "target")


@pytest.mark.parametrize("step", STEPS)
def test_what_is_held_is_what_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    above = os.open(tmp_path, os.O_RDONLY)
    made = before(monkeypatch, step, lambda: Staging(above).close())
    first = Staging(above)
    monkeypatch.undo()
    second = Staging(above)
    [one, other] = sorted(os.listdir(tmp_path), key=lambda name: os.fsencode(name) != made[-1])
    assert os.path.samestat(os.fstat(first.fd), os.stat(tmp_path / one))
    assert os.path.samestat(os.fstat(second.fd), os.stat(tmp_path / other))
    for staging in (first, second):
        staging.close()
    assert os.listdir(tmp_path) == []
    os.close(above)


def test_a_directory_that_got_the_name_of_a_leftover_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the open and the lock of a leftover, somebody moved another directory to its name."""
    left = tmp_path / ".ventifs-restore.00"
    left.mkdir()
    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        if left.exists() and not (tmp_path / "away").exists():
            left.rename(tmp_path / "away")
            left.mkdir()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    above = os.open(tmp_path, os.O_RDONLY)
    Staging(above).close()
    assert sorted(os.listdir(tmp_path)) == [".ventifs-restore.00", "away"]
    os.close(above)
