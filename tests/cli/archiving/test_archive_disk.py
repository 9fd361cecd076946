"""`ventifs archive` of disks, and what other commands tell of them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.restoring.test_restore_disk import SIZE, make_image
from tests.support.commanding import parsed, run
from tests.support.trees import noise

pytestmark = pytest.mark.skipif(shutil.which("mke2fs") is None, reason="needs mke2fs")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """`vm.img` is an ext4 file system with what `tree` has, in whole seconds."""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n" * 40)
    (tree / "data").write_bytes(noise(300_000))
    os.link(tree / "data", tree / "other")
    for path in (*tree.rglob("*"), tree):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    make_image(tmp_path / "vm.img", tree)
    run(tmp_path, "init", "--store", "s")
    return tmp_path


def test_a_disk_is_told_with_what_is_on_it(home: Path) -> None:
    done = run(home, "archive", "vm.img", "--name", "vm", "--store", "s")
    lines = done.stdout.decode().splitlines()
    assert lines[1].startswith("disk of 41.9 MB, ")
    assert lines[2:] == ["  partition 1: 41.9 MB, ext4"]
    facts = parsed(home, "versions", "vm", "--store", "s")[0]
    assert facts["disk"]["size"] == SIZE
    assert [volume["name"] for volume in facts["disk"]["volumes"]] == ["1"]
    assert parsed(home, "stats", "vm", "--store", "s")["disk"] == facts["disk"]
    assert parsed(home, "du", "vm", "--store", "s")["disk_bytes"] == SIZE
    told = run(home, "versions", "--store", "s").stdout.decode()
    assert " 41.9 MB " in told
    assert told.endswith("  disk\n")
    told = run(home, "stats", "vm", "--store", "s").stdout.decode()
    assert ": a disk of 41.9 MB, " in told
    assert "  partition 1: 41.9 MB, ext4\n" in told
    run(home, "archive", "tree", "--name", "dir", "--store", "s")
    assert "disk" not in parsed(home, "versions", "dir", "--store", "s")[0]
    assert "disk" not in parsed(home, "stats", "dir", "--store", "s")


def test_json_and_a_dry_run_tell_the_same_disk(home: Path) -> None:
    words = ("archive", "vm.img", "--name", "vm", "--store", "s")
    would = parsed(home, *words, "--dry-run")
    assert would["dry_run"]
    assert parsed(home, "versions", "--store", "s") == []
    done = parsed(home, *words)
    assert done["disk"] == would["disk"]
    assert done["score"] == would["score"]


def test_image_and_directory_differ_in_nothing_that_is_the_same(home: Path) -> None:
    run(home, "archive", "vm.img", "--name", "vm", "--store", "s")
    done = parsed(home, "archive", "tree", "--name", "dir", "--store", "s")
    assert done["new_bytes"] < 5000  # nodes of directories: no content is new
    changes = parsed(home, "diff", "dir", "vm:/files/1", "--store", "s")
    assert [(change["path"], change["change"]) for change in changes] == [
        ("", "metadata"),
        ("lost+found", "added"),
    ]
    log = parsed(home, "log", "vm:/files/1/etc/passwd", "--store", "s")
    assert [step["change"] for step in log] == ["added"]
    found = run(home, "find", "vm", "passwd", "--store", "s").stdout
    assert found == b"files/1/etc/passwd\n"


def test_an_unchanged_image_is_told_as_such(home: Path) -> None:
    words = ("archive", "vm.img", "--name", "vm", "--store", "s")
    os.utime(home / "vm.img", (1_700_000_000, 1_700_000_000))
    first, again = parsed(home, *words), parsed(home, *words, "--no-cache")
    assert again["score"] == first["score"]
    assert again["new_bytes"] == 0


def test_disks_are_not_mistaken_for_empty_tars(home: Path) -> None:
    """Both begin with zeros."""
    subprocess.run(["gzip", "-k", "vm.img"], cwd=home, check=True)
    words = ("archive", "vm.img.gz", "--name", "x", "--store", "s", "--format", "tar")
    failed = run(home, *words, expected=1)
    assert b"not a tar archive: it begins with zeros and goes on" in failed.stderr
    assert parsed(home, "versions", "--store", "s") == []


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("archive tree --name x --follow-backing .", 2, "for files and devices"),
        ("archive pipe --name x --format raw", 2, "a pipe can only be a tar stream"),
        ("archive vm.img --name x --follow-backing=", 2, "--follow-backing has an empty path"),
        ("archive vm.img --name x --dirty-bitmap", 1, "--dirty-bitmap is for qcow2 images"),
        ("archive tree --name x --drop-free", 2, "for files and devices"),
        ("archive tree --name x --format raw", 2, "for files and devices"),
        ("archive vm.img --name x --exclude *.o", 2, "not for disks"),
        ("archive vm.img --name x --one-file-system", 2, "for directories"),
        ("archive vm.img --name x --format tar", 1, "not a tar archive"),
        ("archive vm.img --name x --format tar --in-use", 2, "are for disks"),
        ("archive vm.img --name x --format qcow2", 1, "qcow2"),
        ("archive - --name x --format raw", 2, "standard input can only be a tar stream"),
    ],
)
def test_what_is_no_disk_or_no_tar_is_told(home: Path, words: str, code: int, told: str) -> None:
    os.mkfifo(home / "pipe")
    failed = run(home, *words.split(), "--store", "s", expected=code)
    assert told in failed.stderr.decode()
    assert parsed(home, "versions", "--store", "s") == []


@pytest.mark.parametrize("more", [(), ("--format", "raw")])
def test_any_file_is_a_disk(home: Path, more: tuple[str, ...]) -> None:
    (home / "odd").write_bytes(noise(100_001))
    run(home, "archive", "odd", "--name", "x", *more, "--store", "s")
    assert run(home, "cat", "x", "--store", "s").stdout == noise(100_001)
    assert run(home, "ls", "x", "--store", "s").stdout == b"disk.img\n"
