"""Requests of 9P2000.L that write, as Linux sends them and as an enemy would."""

import errno
import os
import stat as st

import pytest

from tests.ninep.session.test_session import refusal
from tests.support.memoryfs import Inode, MemoryFilesystem
from tests.support.talking import Talk
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.messages import Dialect
from ventifs.ninep.protocol.wire import WireError
from ventifs.ninep.session.handlers import VIEW_MIN, decode_write
from ventifs.ninep.session.stat_records import DMDIR, DMSYMLINK
from ventifs.vfs.interface import AttributeChanges, Attributes

LOW = (1 << 64) - 1


def talk_with() -> tuple[Talk, MemoryFilesystem, Inode]:
    """Fid 0 is the root, 1 the file `f`, 2 the same and open, 3 the directory `d` and open."""
    fs = MemoryFilesystem()
    inode = fs.add("f", st.S_IFREG | 0o640, b"0123456789")
    fs.add("d/x", st.S_IFREG | 0o644)
    talk = Talk(fs)
    talk.ask(m.Twalk(0, 1, (b"f",)), m.Twalk(0, 2, (b"f",)), m.Tlopen(2, os.O_RDWR))
    talk.ask(m.Twalk(0, 3, (b"d",)), m.Tlopen(3, 0))
    return talk, fs, inode


def setattr_of(fid: int, valid: int, **fields: int) -> m.Tsetattr:
    names = m.Tsetattr.__struct_fields__
    return m.Tsetattr(**dict.fromkeys(names, 0) | {"fid": fid, "valid": valid} | fields)


@pytest.mark.parametrize("name", [b"f", b"d"])
def test_an_open_fid_is_asked_itself_when_its_name_is_gone(name: bytes) -> None:
    """Linux sends fstat, ftruncate, fchmod, fchown and futimens on the fid that is open."""
    talk, _, _ = talk_with()
    fid = {b"f": 2, b"d": 3}[name]
    opened = talk.session._fids.table[fid].opened
    asked: list[object] = []

    def attributes() -> Attributes:
        asked.append("attributes")
        return Attributes(0o100600, 1, 2, 0, 0, 5, 0, 0, 0, 8)

    inner = getattr(opened, "opened", opened)
    inner.attributes, inner.setattr = attributes, asked.append  # type: ignore[union-attr, method-assign]
    assert talk.ask(m.Tgetattr(fid, 0x7FF)).nlink == 0
    assert talk.ask(setattr_of(fid, 1, mode=0o600)) == m.Rsetattr()
    assert asked == ["attributes", AttributeChanges(mode=0o600)]
    asked.clear()
    other = {b"f": 1, b"d": 0}[name]
    assert talk.ask(m.Tgetattr(other, 0x7FF)).nlink == 1
    talk.ask(setattr_of(other, 1, mode=0o700))
    assert asked == []


def test_a_ctime_alone_is_a_change_and_with_others_is_none() -> None:
    talk, _, inode = talk_with()
    assert talk.ask(setattr_of(1, 0x40)) == m.Rsetattr()
    assert inode.times[2] == 1
    assert talk.ask(setattr_of(1, 0x41, mode=0o600)) == m.Rsetattr()
    assert (inode.mode, inode.times[2]) == (st.S_IFREG | 0o600, 1)
    assert talk.ask(setattr_of(1, 0)) == m.Rsetattr()
    assert inode.times[2] == 1


def test_attributes_that_cannot_be_are_refused() -> None:
    talk, _, inode = talk_with()
    assert refusal(talk.ask(setattr_of(1, 2, uid=0xFFFFFFFF))) == errno.EINVAL
    assert refusal(talk.ask(setattr_of(1, 4, gid=0xFFFFFFFF))) == errno.EINVAL
    assert refusal(talk.ask(setattr_of(2, 8, size=1 << 63))) == errno.EFBIG
    assert (inode.uid, inode.gid, len(inode.data)) == (0, 0, 10)
    assert talk.ask(setattr_of(1, 1, uid=0xFFFFFFFF, size=LOW)) == m.Rsetattr()  # masked out
    talk.ask(setattr_of(1, 0x120, mtime_sec=LOW, mtime_nsec=999_999_999))
    assert inode.times[1] == -2  # -1 is the server's time


