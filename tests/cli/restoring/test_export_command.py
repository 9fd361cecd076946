"""`ventifs export`: into a pipe, never onto a terminal."""

import io
import os
import pty
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commanding import PATIENCE_S, SCRIPT, run
from tests.support.trees import noise, plain_tree, remove
from tests.support.walker import same


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    plain_tree(tmp_path / "tree")
    yield tmp_path
    remove(tmp_path / "tree")


@pytest.fixture
def archived(home: Path) -> Path:
    run(home, "archive", "tree", "--name", "t")
    return home


def test_export_is_unpacked_by_tar(archived: Path) -> None:
    done = run(archived, "export", "t")
    assert done.stderr == b""
    (archived / "out").mkdir()
    words = ["tar", "-C", str(archived / "out"), "-xp", "--xattrs", "--xattrs-include=*"]
    subprocess.run(words, input=done.stdout, check=True)
    same(archived / "tree", archived / "out")


def test_export_of_a_path_is_what_is_below_it(archived: Path) -> None:
    for what, names in [
        ("t:/links", ["./", "./b", "./c", "./in/", "./in/a"]),
        ("t:/links/b", ["./b"]),
        ("t@latest:/links/in/", ["./", "./a"]),
        ("t:/./links//b/.", ["./b"]),
    ]:
        listed = subprocess.run(
            ["tar", "-t"],
            input=run(archived, "export", what).stdout,
            capture_output=True,
            check=True,
        )
        assert listed.stdout.decode().split() == names


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing", b"nothing"),
        ("t:/no/where", b"/no: no such path"),
        ("t:/links/b/c", b"not a directory"),
    ],
)
def test_what_is_not_there_is_said_and_nothing_written(
    archived: Path, what: str, said: bytes
) -> None:
    done = run(archived, "export", what, expected=1)
    assert said in done.stderr
    assert done.stdout == b""


def test_sockets_are_left_out_and_told(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        fd = os.open(home / "tree", os.O_PATH)
        listening.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
    run(home, "archive", "tree", "--name", "t")
    done = run(home, "export", "t", expected=3)
    assert done.stderr == b"socket: left out: a socket, which a tar cannot hold\n"
    with tarfile.open(fileobj=io.BytesIO(done.stdout), errors="surrogateescape") as tar:
        assert "./empty" in tar.getnames()


def test_a_terminal_is_refused(archived: Path) -> None:
    ours, theirs = pty.openpty()
    store = archived / "data" / "ventifs"
    done = subprocess.run(
        [SCRIPT, "export", "t", "--store", store],
        stdout=theirs,
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=False,
    )
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 1
    assert b"redirect it, as in 'ventifs export t > NAME.tar'" in done.stderr


def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    (home / "tree" / "large").write_bytes(noise(1 << 20))
    run(home, "archive", "tree", "--name", "t")
    store = home / "data" / "ventifs"
    done = subprocess.run(
        ["sh", "-c", f"{SCRIPT} export t --store {store} | head -c 100"],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (len(done.stdout), done.stderr) == (100, b"")
