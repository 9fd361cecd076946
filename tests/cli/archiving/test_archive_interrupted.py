"""An archive run by workers that ends early, however it ends: nothing is lost, nobody is left."""

import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commanding import SCRIPT, parsed, run
from tests.support.disks import mounted
from tests.support.limits import file_size_limit
from tests.support.memory import family
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.stores import findings
from tests.support.trees import remove
from tests.support.walker import same

FILES, FILE_SIZE = 60, 4 << 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What takes some seconds to archive."""
    made = tmp_path_factory.mktemp("large") / "tree"
    made.mkdir()
    for number in range(FILES):
        (made / f"{number:02}").write_bytes(os.urandom(FILE_SIZE))
    yield made
    remove(made)


@pytest.fixture(scope="module")
def score(tree: Path) -> Iterator[str]:
    """The score of the tree, as a run that is not interrupted stores it."""
    home = tree.parent
    run(home, "init", "--store", "whole")
    yield parsed(home, "archive", "tree", "--name", "t", "--store", "whole")["score"]
    remove(home / "whole")


@pytest.fixture
def home(tmp_path: Path, tree: Path) -> Path:
    """A store at `s`, and at `tree` what takes some seconds to archive."""
    (tmp_path / "tree").symlink_to(tree)
    run(tmp_path, "init", "--store", "s")
    return tmp_path


class Running:
    """An archive run by two workers, stopped in the middle."""

    def __init__(self, home: Path, name: str = "t", *, least: int = 12 << 20) -> None:
        """Start it, and wait until it has stored some bytes."""
        self.child = subprocess.Popen(
            [SCRIPT, "archive", "tree", "--name", name, "--store", "s", "--jobs", "2"],
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        wait_until(
            lambda: _stored(home) >= least,
            unless=lambda: self.child.poll() is not None and "it ended before its interruption",
        )
        self.workers = family(self.child.pid)[1:]
        assert len(self.workers) == 2
        self._handles = [os.pidfd_open(pid) for pid in self.workers]

    def ended(self) -> tuple[int, list[bytes]]:
        """Wait for its end: its code, and the lines it printed as errors."""
        out, err = self.child.communicate(timeout=PATIENCE_S)
        assert out == b""
        self.no_worker_is_left()
        return self.child.returncode, err.splitlines()

    def no_worker_is_left(self) -> None:
        for handle in self._handles:
            assert select.select([handle], [], [], PATIENCE_S)[0], "a worker is left behind"
            os.close(handle)


def _stored(home: Path) -> int:
    sizes = 0
    for path in (home / "s" / "arenas").glob("*/*.arena"):
        try:
            sizes += path.stat().st_blocks * 512
        except FileNotFoundError:  # moved meanwhile
            continue
    return sizes


def taken_up(home: Path, score: str) -> None:
    """No version was made, the store is whole, and the next run need not store all anew.

    That run's version has the score of the tree, and every block of the store its own, so that what
    comes back is the tree.
    """
    assert parsed(home, "versions", "--store", "s") == []
    assert findings(home / "s") == []
    assert parsed(home, "stats", "--store", "s")["records"] == 0
    again = parsed(home, "archive", "tree", "--name", "t", "--store", "s", "--jobs", "2")
    assert again["new_bytes"] < FILES * FILE_SIZE - (6 << 20)
    assert again["troubles"] == []
    assert again["score"] == score
    assert findings(home / "s") == []


@pytest.mark.parametrize(
    ("number", "all_get_it", "code", "word"),
    [
        (signal.SIGINT, True, 130, b"interrupted"),  # Ctrl-C: the whole group gets it
        (signal.SIGINT, False, 130, b"interrupted"),
        (signal.SIGTERM, False, 143, b"terminated"),
        (signal.SIGTERM, True, 143, b"terminated"),
    ],
)
def test_a_signal_ends_it_at_once(
    home: Path, score: str, number: signal.Signals, all_get_it: bool, code: int, word: bytes
) -> None:
    running = Running(home)
    (os.killpg if all_get_it else os.kill)(running.child.pid, number)
    ended, lines = running.ended()
    assert (ended, len(lines)) == (code, 1), lines
    assert word in lines[0]
    taken_up(home, score)


def test_a_worker_that_is_killed_ends_the_run(home: Path, score: str) -> None:
    running = Running(home)
    os.kill(running.workers[1], signal.SIGKILL)
    code, lines = running.ended()
    assert (code, len(lines)) == (1, 1), lines
    assert b"a worker process ended early (killed by signal 9)" in lines[0]
    assert b"run the command again" in lines[0]
    taken_up(home, score)
    run(home, "restore", "t", "back", "--store", "s")
    same((home / "tree").resolve(), home / "back")


def test_what_another_worker_was_to_store_when_it_died_is_stored_anew(
    home: Path, tree: Path
) -> None:
    """Of two equal files read side by side, each block is stored by one worker only."""
    (home / "tree").unlink()
    (home / "tree").mkdir()
    for number in range(FILES // 2):
        for copy in (f"{number:02}", f"{number:02}+"):
            shutil.copyfile(tree / f"{number:02}", home / "tree" / copy)
    running = Running(home)
    os.kill(running.workers[0], signal.SIGKILL)
    assert running.ended()[0] == 1
    run(home, "init", "--store", "whole")
    whole = parsed(home, "archive", "tree", "--name", "t", "--store", "whole")
    taken_up(home, whole["score"])
    remove(home / "tree")


def test_workers_die_with_their_parent(home: Path, score: str) -> None:
    running = Running(home)
    running.child.kill()
    running.child.communicate(timeout=PATIENCE_S)
    running.no_worker_is_left()
    taken_up(home, score)


def test_a_version_that_was_there_stays_the_last(home: Path) -> None:
    run(home, "archive", "tree", "--name", "t", "--store", "s", "--exclude", "[1-9]*")
    before = parsed(home, "versions", "--store", "s")
    running = Running(home, least=_stored(home) + (12 << 20))
    running.child.send_signal(signal.SIGINT)
    assert running.ended()[0] == 130
    assert parsed(home, "versions", "--store", "s") == before
    again = parsed(home, "archive", "tree", "--name", "t", "--store", "s")
    whole = parsed(home, "archive", "tree", "--name", "u", "--store", "s", "--no-cache")
    assert again["score"] == whole["score"]


def test_a_disk_that_is_full_is_told_in_a_line(home: Path) -> None:
    with mounted(home / "disk", "60m") as disk:
        run(home, "init", "--store", "disk/s")
        words = ["archive", "tree", "--name", "t", "--store", "disk/s", "--jobs", "2"]
        failed = run(home, *words, expected=1)
        [line] = failed.stderr.splitlines()
        assert b"no space left on" in line.lower()
        assert failed.stdout == b""
        disk.remount("size=1g")
        assert parsed(home, "versions", "--store", "disk/s") == []
        assert findings(home / "disk" / "s") == []
        run(home, *words)
        run(home, "restore", "t", "back", "--store", "disk/s")
        same((home / "tree").resolve(), home / "back")
        assert findings(home / "disk" / "s") == []


def test_a_worker_that_may_not_write_on_is_told_in_a_line(home: Path) -> None:
    with file_size_limit(8 << 20):
        failed = run(
            home, "archive", "tree", "--name", "t", "--store", "s", "--jobs", "2", expected=1
        )
    [line] = failed.stderr.splitlines()
    assert line.startswith(b"ventifs: ")
    assert failed.stdout == b""
    assert parsed(home, "versions", "--store", "s") == []
    assert findings(home / "s") == []
    run(home, "archive", "tree", "--name", "t", "--store", "s", "--jobs", "2")
    run(home, "restore", "t", "back", "--store", "s")
    same((home / "tree").resolve(), home / "back")


def test_a_second_run_under_a_name_is_refused_and_under_another_is_not(home: Path) -> None:
    running = Running(home)
    os.killpg(running.child.pid, signal.SIGSTOP)
    try:
        words = ["archive", "tree", "--store", "s", "--exclude", "[1-9]*", "--name"]
        refused = run(home, *words, "t", expected=1)
        [line] = refused.stderr.splitlines()
        assert b"another archive run or rename is at work under this name" in line
        run(home, *words, "u")
    finally:
        os.killpg(running.child.pid, signal.SIGCONT)
    _, err = running.child.communicate(timeout=PATIENCE_S)
    assert (running.child.returncode, err) == (0, b"")
    running.no_worker_is_left()
    names = [version["name"] for version in parsed(home, "versions", "--store", "s")]
    assert names == ["t", "u"]
    assert findings(home / "s") == []
