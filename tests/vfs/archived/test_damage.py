"""Damaged bytes cost the files that lie in them, with EIO, and nothing else."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.clock import Clock
from tests.support.damage import overwrite
from tests.support.driving import Driver
from tests.support.stores import new_store
from tests.support.trees import archived, noise
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.store.arena import Arena
from ventifs.store.clump import ClumpKind
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split
from ventifs.vfs.errnos import errno_of
from ventifs.vfs.interface import File

SPLIT = Split.of(8 << 20)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Some files in clumps of their own."""
    source = tmp_path / "source"
    for number in range(4):
        (source / f"d{number}").mkdir(parents=True)
        (source / f"d{number}" / "big").write_bytes(noise(300_000, number))
        (source / f"d{number}" / "small").write_bytes(b"small %d\n" % number)
    archived(new_store(tmp_path / "store"), source, "n")
    return tmp_path / "store"


def clumps(store: Path, kind: ClumpKind) -> list[tuple[Path, int, int]]:
    """(file, offset of the payload, its length) of each clump."""
    found = []
    for path in sorted(store.glob("arenas/*/*.arena")):
        arena = Arena.open(path)
        for clump in arena.scan(56 + 0, arena.clumps_end()):
            head = getattr(clump, "head", None)
            if head is not None and head.kind is kind:
                found.append((path, clump.offset + len(head.listed), head.payload_length))
    return found


def failing(operation: Callable[[], object]) -> int:
    try:
        Driver()(operation)
    except VentifsError as error:
        return errno_of(error)
    return 0


def outcomes(root: File) -> dict[bytes, int]:
    """What listing each directory and reading each file ends with."""
    drive, found = Driver(), {}
    for name in drive.names(root):
        at = drive.walk(root, name)
        found[name] = failing(lambda at=at: drive.names(at))  # type: ignore[misc]
        if not found[name]:
            for below in drive.names(at):
                file = drive.walk(at, below)
                assert drive(file.attributes).nlink == 1
                found[name + b"/" + below] = failing(lambda file=file: drive.content(file))  # type: ignore[misc]
    return found


def test_a_damaged_clump_costs_the_files_in_it(store: Path) -> None:
    [*data] = clumps(store, ClumpKind.DATA)
    assert len(data) > 5
    path, offset, length = data[2]
    overwrite(path, offset, noise(length))
    with Store.open(store, cache_bytes=SPLIT.clumps) as opened:
        files = ArchiveFilesystem(opened, SPLIT, clock=Clock())
        drive = Driver()
        root = drive.attach(files, b"n@latest")
        found = outcomes(root)
        assert set(found.values()) == {0, errno.EIO}
        assert 1 <= sum(number != 0 for number in found.values()) <= 2
        assert found == outcomes(root)  # and again, now that the rest is in memory
        damaged = next(name for name, number in found.items() if number)
        sound = next(name for name in found if name.endswith(b"/big") and name != damaged)
        assert len(drive.content(drive.walk(root, sound))) == 300_000
        # What of the damaged file can be read is read.
        opened_file = drive.walk(root, damaged).open(0)
        parts = [
            failing(lambda at=at: drive.read(opened_file, at, 4096))  # type: ignore[misc]
            for at in range(0, 300_000, 4096)
        ]
        assert 0 in parts
        assert errno.EIO in parts


def test_damaged_nodes_are_eio_and_an_attach_elsewhere_goes_on(store: Path) -> None:
    nodes = clumps(store, ClumpKind.NODE)
    assert nodes
    archived(store, store / "arenas", "sound")
    for path, offset, length in nodes:
        overwrite(path, offset, noise(length))
    with Store.open(store, cache_bytes=SPLIT.clumps) as opened:
        files = ArchiveFilesystem(opened, SPLIT, clock=Clock())
        drive = Driver()
        assert drive.names(drive.attach(files, b"")) == [b"n", b"sound"]
        root = drive.attach(files, b"n@latest")
        assert drive(root.attributes).size == 4096
        assert failing(lambda: drive.names(root)) == errno.EIO
        assert failing(lambda: drive.walk(root, b"d0")) == errno.EIO
        assert failing(lambda: drive.attach(files, b"n@latest:/d0")) == errno.EIO
        assert drive.names(drive.attach(files, b"sound@latest"))
