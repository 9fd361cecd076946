"""`undelete`, `hold`, `release`, `rename`, `tag` and `comment`: what they print and refuse."""

from pathlib import Path

import pytest

from tests.support.commanding import copy_of, parsed, run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions of `t`."""
    tmp_path = tmp_path_factory.mktemp("made")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("x")
    run(tmp_path, "init")
    for day in ("2026-01-01", "2026-01-02", "2026-01-03"):
        run(tmp_path, "archive", "tree", "--name", "t", "--time", day)
    return tmp_path


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return copy_of(made, tmp_path)


def said(home: Path, *words: str) -> list[str]:
    return run(home, *words).stdout.decode().splitlines()


def test_forgotten_versions_are_listed_and_come_back(home: Path) -> None:
    [was] = parsed(home, "versions", "t@2026-01-02")
    assert run(home, "versions", "--forgotten").stdout == b""
    assert parsed(home, "versions", "--forgotten") == []
    run(home, "forget", "t@2026-01-02", "t@2026-01-01")
    found = parsed(home, "versions", "t", "--forgotten")
    assert [each["time"] for each in found] == ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]
    when = found[0]["forgotten"]
    lines = said(home, "versions", "--forgotten")
    assert [line.split()[0] for line in lines] == [f"t@{each['time']}" for each in found]
    assert all(line.endswith(f"forgotten {when}") for line in lines)
    assert said(home, "undelete", "t@~1") == ["brought back t@2026-01-01T00:00:00Z"]
    [back] = parsed(home, "undelete", "--all", "t", "--forgotten", when)
    assert {**back, "held": False, "held_until": None} == was
    assert len(parsed(home, "versions")) == 3


def test_a_version_forgotten_twice_can_be_told_apart(home: Path) -> None:
    for comment in ("one", "two"):
        run(home, "comment", "t@2026-01-02", comment)
        run(home, "forget", "t@2026-01-02")
        run(home, "archive", "tree", "--name", "t", "--time", "2026-01-02")
    first, second = parsed(home, "versions", "--forgotten")
    assert (first["comment"], second["comment"]) == ("one", "two")
    refused = run(home, "undelete", "t@2026-01-02", expected=1).stderr
    assert b"t@2026-01-02T00:00:00Z: there is a version of this name and time; " in refused
    assert said(home, "undelete", "--all", "t") == [
        "nothing to bring back: there are versions of all those times; "
        "'ventifs undelete t@latest' says how to make room for one"
    ]
    run(home, "forget", "t@2026-01-02")
    run(home, "undelete", "t@2026-01-02", "--forgotten", first["forgotten"])
    assert [each["comment"] for each in parsed(home, "versions")] == ["", "one", ""]


def test_held_versions_stay(home: Path) -> None:
    assert said(home, "hold", "t@~2", "t@~1", "--until", "2400-02") == [
        "t@2026-01-01T00:00:00Z is held until 2400-03-01T00:00:00Z",
        "t@2026-01-02T00:00:00Z is held until 2400-03-01T00:00:00Z",
    ]
    assert said(home, "hold", "t@~2") == ["t@2026-01-01T00:00:00Z is held"]
    found = parsed(home, "versions")
    assert [(each["held"], each["held_until"]) for each in found] == [
        (True, None),
        (True, "2400-03-01T00:00:00Z"),
        (False, None),
    ]
    assert [line.partition(" new")[2] for line in said(home, "versions")] == [
        "  held",
        "  held until 2400-03-01T00:00:00Z",
        "",
    ]
    words = ("forget", "--keep-last", "1", "--timezone", "UTC", "--dry-run")
    assert said(home, *words)[1:3] == [
        "would keep t@2026-01-01T00:00:00Z  (held)",
        "would keep t@2026-01-02T00:00:00Z  (held until 2400-03-01T00:00:00Z)",
    ]
    refused = run(home, "forget", "t@~2", expected=1).stderr.decode()
    assert (
        "t@2026-01-01T00:00:00Z: it is held, and stays; 'ventifs release t@2026-01-01T00:00:00Z' "
        "ends that"
    ) in refused
    [released] = parsed(home, "release", "t@~2")
    assert (released["time"], released["held"]) == ("2026-01-01T00:00:00Z", False)
    assert released["held_until"] is None
    [held] = parsed(home, "hold", "t@~1", "--until", "2400")
    assert (held["held"], held["held_until"]) == (True, "2401-01-01T00:00:00Z")
    assert said(home, "release", "t@~1") == ["released t@2026-01-02T00:00:00Z"]
    assert said(home, "forget", "--keep-last", "1")[-1] == "1 kept, 2 versions forgotten"


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("2400", "2401-01-01T00:00:00Z"),
        ("2400-12-31", "2401-01-01T00:00:00Z"),
        ("2400-12-31T10", "2400-12-31T10:00:00Z"),
        ("2400-12-31T10:05+02:00", "2400-12-31T08:05:00Z"),
        ("2400-12-31T10:05:06.5", "2400-12-31T10:05:06.5Z"),
    ],
)
def test_a_hold_until_a_day_holds_to_its_end(home: Path, text: str, until: str) -> None:
    run(home, "hold", "t@latest", "--until", text)
    assert parsed(home, "versions")[-1]["held_until"] == until


def test_a_name_is_changed(home: Path) -> None:
    run(home, "forget", "t@~2")
    run(home, "hold", "t@latest")
    assert said(home, "rename", "t", "new") == ["renamed t to new: 2 versions, 1 forgotten version"]
    assert [(each["name"], each["held"]) for each in parsed(home, "versions")] == [
        ("new", False),
        ("new", True),
    ]
    assert [each["name"] for each in parsed(home, "rename", "new", "newer")] == ["newer"] * 2
    run(home, "rebuild-index")
    assert said(home, "undelete", "newer@latest") == ["brought back newer@2026-01-01T00:00:00Z"]
    run(home, "archive", "tree", "--name", "t", "--time", "2026-01-05")
    assert b"t: there are versions of this name, such as t@2026-01-05T00:00:00Z; choose" in (
        run(home, "rename", "newer", "t", expected=1).stderr
    )


def test_a_name_that_has_only_forgotten_versions_is_changed(home: Path) -> None:
    run(home, "forget", "t@~1", "t@~2")
    run(home, "archive", "tree", "--name", "u", "--time", "2026-01-05")
    run(home, "forget", "u@latest", "--force")
    refused = run(home, "rename", "t", "u", expected=1).stderr
    assert b"u: 1 forgotten version has this name, and would stay under it; choose" in refused
    assert said(home, "rename", "t", "u", "--force") == [
        "renamed t to u: 1 version, 2 forgotten versions",
        "note: u has 1 forgotten version, which stays under this name",
    ]
    run(home, "forget", "u@latest", "--force")
    assert said(home, "rename", "u", "v") == ["renamed u to v: 0 versions, 4 forgotten versions"]
    assert len(said(home, "undelete", "--all", "v")) == 4


def test_a_score_that_several_versions_have_changes_none(home: Path) -> None:
    [first, *_] = before = parsed(home, "versions")
    score = f"score:{first['score'][:12]}"
    refusal = (
        f"{score}: this could be t@2026-01-01T00:00:00Z, t@2026-01-02T00:00:00Z, "
        "t@2026-01-03T00:00:00Z; name one by its time"
    )
    for words in (
        ("forget", score),
        ("hold", score),
        ("release", score),
        ("tag", score, "--add", "x"),
        ("comment", score, "x"),
    ):
        assert refusal in run(home, *words, expected=1).stderr.decode()
    assert parsed(home, "versions") == before
    assert said(home, "ls", score)
    run(home, "forget", "t@~1", "t@~2")
    assert said(home, "hold", score) == ["t@2026-01-03T00:00:00Z is held"]


def test_forgotten_versions_of_a_time_or_tree_are_listed(home: Path) -> None:
    for _ in range(2):
        run(home, "forget", "t@2026-01-02")
        run(home, "archive", "tree", "--name", "t", "--time", "2026-01-02")
    run(home, "forget", "t@2026-01-01")
    every = parsed(home, "versions", "--forgotten", "t")
    assert parsed(home, "versions", "--forgotten", "t@2026-01-02") == every[1:]
    assert parsed(home, "versions", "--forgotten", "t@~1") == every[:1]
    (home / "tree" / "more").touch()
    run(home, "archive", "tree", "--name", "u", "--time", "2026-01-02")
    [u] = parsed(home, "versions", "u")
    run(home, "forget", "u@latest", "--force")
    [found] = parsed(home, "versions", "--forgotten", f"score:{u['score'][:9]}")
    assert found["name"] == "u"
    refused = run(home, "versions", "--forgotten", "x", expected=1).stderr
    assert b"x: no version of this name is forgotten; versions of t, u are; what" in refused


def test_an_empty_tag_is_refused(home: Path) -> None:
    refused = run(home, "tag", "t@latest", "--add", "", expected=1).stderr
    assert b"a tag may not be empty" in refused
    run(home, "archive", "tree", "--name", "t", "--tag", "", expected=1)
    refused = run(home, "forget", "--keep-tag", "", expected=2).stderr
    assert b"--keep-tag wants a tag, not an empty text" in refused
    assert len(parsed(home, "versions")) == 3


def test_tags_and_comments_are_changed(home: Path) -> None:
    words = ("tag", "t@~2", "t@latest", "--add", "a b", "--add", "c")
    assert said(home, *words) == [
        "t@2026-01-01T00:00:00Z  #a b  #c",
        "t@2026-01-03T00:00:00Z  #a b  #c",
    ]
    [tagged] = parsed(home, "tag", "t@latest", "--remove", "c")
    assert tagged["tags"] == ["a b"]
    assert said(home, "tag", "t@latest", "--remove", "a b") == ["t@2026-01-03T00:00:00Z  no tags"]
    assert said(home, "comment", "t@~2", "as it was") == ["t@2026-01-01T00:00:00Z  as it was"]
    assert [each["time"] for each in parsed(home, "versions", "--tag", "c")] == [
        "2026-01-01T00:00:00Z"
    ]
    [commented] = parsed(home, "comment", "t@~2", "")
    assert (commented["comment"], commented["tags"]) == ("", ["a b", "c"])
    assert said(home, "comment", "t@~2", "") == ["t@2026-01-01T00:00:00Z  no comment"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("undelete", 2, "Missing argument"),
        ("undelete t", 2, "--all brings all those back that were forgotten, and t@latest"),
        ("undelete t@latest", 1, "t: no version of this name is forgotten; what was reclaimed, or"),
        ("undelete --all t@latest", 1, "cannot name versions"),
        ("undelete --all t --forgotten never", 1, "'never' is not a time"),
        ("undelete t:/etc@latest", 1, "name a version as NAME@TIME"),
        ("versions --forgotten t", 1, "t: no version of this name is forgotten"),
        ("versions --forgotten t@latest", 1, "t: no version of this name is forgotten"),
        ("versions --forgotten score:1234567", 1, "a score is 64 hexadecimal digits"),
        ("forget t --keep-last 1 --force", 2, "--force is for versions that are named"),
        ("forget t@latest t@~1 t@~2 t@2020 --dry-run", 1, "t has no version of that time"),
        ("hold", 2, "Missing argument"),
        ("hold t", 2, "t names all its versions; t@latest is the latest"),
        ("hold t@~3", 1, "t has only 3 versions"),
        ("hold t@latest --until 2020", 1, "2021-01-01T00:00:00Z is past, so this would hold"),
        ("hold t@latest --until soon", 1, "'soon' is not a time"),
        ("hold t@latest --until 9998", 1, "a hold ends between 1970 and 2554, or never"),
        ("release t@latest", 1, "t@2026-01-03T00:00:00Z: this version is not held"),
        ("release t", 2, "t names all its versions"),
        ("rename t t", 1, "t: this is its name already"),
        ("rename u t", 1, "u: no version has this name; there are t"),
        ("rename t a/b", 1, "'a/b' cannot name versions"),
        ("rename t", 2, "Missing argument"),
        ("tag t@latest", 2, "say what to change, with --add TAG or --remove TAG"),
        ("tag t --add x", 2, "t names all its versions"),
        ("tag t@~7 --add x", 1, "t has only 3 versions"),
        ("comment t x", 2, "t names all its versions"),
        ("comment t@latest", 2, "Missing argument"),
    ],
)
def test_what_makes_no_sense_is_refused(home: Path, words: str, code: int, message: str) -> None:
    before = parsed(home, "versions")
    assert message in run(home, *words.split(), expected=code).stderr.decode()
    assert parsed(home, "versions") == before
