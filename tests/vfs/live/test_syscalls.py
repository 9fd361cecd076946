"""`syscalls.py` against what `os` and the kernel report of the same files."""

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import create_string_buffer
from pathlib import Path

import pytest

from tests.support.privileges import refusal
from tests.support.threads import in_thread
from ventifs.vfs.live import syscalls
from ventifs.vfs.live.actor import Actor, acting_here
from ventifs.vfs.live.syscalls import Statx

O_PATH = os.O_PATH | os.O_NOFOLLOW
NOW = -1
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change credentials")


@contextmanager
def opened(path: Path, flags: int = O_PATH) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def lines_of(status: str, *beginnings: str) -> list[str]:
    """Lines of a process's status."""
    return [line for line in status.splitlines() if line.startswith(beginnings)]


def as_os_reports(path: Path) -> Statx:
    found = path.lstat()
    return Statx(
        found.st_mode,
        found.st_ino,
        found.st_dev,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_rdev,
        found.st_size,
        found.st_blocks,
        found.st_blksize,
        found.st_atime_ns,
        found.st_mtime_ns,
        found.st_ctime_ns,
        btime_ns=0,
    )


@pytest.mark.parametrize("kind", ["file", "sparse", "directory", "symlink", "dangling", "fifo"])
def test_statx_has_the_fields_of_stat(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    match kind:
        case "file":
            path.write_bytes(b"some bytes")
            os.utime(path, ns=(-1_500_000_001, 2**33 * 1_000_000_000 + 7))
        case "sparse":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        case "directory":
            (path / "below").mkdir(parents=True)
        case "symlink":
            path.symlink_to(tmp_path)
        case "dangling":
            path.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(path)
    with opened(path) as fd:
        found = syscalls.statx(fd)
        born = syscalls.born(fd)
    assert found._replace(btime_ns=0) == as_os_reports(path)
    device = os.major(found.dev) | os.minor(found.dev) << 32
    assert born == (found.mode, found.ino, *divmod(found.btime_ns, 1_000_000_000), device)
    with opened(tmp_path) as top:
        assert syscalls.born_at(top, b"it") == born


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero", "/dev", "/proc", "/proc/self/status"])
def test_statx_has_device_numbers(device: str) -> None:
    path = Path(device)
    with opened(path) as fd:
        found = syscalls.statx(fd)
    reported = path.stat()
    assert (found.dev, found.rdev) == (reported.st_dev, reported.st_rdev)
    assert stat.S_IFMT(found.mode) == stat.S_IFMT(reported.st_mode)


def test_statx_knows_when_a_file_was_made(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with opened(path) as fd:
        first = syscalls.statx(fd)
        os.utime(path, ns=(5, 5))
        path.write_bytes(b"changed")
        assert syscalls.statx(fd).btime_ns == first.btime_ns
    if first.btime_ns:
        assert first.btime_ns <= first.ctime_ns


def test_errors_are_the_kernels() -> None:
    fd = os.open("/", O_PATH)
    os.close(fd)
    assert refusal(lambda: syscalls.statx(fd)) == errno.EBADF
    assert refusal(lambda: syscalls.handle_of(fd)) == errno.EBADF
    assert refusal(lambda: syscalls.open_beneath(fd, b"x", O_PATH)) == errno.EBADF
    assert refusal(lambda: syscalls.chown_empty(fd, -1, -1)) == errno.EBADF
    assert refusal(lambda: syscalls.set_times(fd, 0, 0)) == errno.EBADF
    assert refusal(lambda: syscalls.link_by_fd(fd, fd, b"x")) in (errno.EBADF, errno.ENOENT)
    assert refusal(lambda: syscalls.list_directory(fd, create_string_buffer(512))) == errno.EBADF


def test_threads_do_not_share_buffers(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * number)
    wrong: list[object] = []

    def look(path: Path) -> None:
        with opened(path) as fd:
            first, handle = syscalls.statx(fd), syscalls.handle_of(fd)
            for _ in range(5_000):
                found, again = syscalls.statx(fd), syscalls.handle_of(fd)
                if (found, again) != (first, handle):
                    wrong.append((first, found, handle, again))

    threads = [threading.Thread(target=look, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("cached", [True, False])
def test_open_beneath_goes_down(tmp_path: Path, cached: bool) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").write_bytes(b"found")
    (tmp_path / "directory" / "file").stat()
    with opened(tmp_path) as top:
        fd = syscalls.open_beneath(top, b"directory/file", os.O_RDONLY, cached)
        assert os.read(fd, 10) == b"found"
        assert not os.get_inheritable(fd)
        os.close(fd)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (b"..", errno.EXDEV),
        (b"/etc", errno.EXDEV),
        (b"out", errno.EXDEV),
        (b"up", errno.EXDEV),
        (b"none", errno.ENOENT),
        (b"file/x", errno.ENOTDIR),
        (b"x" * 256, errno.ENAMETOOLONG),
        (b"", errno.ENOENT),
    ],
)
def test_open_beneath_leads_nowhere_else(tmp_path: Path, name: bytes, number: int) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "out").symlink_to("/etc")
    (inside / "up").symlink_to("..")
    (inside / "file").touch()
    with opened(inside) as top:
        assert refusal(lambda: syscalls.open_beneath(top, name, os.O_PATH, False)) == number


def test_open_beneath_passes_no_mount_point() -> None:
    with opened(Path("/")) as top:
        assert refusal(lambda: syscalls.open_beneath(top, b"proc", O_PATH, False)) == errno.EXDEV
    with opened(Path("/proc")) as top:
        own = b"self/fd/%d" % top
        assert refusal(lambda: syscalls.open_beneath(top, own, os.O_PATH, False)) == errno.ELOOP


def test_open_beneath_creates_with_the_mode(tmp_path: Path) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
    before = os.umask(0o22)
    with opened(tmp_path) as top:
        assert refusal(lambda: syscalls.open_beneath(top, b"f", flags, mode=0o640)) == errno.EAGAIN
        fd = syscalls.open_beneath(top, b"f", flags, cached=False, mode=0o640)
        os.write(fd, b"written")
        os.close(fd)
        again = refusal(lambda: syscalls.open_beneath(top, b"f", flags, False, 0o640))
    os.umask(before)
    assert again == errno.EEXIST
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


def test_a_handle_is_one_files(tmp_path: Path) -> None:
    """Inode numbers are used again within moments; handles are not."""
    path = tmp_path / "file"
    handles: list[bytes] = []
    for _ in range(50):
        path.touch()
        with opened(path) as fd:
            handles.append(syscalls.handle_of(fd))
            assert syscalls.handle_of(fd) == handles[-1]
        path.rename(tmp_path / "other")
        with opened(tmp_path / "other") as fd:
            assert syscalls.handle_of(fd) == handles[-1]
        (tmp_path / "other").unlink()
    assert len(set(handles)) == 50


def test_a_pipe_has_no_handle() -> None:
    ends = os.pipe()
    assert refusal(lambda: syscalls.handle_of(ends[0])) == errno.EOPNOTSUPP
    for fd in ends:
        os.close(fd)


@needs_root
def test_open_handle_finds_the_file_wherever_it_went(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    mount = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with opened(path) as fd:
        handle = syscalls.handle_of(fd)
    (tmp_path / "below").mkdir()
    path.rename(tmp_path / "below" / "moved")
    fd = syscalls.open_handle(mount, handle, os.O_RDONLY)
    assert os.read(fd, 100) == b"content"
    assert not os.get_inheritable(fd)
    os.close(fd)
    (tmp_path / "below" / "moved").unlink()
    assert refusal(lambda: syscalls.open_handle(mount, handle, os.O_PATH)) == errno.ESTALE
    path.write_bytes(b"another file")
    assert refusal(lambda: syscalls.open_handle(mount, handle, os.O_PATH)) == errno.ESTALE
    assert refusal(lambda: syscalls.open_handle(mount, b"\1\0\0\0", os.O_PATH)) in (
        errno.EINVAL,
        errno.ESTALE,
    )
    os.close(mount)


@pytest.mark.parametrize("size", [288, 4096, 1 << 16])
def test_listings_are_whole(tmp_path: Path, size: int) -> None:
    names = {b"x" * length for length in range(1, 256)} | {b"\xff\xfe", b"new\nline"}
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).touch()
    buffer = create_string_buffer(b"\xee" * size, size)
    found: dict[bytes, tuple[int, int]] = {}
    with opened(tmp_path, os.O_RDONLY) as fd:
        cookies: list[tuple[int, bytes]] = []
        while length := syscalls.list_directory(fd, buffer):
            for ino, cookie, kind, name in syscalls.entries_of(buffer, length):
                assert name not in found
                found[name] = ino, kind
                cookies.append((cookie, name))
        assert found.keys() == names | {b".", b".."}
        for at in (0, 100, len(cookies) - 2):  # a cookie is where the next entry begins
            os.lseek(fd, cookies[at][0], os.SEEK_SET)
            length = syscalls.list_directory(fd, buffer)
            assert next(syscalls.entries_of(buffer, length))[3] == cookies[at + 1][1]
    with os.scandir(os.fsencode(tmp_path)) as entries:
        for entry in entries:
            assert found[entry.name] == (entry.inode(), 8)
    assert found[b"."] == (tmp_path.stat().st_ino, 4)


def test_a_listing_of_a_deleted_directory_is_enoent(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    path.mkdir()
    with opened(path, os.O_RDONLY) as fd:
        path.rmdir()
        buffer = create_string_buffer(512)
        assert refusal(lambda: syscalls.list_directory(fd, buffer)) == errno.ENOENT


def test_times_are_set_apart(tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.symlink_to("nowhere")
    with opened(path) as fd:
        syscalls.set_times(fd, 5_000_000_007, -3)
        assert path.lstat().st_atime_ns == 5_000_000_007
        assert path.lstat().st_mtime_ns == -3
        syscalls.set_times(fd, None, 11)
        assert (path.lstat().st_atime_ns, path.lstat().st_mtime_ns) == (5_000_000_007, 11)
        syscalls.set_times(fd, NOW, None)
        assert path.lstat().st_atime_ns > 10**18
        assert path.lstat().st_mtime_ns == 11


def test_the_ctime_alone_can_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.utime(path, ns=(1, 2))
    with opened(path) as fd:
        before = syscalls.statx(fd)
        while syscalls.statx(fd).ctime_ns == before.ctime_ns:
            syscalls.chown_empty(fd, -1, -1)
        now_ns = syscalls.statx(fd).ctime_ns
        assert now_ns > before.ctime_ns
        assert syscalls.statx(fd) == before._replace(ctime_ns=now_ns)


@needs_root
def test_owners_of_symbolic_links_are_changed(tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.symlink_to("nowhere")
    with opened(path) as fd:
        syscalls.chown_empty(fd, 2**32 - 2, -1)
        assert (path.lstat().st_uid, path.lstat().st_gid) == (2**32 - 2, os.getegid())
        syscalls.chown_empty(fd, -1, 5)
        assert (path.lstat().st_uid, path.lstat().st_gid) == (2**32 - 2, 5)


@pytest.mark.parametrize("kind", ["file", "symlink", "fifo"])
def test_a_descriptor_gets_another_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "first"
    match kind:
        case "file":
            path.touch()
        case "symlink":
            path.symlink_to("x")
        case "fifo":
            os.mkfifo(path)
    with opened(path) as fd, opened(tmp_path) as top:
        path.rename(tmp_path / "renamed")
        syscalls.link_by_fd(fd, top, b"second")
        assert (tmp_path / "second").lstat().st_ino == (tmp_path / "renamed").lstat().st_ino
        assert refusal(lambda: syscalls.link_by_fd(fd, top, b"second")) == errno.EEXIST


@needs_root
def test_credentials_are_of_one_thread(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)

    def work() -> None:
        effective, permitted, _ = syscalls.capabilities()
        assert effective == permitted
        syscalls.set_groups([7, 2**32 - 2])
        syscalls.set_fsgid(1001)
        syscalls.set_fsuid(2**32 - 2)
        syscalls.set_capabilities(0, permitted)
        assert syscalls.capabilities() == (0, permitted, 0)
        status = Path("/proc/thread-self/status").read_text()
        assert "Groups:\t7 4294967294 \n" in status
        assert [line.split()[4] for line in lines_of(status, "Uid:", "Gid:")] == [
            "4294967294",
            "1001",
        ]
        assert refusal(lambda: os.listdir(tmp_path / "closed")) == errno.EACCES
        assert refusal(lambda: syscalls.set_groups([])) == errno.EPERM
        assert refusal(lambda: syscalls.set_fsuid(1234)) == errno.EPERM
        assert refusal(lambda: syscalls.set_fsgid(1234)) == errno.EPERM
        syscalls.set_capabilities(0, permitted & ~1)  # CAP_CHOWN, for good
        assert refusal(lambda: syscalls.set_capabilities(1, permitted)) == errno.EPERM
        permitted &= ~1
        syscalls.set_capabilities(permitted, permitted)
        syscalls.set_fsuid(0)
        assert os.listdir(tmp_path / "closed") == []

    what = ("Uid:", "Gid:", "Groups:", "Cap")
    before = lines_of(Path("/proc/self/status").read_text(), *what)
    in_thread(work)
    assert lines_of(Path("/proc/self/status").read_text(), *what) == before
    assert os.listdir(tmp_path / "closed") == []


@pytest.mark.parametrize("mode", [0o711, 0o722, 0o744, 0o700, 0o4755])
def test_permission_is_that_of_the_user_who_acts(tmp_path: Path, mode: int) -> None:
    """Of the one who opens files, not of the process's real or effective one."""
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    wanted = (os.R_OK, os.W_OK, os.X_OK)
    with opened(path) as fd:
        assert [syscalls.permitted(fd, each) for each in wanted] == [True] * 3
        if os.geteuid() == 0:

            def act() -> list[bool]:
                acting_here().become(Actor(1000, 1000))
                return [syscalls.permitted(fd, each) for each in wanted]

            assert in_thread(act) == [bool(mode & each) for each in wanted]
    path.chmod(0)
    with opened(path) as fd:
        allowed = os.geteuid() == 0
        assert [syscalls.permitted(fd, each) for each in wanted] == [allowed, allowed, False]
