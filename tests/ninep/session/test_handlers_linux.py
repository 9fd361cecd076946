"""What 9P2000.L's requests do, and how they fail."""

import errno
import os
import stat as st
from collections.abc import Callable

import pytest

from tests.ninep.session.test_session import refusal
from tests.support.memoryfs import COOKIE_STEP, MemoryFilesystem
from tests.support.talking import Talk
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.wire import Qid
from ventifs.ninep.session.limits import SessionLimits

NS = 1_000_000_000


def talk_with(
    *, msize: int = 8192, limits: SessionLimits | None = None
) -> tuple[Talk, MemoryFilesystem]:
    """Fid 0 is the root, 1 a file of 20 bytes, 2 a symbolic link."""
    fs = MemoryFilesystem()
    file = fs.add("f", st.S_IFREG | 0o640, b"0123456789" * 2)
    file.uid, file.gid, file.times = 1000, 100, [-1, 5 * NS + 7, -2 * NS]
    fs.add("l", st.S_IFLNK | 0o777, b"target")
    talk = Talk(fs, msize=msize, limits=limits)
    talk.ask(m.Twalk(0, 1, (b"f",)), m.Twalk(0, 2, (b"l",)))
    return talk, fs


def names_of(talk: Talk, fid: int, count: int) -> list[bytes]:
    names: list[bytes] = []
    cookie = 0
    while data := talk.ask(m.Treaddir(fid, cookie, count)).data:
        assert len(data) <= count
        found = list(talk.codec.dirents(data))
        names += [dirent.name for dirent in found]
        cookie = found[-1].offset
    return names


def test_getattr() -> None:
    talk, _ = talk_with()
    low = (1 << 64) - 1
    assert talk.ask(m.Tgetattr(1, 0x3FFF)) == m.Rgetattr(
        0x7FF,
        Qid(0, 1, 2),
        0o100640,
        1000,
        100,
        1,
        0,
        20,
        4096,
        8,
        low,
        NS - 1,
        5,
        7,
        low - 1,
        0,
        0,
        0,
        0,
        0,
    )


def test_setattr_sets_what_the_mask_says() -> None:
    talk, fs = talk_with()
    inode = fs.root.children[b"f"]
    ask = m.Tsetattr(1, 0, 0o4755, 1, 2, 3, 4, 5, (1 << 64) - 6, 7)
    masks: dict[int, Callable[[], bool]] = {
        1: lambda: inode.mode == st.S_IFREG | 0o4755,
        2: lambda: inode.uid == 1,
        4: lambda: inode.gid == 2,
        8: lambda: bytes(inode.data) == b"012",
        0x90: lambda: inode.times[0] == 4 * NS + 5,
        0x120: lambda: inode.times[1] == -6 * NS + 7,
    }
    for mask, holds in masks.items():
        assert not holds()
        values = {name: getattr(ask, name) for name in ask.__struct_fields__} | {"valid": mask}
        assert talk.ask(m.Tsetattr(**values)) == m.Rsetattr()
        assert holds()
    talk.ask(m.Tsetattr(1, 0x30, 0, 0, 0, 0, 9, 9, 9, 9))
    assert inode.times[:2] == [-1, -1]  # the server's now
    assert refusal(talk.ask(m.Tsetattr(1, 0x90, 0, 0, 0, 0, 0, NS, 0, 0))) == errno.EINVAL


