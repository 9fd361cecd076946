"""How many names an archived file has, counted once a version."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.clock import Clock
from tests.support.driving import Driver
from tests.support.forging import commit_version, directory, directory_of, file
from tests.support.stores import new_store
from tests.support.trees import archived, plain_tree
from ventifs.errors import NotStored
from ventifs.store import Score, Store
from ventifs.tree.objects.prolly import Get, Node, leaves
from ventifs.tree.objects.records import Entry, Inline, Tree
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split
from ventifs.vfs.interface import File

SPLIT = Split.of(8 << 20)
LINK = bytes(range(16))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_store(tmp_path / "store")


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path, "write") as opened:
        yield opened


def named(name: bytes, link: bytes = LINK, data: bytes = b"data") -> Entry:
    return msgspec.structs.replace(file(name, Inline(data)), link=link)


def served(store: Store, root: Entry) -> tuple[Driver, File]:
    commit_version(store, root)
    drive = Driver()
    return drive, drive.attach(ArchiveFilesystem(store, SPLIT, clock=Clock()), b"n@latest")


def nlink(drive: Driver, root: File, path: bytes) -> int:
    return drive(drive.walk(root, path).attributes).nlink


def test_names_are_counted_over_the_whole_version(path: Path, tmp_path: Path) -> None:
    source = plain_tree(tmp_path / "source")
    (source / "deep" / "er").mkdir(parents=True)
    os.link(source / "links" / "b", source / "deep" / "er" / "d")
    archived(path, source, "n")
    with Store.open(path) as store:
        drive = Driver()
        root = drive.attach(ArchiveFilesystem(store, SPLIT, clock=Clock()), b"n@latest")
        for name in (b"links/b", b"links/c", b"links/in/a", b"deep/er/d"):
            assert nlink(drive, root, name) == os.lstat(os.fsencode(source) + b"/" + name).st_nlink
            assert nlink(drive, root, name) == 4
        assert len([load for load in drive.loads if "links" in tuple(load.key)]) == 1  # type: ignore[arg-type]


def test_a_link_id_alone_makes_no_group(store: Store) -> None:
    """Two names that claim one id but have other contents are two files, with two qids."""
    root = directory(store, b"", [named(b"a"), named(b"b"), named(b"c", data=b"other")])
    drive, top = served(store, root)
    assert [nlink(drive, top, name) for name in (b"a", b"b", b"c")] == [2, 2, 1]
    first, second, other = (drive.walk(top, name).identity for name in (b"a", b"b", b"c"))
    assert first == second != other


def test_equal_directories_count_each_time(store: Store) -> None:
    below = directory(store, b"one", [named(b"a")])
    again = directory(store, b"two", [named(b"a")])
    drive, top = served(store, directory(store, b"", [below, again]))
    assert nlink(drive, top, b"one/a") == 2


def test_a_damaged_directory_costs_only_its_own(store: Store) -> None:
    lost = directory_of(b"lost", Tree(bytes(31) + b"x", 3), 3, 0)
    kept = directory(store, b"kept", [named(b"a"), named(b"b")])
    drive, top = served(store, directory(store, b"", [kept, lost]))
    assert nlink(drive, top, b"kept/a") == 2
    with pytest.raises(NotStored):
        drive.walk(top, b"lost/a")


def test_what_has_no_links_below_is_not_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [
        directory(store, b"plain%02d" % number, [file(b"x%d" % number, Inline(b"x"))])
        for number in range(20)
    ]
    linked = directory(store, b"linked", [named(b"a"), named(b"b")])
    commit_version(store, directory(store, b"", [linked, *plain]), "n", 1)
    commit_version(store, directory(store, b"", [linked, named(b"more"), *plain]), "n", 2)
    files = ArchiveFilesystem(store, SPLIT, clock=Clock())
    drive = Driver()
    assert nlink(drive, drive.attach(files, b"n@~1"), b"linked/a") == 2
    read: list[bytes] = []

    def counted(get: Get, score: Score) -> Iterator[Node]:
        read.append(score)
        return leaves(get, score)

    monkeypatch.setattr("ventifs.vfs.archived.link_counts.leaves", counted)
    assert nlink(drive, drive.attach(files, b"n@latest"), b"linked/a") == 3
    assert len(read) == 2  # the root, and the directory with links


def test_a_tree_of_any_depth(store: Store) -> None:
    entry: Entry = directory(store, b"d", [named(b"a"), named(b"b")])
    for _ in range(3000):
        entry = directory(store, b"d", [entry])
    drive, top = served(store, directory(store, b"", [entry, named(b"z")]))
    assert nlink(drive, top, b"z") == 3
    at = drive.walk(top, b"/".join([b"d"] * 3001 + [b"a"]))
    assert drive(at.attributes).nlink == 3
