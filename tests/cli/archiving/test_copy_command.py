"""`copy` and `stats VERSION`: what they print, and what they refuse."""

from pathlib import Path

import pytest

from tests.support.commanding import parsed, run
from tests.support.trees import noise


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two versions in the user's own store, and an empty store at `other`."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "same").write_bytes(noise(50_000))
    for number, time in enumerate(["2026-01-01", "2026-01-02"]):
        (tmp_path / "tree" / "file").write_bytes(noise(4000, number))
        run(tmp_path, "archive", "tree", "--name", "t", "--time", time, "--tag", "x")
    run(tmp_path, "init", "--store", "other")
    return tmp_path


def test_a_version_is_copied_once(home: Path) -> None:
    told = run(home, "copy", "t@~1", "--to", "other").stdout.decode()
    assert told.startswith("copied t@2026-01-01T00:00:00Z to other as t@2026-01-01T00:00:00Z: ")
    again = run(home, "copy", "t@~1", "--to", "other").stdout.decode()
    assert again == "t@2026-01-01T00:00:00Z is in other already, and whole\n"
    facts = parsed(home, "copy", "t", "--to", "other", "--name", "u")
    assert (facts["name"], facts["tags"], facts["there_already"]) == ("u", ["x"], False)
    assert facts["copied_blocks"] == 2  # the file and the root
    ours, theirs = parsed(home, "versions", "t"), parsed(home, "versions", "--store", "other")
    assert [version["score"] for version in ours] == [version["score"] for version in theirs]
    assert b"no errors" in run(home, "check", "--read-data", "--store", "other").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("copy t --to data/ventifs", "this is the store the version is in"),
        ("copy t --to tree/../data/ventifs", "this is the store the version is in"),
        ("copy t --to missing", "missing"),
        ("copy t --to tree", "tree"),
        ("copy nothing --to other", "no version has this name"),
        ("copy t --to other --name a/b", "cannot name versions"),
        ("stats nothing", "no version has this name"),
    ],
)
def test_what_cannot_be_done_is_said(home: Path, words: str, message: str) -> None:
    failed = run(home, *words.split(), expected=1)
    assert message in failed.stderr.decode()
    assert failed.stdout == b""
    assert parsed(home, "versions", "--store", "other") == []


def test_what_only_one_version_holds(home: Path) -> None:
    facts = parsed(home, "stats", "t")
    assert (facts["paths"], facts["bytes"], facts["only_blocks"]) == (2, 54_000, 2)
    assert 4000 < facts["only_raw_bytes"] < 4500
    assert 0 < facts["only_stored_bytes"] < 5000
    told = run(home, "stats", "t").stdout.decode()
    assert told.startswith("t@2026-01-02T00:00:00Z: 54.0 kB in 2 paths\n")
    assert "held by no other version: 2 blocks, 4." in told
    assert parsed(home, "stats")["records"] == 2
