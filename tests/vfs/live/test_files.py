"""Live files are handles: what is done goes to the inode, whatever becomes of names."""

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import AS_ROOT, NAME, Guest, Live, live_export, needs_root, type_of
from tests.support.talking import Talk
from ventifs.ninep.protocol import messages as m
from ventifs.vfs.interface import DIRECTORY, FILE, SYMLINK, AttributeChanges, User

LONGEST = "n" * 255


@pytest.fixture
def live() -> Iterator[Live]:
    with live_export() as live:
        yield live


@pytest.fixture
def guest(live: Live) -> Guest:
    return live.attach()


def gone(live: Live, guest: Guest, path: str) -> None:
    """A file loses its only name."""
    guest.unlink(path)


def renamed_over(live: Live, guest: Guest, path: str) -> None:
    """Another file takes a file's name."""
    guest.put("other", b"other")
    guest.rename("other", path)


def gone_by_the_host(live: Live, guest: Guest, path: str) -> None:
    """The host removes a file, and makes another one of its name."""
    (live.path / path).unlink()
    (live.path / path).write_bytes(b"other")


def parent_moved(live: Live, guest: Guest, path: str) -> None:
    """A file's directory is moved."""
    directory = path.rpartition("/")[0]
    guest.rename(directory, "moved")


FATES = pytest.mark.parametrize("fate", [gone, renamed_over, gone_by_the_host, parent_moved])


@FATES
@pytest.mark.parametrize("opened", [True, False])
def test_a_file_goes_on_without_its_name(
    live: Live, guest: Guest, fate: Callable[..., None], opened: bool
) -> None:
    guest.mkdir("d")
    file = guest.put("d/file", b"content")
    same = guest.open(file, os.O_RDWR)
    at: Any = same if opened else file
    fate(live, guest, "d/file")
    before = guest.stat(at)
    assert before.nlink == (1 if fate is parent_moved else 0)
    assert before.size == 7
    assert guest.run(same.write, 7, b" goes on") == 8
    assert guest.read(same) == b"content goes on"
    assert guest.content(file) == b"content goes on"  # opened anew
    guest.set(at, size=3)
    guest.set(at, mode=0o4600, atime_ns=5, mtime_ns=1_700_000_000_123_456_789)
    guest.set(at, uid=os.geteuid(), gid=os.getegid())  # clears set-uid, as chown does
    after = guest.stat(at)
    assert (after.size, after.atime_ns, after.mtime_ns) == (3, 5, 1_700_000_000_123_456_789)
    assert after.mode == stat.S_IFREG | 0o600
    guest.run(file.set_xattr, b"user.note", b"v", 0)
    assert guest.run(file.xattr, b"user.note") == b"v"
    assert guest.run(file.xattr_names) == [b"user.note"]
    guest.run(same.fsync, data_only=False)
    same.close()
    if fate is not parent_moved and (live.path / "d/file").exists():
        assert (live.path / "d/file").read_bytes() == b"other"


def test_a_directory_goes_on_without_its_name(guest: Guest) -> None:
    guest.mkdir("d")
    directory = guest.at("d")
    listing = guest.open(directory)
    guest.unlink("d", directory=True)
    assert guest.stat(directory).nlink == 0
    assert guest.refused(directory.create, b"new", os.O_RDWR, 0o600, 0) == errno.ENOENT
    assert guest.refused(directory.mkdir, b"new", 0o700, 0) == errno.ENOENT
    assert guest.refused(directory.walk, b"new") == errno.ENOENT
    guest.set(listing, mode=0o700)
    assert guest.stat(listing).mode == stat.S_IFDIR | 0o700
    listing.close()


def test_an_unlinked_file_cannot_get_a_name(guest: Guest) -> None:
    file = guest.put("file")
    guest.unlink("file")
    assert guest.refused(guest.root.link, file, b"again") == errno.ENOENT
    assert guest.names() == []


