"""`ventifs archive`: what it leaves out, predicts, prints and refuses."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commanding import PATIENCE_S, SCRIPT, parsed, run
from tests.support.roots import mounted
from tests.support.stores import findings
from tests.support.trees import noise, plain_tree, remove
from tests.support.walker import same

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
CACHE_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# a cache\n"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A store at `s`, a small tree at `tree`."""
    plain_tree(tmp_path / "tree")
    run(tmp_path, "init", "--store", "s")
    yield tmp_path
    remove(tmp_path / "tree")


def archive(home: Path, *words: str | Path, source: str = "tree") -> Any:
    return parsed(home, "archive", source, "--name", "t", "--store", "s", *words)


def paths(home: Path, version: str = "t") -> set[str]:
    return {fact["path"] for fact in parsed(home, "ls", "-R", version, "--store", "s")}


def contents(root: Path) -> dict[Path, bytes]:
    """All that a store holds; LMDB's table of readers is none of it."""
    return {
        path: path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "lock.mdb"
    }


def score_without(home: Path, *gone: str) -> str:
    """The score of the tree once some of it is removed and its directories' times are put back."""
    kept: dict[Path, int] = {}
    for path in gone:
        parent = (home / "tree" / path).parent
        kept.setdefault(parent, parent.stat().st_mtime_ns)
        remove(home / "tree" / path)
    for parent, mtime_ns in kept.items():
        if parent.exists():
            os.utime(parent, ns=(0, mtime_ns))
    done = parsed(home, "archive", "tree", "--name", "without", "--store", "s")
    return str(done["score"])


# --- what is left out -------------------------------------------------------------------------


def test_what_patterns_mean_is_as_if_it_were_not_there(home: Path) -> None:
    for path in ("var/tmp", "var/log", "srv/tmp"):
        (home / "tree" / path).mkdir(parents=True)
        (home / "tree" / path / "file.o").write_bytes(noise(100))
        (home / "tree" / path / "keep.o").write_bytes(noise(101))
    (home / "tree" / "tmp").write_bytes(b"a file")
    (home / "patterns").write_bytes(b"# objects\n*.o\n!keep.o\n\nvar/log/\n")
    for words in (["--jobs", "1"], ["--jobs", "2"], ["--jobs", "2", "--no-cache"]):
        done = archive(home, "--exclude-from", "patterns", "--exclude", "tmp/", *words)
        left = paths(home)
        assert {"var", "srv", "tmp"} <= left
        assert not {"var/tmp", "srv/tmp", "var/log", "var/tmp/keep.o", "var/log/keep.o"} & left
    assert done["score"] == score_without(home, "var/tmp", "srv/tmp", "var/log")


def test_options_have_the_last_word_over_files(home: Path) -> None:
    (home / "patterns").write_bytes(b"size*\n")
    archive(home, "--exclude-from", "patterns", "--exclude", "!size33")
    assert {path for path in paths(home) if path.startswith("size")} == {"size33"}


def test_names_that_are_not_text_can_be_left_out(home: Path) -> None:
    words = [b"--exclude=\xff*", b"--exclude=new\nline", b"--exclude=/links"]
    run(home, "archive", "tree", "--name", "t", "--store", "s", *words)
    left = paths(home)
    assert not {path for path in left if "\udcff" in path or "\\xff" in path or "new" in path}
    assert not {path for path in left if path.startswith("links")}


def test_another_set_of_patterns_is_no_change_that_the_cache_hides(home: Path) -> None:
    whole = archive(home)
    part = archive(home, "--exclude", "in/")
    assert part["entries"] == whole["entries"] - 2
    assert not {path for path in paths(home) if path.startswith("links/in")}
    again = archive(home)
    assert (again["score"], again["entries"]) == (whole["score"], whole["entries"])
    assert archive(home, "--exclude", "in/")["score"] == part["score"]


def test_the_root_itself_cannot_be_left_out(home: Path) -> None:
    assert archive(home, "--exclude", "*", "--exclude", "/")["entries"] == 1
    assert paths(home) == set()


