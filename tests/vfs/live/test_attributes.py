"""Attributes of live files: each change alone and together, and what the kernel clears."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.live import Guest, Live, live_export, needs_root
from ventifs.vfs.interface import NOW, AttributeChanges

SET_ID = 0o6755
CAPABILITY = b"\1\0\0\2" + b"\0\4\0\0" + bytes(12)  # a valid security.capability: CAP_NET_BIND


@pytest.fixture
def live() -> Iterator[Live]:
    with live_export() as live:
        yield live


@pytest.fixture
def guest(live: Live) -> Guest:
    return live.attach()


def test_attributes_are_those_of_stat(live: Live, guest: Guest) -> None:
    guest.put("file", b"1" * 5000, 0o640)
    guest.mkdir("d", 0o2751)
    guest.run(guest.root.symlink, b"link", b"target", 0)
    os.utime(live.path / "file", ns=(1_000_000_001, 1_700_000_000_123_456_789))
    for name in ("file", "d", "link"):
        ours, theirs = guest.stat(name), os.lstat(live.path / name)
        assert (ours.mode, ours.uid, ours.gid, ours.nlink, ours.rdev, ours.size) == (
            theirs.st_mode,
            theirs.st_uid,
            theirs.st_gid,
            theirs.st_nlink,
            theirs.st_rdev,
            theirs.st_size,
        )
        assert (ours.atime_ns, ours.mtime_ns, ours.ctime_ns, ours.blocks, ours.blksize) == (
            theirs.st_atime_ns,
            theirs.st_mtime_ns,
            theirs.st_ctime_ns,
            theirs.st_blocks,
            theirs.st_blksize,
        )


def test_blocks_are_what_a_file_takes(live: Live, guest: Guest) -> None:
    file, opened = guest.create("sparse")
    guest.set(opened, size=1 << 30)
    assert guest.stat(file).blocks == os.stat(live.path / "sparse").st_blocks < 100
    guest.run(opened.write, 1 << 20, bytes(range(256)) * 4096)
    guest.run(opened.fsync, data_only=False)
    assert guest.stat(opened).blocks == os.stat(live.path / "sparse").st_blocks >= 2048
    opened.close()


@pytest.fixture(params=["file", "open for reading", "open for writing", "directory", "link"])
def it(request: pytest.FixtureRequest, guest: Guest) -> Iterator[Callable[[], Any]]:
    """A file, in one of the ways in which it can be given; pytest must not hold it."""
    if request.param == "directory":
        guest.mkdir("it")
    elif request.param == "link":
        guest.run(guest.root.symlink, b"it", b"none", 0)
    else:
        guest.put("it", b"12345")
    if not request.param.startswith("open"):
        yield lambda: guest.at("it")
        return
    held = [guest.open("it", os.O_RDONLY if "reading" in request.param else os.O_RDWR)]
    yield lambda: held[0]
    held.pop().close()


def test_times(guest: Guest, it: Callable[[], Any]) -> None:
    guest.set(it(), atime_ns=1_000_000_000_987_654_321, mtime_ns=-1_500_000_001)
    found = guest.stat(it())
    assert found.atime_ns == 1_000_000_000_987_654_321
    assert found.mtime_ns == -1_500_000_001
    guest.set(it(), mtime_ns=7)  # the other one stays
    assert guest.stat(it()).atime_ns == 1_000_000_000_987_654_321
    assert guest.stat(it()).mtime_ns == 7
    guest.set(it(), atime_ns=NOW)
    assert guest.stat(it()).atime_ns > 1_700_000_000_000_000_000
    assert guest.stat(it()).mtime_ns == 7


def test_a_ctime_alone(guest: Guest, it: Callable[[], Any]) -> None:
    guest.set(it(), mtime_ns=7, atime_ns=7)
    before = guest.stat(it())
    for _ in range(100_000):
        guest.set(it(), ctime=True)
        if guest.stat(it()).ctime_ns > before.ctime_ns:
            break
    after = guest.stat(it())
    assert after.ctime_ns > before.ctime_ns
    assert (after.mode, after.mtime_ns, after.atime_ns) == (before.mode, 7, 7)


def test_a_ctime_alone_clears_nothing(guest: Guest) -> None:
    file = guest.put("file")
    guest.set(file, mode=SET_ID)
    before = guest.stat(file)
    for _ in range(100_000):
        guest.set(file, ctime=True)
        if guest.stat(file).ctime_ns > before.ctime_ns:
            break
    assert guest.stat(file).ctime_ns > before.ctime_ns
    assert guest.stat(file).mode & 0o7777 == SET_ID


def test_nothing_to_change(guest: Guest, it: Callable[[], Any]) -> None:
    before = guest.stat(it())
    guest.set(it())
    assert guest.stat(it()) == before


def test_modes(guest: Guest, it: Callable[[], Any]) -> None:
    before = guest.stat(it()).mode
    if stat.S_ISLNK(before):
        assert guest.refused(guest.set, it(), mode=0o600) == errno.EOPNOTSUPP
        return
    for mode in (0o000, 0o777, 0o1755, 0o600):
        guest.set(it(), mode=mode)
        assert guest.stat(it()).mode == stat.S_IFMT(before) | mode


def test_sizes(guest: Guest, it: Callable[[], Any]) -> None:
    kind = stat.S_IFMT(guest.stat(it()).mode)
    if kind != stat.S_IFREG:
        expected = errno.EISDIR if kind == stat.S_IFDIR else errno.EINVAL
        assert guest.refused(guest.set, it(), size=0) == expected
        return
    for size in (3, 10, 0, 1 << 33):
        guest.set(it(), size=size)
        assert guest.stat(it()).size == size
        opened = guest.open("it")
        start = guest.read(opened, 0, 3)
        opened.close()
        assert start == (b"123" if size in (3, 10) else bytes(min(size, 3)))


def test_everything_at_once(guest: Guest) -> None:
    file = guest.put("file", b"12345")
    guest.set(
        file,
        mode=0o4711,
        uid=os.geteuid(),
        gid=os.getegid(),
        size=2,
        atime_ns=3,
        mtime_ns=4,
        ctime=True,
    )
    found = guest.stat(file)
    assert (found.mode & 0o7777, found.size, found.atime_ns, found.mtime_ns) == (0o4711, 2, 3, 4)


@pytest.mark.parametrize(
    "time_ns", [0, 1, -2, -(2**31) * 10**9, 2**31 * 10**9, 2**33 * 10**9 + 1, 10**18 - 1]
)
def test_any_time_that_the_disk_can_keep(live: Live, guest: Guest, time_ns: int) -> None:
    guest.set(guest.root, mtime_ns=time_ns, atime_ns=time_ns)
    found, there = guest.stat(guest.root), os.stat(live.path)
    assert found.mtime_ns == found.atime_ns == time_ns
    assert (there.st_mtime_ns, there.st_atime_ns) == (time_ns, time_ns)


def test_the_first_failure_ends_a_change(guest: Guest) -> None:
    file = guest.put("file", b"12345")
    changes = AttributeChanges(size=(1 << 63) - 1, mode=0o600)
    assert guest.refused(file.setattr, changes) in (errno.EFBIG, errno.EINVAL)
    assert guest.stat(file).mode & 0o7777 == 0o644
    assert guest.stat(file).size == 5


# Whose files are changed


@needs_root
def test_a_user_changes_what_it_may(live: Live) -> None:
    live.path.chmod(0o777)
    root, alice, bob = live.attach(0), live.attach(1000), live.attach(1001)
    alice.put("file", b"12345", 0o644)
    assert (alice.stat("file").uid, alice.stat("file").gid) == (1000, 1000)
    for changes, number in [
        ({"mode": 0o777}, errno.EPERM),
        ({"uid": 1001}, errno.EPERM),
        ({"gid": 1001}, errno.EPERM),
        ({"mtime_ns": 5}, errno.EPERM),
        ({"mtime_ns": NOW, "atime_ns": NOW}, errno.EACCES),
        ({"size": 0}, errno.EACCES),
        ({"ctime": True, "mode": 0o644}, errno.EPERM),
    ]:
        assert bob.refused(bob.set, "file", **changes) == number
    assert alice.refused(alice.set, "file", uid=1001) == errno.EPERM
    assert alice.refused(alice.set, "file", gid=1001) == errno.EPERM
    alice.set("file", gid=4002)  # of her groups
    alice.set("file", mode=0o662)
    bob.set("file", mtime_ns=NOW, atime_ns=NOW)  # who may write may touch
    assert bob.refused(bob.set, "file", mtime_ns=5) == errno.EPERM
    root.set("file", uid=1001, gid=7)
    assert (root.stat("file").uid, root.stat("file").gid) == (1001, 7)


@needs_root
@pytest.mark.parametrize("uid", [0, 1000, 1001])
@pytest.mark.parametrize("how", ["write", "large write", "truncate", "open file", "chown"])
def test_set_id_bits_and_capabilities_are_cleared(live: Live, how: str, uid: int) -> None:
    """The server may keep them; a user other than root must not."""
    live.path.chmod(0o777)
    owner, writer = live.attach(1000), live.attach(uid)
    file = owner.put("file", b"12345", 0o777)
    owner.set(file, mode=0o6777)
    os.setxattr(live.path / "file", "security.capability", CAPABILITY)
    assert guest_sees(live) == (0o6777, True)
    at = writer.at("file")
    opened = writer.open(at, os.O_RDWR)
    if how == "write":
        writer.run(opened.write, 0, b"x")
    elif how == "large write":
        writer.run(opened.write, 0, bytes(1 << 20))
    elif how == "truncate":
        writer.set(at, size=2)
    elif how == "open file":
        writer.set(opened, size=2)
    elif uid != 1001:
        writer.set(at, gid=4001 if uid else 5)
    else:
        assert writer.refused(writer.set, at, gid=1001) == errno.EPERM
        opened.close()
        assert guest_sees(live) == (0o6777, True)
        return
    opened.close()
    mode, capability = guest_sees(live)
    assert not capability
    # Root's own writes and truncations leave set-uid bits, its chown does not, as on the host.
    assert mode == (0o6777 if uid == 0 and how != "chown" else 0o777)


def guest_sees(live: Live) -> tuple[int, bool]:
    """A file's mode, and whether it has a capability."""
    names = os.listxattr(live.path / "file")
    return os.stat(live.path / "file").st_mode & 0o7777, "security.capability" in names


