"""`versions`, `log` and `forget`: what they print, refuse, and leave behind."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support.commanding import copy_of, parsed, run
from tests.support.tars import member
from ventifs.store import Store
from ventifs.tree.objects.prolly import Builder
from ventifs.tree.objects.records import Hole, Tree, encode_item
from ventifs.tree.versions.catalog import encode_version, find_version, version_key

TIMES = ["2025-12-31", "2026-01-01", "2026-01-01T12", "2026-01-02", "2026-02-02"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five versions of `t` and one of `u`; `file` grows from time to time."""
    tmp_path = tmp_path_factory.mktemp("made")
    (tmp_path / "tree").mkdir()
    run(tmp_path, "init")
    for number, time in enumerate(TIMES):
        (tmp_path / "tree" / "file").write_text("x" * (number // 2 + 1))
        os.utime(tmp_path / "tree" / "file", (0, 0))
        run(
            tmp_path,
            "archive",
            "tree",
            "--name",
            "t",
            "--time",
            time,
            "--tag",
            f"n{number % 2}",
            "--tag",
            "all",
        )
    (tmp_path / "tree" / "file").unlink()
    run(tmp_path, "archive", "tree", "--name", "u", "--time", "2026-01-01")
    return tmp_path


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return copy_of(made, tmp_path)


def times(home: Path, *words: str) -> list[str]:
    return [version["time"] for version in parsed(home, "versions", *words)]


def test_versions_are_chosen_by_tag_and_by_score(home: Path) -> None:
    assert len(times(home)) == 6
    assert times(home, "--tag", "n1") == ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]
    assert times(home, "t", "--tag", "all", "--tag", "n0") == [
        "2025-12-31T00:00:00Z",
        "2026-01-01T12:00:00Z",
        "2026-02-02T00:00:00Z",
    ]
    assert times(home, "--tag", "none") == []
    [only] = parsed(home, "versions", "u")
    assert parsed(home, "versions", f"score:{only['score'][:8]}") == [only]


def test_the_log_of_a_path(home: Path) -> None:
    lines = run(home, "log", "t:/file").stdout.decode().splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["M", "2026-02-02T00:00:00Z", "3", "B"],
        ["M", "2026-01-01T12:00:00Z", "2", "B"],
        ["+", "2025-12-31T00:00:00Z", "1", "B"],
    ]
    facts = parsed(home, "log", "t@2026-01-01T12:/file")
    assert facts[0]["version"] == "t@2026-01-01T12:00:00Z"
    assert (facts[-1]["change"], facts[-1]["size"], len(facts[-1]["score"])) == ("added", 1, 64)
    missing = run(home, "log", "t:/fiel", expected=1).stderr
    assert b"t: no version has /fiel; in t@2026-02-02T00:00:00Z there is /file" in missing


def test_a_policy_thins_one_name_or_all(home: Path) -> None:
    before = times(home)
    words = ("forget", "t", "--keep-daily", "2", "--keep-yearly", "2", "--timezone", "UTC")
    told = run(home, *words, "--dry-run").stdout.decode().splitlines()
    assert told == [
        "the days are those of UTC; versions are named by UTC",
        "would keep t@2025-12-31T00:00:00Z  (yearly 2025)",
        "would keep t@2026-01-02T00:00:00Z  (daily 2026-01-02)",
        "would keep t@2026-02-02T00:00:00Z  (daily 2026-02-02, yearly 2026)",
        "would forget t@2026-01-01T00:00:00Z  (no rule keeps it)",
        "would forget t@2026-01-01T12:00:00Z  (no rule keeps it)",
        "a dry run: 3 kept, 2 versions forgotten if this were done",
    ]
    assert times(home) == before
    facts = parsed(home, *words)
    assert [len(facts["kept"]), len(facts["forgotten"])] == [3, 2]
    assert facts["kept"][0]["reasons"] == ["yearly 2025"]
    assert facts["forgotten"][0]["reasons"] == ["no rule keeps it"]
    assert (facts["timezone"], facts["dry_run"]) == ("UTC", False)
    run(home, "rebuild-index")
    left = [time for time in before if not time.startswith("2026-01-01")]
    assert times(home, "t") == left
    done = run(home, "forget", "--keep-last", "1").stdout.decode()
    assert done.splitlines()[-1] == "2 kept, 2 versions forgotten"
    run(home, "rebuild-index")
    assert times(home) == ["2026-02-02T00:00:00Z", "2026-01-01T00:00:00Z"]
    assert b"0 versions forgotten" in run(home, "forget", "--keep-weekly", "9").stdout


