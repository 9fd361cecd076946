"""What cannot be read, or does not rest, is told and recorded, and does not stop the run."""

import errno
import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.support.stores import findings, new_store
from tests.support.trees import archived, noise, remove
from ventifs.store import Store
from ventifs.tree.archive import Archiver
from ventifs.tree.catalog import Version, versions
from ventifs.tree.directory import resolve, tree
from ventifs.tree.records import Directory, Empty, Entry
from ventifs.tree.run import archive

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return new_store(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "source"
    remove(tmp_path / "source")


def below(store: Path, version: Version, path: bytes) -> Entry:
    with Store.open(store) as opened:
        return resolve(opened, version.root, path)


def _as_nobody(store: Path, source: Path) -> None:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    version, _ = archived(store, source)
    assert sorted(version.troubles) == [
        (b"closed", "directory cannot be read: permission denied", False),
        (b"d/unreadable", "permission denied", True),
    ]
    with Store.open(store) as opened:
        left = [path for path, _ in tree(opened, version.root)]
        closed = resolve(opened, version.root, b"closed")
        [stored] = versions(opened)
    assert left == [b"closed", b"d", b"d/fine", b"z"]
    assert isinstance(closed.detail, Directory)
    assert closed.detail.content == Empty()
    assert sorted(stored.troubles) == sorted(version.troubles)


@as_root
def test_what_a_user_may_not_read_does_not_stop_the_run() -> None:
    with tempfile.TemporaryDirectory() as name:  # below /tmp, where nobody may look
        root = Path(name)
        root.chmod(0o755)
        for path in ("source/closed/in", "source/d/unreadable", "source/d/fine", "source/z"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(b"x")
        (root / "source/closed").chmod(0)
        (root / "source/d/unreadable").chmod(0)
        new_store(root / "store")
        subprocess.run(["chown", "-R", "65534:65534", root / "store"], check=True)
        child = multiprocessing.get_context("forkserver").Process(
            target=_as_nobody, args=(root / "store", root / "source")
        )
        child.start()
        child.join(60)
        assert child.exitcode == 0


Hook = Callable[[int], object]


def hooked(function: str, wanted: Path, hook: Hook) -> AbstractContextManager[object]:
    """Run `hook(n)` before the n-th call of an os function on a descriptor of one file."""
    real, calls = getattr(os, function), iter(range(1000))

    def instead(fd: int, *args: object) -> object:
        if os.readlink(f"/proc/self/fd/{fd}").startswith(str(wanted)):
            hook(next(calls))
        return real(fd, *args)

    return mock.patch.object(os, function, new=instead)


@pytest.fixture
def busy(source: Path) -> Path:
    source.mkdir()
    for name in ("after", "busy", "zlast"):
        (source / name).write_bytes(noise(100_000))
    return source / "busy"


def test_a_file_that_grows_once_is_read_again(store: Path, source: Path, busy: Path) -> None:
    def grow(call: int) -> None:
        if call == 0:
            busy.write_bytes(noise(200_000))

    with hooked("pread", busy, grow):
        version, _ = archived(store, source)
    assert version.troubles == ()
    assert below(store, version, b"busy").size == 200_000


def test_a_file_that_shrinks_once_is_read_again(store: Path, source: Path, busy: Path) -> None:
    def shrink(call: int) -> None:
        if call == 0:
            os.truncate(busy, 5000)

    with hooked("pread", busy, shrink):
        version, _ = archived(store, source)
    assert version.troubles == ()
    assert below(store, version, b"busy").size == 5000


def test_a_file_that_never_rests_is_told(store: Path, source: Path, busy: Path) -> None:
    with hooked("pread", busy, lambda call: os.utime(busy, ns=(0, call))):
        version, _ = archived(store, source)
    assert version.troubles == ((b"busy", "changed while it was read", False),)
    assert below(store, version, b"busy").size == 100_000


def test_a_file_that_always_shrinks_is_told(store: Path, source: Path, busy: Path) -> None:
    with hooked("pread", busy, lambda call: os.truncate(busy, 90_000 - call)):
        version, tally = archived(store, source)
    assert version.troubles == ((b"busy", "shrank while it was read", True),)
    assert tally.entries == 3
    with Store.open(store) as opened:
        assert [path for path, _ in tree(opened, version.root)] == [b"after", b"zlast"]
    assert findings(store) == []


@pytest.mark.parametrize(("times", "troubles"), [
    (1, ()), (1000, ((b"busy", "input/output error", True),)),
])  # fmt: skip
def test_an_error_of_the_disk_is_tried_again_and_told(
    store: Path, source: Path, busy: Path, times: int, troubles: tuple[object, ...]
) -> None:
    def fail(call: int) -> None:
        if call < times:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with hooked("pread", busy, fail):
        version, _ = archived(store, source)
    assert version.troubles == troubles


@pytest.mark.parametrize("becomes", ["gone", "fifo", "link", "directory"])
def test_a_file_that_becomes_something_else_is_told(
    store: Path, source: Path, busy: Path, becomes: str
) -> None:
    def progress(_: object, path: bytes) -> None:
        if path == b"after":  # the names are read, the next is not looked at yet
            real = os.stat

            def change(name: bytes, **options: Any) -> os.stat_result:
                status = real(name, **options)
                if name == b"busy":
                    busy.unlink()
                    if becomes == "fifo":
                        os.mkfifo(busy)
                    elif becomes == "link":
                        busy.symlink_to("/etc/passwd")
                    elif becomes == "directory":
                        busy.mkdir()
                return status

            patch.setattr(os, "stat", change)

    with pytest.MonkeyPatch.context() as patch, Store.open(store, "write") as opened:
        version, _ = archive(opened, source, "t", progress=progress)
    [(path, reason, missing)] = version.troubles
    assert (path, missing) == (b"busy", True)
    assert reason
    with Store.open(store) as opened:
        assert [path for path, _ in tree(opened, version.root)] == [b"after", b"zlast"]


def test_many_troubles_are_counted(store: Path, source: Path) -> None:
    source.mkdir()
    for number in range(250):
        (source / f"{number:03}").write_bytes(b"")

    def fail(archiver: Archiver, frame: object, name: bytes, *args: object) -> None:
        raise OSError(errno.EACCES, "")

    with mock.patch.object(Archiver, "_leaf", fail):
        version, _ = archived(store, source)
    assert len(version.troubles) == 250
    with Store.open(store) as opened:
        [stored] = versions(opened)
    assert (len(stored.troubles), stored.troubles_more) == (200, 50)
