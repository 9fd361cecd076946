"""The installed command on a real tree: output, exit codes, one line for every failure."""

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tests.support import forked
from tests.support.damage import flip
from tests.support.forked import SCRIPT
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.trees import noise, plain_tree, remove
from tests.support.walker import same
from ventifs.cli.main import main
from ventifs.cli.program import COMMANDS, ventifs
from ventifs.text import printable


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Where the user's data is; a small tree is at `tree`."""
    plain_tree(tmp_path / "tree")
    yield tmp_path
    remove(tmp_path / "tree")


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "VENTIFS_STORE"}
    return {**kept, "XDG_DATA_HOME": str(home / "data"), **more}


def run(
    home: Path, *words: str | Path, expected: int = 0, **more: str
) -> "subprocess.CompletedProcess[bytes]":
    done = forked.run(words, env=environment(home, **more), cwd=home, timeout_s=PATIENCE_S)
    assert done.returncode == expected, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


def parsed(home: Path, *words: str | Path) -> Any:
    return json.loads(run(home, *words, "--json").stdout)


@pytest.fixture
def store(home: Path) -> Path:
    """The default store, with two versions of the tree."""
    run(home, "archive", "tree", "--name", "t", "--time", "2026-01-01", "--comment", "first")
    run(home, "archive", "tree", "--name", "t", "--time", "2026-02-01T06:00Z", "--tag", "x")
    return home / "data" / "ventifs"


# --- help -------------------------------------------------------------------------------------


ELSEWHERE = {"mount", "9p", "servers"}  # commands that work on a server, and so on no store


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_one_short_line(name: str) -> None:
    context = click.Context(ventifs)
    command = ventifs.get_command(context, name)
    assert command is not None
    assert command.name == name
    assert command.short_help == command.get_short_help_str(200) == COMMANDS[name][2]
    text = command.get_help(click.Context(command, info_name=name))
    assert "Usage: " in text
    assert ("--store" in text) == (name not in ELSEWHERE)


def test_the_command_lists_its_commands(tmp_path: Path) -> None:
    text = run(tmp_path, "--help").stdout.decode()
    for name, (_, _, line) in COMMANDS.items():
        assert f"\n  {name} " in text
        assert line in text
    assert run(tmp_path, "archive", "-h").stdout.startswith(b"Usage: ventifs archive")
    assert b"ventifs" in run(tmp_path, "--version").stdout
    assert b"No such command 'nothing'" in run(tmp_path, "nothing", expected=2).stderr


# --- what they do -----------------------------------------------------------------------------


def test_a_tree_goes_in_and_comes_back(home: Path) -> None:
    assert run(home, "init", "--store", "s").stdout.decode() == (
        f"made an empty store at {home}/s\n"
    )
    out = run(home, "archive", "tree", "--name", "t", "--store", "s").stdout.decode()
    assert out.startswith("t@20")
    assert "score:" in out
    run(home, "restore", "t", "back", "--store", "s")
    same(home / "tree", home / "back")
    score = parsed(home, "versions", "--store", "s")[0]["score"]
    run(home, "restore", f"score:{score}:/links", "part", "--store", "s")
    same(home / "tree" / "links", home / "part")


def test_versions_are_listed(home: Path, store: Path) -> None:
    lines = run(home, "versions").stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == [
        "t@2026-01-01T00:00:00Z",
        "t@2026-02-01T06:00:00Z",
    ]
    assert lines[0].endswith("first")
    assert lines[1].endswith("#x")
    first, second = parsed(home, "versions", "t")
    assert (first["comment"], second["tags"], second["new_bytes"]) == ("first", ["x"], 0)
    assert first["score"] == second["score"]
    assert parsed(home, "versions", "--store", store)[0] == first


def test_directories_are_listed(home: Path, store: Path) -> None:
    assert run(home, "ls", "t:/links").stdout == b"b\nc\nin\n"
    assert run(home, "ls", "-R", "t@2026-01:/links").stdout == b"b\nc\nin\nin/a\n"
    assert run(home, "ls", "t@~1:/links/b").stdout == b"links/b\n"
    long = run(home, "ls", "-l", "t").stdout.decode()
    assert "-rwsr-xr-x" in long
    assert "dangling -> no/where\n" in long
    assert "new\\nline\n" in long
    facts = {fact["path"]: fact for fact in parsed(home, "ls", "t")}
    assert facts["sparse"]["size"] == 8 << 20
    assert facts["absolute"]["target"] == "/etc/passwd"
    assert facts["links"]["paths"] == 4
    assert len(facts) == len(os.listdir(home / "tree"))


def test_files_are_printed(home: Path, store: Path) -> None:
    for name in ("size0", "size32", "size300000", "sparse", "zeros", "links/b"):
        assert run(home, "cat", f"t:/{name}").stdout == (home / "tree" / name).read_bytes()