def test_caches_are_left_out_but_for_their_tags(home: Path) -> None:
    for name, tag in [
        ("cache", CACHE_TAG),
        ("no-cache", b"Signature: something else"),
        ("inside/cache", CACHE_TAG),
    ]:
        (home / "tree" / name / "below").mkdir(parents=True)
        (home / "tree" / name / "below" / "file").write_bytes(noise(100))
        (home / "tree" / name / "file").write_bytes(noise(100))
        (home / "tree" / name / "CACHEDIR.TAG").write_bytes(tag)
    (home / "tree" / "linked").mkdir()
    (home / "tree" / "linked" / "CACHEDIR.TAG").symlink_to("../cache/CACHEDIR.TAG")
    (home / "tree" / "linked" / "file").write_bytes(b"kept")
    for jobs in ("1", "2"):
        done = archive(home, "--exclude-caches", "--jobs", jobs)
        left = paths(home)
        assert {"cache/CACHEDIR.TAG", "inside/cache/CACHEDIR.TAG", "linked/file"} <= left
        assert {"no-cache/file", "no-cache/below/file"} <= left
        assert not {"cache/file", "cache/below", "inside/cache/below"} & left
    assert "cache/below/file" in paths_after(home)
    gone = ["cache/file", "cache/below", "inside/cache/file", "inside/cache/below"]
    assert done["score"] == score_without(home, *gone)


def paths_after(home: Path, *words: str) -> set[str]:
    archive(home, *words)
    return paths(home)


@as_root
def test_what_is_mounted_below_is_left_out_but_for_its_place(home: Path) -> None:
    (home / "tree" / "disk").mkdir()
    with mounted(home / "tree" / "mnt", "-t", "tmpfs", "none"):
        (home / "tree" / "mnt" / "file").write_bytes(b"there")
        for jobs in ("1", "2"):
            assert "mnt/file" in paths_after(home, "--jobs", jobs)
            left = paths_after(home, "--one-file-system", "--jobs", jobs)
            assert "mnt" in left
            assert "mnt/file" not in left
        assert "mnt/file" in paths_after(home)


# --- a rehearsal ------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--exclude", "size*"], ["--no-cache"], ["--jobs", "2"]])
def test_a_rehearsal_predicts_and_leaves_the_store_as_it_was(home: Path, words: list[str]) -> None:
    for number in range(3):
        before = contents(home / "s")
        told = archive(home, "--dry-run", "--time", f"2026-01-0{number + 1}", *words)
        assert contents(home / "s") == before
        done = archive(home, "--jobs", "1", "--time", f"2026-01-0{number + 1}", *words[:2])
        for fact in ("score", "entries", "bytes", "paths", "new_bytes", "name", "time"):
            assert told[fact] == done[fact], fact
        assert (told["dry_run"], done["dry_run"]) == (True, False)
        (home / "tree" / f"new{number}").write_bytes(noise(200_000, number))
        (home / "tree" / "links" / "b").write_bytes(noise(50_000, number))


def test_a_rehearsal_says_so(home: Path) -> None:
    words = ["archive", "tree", "--name", "t", "--store", "s", "--dry-run"]
    first, second = run(home, *words).stdout.decode().splitlines()
    assert first.startswith("would be t@20")
    assert re.fullmatch(r"\d+ entries, [\d.]+ MB, [\d.]+ [kM]B new, in \d+\.\d\d s", second)
    assert parsed(home, "versions", "--store", "s") == []


def test_a_rehearsal_makes_no_store(tmp_path: Path) -> None:
    plain_tree(tmp_path / "tree")
    failed = run(tmp_path, "archive", "tree", "--name", "t", "--dry-run", expected=1)
    assert b"ventifs init" in failed.stderr
    assert os.listdir(tmp_path) == ["tree"]


# --- what is printed and kept -----------------------------------------------------------------


def test_it_prints_what_it_did(home: Path) -> None:
    out = run(home, "archive", "tree", "--name", "t", "--store", "s").stdout.decode()
    first, second = out.splitlines()
    [version] = parsed(home, "versions", "--store", "s")
    assert first == f"t@{version['time']}  score:{version['score']}"
    assert re.fullmatch(
        r"\d+ entries, [\d.]+ MB, [\d.]+ MB new, [\d.]+ [kM]B stored, in \d+\.\d\d s", second
    ) or re.fullmatch(
        r"\d+ entries, [\d.]+ MB, [\d.]+ kB new, [\d.]+ kB stored, in \d+\.\d\d s", second
    )
    assert second.startswith(f"{version['paths'] + 1} entries, ")


def test_what_is_said_of_a_version_is_kept(home: Path) -> None:
    done = archive(
        home,
        "--time",
        "2026-03-01T12:30:00+02:00",
        "--comment",
        "nightly \N{SNOWMAN}",
        "--tag",
        "b",
        "--tag",
        "a",
    )
    [kept] = parsed(home, "versions", "--store", "s")
    assert done["time"] == kept["time"] == "2026-03-01T10:30:00Z"
    assert done["comment"] == kept["comment"] == "nightly \N{SNOWMAN}"
    assert done["tags"] == kept["tags"] == ["b", "a"]
    assert kept["source"] == str(home / "tree")
    assert done["stored_bytes"] > 0
    assert done["entries"] == done["paths"] + 1
    assert (kept.pop("held"), kept.pop("held_until")) == (False, None)  # said by the catalog
    assert {name: done[name] for name in kept} == kept