def test_walk() -> None:
    talk, fs = talk_with()
    fs.add("a/b/c", st.S_IFREG | 0o644)
    assert talk.ask(m.Twalk(0, 9, (b"a", b"b", b"c"))).wqids[2].type == 0
    for names, found in (((b"a", b"none"), 1), ((b"a", b"b", b"c", b"d"), 3), ((b"a", b"/"), 1)):
        assert len(talk.ask(m.Twalk(0, 10, names)).wqids) == found
        assert refusal(talk.ask(m.Tgetattr(10, 1))) == errno.EBADF
    for name, number in (
        (b"none", errno.ENOENT),
        (b"", errno.EINVAL),
        (b"a/b", errno.EINVAL),
        (b"a\0", errno.EINVAL),
        (b"x" * 256, errno.ENAMETOOLONG),
        (b"x" * 255, errno.ENOENT),
    ):
        assert refusal(talk.ask(m.Twalk(0, 10, (name,)))) == number
    assert refusal(talk.ask(m.Twalk(9, 10, (b"x",)))) == errno.ENOTDIR
    assert refusal(talk.ask(m.Twalk(9, 10, (b".",)))) == errno.ENOTDIR
    assert talk.ask(m.Twalk(0, 10, (b".",))).wqids[0].path == 1
    assert talk.ask(m.Twalk(0, 11, (b"a", b"..", b"..", b"a"))).wqids[2].path == 1
    assert refusal(talk.ask(m.Twalk(0, 11, ()))) == errno.EBADF
    assert refusal(talk.ask(m.Twalk(0, m.NOFID, ()))) == errno.EBADF
    assert refusal(talk.ask(m.Twalk(77, 12, ()))) == errno.EBADF
    talk.ask(m.Twalk(0, 0, (b"a", b"b")))
    assert talk.ask(m.Twalk(0, 12, (b"c",))).wqids[0] == talk.ask(m.Tgetattr(9, 1)).qid


def test_an_open_fid_can_be_walked_from_but_not_be_moved() -> None:
    talk, _ = talk_with()
    talk.ask(m.Twalk(0, 5, ()), m.Tlopen(5, 0))
    assert len(talk.ask(m.Twalk(5, 6, (b"f",))).wqids) == 1
    assert refusal(talk.ask(m.Twalk(5, 5, (b"f",)))) == errno.EINVAL
    assert refusal(talk.ask(m.Tlopen(5, 0))) == errno.EINVAL
    assert refusal(talk.ask(m.Tlcreate(5, b"n", 0, 0, 0))) == errno.EINVAL


def test_reading_is_clamped_and_short_only_at_the_end() -> None:
    talk, fs = talk_with(msize=4096)
    fs.add("big", st.S_IFREG | 0o644, bytes(range(256)) * 64)
    talk.ask(m.Twalk(0, 5, (b"big",)), m.Tlopen(5, 0))
    assert len(talk.ask(m.Tread(5, 0, 0xFFFFFFFF)).data) == 4096 - 24
    assert talk.largest == 4096 - 13
    assert talk.ask(m.Tread(5, 16380, 100)).data == bytes([252, 253, 254, 255])
    for offset in (16384, 16385, (1 << 63) - 1):
        assert talk.ask(m.Tread(5, offset, 10)).data == b""
    assert refusal(talk.ask(m.Tread(5, 1 << 63, 10))) == errno.EINVAL
    assert refusal(talk.ask(m.Tread(1, 0, 10))) == errno.EBADF
    assert refusal(talk.ask(m.Twrite(5, 0, b"x"))) == errno.EBADF
    assert refusal(talk.ask(m.Twrite(5, (1 << 63), b"x"))) == errno.EFBIG
    talk.ask(m.Twalk(0, 6, ()), m.Tlopen(6, 0))
    assert refusal(talk.ask(m.Tread(6, 0, 10))) == errno.EISDIR
    assert refusal(talk.ask(m.Tlopen(2, 0))) == errno.ELOOP


def test_flags_that_mean_nothing_here_are_not_passed_on() -> None:
    talk, _ = talk_with()
    talk.ask(m.Tlopen(1, 0xFFFFFFFF & ~0o1001))
    opened = talk.session._fids.table[1].opened
    kept = os.O_RDWR | os.O_APPEND | os.O_SYNC | os.O_DIRECTORY
    assert opened.flags == kept  # type: ignore[union-attr]
    talk.ask(m.Tlcreate(0, b"new", 0xFFFFFFFF & ~0o1001, 0o600, 0))
    opened = talk.session._fids.table[0].opened
    assert opened.flags == kept | os.O_CREAT | os.O_EXCL  # type: ignore[union-attr]


