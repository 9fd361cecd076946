"""The demo, as root and as another user: what it shows, and what it says when it cannot."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.trees import noise, remove

DEMO = Path(__file__).parents[2] / "tools" / "demo.py"
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may read, of root's, or of the user's; with a small tree."""
    top = Path(tempfile.mkdtemp())  # pytest's own directories are closed to others
    top.chmod(0o1777)
    (top / "tree" / "below").mkdir(parents=True)
    (top / "tree" / "file").write_bytes(b"hello\n")
    (top / "tree" / "below" / "large").write_bytes(noise(300_000))
    (top / "tree" / "link").symlink_to("below/large")
    subprocess.run(["chmod", "-R", "a+rX", top / "tree"], check=True)
    yield top
    remove(top)


def demo(top: Path, *words: str | Path, user: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run it, with temporary files below `top`."""
    return subprocess.run(
        [*(AS_NOBODY if user else ()), sys.executable, DEMO, *words],
        check=False,
        cwd="/",
        env={**os.environ, "TMPDIR": str(top)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.parametrize("user", [False, True])
def test_it_shows_everything_and_says_what_to_do_next(public: Path, user: bool) -> None:
    if user:
        if os.geteuid() != 0:
            pytest.skip("needs root, to be somebody else")
        if subprocess.run([*AS_NOBODY, "test", "-x", sys.executable], check=False).returncode:
            pytest.skip(f"user 65534 may not run {sys.executable}")
    done = demo(public, public / "tree", user=user)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("diff -r finds no difference") == 3
    assert ("a copy of" in done.stdout) is (user or os.geteuid() != 0)
    shown, _, following = done.stdout.rpartition("\nNext: ")
    assert f"Shown: {public}/tree was archived" in shown
    assert "ventifs archive DIRECTORY --name NAME" in following
    assert os.listdir(public) == ["tree"]


def test_what_is_missing_is_one_line(public: Path) -> None:
    done = demo(public, public / "none")
    assert done.returncode == 1
    assert done.stderr == (
        f"demo: {public}/none: no such directory; tools/demo DIRECTORY archives that one\n"
    )
    assert done.stdout == ""


def test_what_fails_is_told_without_a_traceback(public: Path) -> None:
    """Standard output is closed before it begins."""
    read, write = os.pipe()
    os.close(read)
    failed = subprocess.run(
        [sys.executable, DEMO, public / "tree"],
        check=False,
        stdout=write,
        text=True,
        env={**os.environ, "TMPDIR": str(public)},
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
    )
    os.close(write)
    assert failed.returncode == 1
    assert failed.stderr.startswith("demo: ")
    assert "Traceback" not in failed.stderr
    assert os.listdir(public) == ["tree"]