def test_a_directory_is_summed_up(home: Path, store: Path) -> None:
    assert run(home, "du", "t:/links").stdout == b"1.80 kB in 4 paths\n"
    assert parsed(home, "du", "t:/links") == {"paths": 4, "bytes": 1800}
    assert parsed(home, "du", "t:/size4096") == {"paths": 0, "bytes": 4096}


def test_versions_are_forgotten_but_for_the_last(home: Path, store: Path) -> None:
    assert b"would forget t@2026-01-01" in run(home, "forget", "--dry-run", "t@~1").stdout
    assert len(parsed(home, "versions")) == 2
    refused = run(home, "forget", "t@latest", "t@~1", expected=1)
    assert b"--force" in refused.stderr
    assert run(home, "forget", "t@~1").stdout == b"forgot t@2026-01-01T00:00:00Z\n"
    run(home, "rebuild-index")
    [left] = parsed(home, "versions")
    assert left["time"] == "2026-02-01T06:00:00Z"
    run(home, "forget", "--force", "t@latest")
    assert parsed(home, "versions") == []


def test_the_store_is_looked_after(home: Path, store: Path) -> None:
    assert parsed(home, "stats")["records"] == 2
    assert b"archived" in run(home, "stats").stdout
    assert b"no errors" in run(home, "check", "--read-data").stdout
    assert parsed(home, "check")["findings"] == []
    assert b"the index is rebuilt" in run(home, "rebuild-index").stdout


# --- which store ------------------------------------------------------------------------------


def test_the_option_goes_before_the_variable_before_the_users_own(home: Path) -> None:
    for name in ("option", "variable"):
        run(home, "init", "--store", name)
    run(home, "archive", "tree", "--name", "o", "--store", "option", VENTIFS_STORE="variable")
    run(home, "archive", "tree", "--name", "v", VENTIFS_STORE="variable")
    made = run(home, "archive", "tree", "--name", "d")
    assert made.stderr.decode() == f"made a store at {home}/data/ventifs\n"
    for store, name in [("option", "o"), ("variable", "v"), ("data/ventifs", "d")]:
        assert [found["name"] for found in parsed(home, "versions", "--store", store)] == [name]
    assert run(home, "archive", "tree", "--name", "d").stderr == b""


def test_a_named_store_is_not_made_by_itself(home: Path) -> None:
    for words, more in [(["--store", "s"], {}), ([], {"VENTIFS_STORE": "s"})]:
        failed = run(home, "archive", "tree", "--name", "t", *words, expected=1, **more)
        assert b"ventifs init" in failed.stderr
    assert sorted(os.listdir(home)) == ["tree"]


def test_the_current_directory_is_archived_by_a_dot(home: Path) -> None:
    run(home, "init", "--store", "s")
    run(home, "archive", ".", "--name", "t", "--store", "s")
    assert b"tree" in run(home, "ls", "t", "--store", "s").stdout


def test_no_standard_input_is_told(home: Path, store: Path) -> None:
    command = f"exec {SCRIPT} archive - --name t --store {store} <&-"
    failed = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith(b"ventifs: standard input")
    assert len(failed.stderr.splitlines()) == 1


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "ls nothing",
        "ls t@~2",
        "ls t@~\N{SUPERSCRIPT TWO}",
        "ls t@2025",
        "ls t@9999",
        "ls t@noon",
        "ls t@",
        "ls t:/no/where",
        "ls t:/absolute/x",
        "ls score:12",
        "ls t/x",
        "ls ../t",
        "cat t:/links",
        "cat t",
        "cat t:/dangling",
        "du t:/nothing",
        "versions nothing",
        "restore t tree",
        "restore t:/size0 tree/size1",
        "restore nothing new",
        "archive missing --name t",
        "archive tree/size1 --name t --format qcow2",
        "archive tree --name a/b",
        "archive tree --name t --time noon",
        "archive tree --name t --time 2026-01-01",
        "archive tree --name t --time 1969-01-01",
        "archive tree --name t --time 9999-12-31",
        "archive tree --name t --time 2600-01-01",
        "archive tree --name t --time 0001-01-01T00+09:00",
        "forget nothing@latest",
        "forget t@2027",
        "init",
        "versions --store missing",
        "stats --store missing",
        "check --store missing",
        "rebuild-index --store missing",
        "ls t --store tree/size1",
        "stats --store tree",
        "check --store tree/size1",
        "init --store tree/size1",
        "archive tree --name t --store tree/size1",
        "archive tree --name t --store missing",
    ],
)
def test_a_failure_is_one_line_that_names_the_store(home: Path, store: Path, words: str) -> None:
    parts = words.split()
    failed = run(home, *parts, expected=1)
    named = home / parts[parts.index("--store") + 1] if "--store" in parts else store
    [line] = failed.stderr.decode().splitlines()
    assert line.startswith("ventifs: ")
    assert str(named) in line
    assert failed.stdout == b""
    assert len(parsed(home, "versions")) == 2


