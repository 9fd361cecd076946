"""Who may reach what the commands leave behind: stores, restored files, whatever the umask."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.commanding import parsed, run
from tests.support.modes import GROUP, UMASKS, names, wrong

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to any group")
umasks = pytest.mark.parametrize("umask", UMASKS[:3], ids=lambda umask: f"{umask:03o}")
OPTIONS = {"private": [], "shared": ["--shared", str(GROUP)], "readers": ["--readers", str(GROUP)]}


def masked(home: Path, umask: int, *words: str | Path) -> str:
    """Run a command under a umask; its standard error."""
    before = os.umask(umask)
    try:
        done = run(home, *words)
    finally:
        os.umask(before)
    return done.stderr.decode()


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory, a tar and a disk to archive, where every user gets to; not so pytest's own."""
    with TemporaryDirectory(dir="/tmp", prefix="ventifs-test-") as directory:
        Path(directory).chmod(0o755)
        yield _filled(Path(directory))


def _filled(tmp_path: Path) -> Path:
    (tmp_path / "tree/deep").mkdir(parents=True)
    for number in range(30):
        (tmp_path / f"tree/deep/{number}").write_bytes(os.urandom(9000))
    subprocess.run(["tar", "-cf", tmp_path / "tree.tar", "-C", tmp_path, "tree"], check=True)
    (tmp_path / "disk.img").write_bytes(os.urandom(1 << 20) + bytes(1 << 20))
    return tmp_path


@umasks
@pytest.mark.parametrize(
    "kind",
    ["private", pytest.param("shared", marks=as_root), pytest.param("readers", marks=as_root)],
)
def test_all_that_commands_make_in_a_store_is_of_its_kind(
    home: Path, kind: str, umask: int
) -> None:
    for store in ("s", "other"):
        masked(home, umask, "init", "--store", store, "--arena-size", "4MiB", *OPTIONS[kind])
    for words in (
        "archive tree --name tree --jobs 2",
        "archive tree --name tree --jobs 1",
        "archive tree.tar --name tar",
        "archive disk.img --name disk",
        "archive disk.img --name disk",
        "copy tree --to other",
        "copy disk --to other",
        "forget tree@~1",
        "rebuild-index",
        "check --repair",
        "serve --help",
    ):
        assert masked(home, umask, *words.split(), "--store", "s").count("can read what") == 0
    for store in ("s", "other"):
        assert wrong(home / store, kind) == {}
    assert {".disk~image", ".tree.lock", "tree", "data.mdb", "ID.arena"} <= names(home / "s")


@umasks
def test_the_store_that_the_first_archive_makes_is_the_users_alone(home: Path, umask: int) -> None:
    made = masked(home, umask, "archive", "tree", "--name", "t")
    assert "made a store at" in made
    assert wrong(home / "data/ventifs", "private") == {}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--shared", "no such group"], 1, "'no such group': there is no such group"),
        (["--readers", "-7"], 1, "'-7': there is no such group"),
        (["--readers", "4294967295"], 1, "there is no such group"),
        (["--readers", ""], 1, "'': there is no such group"),
        (["--readers", "0", "--shared", "0"], 2, "give one of --shared, --readers"),
    ],
)
def test_a_group_that_makes_no_sense_makes_no_store(
    home: Path, options: list[str], code: int, message: str
) -> None:
    refused = run(home, "init", "--store", "s", *options, expected=code)
    assert message in refused.stderr.decode()
    assert not (home / "s").exists()


def test_a_store_that_is_there_stays_as_it_is(home: Path) -> None:
    run(home, "init", "--store", "s")
    refused = run(home, "init", "--store", "s", "--shared", str(os.getgid()), expected=1)
    assert b"there is a ventifs store already; it is untouched" in refused.stderr
    assert wrong(home / "s", "private") == {}


def test_an_older_store_is_reported_by_every_command_that_writes_and_by_check(home: Path) -> None:
    run(home, "init", "--store", "my store")
    run(home, "init", "--store", "source")
    for store in ("source", "my store"):
        run(home, "archive", "tree", "--name", "t", "--store", store)
    subprocess.run(["chmod", "-R", "a+rX", home / "my store"], check=True)
    line = (
        f"{home}/my store: every user of this machine can read what is archived here; "
        f"'chmod -R go= {home}/my\\ store' ends that"
    )
    for words in (
        ["archive", "tree", "--name", "t"],
        ["archive", "disk.img", "--name", "d"],
        ["forget", "t@latest"],
        ["rebuild-index"],
    ):
        told = run(home, *words, "--store", "my store").stderr.decode().splitlines()
        assert [text for text in told if "can read" in text] == [f"ventifs: {line}"], words
    copied = run(home, "copy", "t", "--store", "source", "--to", "my store").stderr.decode()
    assert "my store: every user of this machine can read" in copied
    for reading in ("versions", "check", "cat t:/deep/1", "stats"):
        assert run(home, *reading.split(), "--store", "my store").stderr == b""
    lines = run(home, "check", "--store", "my store").stdout.decode().splitlines()
    assert lines[0] == f"note: {line}"
    assert lines[-1] == "no errors"
    assert parsed(home, "check", "--store", "my store")["exposed"] == line
    subprocess.run(["sh", "-c", line.partition("; '")[2].removesuffix("' ends that")], check=True)
    assert parsed(home, "check", "--store", "my store")["exposed"] == ""
    assert run(home, "archive", "tree", "--name", "t", "--store", "my store").stderr == b""
    assert wrong(home / "my store", "private") == {}
    assert parsed(home, "check", "--store", "my store")["odd_modes"] == []
    (home / "my store/lock").chmod(0o640)
    [odd] = parsed(home, "check", "--store", "my store")["odd_modes"]
    assert odd == {"path": "lock", "mode": "0640", "expected": "0600"}
    lines = run(home, "check", "--store", "my store").stdout.decode().splitlines()
    assert lines[0].startswith(f"note: {home}/my store: lock has the mode 0640 where 0600 is ")
    assert lines[-1] == "no errors"


def test_a_disk_and_a_directory_share_no_cache(home: Path) -> None:
    """Of a disk `a` and a directory `a.image`, and other names that look like files beside it."""
    run(home, "init", "--store", "s")
    sources = {
        "a": "disk.img",
        "a.image": "tree",
        "a.new": "tree",
        "a.lock": "tree",
        "a.image.new": "tree",
    }
    for _ in range(2):
        for name, source in sources.items():
            run(home, "archive", source, "--name", name, "--store", "s")
    for name, source in sources.items():
        again = json.loads(
            run(home, "archive", source, "--name", name, "--store", "s", "--json").stdout
        )
        assert again["new_bytes"] == 0, name
    caches = [path.name for path in (home / "s/statcache").iterdir()]
    assert ".a~image" in caches
    assert sorted(caches) == sorted(
        [".a~image", *(f".{name}.lock" for name in sources), *(set(sources) - {"a"})]
    )