def test_a_file_that_came_to_be_there_is_opened_unless_it_must_be_new() -> None:
    talk, fs, inode = talk_with()
    talk.ask(m.Twalk(0, 5, ()), m.Twalk(0, 6, ()))
    assert refusal(talk.ask(m.Tlcreate(5, b"f", 0o302, 0o644, 0))) == errno.EEXIST
    assert talk.ask(m.Tlcreate(5, b"f", 0o2, 0o644, 0)).qid.path == inode.path
    assert talk.ask(m.Tlcreate(6, b"new", 0o1, 0o444, 7)).qid.type == 0
    assert talk.ask(m.Twrite(6, 0, b"abc")) == m.Rwrite(3)
    made = fs.root.children[b"new"]
    assert (bytes(made.data), made.mode, made.gid) == (b"abc", st.S_IFREG | 0o444, 7)
    assert refusal(talk.ask(m.Tlcreate(6, b"newer", 0o1, 0o444, 7))) == errno.EINVAL  # it is open


def test_an_open_of_a_file_that_exists_may_be_called_exclusive() -> None:
    """Linux sends O_CREAT and O_EXCL with the open of what it has just made by mknod."""
    talk, _, _ = talk_with()
    assert talk.ask(m.Tlopen(1, 0o302)) == m.Rlopen(talk.ask(m.Tgetattr(2, 1)).qid, 0)
    opened = talk.session._fids.table[1].opened
    assert opened.flags == os.O_RDWR  # type: ignore[union-attr]


def test_writes() -> None:
    talk, _, inode = talk_with()
    assert talk.ask(m.Twrite(2, 3, b"")) == m.Rwrite(0)
    assert bytes(inode.data) == b"0123456789"
    assert refusal(talk.ask(m.Twrite(2, (1 << 63) - 1, b"x"))) == errno.EFBIG
    assert refusal(talk.ask(m.Twrite(2, LOW, b""))) == errno.EFBIG
    assert refusal(talk.ask(m.Twrite(1, 0, b"x"))) == errno.EBADF
    assert refusal(talk.ask(m.Twrite(3, 0, b"x"))) == errno.EBADF
    talk.ask(m.Tlopen(1, os.O_WRONLY | os.O_APPEND))
    assert talk.ask(m.Twrite(1, 2, b"end")) == m.Rwrite(3)
    assert bytes(inode.data) == b"0123456789end"


@pytest.mark.parametrize("size", [0, 1, VIEW_MIN - 1, VIEW_MIN, 3 * VIEW_MIN])
@pytest.mark.parametrize("behind", [0, 1, 2 * VIEW_MIN])
def test_the_data_of_a_write_is_a_view_if_it_is_most_of_what_came(size: int, behind: int) -> None:
    data = os.urandom(size)
    frame = Talk(MemoryFilesystem()).frames((1, m.Twrite(5, 1 << 40, data)))
    got = decode_write(frame + bytes(behind), 7, len(frame))
    assert got == m.Twrite(5, 1 << 40, data)
    assert bytes(got.data) == data
    large = size >= VIEW_MIN and 2 * size >= len(frame) + behind
    assert isinstance(got.data, memoryview) is large


def test_a_write_with_more_or_less_data_than_it_says_is_no_message() -> None:
    talk, _, inode = talk_with()
    frame = talk.frames((1, m.Twrite(2, 0, b"abcdef")))
    for end in range(7, len(frame)):
        with pytest.raises(WireError):
            decode_write(frame, 7, end)
    with pytest.raises(WireError):
        decode_write(frame + b"g", 7, len(frame) + 1)
    wrong = bytearray(frame)
    wrong[19] -= 1  # the count
    talk.session.receive(bytes(wrong))
    [(_, reply)] = talk.turns()
    assert refusal(reply) == errno.EPROTO
    assert bytes(inode.data) == b"0123456789"


def test_a_large_write_comes_whole_however_it_is_cut() -> None:
    fs = MemoryFilesystem(lambda call: "blocking" if call == "write" else "")
    inode = fs.add("f", st.S_IFREG | 0o640)
    talk = Talk(fs, msize=1 << 17)
    talk.ask(m.Twalk(0, 2, (b"f",)), m.Tlopen(2, os.O_RDWR))
    data = os.urandom(100_000)
    frame = talk.frames((1, m.Twrite(2, 0, data)), (2, m.Twrite(2, 100_000, data[:1000])))
    for start in range(0, len(frame), 30_000):
        talk.session.receive(frame[start : start + 30_000])
        assert talk.turns() == []
    assert sorted(talk.work(), key=lambda each: each[0]) == [
        (1, m.Rwrite(100_000)),
        (2, m.Rwrite(1000)),
    ]
    assert bytes(inode.data) == data + data[:1000]