@pytest.mark.parametrize("count", [30, 60, 200, 8192])
def test_a_directory_is_listed_in_pieces_of_any_size(count: int) -> None:
    talk, fs = talk_with()
    names = [b"%03d" % i for i in range(600)]
    for name in names:
        fs.add("d/" + name.decode(), st.S_IFREG | 0o644)
    talk.ask(m.Twalk(0, 5, (b"d",)), m.Tlopen(5, 0))
    assert names_of(talk, 5, count) == [b".", b"..", *names]
    assert names_of(talk, 5, count) == [b".", b"..", *names]  # 0 begins again
    [middle, *_] = talk.codec.dirents(talk.ask(m.Treaddir(5, 302 * COOKIE_STEP, count)).data)
    assert (middle.name, middle.offset) == (b"300", 303 * COOKIE_STEP)


def test_entries_say_what_they_are() -> None:
    talk, fs = talk_with()
    for name, mode in (("c", st.S_IFCHR), ("b", st.S_IFBLK), ("p", st.S_IFIFO), ("s", st.S_IFSOCK)):
        fs.add(name, mode | 0o644)
    fs.add("d/x", st.S_IFREG | 0o644)
    talk.ask(m.Twalk(0, 5, ()), m.Tlopen(5, 0))
    found = list(talk.codec.dirents(talk.ask(m.Treaddir(5, 0, 8000)).data))
    assert [(d.name, d.type) for d in found] == [
        (b".", 4),
        (b"..", 4),
        (b"b", 6),
        (b"c", 2),
        (b"d", 4),
        (b"f", 8),
        (b"l", 10),
        (b"p", 1),
        (b"s", 12),
    ]
    assert [d.offset for d in found] == [at * COOKIE_STEP for at in range(1, 10)]
    assert found[5].qid == talk.ask(m.Tgetattr(1, 1)).qid


def test_a_listing_is_empty_only_at_its_end() -> None:
    talk, fs = talk_with(msize=4096)
    fs.root.children.clear()
    fs.add("x" * 255, st.S_IFREG | 0o644)
    talk.ask(m.Twalk(0, 5, ()), m.Tlopen(5, 0))
    assert refusal(talk.ask(m.Treaddir(5, 0, 24))) == errno.EINVAL
    assert refusal(talk.ask(m.Treaddir(5, 2 * COOKIE_STEP, 24 + 254))) == errno.EINVAL
    assert len(talk.ask(m.Treaddir(5, 2 * COOKIE_STEP, 24 + 255)).data) == 24 + 255
    for offset in (3 * COOKIE_STEP, (1 << 63) - 1, (1 << 64) - 1):  # it is the file system's
        assert talk.ask(m.Treaddir(5, offset, 4000)).data == b""
    assert refusal(talk.ask(m.Treaddir(0, 0, 4000))) == errno.EBADF
    talk.ask(m.Twalk(0, 6, (b"x" * 255,)), m.Tlopen(6, 0))
    assert refusal(talk.ask(m.Treaddir(6, 0, 4000))) == errno.ENOTDIR