def test_kinds_are_told_apart(live: Live, guest: Guest) -> None:
    guest.put("file")
    guest.mkdir("directory")
    guest.run(guest.root.symlink, b"link", b"/nowhere", 0)
    guest.run(guest.root.mknod, b"fifo", stat.S_IFIFO | 0o600, 0, 0)
    guest.run(guest.root.mknod, b"socket", stat.S_IFSOCK | 0o600, 0, 0)
    kinds = {"file": FILE, "directory": DIRECTORY, "link": SYMLINK, "fifo": FILE, "socket": FILE}
    numbers = set()
    for name, kind in kinds.items():
        file = guest.at(name)
        there = os.lstat(live.path / name)
        assert (file.identity.kind, file.identity.number) == (kind, there.st_ino)
        assert file.kind == type_of(there.st_mode)
        assert file.name == name.encode()
        numbers.add(file.identity.number)
    assert len(numbers) == 5
    assert guest.run(guest.at("link").readlink) == b"/nowhere"
    for name in kinds:
        if name != "link":
            assert guest.refused(guest.at(name).readlink) == errno.EINVAL


def test_an_identity_is_a_file_s_for_life(live: Live, guest: Guest) -> None:
    file = guest.put("file", b"1")
    identity = file.identity
    assert 0 < identity.version < 1 << 32
    guest.set(file, mtime_ns=1, mode=0o600)
    opened = guest.open(file, os.O_WRONLY)
    guest.run(opened.write, 0, b"another content")
    opened.close()
    guest.rename("file", "renamed")
    guest.run(guest.root.link, file, b"linked")
    for name in ("renamed", "linked"):
        assert guest.at(name).identity == identity
    assert live.attach().at("linked").identity == identity
    assert guest.root.identity == live.attach().root.identity


def test_another_file_with_the_same_inode_number_has_another_version(guest: Guest) -> None:
    seen: dict[int, int] = {}
    again = 0
    for _ in range(50):
        file = guest.put("file")
        number, version = file.identity.number, file.identity.version
        again += number in seen
        assert seen.get(number) != version
        seen[number] = version
        del file
        guest.unlink("file")
    if not again:
        pytest.skip("this file system does not use inode numbers again")


# Nothing is opened that could wait or act


@pytest.mark.parametrize("mode", [stat.S_IFIFO, stat.S_IFSOCK])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC])
def test_fifos_and_sockets_are_not_opened(guest: Guest, mode: int, flags: int) -> None:
    guest.run(guest.root.mknod, b"it", mode | 0o600, 0, 0)
    assert guest.refused(guest.at("it").open, flags) == errno.ENXIO
    assert guest.refused(guest.root.create, b"it", flags, 0o600, 0) == errno.ENXIO
    assert guest.refused(guest.root.create, b"it", flags | os.O_EXCL, 0o600, 0) == errno.EEXIST
    assert guest.refused(guest.set, "it", size=0) == errno.EINVAL
    guest.set("it", mode=0o640, mtime_ns=7)
    assert guest.stat("it").mode == mode | 0o640
    assert guest.stat("it").mtime_ns == 7


@needs_root
def test_devices_are_made_by_root_and_never_opened(live: Live, guest: Guest) -> None:
    rdev = os.makedev(1, 5)
    guest.run(guest.root.mknod, b"zero", stat.S_IFCHR | 0o666, rdev, 0)
    assert guest.stat("zero").rdev == rdev
    assert guest.refused(guest.at("zero").open, os.O_RDONLY) == errno.ENXIO
    live.path.chmod(0o777)
    alice = live.attach(1000)
    assert alice.refused(alice.root.mknod, b"null", stat.S_IFCHR | 0o666, rdev, 0) == errno.EPERM


