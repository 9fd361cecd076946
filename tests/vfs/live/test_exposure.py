"""What may be exported: nothing of ours, nothing twice, nothing that raises anybody's rights."""

import fcntl
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ventifs.vfs.live.export import LiveExport, Sharing
from ventifs.vfs.live.exposure import NotExportable, Own, check_exposure, open_export
from ventifs.vfs.live.mount_table import DevicePath, joined, place_of, ways_to

ROOT = os.geteuid() == 0
USER = 1000
as_root = pytest.mark.skipif(not ROOT, reason="only root can mount and give files away")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def mount(stack: ExitStack) -> Callable[..., None]:
    """Calls mount(8); what is mounted goes at the end."""

    def call(*words: str | Path) -> None:
        subprocess.run(["mount", *words], check=True)
        if "-o" not in words or "remount" not in str(words):
            stack.callback(unmount, words[-1])

    return call


def unmount(path: str | Path) -> None:
    subprocess.run(["umount", "-l", path], check=True)


def check(
    *exports: tuple[str, Path], own: tuple[Own, ...] = (), rw: bool = False, uid: int = USER
) -> None:
    """Check exports by name and directory."""
    with ExitStack() as stack:
        opened = []
        for name, directory in exports:
            opened.append(open_export(LiveExport(name, str(directory), writable=rw)))
            stack.callback(os.close, opened[-1].fd)
        check_exposure(opened, own, uid)


def refused(*exports: tuple[str, Path], **settings: object) -> str:
    """The message with which these exports are refused."""
    with pytest.raises(NotExportable) as caught:
        check(*exports, **settings)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/proc", "proc"), ("/proc/self/fd", "proc"), ("/sys", "sysfs"), ("/sys/kernel", "sysfs")],
)
def test_what_controls_the_kernel_is_no_directory_of_files(path: str, kind: str) -> None:
    assert refused(("a", Path(path))) == (
        f"live export 'a': {path}: is {kind}, by which the kernel is controlled; "
        "name a directory of files"
    )


@as_root
@pytest.mark.parametrize(
    "kind", ["proc", "sysfs", "cgroup2", "debugfs", "tracefs", "securityfs", "devpts", "mqueue"]
)
def test_so_it_is_wherever_it_is_mounted(
    tmp_path: Path, mount: Callable[..., None], kind: str
) -> None:
    if f"\t{kind}\n" not in Path("/proc/filesystems").read_text():
        pytest.skip(f"this kernel has no {kind}")
    try:
        mount("-t", kind, kind, tmp_path)
    except subprocess.CalledProcessError:
        pytest.skip(f"{kind} cannot be mounted here")
    assert f"is {kind}, by which" in refused(("a", tmp_path))


def test_a_directory_must_be_there_and_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    missing = refused(("a", tmp_path / "missing"))
    assert (
        missing == f"live export 'a': {tmp_path}/missing: there is no such directory; make it first"
    )
    for name in ("file", "fifo"):  # and nothing waits for a writer of the FIFO
        assert refused(("a", tmp_path / name)).endswith(f"{name}: is no directory; name one")


