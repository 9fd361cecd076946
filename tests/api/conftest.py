"""An archive of two versions of a small tree."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import ventifs
from tests.support.stores import SMALL_ARENA
from tests.support.trees import noise

DAY_NS = 86_400 * 10**9
SPARSE_SIZE = 3 << 20
SPARSE_DATA = noise(300_000, 1)
SPARSE = SPARSE_DATA + bytes(1 << 20) + b"island" + bytes(SPARSE_SIZE - (1 << 20) - 300_006)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with one of each kind, as far as any user can make them."""
    root = tmp_path / "source"
    (root / "etc" / "deep").mkdir(parents=True)
    (root / "etc" / "hostname").write_bytes(b"web01\n")
    (root / "etc" / "deep" / "file").write_bytes(b"deep" * 20_000)
    (root / "link").symlink_to("etc/hostname")
    os.symlink(b"\xfe", root / "odd link")
    os.mkfifo(root / "fifo")
    (root / "nothing").touch()
    with open(os.fsencode(root) + b"/etc/\xff\n", "wb") as file:
        file.write(b"odd")
    with (root / "sparse").open("wb") as sparse:
        sparse.write(SPARSE_DATA)
        sparse.seek(300_000 + (1 << 20))
        sparse.write(b"island")
        sparse.truncate(SPARSE_SIZE)
    return root


@pytest.fixture
def store(tmp_path: Path, source: Path) -> Path:
    """With `t` of the first two days of 1970."""
    path = tmp_path / "store"
    ventifs.init(path, arena_size=SMALL_ARENA)
    with ventifs.open(path, "write") as archive:
        archive.add(source, "t", time_ns=0, comment="first")
        (source / "etc" / "hostname").write_bytes(b"web01.example\n")
        (source / "etc" / "deep" / "new").touch()
        archive.add(source, "t", time_ns=DAY_NS, tags=["second"])
    return path


@pytest.fixture
def archive(store: Path) -> Iterator[ventifs.Archive]:
    """Open to read."""
    with ventifs.open(store) as opened:
        yield opened


@pytest.fixture
def version(archive: ventifs.Archive) -> ventifs.ArchivedVersion:
    """The newest."""
    return archive["t"]