def test_symbolic_links_are_the_guest_s_to_follow(live: Live, guest: Guest) -> None:
    (live.path / "secret").mkdir()
    (live.path / "secret/file").write_bytes(b"x")
    guest.run(guest.root.symlink, b"link", b"secret", 0)
    link = guest.at("link")
    assert guest.refused(link.open, os.O_RDONLY) == errno.ELOOP
    assert guest.refused(link.walk, b"file") == errno.ENOTDIR
    assert guest.refused(link.walk, b"..") == errno.ENOTDIR
    assert guest.refused(link.create, b"new", os.O_RDWR, 0o600, 0) == errno.ENOTDIR
    assert guest.refused(guest.root.create, b"link", os.O_RDWR, 0o600, 0) == errno.ELOOP
    assert guest.refused(guest.set, link, size=0) == errno.EINVAL
    guest.set(link, mtime_ns=9)
    assert guest.stat(link).mtime_ns == 9
    assert os.lstat(live.path / "secret").st_mtime_ns != 9
    guest.run(guest.root.link, link, b"another")
    assert os.readlink(live.path / "another") == "secret"
    guest.unlink("another")
    assert (live.path / "secret/file").exists()


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"../x", b"a\0b", b"n" * 256])
def test_names_that_are_none(live: Live, guest: Guest, name: bytes) -> None:
    number = errno.ENAMETOOLONG if len(name) > 255 else errno.EINVAL
    file = guest.put("file", b"1")
    before = sorted(os.walk(live.path))
    root = guest.root
    for call in (
        lambda: root.create(name, os.O_RDWR, 0o600, 0),
        lambda: root.mkdir(name, 0o700, 0),
        lambda: root.symlink(name, b"target", 0),
        lambda: root.mknod(name, stat.S_IFIFO | 0o600, 0, 0),
        lambda: root.link(file, name),
        lambda: root.renameat(name, root, b"new"),
        lambda: root.renameat(b"file", root, name),
        lambda: file.rename(None, name),
        lambda: file.rename(root, name),
        lambda: root.unlink(name, directory=False),
        lambda: root.unlink(name, directory=True),
    ):
        assert guest.refused(call) == number
    assert sorted(os.walk(live.path)) == before


def test_the_longest_names(live: Live, guest: Guest) -> None:
    for name in (LONGEST, os.fsdecode(b"\xff" * 255), "\n" * 255):
        guest.mkdir(name)
        guest.put(name + "/" + name, b"1")
        assert guest.content(name + "/" + name) == b"1"
        assert guest.names(name) == [os.fsencode(name)]
        guest.rename(name + "/" + name, "short")
        guest.rename("short", name + "/" + name)
        guest.unlink(name + "/" + name)
        guest.unlink(name, directory=True)
    assert guest.names() == []


# Making and removing


def test_creating(live: Live, guest: Guest) -> None:
    file, opened = guest.create("file", 0o640)
    assert guest.run(opened.write, 0, b"12345") == 5
    assert guest.read(opened) == b"12345"
    assert guest.stat(file).mode == stat.S_IFREG | 0o640
    assert guest.refused(guest.root.create, b"file", os.O_RDWR | os.O_EXCL, 0o600, 0) == 17
    again, second = guest.create("file", flags=os.O_RDWR)  # without O_EXCL it is opened
    assert again.identity == file.identity
    assert guest.stat(second).mode == stat.S_IFREG | 0o640
    _, third = guest.create("file", flags=os.O_WRONLY | os.O_TRUNC)
    assert guest.stat(opened).size == 0
    assert guest.refused(third.read, 0, 1) == errno.EBADF
    guest.mkdir("d")
    assert guest.refused(guest.root.create, b"d", os.O_RDWR, 0o600, 0) == errno.EISDIR
    assert guest.refused(guest.root.create, b"x", os.O_ACCMODE, 0o600, 0) == errno.EINVAL
    assert guest.refused(file.create, b"x", os.O_RDWR, 0o600, 0) == errno.ENOTDIR
    for each in (opened, second, third):
        each.close()


