"""`copy` and `stats`: what they print, and what they refuse."""

import json
from pathlib import Path

import pytest

from tests.support.commanding import copy_of, parsed, run
from tests.support.trees import noise
from ventifs.store import Store
from ventifs.tree.versions.catalog import find_version, version_key
from ventifs.tree.versions.reachable import reach_version


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions in the user's own store, and an empty store at `other`."""
    home = tmp_path_factory.mktemp("two")
    (home / "tree").mkdir()
    (home / "tree" / "same").write_bytes(noise(50_000))
    for number, time in enumerate(["2026-01-01", "2026-01-02"]):
        (home / "tree" / "file").write_bytes(noise(4000, number))
        run(home, "archive", "tree", "--name", "t", "--time", time, "--tag", "x")
    run(home, "init", "--store", "other")
    return home


@pytest.fixture(scope="module")
def five(two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Also two versions of `tt`, and one of `u`, with one file more."""
    home = copy_of(two, tmp_path_factory.mktemp("five"))
    (home / "tree" / "more").write_bytes(noise(3000, 7))
    for name, time in (("tt", "2026-01-01"), ("tt", "2026-01-03"), ("u", "2026-01-03")):
        run(home, "archive", "tree", "--name", name, "--time", time)
    return home


@pytest.fixture
def home(two: Path, tmp_path: Path) -> Path:
    return copy_of(two, tmp_path)


@pytest.fixture
def many(five: Path, tmp_path: Path) -> Path:
    return copy_of(five, tmp_path)


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


def test_notes_that_change_here_go_to_copies(many: Path) -> None:
    run(many, "copy", "--all", "--to", "other")
    run(many, "tag", "t@~1", "u@latest", "--add", "new")
    run(many, "comment", "tt@latest", "words")
    asked = ("copy", "--all", "--to", "other")
    would = run(many, *asked, "--dry-run").stdout.decode().splitlines()
    line = "t@2026-01-01T00:00:00Z is there already; its comment and tags would be made as "
    assert would[0] == line + "they are here"
    done = run(many, *asked).stdout.decode().splitlines()
    assert [each.replace("would be", "are") for each in would[:-1]] == done[:-1]
    assert done[-1].startswith(
        "0 versions copied to other, 5 there already, 3 of these with new comments or tags: 0 "
    )
    listed = [parsed(many, "versions"), parsed(many, "versions", "--store", "other")]
    assert listed[0] == listed[1]
    assert not any(each["notes_replaced"] for each in parsed(many, *asked)["versions"])
    run(many, "comment", "t@latest", "once more")
    facts = parsed(many, "copy", "t", "--to", "other")
    assert (facts["notes_replaced"], facts["comment"]) == (True, "once more")


def test_a_dry_run_of_one_version_is_like_the_copy(home: Path) -> None:
    asked = ("copy", "t@~1", "--to", "other")
    for _ in range(2):
        would = parsed(home, *asked, "--dry-run")
        assert {**would, "dry_run": False} == parsed(home, *asked)
    line = run(home, "copy", "t", "--to", "other", "--dry-run").stdout.decode()
    done = run(home, "copy", "t", "--to", "other").stdout.decode()
    assert line.replace("would copy", "copied") == done
    (home / "empty").mkdir()
    run(home, "archive", "empty", "--name", "v", "--time", "2026-01-02", "--store", "other")
    for words in ((), ("--dry-run",)):
        refused = run(home, "copy", "t", "--to", "other", "--name", "v", *words, expected=1)
        assert b"other has another version of that name and time" in refused.stderr


def in_other(home: Path) -> list[str]:
    return [
        f"{each['name']}@{each['time'][8:10]}"
        for each in parsed(home, "versions", "--store", "other")
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--all", "t@01 t@02 tt@01 tt@03 u@03"),
        ("t*", "t@01 t@02 tt@01 tt@03"),
        ("--all t", "t@01 t@02"),
        ("*@latest", "t@02 tt@03 u@03"),
        ("t u", "t@02 u@03"),
        ("tt@~1 u", "tt@01 u@03"),
        ("*@2026-01-01", "t@01 tt@01"),
        ("--all tt --name new", "new@01 new@03"),
    ],
)
def test_many_versions_are_copied(many: Path, words: str, expected: str) -> None:
    asked = "copy", *words.split(), "--to", "other"
    would = parsed(many, *asked, "--dry-run")
    assert (would["dry_run"], in_other(many)) == (True, [])
    done = parsed(many, *asked)
    assert in_other(many) == expected.split()
    assert {**would, "dry_run": False} == done
    assert [f"{each['name']}@{each['time'][8:10]}" for each in done["versions"]] == in_other(many)
    assert done["copied_blocks"] == sum(each["copied_blocks"] for each in done["versions"]) > 0
    assert done["copied_bytes"] == sum(each["copied_bytes"] for each in done["versions"]) > 50_000
    assert not any(each["there_already"] for each in done["versions"])
    again = parsed(many, *asked)
    assert all(each["there_already"] for each in again["versions"])
    assert (again["copied_blocks"], again["left"]) == (0, [])
    assert b"no errors" in run(many, "check", "--read-data", "--store", "other").stdout


def test_many_copies_are_listed_and_summed(many: Path) -> None:
    run(many, "copy", "t", "--to", "other")
    would = run(many, "copy", "t*", "--to", "other", "--dry-run").stdout.decode().splitlines()
    done = run(many, "copy", "t*", "--to", "other").stdout.decode().splitlines()
    assert [line.replace("would copy", "copied") for line in would[:-1]] == done[:-1]
    assert done[0].startswith("copied t@2026-01-01T00:00:00Z: 2 blocks, 4.")
    assert done[-1].startswith("3 versions copied to other, 1 there already: ")
    assert would[-1] == f"a dry run: {done[-1]} if this were done"
    again = run(many, "copy", "t*", "--to", "other").stdout.decode()
    assert again == "0 versions copied to other, 4 there already: 0 blocks, 0 B new there\n"


def test_what_is_left_out_is_listed_and_the_others_copied(many: Path) -> None:
    (many / "empty").mkdir()
    run(many, "archive", "empty", "--name", "tt", "--time", "2026-01-01", "--store", "other")
    done = run(many, "copy", "--all", "--to", "other", expected=3)
    assert done.stderr.decode() == (
        "not copied: tt@2026-01-01T00:00:00Z: other has another version of that name and time; "
        "--name copies it under another name\n"
    )
    assert b"4 versions copied to other, 1 left out: " in done.stdout
    assert in_other(many) == ["t@01", "t@02", "tt@01", "tt@03", "u@03"]
    again = json.loads(run(many, "copy", "--all", "--to", "other", "--json", expected=3).stdout)
    assert len(again["versions"]) == 4
    [left] = again["left"]
    assert (left["version"], left["damaged"]) == ("tt@2026-01-01T00:00:00Z", False)
    # The message's remedy.
    run(many, "copy", "tt@2026-01-01", "--to", "other", "--name", "tt-old")
    assert "tt-old@01" in in_other(many)


def test_a_damaged_version_is_left_out(many: Path) -> None:
    with Store.open(many / "data/ventifs", "write") as store:
        *_, lost = reach_version(store, find_version(store, "u"), set())
        *_, also = reach_version(store, find_version(store, "tt"), set())
        assert lost == also  # the same tree
        store._index.drop_block(lost.score)
    done = run(many, "copy", "--all", "--to", "other", expected=3)
    reasons = done.stderr.decode().splitlines()
    assert [line.split(": ")[1] for line in reasons] == [
        "tt@2026-01-01T00:00:00Z",
        "tt@2026-01-03T00:00:00Z",
        "u@2026-01-03T00:00:00Z",
    ]
    assert all("is not in the store" in line for line in reasons)
    assert in_other(many) == ["t@01", "t@02"]
    facts = json.loads(run(many, "copy", "u*", "--to", "other", "--json", expected=3).stdout)
    assert facts["left"][0]["damaged"]


def test_blocks_that_copies_have_lost_come_again(many: Path) -> None:
    run(many, "copy", "--all", "--to", "other")
    with Store.open(many / "other", "write") as store:
        lost = {ref.score for ref in reach_version(store, find_version(store, "u"), set())}
        for score in lost:
            store._index.drop_block(score)
    passed = run(many, "copy", "--all", "--to", "other").stdout
    assert passed.startswith(b"0 versions copied to other, 5 there already: 0 blocks")
    would = run(many, "copy", "--all", "--to", "other", "--repair", "--dry-run").stdout.decode()
    assert "is there already; it lacks " in would
    mended = run(many, "copy", "--all", "--to", "other", "--repair").stdout.decode()
    assert "is there already; what it lacked is made good: " in mended
    assert f"5 there already: {len(lost)} blocks, " in mended
    run(many, "check", "--store", "other")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("copy --to other", 2, "say --all"),
        ("copy x* --to other", 1, "no version has a name like this"),
        ("copy *@2020 --to other", 1, "has a version of that time"),
        ("copy t x --to other", 1, "no version has this name"),
        ("copy --all x --to other", 1, "no version has this name"),
        ("copy --all --to data/ventifs", 1, "this is the store the version is in"),
        ("copy --all --to other --name x", 1, "copy them name by name"),
        ("copy --all t --to other --name a/b", 1, "cannot name versions"),
        ("copy --all --to missing --dry-run", 1, "missing"),
        ("stats --versions --exact", 2, "give one of"),
        ("stats t --exact", 2, "of the whole store"),
        ("stats --versions x", 1, "no version has this name"),
        ("stats --versions t@latest", 1, "cannot name versions"),
    ],
)
def test_what_cannot_be_done_to_many_is_said(
    many: Path, words: str, code: int, message: str
) -> None:
    failed = run(many, *words.split(), expected=code)
    assert message in failed.stderr.decode()
    assert failed.stdout == b""
    assert in_other(many) == []


def test_a_table_of_what_each_version_alone_holds(many: Path) -> None:
    facts = parsed(many, "stats", "--versions")
    singly = [parsed(many, "stats", f"{each['name']}@{each['time']}") for each in facts["versions"]]
    names = ["only_blocks", "only_raw_bytes", "only_stored_bytes"]
    assert [[each[name] for name in names] for each in facts["versions"]] == [
        [each[name] for name in names] for each in singly
    ]
    assert facts["total"] == {name: sum(each[name] for each in singly) for name in names}
    by_name = {each["name"]: each for each in facts["names"]}
    assert {name: each["versions"] for name, each in by_name.items()} == {"t": 2, "tt": 2, "u": 1}
    # `tt` and `u` are one tree; of `t`, the first has a file, and each has a root.
    assert [by_name[name]["only_blocks"] for name in ("t", "tt", "u")] == [3, 0, 0]
    of_t = parsed(many, "stats", "--versions", "t")
    assert of_t["names"] == [by_name["t"]]
    assert of_t["versions"] == [each for each in facts["versions"] if each["name"] == "t"]
    lines = run(many, "stats", "--versions").stdout.decode().splitlines()
    assert lines[0].split() == ["held", "by", "nothing", "else", "blocks", "raw", "stored"]
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "t@2026-01-01T00:00:00Z",
        "t@2026-01-02T00:00:00Z",
        "all 2 versions of t",
        "tt@2026-01-01T00:00:00Z",
        "tt@2026-01-03T00:00:00Z",
        "all 2 versions of tt",
        "u@2026-01-03T00:00:00Z",
        "sum of 5 single versions",
    ]


def test_what_is_dead_is_estimated_and_measured(many: Path) -> None:
    assert parsed(many, "stats")["dead_estimate"]["stored_bytes"] == 0
    run(many, "forget", "t@~1")
    facts = parsed(many, "stats")
    assert (facts["dead_estimate"]["versions"], facts["dead_estimate"]["forgotten"]) == (4, 1)
    assert facts["dead_estimate"]["stored_bytes"] > 4000
    marked = parsed(many, "stats", "--exact")["marked"]
    assert (marked["versions"], marked["forgotten_versions"]) == (4, 1)
    assert (marked["forgotten"]["blocks"], marked["dead"]["blocks"]) == (2, 0)
    told = run(many, "stats").stdout.decode()
    assert "  dead, about " in told
    assert "1 forgotten version in it; 'ventifs stats --exact' measures" in told
    exactly = run(many, "stats", "--exact").stdout.decode()
    assert (
        "of it, 2 blocks that only 1 forgotten version held; 'ventifs reclaim' frees them\n"
        in exactly
    )
    assert "of it, 0 blocks that no version holds\n" in exactly


def test_a_damaged_record_costs_only_the_estimate(many: Path) -> None:
    with Store.open(many / "data/ventifs", "write") as store:
        store.commit([(version_key("bad", 1), b"nothing")])
    facts = parsed(many, "stats")
    assert "dead_estimate" not in facts
    assert facts["records"] == 6
    assert "dead" not in run(many, "stats").stdout.decode()


def test_what_only_one_version_holds(home: Path) -> None:
    facts = parsed(home, "stats", "t")
    assert (facts["paths"], facts["bytes"], facts["only_blocks"]) == (2, 54_000, 2)
    assert 4000 < facts["only_raw_bytes"] < 4500
    assert 0 < facts["only_stored_bytes"] < 5000
    told = run(home, "stats", "t").stdout.decode()
    assert told.startswith("t@2026-01-02T00:00:00Z: 54.0 kB in 2 paths\n")
    assert "held by no other version: 2 blocks, 4." in told
    assert parsed(home, "stats")["records"] == 2
