"""The durable file operations: appends whole or not at all, and errors that say what to do."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.limits import file_size_limit
from ventifs.errors import NoSpace, VentifsError
from ventifs.store.files import Files, explained, readable_errors

FILES = Files()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "file"
    fd = FILES.create(path)
    yield path, fd
    os.close(fd)


def test_parts_are_appended_one_after_the_other(file: tuple[Path, int]) -> None:
    path, fd = file
    assert FILES.append(fd, [b"one ", memoryview(b"two "), bytearray(b"three")], 0) == 13
    assert FILES.append(fd, [b"!"], 13) == 1
    assert path.read_bytes() == b"one two three!"


@pytest.mark.parametrize("room", [0, 1, 999, 1000, 2500])
def test_an_append_that_the_disk_cuts_short_is_undone(file: tuple[Path, int], room: int) -> None:
    path, fd = file
    FILES.append(fd, [b"before"], 0)
    with file_size_limit(6 + room), pytest.raises(OSError, match="File too large"):
        FILES.append(fd, [b"a" * 1000, b"b" * 2000], 6)
    assert path.read_bytes() == b"before"


def test_an_append_that_just_fits_is_whole(file: tuple[Path, int]) -> None:
    path, fd = file
    with file_size_limit(3000):
        assert FILES.append(fd, [b"a" * 1000, b"b" * 2000], 0) == 3000
    assert path.read_bytes() == b"a" * 1000 + b"b" * 2000


def test_a_file_that_is_there_is_not_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(FileExistsError):
        FILES.create(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_bytes_are_overwritten_in_place(file: tuple[Path, int]) -> None:
    path, fd = file
    FILES.append(fd, [b"0123456789"], 0)
    FILES.overwrite(fd, b"ab", 4)
    FILES.truncate(fd, 8)
    assert path.read_bytes() == b"0123ab67"


def test_a_small_file_is_written_or_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / "file.tmp").write_bytes(b"left behind by a crash, and longer")
    FILES.write_whole(path, [b"first"])
    assert path.read_bytes() == b"first"
    FILES.write_whole(path, [b"next"])
    assert path.read_bytes() == b"next"
    assert os.listdir(tmp_path) == ["file"]


def test_a_replacement_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    FILES.write_whole(path, [b"old"])
    with file_size_limit(2), pytest.raises(OSError, match="File too large"):
        FILES.write_whole(path, [b"new content"])
    assert path.read_bytes() == b"old"


def test_a_whole_file_is_synced_before_it_gets_its_name(tmp_path: Path) -> None:
    done: list[str] = []

    class Recorded(Files):
        def sync(self, fd: int) -> None:
            done.append("sync")
            super().sync(fd)

        def rename(self, source: Path, target: Path) -> None:
            done.append("rename")
            super().rename(source, target)

        def sync_directory(self, path: Path) -> None:
            done.append(f"sync {path.name}")
            super().sync_directory(path)

    Recorded().write_whole(tmp_path / "file", [b"content"])
    assert done == ["sync", "rename", f"sync {tmp_path.name}"]


def test_what_is_so_already_is_fine(tmp_path: Path) -> None:
    FILES.unlink(tmp_path / "absent")
    FILES.make_directory(tmp_path / "new")
    FILES.make_directory(tmp_path / "new")
    FILES.sync_directory(tmp_path / "new")
    assert (tmp_path / "new").is_dir()


def test_a_rename_replaces_its_target(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    FILES.rename(tmp_path / "a", tmp_path / "b")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("b", b"a")]


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (
            errno.ENOSPC,
            NoSpace,
            "/x: no space left on device; nothing committed was lost: make room and run the command"
            " again",
        ),
        (
            errno.EDQUOT,
            NoSpace,
            "/x: disk quota exceeded; nothing committed was lost: make room and run the command"
            " again",
        ),
        (
            errno.EROFS,
            VentifsError,
            "/x: the file system is read-only; reading works, writing needs it mounted read-write",
        ),
        (
            errno.EACCES,
            VentifsError,
            "/x: permission denied; run as its owner, or have the owner grant it",
        ),
        (
            errno.EPERM,
            VentifsError,
            "/x: permission denied; run as its owner, or have the owner grant it",
        ),
        (errno.EIO, VentifsError, "/x: input/output error"),
    ],
    ids=["full", "quota", "read-only", "access", "permission", "other"],
)
def test_errors_name_path_reason_and_remedy(
    number: int, kind: type[VentifsError], text: str
) -> None:
    error = explained(OSError(number, "whatever"), Path("/x"))
    assert (type(error), str(error)) == (kind, text)


def test_an_error_without_a_number_keeps_its_text() -> None:
    assert str(explained(OSError("odd"), Path("/x"))) == "/x: odd"


def test_real_errors_are_turned_into_readable_ones(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    path.mkdir()
    with (
        pytest.raises(VentifsError, match=f"{path}: is a directory") as caught,
        readable_errors(path),
    ):
        os.open(path, os.O_WRONLY)
    assert isinstance(caught.value.__cause__, IsADirectoryError)


def test_what_is_no_operating_system_error_passes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), readable_errors(tmp_path):
        raise ValueError("mine")