def test_as_one_user_too_they_are_cleared(live: Live, guest: Guest) -> None:
    file = guest.put("file", b"12345")
    guest.set(file, mode=SET_ID)
    opened = guest.open(file, os.O_RDWR)
    guest.run(opened.write, 0, b"x")
    opened.close()
    assert guest.stat(file).mode & 0o7777 == (SET_ID if os.geteuid() == 0 else 0o755)


# Extended attributes


def test_extended_attributes(guest: Guest) -> None:
    file = guest.put("file")
    assert guest.run(file.xattr_names) == []
    assert guest.refused(file.xattr, b"user.a") == errno.ENODATA
    guest.run(file.set_xattr, b"user.a", b"1", os.XATTR_CREATE)
    assert guest.refused(file.set_xattr, b"user.a", b"2", os.XATTR_CREATE) == errno.EEXIST
    guest.run(file.set_xattr, b"user.a", b"2" * 1000, os.XATTR_REPLACE)
    assert guest.refused(file.set_xattr, b"user.b", b"2", os.XATTR_REPLACE) == errno.ENODATA
    guest.run(file.set_xattr, b"user.\xff\n", b"\0\xff", 0)
    assert sorted(guest.run(file.xattr_names)) == [b"user.a", b"user.\xff\n"]
    assert guest.run(file.xattr, b"user.a") == b"2" * 1000
    assert guest.run(file.xattr, b"user.\xff\n") == b"\0\xff"
    guest.run(file.set_xattr, b"user.a", b"", os.XATTR_REPLACE)  # so Linux's client removes
    assert guest.refused(file.set_xattr, b"user.a", b"", os.XATTR_REPLACE) == errno.ENODATA
    for flags in (os.XATTR_CREATE, 0):  # an empty value is a value
        guest.run(file.set_xattr, b"user.a", b"", flags)
        assert guest.run(file.xattr, b"user.a") == b""
    guest.run(file.set_xattr, b"user.a", b"", os.XATTR_REPLACE)
    assert guest.run(file.xattr_names) == [b"user.\xff\n"]
    for name, number in [(b"odd", errno.EOPNOTSUPP), (b"user." + b"x" * 300, errno.ERANGE)]:
        assert guest.refused(file.set_xattr, name, b"1", 0) == number
        assert guest.refused(file.xattr, name) == number
    too_large = guest.refused(file.set_xattr, b"user.a", bytes(65537), 0)
    assert too_large in (errno.E2BIG, errno.ENOSPC)


