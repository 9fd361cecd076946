"""What cannot be read, or does not rest, is told and recorded, and does not stop the run."""

import errno
import multiprocessing
import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import pytest

from tests.support.growing import is_archived
from tests.support.patience import PATIENCE_S
from tests.support.reading import before_reading, listings, once_before_reading
from tests.support.stores import findings, new_store
from tests.support.trees import archived, noise
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.archive import file_reader as live
from ventifs.tree.archive import scan
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.file_reader import Trouble
from ventifs.tree.archive.scan import Options
from ventifs.tree.objects.directory import resolve, tree
from ventifs.tree.objects.records import Directory, Empty, Entry
from ventifs.tree.patterns import Patterns
from ventifs.tree.tar.tar_source import TarSource
from ventifs.tree.versions.catalog import Version, versions
from ventifs.tree.versions.troubles import Troubles, troubles_of
from ventifs.tree.versions.verify import Verifier

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


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
        child.join(PATIENCE_S)
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


@pytest.mark.parametrize(
    ("times", "troubles"),
    [
        (1, ()),
        (1000, ((b"busy", "input/output error", True),)),
    ],
)
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
@pytest.mark.parametrize("when", ["before its status", "before it is read"])
def test_a_file_that_becomes_something_else_is_told(
    store: Path, source: Path, busy: Path, becomes: str, when: str
) -> None:
    def change() -> None:
        if not busy.is_file():
            return  # done
        busy.unlink()
        if becomes == "fifo":
            os.mkfifo(busy)
        elif becomes == "link":
            busy.symlink_to("/etc/passwd")
        elif becomes == "directory":
            busy.mkdir()

    early = when == "before its status"
    with listings(lambda _: change()) if early else once_before_reading(change):
        version, _ = archived(store, source)
    if early and becomes != "gone":
        assert version.troubles == ()
        assert stat.S_IFMT(below(store, version, b"busy").mode) == stat.S_IFMT(busy.lstat().st_mode)
        return
    [(path, reason, missing)] = version.troubles
    assert (path, missing) == (b"busy", True)
    assert reason
    with Store.open(store) as opened:
        assert [path for path, _ in tree(opened, version.root)] == [b"after", b"zlast"]


@pytest.mark.parametrize("becomes", ["gone", "fifo", "regular file", "directory"])
def test_a_link_that_becomes_something_else_is_told_or_archived_as_that(
    store: Path, source: Path, busy: Path, becomes: str
) -> None:
    busy.unlink()
    busy.symlink_to("target")

    def change() -> None:
        busy.unlink()
        if becomes == "fifo":
            os.mkfifo(busy)
        elif becomes == "regular file":
            busy.write_bytes(noise(100))
        elif becomes == "directory":
            busy.mkdir()

    with once_before_reading(change):
        version, _ = archived(store, source)
    if becomes == "fifo":
        assert version.troubles == ()
        assert stat.S_ISFIFO(below(store, version, b"busy").mode)
        return
    reason = "no such file or directory" if becomes == "gone" else "became another type of file"
    assert version.troubles == ((b"busy", reason, True),)


def test_a_directory_that_is_gone_or_another_thing_is_told(store: Path, source: Path) -> None:
    for name in ("a", "b", "c"):
        (source / name).mkdir(parents=True)
        (source / name / "in").write_bytes(b"in")

    def progress(_: object, path: bytes) -> None:
        if path == b"a":
            subprocess.run(["rm", "-r", source / "b", source / "c"], check=True)
            (source / "c").symlink_to("/etc")

    with Store.open(store, "write") as opened:
        version, _ = archive(opened, DirectorySource(source), "t", progress=progress)
        left = [path for path, _ in tree(opened, version.root)]
    assert left == [b"a", b"a/in", b"b", b"c"]
    assert [(path, missing) for path, _, missing in sorted(version.troubles)] == [
        (b"b", False),
        (b"c", False),
    ]
    assert "no such file or directory" in version.troubles[0][1]
    assert findings(store) == []


