"""The set-up of the tools' commands: what is missing is named, and what is half made is made anew.

Nothing is installed: `PATH` has what a command needs, and in place of Python scripts that note what
they are asked for.
"""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
PROGRAMS = (
    "bash",
    "chmod",
    "cmp",
    "cp",
    "dirname",
    "env",
    "flock",
    "grep",
    "id",
    "mkdir",
    "readlink",
    "realpath",
    "rm",
)
# Makes an environment of the same kind, and says what it was asked for.
PYTHON = """#!/bin/sh
echo "${0##*/} $*" >>"$NOTES"
case "$*" in
    *"-m venv"*)
        mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *"-m pip install"*)
        [ ! -e "$NOTES.offline" ] || { echo "no index" >&2; exit 1; }
        echo "#!$PWD/.venv/bin/python" >.venv/bin/ventifs ;;
    *ensurepip*)
        [ ! -e "$NOTES.bare" ] ;;
    *tools/demo.py*)
        echo "demo of $2" ;;
esac
"""


class Clone:
    """A clone's tools, with programs of its own."""

    def __init__(self, top: Path, pythons: tuple[str, ...] = ("python3.11",)) -> None:
        self.top = top / "a clone"
        shutil.copytree(ROOT / "tools", self.top / "tools")
        shutil.copy(ROOT / "pyproject.toml", self.top)
        self.notes = top / "notes"
        self._bin = top / "bin"
        self._bin.mkdir()
        for name in PROGRAMS:
            found = shutil.which(name)
            assert found is not None
            (self._bin / name).symlink_to(found)
        self.programs(dict.fromkeys(pythons, PYTHON))
        self.programs({"dpkg-query": "#!/bin/sh\necho install ok installed\n"})

    def programs(self, texts: dict[str, str]) -> None:
        for name, text in texts.items():
            (self._bin / name).write_text(text)
            (self._bin / name).chmod(0o755)

    def demo(
        self, *words: str, command: Path | None = None, cwd: str | Path = "/"
    ) -> "subprocess.CompletedProcess[str]":
        """Run tools/demo, with none of this machine's own Pythons; forget earlier notes."""
        self.notes.unlink(missing_ok=True)
        setup = self.top / "tools" / "setup.sh"
        setup.write_text(
            setup.read_text()
            .replace("PATH=$PATH:/usr/sbin:/sbin", ":")
            .replace(" /usr/bin/python3;", ";")
        )
        return subprocess.run(
            [command or self.top / "tools" / "demo", *words],
            check=False,
            cwd=cwd,
            env={"PATH": str(self._bin), "NOTES": str(self.notes)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


def made(notes: list[str]) -> tuple[int, int]:
    """How many environments were made, and how often something was installed."""
    return sum("-m venv" in each for each in notes), sum("-m pip install" in each for each in notes)


def test_it_is_set_up_once_from_wherever_it_is_called(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    link = tmp_path / "a link"
    link.symlink_to(clone.top / "tools" / "demo")
    done = clone.demo("here", command=link, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"demo of {tmp_path}/here\n"), done.stderr
    assert made(clone.noted()) == (1, 1)
    assert clone.demo().returncode == 0
    assert made(clone.noted()) == (0, 0)
    with (clone.top / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert clone.demo().returncode == 0
    assert made(clone.noted()) == (0, 1)


def test_what_was_interrupted_or_moved_is_made_anew(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    notes = Path(f"{clone.notes}.offline")
    notes.touch()
    failed = clone.demo()
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("demo: pip cannot install")
    notes.unlink()
    assert clone.demo().returncode == 0
    assert made(clone.noted()) == (1, 1)
    clone.top = clone.top.rename(tmp_path / "moved")
    assert clone.demo().returncode == 0
    assert made(clone.noted()) == (1, 1)


@pytest.mark.parametrize("pythons", [("python3.12",), ("python3.13",), ("python3",)])
def test_any_python_that_is_new_enough_will_do(tmp_path: Path, pythons: tuple[str, ...]) -> None:
    clone = Clone(tmp_path, pythons)
    done = clone.demo()
    assert done.returncode == 0, done.stderr
    assert any(note.startswith(f"{pythons[0]} -m venv") for note in clone.noted())


def test_a_python_without_environments_is_told_in_a_line(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    Path(f"{clone.notes}.bare").touch()
    failed = clone.demo()
    assert failed.returncode == 1
    assert failed.stderr == (
        "demo: python3.11 cannot make virtual environments; as root: apt-get install python3-venv\n"
    )


def test_no_python_is_told_in_a_line(tmp_path: Path) -> None:
    clone = Clone(tmp_path, ())
    clone.programs({"python3": "#!/bin/sh\nexit 1\n"})  # too old
    failed = clone.demo()
    assert failed.returncode == 1
    assert failed.stderr == (
        "demo: Python 3.11 or newer is missing; as root: apt-get install python3-venv\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_clone_that_cannot_be_written_is_told_in_a_line(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    clone.top.chmod(stat.S_IRUSR | stat.S_IXUSR)
    failed = clone.demo()
    clone.top.chmod(stat.S_IRWXU)
    assert failed.returncode == 1
    assert "cannot be written by" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")
def test_root_installs_what_is_missing_even_if_no_news_can_be_had(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    clone.programs(
        {
            "dpkg-query": "#!/bin/sh\nexit 1\n",
            "apt-get": '#!/bin/sh\necho "apt-get $*" >>"$NOTES"\n[ "$2" != update ]\n',
        }
    )
    assert clone.demo().returncode == 0
    assert clone.noted()[:2] == [
        "apt-get -qq update",
        "apt-get -qq install --no-install-recommends python3-venv",
    ]
    clone.programs({"apt-get": "#!/bin/sh\nexit 100\n"})
    failed = clone.demo()
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("demo: apt-get cannot install python3-venv")
