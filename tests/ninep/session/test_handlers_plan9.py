"""What 9P2000's and .u's requests do: stats, directories as data, modes of open(5)."""

import errno
import stat as st

import pytest

from tests.ninep.session.test_session import refusal
from tests.support.memoryfs import Inode, MemoryFilesystem
from tests.support.talking import MSIZE, Talk
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.messages import Dialect
from ventifs.ninep.protocol.wire import Qid
from ventifs.ninep.session.limits import SessionLimits

NS = 1_000_000_000
NO32, NO64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
OLD = [Dialect.PLAIN, Dialect.UNIX]
BLANK = m.Stat(
    0xFFFF,
    NO32,
    Qid(0xFF, NO32, NO64),
    NO32,
    NO32,
    NO32,
    NO64,
    b"",
    b"",
    b"",
    b"",
    b"",
    NO32,
    NO32,
    NO32,
)


def talk_in(
    dialect: Dialect, *, msize: int = 8192, limits: SessionLimits | None = None
) -> tuple[Talk, MemoryFilesystem]:
    fs = MemoryFilesystem()
    file = fs.add("f", st.S_IFREG | 0o6751, b"hello")
    file.uid, file.gid, file.times = 1000, 100, [(1 << 40) * NS, -5 * NS, 0]
    fs.add("l", st.S_IFLNK | 0o777, b"target")
    fs.add("c", st.S_IFCHR | 0o600, rdev=0x103)
    fs.add("b", st.S_IFBLK | 0o600, rdev=0x800)
    fs.add("p", st.S_IFIFO | 0o600)
    fs.add("s", st.S_IFSOCK | 0o600)
    fs.add("d", st.S_IFDIR | 0o1777)
    return Talk(fs, dialect, msize=msize, limits=limits), fs


def stat_at(talk: Talk, name: bytes) -> m.Stat:
    stat: m.Stat = talk.ask(m.Twalk(0, 99, (name,)), m.Tstat(99)).stat
    talk.ask(m.Tclunk(99))
    return stat


def changed(**values: object) -> m.Stat:
    return m.Stat(**{name: getattr(BLANK, name) for name in BLANK.__struct_fields__} | values)


def test_stats_of_9p2000_know_directories_and_files_alone() -> None:
    talk, _ = talk_in(Dialect.PLAIN)
    assert stat_at(talk, b"f") == m.Stat(
        0,
        0,
        Qid(0, 1, 2),
        0o751,
        0xFFFFFFFE,
        0,
        5,
        b"f",
        b"1000",
        b"100",
        b"1000",
        b"",
        NO32,
        NO32,
        NO32,
    )
    assert (stat_at(talk, b"l").mode, stat_at(talk, b"l").length) == (0o777, 6)
    assert stat_at(talk, b"l").qid.type == 0
    for name in (b"c", b"b", b"p", b"s"):
        assert (stat_at(talk, name).mode, stat_at(talk, name).length) == (0o600, 0)
    assert (stat_at(talk, b"d").mode, stat_at(talk, b"d").qid.type) == (0x80000000 | 0o777, 0x80)
    assert talk.ask(m.Tstat(0)).stat.name == b"/"


def test_stats_of_unix_know_all_kinds() -> None:
    talk, _ = talk_in(Dialect.UNIX)
    assert stat_at(talk, b"f") == m.Stat(
        0,
        0,
        Qid(0, 1, 2),
        0x80000 | 0x40000 | 0o751,
        0xFFFFFFFE,
        0,
        5,
        b"f",
        b"1000",
        b"100",
        b"1000",
        b"",
        1000,
        100,
        1000,
    )
    link = stat_at(talk, b"l")
    assert (link.mode, link.extension, link.length) == (0x02000000 | 0o777, b"target", 6)
    assert link.qid.type == 2
    for name, mode, extension in (
        (b"c", 0x00800000, b"c 1 3"),
        (b"b", 0x00800000, b"b 8 0"),
        (b"p", 0x00200000, b""),
        (b"s", 0x00100000, b""),
    ):
        assert (stat_at(talk, name).mode, stat_at(talk, name).extension) == (
            mode | 0o600,
            extension,
        )
    assert stat_at(talk, b"d").mode == 0x80000000 | 0x00010000 | 0o777


