"""Commands of ventifs itself that messages name: each is run, and does what the message says."""

import ast
import os
import pty
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

import ventifs
from tests.support.commanding import SCRIPT, parsed, run
from ventifs.store.files import Files
from ventifs.store.header import read_header, write_header

# Whose advice is run below, or elsewhere, by the first words of it.
KNOWN = {
    "archive": "test_a_first_version",
    "check": "test_missing_arenas",
    "check --read-data": "test_missing_arenas",
    "check --repair": "test_missing_arenas",
    "export": "test_a_tar_for_a_terminal",
    "forget": "test_a_bare_name_is_not_forgotten",
    "hold": "test_a_held_version_is_released",
    "init": "test_no_store",
    "init --store": "test_no_store",
    "ls": "test_a_directory_is_listed",
    "rebuild-index": "test_a_damaged_index",
    "release": "test_a_held_version_is_released",
    "reclaim": "test_what_is_dead_is_measured",
    "reclaim --dry-run": "test_a_reclaim_is_announced",
    "undelete": "test_what_was_forgotten_is_listed",
    "stats --exact": "test_what_is_dead_is_measured",
    "upgrade": "test_a_damaged_header",
    "upgrade --reserve": "tests/cli/upkeep/test_upgrade_command.py",
    "upgrade --store": "test_an_old_store",
    "versions": "tests/cli/archiving/test_archive_command.py",
    "versions --forgotten": "test_what_was_forgotten_is_listed",
    "versions --json": "test_a_tree_is_found",
    "versions --store": "tests/store/test_permissions.py",
    "9p ls": "tests/cli/serving/test_ninep.py",
    "9p stat": "tests/cli/serving/test_ninep.py",
}


