"""Restores by several processes: the same result, and nothing left when they are cut short."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.patience import wait_until
from tests.support.restoring import restore_until_told, restored_by
from tests.support.stores import new_store
from tests.support.trees import archived, noise, odd_tree, plain_tree, remove
from tests.support.walker import look_at, same

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A directory for trees that pytest could not remove, with a store."""
    new_store(tmp_path / "store")
    yield tmp_path
    processes.kill_all()
    for name in ("source", "target"):
        remove(tmp_path / name)


@as_root
@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_any_number_of_processes_restores_the_same(work: Path, jobs: int) -> None:
    source = odd_tree(work / "source")
    for number in range(150):  # more directories than a batch has
        (source / f"d{number}").mkdir()
        os.link(source / "size33", source / f"d{number}" / "linked")
        (source / f"d{number}" / "one").write_bytes(noise(100, number))
    archived(work / "store", source)
    assert restored_by(work / "store", "t", work / "target", jobs) == ""
    same(source, work / "target")


def test_many_names_and_large_files_come_back(work: Path) -> None:
    source = plain_tree(work / "source")
    for number in range(3000):
        (source / "empty" / f"{number:x}").write_bytes(b"%d" % number)
    (source / "large").write_bytes(noise(9 << 20))
    archived(work / "store", source)
    assert restored_by(work / "store", "t", work / "target", 2) == ""
    same(source, work / "target")


def _gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_restore_that_is_cut_short_leaves_no_worker_and_nothing_half_made(
    work: Path, number: signal.Signals, overwrite: bool
) -> None:
    source = plain_tree(work / "source")
    for name in range(90):
        (source / "empty" / f"{name}").write_bytes(noise(1 << 20, name))
    archived(work / "store", source)
    child = processes.start(
        restore_until_told, work / "store", "t", work / "target", work / "pids", overwrite
    )
    target = work / "target" / "empty"
    wait_until(
        lambda: target.is_dir() and len(os.listdir(target)) > 1,
        unless=lambda: not child.is_alive() and "it ended before it could be interrupted",
    )
    assert child.pid is not None
    os.kill(child.pid, number)
    assert processes.finished(child) != 0
    for pid in map(int, (work / "pids").read_text().split()):
        wait_until(partial(_gone, pid))  # killed along with its parent, some instants after
    ours, theirs = look_at(source), look_at(work / "target")
    if number != signal.SIGKILL:
        assert theirs.keys() <= ours.keys()
    if number != signal.SIGKILL or overwrite:
        for path in theirs.keys() & ours.keys():
            if theirs[path].sha256:
                assert theirs[path].sha256 == ours[path].sha256, path
    assert restored_by(work / "store", "t", work / "target", 2, overwrite=True) == ""
    same(source, work / "target")