@pytest.mark.parametrize("dialect", OLD)
def test_unix_tells_how_many_names_a_file_has(dialect: Dialect) -> None:
    talk, fs = talk_in(dialect)
    told = b"HARDLINKCOUNT 3" if dialect is Dialect.UNIX else b""
    for name in (b"f", b"d", b"p"):
        fs.root.children[name].nlink = 3
    assert [stat_at(talk, name).extension for name in (b"f", b"d", b"p")] == [told, b"", b""]


def test_a_link_is_a_file_and_a_special_one_an_empty_file() -> None:
    talk, _ = talk_in(Dialect.PLAIN)
    for number, (name, content) in enumerate({b"l": b"target", b"c": b"", b"p": b""}.items(), 1):
        talk.ask(m.Twalk(0, number, (name,)))
        assert refusal(talk.ask(m.Topen(number, 1))) == errno.EACCES
        assert talk.ask(m.Topen(number, 0)).qid.type == 0
        assert talk.ask(m.Tread(number, 0, 99)) == m.Rread(content)
    unix, _ = talk_in(Dialect.UNIX)
    unix.ask(m.Twalk(0, 1, (b"l",)))
    assert refusal(unix.ask(m.Topen(1, 0))) == errno.ELOOP


@pytest.mark.parametrize("dialect", OLD)
@pytest.mark.parametrize("count", [70, 150, 1000, 8192])
def test_a_directory_is_read_as_whole_stats(dialect: Dialect, count: int) -> None:
    talk, fs = talk_in(dialect)
    for i in range(300):
        fs.add(f"d/{i:03}", st.S_IFREG | 0o644)
    talk.ask(m.Twalk(0, 1, (b"d",)), m.Topen(1, 0))
    for _ in range(2):
        names: list[bytes] = []
        offset = 0
        while data := talk.ask(m.Tread(1, offset, count)).data:
            assert len(data) <= count
            names += [stat.name for stat in talk.codec.stats(data)]
            offset += len(data)
        assert names == [b"%03d" % i for i in range(300)]
        assert talk.ask(m.Tread(1, offset, count)).data == b""


@pytest.mark.parametrize("dialect", OLD)
def test_it_is_read_from_where_a_read_ended_only(dialect: Dialect) -> None:
    talk, _ = talk_in(dialect)
    talk.ask(m.Topen(0, 0))
    first = talk.ask(m.Tread(0, 0, 150)).data
    second = talk.ask(m.Tread(0, len(first), 150)).data
    assert first != second != b""
    assert talk.ask(m.Tread(0, len(first), 150)).data == second
    for offset in (1, len(first) - 1, len(first) + 1, NO64, 1 << 62):
        assert refusal(talk.ask(m.Tread(0, offset, 150))) == errno.EINVAL
    assert refusal(talk.ask(m.Tread(0, 0, 40))) == errno.EINVAL  # not even one fits
    assert refusal(talk.ask(m.Tread(0, len(first), 40))) == errno.EINVAL
    # But what is left of a client's buffer, after what came before, may hold none.
    assert talk.ask(m.Tread(0, 0, 150)).data == first
    for _ in range(2):
        assert talk.ask(m.Tread(0, len(first), 150 - len(first))).data == b""
    assert talk.ask(m.Tread(0, len(first), 150)).data == second


def test_an_entry_that_never_fits_is_an_error_and_not_the_end() -> None:
    talk, fs = talk_in(Dialect.UNIX)
    fs.add("d/long", st.S_IFLNK | 0o777, b"x" * 4000)
    fs.add("d/more", st.S_IFREG | 0o644)
    for name in (b"aa", b"ab"):
        fs.add(f"d/{name.decode()}", st.S_IFREG | 0o644)
    talk.ask(m.Twalk(0, 1, (b"d",)), m.Topen(1, 0))
    count, offset = 2000, 0
    while data := talk.ask(m.Tread(1, offset, count - offset)).data:  # as Linux fills its buffer
        offset += len(data)
    assert offset
    assert refusal(talk.ask(m.Tread(1, offset, count))) == errno.EINVAL
    assert talk.ask(m.Tread(1, offset, MSIZE - 24)).data


