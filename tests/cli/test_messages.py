"""What a person reads who mistyped: what is the matter, with what, and what to do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commanding import run
from tests.support.trees import plain_tree, remove


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The user's store has a version of a small tree."""
    plain_tree(tmp_path / "tree")
    run(tmp_path, "archive", "tree", "--name", "t")
    yield tmp_path
    remove(tmp_path / "tree")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("archve tree --name t", 2, "Did you mean 'archive'?"),
        ("qqq", 2, "No such command 'qqq'.\n"),
        ("archive '' --name t", 2, "SOURCE is empty"),
        ("archive tree --name t --exclude [", 1, "ventifs: '[' is not a gitignore pattern"),
        ("ls t:etc", 1, "t:etc: a path begins with a slash"),
        ("stats t:/etc", 1, "t:/etc: name a version without a path here"),
        ("ls t:/nothing", 1, "t:/nothing: no such path in this version"),
        ("diff t t@~0 /nothing", 1, "t:/nothing: no such path in this version"),
        ("ls t@~1", 1, "t has only one version"),
        ("ls tt", 1, "did you mean t?"),
        ("cat t:/links", 1, "links: a directory; 'ventifs ls' lists it"),
        ("cat t:/dangling", 1, "dangling: a symbolic link to "),
        ("copy t --to new", 1, "'ventifs init --store new' makes one"),
    ],
)
def test_a_mistake_is_named(home: Path, words: str, code: int, message: str) -> None:
    parts = ["" if word == "''" else word for word in words.split()]
    failed = run(home, *parts, expected=code)
    assert message in failed.stderr.decode()
    assert failed.stdout == b""


def test_the_directory_one_is_in_is_archived(home: Path) -> None:
    run(home / "tree", "archive", ".", "--name", "here", "--store", "../data/ventifs")
    assert run(home, "diff", "t", "here").stdout == b""