def test_extended_attributes_of_links_are_their_own(live: Live, guest: Guest) -> None:
    guest.put("file")
    os.setxattr(live.path / "file", "user.a", b"1")
    guest.run(guest.root.symlink, b"link", b"file", 0)
    link = guest.at("link")
    assert guest.run(link.xattr_names) == []
    assert guest.refused(link.set_xattr, b"user.b", b"1", 0) == errno.EPERM
    assert os.listxattr(live.path / "file") == ["user.a"]


ACL = b"\2\0\0\0" + b"".join(
    tag.to_bytes(2, "little") + permissions.to_bytes(2, "little") + who.to_bytes(4, "little")
    for tag, permissions, who in [
        (1, 6, ~0 & 0xFFFF_FFFF),
        (2, 4, 1001),
        (4, 0, ~0 & 0xFFFF_FFFF),
        (16, 4, ~0 & 0xFFFF_FFFF),
        (32, 0, ~0 & 0xFFFF_FFFF),
    ]
)


def test_access_control_lists_pass_through(live: Live, guest: Guest) -> None:
    file = guest.put("file", b"1", 0o600)
    guest.run(file.set_xattr, b"system.posix_acl_access", ACL, 0)
    assert guest.run(file.xattr, b"system.posix_acl_access") == ACL
    assert os.getxattr(live.path / "file", "system.posix_acl_access") == ACL
    assert guest.stat(file).mode & 0o777 == 0o640  # the mask is shown as the group's
    guest.mkdir("d")
    guest.run(guest.at("d").set_xattr, b"system.posix_acl_default", ACL, 0)
    guest.put("d/below", b"", 0o666)
    assert guest.run(guest.at("d/below").xattr, b"system.posix_acl_access")
    invalid = guest.refused(file.set_xattr, b"system.posix_acl_access", b"nonsense", 0)
    assert invalid in (errno.EINVAL, errno.EOPNOTSUPP)


