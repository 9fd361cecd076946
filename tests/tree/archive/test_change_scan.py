"""Looking ahead: subtrees that did not change are not walked, whatever they are like."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.archiving import Done, Way, archive_by, archive_when_asked, wait_for_tick
from tests.support.growing import is_archived
from tests.support.processes import Peer, kill_all
from tests.support.reading import names_read


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    made = Peer(archive_when_asked)
    yield made
    made.end()
    kill_all()


def made_below(directory: Path, *names: bytes) -> int:
    """A descriptor of a directory that is so many levels down."""
    fd = os.open(directory, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


def both_runs(peer: Peer, store: Path, source: Path) -> None:
    """A first and a second run by workers, then a changed one, are what reading anew gives."""
    for number in range(3):
        done = peer.ask("archive", store, source, "t", Way(jobs=2))
        assert isinstance(done, Done), done
        whole = archive_by(store, source, "whole", Way(read_all=True))
        assert done._replace(new_bytes=0) == whole._replace(new_bytes=0)
        if number == 1:
            (source / "changed").write_bytes(b"changed")


def test_more_metadata_than_goes_into_one_request(peer: Peer, store: Path, source: Path) -> None:
    source.mkdir()
    fd = made_below(source, b"top", b"t" * 200)
    for number in range(2100):
        name = b"d" * 200 + b"%04d" % number
        os.mkdir(name, dir_fd=fd)
        if number < 300:
            os.setxattr(b"/proc/self/fd/%d/%s" % (fd, name), "user.x", b"x" * 450)
    os.close(fd)
    both_runs(peer, store, source)


@pytest.mark.slow
def test_paths_longer_than_a_request(peer: Peer, store: Path, source: Path) -> None:
    """At more than 2000 names a unit: each level above is one."""
    source.mkdir()
    fd = made_below(source, *[b"d" * 250] * 300, *[b"d"] * 2000)
    os.close(fd)
    both_runs(peer, store, source)


def test_a_change_at_the_bottom_of_a_deep_tree_is_seen(
    peer: Peer, store: Path, source: Path
) -> None:
    source.mkdir()
    fd = made_below(source, *[b"deep"] * 3000)
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    before = peer.ask("archive", store, source, "t", Way(jobs=2))
    wait_for_tick(source.parent)
    with open(os.open("file", os.O_WRONLY, dir_fd=fd), "wb") as file:
        file.write(b"changed")
    os.close(fd)
    after = peer.ask("archive", store, source, "t", Way(jobs=2))
    assert isinstance(before, Done)
    assert isinstance(after, Done)
    assert (before.entries, before.size) == (3002, 0)
    assert (after.entries, after.size) == (3002, 7)
    assert archive_by(store, source, "whole", Way(read_all=True)).score == after.score


@pytest.mark.parametrize(("unit_names", "changed_max"), [(1, 64), (10, 0), (10, 64), (2000, 0)])
def test_units_and_giving_up_make_no_difference(
    store: Path, source: Path, monkeypatch: pytest.MonkeyPatch, unit_names: int, changed_max: int
) -> None:
    monkeypatch.setattr("ventifs.tree.archive.change_scan.UNIT_NAMES", unit_names)
    monkeypatch.setattr("ventifs.tree.archive.change_scan._CHANGED_MAX", changed_max)
    for path in ("a/b/c", "a/b/d", "a/e", "f/g", "h"):
        (source / path).mkdir(parents=True)
        for number in range(7):
            (source / path / f"{number}").write_bytes(b"%d" % number)
    wait_for_tick(source.parent)
    archive_by(store, source, "t")
    changed = 0
    for change in ("", "a/b/c", "a/b/d/0", "a", "f/g/3", "h/6"):
        expected = []
        if (source / change).is_dir():
            changed += 1
            (source / change / f"new{changed}").write_bytes(b"new")
            expected = [b"new%d" % changed]
        else:
            (source / change).chmod(0o600)
            expected = [os.fsencode(source / change).rpartition(b"/")[2]]
        wait_for_tick(source.parent)
        with names_read() as names:
            done = archive_by(store, source, "t")
        assert names == expected
        assert done.score == archive_by(store, source, "whole", Way(read_all=True)).score
        is_archived(store, "t", source)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory another owner")
@pytest.mark.parametrize("what", ["chmod", "chown", "utime", "xattr", "large xattr", "no xattr"])
def test_metadata_of_a_directory_deep_inside(store: Path, source: Path, what: str) -> None:
    below = source / "a" / "b" / "c"
    below.mkdir(parents=True)
    os.setxattr(below, "user.old", b"old")
    archive_by(store, source, "t")
    if what == "chmod":
        below.chmod(0o700)
    elif what == "chown":
        os.chown(below, 7, 7)
    elif what == "utime":
        os.utime(below, ns=(0, 1))
    elif what == "no xattr":
        os.removexattr(below, "user.old")
    else:
        os.setxattr(below, "user.new", b"1" * (1 if what == "xattr" else 2000))
    for _ in range(2):
        archive_by(store, source, "t")
        is_archived(store, "t", source)