@pytest.mark.parametrize(
    ("target", "number"),
    [
        (b"", errno.ENOENT),
        (b"a\0b", errno.EINVAL),
        (b"x" * 4096, errno.ENAMETOOLONG),
        (b"x" * 4095, 0),
        (b"..", 0),
        (b"/a/../b", 0),
        (b"\xff\n", 0),
    ],
)
def test_targets_of_symbolic_links(target: bytes, number: int) -> None:
    talk, fs, _ = talk_with()
    reply = talk.ask(m.Tsymlink(0, b"s", target, 0))
    if number:
        assert refusal(reply) == number
        assert b"s" not in fs.root.children
    else:
        assert bytes(fs.root.children[b"s"].data) == target


@pytest.mark.parametrize(
    ("mode", "number"),
    [
        (st.S_IFDIR | 0o755, errno.EPERM),
        (st.S_IFLNK | 0o755, errno.EINVAL),
        (0o160000, errno.EINVAL),
        (0o644, 0),
        (st.S_IFREG | 0o644, 0),
        (st.S_IFSOCK | 0o4777, 0),
        (0xFFFF0000 | st.S_IFIFO | 0o600, 0),
    ],
)
def test_kinds_of_nodes(mode: int, number: int) -> None:
    talk, fs, _ = talk_with()
    reply = talk.ask(m.Tmknod(0, b"n", mode, 0, 0, 0))
    if number:
        assert refusal(reply) == number
        assert b"n" not in fs.root.children
    else:
        kind = mode & 0o170000 or st.S_IFREG
        assert fs.root.children[b"n"].mode == kind | mode & 0o7777


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (b"user." + b"x" * 251, errno.ERANGE),
        (b"user.\0", errno.EINVAL),
        (b"user.a/b", 0),
        (b"user." + b"x" * 250, 0),
        (b"..", 0),
    ],
)
def test_names_of_extended_attributes(name: bytes, number: int) -> None:
    talk, _, inode = talk_with()
    walk, create = m.Txattrwalk(1, 9, name), m.Txattrcreate(1, name, 1, 0)
    if number:
        assert (refusal(talk.ask(walk)), refusal(talk.ask(create))) == (number, number)
        return
    assert refusal(talk.ask(walk)) == errno.ENODATA
    assert talk.ask(create, m.Twrite(1, 0, b"v"), m.Tclunk(1)) == m.Rclunk()
    assert inode.xattrs == {name: b"v"}
    assert refusal(talk.ask(m.Txattrcreate(2, name, 1, 0))) == errno.EINVAL  # it is open
    talk.ask(m.Twalk(0, 4, (b"f",)))
    assert refusal(talk.ask(m.Txattrcreate(4, b"", 1, 0))) == errno.ERANGE


def test_an_attribute_that_cannot_be_set_is_reported_when_it_is_clunked() -> None:
    talk, fs, inode = talk_with()
    for weather in ("", "cold", "own", "blocking"):
        fs.weather = lambda call, weather=weather: weather if call == "set_xattr" else ""  # type: ignore[misc]
        talk.ask(m.Twalk(0, 9, (b"f",)), m.Txattrcreate(9, b"user.a", 1, os.XATTR_REPLACE))
        talk.ask(m.Twrite(9, 0, b"x"))
        assert refusal(talk.ask(m.Tclunk(9))) == errno.ENODATA
        assert refusal(talk.ask(m.Tgetattr(9, 1))) == errno.EBADF
    assert inode.xattrs == {}
    assert talk.session._fids.held == 0


def test_what_a_client_that_has_gone_did_not_finish_is_not_done() -> None:
    """A clunk that sets an attribute, or removes, counts as not done until a thread has it."""
    talk, fs, inode = talk_with()
    talk.ask(m.Twalk(0, 9, (b"f",)), m.Txattrcreate(9, b"user.a", 1, 0), m.Twrite(9, 0, b"x"))
    fs.weather = lambda call: "blocking"
    assert talk.send((1, m.Tclunk(9)), (2, m.Tremove(1))) == []
    talk.close()
    for job in talk.jobs:  # the loader takes them back: see `Loader.drop`
        talk.session.finish(job, error=OSError())
    assert (inode.xattrs, b"f" in fs.root.children) == ({}, True)
    assert (fs.opened, talk.session._fids.share.held) == (0, 0)