@pytest.mark.parametrize("segment_max", [4096, 2])
def test_a_name_that_is_listed_twice_is_archived_once(
    store: Path, source: Path, busy: Path, monkeypatch: pytest.MonkeyPatch, segment_max: int
) -> None:
    monkeypatch.setattr(scan, "SEGMENT_MAX", segment_max)
    with listings(lambda items: items.extend(items[:2])):
        archived(store, source)
    assert findings(store) == []
    is_archived(store, "t", source)


def test_what_is_excluded_may_vanish(store: Path, source: Path, busy: Path) -> None:
    options = Options(exclude=Patterns([b"busy"]))
    with Store.open(store, "write") as opened, listings(lambda _: busy.unlink(missing_ok=True)):
        version, _ = archive(opened, DirectorySource(source, options=options), "t")
    assert version.troubles == ()


def test_attributes_of_a_directory_that_are_too_large_are_told(
    store: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "d").mkdir(parents=True)
    os.setxattr(source / "d", b"user.a", b"1" * 100)
    monkeypatch.setattr(live, "WHOLE_MAX", 10)
    version, _ = archived(store, source)
    [(path, reason, missing)] = version.troubles
    assert (path, missing) == (b"d", False)
    assert "attributes" in reason


def test_troubles_that_a_record_does_not_list_are_in_blocks(store: Path, source: Path) -> None:
    source.mkdir()
    for number in range(250):
        (source / f"{number:03}").write_bytes(b"")

    def fail(name: bytes) -> None:
        raise OSError(errno.EACCES, "")

    with before_reading(fail):
        version, _ = archived(store, source)
    assert (len(version.troubles), version.troubles_more) == (200, 50)
    with Store.open(store) as opened:
        [stored] = versions(opened)
        assert stored == version
        found = list(troubles_of(opened, stored))
    assert [path for path, _, _ in found] == [b"%03d" % number for number in range(250)]


def test_long_paths_of_many_troubles_are_in_blocks(store: Path, source: Path) -> None:
    """205 unreadable files whose paths have 5,000 bytes: more than a record of 256 KiB holds."""
    fd = os.open(source.parent, os.O_RDONLY)
    for name in (source.name, *[f"{depth:02}" + "d" * 230 for depth in range(20)]):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    for number in range(205):
        os.close(os.open(f"{number:03}" + "f" * 200, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)

    def fail(name: bytes) -> None:
        raise OSError(errno.EACCES, "")

    with before_reading(fail):
        version, _ = archived(store, source)
    assert len(version.troubles) + version.troubles_more == 205
    with Store.open(store) as opened:
        found = list(troubles_of(opened, version))
        assert list(Verifier(opened).version(version)) == []
    assert len({path for path, _, _ in found}) == 205
    assert all(len(path) == 20 * 233 + 203 for path, _, _ in found)
    assert findings(store) == []


def test_a_file_of_proc_that_says_it_is_empty_is_told(store: Path) -> None:
    with Store.open(store, "write") as opened:
        version, _ = archive(
            opened,
            DirectorySource(Path("/proc/self/task"), options=Options(one_file_system=True)),
            "task",
        )
    assert any("size" in reason for _, reason, _ in version.troubles)


@as_root
def test_a_small_tmpdir_holds_up_no_archive(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too much for memory waits in the store; without one, the message names TMPDIR."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], check=True)
    monkeypatch.setattr(tempfile, "tempdir", str(small))
    found = [Trouble(b"%06d" % number, "why", missing=True) for number in range(25_000)]
    try:
        with Store.open(store, "write") as opened:
            kept = Troubles(found, opened)
            assert [int(path) for path, _, _ in kept] == list(range(25_000))
            assert not [path for path in store.iterdir() if "ventifs-" in path.name]
        with Store.open(store) as reading:
            for target in (None, reading):
                with pytest.raises(VentifsError, match=f"^{small}: no space left .*TMPDIR"):
                    Troubles(found, target)
    finally:
        subprocess.run(["umount", small], check=True)


@as_root
def test_a_tar_with_many_troubles_needs_no_tmpdir(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for number in range(10_001):
            tar.addfile(tarfile.TarInfo(f"../{number}"))
    with (tmp_path / "t.tar").open("rb") as stream, Store.open(store, "write") as opened:
        version, _ = archive(opened, TarSource(stream, "t.tar"), "t")
        assert len(version.troubles) + version.troubles_more == 10_001
