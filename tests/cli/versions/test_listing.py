"""Listings: paths that scripts can take exactly, printed as they are found."""

import base64
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from tests.support.commanding import parsed, run
from ventifs.cli.formatting import exact
from ventifs.cli.versions.listing import print_array, print_lines

ODD = [b"new\nline", rb"new\nline", b"\xff\xfe", rb"\xff\xfe", "\N{SNOWMAN}".encode(), b"a b"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store of two versions of names that are hard to print; a link and a FIFO besides."""
    top = os.fsencode(tmp_path / "tree")
    os.makedirs(top + b"/below")
    for name in ODD:
        with open(top + b"/below/" + name, "wb") as file:
            file.write(name)
    os.symlink(b"to \xff", top + b"/link")
    os.mkfifo(top + b"/fifo")
    run(tmp_path, "archive", "tree", "--name", "t")
    for name in ODD:
        os.truncate(top + b"/below/" + name, 1)
    run(tmp_path, "archive", "tree", "--name", "t")
    return tmp_path


def bytes_of(fact: dict[str, str], key: str = "path") -> bytes:
    """The exact path that JSON gives."""
    encoded = fact.get(f"{key}_base64")
    return fact[key].encode() if encoded is None else base64.b64decode(encoded)


def test_a_path_is_text_or_text_and_bytes() -> None:
    assert exact(b"a\nb\\c") == {"path": "a\nb\\c"}
    assert exact(b"\xff", "target") == {
        "target": "\N{REPLACEMENT CHARACTER}",
        "target_base64": "/w==",
    }


def test_json_gives_every_path_exactly(home: Path) -> None:
    inside = {b"below/" + name for name in ODD}
    assert {bytes_of(fact) for fact in parsed(home, "ls", "t:/below")} == set(ODD)
    assert {bytes_of(fact) for fact in parsed(home, "ls", "-R", "t")} == inside | {
        b"below",
        b"link",
        b"fifo",
    }
    assert {bytes_of(fact) for fact in parsed(home, "find", "t", "below/*")} == inside
    [link] = parsed(home, "find", "t", "link")
    assert bytes_of(link, "target") == b"to \xff"
    changed = {bytes_of(fact) for fact in parsed(home, "diff", "t@~1", "t")}
    assert changed - {b"below", b""} == inside
    assert parsed(home, "diff", "t@~1", "t", "--stat")["modified"] == len(ODD)


def test_raw_names_are_for_xargs(home: Path) -> None:
    assert sorted(run(home, "ls", "-0", "t:/below").stdout.split(b"\0")) == sorted([b"", *ODD])
    found = run(home, "find", "--print0", "t:/below", "*").stdout
    assert sorted(found.split(b"\0")) == sorted([b"", *(b"below/" + name for name in ODD)])


def test_plain_lines_are_one_for_each_path(home: Path) -> None:
    lines = run(home, "ls", "t:/below").stdout.splitlines()
    assert len(lines) == len(set(lines)) == len(ODD)
    assert {rb"new\nline", rb"new\\nline", rb"\xff\xfe", rb"\\xff\\xfe"} <= set(lines)
    assert run(home, "find", "t", "*snow*").stdout == b""


@pytest.mark.parametrize(
    ("letters", "names"),
    [
        ("l", {"link"}),
        ("p", {"fifo"}),
        ("d", {"below"}),
        ("lp", {"link", "fifo"}),
        ("s", set()),
    ],
)
def test_types_are_told_apart(home: Path, letters: str, names: set[str]) -> None:
    options = [word for letter in letters for word in ("--type", letter)]
    found = run(home, "find", "t", "*", *options).stdout.decode()
    assert set(found.splitlines()) == names


def test_what_is_listed_is_not_gathered(capsys: pytest.CaptureFixture[str]) -> None:
    with open(os.devnull, "w") as nowhere, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", nowhere)
        tracemalloc.start()
        print_lines("x" * 100 for _ in range(100_000))
        print_array({"path": "x" * 100} for _ in range(100_000))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 1 << 20


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_array_is_json_whatever_is_in_it(capsys: pytest.CaptureFixture[str], count: int) -> None:
    print_array({"n": number} for number in range(count))
    text = capsys.readouterr().out
    assert json.loads(text) == [{"n": number} for number in range(count)]
    assert len(text.splitlines()) == (count + 2 if count else 1)