def test_what_came_before_something_cold_is_listed_first() -> None:
    talk, fs = talk_with()
    for i in range(4):
        fs.add(f"d/{i}", st.S_IFREG | 0o644)
    talk.ask(m.Twalk(0, 5, (b"d",)), m.Tlopen(5, 0))
    seen: list[int] = []

    def after_two(call: str) -> str:
        if call != "entries":
            return ""
        seen.append(1)
        return "cold" if len(seen) > 2 else ""

    fs.weather = after_two
    [(_, reply)] = talk.send((1, m.Treaddir(5, 0, 4000)))
    assert [d.name for d in talk.codec.dirents(reply.data)] == [b".", b"..", b"0", b"1"]  # type: ignore[attr-defined]
    assert talk.send((1, m.Treaddir(5, 4 * COOKIE_STEP, 4000))) == []
    [(_, reply)] = talk.work()
    assert [d.name for d in talk.codec.dirents(reply.data)] == [b"2"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("offset", [0, 1])
def test_a_cold_listing_does_not_begin_with_its_dots_alone(offset: int) -> None:
    talk, fs = talk_with()
    for i in range(4):
        fs.add(f"d/{i}", st.S_IFREG | 0o644)
    talk.ask(m.Twalk(0, 5, (b"d",)), m.Tlopen(5, 0))
    fs.weather = lambda call: "cold" if call == "entries" else ""
    assert talk.send((1, m.Treaddir(5, offset * COOKIE_STEP, 4000))) == []
    [(_, reply)] = talk.work()
    names = [dirent.name for dirent in talk.codec.dirents(reply.data)]  # type: ignore[attr-defined]
    assert names == [b".", b"..", b"0"][offset:]


def test_a_listing_that_has_room_for_its_dots_alone_begins_with_them() -> None:
    talk, fs = talk_with()
    fs.add("d/" + 100 * "x", st.S_IFREG | 0o644)
    talk.ask(m.Twalk(0, 5, (b"d",)), m.Tlopen(5, 0))
    fs.weather = lambda call: "cold" if call == "entries" else ""
    assert talk.send((1, m.Treaddir(5, 0, 60))) == []
    [(_, reply)] = talk.work()
    names = [dirent.name for dirent in talk.codec.dirents(reply.data)]  # type: ignore[attr-defined]
    assert names == [b".", b".."]


def test_names_for_new_files_are_names() -> None:
    talk, fs = talk_with()
    before = dict(fs.root.children)
    for name in (b"", b".", b"..", b"a/b", b"a\0b", b"/"):
        for ask in (
            m.Tmkdir(0, name, 0o755, 0),
            m.Tlcreate(0, name, 1, 0o644, 0),
            m.Tsymlink(0, name, b"x", 0),
            m.Tmknod(0, name, 0o10644, 0, 0, 0),
            m.Tlink(0, 1, name),
            m.Trename(1, 0, name),
            m.Trenameat(0, b"f", 0, name),
            m.Trenameat(0, name, 0, b"g"),
            m.Tunlinkat(0, name, 0),
        ):
            assert refusal(talk.ask(ask)) == errno.EINVAL, ask
    assert refusal(talk.ask(m.Tmkdir(0, b"x" * 256, 0o755, 0))) == errno.ENAMETOOLONG
    assert fs.root.children == before
    assert refusal(talk.ask(m.Tunlinkat(0, b"f", 1))) == errno.EINVAL
    assert refusal(talk.ask(m.Tlink(0, 77, b"x"))) == errno.EBADF
    assert refusal(talk.ask(m.Trename(0, 77, b"x"))) == errno.EBADF
    assert refusal(talk.ask(m.Trenameat(0, b"f", 77, b"x"))) == errno.EBADF


def test_files_are_made_and_moved() -> None:
    talk, fs = talk_with()
    assert talk.ask(m.Tmkdir(0, b"d", 0o1755, 7)).qid.type == 0x80
    assert talk.ask(m.Tmknod(0, b"dev", 0o20600, 1, 3, 8)).qid.type == 0
    made = fs.root.children
    assert (made[b"d"].gid, made[b"dev"].rdev, made[b"dev"].mode) == (7, 0x103, 0o20600)
    talk.ask(m.Twalk(0, 5, (b"d",)))
    assert talk.ask(m.Trename(1, 5, b"g")) == m.Rrename()
    assert talk.ask(m.Trenameat(0, b"dev", 5, b"null")) == m.Rrenameat()
    assert sorted(made[b"d"].children) == [b"g", b"null"]
    assert refusal(talk.ask(m.Tunlinkat(0, b"d", 0))) == errno.EISDIR
    assert refusal(talk.ask(m.Tunlinkat(0, b"d", 0x200))) == errno.ENOTEMPTY
    assert talk.ask(m.Tunlinkat(5, b"g", 0)) == m.Runlinkat()
    assert talk.ask(m.Tremove(2)) == m.Rremove()
    assert sorted(made) == [b"d"]


def test_a_remove_that_fails_clunks_all_the_same() -> None:
    talk, _ = talk_with()
    fids = talk.session.handles
    assert refusal(talk.ask(m.Tremove(0))) == errno.EBUSY
    assert refusal(talk.ask(m.Tgetattr(0, 1))) == errno.EBADF
    assert talk.session.handles == fids - 1


def test_extended_attributes_are_read() -> None:
    talk, fs = talk_with()
    fs.root.children[b"f"].xattrs = {b"user.a": b"12345", b"user.b": b""}
    assert talk.ask(m.Txattrwalk(1, 5, b"user.a")) == m.Rxattrwalk(5)
    assert talk.ask(m.Tread(5, 1, 3)) == m.Rread(b"234")
    assert talk.ask(m.Tread(5, 5, 3)) == m.Rread(b"")
    assert refusal(talk.ask(m.Twrite(5, 0, b"x"))) == errno.EROFS
    assert refusal(talk.ask(m.Treaddir(5, 0, 99))) == errno.ENOTDIR
    assert talk.ask(m.Txattrwalk(1, 6, b"")) == m.Rxattrwalk(14)
    assert talk.ask(m.Tread(6, 0, 99)) == m.Rread(b"user.a\0user.b\0")
    assert refusal(talk.ask(m.Txattrwalk(1, 7, b"security.capability"))) == errno.ENODATA
    assert refusal(talk.ask(m.Txattrwalk(1, 6, b"user.a"))) == errno.EBADF
    assert refusal(talk.ask(m.Tgetattr(7, 1))) == errno.EBADF
    talk.ask(m.Tclunk(5), m.Tclunk(6))
    assert talk.session._fids.held == 0


def test_extended_attributes_are_set_when_clunked() -> None:
    talk, fs = talk_with()
    xattrs = fs.root.children[b"f"].xattrs

    def new(fid: int, size: int, flags: int = 0) -> m.Message:
        talk.ask(m.Twalk(1, fid, ()))
        reply: m.Message = talk.ask(m.Txattrcreate(fid, b"user.x", size, flags))
        return reply

    assert new(5, 6) == m.Rxattrcreate()
    assert talk.ask(m.Twrite(5, 0, b"abc")) == m.Rwrite(3)
    assert refusal(talk.ask(m.Twrite(5, 4, b"x"))) == errno.EINVAL
    assert refusal(talk.ask(m.Twrite(5, 3, b"defg"))) == errno.ENOSPC
    assert refusal(talk.ask(m.Tread(5, 0, 1))) == errno.EBADF
    assert talk.ask(m.Twrite(5, 3, b"def")) == m.Rwrite(3)
    assert xattrs == {}
    assert talk.ask(m.Tclunk(5)) == m.Rclunk()
    assert xattrs == {b"user.x": b"abcdef"}
    new(5, 6)
    talk.ask(m.Twrite(5, 0, b"abc"))
    assert refusal(talk.ask(m.Tclunk(5))) == errno.EINVAL  # not all of it came
    assert xattrs == {b"user.x": b"abcdef"}
    new(5, 0, flags=2)  # XATTR_REPLACE, with which Linux removes
    assert talk.ask(m.Tclunk(5)) == m.Rclunk()
    assert xattrs == {}
    new(5, 0, flags=2)
    assert refusal(talk.ask(m.Tclunk(5))) == errno.ENODATA
    assert refusal(talk.ask(m.Tgetattr(5, 1))) == errno.EBADF
    for flags in (0, 1):  # an empty value is a value
        xattrs.clear()
        new(5, 0, flags)
        assert talk.ask(m.Tclunk(5)) == m.Rclunk()
        assert xattrs == {b"user.x": b""}
    new(5, 3, flags=1)  # XATTR_CREATE
    talk.ask(m.Twrite(5, 0, b"abc"))
    assert refusal(talk.ask(m.Tclunk(5))) == errno.EEXIST
    assert refusal(new(5, 3, flags=4)) == errno.EINVAL
    talk.ask(m.Tclunk(5))
    assert refusal(new(5, 65537)) == errno.E2BIG
    assert talk.session._fids.held == 0


def test_what_fids_hold_is_limited() -> None:
    talk, fs = talk_with(limits=SessionLimits(held_max=100))
    fs.root.children[b"f"].xattrs = {b"user.a": bytes(40)}
    for fid in (5, 6):
        assert talk.ask(m.Txattrwalk(1, fid, b"user.a")) == m.Rxattrwalk(40)
    assert refusal(talk.ask(m.Txattrwalk(1, 7, b"user.a"))) == errno.ENOMEM
    assert refusal(talk.ask(m.Txattrcreate(1, b"user.b", 21, 0))) == errno.ENOMEM
    talk.ask(m.Tclunk(5))
    assert talk.ask(m.Txattrwalk(1, 7, b"user.a")) == m.Rxattrwalk(40)


def test_fids_are_limited() -> None:
    talk, _ = talk_with(limits=SessionLimits(fids_max=5))
    assert talk.ask(m.Twalk(0, 10, ()), m.Txattrwalk(0, 11, b"")) == m.Rxattrwalk(0)
    for ask in (m.Twalk(0, 12, ()), m.Txattrwalk(0, 12, b""), m.Tattach(12, m.NOFID, b"", b"", 0)):
        assert refusal(talk.ask(ask)) == errno.ENFILE
    assert talk.session.handles == 5
    talk.ask(m.Tclunk(11))
    assert talk.ask(m.Twalk(0, 12, ())) == m.Rwalk(())


@pytest.mark.parametrize(("major", "minor"), [(1 << 12, 0), (0, 1 << 20), (1 << 31, 1 << 31)])
def test_devices_that_linux_has_not_are_refused(major: int, minor: int) -> None:
    talk, _ = talk_with()
    number = refusal(talk.ask(m.Tmknod(0, b"dev", 0o20600, major, minor, 0)))
    assert number == errno.EINVAL


def test_a_link_too_long_for_the_msize_is_an_error() -> None:
    talk, fs = talk_with(msize=4096)
    fs.add("long", st.S_IFLNK | 0o777, bytes(4096 - 10))
    fs.add("longer", st.S_IFLNK | 0o777, bytes(4096 - 9))
    fs.add("longest", st.S_IFLNK | 0o777, bytes(70_000))
    talk.ask(m.Twalk(0, 5, (b"long",)), m.Twalk(0, 6, (b"longer",)), m.Twalk(0, 7, (b"longest",)))
    assert len(talk.ask(m.Treadlink(5)).target) == 4096 - 10
    assert refusal(talk.ask(m.Treadlink(6))) == errno.EMSGSIZE
    assert refusal(talk.ask(m.Treadlink(7))) in {errno.EMSGSIZE, errno.EPROTO}
    assert talk.largest == 4095
    assert refusal(talk.ask(m.Treadlink(1))) == errno.EINVAL


def test_locks() -> None:
    talk, _ = talk_with()
    assert refusal(talk.ask(m.Tlock(1, 1, 0, 0, 0, 1, b"a"))) == errno.EBADF
    talk.ask(m.Twalk(1, 5, ()), m.Tlopen(1, 2), m.Tlopen(5, 2))
    assert talk.ask(m.Tlock(1, 1, 0, 5, 6, 1, b"a")) == m.Rlock(0)
    assert talk.ask(m.Tlock(5, 0, 0, 5, 6, 2, b"b")) == m.Rlock(1)
    assert talk.ask(m.Tgetlock(5, 0, 5, 6, 2, b"b")) == m.Rgetlock(1, 5, 6, 1, b"a")
    assert talk.ask(m.Tlock(1, 2, 0, 0, 0, 1, b"a")) == m.Rlock(0)
    assert talk.ask(m.Tgetlock(5, 0, 5, 6, 2, b"b")) == m.Rgetlock(2, 5, 6, 2, b"b")
    assert refusal(talk.ask(m.Tlock(1, 3, 0, 0, 0, 1, b"a"))) == errno.EINVAL


def test_statfs_and_fsync() -> None:
    talk, fs = talk_with()
    assert talk.ask(m.Tstatfs(1)) == m.Rstatfs(0x01021997, 4096, 0, 0, 0, 7, 0, 0, 255)
    assert refusal(talk.ask(m.Tfsync(1, 0))) == errno.EBADF
    talk.ask(m.Tlopen(1, 0))
    assert talk.ask(m.Tfsync(1, 0), m.Tfsync(1, 1)) == m.Rfsync()
    assert (fs.synced, fs.synced_data_only) == (2, 1)
