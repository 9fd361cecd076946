"""Standard streams that are closed or full, and full disks: one line, and nothing lost."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commanding import PATIENCE_S, SCRIPT, copy_of, parsed, run
from tests.support.disks import mounted
from tests.support.trees import noise, plain_tree, remove


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store `s` with a version of a small tree."""
    made = tmp_path_factory.mktemp("made")
    plain_tree(made / "tree")
    run(made, "init", "--store", "s")
    run(made, "archive", "tree", "--name", "t", "--store", "s")
    yield made
    remove(made / "tree")


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Iterator[Path]:
    yield copy_of(made, tmp_path)
    remove(tmp_path / "tree")


def in_shell(home: Path, words: str, streams: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(str(SCRIPT))} {words} {streams}"],
        cwd=home,
        text=True,
        errors="surrogateescape",
        env={**os.environ, "VENTIFS_STORE": "s"},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    return done


COMMANDS = [
    "archive tree --name t",
    "restore t back",
    "ls -R t",
    "copy t --to other",
    "check",
    "export t",
    "stats",
    "versions --json",
    "rebuild-index",
]


@pytest.mark.parametrize("streams", ["2>&-", "<&- 2>&-", "<&- 2>&- >&-"])
@pytest.mark.parametrize("words", COMMANDS)
def test_closed_streams_change_nothing(home: Path, words: str, streams: str) -> None:
    """But for the exit code, where there is no place to print to."""
    run(home, "init", "--store", "other")
    assert in_shell(home, words, streams).returncode == (1 if " >&-" in streams else 0)
    assert b"no errors" in run(home, "check", "--read-data", "--store", "s").stdout


def test_a_failure_is_not_told_on_standard_output(home: Path) -> None:
    done = in_shell(home, "ls nothing", "2>&-")
    assert (done.returncode, done.stdout) == (1, "")


def test_a_closed_input_is_no_tar(home: Path) -> None:
    done = in_shell(home, "archive - --name x", "<&-")
    assert done.returncode == 1
    assert done.stderr.startswith("ventifs: standard input is closed; pipe a tar stream into it")


@pytest.mark.parametrize("words", ["restore t back --include-from -", "serve --allow-file -"])
def test_a_closed_input_is_no_list(home: Path, words: str) -> None:
    done = in_shell(home, words, "<&-")
    assert done.returncode == 2
    assert "standard input is closed; name a file, or pipe into it" in done.stderr


@pytest.mark.parametrize("words", COMMANDS)
def test_a_full_output_is_not_taken_for_a_full_store(home: Path, words: str) -> None:
    run(home, "init", "--store", "other")
    done = in_shell(home, words, ">/dev/full")
    assert done.returncode == 1
    assert done.stderr == "ventifs: standard output: no space left on device\n"
    assert b"no errors" in run(home, "check", "--read-data", "--store", "s").stdout


def test_a_full_output_changes_nothing_of_another_failure(home: Path) -> None:
    """What was printed before is flushed in the end; one line tells of the first thing wrong."""
    done = in_shell(home, "ls s:none", ">/dev/full")
    assert done.returncode == 1
    program = (
        "import sys; from ventifs.cli import program as p; from ventifs.cli.main import main\n"
        "from ventifs.errors import VentifsError\n"
        "def fail(*_): print('some'); raise VentifsError('it failed')\n"
        "p.ventifs.invoke = fail; sys.argv = ['ventifs', 'versions']; main()"
    )
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-c", program]
        failed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert failed.returncode == 1
    assert failed.stderr == b"ventifs: it failed\n"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_archive_that_fills_the_disk_says_so_and_goes_on_with_room(
    home: Path, jobs: str
) -> None:
    with mounted(home / "disk", "12m") as disk:
        (home / "tree" / "large").write_bytes(noise(4 << 20))
        store = home / "disk" / "s"
        run(home, "init", "--store", store)
        for leaving in (1, 100, 300, 700):
            disk.fill(leaving=leaving)
            words = ["archive", "tree", "--name", "t", "--jobs", jobs, "--store", str(store)]
            *notes, line = run(home, *words, expected=1).stderr.splitlines()
            # A worker that was at a write when the run before ended leaves a torn tail.
            assert all(b"that a crash left unreadable were moved" in note for note in notes), notes
            assert b"no space left on device; nothing committed was lost: make room" in line
            assert line.startswith(b"ventifs: %s/" % bytes(store))
        disk.make_room()
        run(home, *words)
        assert len(parsed(home, "versions", "--store", store)) == 1
        assert b"no errors" in run(home, "check", "--read-data", "--store", store).stdout