def _advised(message: bytes) -> list[str]:
    """The commands of a message, without the program's name."""
    return re.findall(r"'ventifs ((?:[^'\\]|\\.)+)'", message.decode())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store, `s`, with a version of a small tree."""
    (tmp_path / "tree" / "dir").mkdir(parents=True)
    (tmp_path / "tree" / "dir" / "file").write_text("hello\n" * 1000)
    run(tmp_path, "init", "--store", "s")
    run(tmp_path, "archive", "tree", "--name", "t", "--store", "s")
    return tmp_path


@pytest.mark.parametrize("name", ["place", "Ada's old place", 'a "$HOME"; \\'])
def test_no_store(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    (command,) = _advised(run(tmp_path, "stats", "--store", place, expected=1).stderr)
    run(tmp_path, *shlex.split(command))
    run(tmp_path, "stats", "--store", place)


def test_a_first_version(home: Path) -> None:
    run(home, "init", "--store", "empty")
    (command,) = _advised(run(home, "ls", "new", "--store", "empty", expected=1).stderr)
    run(home, command, "tree", "--name", "new", "--store", "empty")
    run(home, "ls", "new", "--store", "empty")


def test_a_tree_is_found(home: Path) -> None:
    told = run(home, "ls", "score:" + "0" * 64, "--store", "s", expected=1).stderr
    (command,) = _advised(told)
    (version,) = parsed(home, *command.replace(" --json", "").split(), "--store", "s")
    run(home, "ls", "score:" + version["score"], "--store", "s")


def test_what_is_dead_is_measured(home: Path) -> None:
    (command,) = _advised(run(home, "stats", "--store", "s").stdout)
    told = run(home, *command.split(), "--store", "s").stdout
    assert b" that no version holds\n" in told  # nothing is dead, and nothing is advised
    run(home, "forget", "t@latest", "--force", "--store", "s")
    (command,) = _advised(run(home, *command.split(), "--store", "s").stdout)
    run(home, *command.split(), "--store", "s")
    assert parsed(home, "versions", "--forgotten", "--store", "s") == []


def test_a_reclaim_is_announced(home: Path) -> None:
    told = run(home, "forget", "t@latest", "--force", "--dry-run", "--reclaim", "--store", "s")
    (command,) = _advised(told.stdout)
    run(home, "forget", "t@latest", "--force", "--store", "s")
    said = run(home, *command.split(), "--store", "s").stdout
    assert b"1 forgotten version would go for good" in said


def test_a_directory_is_listed(home: Path) -> None:
    (command,) = _advised(run(home, "cat", "t:/dir", "--store", "s", expected=1).stderr)
    assert b"file" in run(home, command, "t:/dir", "--store", "s").stdout


def test_a_tar_for_a_terminal(home: Path) -> None:
    """Nothing is written to it, and the command that is named writes to a file."""
    leader, follower = pty.openpty()
    done = subprocess.run(
        [SCRIPT, "export", "t", "--store", "s"],
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(follower)
    os.close(leader)
    assert done.returncode
    (command,) = _advised(done.stderr)
    environment = {
        **os.environ,
        "PATH": f"{SCRIPT.parent}:{os.environ['PATH']}",
        "VENTIFS_STORE": "s",
    }
    subprocess.run(f"ventifs {command}", shell=True, cwd=home, check=True, env=environment)
    listed = subprocess.run(
        ["tar", "-tf", "NAME.tar"], cwd=home, check=True, capture_output=True, text=True
    )
    assert "dir/file" in listed.stdout


@pytest.mark.parametrize("which", [1, 2])
def test_a_bare_name_is_not_forgotten(home: Path, which: int) -> None:
    run(home, "archive", "tree", "--name", "t", "--time", "2020-01-01", "--store", "s")
    advised = _advised(run(home, "forget", "t", "--store", "s", expected=2).stderr)  # --help first
    run(home, *advised[which].split(), "--store", "s")
    assert len(parsed(home, "versions", "--store", "s")) == 1


def test_a_version_of_the_future_is_forgotten(home: Path) -> None:
    run(home, "archive", "tree", "--name", "t", "--time", "2500-01-01", "--store", "s")
    warned = run(home, "archive", "tree", "--name", "t", "--store", "s").stderr
    (command,) = _advised(warned)
    run(home, *command.split(), "--store", "s")
    assert not any(each["in_future"] for each in parsed(home, "versions", "--store", "s"))


def test_a_held_version_is_released(home: Path) -> None:
    run(home, "hold", "t@latest", "--store", "s")
    told = run(home, "forget", "t@latest", "--force", "--store", "s", expected=1).stderr
    (command,) = _advised(told)
    run(home, *command.split(), "--store", "s")
    run(home, "forget", "t@latest", "--force", "--store", "s")


def test_what_was_forgotten_is_listed(home: Path) -> None:
    run(home, "forget", "t@latest", "--force", "--store", "s")
    told = run(home, "undelete", "t@2001", "--store", "s", expected=1).stderr
    (command,) = _advised(told)
    (version,) = parsed(home, *command.split(), "--store", "s")
    told = run(home, "undelete", "score:" + "0" * 64, "--store", "s", expected=1).stderr
    (command,) = _advised(told)
    assert parsed(home, *command.split(), "--store", "s") == [version]
    run(home, "undelete", "score:" + version["score"], "--store", "s")
    run(home, "forget", "t@latest", "--force", "--store", "s")
    run(home, "archive", "tree", "--name", "t", "--time", version["time"], "--store", "s")
    listed = run(home, "versions", "t@1999", "--store", "s", expected=1).stderr
    assert b"the nearest are" in listed


@pytest.mark.parametrize("only", [True, False])
@pytest.mark.parametrize("every", [True, False])
def test_a_forgotten_version_whose_time_is_taken(home: Path, only: bool, every: bool) -> None:
    """Both lines are run: the wanted version comes back, not the one that made room."""
    run(home, "comment", "t@latest", "wanted", "--store", "s")
    (version,) = parsed(home, "versions", "--store", "s")
    if not only:
        run(home, "archive", "tree", "--name", "t", "--time", "2001", "--store", "s")
    run(home, "forget", "t@latest", "--force", "--store", "s")
    (home / "tree" / "other").touch()
    run(home, "archive", "tree", "--name", "t", "--time", version["time"], "--store", "s")
    if every:
        (command,) = _advised(run(home, "undelete", "--all", "t", "--store", "s").stdout)
    else:
        command = f"undelete t@{version['time']}"
    forget, undelete = _advised(run(home, *command.split(), "--store", "s", expected=1).stderr)
    assert ("--force" in forget.split()) == only
    run(home, *forget.split(), "--store", "s")
    run(home, *undelete.split(), "--store", "s")
    back = parsed(home, "versions", "t@latest", "--store", "s")
    assert [(each["comment"], each["score"]) for each in back] == [("wanted", version["score"])]
    assert b"other" not in run(home, "ls", "t", "--store", "s").stdout


@pytest.mark.parametrize("only", [True, False])
@pytest.mark.parametrize("how", ["time", "latest", "score"])
def test_what_is_named_was_forgotten(home: Path, only: bool, how: str) -> None:
    if not only:
        (home / "tree" / "other").touch()
        run(home, "archive", "tree", "--name", "t", "--time", "2001", "--store", "s")
        run(home, "archive", "tree", "--name", "u", "--time", "2001", "--store", "s")
    *_, version = parsed(home, "versions", "t", "--store", "s")
    word = {"time": f"t@{version['time']}", "score": f"score:{version['score']}"}.get(how, "t")
    doomed = ["t@latest"] if only or how != "latest" else ["t@latest", "t@~1"]
    run(home, "forget", *doomed, "--force", "--store", "s")
    told = run(home, "ls", word, "--store", "s", expected=1).stderr
    assert b"was forgotten 2" in told
    (command,) = _advised(told)
    assert run(home, *command.split(), "--store", "s").stdout.decode() == (
        f"brought back t@{version['time']}\n"
    )
    run(home, "ls", word, "--store", "s")


def test_a_damaged_index(home: Path) -> None:
    index = next((home / "s").rglob("data.mdb"))
    index.write_bytes(b"\7" * 8192)
    told = run(home, "ls", "t", "--store", "s", expected=1).stderr
    (command,) = _advised(told)
    run(home, *command.split(), "--store", "s")
    assert b"dir" in run(home, "ls", "t", "--store", "s").stdout
    run(home, "check", "--store", "s")


def test_a_damaged_header(home: Path) -> None:
    """A copy from before an upgrade is good enough, and the advice brings it up to date."""
    header = home / "s" / "ventifs.store"
    current = read_header(home / "s")
    write_header(home / "s", replace(current, read_only_compatible=0, reserve=0), Files())
    copy = header.read_bytes()
    header.write_bytes(copy[:-1])
    told = run(home, "ls", "t", "--store", "s", expected=1).stderr
    assert b"put back a copy of this store's, however old, then run" in told
    header.write_bytes(copy)
    (command,) = _advised(told)
    run(home, *command.split(), "--store", "s")
    assert read_header(home / "s") == current
    run(home, "check", "--store", "s")


def test_an_old_store(home: Path) -> None:
    root = home / "s"
    write_header(root, replace(read_header(root), read_only_compatible=0), Files())
    (command,) = _advised(run(home, "check", "--store", "s").stdout)
    run(home, *shlex.split(command))
    assert _advised(run(home, "check", "--store", "s").stdout) == []


def test_missing_arenas(home: Path) -> None:
    for arena in (home / "s" / "arenas").rglob("*"):
        if arena.is_file():
            arena.unlink()
    told = run(home, "archive", "tree", "--name", "t", "--store", "s", expected=1).stderr
    (command,) = _advised(told)
    found = run(home, "check", "--store", "s", expected=1).stdout
    assert b"its file is missing" in found
    run(home, *command.split(), "--store", "s")
    run(home, "archive", "tree", "--name", "t", "--store", "s")
    run(home, "check", "--read-data", "--store", "s")


def test_all_advice_is_known() -> None:
    found: set[str] = set()
    for name in Path(ventifs.__file__).parent.rglob("*.py"):
        tree = ast.parse(name.read_text())
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and "\n" not in node.value  # which documentation has
            ):
                found |= set(re.findall(r"'ventifs ((?:9p )?[a-z-]+(?: --[a-z-]+)?)", node.value))
    assert found <= KNOWN.keys()