@pytest.mark.parametrize("mode", [0o444, 0o000, 0o200])
def test_a_file_made_unwritable_is_written_by_its_creator(guest: Guest, mode: int) -> None:
    file, opened = guest.create("file", mode)
    assert guest.stat(opened).mode & 0o7777 == mode
    assert guest.run(opened.write, 0, b"0123456789") == 10
    guest.set(opened, size=4)  # ftruncate asks for no permission
    assert guest.read(opened) == b"0123"
    opened.close()
    assert guest.stat(file).size == 4


def test_modes_are_exact_whatever_the_umask(live: Live, guest: Guest) -> None:
    guest.create("file", 0o666)[1].close()
    guest.mkdir("d", 0o777)
    guest.run(guest.root.mknod, b"fifo", stat.S_IFIFO | 0o666, 0, 0)
    modes = {name: guest.stat(name).mode & 0o7777 for name in ("file", "d", "fifo")}
    assert modes == {"file": 0o666, "d": 0o777, "fifo": 0o666}


def test_sticky_and_set_gid_directories_are_made(guest: Guest) -> None:
    guest.mkdir("sticky", 0o1777)
    assert guest.stat("sticky").mode == stat.S_IFDIR | 0o1777
    guest.set("sticky", mode=0o2775)
    assert guest.stat("sticky").mode == stat.S_IFDIR | 0o2775


def test_renaming_over(guest: Guest) -> None:
    guest.put("a", b"a")
    guest.put("b", b"b")
    opened = guest.open("b", os.O_RDWR)
    guest.rename("a", "b")
    assert guest.content("b") == b"a"
    assert guest.read(opened) == b"b"  # as dpkg needs it
    assert guest.stat(opened).nlink == 0
    opened.close()
    guest.mkdir("d")
    guest.mkdir("full")
    guest.put("full/x")
    root = guest.root
    assert guest.refused(root.renameat, b"b", root, b"d") == errno.EISDIR
    assert guest.refused(root.renameat, b"d", root, b"b") == errno.ENOTDIR
    assert guest.refused(root.renameat, b"d", root, b"full") == errno.ENOTEMPTY
    assert guest.refused(root.renameat, b"d", guest.at("d"), b"d") == errno.EINVAL
    assert guest.refused(root.renameat, b"none", root, b"x") == errno.ENOENT
    guest.rename("full", "d")
    assert guest.names("d") == [b"x"]
    assert guest.names() == [b"b", b"d"]


def test_hard_links(guest: Guest) -> None:
    file = guest.put("a", b"1")
    guest.mkdir("d")
    directory = guest.at("d")
    guest.run(directory.link, file, b"b")
    assert guest.stat(file).nlink == 2
    assert guest.at("d/b").identity == file.identity
    assert guest.refused(directory.link, file, b"b") == errno.EEXIST
    assert guest.refused(guest.root.link, directory, b"c") == errno.EPERM
    guest.unlink("a")
    assert guest.content("d/b") == b"1"
    assert guest.stat(file).nlink == 1


def test_unlinking(guest: Guest) -> None:
    guest.mkdir("d")
    guest.put("d/file")
    root = guest.root
    assert guest.refused(root.unlink, b"d", directory=True) == errno.ENOTEMPTY
    assert guest.refused(root.unlink, b"d", directory=False) == errno.EISDIR
    assert guest.refused(guest.at("d").unlink, b"file", directory=True) == errno.ENOTDIR
    assert guest.refused(root.unlink, b"none", directory=False) == errno.ENOENT
    guest.unlink("d/file")
    guest.unlink("d", directory=True)
    assert guest.names() == []


def test_special_files_are_neither_links_nor_directories(guest: Guest) -> None:
    for kind in (stat.S_IFDIR, stat.S_IFLNK):
        assert guest.refused(guest.root.mknod, b"x", kind | 0o600, 0, 0) == errno.EINVAL
    guest.run(guest.root.mknod, b"x", stat.S_IFREG | 0o600, 0, 0)
    assert guest.content("x") == b""


# What 9P2000 and older clients do: a file's own name is changed, or removed