@needs_root
def test_access_control_lists_count(live: Live) -> None:
    live.path.chmod(0o777)
    alice, bob = live.attach(1000), live.attach(1001)
    file = alice.put("file", b"1", 0o600)
    assert bob.refused(bob.at("file").open, os.O_RDONLY) == errno.EACCES
    alice.run(file.set_xattr, b"system.posix_acl_access", ACL, 0)
    assert bob.content("file") == b"1"
    assert bob.refused(bob.at("file").open, os.O_WRONLY) == errno.EACCES


@needs_root
def test_attributes_of_the_system_are_root_s(live: Live) -> None:
    live.path.chmod(0o777)
    root, alice = live.attach(0), live.attach(1000)
    file = alice.put("file")
    for name, value in [(b"trusted.a", b"1"), (b"security.capability", CAPABILITY)]:
        assert alice.refused(file.set_xattr, name, value, 0) == errno.EPERM
        root.run(root.at("file").set_xattr, name, value, 0)
    assert set(root.run(root.at("file").xattr_names)) == {b"trusted.a", b"security.capability"}
    assert b"trusted.a" not in alice.run(file.xattr_names)
    assert alice.refused(file.xattr, b"trusted.a") == errno.ENODATA
    assert alice.refused(file.set_xattr, b"security.capability", CAPABILITY, 0) == errno.EPERM
    bob = live.attach(1001).at("file")
    assert (
        alice.refused(bob.set_xattr, b"security.capability", b"", os.XATTR_REPLACE) == errno.EPERM
    )


@needs_root
def test_user_attributes_follow_permissions(live: Live) -> None:
    live.path.chmod(0o777)
    alice, bob = live.attach(1000), live.attach(1001)
    file = alice.put("file", b"", 0o644)
    alice.run(file.set_xattr, b"user.a", b"1", 0)
    other = bob.at("file")
    assert bob.run(other.xattr, b"user.a") == b"1"
    assert bob.refused(other.set_xattr, b"user.a", b"2", 0) == errno.EACCES
    alice.set(file, mode=0o600)
    assert bob.refused(other.xattr, b"user.a") == errno.EACCES
