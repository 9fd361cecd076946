"""File objects: what `io` promises, holes, ends, and what happens when something is closed."""

import array
import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import ventifs
from tests.api.conftest import SPARSE, SPARSE_SIZE
from tests.support.damage import flip
from ventifs.api.content_reader import ContentReader


def raw(path: ventifs.ArchivedPath) -> ContentReader:
    reader = path.open().detach()
    assert isinstance(reader, ContentReader)
    return reader


def test_a_file_object(version: ventifs.ArchivedVersion) -> None:
    with version.open("/etc/hostname") as file:
        assert isinstance(file, io.BufferedReader)
        assert isinstance(file.raw, ContentReader)
        assert (file.readable(), file.writable(), file.seekable()) == (True, False, True)
        assert (file.name, file.mode, file.tell()) == ("/etc/hostname", "rb", 0)
        assert file.read() == b"web01.example\n"
        assert file.read() == b""
        with pytest.raises(io.UnsupportedOperation):
            file.fileno()
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"")
    assert version.open("nothing").read() == b""
    with io.TextIOWrapper(version.open("etc/hostname"), "ascii") as text:
        assert list(text) == ["web01.example\n"]
    assert (version / "etc/hostname").read_text() == "web01.example\n"


def test_holes_are_zeros(version: ventifs.ArchivedVersion) -> None:
    path = version / "sparse"
    assert path.size == SPARSE_SIZE
    assert path.read_bytes() == SPARSE
    with path.open(buffer_size=1000) as file:
        assert b"".join(iter(lambda: file.read(70_001), b"")) == SPARSE
    pieces = list(path.pieces())
    assert isinstance(pieces[-1], int)
    assert sum(piece for piece in pieces if isinstance(piece, int)) > 2 << 20
    assert b"".join(bytes(piece) for piece in pieces) == SPARSE
    assert (
        b"".join(bytes(piece) for piece in path.pieces(299_990, 1 << 20))
        == (SPARSE[299_990 : 299_990 + (1 << 20)])
    )
    assert list(path.pieces(SPARSE_SIZE + 1)) == list(path.pieces(5, 0)) == []
    copy = io.BytesIO()
    path.write_to(copy)
    assert copy.getvalue() == SPARSE
    for offset, length in [(-1, None), (0, -1)]:
        with pytest.raises(ValueError, match="negative"):
            path.pieces(offset, length)


def test_seeking_anywhere(version: ventifs.ArchivedVersion) -> None:
    rng = random.Random(1)
    with (version / "sparse").open() as file, io.BytesIO(SPARSE) as like:
        for _ in range(300):
            at = rng.choice([0, 299_999, 300_000, 1_348_576, SPARSE_SIZE, rng.randrange(4 << 20)])
            assert file.seek(at) == like.seek(at) == file.tell()
            length = rng.choice([0, 1, 10, 5000, 200_000])
            assert file.read(length) == like.read(length)
            assert file.tell() == like.tell()
            if file.tell() > 7:
                assert file.seek(-7, io.SEEK_CUR) == like.seek(-7, io.SEEK_CUR)
                assert file.readline() == like.readline()


def test_the_ends(version: ventifs.ArchivedVersion) -> None:
    with raw(version / "sparse") as file:
        assert file.seek(-3, io.SEEK_END) == SPARSE_SIZE - 3
        buffer = bytearray(b"abcde")
        assert file.readinto(buffer) == 3
        assert buffer == b"\0\0\0de"
        assert file.readinto(buffer) == 0
        assert file.seek(10, io.SEEK_END) == SPARSE_SIZE + 10
        assert file.tell() == SPARSE_SIZE + 10
        assert (file.readinto(buffer), file.read(5), file.readall()) == (0, b"", b"")
        assert file.tell() == SPARSE_SIZE + 10
        assert file.seek(2**70) == 2**70
        assert file.readinto(buffer) == 0
        with pytest.raises(ValueError, match="before the beginning"):
            file.seek(-1)
        with pytest.raises(ValueError, match="whence"):
            file.seek(0, 3)
        assert file.tell() == 2**70
        file.seek(4)
        assert file.readall() == SPARSE[4:]
        assert file.tell() == SPARSE_SIZE


def test_memory_of_any_shape_is_filled(version: ventifs.ArchivedVersion) -> None:
    numbers = array.array("Q", [0] * 1000)
    with version.open("sparse") as file:
        assert file.readinto(numbers) == 8000
    assert numbers.tobytes() == SPARSE[:8000]
    with raw(version / "sparse") as unbuffered:
        assert unbuffered.readinto(numbers) == 8000
        assert unbuffered.readinto(bytearray()) == 0
    assert numbers.tobytes() == SPARSE[:8000]


def test_a_closed_file(version: ventifs.ArchivedVersion) -> None:
    file = raw(version / "sparse")
    file.read(10)
    file.close()
    file.close()
    attempts: list[Callable[[], object]] = [
        lambda: file.read(1),
        file.readall,
        lambda: file.readinto(bytearray(1)),
        file.tell,
        lambda: file.seek(0),
        file.seekable,
        file.readable,
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match="closed file"):
            attempt()


def test_a_closed_archive(store: Path) -> None:
    archive = ventifs.open(store)
    version = archive["t"]
    known, unknown = version / "sparse", version / "etc/hostname"
    file = known.open()
    assert file.read(1) == SPARSE[:1]
    archive.close()
    archive.close()
    assert archive.closed
    assert known.size == SPARSE_SIZE  # it was looked up
    assert repr(archive) == f"<Archive {store} (closed)>"
    attempts: list[Callable[[], object]] = [
        lambda: file.seek(1 << 20) and file.read(1),
        known.open,
        known.pieces,
        known.xattrs,
        unknown.exists,
        version.walk,
        version.troubles,
        version.disk_facts,
        archive.names,
        archive.versions,
        lambda: archive["t"],
        lambda: "t" in archive,
        lambda: archive.forget("t@latest"),
        lambda: archive.thin(last=1),
    ]
    for attempt in attempts:
        with pytest.raises(ventifs.VentifsError, match="the archive is closed"):
            attempt()
    file.close()  # though nothing can be read from it


def test_damage_leaves_the_position(store: Path) -> None:
    for arena in (store / "arenas").rglob("*"):
        if arena.is_file():
            flip(arena, arena.stat().st_size // 2)
    with ventifs.open(store) as archive, raw(archive["t"] / "sparse") as file:
        with pytest.raises(ventifs.Corrupt):
            file.readall()
        assert file.tell() == 0
        with pytest.raises(ventifs.Corrupt):
            file.readinto(bytearray(300_000))
        assert file.tell() == 0
        file.seek(1 << 20)  # in the hole
        assert file.read(5) == bytes(5)
