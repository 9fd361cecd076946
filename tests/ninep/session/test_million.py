"""A million files that fids point at take no more memory than is stated."""

import gc
import tracemalloc
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.clock import Clock
from tests.support.driving import Driver
from tests.support.manyfiles import version_of, wide_version
from tests.support.stores import new_store
from tests.support.talking import Talk
from ventifs.ninep.protocol.messages import NOFID, NONUNAME, Rwalk, Tattach, Tclunk, Tlopen, Twalk
from ventifs.store import Store
from ventifs.vfs.access.guard import GuardedFilesystem, Squash
from ventifs.vfs.archived.files import ArchivedFile
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split
from ventifs.vfs.interface import File, Filesystem
from ventifs.vfs.memory_budget import Budget

FILE_BYTES_MAX = 250  # of the 512 that a fid is charged
DIRECTORIES, FILES = 40, 1000
SPLIT = Split.of(4 << 20)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    path = new_store(tmp_path / "store")
    assert processes.run(wide_version, path, DIRECTORIES, FILES, "n") == 0
    return path


def walked(drive: Driver, root: File, *, look: bool) -> list[File]:
    files = []
    for directory in range(DIRECTORIES):
        at = drive.walk(root, b"directory-%05d" % directory)
        for number in range(FILES):
            file = drive.walk(at, b"some-name-%05d" % number)
            if look:
                drive(file.attributes)
            files.append(file)
        drive.loads.clear()
    return files


@pytest.mark.parametrize("look", [False, True], ids=["walked", "looked-at"])
def test_files_are_small(wide: Path, look: bool) -> None:
    """Forty thousand, of which few are in the caches: what goes when they go."""
    with Store.open(wide, cache_bytes=SPLIT.clumps) as store:
        files = ArchiveFilesystem(store, SPLIT, clock=Clock())
        drive = Driver()
        root = drive.attach(files, b"n@latest")
        walked(drive, root, look=look)  # caches fill up
        tracemalloc.start()
        held = walked(drive, root, look=look)
        count = len(held)
        assert len({file.identity.number for file in held}) == count
        gc.collect()
        whole = tracemalloc.get_traced_memory()[0]
        del held
        gc.collect()
        gone = whole - tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert count == DIRECTORIES * FILES
        assert gone / count <= FILE_BYTES_MAX
        assert gone / count > 100  # else this measures something else


@pytest.mark.parametrize("opened", [False, True], ids=["walked", "opened"])
@pytest.mark.parametrize("guarded", [False, True], ids=["trusted", "guarded"])
@pytest.mark.parametrize("kind", ["files", "directories", "long"])
def test_a_fid_takes_no_more_than_it_is_charged(
    tmp_path: Path, kind: str, guarded: bool, opened: bool
) -> None:
    """With its number, its place in the table, its file, and what is open; by tracemalloc."""
    path = new_store(tmp_path / "store")
    assert processes.run(version_of, path, kind, DIRECTORIES // 10, FILES) == 0
    with Store.open(path, cache_bytes=SPLIT.clumps) as store:
        files: Filesystem = ArchiveFilesystem(store, SPLIT)
        if guarded:
            files = GuardedFilesystem(ArchiveFilesystem(store, SPLIT), squash=Squash.ALL)
        share = Budget(1 << 40).share_of("")
        talk = Talk(files, attach=False, share=share)
        talk.ask(Tattach(0, NOFID, b"", b"n@latest", NONUNAME))
        fids = hold(talk, 1, opened)  # caches fill up
        talk.ask(*map(Tclunk, fids))
        charged = share.held
        tracemalloc.start()
        fids = hold(talk, 1, opened)
        charged = share.held - charged
        gc.collect()
        whole = tracemalloc.get_traced_memory()[0]
        talk.ask(*map(Tclunk, fids))
        gc.collect()
        gone = whole - tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert gone <= charged
        assert gone > charged / 5  # else this measures something else


def hold(talk: Talk, begin: int, opened: bool) -> range:
    """Fids of all files, in the order in which they were made."""
    number = begin
    for directory in range(DIRECTORIES // 10):
        at, number = number, number + 1
        talk.ask(Twalk(0, at, (b"directory-%05d" % directory,)))
        for each in range(FILES):
            assert isinstance(talk.ask(Twalk(at, number, (b"some-name-%05d" % each,))), Rwalk)
            if opened:
                talk.ask(Tlopen(number, 0))
            number += 1
    return range(begin, number)


def test_files_used_lately_are_bounded(wide: Path) -> None:
    with Store.open(wide, cache_bytes=SPLIT.clumps) as store:
        files = ArchiveFilesystem(store, SPLIT, clock=Clock())
        drive = Driver()
        held = walked(drive, drive.attach(files, b"n@latest"), look=True)
        assert isinstance(held[0], ArchivedFile)
        known = [file for file in held if isinstance(file, ArchivedFile) and file.known]
        assert 0 < len(known) <= SPLIT.files
        again = drive(held[0].attributes)
        assert held[0].known is not None
        assert drive(held[0].attributes) is again
        assert len([file for file in held if isinstance(file, ArchivedFile) and file.known]) <= (
            SPLIT.files
        )
