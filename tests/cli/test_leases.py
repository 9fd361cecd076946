"""Every command that reads a version has a lease on it while it reads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commanding import copy_of, run
from tests.support.leasing import files
from tests.support.patience import PATIENCE_S
from tests.support.trees import noise
from ventifs.store import Store
from ventifs.tree.objects.records import encode_entry
from ventifs.tree.versions.catalog import versions

# Notes what is leased whenever a block is read, in this process and its workers.
PROGRAM = """
import os, sys
from ventifs.store import Store
from ventifs.store.leases import leased
load = Store._load
def noting(self, score):
    if self.path.name == "s":
        with open("noted", "a") as file:
            file.write(" ".join(each.hex() for each in leased(self.path)) + "\\n")
    return load(self, score)
Store._load = noting
from ventifs.cli.main import main
sys.argv[0] = "ventifs"
main()
"""

NEW, OLD = "t@2026-01-02T00:00:00Z", "t@2026-01-01T00:00:00Z"
COMMANDS: dict[str, set[str]] = {
    f"cat {NEW}:/dir/file": {NEW},
    "check": {NEW, OLD},
    f"copy {NEW} --to other": {NEW},
    f"diff {OLD} {NEW}": {OLD, NEW},
    f"du {NEW}:/dir": {NEW},
    f"export {NEW}": {NEW},
    f"find {NEW} file": {NEW},
    f"log {NEW}:/dir/file": {NEW, OLD},
    f"ls -R {NEW}": {NEW},
    f"restore {NEW} back --jobs 1": {NEW},
    f"restore {NEW} back --jobs 2": {NEW},
    f"restore {NEW} back --dry-run": {NEW},
    f"stats {NEW}": {NEW, OLD},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("leases")
    (home / "tree" / "dir").mkdir(parents=True)
    run(home, "init", "--store", "s")
    run(home, "init", "--store", "other")
    for number, version in enumerate((OLD, NEW)):
        (home / "tree" / "dir" / "file").write_bytes(noise(3_000_000, number))
        when = version.partition("@")[2]
        run(home, "archive", "tree", "--name", "t", "--store", "s", "--time", when)
    return home


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_leases_what_it_reads(made: Path, tmp_path: Path, command: str) -> None:
    home = copy_of(made, tmp_path)
    with Store.open(home / "s") as store:
        roots = {str(each): encode_entry(each.root, root=True).hex() for each in versions(store)}
    kept = {name: value for name, value in os.environ.items() if name != "VENTIFS_STORE"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command.split(), "--store", "s"],
        env={**kept, "XDG_DATA_HOME": str(home / "data"), "PYTHONPATH": os.fspath(_ROOT)},
        cwd=home,
        check=False,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr.decode()
    noted = [set(line.split()) for line in (home / "noted").read_text().splitlines()]
    assert noted
    wanted = {roots[version] for version in COMMANDS[command]}
    assert all(noted), "a block was read without a lease"
    assert set().union(*noted) == wanted
    if command.startswith(("diff", "stats")):
        assert all(roots[NEW] in each for each in noted)
    assert files(home / "s") == []


_ROOT = Path(__file__).parents[2]


def test_no_lease_is_needed_for_what_the_records_say(made: Path, tmp_path: Path) -> None:
    home = copy_of(made, tmp_path)
    (home / "s" / "leases").rmdir()
    for words in (("versions",), ("versions", "--json", "--troubles"), ("stats",)):
        run(home, *words, "--store", "s")
    assert not (home / "s" / "leases").exists()
    found = json.loads(run(home, "versions", "--json", "--store", "s").stdout)
    assert len(found) == 2
