"""`ventifs restore` over a root with symbolic links to directories: what it does and says."""

import json
import os
from pathlib import Path

import pytest

from tests.support.commanding import run

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A version with `lib`, `usr/lib` and `her`; a root `d` with links instead of two of them."""
    for path in ("lib/a", "usr/lib/b", "her/c"):
        (tmp_path / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / path).write_text(path)
    run(tmp_path, "init", "--store", "s")
    run(tmp_path, "archive", "tree", "--name", "t", "--store", "s")
    (tmp_path / "d" / "usr" / "lib").mkdir(parents=True)
    (tmp_path / "d" / "etc").mkdir()
    (tmp_path / "d" / "lib").symlink_to("usr/lib")
    (tmp_path / "d" / "her").symlink_to("etc")
    os.lchown(tmp_path / "d" / "her", 12345, 12345)
    for directory in ("d", "d/usr"):  # whatever the umask: where others can write none is kept
        (tmp_path / directory).chmod(0o755)
    return tmp_path


@as_root
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_one_line_for_each_link_that_is_replaced(home: Path, jobs: str) -> None:
    words = ["restore", "t", "d", "--overwrite", "--store", "s", "--jobs", jobs]
    said = "a symbolic link to etc: it belongs to user 12345"
    planned = run(home, *words, "--dry-run")
    assert planned.stderr.decode() == f"her: would replace {said}\n"
    assert b", 1 symbolic link replaced by directories\n" in planned.stdout
    planned = run(home, *words, "--dry-run", "--json")
    assert json.loads(planned.stdout)["replaced"] == [{"path": "her", "was": said}]
    assert (home / "d" / "her").is_symlink()
    done = run(home, *words)
    assert done.stderr.decode() == f"her: replaced {said}\n"
    assert b", 1 symbolic link replaced by directories to d\n" in done.stdout
    assert os.readlink(home / "d" / "lib") == "usr/lib"
    assert sorted(os.listdir(home / "d" / "usr" / "lib")) == ["a", "b"]
    assert (home / "d" / "her" / "c").read_text() == "her/c"
    assert os.listdir(home / "d" / "etc") == []
    assert json.loads(run(home, *words, "--json").stdout)["replaced"] == []


@as_root
@pytest.mark.parametrize(
    ("option", "kept"),
    [
        ("--keep-directory-symlinks", ["her", "lib"]),
        ("--replace-symlinks", []),
    ],
)
def test_options_choose(home: Path, option: str, kept: list[str]) -> None:
    words = ["restore", "t", "d", "--overwrite", "--store", "s", option, "--json"]
    planned = json.loads(run(home, *words, "--dry-run").stdout)
    done = json.loads(run(home, *words).stdout)
    assert planned["replaced"] == done["replaced"]
    assert [fact["path"] for fact in done["replaced"]] == sorted({"her", "lib"} - set(kept))
    assert [name for name in ("her", "lib") if (home / "d" / name).is_symlink()] == kept
    assert (home / "d" / "lib" / "a").read_text() == "lib/a"
    assert (home / "d" / "usr" / "lib" / "a").exists() == ("lib" in kept)
    assert (home / "d" / "her" / "c").read_text() == "her/c"


@as_root
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--keep-directory-symlinks", "--replace-symlinks", "--overwrite"], "exclude each other"),
        (["--replace-symlinks", "--keep-directory-symlinks", "--overwrite"], "exclude each other"),
        (["--keep-directory-symlinks"], "--keep-directory-symlinks goes with --overwrite"),
        (["--replace-symlinks", "--dry-run"], "--replace-symlinks goes with --overwrite"),
    ],
)
def test_options_without_effect_are_refused(home: Path, options: list[str], why: str) -> None:
    done = run(home, "restore", "t", "new", "--store", "s", *options, expected=2)
    assert why in done.stderr.decode()
    assert not (home / "new").exists()
    assert (home / "d" / "lib").is_symlink()