@pytest.mark.parametrize("jobs", ["1", "2", "5"])
def test_any_number_of_jobs(home: Path, jobs: str) -> None:
    done = archive(home, "--jobs", jobs)
    assert done["score"] == archive(home, "--jobs", "1", "--no-cache")["score"]
    run(home, "restore", "t", "back", "--store", "s")
    same(home / "tree", home / "back")
    assert findings(home / "s") == []


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("archive tree --name t --exclude [a", 1, "'[a' is not a gitignore pattern"),
        ("archive tree --name t --exclude-from bad", 1, "'[a' is not a gitignore pattern"),
        ("archive tree --name t --exclude-from missing", 2, "missing"),
        ("archive tree --name t --jobs 0", 2, "--jobs"),
        ("archive tree --name t --jobs x", 2, "--jobs"),
        ("archive tree", 2, "--name"),
        ("archive --name t", 2, "SOURCE"),
        ("archive nothing --name t", 1, "nothing: no such file or directory"),
        ("archive tree/nothing/below --name t", 1, "tree/nothing/below: no such"),
        ("archive tree/fifo-like --name t", 1, "tree/fifo-like"),
        ("archive /dev/null --name t", 1, "/dev/null: neither a directory, nor a tar, nor a disk"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(home: Path, words: str, code: int, told: str) -> None:
    (home / "bad").write_bytes(b"*.o\n[a\n")
    failed = run(home, *words.split(), "--store", "s", expected=code)
    assert told in failed.stderr.decode()
    assert failed.stdout == b""
    if code == 1:
        [_] = failed.stderr.splitlines()
    assert parsed(home, "versions", "--store", "s") == []


@pytest.mark.parametrize("words", [["--comment", "two\nlines"], ["--tag", "a\tb"]])
def test_a_comment_is_one_line(home: Path, words: list[str]) -> None:
    failed = run(home, "archive", "tree", "--name", "t", "--store", "s", *words, expected=1)
    assert b"one line" in failed.stderr
    assert parsed(home, "versions", "--store", "s") == []


# --- what cannot be read ----------------------------------------------------------------------


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_cannot_be_read_gives_exit_code_3(home: Path, jobs: str) -> None:
    (home / "half" / "closed").mkdir(parents=True)
    (home / "half" / "open").write_bytes(b"open")
    for number in range(25):
        (home / "half" / f"closed{number:02}").write_bytes(noise(1000))
        (home / "half" / f"closed{number:02}").chmod(0)
    (home / "half" / "closed").chmod(0)
    powerless = []
    if os.geteuid() == 0:
        powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    done = subprocess.run(
        [*powerless, SCRIPT, "archive", "half", "--name", "t", "--store", "s", "--jobs", jobs],
        cwd=home,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    (home / "half" / "closed").chmod(0o700)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 3, lines
    assert len(done.stdout.splitlines()) == 2
    more = r"\.\.\. and 6 more; 'ventifs versions t@\S+ --troubles' lists all"
    assert re.fullmatch(more, lines[-1])
    assert len(lines) == 21
    assert {line.partition(": ")[2] for line in lines[:-1]} <= {
        "not archived: permission denied",
        "archived, but: directory cannot be read: permission denied",
    }
    assert paths(home) == {"closed", "open"}
    [version] = parsed(home, "versions", "--store", "s")
    assert len(version["troubles"]) == 26
    assert findings(home / "s") == []


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_higher_level_stores_less_and_the_same(home: Path, jobs: str) -> None:
    words = [b"word%d" % (number * number) for number in range(40_000)]
    (home / "tree" / "text").write_bytes(b" ".join(words))
    facts = []
    for level in ("1", "19"):
        run(home, "init", "--store", home / f"level{level}")
        facts.append(
            archive(home, "--level", level, "--jobs", jobs, "--store", str(home / f"level{level}"))
        )
    assert facts[0]["score"] == facts[1]["score"]
    assert facts[1]["stored_bytes"] < facts[0]["stored_bytes"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--comment", "x" * 120_000], b"a comment may have 4,096 bytes, this one has 120,000"),
        (["--tag", "x" * 257], b"a tag may have 256 bytes, this one has 257"),
        ([word for number in range(65) for word in ("--tag", str(number))], b"may have 64 tags"),
    ],
)
def test_long_notes_are_refused_before_a_store_is_made(
    tmp_path: Path, words: list[str], message: bytes
) -> None:
    told = run(tmp_path, "archive", "nothing", "--name", "t", *words, expected=1).stderr
    assert message in told
    assert list(tmp_path.iterdir()) == []