@pytest.mark.parametrize("moved", [False, True])
def test_removing_a_file_by_itself(live: Live, guest: Guest, moved: bool) -> None:
    guest.mkdir("d")
    file, directory = guest.put("d/file"), guest.at("d")
    guest.put("d/other", b"other")
    if moved:
        guest.rename("d/file", "elsewhere")
        guest.rename("d/other", "d/file")  # something else has its name
        guest.rename("d", "D")
    guest.run(file.remove)
    assert guest.names("D" if moved else "d") == [b"file" if moved else b"other"]
    assert guest.stat(file).nlink == 0
    guest.unlink("D/file" if moved else "d/other")
    guest.run(directory.remove)
    assert guest.names() == []
    assert guest.refused(file.remove) == errno.ESTALE
    assert guest.refused(guest.root.remove) == errno.EBUSY


@pytest.mark.parametrize("moved", [False, True])
def test_renaming_a_file_by_itself(guest: Guest, moved: bool) -> None:
    guest.mkdir("d")
    file = guest.put("file", b"1")
    if moved:
        guest.rename("file", "d/moved")
        guest.put("file", b"other")
    guest.run(file.rename, None, b"new")
    assert guest.content("d/new" if moved else "new") == b"1"
    assert file.name == b"new"
    guest.run(file.rename, guest.at("d"), b"newer")
    assert guest.content("d/newer") == b"1"
    assert guest.refused(guest.root.rename, None, b"x") == errno.EBUSY


def test_files_that_are_renamed_into_each_other_have_a_way_up(guest: Guest) -> None:
    """Else a client could let every way up from them go round for ever."""
    guest.mkdir("y")
    guest.mkdir("y/x")
    y = guest.at("y")
    x = guest.run(y.walk, b"x")
    guest.rename("y/x", "x")
    guest.run(y.rename, x, b"y")
    way = [x]
    while way[-1].above is not None and len(way) < 10:
        way.append(way[-1].above)
    assert way[-1] is guest.root
    assert guest.run(x.walk, b"..") is guest.root
    assert guest.run(y.walk, b"..").identity == x.identity
    guest.run(y.remove)
    assert guest.names("x") == []


@needs_root
def test_a_file_that_is_renamed_into_another_users_directory_acts_as_before(live: Live) -> None:
    live.path.chmod(0o777)
    root, guest = live.attach(0), live.attach(1000)
    root.mkdir("d", 0o777)
    file = guest.put("file")
    guest.run(file.rename, root.at("d"), b"file")
    assert guest.refused(file.set_xattr, b"trusted.test", b"1", 0) == errno.EPERM
    assert guest.refused(file.setattr, AttributeChanges(uid=0)) == errno.EPERM


def test_a_session_that_renamed_files_holds_nothing_of_them_afterwards(live: Live) -> None:
    (live.path / "file").touch()
    (live.path / "d").mkdir()
    talk = Talk(live.directory.view("none").session(), attach=False)
    uid = 0 if AS_ROOT else os.geteuid()
    for message in (
        m.Tattach(0, m.NOFID, b"", NAME, uid),
        m.Twalk(0, 1, (b"file",)),
        m.Twalk(0, 2, (b"d",)),
        m.Trename(1, 2, b"moved"),
        m.Tclunk(1),
        m.Tclunk(2),
        m.Tclunk(0),
    ):
        assert not isinstance(talk.ask(message), m.Rlerror), message
    assert (live.path / "d/moved").exists()
    talk.session.tidy()
    assert len(talk.session._fids.directories.below) == 0


# Parents


def test_the_way_up(guest: Guest) -> None:
    guest.mkdir("a")
    guest.mkdir("a/b")
    below, above = guest.at("a/b"), guest.at("a")
    assert guest.run(below.walk, b"..").identity == above.identity
    assert guest.run(guest.run(below.walk, b"..").walk, b"..") is guest.root
    assert guest.run(guest.root.walk, b"..") is guest.root
    file = guest.put("a/file")
    assert guest.refused(file.walk, b"..") == errno.ENOTDIR


