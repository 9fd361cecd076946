"""A million files that fids point at take no more memory than is stated."""

import gc
import tracemalloc
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.clock import Clock
from tests.support.driving import Driver
from tests.support.manyfiles import wide_version
from tests.support.stores import new_store
from ventifs.ninep.archived import ArchivedFile
from ventifs.ninep.archivefs import ArchiveFilesystem, Split
from ventifs.ninep.fs import File
from ventifs.store import Store

FILE_BYTES_MAX = 250  # of the 400 of a fid
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
        assert len({file.qid.path for file in held}) == count
        gc.collect()
        whole = tracemalloc.get_traced_memory()[0]
        del held
        gc.collect()
        gone = whole - tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert count == DIRECTORIES * FILES
        assert gone / count <= FILE_BYTES_MAX
        assert gone / count > 100  # else this measures something else


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