def test_places_in_directories_are_limited() -> None:
    talk, fs = talk_in(Dialect.PLAIN, limits=SessionLimits(held_max=128 * 10))
    for i in range(300):
        fs.add(f"d/{i:03}", st.S_IFREG | 0o644)
    for fid in (1, 2, 3):
        talk.ask(m.Twalk(0, fid, (b"d",)), m.Topen(fid, 0))
        offset = 0
        while data := talk.ask(m.Tread(fid, offset, 70)).data:
            offset += len(data)
        assert offset > 300 * 49
        assert talk.session._fids.held <= 128 * 13  # one place each costs nothing
    talk.ask(m.Tclunk(1), m.Tclunk(2), m.Tclunk(3))
    assert talk.session._fids.held == 0


class Fading(dict[bytes, Inode]):
    """The names of a directory of which some are gone when they are looked for."""

    gone: tuple[bytes, ...] = ()

    def get(self, name: bytes, default: object = None) -> Inode | None:  # type: ignore[override]
        return None if name in self.gone else super().get(name)


@pytest.mark.parametrize("dialect", OLD)
@pytest.mark.parametrize("weather", ["", "cold", "own", "blocking"])
@pytest.mark.parametrize(
    "gone", [(b"b",), (b"b", b"c"), (b"d", b"f"), (b"s",), tuple(b"b c d f l p s".split())]
)
def test_entries_that_go_while_a_directory_is_read_are_left_out(
    dialect: Dialect, weather: str, gone: tuple[bytes, ...]
) -> None:
    talk, fs = talk_in(dialect)
    talk.ask(m.Twalk(0, 1, ()), m.Topen(1, 0))
    names = sorted(fs.root.children)
    fs.root.children = Fading(fs.root.children)
    fs.root.children.gone = gone
    fs.weather = lambda call: weather
    listed, offset = [], 0
    while data := talk.ask(m.Tread(1, offset, 4000)).data:
        listed += [stat.name for stat in talk.codec.stats(data)]
        offset += len(data)
    assert listed == [name for name in names if name not in gone]


@pytest.mark.parametrize("dialect", OLD)
def test_modes_of_opening(dialect: Dialect) -> None:
    talk, fs = talk_in(dialect)
    for fid in range(1, 6):
        talk.ask(m.Twalk(0, fid, (b"f",)))
    talk.ask(m.Topen(1, 0), m.Topen(2, 1), m.Topen(3, 2), m.Topen(4, 3))
    assert refusal(talk.ask(m.Twrite(1, 0, b"x"))) == errno.EBADF
    assert refusal(talk.ask(m.Tread(2, 0, 9))) == errno.EBADF
    assert talk.ask(m.Twrite(3, 0, b"J")) == m.Rwrite(1)
    assert talk.ask(m.Tread(4, 0, 9)) == m.Rread(b"Jello")
    assert refusal(talk.ask(m.Twrite(4, 0, b"x"))) == errno.EBADF
    assert refusal(talk.ask(m.Topen(1, 0))) == errno.EINVAL
    talk.ask(m.Topen(5, 0x12))
    assert talk.ask(m.Tread(5, 0, 9)) == m.Rread(b"")
    talk.ask(m.Tclunk(5), m.Twalk(0, 5, (b"f",)), m.Topen(5, 0x40))
    assert b"f" in fs.root.children
    assert talk.ask(m.Tclunk(5)) == m.Rclunk()
    assert b"f" not in fs.root.children


@pytest.mark.parametrize("dialect", OLD)
def test_creating(dialect: Dialect) -> None:
    talk, fs = talk_in(dialect)
    talk.ask(m.Twalk(0, 1, ()), m.Tcreate(1, b"new", 0o640, 1, b""))
    assert talk.ask(m.Twrite(1, 0, b"abc")) == m.Rwrite(3)
    assert fs.root.children[b"new"].mode == st.S_IFREG | 0o640
    assert bytes(fs.root.children[b"new"].data) == b"abc"
    talk.ask(m.Twalk(0, 2, ()), m.Tcreate(2, b"dir", 0x800001ED, 0, b""))
    assert talk.ask(m.Tread(2, 0, 99)) == m.Rread(b"")
    assert fs.root.children[b"dir"].mode == st.S_IFDIR | 0o755
    talk.ask(m.Twalk(0, 3, ()))
    for name in (b"", b".", b"..", b"a/b"):
        assert refusal(talk.ask(m.Tcreate(3, name, 0o640, 1, b""))) == errno.EINVAL
    assert refusal(talk.ask(m.Tcreate(3, b"new", 0o640, 1, b""))) == errno.EEXIST
    assert refusal(talk.ask(m.Tcreate(1, b"x", 0o640, 1, b""))) == errno.EINVAL


