"""`ventifs reclaim` and `forget --reclaim`, as an administrator meets them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import ventifs
from tests.support.commanding import PATIENCE_S, SCRIPT, copy_of, parsed, run
from tests.support.damage import flip
from tests.support.patience import wait_until
from tests.support.stores import SMALL_ARENA
from tests.support.trees import noise
from ventifs.store import Store
from ventifs.store.files import Files
from ventifs.store.header import read_header, write_header
from ventifs.store.reclaim.condemned import ANNOUNCEMENT

FILE = 200_000
PLANNED = {*ventifs.ReclaimPlan.__struct_fields__}
PRINTED = {
    *("grace", "max_unused", "max_repack", "plan", "dry_run", "forgotten"),
    *("arenas", "freed_bytes", "copied_bytes", "left", "in_use", "seconds"),
}


def _tree(root: Path, seed: int, count: int) -> Path:
    root.mkdir()
    for number in range(count):
        (root / f"{number}").write_bytes(noise(FILE, 1000 * seed + number))
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store `s` of small arenas: `gone` and `kept` share nothing, `thin` loses every other file.

    Their trees are beside it, as they were last.
    """
    home = tmp_path_factory.mktemp("made")
    ventifs.init(home / "s", arena_size=SMALL_ARENA)
    with ventifs.open(home / "s", "write") as archive:
        for seed, name in enumerate(("gone", "kept", "thin")):
            archive.add(_tree(home / name, seed, 45), name, time_ns=seed)
        for path in sorted((home / "thin").iterdir())[::2]:
            path.unlink()
        archive.add(home / "thin", "thin")
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return copy_of(made, tmp_path)


def _bytes(home: Path) -> int:
    """The space of all arenas."""
    arenas = (home / "s" / "arenas").rglob("*")
    return sum(512 * path.stat().st_blocks for path in arenas if path.is_file())