@pytest.mark.skipif(ROOT, reason="root may read every directory")
def test_a_directory_must_be_readable(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(0o100)
    assert "cannot be read; run as a user who may" in refused(("a", tmp_path / "closed"))


def test_what_is_ours_lies_apart(tmp_path: Path) -> None:
    for name in ("srv/store/index", "srv/web", "run", "etc", "web"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/allow").touch()
    own = (
        Own("the store", f"{tmp_path}/srv/store", "directory"),
        Own("the socket", f"{tmp_path}/run/9p.sock"),
        Own("the allow file", f"{tmp_path}/etc/allow"),
        Own("the directory of control sockets", f"{tmp_path}/run/ventifs/deep", "directory"),
    )
    for apart in ("srv/web", "web"):
        check(("a", tmp_path / apart), own=own)
    for directory, thing, how in (
        ("srv", "the store", "contains"),
        ("srv/store", "the store", "contains"),
        ("srv/store/index", "the store", "lies in"),
        ("run", "the socket", "contains"),
        ("etc", "the allow file", "contains"),
        (".", "the store", "contains"),
    ):
        message = refused(("a", tmp_path / directory), own=own)
        assert f"{how} {thing} {tmp_path}" in message
        assert "; export a directory" in message
    assert "contains the directory of control sockets" in refused(
        ("a", tmp_path / "run"), own=own[3:]
    )


def test_symbolic_links_hide_nothing(tmp_path: Path) -> None:
    """Neither one on the way to the export, nor one on the way to what is ours."""
    (tmp_path / "real/store").mkdir(parents=True)
    (tmp_path / "real/allow").touch()
    (tmp_path / "links").mkdir()
    for name in ("store", "allow"):
        (tmp_path / "links" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "other").symlink_to(tmp_path / "real")
    store = Own("the store", f"{tmp_path}/links/store", "directory")
    allow = Own("the allow file", f"{tmp_path}/links/allow")
    for own in (store, allow):
        for directory in ("real", "links", "other"):
            assert f"contains {own.what}" in refused(("a", tmp_path / directory), own=(own,))
    assert "lies in the store" in refused(
        ("a", tmp_path / "real/store" / "."),
        own=(Own("the store", str(tmp_path / "other"), "directory"),),
    )


def test_exports_do_not_overlap(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "ab").mkdir()
    check(("one", tmp_path / "a"), ("two", tmp_path / "ab"))
    expected = (
        "live export 'two': lies in 'one'; leave it out, and let clients attach to 'one:/PATH'"
    )
    assert refused(("one", tmp_path / "a"), ("two", tmp_path / "a/b")) == expected
    assert refused(("two", tmp_path / "a/b"), ("one", tmp_path / "a")) == expected
    assert refused(("one", tmp_path / "a"), ("two", tmp_path / "a/b/..")) == (
        "live export 'one': is the same directory as 'two'; leave it out, and let clients attach "
        "to 'two'"
    )


@as_root
def test_bind_mounts_hide_nothing(tmp_path: Path, mount: Callable[..., None]) -> None:
    """A store that is reached by a mount of a directory within the export, and the reverse."""
    for name in ("data/store/index", "srv", "web"):
        (tmp_path / name).mkdir(parents=True)
    mount("--bind", tmp_path / "data/store", tmp_path / "srv")
    own = (Own("the store", f"{tmp_path}/srv", "directory"),)
    assert "contains the store" in refused(("a", tmp_path / "data"), own=own)
    mount("--bind", tmp_path / "data/store/index", tmp_path / "web")
    assert "lies in the store" in refused(("a", tmp_path / "web"), own=own)
    assert "lies in 'one'" in refused(("one", tmp_path / "data"), ("two", tmp_path / "web"))


def test_an_exclusive_directory_is_one_servers(tmp_path: Path, stack: ExitStack) -> None:
    """As another process's lock shows it; the lock goes with the descriptor."""

    def opened(sharing: Sharing) -> int:
        return open_export(LiveExport("a", str(tmp_path), sharing=sharing)).fd

    first, second = opened("shared"), opened("shared")
    with pytest.raises(
        NotExportable, match="another server serves it, too; stop that one, or serve both"
    ):
        opened("exclusive")
    os.close(first)
    os.close(second)
    alone = opened("exclusive")
    for sharing in ("shared", "exclusive"):
        with pytest.raises(NotExportable, match="another server serves it"):
            opened(sharing)
    os.close(alone)
    os.close(opened("shared"))


def test_a_file_system_without_locks_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    check(("a", tmp_path))


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can enter: not below pytest's own, which is closed."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        os.chmod(made, 0o755)
        (Path(made) / "srv/web").mkdir(parents=True)
        yield Path(made)


def test_others_than_root_may_write_anywhere(open_directory: Path) -> None:
    check(("a", open_directory / "srv/web"), rw=True, uid=USER)


@as_root
def test_root_writes_where_only_root_goes(open_directory: Path) -> None:
    web = open_directory / "srv/web"
    check(("a", web), uid=0)
    message = refused(("a", web), rw=True, uid=0)
    assert message.startswith(
        "live export 'a': users of this host could run set-user-ID programs that a guest leaves in "
        f"{web}; "
    )
    srv = open_directory / "srv"
    (open_directory / "link").symlink_to(web)
    assert f"&& mv {web} /srv/live/'" in refused(("a", open_directory / "link"), rw=True, uid=0)
    web.chmod(0o700)  # which a guest's root could undo
    assert refused(("a", web), rw=True, uid=0)
    web.chmod(0o755)
    for mode, closed in (
        (0o700, True),
        (0o710, False),
        (0o701, False),
        (0o500, True),
        (0o755, False),
    ):
        srv.chmod(mode)
        if closed:
            check(("a", web), rw=True, uid=0)
        else:
            assert refused(("a", web), rw=True, uid=0) == message
    srv.chmod(0o700)
    os.chown(srv, USER, 0)
    assert refused(("a", web), rw=True, uid=0) == message


@as_root
def test_both_remedies_of_the_message_work(
    open_directory: Path, mount: Callable[..., None], stack: ExitStack
) -> None:
    web = open_directory / "srv/web"
    first, second = re.findall(r"'([^']+)'[,;]? ?", refused(("a", web), rw=True, uid=0))[1:]
    assert first == f"install -d -m 700 /srv/live && mv {web} /srv/live/"
    stack.callback(unmount, web)
    subprocess.run(second, shell=True, check=True)
    check(("a", web), rw=True, uid=0)
    moved = first.replace("/srv/live", str(open_directory / "live"))
    other = open_directory / "srv/other"
    other.mkdir()
    subprocess.run(moved.replace(str(web), str(other)), shell=True, check=True)
    check(("a", open_directory / "live/other"), rw=True, uid=0)


@as_root
def test_a_second_way_to_it_counts_as_well(
    open_directory: Path, mount: Callable[..., None]
) -> None:
    """A nosuid mount of it is of no use as long as it can be entered where it lies."""
    web, other = open_directory / "srv/web", open_directory / "other"
    (web / "below").mkdir()
    other.mkdir()
    mount("--bind", web, other)
    mount("-o", "remount,bind,nosuid,nodev", other)
    message = refused(("a", other), rw=True, uid=0)
    assert f"leaves in {web}; " in message
    assert f"&& mv {web} /srv/live/'" in message, "what is to be moved is not the nosuid mount"
    assert f"'mount --bind {web} {web} && " in message
    (open_directory / "srv").chmod(0o700)
    check(("a", other), rw=True, uid=0)
    check(("a", web), rw=True, uid=0)
    part = open_directory / "part"
    part.mkdir()
    mount("--bind", web / "below", part)
    remedy = f"mount -o remount,bind,nosuid,nodev {part}"
    assert refused(("a", web), rw=True, uid=0).endswith(
        f"leaves in {part}; take set-user-ID from it: '{remedy}'"
    )
    mount("-o", "remount,bind,nosuid", part)
    assert refused(("a", web), rw=True, uid=0)
    subprocess.run(remedy, shell=True, check=True)
    check(("a", web), rw=True, uid=0)


@as_root
def test_a_file_of_it_mounted_elsewhere_counts_as_well(
    open_directory: Path, mount: Callable[..., None]
) -> None:
    web, file = open_directory / "srv/web", open_directory / "file"
    (web / "program").touch()
    file.touch()
    (open_directory / "srv").chmod(0o700)
    mount("--bind", web / "program", file)
    assert f"leaves in {file}; " in refused(("a", web), rw=True, uid=0)


def test_places_are_compared_by_whole_names() -> None:
    place = DevicePath(b"8:1", b"/srv/web")
    assert place.holds(place)
    assert place.holds(DevicePath(b"8:1", b"/srv/web/a"))
    assert DevicePath(b"8:1", b"/").holds(place)
    for other in (
        DevicePath(b"8:2", b"/srv/web"),
        DevicePath(b"8:1", b"/srv/web2"),
        DevicePath(b"8:1", b"/srv"),
    ):
        assert not place.holds(other)
    assert joined(b"/", b"a") == b"/a"
    assert joined(b"/a", b"") == b"/a"


def test_a_directory_has_its_path_among_its_ways(tmp_path: Path) -> None:
    odd = tmp_path / "a b\\c\td\ne"
    odd.mkdir()
    fd = os.open(odd, os.O_RDONLY)
    try:
        place = place_of(fd)
        assert place is not None
        assert os.fsencode(os.path.realpath(odd)) in list(ways_to(place))
    finally:
        os.close(fd)


@as_root
def test_mount_points_with_odd_names_are_read_right(
    tmp_path: Path, mount: Callable[..., None]
) -> None:
    odd, target = tmp_path / "a b\\040c\td\ne", tmp_path / "x y"
    odd.mkdir()
    target.mkdir()
    mount("--bind", odd, target)
    fds = [os.open(path, os.O_RDONLY) for path in (odd, target)]
    try:
        one, other = map(place_of, fds)
        assert one == other
        assert one is not None
        assert {os.fsencode(odd), os.fsencode(target)} <= set(ways_to(one))
    finally:
        for fd in fds:
            os.close(fd)