def test_creating_what_only_unix_has() -> None:
    talk, fs = talk_in(Dialect.UNIX)
    made = fs.root.children
    asks: list[tuple[bytes, int, bytes]] = [
        (b"l2", 0x02000000 | 0o777, b"to"),
        (b"c2", 0x00800000 | 0o600, b"c 1 9"),
        (b"b2", 0x00800000 | 0o600, b"b 8 1\n"),
        (b"p2", 0x00200000 | 0o600, b""),
        (b"s2", 0x00100000 | 0o600, b""),
    ]
    for fid, (name, perm, extension) in enumerate(asks, 1):
        talk.ask(m.Twalk(0, fid, ()))
        assert isinstance(talk.ask(m.Tcreate(fid, name, perm, 0, extension)), m.Rcreate)
        assert talk.ask(m.Tstat(fid)).stat.name == name
    assert (bytes(made[b"l2"].data), made[b"c2"].rdev, made[b"b2"].rdev) == (b"to", 0x109, 0x801)
    assert [st.S_IFMT(made[n].mode) for n in (b"p2", b"s2")] == [st.S_IFIFO, st.S_IFSOCK]
    talk.ask(m.Twalk(0, 9, (b"f",)), m.Twalk(0, 10, ()))
    assert isinstance(talk.ask(m.Tcreate(10, b"hard", 0x01000000, 0, b"9\n")), m.Rcreate)
    assert made[b"hard"] is made[b"f"]
    talk.ask(m.Twalk(0, 11, ()))
    for perm, extension, number in (
        (0x01000000, b"x", errno.EINVAL),
        (0x01000000, b"77", errno.EBADF),
        (0x00800000, b"", errno.EINVAL),
        (0x00800000, b"d 1 2", errno.EINVAL),
        (0x00800000, b"c 1", errno.EINVAL),
        (0x00800000, b"c 1 -2", errno.EINVAL),
        (0x00800000, b"c 1 99999999999", errno.EINVAL),
    ):
        assert refusal(talk.ask(m.Tcreate(11, b"bad", perm, 0, extension))) == number


@pytest.mark.parametrize("dialect", OLD)
def test_changing_nothing_is_fsync(dialect: Dialect) -> None:
    talk, fs = talk_in(dialect)
    talk.ask(m.Twalk(0, 1, (b"f",)))
    assert talk.ask(m.Twstat(1, BLANK)) == m.Rwstat()
    assert fs.synced == 0
    assert talk.ask(m.Topen(1, 0), m.Twstat(1, BLANK)) == m.Rwstat()
    assert fs.synced == 1


@pytest.mark.parametrize("dialect", OLD)
def test_changing_stats(dialect: Dialect) -> None:
    talk, fs = talk_in(dialect)
    inode = fs.root.children[b"f"]
    talk.ask(m.Twalk(0, 1, (b"f",)))
    assert talk.ask(m.Twstat(1, changed(mode=0o600, length=2, mtime=7, atime=8))) == m.Rwstat()
    assert (inode.mode, bytes(inode.data), inode.times[:2]) == (0o100600, b"he", [8 * NS, 7 * NS])
    assert talk.ask(m.Twstat(1, changed(gid=b"55", uid=b"66"))) == m.Rwstat()
    assert (inode.uid, inode.gid) == (66, 55)
    assert refusal(talk.ask(m.Twstat(1, changed(gid=b"wheel")))) == errno.EINVAL
    assert refusal(talk.ask(m.Twstat(1, changed(mode=0x80000000)))) == errno.EINVAL
    assert talk.ask(m.Twstat(1, changed(name=b"g", mode=0o644))) == m.Rwstat()
    assert fs.root.children[b"g"] is inode
    assert b"f" not in fs.root.children
    assert talk.ask(m.Tstat(1)).stat.name == b"g"
    for name in (b"..", b"a/b"):
        assert refusal(talk.ask(m.Twstat(1, changed(name=name)))) == errno.EINVAL
    if dialect is Dialect.UNIX:
        talk.ask(m.Twstat(1, changed(n_uid=7, n_gid=8, mode=0x80000 | 0o711)))
        assert (inode.uid, inode.gid, inode.mode) == (7, 8, 0o104711)