def _files(root: Path) -> dict[str, bytes]:
    """All files of a store but LMDB's table of readers."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b""
        for path in root.rglob("*")
        if path.name != "lock.mdb"
    }


def _reclaim(home: Path, *words: str, expected: int = 0) -> list[str]:
    """What a reclaim prints, without the length of time."""
    done = run(home, "reclaim", *words, "--store", "s", expected=expected)
    return (done.stdout or done.stderr).decode().splitlines()


def _is_whole(home: Path, *names: str) -> None:
    """The trees come back bit for bit, and a check finds nothing."""
    run(home, "check", "--read-data", "--store", "s")
    with ventifs.open(home / "s") as archive:
        for name in names:
            found = {path.name: path.read_bytes() for path in archive[name].root.iterdir()}
            assert found == {path.name: path.read_bytes() for path in (home / name).iterdir()}


def test_space_comes_back(home: Path) -> None:
    before = _bytes(home)
    run(home, "forget", "gone@latest", "thin@~1", "--force", "--store", "s")
    first, second, third = _reclaim(home)
    assert first == ("2 forgotten versions go for good: forgotten longer ago than the grace of 0")
    assert second.startswith("will free about ")
    assert " that nothing needs (" in second
    assert " repacked (copies " in second
    assert third.startswith("freed ")
    assert third.endswith(" % of the store is unused")
    assert before - _bytes(home) > (45 + 22) * FILE * 0.9
    _is_whole(home, "kept", "thin")
    refused = run(home, "undelete", "gone@latest", "--store", "s", expected=1).stderr
    assert refused == (
        b"ventifs: gone: no version of this name is forgotten; what was reclaimed, or forgotten by "
        b"older programs, which have no 'undelete', cannot come back (store "
        + os.fsencode(home / "s")
        + b")\n"
    )
    [line] = _reclaim(home)
    assert line.startswith("nothing to do: ")
    assert line.endswith("; none is forgotten (the grace is 0)")


def test_a_dry_run_changes_nothing_and_says_what_would_come(home: Path) -> None:
    run(home, "forget", "gone@latest", "thin@~1", "--force", "--store", "s")
    before = _files(home / "s")
    lines = _reclaim(home, "--dry-run")
    planned = parsed(home, "reclaim", "--dry-run", "--store", "s")
    assert _files(home / "s") == before
    assert lines[0].startswith("2 forgotten versions would go for good: ")
    assert lines[1].startswith("would free about ")
    assert [line.partition("@")[0] for line in lines[2:4]] == [
        "would go for good: gone",
        "would go for good: thin",
    ]
    assert lines[4].startswith("a dry run: nothing was changed; ")
    done = parsed(home, "reclaim", "--store", "s")
    same = PLANNED - {"seconds"}
    assert {name: planned["plan"][name] for name in same} == {
        name: done["plan"][name] for name in same
    }
    assert planned["forgotten"] == done["forgotten"]


def test_the_grace_keeps_what_was_forgotten_lately(home: Path) -> None:
    run(home, "forget", "gone@latest", "--force", "--store", "s")
    lines = _reclaim(home, "--grace", "1d12h")
    assert "1 forgotten version is within the grace of 1d12h" in lines[0]
    run(home, "undelete", "gone@latest", "--store", "s")
    _is_whole(home, "gone", "kept", "thin")


def test_json_has_every_figure(home: Path) -> None:
    run(home, "forget", "gone@latest", "--force", "--store", "s")
    options = ("--grace", "1m2d", "--max-unused", "unlimited", "--max-repack", "1MB", "--dry-run")
    facts = parsed(home, "reclaim", *options, "--store", "s")
    assert facts.keys() == PRINTED | {"store"}
    assert facts["plan"].keys() == PLANNED
    assert (facts["grace"], facts["max_unused"], facts["max_repack"]) == ("1m2d", None, 1_000_000)
    assert (facts["plan"]["kept"], facts["plan"]["doomed"], facts["forgotten"]) == (1, 0, [])
    facts = parsed(home, "reclaim", "--max-unused", "2.5%", "--store", "s")
    assert (facts["grace"], facts["max_unused"], facts["max_repack"]) == ("0h", 0.025, None)
    assert (facts["dry_run"], facts["left"], facts["plan"]["versions"]) == (False, [], 3)
    assert facts["arenas"] >= facts["plan"]["dead_arenas"] >= 2
    assert facts["freed_bytes"] > 44 * FILE
    [gone] = facts["forgotten"]
    assert gone.startswith("gone@1970-01-01T00:00:00Z, forgotten ")


@pytest.mark.parametrize("options", [["--max-unused", "unlimited"], ["--max-repack", "0"]])
def test_without_copies_only_what_nothing_needs_is_freed(home: Path, options: list[str]) -> None:
    run(home, "forget", "gone@latest", "thin@~1", "--force", "--store", "s")
    facts = parsed(home, "reclaim", *options, "--store", "s")
    assert (facts["plan"]["repacked_arenas"], facts["copied_bytes"]) == (0, 0)
    assert facts["arenas"] == facts["plan"]["dead_arenas"] > 0
    assert facts["plan"]["unused_bytes"] > 20 * FILE
    _is_whole(home, "kept", "thin")
    facts = parsed(home, "reclaim", "--max-unused", "0", "--store", "s")
    assert (facts["plan"]["doomed"], facts["plan"]["dead_arenas"]) == (0, 0)
    assert facts["arenas"] == facts["plan"]["repacked_arenas"] > 0
    assert facts["copied_bytes"] > 0
    _is_whole(home, "kept", "thin")


def test_a_damaged_arena_is_left_and_named(home: Path) -> None:
    run(home, "forget", "gone@latest", "thin@~1", "--force", "--store", "s")
    live = (home / "thin" / "1").read_bytes()[100_000:100_050]  # noise, which is stored as it is
    arenas = [*(home / "s" / "arenas").rglob("*.arena")]
    [(arena, offset)] = [(path, at) for path in arenas if (at := path.read_bytes().find(live)) >= 0]
    flip(arena, offset)
    lines = _reclaim(home, "--max-unused", "0", expected=3)
    [note] = [line for line in lines if line.startswith("note: ")]
    assert note.startswith(f"note: left: arena {arena.stem}: ")
    assert lines[-1].startswith("freed ")
    assert arena.exists()
    run(home, "check", "--store", "s")
    facts = json.loads(
        run(home, "reclaim", "--max-unused", "0", "--json", "--store", "s", expected=3).stdout
    )
    assert [line.startswith(f"arena {arena.stem}: ") for line in facts["left"]] == [True]


def test_what_is_read_stays_until_that_ends(home: Path) -> None:
    with ventifs.open(home / "s") as archive:
        read = archive["gone"]
        with (read / "0").open() as file:
            first = file.read(1000)
            run(home, "forget", "gone@latest", "--force", "--store", "s")
            lines = _reclaim(home)
            assert lines[0].startswith("1 forgotten version goes for good: ")
            assert lines[1].startswith("no space comes back: ")
            assert lines[2] == (
                "note: 1 version that is gone is still read or served; its space stays until that "
                "ends"
            )
            assert first + file.read() == noise(FILE, 0)
    assert _reclaim(home)[-1].startswith("freed ")
    _is_whole(home, "kept", "thin")


@pytest.mark.parametrize(
    "words", ["reclaim", "reclaim --dry-run", "forget gone@latest --force --reclaim"]
)
def test_a_store_of_an_older_program_is_refused_as_it_is(home: Path, words: str) -> None:
    write_header(home / "s", replace(read_header(home / "s"), read_only_compatible=0), Files())
    before = _files(home / "s")
    [line] = run(home, *words.split(), "--store", "s", expected=1).stderr.splitlines()
    assert line.endswith(b"know nothing of reclaiming; run 'ventifs upgrade' first")
    assert _files(home / "s") == before


def test_there_is_one_at_a_time(home: Path) -> None:
    run(home, "forget", "gone@latest", "--force", "--store", "s")
    with Store.open(home / "s", "reclaim"):
        [line] = _reclaim(home, expected=1)
    assert "another reclaim is running" in line
    run(home, "undelete", "gone@latest", "--store", "s")
    _is_whole(home, "gone", "kept", "thin")


def _age(home: Path) -> None:
    """Make arenas older than those that may be being written."""
    for path in (home / "s" / "arenas").rglob("*.arena"):
        os.utime(path, (0, 0))


def test_a_writer_is_waited_for_as_long_as_is_said(home: Path) -> None:
    run(home, "forget", "gone@latest", "--force", "--store", "s")
    _age(home)
    with Store.open(home / "s", "write"):
        lines = _reclaim(home, "--wait", "0", expected=1)
    assert lines[0].startswith("1 forgotten version goes for good: ")  # it had begun
    run(home, "undelete", "gone@latest", "--store", "s")
    _is_whole(home, "gone", "kept", "thin")


def test_writers_that_come_meanwhile_go_on_and_are_not_waited_for(home: Path) -> None:
    run(home, "forget", "gone@latest", "--force", "--store", "s")
    _age(home)
    with Store.open(home / "s", "write"):
        reclaim = subprocess.Popen(
            [SCRIPT, "reclaim", "--store", "s"],
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        wait_until((home / "s" / ANNOUNCEMENT).exists)
        run(home, "archive", "gone", "--name", "again", "--store", "s")
        assert reclaim.poll() is None
        later = ventifs.open(home / "s", "write")
    with later, reclaim:  # `later` uses the other gate
        out, err = reclaim.communicate(timeout=PATIENCE_S)
        assert reclaim.returncode == 0, err
        assert out.splitlines()[-1].startswith(b"freed ")
    (home / "gone").rename(home / "again")
    _is_whole(home, "kept", "thin", "again")


SIGNALLED = """
import signal
from ventifs.cli.main import main
from ventifs.cli.upkeep.reclaim_report import ReclaimReport
call = getattr(ReclaimReport, STEP)
def signalling(*arguments):
    call(*arguments)
    signal.raise_signal(signal.SIGINT)
