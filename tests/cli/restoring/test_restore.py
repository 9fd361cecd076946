"""`ventifs restore`, as it is installed: options, exit codes, interruptions."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import forked
from tests.support.damage import flip
from tests.support.forked import SCRIPT
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.trees import noise, plain_tree, remove
from tests.support.walker import look_at, same

# As another user it would start this interpreter, which may stand where he cannot read.
AS_NOBODY = """
import os
from ventifs.cli.restoring import restore
from ventifs.cli.main import main
os.setgroups([]); os.setgid(65534); os.setuid(65534)
main()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A tree at `tree`, archived as `t`; restores go to `back`."""
    plain_tree(tmp_path / "tree")
    run(tmp_path, "init")
    run(tmp_path, "archive", "tree", "--name", "t")
    yield tmp_path
    remove(tmp_path / "tree")
    remove(tmp_path / "back")


def run(home: Path, *words: str, expected: int = 0) -> "subprocess.CompletedProcess[bytes]":
    env = {**os.environ, "VENTIFS_STORE": "s"}
    done = forked.run(words, env=env, cwd=home, timeout_s=PATIENCE_S)
    assert done.returncode == expected, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


def parsed(home: Path, *words: str, expected: int = 0) -> Any:
    return json.loads(run(home, *words, "--json", expected=expected).stdout)


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_version_comes_back_and_again_over_itself(home: Path, jobs: str) -> None:
    facts = parsed(home, "restore", "t", "back", "--jobs", jobs)
    assert (facts["left"], facts["failed"], facts["kept"]) == ([], [], 0)
    assert facts["entries"] == len(look_at(home / "tree"))
    same(home / "tree", home / "back")
    failed = run(home, "restore", "t", "back", expected=1)
    assert b"--overwrite" in failed.stderr
    (home / "back" / "size1").write_bytes(b"changed")
    out = run(home, "restore", "t", "back", "--overwrite", "--jobs", jobs).stdout
    assert b"files were there already" in out
    same(home / "tree", home / "back")


def test_patterns_choose_and_files_hold_patterns(home: Path) -> None:
    (home / "patterns").write_bytes(b"# sizes\nsize*\n\n!size1\n")
    run(home, "restore", "t", "back", "--include-from", "patterns", "--exclude", "size3*")
    assert set(os.listdir(home / "back")) == {
        "size0",
        "size4096",
        "size4097",
        "size65536",
        "size65537",
    }
    failed = run(home, "restore", "t", "other", "--include", "nothing", expected=1)
    assert b"nothing matches the patterns" in failed.stderr
    failed = run(home, "restore", "t:/size1", "other", "--include", "x", expected=1)
    assert b"not a directory" in failed.stderr
    assert os.listdir(home / "other") == []


def test_a_dry_run_tells_and_writes_nothing(home: Path) -> None:
    facts = parsed(home, "restore", "t", "back", "--dry-run")
    assert facts["entries"] == len(look_at(home / "tree"))
    out = run(home, "restore", "t:/links", "back", "--dry-run", "-v").stdout
    assert out == b"/\nb\nc\nin\nin/a\nwould restore 5 entries, 600 B\n"
    facts = parsed(home, "restore", "t", "back", "--dry-run", "-v", "--exclude", "size*")
    paths = [named["path"] for named in facts["paths"]]
    assert facts["failed"] == []
    assert {"", "sparse", "new\nline", "a\\b"} < set(paths)
    assert {"path": "\ufffd\ufffd", "path_base64": "//4="} in facts["paths"]
    assert "size1" not in paths
    failed = run(home, "restore", "t", "back", "-v", expected=2)
    assert b"--dry-run" in failed.stderr
    run(home, "restore", "t", "back", "--dry-run", "--include", "nothing", expected=1)
    assert not (home / "back").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_what_the_user_may_not_make_is_told_and_not_taken_for_nothing() -> None:
    home = Path(tempfile.mkdtemp())  # pytest's own directories are closed to others
    try:
        (home / "tree").mkdir()
        os.mknod(home / "tree" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        run(home, "init")
        run(home, "archive", "tree", "--name", "t")
        subprocess.run(["chmod", "-R", "a+rwX", home], check=True)
        left = subprocess.run(
            [sys.executable, "-P", "-c", AS_NOBODY, "restore", "t:/null", "back", "--jobs", "1"],
            env={**os.environ, "VENTIFS_STORE": "s"},
            capture_output=True,
            cwd=home,
            timeout=PATIENCE_S,
            check=False,
        )
        assert b"left out: device not made: operation not permitted" in left.stderr
        assert left.stdout == b"restored 0 entries, 0 B to back\n"
        assert left.returncode == 3
    finally:
        remove(home)


def test_damage_is_told_by_path_and_gives_exit_code_1(home: Path) -> None:
    for arena in (home / "s" / "arenas").glob("*/*.arena"):
        if (at := arena.read_bytes().find(noise(4096, 4096))) >= 0:
            flip(arena, at)
    failed = run(home, "restore", "t", "back", expected=1)
    assert failed.stderr.startswith(b"size4096: not restored: block ")
    assert failed.stdout.endswith(b"to back, but 1 path could not be\n")
    assert set(os.listdir(home / "tree")) - set(os.listdir(home / "back")) == {"size4096"}
    [facts] = parsed(home, "restore", "t", "back", "--overwrite", expected=1)["failed"]
    assert facts["path"] == "size4096"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_restore_says_how_to_finish_it(
    home: Path, number: signal.Signals, code: int
) -> None:
    for name in range(100):
        (home / "tree" / "empty" / f"{name}").write_bytes(noise(1 << 20, name))
    run(home, "archive", "tree", "--name", "t")
    child = subprocess.Popen(
        [SCRIPT, "restore", "t", "back", "--overwrite"],
        cwd=home,
        stderr=subprocess.PIPE,
        env={**os.environ, "VENTIFS_STORE": "s"},
    )
    began = home / "back" / "empty" / "0"
    wait_until(
        began.exists,
        unless=lambda: child.poll() is not None and "it ended before it could be interrupted",
    )
    child.send_signal(number)
    _, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == code
    assert b"--overwrite" in err
    assert b"Traceback" not in err
    assert look_at(home / "back").keys() < look_at(home / "tree").keys(), "it has gone on"
    run(home, "restore", "t", "back", "--overwrite")
    same(home / "tree", home / "back")