def test_the_way_up_after_a_move(guest: Guest) -> None:
    for path in ("a", "a/b", "x", "x/y"):
        guest.mkdir(path)
    below = guest.at("a/b")
    guest.rename("a/b", "x/y/b")
    up = guest.run(below.walk, b"..")
    assert up.identity == guest.at("x/y").identity
    assert up.name == b"y"
    assert guest.run(guest.run(up.walk, b"..").walk, b"..") is guest.root
    guest.put("x/y/here", b"1")
    assert guest.content(guest.run(up.walk, b"here")) == b"1"


def test_a_directory_that_left_the_export_is_no_way_out(live: Live, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "export/a/b").mkdir(parents=True)
    (top / "canary").write_bytes(b"secret")
    top.chmod(0o777)
    with live_export(top / "export") as inner:
        guest = inner.attach()
        a, b = guest.at("a"), guest.at("a/b")
        (top / "export/a").rename(top / "a")
        assert guest.refused(a.walk, b"..") == errno.ESTALE
        assert guest.run(b.walk, b"..") is not None  # still where it was found
        (top / "a/b").rename(top / "b")
        assert guest.refused(b.walk, b"..") == errno.ESTALE
        assert guest.refused(b.walk, b"canary") == errno.ENOENT
        assert guest.refused(b.remove) == errno.ESTALE
        assert guest.refused(b.rename, None, b"x") == errno.ESTALE
        assert (top / "b").is_dir()
        del a, b, guest


@pytest.mark.parametrize("path", [b"a/b", b"/a//b/", b"a/b/"])
def test_the_root_of_an_attach_is_its_own_parent(live: Live, guest: Guest, path: bytes) -> None:
    guest.mkdir("a")
    guest.mkdir("a/b")
    guest.mkdir("a/b/c")
    inner = live.attach(path=path)
    assert inner.root.name == b"/"
    assert inner.run(inner.root.walk, b"..") is inner.root
    assert inner.run(inner.at("c").walk, b"..") is inner.root
    below = inner.at("c")
    guest.rename("a/b/c", "c")  # below the export, but not below the attach's root
    assert inner.refused(below.walk, b"..") == errno.ESTALE
    assert inner.root.identity == guest.at("a/b").identity


def test_attaching_to_what_is_not_there(live: Live, guest: Guest) -> None:
    guest.put("file", b"1")
    session = live.directory.view("none").session()
    for path, number in [
        (b"none", errno.ENOENT),
        (b"file/x", errno.ENOTDIR),
        (b"..", errno.ENOENT),
        (b"a/../..", errno.ENOENT),
        (b".", errno.ENOENT),
    ]:
        assert guest.refused(session.attach, User(), b"export:" + path) == number
    for name in (b"other", b"", b"export2", b"export/x"):
        assert guest.refused(session.attach, User(), name) == errno.EXDEV
    inner = live.attach(path=b"file")
    assert inner.content(inner.root) == b"1"


# Reading alone


@pytest.fixture
def readonly() -> Iterator[Live]:
    with live_export(writable=False) as live:
        yield live