def test_errors_are_said_in_linux_words() -> None:
    ask = m.Twalk(0, 1, (b"none",))
    assert talk_in(Dialect.PLAIN)[0].ask(ask) == m.Rerror(b"No such file or directory", 0)
    assert talk_in(Dialect.UNIX)[0].ask(ask) == m.Rerror(b"No such file or directory", 2)


@pytest.mark.parametrize("dialect", OLD)
def test_a_stat_too_long_for_the_msize_is_an_error(dialect: Dialect) -> None:
    talk, fs = talk_in(dialect, msize=4096)
    fs.add("d/long", st.S_IFLNK | 0o777, b"x" * 4000)
    fs.add("d/longest", st.S_IFLNK | 0o777, b"x" * 66_000)
    talk.ask(m.Twalk(0, 1, (b"d", b"long")), m.Twalk(0, 2, (b"d", b"longest")))
    talk.ask(m.Twalk(0, 3, (b"d",)), m.Topen(3, 0))
    if dialect is Dialect.PLAIN:
        assert talk.ask(m.Tstat(1)).stat.length == 4000
    else:
        assert talk.ask(m.Tstat(1)).stat.extension == b"x" * 4000
        assert refusal(talk.ask(m.Tstat(2))) == errno.EPROTO
        fs.root.children[b"d"].children[b"long"].data *= 2
        assert refusal(talk.ask(m.Tstat(1))) == errno.EMSGSIZE
        assert refusal(talk.ask(m.Tread(3, 0, 8192))) == errno.EINVAL
    assert talk.largest < 4096


@pytest.mark.parametrize("dialect", OLD)
@pytest.mark.parametrize("weather", ["cold", "blocking"])
def test_nothing_comes_out_differently_when_it_has_to_wait(dialect: Dialect, weather: str) -> None:
    def story(weather: str) -> list[m.Message]:
        talk, fs = talk_in(dialect)
        fs.weather = lambda call: weather
        unix = dialect is Dialect.UNIX
        asks: list[m.Message] = [
            m.Twalk(0, 1, (b"f",)),
            m.Topen(1, 0x12),
            m.Twrite(1, 0, b"abc"),
            m.Tread(1, 0, 9),
            m.Twstat(1, changed(name=b"g", mode=0o600)),
            m.Tstat(1),
            m.Twstat(1, BLANK),
            m.Tclunk(1),
            m.Twalk(0, 1, (b"l",)),
            m.Tstat(1),
            m.Tclunk(1),
            m.Twalk(0, 1, ()),
            m.Tcreate(1, b"n", 0x800001ED, 0, b""),
            m.Tremove(1),
            m.Twalk(0, 1, ()),
            m.Tcreate(1, b"n", 0o644, 0x41, b""),
            m.Tclunk(1),
            m.Twalk(0, 2, (b"g",)),
            m.Twalk(0, 1, ()),
            m.Tcreate(1, b"n", 0x02000000 if unix else 0o600, 0, b"t"),
            m.Tstat(1),
            m.Twalk(0, 5, ()),
            m.Topen(5, 0),
        ]
        replies = [talk.ask(ask) for ask in asks]
        assert not [reply for reply in replies if isinstance(reply, m.Rerror)], replies
        offset, listed = 0, b""
        while data := talk.ask(m.Tread(5, offset, 8000)).data:
            offset, listed = offset + len(data), listed + data
        talk.close()
        assert fs.opened == 0
        return [*replies, *talk.codec.stats(listed)]

    assert story(weather) == story("")