def test_named_versions_are_forgotten(home: Path) -> None:
    facts = parsed(home, "forget", "t@~0", "t@2025")
    assert [fact["time"] for fact in facts["forgotten"]] == [
        "2026-02-02T00:00:00Z",
        "2025-12-31T00:00:00Z",
    ]
    assert [fact["reasons"] for fact in facts["forgotten"]] == [["named"]] * 2
    assert "timezone" not in facts
    assert len(facts["kept"]) == 3
    assert b"--force" in run(home, "forget", "u@latest", expected=1).stderr
    assert len(times(home)) == 4


@pytest.mark.parametrize(
    ("zone", "called"), [("Europe/Berlin", "Europe/Berlin"), ("+0100", "+01:00"), ("", "TST-1")]
)
def test_days_are_those_of_a_zone(
    home: Path, zone: str, called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(home, "archive", "tree", "--name", "t", "--time", "2026-02-01T23:30Z")
    monkeypatch.setenv("TZ", "TST-1")
    words = ["forget", "t", "--keep-within", "1h", "--keep-daily", "1", "--keep-tag", "n1"]
    words += ["--timezone", zone] if zone else []
    told = run(home, *words, "--dry-run").stdout.decode().splitlines()
    assert told[0] == f"the days are those of {called}; versions are named by UTC"
    assert told[3:5] == [
        "would keep t@2026-02-01T23:30:00Z  2026-02-02 00:30:00+01:00  (within 1h)",
        "would keep t@2026-02-02T00:00:00Z  2026-02-02 01:00:00+01:00  "
        "(within 1h, daily 2026-02-02)",
    ]
    facts = parsed(home, *words)
    assert facts["timezone"] == called
    assert facts["kept"][0]["local_time"] == "2026-01-01T01:00:00+01:00"
    assert facts["kept"][0]["reasons"] == ["tag n1"]
    assert len(times(home, "t")) == 4


def test_a_zone_that_the_machine_does_not_have_is_not_taken_for_utc(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berln")
    refused = run(home, "forget", "t", "--keep-daily", "1", expected=1).stderr
    assert b"TZ=Europe/Berln: this machine knows no such time zone" in refused
    assert len(times(home)) == 6
    run(home, "forget", "t", "--keep-daily", "1", "--timezone", "UTC")


def test_a_held_version_is_kept_by_every_rule(home: Path) -> None:
    run(home, "hold", "t@2026-01-01T12")
    facts = parsed(home, "forget", "t", "--keep-last", "1")
    assert [(fact["time"], fact["reasons"]) for fact in facts["kept"]] == [
        ("2026-01-01T12:00:00Z", ["held"]),
        ("2026-02-02T00:00:00Z", ["last 1"]),
    ]


def test_a_version_with_troubles_does_not_take_the_place_of_a_whole_one(home: Path) -> None:
    stream = member("odd", kind=b"Q") + bytes(1024)
    (home / "odd.tar").write_bytes(stream)
    archive = ("archive", "odd.tar", "--name", "t", "--time", "2026-02-02T01", "--tag", "n0")
    run(home, *archive, expected=3)
    kept = parsed(home, "forget", "t", "--keep-daily", "1", "--timezone", "UTC")["kept"]
    assert [fact["time"] for fact in kept] == ["2026-02-02T00:00:00Z"]


def test_a_version_of_the_future_is_shown_and_kept_until_it_is_named(home: Path) -> None:
    late = "t@2500-01-01T00:00:00Z"
    made = run(home, "archive", "tree", "--name", "t", "--time", "2500-01-01")
    assert made.stderr.startswith(late.encode() + b": in the future by this machine's clock")
    for words in ("t", "t --dry-run", "t --json"):
        again = run(home, "archive", "tree", "--name", *words.split())
        assert len(again.stderr.splitlines()) == 1
        assert again.stderr.startswith(late.encode() + b": in the future by this machine's clock")
    assert run(home, "archive", "tree", "--name", "u").stderr == b""
    lines = run(home, "versions", "t").stdout.decode().splitlines()
    assert [line for line in lines if "in the future" in line] == [
        line for line in lines if line.startswith(late)
    ]
    facts = parsed(home, "versions", "t")
    assert [fact["in_future"] for fact in facts] == [False] * (len(facts) - 1) + [True]
    assert parsed(home, "versions", "t@latest") == [facts[-2]]
    assert parsed(home, "versions", "t@~1") == [facts[-3]]
    assert parsed(home, "log", "t:/")[0]["version"] < late
    kept = parsed(home, "forget", "--keep-last", "1")["kept"]
    assert [fact["reasons"] for fact in kept] == [["last 1"], ["in the future"], ["last 1"]]
    only = parsed(home, "forget", "t", "--keep-tag", "none", "--keep-last", "1")["kept"]
    assert len(only) == 2
    refused = run(home, "forget", "t", "--keep-tag", "none", expected=1).stderr
    assert b"t: no rule keeps any of its versions" in refused
    assert f"forgot {late}" in run(home, "forget", late).stdout.decode()
    assert run(home, "archive", "tree", "--name", "t").stderr == b""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("", 2, "name the versions to forget"),
        (
            "t",
            2,
            "'ventifs forget t@latest' forgets the latest, and 'ventifs forget t --keep-last 1'",
        ),
        ("t@~1 u", 2, "'ventifs forget u@latest'"),
        ("t --force", 2, "t names all its versions"),
        ("t --dry-run", 2, "t names all its versions"),
        ("nothing", 2, "nothing names all its versions"),
        ("t@~1 --keep-last 2", 2, "t@~1 is a version"),
        ("score:12345678 --keep-last 2", 2, "is a version"),
        ("t --keep-last 0", 2, "would keep nothing"),
        ("t --keep-last 0 --keep-daily 0", 2, "would keep nothing"),
        ("t --keep-last -1", 2, "--keep-last"),
        ("tt --keep-last 1", 1, "did you mean t"),
        ("t --keep-within 0d", 2, "would keep nothing"),
        ("t --keep-within 1s", 1, "'1s' is not a length of time; write it like 30d"),
        ("t --keep-within ", 1, "is not a length of time"),
        ("t --keep-last 1 --timezone Nowhere/Town", 1, "'Nowhere/Town': this machine knows no"),
        ("t@~1 --timezone UTC", 2, "--timezone is for --keep-..."),
        ("t --keep-tag n7", 1, "t: no rule keeps any of its versions"),
        ("--keep-tag n1", 1, "u: no rule keeps any of its versions"),
    ],
)
def test_what_makes_no_sense_is_refused(home: Path, words: str, code: int, message: str) -> None:
    assert (
        message
        in run(home, "forget", *(words.split(" ") if words else ()), expected=code).stderr.decode()
    )
    assert len(times(home)) == 6


