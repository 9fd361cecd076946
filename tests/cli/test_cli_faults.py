"""What surrounds a command and may be wrong: its directory, output, permissions, the store's name.

Whatever it is, a command says what is the matter in one line.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from msgspec.structs import replace

from tests.support.arenafiles import incompressible
from tests.support.conversing import NOBODY
from tests.support.damage import flip
from tests.support.patience import PATIENCE_S
from tests.support.tiny import tiny_store
from ventifs.store import Store
from ventifs.store.files import Files
from ventifs.store.header import read_header, write_header

SCRIPT = Path(sys.executable).parent / "ventifs"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that others can reach; pytest's own are closed to them."""
    with TemporaryDirectory(dir="/tmp", prefix="ventifs-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def store(home: Path) -> Path:
    """A sealed arena, an open one, and a record; its name needs quoting."""
    root = tiny_store(home / "my store", arena_size=300_000)
    with Store.open(root, "write") as opened:
        for seed in range(3):
            opened.put(incompressible(140_000, seed=seed))
        opened.commit([(b"key", b"")])
    return root


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "VENTIFS_STORE"}
    return {**kept, "XDG_DATA_HOME": str(home / "data")}


def run(home: Path, *words: str | Path, expected: int = 0) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [SCRIPT, *words],
        env=environment(home),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=home,
        text=True,
        errors="surrogateescape",
    )
    assert done.returncode == expected, done.stderr
    assert "Traceback" not in done.stderr
    return done


def damage(store: Path) -> None:
    [path] = (store / "arenas/sealed").iterdir()
    flip(path, 50_000)


@pytest.mark.parametrize("command", [["rebuild-index"], ["check", "--repair"]])
def test_a_store_that_can_only_be_read_is_not_mended(
    home: Path, store: Path, command: list[str]
) -> None:
    damage(store)
    write_header(store, replace(read_header(store), read_only_compatible=4), Files())
    before = {
        path: path.read_bytes()
        for path in store.rglob("*")
        if path.name != "lock.mdb" and path.is_file()
    }
    done = run(home, *command, "--store", store, expected=1)
    [line] = done.stderr.splitlines()
    assert "0x4" in line
    assert str(store) in line
    assert "upgrade ventifs" in line
    assert before == {path: path.read_bytes() for path in before}
    run(home, "stats", "--store", store)


@pytest.mark.parametrize("module", ["json", "lmdb", "ventifs"])
def test_a_check_runs_nothing_from_the_directory_it_is_run_in(
    home: Path, store: Path, module: str
) -> None:
    (home / f"{module}.py").write_text("open('executed', 'w').close()\n")
    assert "no errors" in run(home, "check", "--store", store).stdout
    assert not (home / "executed").exists()


@pytest.mark.parametrize("words", ["stats", "check", "check --json", "versions", "--help", "init"])
def test_a_closed_output_gives_no_traceback(home: Path, store: Path, words: str) -> None:
    where = home / "new" if words == "init" else store
    options = "" if words == "--help" else f" --store {shlex.quote(str(where))}"
    done = subprocess.run(
        ["sh", "-c", f"{SCRIPT} {words}{options} >&-"],
        env=environment(home),
        cwd=home,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert done.returncode == 0 or len(done.stderr.splitlines()) == 1


def test_a_store_may_have_a_name_that_is_no_text(home: Path) -> None:
    store = home / os.fsdecode(b"caf\xe9 \xff")
    assert "made an empty store" in run(home, "init", "--store", store).stdout
    assert (store / "ventifs.store").exists()
    assert "0 records" in run(home, "stats", "--store", store).stdout
    assert "no errors" in run(home, "check", "--store", store).stdout
    run(home, "stats", "--json", "--store", store)
    run(home, "rebuild-index", "--store", store)
    run(home, "init", "--store", store, expected=1)


# As another user it would start this interpreter, which may stand where he cannot read.
AS_NOBODY = f"""
import sys, os
from ventifs.cli.upkeep import check, store
from ventifs.cli.main import main
import ventifs.store.check, click.shell_completion, rich.progress
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
main()
"""


@as_root
@pytest.mark.parametrize("closed", ["index/data.mdb", "arenas/sealed", "index", "ventifs.store"])
def test_what_may_not_be_read_is_said_in_a_line_without_advice_to_rebuild(
    home: Path, store: Path, closed: str
) -> None:
    subprocess.run(["chmod", "-R", "a+rX", store], check=True)
    (store / "index/lock.mdb").chmod(0o666)
    (store / closed).chmod(0o700 if (store / closed).is_dir() else 0o600)
    done = subprocess.run(
        [sys.executable, "-P", "-c", AS_NOBODY, "stats", "--store", store],
        cwd="/",
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    [line] = done.stderr.splitlines()
    assert "permission denied" in line
    assert "rebuild" not in line
    assert str(store) in line


def test_the_next_step_names_the_store(home: Path, store: Path) -> None:
    damage(store)
    lines = run(home, "check", "--read-data", "--store", store, expected=1).stdout.splitlines()
    assert lines[-1] == f"next: ventifs check --repair --store {shlex.quote(str(store))}"


def test_the_next_step_for_a_missing_arena_is_to_put_it_back(home: Path, store: Path) -> None:
    [path] = (store / "arenas/sealed").iterdir()
    path.unlink()
    lines = run(home, "check", "--store", store, expected=1).stdout.splitlines()
    assert lines[-1].startswith("next: put the missing files back, or else ")
    assert lines[-1].endswith(f"--store {shlex.quote(str(store))}")


def test_the_next_step_for_an_index_names_the_store_and_does_it(home: Path, store: Path) -> None:
    (store / "index/data.mdb").unlink()
    lines = run(home, "check", "--store", store, expected=1).stdout.splitlines()
    assert lines[-1] == f"next: ventifs rebuild-index --store {shlex.quote(str(store))}"
    run(home, *shlex.split(lines[-1].removeprefix("next: "))[1:])
    assert "no errors" in run(home, "check", "--store", store).stdout
