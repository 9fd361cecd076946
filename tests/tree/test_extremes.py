"""All that the file systems here can hold is archived, and can be read. Needs root to mount."""

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.btrfs import mounted_btrfs
from tests.support.filesystems import made, mounted
from tests.support.imaging import archive_file
from tests.support.stores import findings
from tests.support.trees import archived
from ventifs.store import Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.objects.directory import resolve, tree
from ventifs.tree.objects.records import (
    LENGTH_MAX,
    Directory,
    Entry,
    RegularFile,
    clamped_ns,
    time_problem,
)
from ventifs.tree.restore.restorer import Restorer
from ventifs.tree.tar.exporter import Exporter
from ventifs.tree.tar.tar_source import TarSource
from ventifs.tree.versions.catalog import Version, find_version, tree_score
from ventifs.tree.versions.verify import Verifier

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")

MIB = 1 << 20
SECONDS = [
    -(10**13),
    -11_644_473_600,
    -9_223_372_037,
    -9_223_372_036,
    -(2**31) - 1,
    -(2**31),
    -1,
    0,
    2**31,
    2**32,
    9_223_372_036,
    9_223_372_037,
    10_413_792_000,
    15_032_385_535,
    16_299_260_424,
    18_446_744_073,
    18_446_744_074,
    99_999_999_999,
    10**13,
]
NAME_BYTES = [byte for byte in range(1, 256) if byte != ord("/")]


@contextmanager
def _tmpfs(top: Path) -> Iterator[Path]:
    place = top / "tmpfs"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@contextmanager
def _image(top: Path, filesystem: str) -> Iterator[Path]:
    options = ["-m", "bigtime=1"] if filesystem == "xfs" else ["-O", "ea_inode"]
    image = made(top / "image", filesystem, 512 * MIB, options)
    with mounted(image, filesystem, writable=True) as place:
        yield place


def _mount(stack: ExitStack, top: Path, filesystem: str) -> Path:
    if filesystem == "tmpfs":
        return stack.enter_context(_tmpfs(top))
    if filesystem == "btrfs":
        return stack.enter_context(mounted_btrfs(top))
    return stack.enter_context(_image(top, filesystem))


def _fill(top: Path) -> None:
    """Everything at the limits of the file system, or of the kernel."""
    _names(top / "names")
    _attributes(top / "attributes")
    _sizes(top / "sizes")
    _kinds(top / "kinds")
    _times(top / "times")


def _names(top: Path) -> None:
    place = os.fsencode(top)
    os.mkdir(place)
    for byte in NAME_BYTES:
        with open(place + b"/" + bytes([byte]) * 255, "wb"):
            pass
        if byte != ord("."):
            with open(place + b"/" + bytes([byte]), "wb"):
                pass
    os.mkdir(place + b"/d" + b"\xff" * 254)
    for length in (1, 59, 60, 61, 1023, 4095):  # XFS keeps up to 1023
        with suppress(OSError):
            os.symlink(b"t" * length, place + b"/link%d" % length)
    os.link(place + b"/" + b"h" * 255, place + b"/hard link")


def _attributes(top: Path) -> None:
    top.mkdir()
    every = {"none": [], "small": [0, 1], "large": [60_000, 65_536], "many": [9] * 60}
    for name, sizes in every.items():
        path = top / name
        path.touch()
        for number, size in enumerate(sizes):
            for attribute in (f"user.{number}", f"trusted.{'n' * 240}{number}"):
                with suppress(OSError):  # as much as there is room for
                    os.setxattr(path, attribute, b"v" * size)


def _sizes(top: Path) -> None:
    """Two files as large as there can be: their sum is more than a directory's total holds."""
    top.mkdir()
    for name in ("first", "second"):
        low, high = 0, LENGTH_MAX
        with (top / name).open("wb") as file:
            while low < high:
                middle = (low + high + 1) // 2
                try:
                    file.truncate(middle)
                    low = middle
                except OSError:  # too large, or invalid
                    high = middle - 1
            file.truncate(low)
            os.pwrite(file.fileno(), b"start", 0)


def _kinds(top: Path) -> None:
    top.mkdir()
    for major, minor in ((0, 0), (4095, 2**18 - 1), (4095, 2**20 - 1)):
        name = top / f"{major}-{minor}"
        with suppress(OSError):  # XFS has 18 bits for the second
            os.mknod(name, stat.S_IFBLK | 0o600, os.makedev(major, minor))
            os.chown(name, 2**32 - 2, 2**32 - 2)
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(top)
        bound.bind("socket")
        os.chdir(here)
    for mode in (0, 0o7777):
        (top / f"mode{mode}").touch()
        (top / f"mode{mode}").chmod(mode)


def _times(top: Path) -> None:
    top.mkdir()
    for number, seconds in enumerate(SECONDS):
        for nanoseconds in (0, 999_999_999):
            file = top / f"{number}-{nanoseconds}"
            directory = top / f"d{number}-{nanoseconds}"
            file.write_bytes(b"precious")
            directory.mkdir()
            (directory / "in it").touch()
            for path in (file, directory):
                time_ns = seconds * 10**9 + nanoseconds
                os.utime(path, ns=(0, time_ns))