def _as_nobody(directory: Path, words: list[str]) -> None:
    """Run the command as another user; this file's user alone may read the program's files."""
    for module, _, _ in COMMANDS.values():
        importlib.import_module(module)
    assert printable(b"\n") == r"\n"  # loads the codec
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    os.dup2(os.open(directory / "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    sys.argv = ["ventifs", *words]
    main()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_what_cannot_be_read_or_restored_gives_exit_code_3(home: Path, store: Path) -> None:
    public = Path(tempfile.mkdtemp())  # pytest's own directories are closed to others
    try:
        subprocess.run(["cp", "-a", store, public / "store"], check=True)
        (public / "tree").mkdir()
        (public / "tree" / "closed").write_bytes(b"x")
        (public / "tree" / "closed").chmod(0)
        subprocess.run(["chown", "-R", "65534:65534", public], check=True)
        (public / "tree" / "closed").chmod(0)
        os.chown(public / "tree" / "closed", 0, 0)
        results = []
        for words in (f"archive {public}/tree --name u", f"restore t {public}/back"):
            line = [*words.split(), "--json", "--store", str(public / "store")]
            child = multiprocessing.get_context("forkserver").Process(
                target=_as_nobody, args=(public, line)
            )
            child.start()
            child.join(PATIENCE_S)
            assert child.exitcode == 3
            results.append(json.loads((public / "out").read_bytes()))
        [trouble] = results[0]["troubles"]
        assert trouble == {"path": "closed", "reason": "permission denied", "missing": True}
        assert {left["left"] for left in results[1]["left"]} == {
            "owner 0:0: operation not permitted",
            "set-uid and set-gid: operation not permitted",
        }
        assert (public / "back" / "size300000").read_bytes() == noise(300_000, 300_000)
    finally:
        remove(public)


def test_a_reader_that_goes_away_is_told_by_the_code_alone(home: Path, store: Path) -> None:
    for words in ("cat t:/sparse", "ls -lR t", "ls -R t --json", "versions"):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [SCRIPT, *words.split()],
            env=environment(home),
            stdout=write,
            check=False,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (141, b""), words


def test_a_flipped_bit_is_found_and_mended(home: Path, store: Path) -> None:
    # A worker each has one, and this process the nodes: most blocks are in the largest.
    arena = max((store / "arenas").glob("*/*.arena"), key=lambda path: path.stat().st_size)
    flip(arena, arena.stat().st_size // 2)
    found = run(home, "check", "--read-data", expected=1).stdout.decode()
    assert found.splitlines()[-1].startswith("next: ventifs check --repair")
    assert (
        run(home, "check", "--repair", expected=1)
        .stdout.decode()
        .endswith("next: archive the same sources again, which stores the lost blocks anew\n")
    )
    run(home, "archive", "tree", "--name", "t")
    run(home, "check", "--read-data")
    run(home, "restore", "t", "back")
    same(home / "tree", home / "back")


def test_a_deep_tree_needs_no_more_descriptors_than_there_are(home: Path) -> None:
    name, fd = home / "tree" / "deep", os.open(home / "tree", os.O_RDONLY)
    for _ in range(300):
        os.mkdir("deep", dir_fd=fd)
        below = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    assert name.is_dir()
    script = f"ulimit -Sn 100; exec {SCRIPT} "
    for words in ("archive tree --name t", "restore t back"):
        done = subprocess.run(
            ["bash", "-c", script + words],
            env=environment(home),
            cwd=home,
            check=False,
            capture_output=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr


# --- interruptions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, b"interrupted"),
        (signal.SIGTERM, 143, b"terminated"),
    ],
)
def test_an_interrupted_archive_ends_at_once_and_is_taken_up(
    home: Path, number: signal.Signals, code: int, word: bytes
) -> None:
    length = 200 << 20
    with (home / "tree" / "large").open("wb") as file:
        for _ in range(length >> 20):
            file.write(os.urandom(1 << 20))
    run(home, "init", "--store", "s")
    child = subprocess.Popen(
        [SCRIPT, "archive", "tree", "--name", "t", "--store", "s"],
        env=environment(home),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    def stored() -> int:
        arenas = list((home / "s" / "arenas" / "open").glob("*.arena"))
        return sum(arena.stat().st_blocks * 512 for arena in arenas)

    wait_until(
        lambda: stored() >= 20 << 20,
        unless=lambda: child.poll() is not None and "it ended before it could be interrupted",
    )
    child.send_signal(number)
    out, err = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, out) == (code, b"")
    assert len(err.splitlines()) == 1
    assert word in err
    assert parsed(home, "versions", "--store", "s") == []
    again = parsed(home, "archive", "tree", "--name", "t", "--store", "s")
    assert again["new_bytes"] < length - (10 << 20)
    assert parsed(home, "check", "--store", "s")["findings"] == []