def test_a_read_only_export_cannot_be_changed(readonly: Live) -> None:
    (readonly.path / "file").write_bytes(b"1")
    (readonly.path / "d").mkdir()
    guest = readonly.attach()
    root, file = guest.root, guest.at("file")
    before = os.stat(readonly.path / "file")
    for call in (
        lambda: root.create(b"file", os.O_RDONLY, 0o600, 0),
        lambda: root.create(b"x", os.O_RDWR, 0o600, 0),
        lambda: root.mkdir(b"x", 0o700, 0),
        lambda: root.symlink(b"x", b"target", 0),
        lambda: root.mknod(b"x", stat.S_IFIFO | 0o600, 0, 0),
        lambda: root.link(file, b"x"),
        lambda: root.renameat(b"file", root, b"x"),
        lambda: file.rename(None, b"x"),
        lambda: root.unlink(b"file", directory=False),
        file.remove,
        lambda: guest.set(file, mode=0o600),
        lambda: guest.set(file, size=0),
        lambda: file.set_xattr(b"user.x", b"1", 0),
        lambda: file.open(os.O_WRONLY),
        lambda: file.open(os.O_RDWR),
        lambda: file.open(os.O_RDONLY | os.O_TRUNC),
    ):
        assert guest.refused(call) == errno.EROFS
    opened = guest.open("file")
    assert guest.refused(guest.set, opened, mode=0o600) == errno.EROFS
    assert guest.refused(opened.write, 0, b"1") == errno.EBADF
    assert guest.read(opened) == b"1"
    opened.close()
    after = os.stat(readonly.path / "file")
    assert (before.st_ctime_ns, before.st_size) == (after.st_ctime_ns, after.st_size)
    assert sorted(os.listdir(readonly.path)) == ["d", "file"]


# Mount points


@needs_root
def test_mount_points_are_empty_directories_that_nobody_writes(live: Live, guest: Guest) -> None:
    guest.mkdir("d")
    guest.mkdir("d/mounted")
    place = live.path / "d/mounted"
    before = guest.at("d/mounted")
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        (place / "secret").write_bytes(b"1")
        point = guest.at("d/mounted")
        assert point.identity.kind == DIRECTORY
        assert point.kind == stat.S_IFDIR >> 12
        assert point.identity == guest.at("d/mounted").identity != before.identity
        assert stat.S_ISDIR(guest.stat(point).mode)
        assert guest.stat(point).mode & 0o222 == 0
        assert guest.names(point) == []
        assert guest.run(point.walk, b"..").identity == guest.at("d").identity
        assert guest.refused(point.walk, b"secret") == errno.ENOENT
        for call in (
            lambda: point.create(b"x", os.O_RDWR, 0o600, 0),
            lambda: point.mkdir(b"x", 0o700, 0),
            lambda: point.symlink(b"x", b"y", 0),
            lambda: guest.set(point, mode=0o777),
            lambda: point.set_xattr(b"user.x", b"1", 0),
            lambda: point.open(os.O_RDONLY | os.O_TRUNC),
            lambda: point.unlink(b"secret", directory=False),
            point.remove,
        ):
            assert guest.refused(call) == errno.EROFS
        directory = guest.at("d")
        assert guest.refused(point.open, os.O_RDWR) == errno.EISDIR
        assert guest.refused(directory.unlink, b"mounted", directory=True) == errno.EBUSY
        assert guest.refused(directory.renameat, b"mounted", guest.root, b"x") == errno.EBUSY
        assert guest.refused(guest.root.link, point, b"x") == errno.EXDEV
        guest.put("file")
        assert guest.refused(guest.root.renameat, b"file", point, b"file") == errno.EXDEV
        assert guest.refused(live.attach, None, b"d/mounted/secret") == errno.EXDEV
        assert guest.run(point.xattr_names) == []
        assert guest.run(point.statfs) == guest.run(guest.root.statfs)
        assert b"mounted" in guest.names("d")
        # what the mount hides can still be reached by who was there before
        assert guest.names(before) == []
        assert os.listdir(place) == ["secret"]
    finally:
        subprocess.run(["umount", place], check=True)
    assert guest.at("d/mounted").identity == before.identity


# The file system


def test_statfs(live: Live, guest: Guest) -> None:
    found = guest.run(guest.put("file").statfs)
    there = os.statvfs(live.path)
    assert (found.bsize, found.blocks, found.files) == (
        there.f_frsize, there.f_blocks, there.f_files
    )  # fmt: skip
    assert found.namelen == there.f_namemax
    assert 0 < found.bavail <= found.blocks
    assert found.fsid == there.f_fsid & (1 << 64) - 1