@pytest.mark.parametrize(
    ("ask", "number"),
    [
        (m.Tlock(2, 1, 4, 0, 0, 1, b"a"), errno.EINVAL),
        (m.Tlock(2, 1, 0, 1 << 63, 0, 1, b"a"), errno.EINVAL),
        (m.Tlock(2, 1, 0, 2, (1 << 63) - 1, 1, b"a"), errno.EOVERFLOW),
        (m.Tlock(2, 1, 0, 0, LOW, 1, b"a"), errno.EOVERFLOW),
        (m.Tlock(2, 1, 0, 0, 0, 1, bytes(256)), errno.EINVAL),
        (m.Tgetlock(2, 1, 1 << 63, 0, 1, b"a"), errno.EINVAL),
        (m.Tgetlock(2, 3, 0, 0, 1, b"a"), errno.EINVAL),
    ],
)
def test_locks_that_cannot_be(ask: m.Message, number: int) -> None:
    talk, _, inode = talk_with()
    assert refusal(talk.ask(ask)) == number
    assert inode.locks == []


@pytest.mark.parametrize("start", [0, 1, (1 << 63) - 1])
def test_locks_to_the_last_byte(start: int) -> None:
    talk, _, inode = talk_with()
    for length in (0, (1 << 63) - start):
        assert talk.ask(m.Tlock(2, 0, 0, start, length, 1, b"a")) == m.Rlock(0)
    assert [(each.start, each.length) for each in inode.locks] == [
        (start, 0),
        (start, (1 << 63) - start),
    ]


@pytest.mark.parametrize("dialect", [Dialect.PLAIN, Dialect.UNIX])
def test_older_dialects_only_read_what_is_not_declared_to_be_written_by_them(
    dialect: Dialect,
) -> None:
    fs = MemoryFilesystem()
    fs.plain_writes = False
    inode = fs.add("f", st.S_IFREG | 0o640, b"0123456789")
    talk = Talk(fs, dialect)
    talk.ask(m.Twalk(0, 1, (b"f",)))
    stat = talk.ask(m.Tstat(1)).stat
    blank = {
        name: (1 << 8 * size) - 1
        for size, names in ((4, "mode atime mtime n_uid n_gid n_muid dev"), (8, "length"))
        for name in names.split()
    }

    def wstat(**fields: object) -> m.Twstat:
        nothing = {"type": 0xFFFF, "name": b"", "uid": b"", "gid": b"", "muid": b""}
        values = {name: getattr(stat, name) for name in stat.__struct_fields__}
        return m.Twstat(1, m.Stat(**values | blank | nothing | {"extension": b""} | fields))

    for mode in (1, 2, 0x10, 0x40, 0x41):
        assert refusal(talk.ask(m.Topen(1, mode))) == errno.EROFS
    for perm, extension in (
        (0o644, b""),
        (DMDIR | 0o755, b""),
        (DMSYMLINK, b"to"),
        (1 << 24, b"1"),
    ):
        talk.ask(m.Twalk(0, 5, ()))
        assert refusal(talk.ask(m.Tcreate(5, b"new", perm, 1, extension))) == errno.EROFS
        talk.ask(m.Tclunk(5))
    for change in ({"mode": 0o600}, {"length": 0}, {"mtime": 1}, {"name": b"g"}, {"gid": b"1"}):
        assert refusal(talk.ask(wstat(**change))) == errno.EROFS
    assert talk.ask(wstat()) == m.Rwstat()
    assert talk.ask(m.Topen(1, 0), m.Tread(1, 0, 4)) == m.Rread(b"0123")
    assert refusal(talk.ask(m.Twrite(1, 0, b"x"))) == errno.EROFS
    assert refusal(talk.ask(m.Tremove(1))) == errno.EROFS
    assert refusal(talk.ask(m.Tstat(1))) == errno.EBADF
    assert (list(fs.root.children), bytes(inode.data)) == ([b"f"], b"0123456789")
    assert fs.opened == 0