def test_all_troubles_are_listed_and_copied(tmp_path: Path) -> None:
    """More than a record lists: of a tar, for nothing of it depends on the user."""
    for name in ("store", "copy"):
        run(tmp_path, "init", "--store", name)
    stream = b"".join(member(f"{number:03}", kind=b"Q") for number in range(450)) + bytes(1024)
    (tmp_path / "odd.tar").write_bytes(stream)
    run(tmp_path, "archive", "odd.tar", "--name", "odd", "--store", "store", expected=3)
    run(tmp_path, "copy", "odd", "--to", "copy", "--store", "store")
    run(tmp_path, "rebuild-index", "--store", "copy")
    for store in ("store", "copy"):
        lines = run(tmp_path, "versions", "odd", "--troubles", "--store", store).stdout.splitlines()
        assert len(lines) == 451
        assert lines[0].endswith(b"450 troubles")
        assert lines[-1] == b"  449: not archived: a member of the unknown type b'Q'"
        [few] = parsed(tmp_path, "versions", "odd", "--store", store)
        assert (len(few["troubles"]), few["troubles_more"]) == (200, 250)
        [every] = parsed(tmp_path, "versions", "odd", "--troubles", "--store", store)
        assert (len(every["troubles"]), every["troubles_more"]) == (450, 0)
        run(tmp_path, "check", "--store", store)
    only = parsed(tmp_path, "stats", "odd", "--store", "store")
    assert only["only_blocks"] == 1  # of troubles: the tree is empty


def test_a_forged_list_of_troubles_ends_no_command_with_a_traceback(home: Path) -> None:
    """A hole of a petabyte where troubles should be: a version is no more trusted than a tar."""
    run(home, "init", "--store", "other")
    with Store.open(home / "data/ventifs", "write") as store:
        builder = Builder(lambda node: store.put(node, node=True)[0])
        builder.add(encode_item(Hole(1 << 50)), length=1 << 50)
        forged = replace(
            find_version(store, "u"),
            time_ns=7,
            name="forged",
            troubles_more=3,
            beyond=Tree(builder.finish(), builder.total),
        )
        store.commit([(version_key("forged", 7), encode_version(forged))])
    reason = "a list of troubles has a hole"
    for words in (
        "versions forged --troubles",
        "versions forged --troubles --json",
        "copy forged --to other",
    ):
        refused = run(home, *words.split(), expected=1).stderr.decode()
        assert reason in refused, words
        assert len(refused.splitlines()) == 1
    assert parsed(home, "versions", "--store", "other") == []
    checked = run(home, "check", expected=1)
    assert f"harmed: forged@1970-01-01T00:00:00.000000007Z:/: its list of troubles: {reason}" in (
        checked.stdout.decode()
    )
    assert checked.stderr == b""
    for words in ("versions", "versions --json", "stats", "stats forged", "stats u", "ls forged"):
        assert run(home, *words.split()).stderr == b""
