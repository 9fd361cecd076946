"""Commands that tests fork do what the installed script does: output, exit code, surroundings."""

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import forked
from tests.support.forked import SCRIPT
from tests.support.limits import file_size_limit
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.trees import plain_tree, remove

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A tree, archived as `t`."""
    plain_tree(tmp_path / "tree")
    by_script(tmp_path, "init")
    by_script(tmp_path, "archive", "tree", "--name", "t", "--time", "2026-01-01")
    yield tmp_path
    remove(tmp_path / "tree")


def _environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "VENTIFS_STORE": "s", "XDG_DATA_HOME": str(home / "data"), **more}


def by_script(home: Path, *words: str | bytes, **env: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [SCRIPT, *words],
        env=_environment(home, **env),
        cwd=home,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )


def by_fork(home: Path, *words: str | bytes, **env: str) -> "subprocess.CompletedProcess[bytes]":
    return forked.run(words, env=_environment(home, **env), cwd=home, timeout_s=PATIENCE_S)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["archive", "--help"],
        ["versions"],
        ["versions", "--json"],
        ["ls", "-l", "t"],
        ["stats", "--exact"],
        ["check", "--read-data"],
        ["cat", b"t:/\xff\xfe"],
        ["cat", "t:/n\N{LATIN SMALL LETTER O WITH DIAERESIS}"],
        ["no such command"],
        ["restore", "t"],
        ["restore", "t", "tree"],
        ["archive", "nothing here", "--name", "n"],
        ["export", "t"],
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_a_fork_writes_and_exits_as_the_script_does(home: Path, words: list[str | bytes]) -> None:
    expected, done = by_script(home, *words), by_fork(home, *words)
    assert done.stdout == expected.stdout
    assert done.stderr == expected.stderr
    assert done.returncode == expected.returncode
    assert done.args == expected.args


@pytest.mark.parametrize("run", [by_script, by_fork])
def test_surroundings_are_those_of_the_test(home: Path, run: Run) -> None:
    before = os.umask(0o077)
    try:
        assert run(home, "archive", "tree", "--name", "u").returncode == 0
        assert run(home, "restore", "u", "back").returncode == 0
        assert run(home, "init", VENTIFS_STORE="other").returncode == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((home / "other").stat().st_mode) & 0o077 == 0
    with file_size_limit(0):
        assert run(home, "init", VENTIFS_STORE="third").returncode == 1
    plan = run(home, "forget", "t", "--keep-daily", "1", "--dry-run", TZ="XYZ-9")
    assert plan.stdout.startswith(b"the days are those of XYZ-9;")


def test_another_locale_is_left_to_the_script(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> None:
        raise AssertionError("it was to be forked")

    monkeypatch.setattr(forked, "_server", forbidden)
    now = forked._of_a_start(os.environ), forked._rights()
    monkeypatch.setattr(forked, "_at_first", lambda: now)
    assert by_fork(home, "versions", PYTHONIOENCODING="ascii").returncode == 0
    with pytest.raises(AssertionError, match="it was to be forked"):
        by_fork(home, "versions")


def test_a_command_that_takes_too_long_is_killed(home: Path) -> None:
    os.mkfifo(home / "fifo")
    with pytest.raises(subprocess.TimeoutExpired):
        forked.run(
            ["archive", "tree", "--name", "t", "--exclude-from", "fifo"],
            env=_environment(home),
            cwd=home,
            timeout_s=0.5,
        )
    # Nothing holds the pipe open any more.
    wait_until(lambda: _nobody_reads(home / "fifo"))


def _nobody_reads(fifo: Path) -> bool:
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return True
    return False