def _statuses(top: Path) -> dict[bytes, os.stat_result]:
    root = os.fsencode(top)
    found = {b"": os.lstat(root)}
    for directory, below, files in os.walk(root):
        for name in below + files:
            path = os.path.join(directory, name)
            found[path[len(root) + 1 :]] = os.lstat(path)
    return found


def _agree(store: Store, version: Version, top: Path) -> None:
    statuses = _statuses(top)
    entries: dict[bytes, Entry] = {b"": version.root, **dict(tree(store, version.root))}
    assert set(entries) == set(statuses)
    for path, entry in entries.items():
        status = statuses[path]
        expected = (status.st_mode, status.st_uid, status.st_gid, clamped_ns(status.st_mtime_ns))
        assert (entry.mode, entry.uid, entry.gid, entry.mtime_ns) == expected, path
        if isinstance(entry.detail, RegularFile):
            assert entry.size == status.st_size, path
    beyond = {path for path, status in statuses.items() if time_problem(status.st_mtime_ns)}
    assert {path for path, _, _ in version.troubles} == beyond
    assert not any(missing for _, _, missing in version.troubles)


@pytest.mark.parametrize("filesystem", ["tmpfs", "ext4", "xfs", "btrfs"])
def test_all_that_a_file_system_holds_can_be_read(
    store: Path, tmp_path: Path, filesystem: str
) -> None:
    with ExitStack() as stack:
        top = _mount(stack, tmp_path, filesystem)
        _fill(top)
        version, _ = archived(store, top)
        again, _ = archived(store, top)  # asks the stat cache
        assert (tree_score(again.root), again.troubles) == (
            tree_score(version.root),
            version.troubles,
        )
        with Store.open(store) as opened:
            assert list(Verifier(opened).version(find_version(opened, "t"))) == []
            _agree(opened, version, top)
    assert findings(store) == []
    _comes_back_from_tar(store, tmp_path, version)
    if filesystem in ("ext4", "xfs"):
        _is_read_from_its_disk(store, tmp_path / "image", version)


def _comes_back_from_tar(store: Path, top: Path, version: Version) -> None:
    """All but sockets and the sums of sizes; a tar of eight exbibytes has only what is there."""
    with Store.open(store, "write") as opened, (top / "stream.tar").open("w+b") as stream:
        done = Exporter(opened, stream.write).run(version.root)
        assert [path for path, _ in done.left] == [b"kinds/socket"]
        stream.seek(0)
        unpacked, _ = archive(opened, TarSource(stream, "tar"), "tar")
        before = dict(tree(opened, version.root))
        after = dict(tree(opened, unpacked.root))
    assert unpacked.troubles == ()
    assert set(before) - set(after) == {b"kinds/socket"}
    for path, entry in after.items():
        if not isinstance(entry.detail, Directory):
            assert entry == before[path], path
        assert entry.mtime_ns == before[path].mtime_ns, path


def _is_read_from_its_disk(store: Path, image: Path, version: Version) -> None:
    _, troubles, _ = archive_file(store, image, "disk")
    assert troubles == ()
    with Store.open(store) as opened:
        disk = find_version(opened, "disk")
        files = resolve(opened, disk.root, b"files")
        [(_, below)] = [each for each in tree(opened, files) if b"/" not in each[0]]
        mine, theirs = dict(tree(opened, version.root)), dict(tree(opened, below))
        assert set(mine) == set(theirs)
        for path, entry in mine.items():
            assert theirs[path] == entry, path


def test_a_restore_reports_times_that_the_file_system_changes(store: Path, tmp_path: Path) -> None:
    """Inodes of 128 bytes end in 2038, without an error."""
    with ExitStack() as stack:
        source = stack.enter_context(_tmpfs(tmp_path))
        (source / "d").mkdir()
        for name, time_ns in (("late", 10_413_792_000 * 10**9), ("usual", 1_700_000_000 * 10**9)):
            (source / name).touch()
            os.utime(source / name, ns=(0, time_ns))
        (source / "link").symlink_to("x")
        os.utime(source / "link", ns=(0, -(2**33) * 10**9), follow_symlinks=False)
        os.utime(source / "d", ns=(0, 2**63))
        version, _ = archived(store, source)
        image = made(tmp_path / "small", "ext4", 64 * MIB, ["-I", "128"])
        target = stack.enter_context(mounted(image, "ext4", writable=True))
        with Store.open(store) as opened:
            done = Restorer(opened).run(version.root, target / "restored")
        assert sorted(done.left) == [
            (
                b"d",
                "time 2262-04-11T23:47:16.854775808Z: this file system made it "
                "2038-01-19T03:14:07Z",
            ),
            (b"late", "time 2300-01-01T00:00:00Z: this file system made it 2038-01-19T03:14:07Z"),
            (b"link", "time 1697-10-17T11:03:28Z: this file system made it 1901-12-13T20:45:52Z"),
        ]
        assert done.failed == []
