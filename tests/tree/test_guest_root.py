"""Real guest roots through the installed command: what comes back, what a second archive costs."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.roots import ext4_image, guest_roots, mounted
from tests.support.serving import NAME, archived_roots
from tests.support.sharing import base_of
from tests.support.sizes import LONG
from tests.support.trees import copied, remove
from tests.support.walker import look_at, same

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
SCRIPT = Path(sys.executable).parent / "ventifs"


def ventifs(store: Path, *words: str | Path, stdin: Any = None) -> Any:
    """What a command that succeeds prints as JSON."""
    done = subprocess.run(
        [SCRIPT, *words, "--json", "--store", store],
        stdin=stdin,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Archived:
    """A store in which both roots are versions of `NAME`."""

    store: Path
    roots: tuple[Path, Path]
    facts: tuple[dict[str, Any], dict[str, Any]]  # what `archive --json` said of each
    scratch: Path


@pytest.fixture(scope="session")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archived]:
    roots = guest_roots()
    scratch = Path(tempfile.mkdtemp(prefix="guest-root-"))  # pytest keeps its own directories
    store = scratch / "store"
    try:
        with archived_roots(base_of(tmp_path_factory), roots, store) as (first, second):
            yield Archived(store, roots, (first, second), scratch)
    finally:
        remove(scratch)


def test_the_roots_are_worth_the_trouble(archived: Archived) -> None:
    looks = look_at(archived.roots[0])
    assert len(looks) >= 30_000
    for path in (b"usr/bin/python3", b"usr/bin/gcc"):
        assert path in looks
    names = {name for look in looks.values() for name, _ in look.xattrs}
    assert names >= {
        "security.capability",
        "system.posix_acl_access",
        "system.posix_acl_default",
        "user.origin",
    }
    assert any(len(look.group) == 3 for look in looks.values())
    assert any(look.data_pages is not None and look.size > 30 << 20 for look in looks.values())
    assert any(look.mtime_ns % 1000 for look in looks.values())


@pytest.mark.parametrize("number", [0, 1] if LONG else [1])
def test_a_root_comes_back_the_same(archived: Archived, number: int) -> None:
    target = archived.scratch / "restored"
    version = f"{NAME}@{archived.facts[number]['time']}"
    try:
        ventifs(archived.store, "restore", version, target)
        same(archived.roots[number], target)
    finally:
        remove(target)


def test_an_upgraded_root_costs_what_is_new(archived: Archived) -> None:
    first, second = archived.facts
    assert first["score"] != second["score"]
    assert second["new_bytes"] < first["new_bytes"] / 3


@pytest.mark.parametrize("options", [(), ("--no-cache",)], ids=["cached", "read"])
def test_an_unchanged_root_costs_nothing(archived: Archived, options: tuple[str, ...]) -> None:
    again = ventifs(archived.store, "archive", archived.roots[1], "--name", NAME, *options)
    assert again["new_bytes"] == 0
    assert again["score"] == archived.facts[1]["score"]


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_the_file_system_does_not_matter(archived: Archived, kind: str) -> None:
    image = ext4_image(archived.scratch / "image", 4 << 30)
    mount: list[str | Path] = ["-o", "loop", image] if kind == "ext4" else ["-t", "tmpfs", "none"]
    try:
        with mounted(archived.scratch / kind, *mount) as directory:
            root = copied(archived.roots[0], directory / "root")
            fact = ventifs(archived.store, "archive", root, "--name", kind)
    finally:
        image.unlink()
    assert (fact["new_bytes"], fact["score"]) == (0, archived.facts[0]["score"])


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_the_number_of_jobs_does_not_matter(archived: Archived, jobs: str) -> None:
    root = archived.roots[0]
    fact = ventifs(archived.store, "archive", root, "--name", f"jobs{jobs}", "--jobs", jobs)
    assert (fact["new_bytes"], fact["score"]) == (0, archived.facts[0]["score"])


def test_a_tar_of_it_and_what_is_exported_are_the_same_tree(archived: Archived) -> None:
    """But for sockets, which no tar can hold."""
    root, store = archived.roots[0], archived.store
    sockets = [path for path, look in look_at(root).items() if stat.S_ISSOCK(look.mode)]
    patterns = [f"--exclude=/{os.fsdecode(path)}" for path in sockets]
    fact = ventifs(store, "archive", root, "--name", "no-sockets", *patterns)
    attributes = ["--xattrs", "--xattrs-include=*"]
    tar: list[str | Path] = ["tar", "--format=pax", *attributes, "-C", root, "-c", "."]
    version = f"{NAME}@{archived.facts[0]['time']}"
    export: list[str | Path] = [SCRIPT, "export", version, "--store", store]
    for command, expected in ((tar, 0), (export, 3 if sockets else 0)):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as peer:
            told = ventifs(store, "archive", "-", "--name", "tar", stdin=peer.stdout)
        assert peer.returncode == expected
        assert told["score"] == fact["score"]
        assert told["new_bytes"] == 0


def test_the_store_is_sound(archived: Archived) -> None:
    assert ventifs(archived.store, "check", "--read-data")["findings"] == []