setattr(ReclaimReport, STEP, signalling)
main()
"""


@pytest.mark.parametrize("step", ["marking", "planned", "copying", "freed"])
@pytest.mark.parametrize("forgetting", [True, False])
def test_an_interrupted_reclaim_loses_nothing_and_goes_on(
    home: Path, step: str, forgetting: bool
) -> None:
    doomed = ["gone@latest", "thin@~1", "--force"]
    words = ["forget", *doomed, "--reclaim"] if forgetting else ["reclaim"]
    goes_on = "the versions are forgotten, and 'ventifs reclaim' goes on"
    if not forgetting:
        run(home, "forget", *doomed, "--store", "s")
        goes_on = "run it again to go on"
    if step == "copying":
        goes_on = f"what was copied takes space twice until the next reclaim; {goes_on}"
    done = subprocess.run(
        [sys.executable, "-c", f"STEP = {step!r}" + SIGNALLED, *words, "--store", "s"],
        cwd=home,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 130
    assert done.stderr.decode() == (
        f"ventifs: interrupted; nothing committed was lost; {goes_on}\n"
    )
    _is_whole(home, "kept", "thin")
    if step != "freed":  # the versions went when the arenas were dropped
        run(home, "undelete", "gone@latest", "--store", "s")
        _is_whole(home, "gone", "kept", "thin")
        run(home, "forget", "gone@latest", "--force", "--store", "s")
    before = _bytes(home)
    run(home, "reclaim", "--store", "s")
    if step != "freed":
        assert before - _bytes(home) > 45 * FILE * 0.9
    _is_whole(home, "kept", "thin")
    assert parsed(home, "versions", "--forgotten", "--store", "s") == []


def test_forget_reclaims_what_was_forgotten_before_too(home: Path) -> None:
    before = _bytes(home)
    run(home, "forget", "gone@latest", "--force", "--store", "s")
    words = ["forget", "thin", "--keep-last", "1", "--reclaim"]
    dry = run(home, *words, "--dry-run", "--store", "s").stdout.decode().splitlines()
    assert dry[-1] == (
        "then space would be reclaimed, also of 1 version that was forgotten before; how much is "
        "known only when they are forgotten: 'ventifs reclaim --dry-run' says it then"
    )
    assert parsed(home, *words, "--dry-run", "--store", "s")["reclaim"] is None
    lines = run(home, *words, "--store", "s").stdout.decode().splitlines()
    at = lines.index("1 kept, 1 version forgotten")
    assert lines[at + 1 : at + 3] == [
        "space is reclaimed, also of 1 version that was forgotten before",
        "2 forgotten versions go for good: forgotten longer ago than the grace of 0",
    ]
    assert lines[-1].startswith("freed ")
    assert before - _bytes(home) > (45 + 22) * FILE * 0.9
    _is_whole(home, "kept", "thin")


def test_forget_with_reclaim_prints_one_object(home: Path) -> None:
    words = ["forget", "gone@latest", "--force", "--reclaim", "--store", "s"]
    facts = parsed(home, *words)
    assert [each["name"] for each in facts["forgotten"]] == ["gone"]
    assert facts["reclaim"].keys() == PRINTED
    assert facts["reclaim"]["arenas"] >= 2


def test_what_was_forgotten_is_printed_though_the_reclaim_failed(home: Path) -> None:
    words = ["forget", "gone@latest", "--force", "--reclaim", "--store", "s"]
    with Store.open(home / "s", "reclaim"):
        done = run(home, *words, "--json", expected=1)
        facts: dict[str, Any] = json.loads(done.stdout)
        assert ([each["name"] for each in facts["forgotten"]], facts["reclaim"]) == (["gone"], None)
        assert b"another reclaim is running" in done.stderr
        run(home, "undelete", "gone@latest", "--store", "s")
        done = run(home, *words, expected=1)
        assert done.stdout.startswith(b"forgot gone@1970")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-unused", "101%"], "'101%' is more than all; give at most 100%"),
        (["--max-unused", "-1"], "'-1' is no limit; write it like 5%, 10GiB or unlimited"),
        (["--max-unused", "5.%"], "'5.%' is no limit"),
        (["--max-repack", "5%"], "'5%' is not a size"),
        (["--grace", "30"], "'30' is not a length of time; write it like 30d"),
        (["--wait", "-1"], "-1"),
    ],
)
def test_wrong_usage(tmp_path: Path, options: list[str], message: str) -> None:
    told = run(tmp_path, "reclaim", *options, expected=2).stderr.decode()
    assert message in told
