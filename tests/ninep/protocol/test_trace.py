"""Traces: every message as a line, every line back, and whatever is no message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.messages import DIALECTS, messages
from tests.support.trace_lines import Line, parse
from ventifs.ninep.protocol.codec import HEADER, MessageCodec
from ventifs.ninep.protocol.messages import (
    MESSAGES,
    NOFID,
    NONUNAME,
    NOTAG,
    Dialect,
    Dirent,
    Message,
    Rattach,
    Rauth,
    Rclunk,
    Rcreate,
    Rerror,
    Rflush,
    Rfsync,
    Rgetattr,
    Rgetlock,
    Rlcreate,
    Rlerror,
    Rlink,
    Rlock,
    Rlopen,
    Rmkdir,
    Rmknod,
    Ropen,
    Rread,
    Rreaddir,
    Rreadlink,
    Rremove,
    Rrename,
    Rrenameat,
    Rsetattr,
    Rstat,
    Rstatfs,
    Rsymlink,
    Runlinkat,
    Rversion,
    Rwalk,
    Rwrite,
    Rwstat,
    Rxattrcreate,
    Rxattrwalk,
    Stat,
    Tattach,
    Tauth,
    Tclunk,
    Tcreate,
    Tflush,
    Tfsync,
    Tgetattr,
    Tgetlock,
    Tlcreate,
    Tlink,
    Tlock,
    Tlopen,
    Tmkdir,
    Tmknod,
    Topen,
    Tread,
    Treaddir,
    Treadlink,
    Tremove,
    Trename,
    Trenameat,
    Tsetattr,
    Tstat,
    Tstatfs,
    Tsymlink,
    Tunlinkat,
    Tversion,
    Twalk,
    Twrite,
    Twstat,
    Txattrcreate,
    Txattrwalk,
)
from ventifs.ninep.protocol.trace import Tracer, text_of
from ventifs.ninep.protocol.wire import Qid, WireError

P, U, L = DIALECTS
D, F = Qid(0x80, 1, 2), Qid(0, 0x1F, 0xDEADBEEF)
OLD_STAT = Stat(
    0,
    0,
    Qid(0, 3, 2),
    0o644,
    1,
    2,
    7,
    b"a",
    b"root",
    b"adm",
    b"root",
    b"",
    NONUNAME,
    NONUNAME,
    NONUNAME,
)
STAT = Stat(
    0, 0, Qid(0x80, 0, 2), 0o20000000755, 1, 2, 0, b"tmp", b"root", b"adm", b"", b"", 0, 4, NONUNAME
)
KEEP = Stat(
    NOTAG,
    NOFID,
    Qid(255, NOFID, 2**64 - 1),
    NOFID,
    NOFID,
    5,
    2**64 - 1,
    b"",
    b"",
    b"",
    b"",
    b"",
    NOFID,
    NOFID,
    NOFID,
)
DIRENTS = b"".join(
    MessageCodec.of(L).encode_record(entry)
    for entry in (Dirent(D, 1, 4, b"."), Dirent(F, 3, 8, b"new\nline"))
)

# Tversion to Rwstat as plan9port's fcallfmt and npfs's fmt.c have them, but with every text quoted
GOLDEN = [
    (P, NOTAG, Tversion(8192, b"9P2000"), "<<< Tversion tag -1 msize 8192 version '9P2000'"),
    (L, NOTAG, Rversion(8192, b"9P2000.L"), ">>> Rversion tag -1 msize 8192 version '9P2000.L'"),
    (P, 0, Tauth(5, b"glenda", b"", NONUNAME), "<<< Tauth tag 0 afid 5 uname 'glenda' aname ''"),
    (
        U,
        0,
        Tauth(5, b"glenda", b"", NONUNAME),
        "<<< Tauth tag 0 afid 5 uname 'glenda' aname '' n_uname -1",
    ),
    (P, 0, Rauth(Qid(0x08, 0, 1)), ">>> Rauth tag 0 aqid (0000000000000001 0 'A')"),
    (
        P,
        0,
        Tattach(2, NOFID, b"glenda", b"web01", NONUNAME),
        "<<< Tattach tag 0 fid 2 afid -1 uname 'glenda' aname 'web01'",
    ),
    (
        L,
        0,
        Tattach(2, NOFID, b"", b"web01@latest:/usr", 1000),
        "<<< Tattach tag 0 fid 2 afid -1 uname '' aname 'web01@latest:/usr' n_uname 1000",
    ),
    (P, 0, Rattach(D), ">>> Rattach tag 0 qid (0000000000000002 1 'd')"),
    (
        P,
        1,
        Rerror(b"No such file or directory", 0),
        ">>> Rerror tag 1 ename 'No such file or directory'",
    ),
    (
        U,
        1,
        Rerror(b"No such file or directory", 2),
        ">>> Rerror tag 1 ename 'No such file or directory' errno 2",
    ),
    (L, 1, Rlerror(2), ">>> Rlerror tag 1 ecode 2"),
    (P, 4, Tflush(3), "<<< Tflush tag 4 oldtag 3"),
    (P, 4, Rflush(), ">>> Rflush tag 4"),
    (
        P,
        0,
        Twalk(2, 3, (b"usr", b"it's", b"\xff\\")),
        "<<< Twalk tag 0 fid 2 newfid 3 nwname 3 'usr' 'it\\'s' '\\xff\\\\'",
    ),
    (P, 0, Twalk(2, 3, ()), "<<< Twalk tag 0 fid 2 newfid 3 nwname 0"),
    (
        P,
        0,
        Rwalk((D, F)),
        ">>> Rwalk tag 0 nwqid 2 (0000000000000002 1 'd') (00000000deadbeef 1f '')",
    ),
    (P, 0, Rwalk(()), ">>> Rwalk tag 0 nwqid 0"),
    (P, 0, Topen(3, 16), "<<< Topen tag 0 fid 3 mode 16"),
    (P, 0, Ropen(F, 0), ">>> Ropen tag 0 qid (00000000deadbeef 1f '') iounit 0"),
    (
        P,
        0,
        Tcreate(3, b"new", 0o644, 1, b""),
        "<<< Tcreate tag 0 fid 3 name 'new' perm 0644 mode 1",
    ),
    (
        U,
        0,
        Tcreate(3, b"null", 0x800000 | 0o666, 0, b"c 1 3"),
        "<<< Tcreate tag 0 fid 3 name 'null' perm 040000666 mode 0 extension 'c 1 3'",
    ),
    (P, 0, Rcreate(F, 8168), ">>> Rcreate tag 0 qid (00000000deadbeef 1f '') iounit 8168"),
    (P, 9, Tread(3, 4096, 8168), "<<< Tread tag 9 fid 3 offset 4096 count 8168"),
    (P, 9, Rread(b"root:x:0\n"), ">>> Rread tag 9 count 9 'root:x:0\\n'"),
    (P, 9, Rread(b"\x7fELF\0\0\0\2"), ">>> Rread tag 9 count 8 7f454c4600000002"),
    (P, 9, Rread(b""), ">>> Rread tag 9 count 0 ''"),
    (
        P,
        9,
        Twrite(3, 2**63, b"it's"),
        "<<< Twrite tag 9 fid 3 offset -9223372036854775808 count 4 'it\\'s'",
    ),
    (P, 9, Rwrite(4), ">>> Rwrite tag 9 count 4"),
    (P, 9, Tclunk(3), "<<< Tclunk tag 9 fid 3"),
    (P, 9, Rclunk(), ">>> Rclunk tag 9"),
    (P, 9, Tremove(3), "<<< Tremove tag 9 fid 3"),
    (P, 9, Rremove(), ">>> Rremove tag 9"),
    (P, 9, Tstat(3), "<<< Tstat tag 9 fid 3"),
    (
        P,
        9,
        Rstat(OLD_STAT),
        ">>> Rstat tag 9 stat type 0 dev 0 qid (0000000000000002 3 '') mode 0644 atime 1 mtime 2 "
        "length 7 name 'a' uid 'root' gid 'adm' muid 'root'",
    ),
    (
        U,
        9,
        Rstat(STAT),
        ">>> Rstat tag 9 stat type 0 dev 0 qid (0000000000000002 0 'd') mode 020000000755 atime 1"
        " mtime 2 length 0 name 'tmp' uid 'root' gid 'adm' muid '' extension '' n_uid 0 n_gid 4 "
        "n_muid -1",
    ),
    (
        U,
        9,
        Twstat(3, KEEP),
        "<<< Twstat tag 9 fid 3 stat type -1 dev -1 qid (ffffffffffffffff ffffffff 'dalMAtLH') "
        "mode -1 atime -1 mtime 5 length -1 name '' uid '' gid '' muid '' extension '' n_uid -1 "
        "n_gid -1 n_muid -1",
    ),
    (P, 9, Rwstat(), ">>> Rwstat tag 9"),
    (L, 2, Tstatfs(1), "<<< Tstatfs tag 2 fid 1"),
    (
        L,
        2,
        Rstatfs(0x01021997, 4096, 10, 0, 0, 46526, 0, 0, 255),
        ">>> Rstatfs tag 2 fstype 0x1021997 bsize 4096 blocks 10 bfree 0 bavail 0 files 46526 "
        "ffree 0 fsid 0x0 namelen 255",
    ),
    (L, 2, Tlopen(3, 0o100000), "<<< Tlopen tag 2 fid 3 flags 0x8000"),
    (L, 2, Rlopen(F, 0), ">>> Rlopen tag 2 qid (00000000deadbeef 1f '') iounit 0"),
    (
        L,
        2,
        Tlcreate(3, b"new", 0x8041, 0o100644, 100),
        "<<< Tlcreate tag 2 fid 3 name 'new' flags 0x8041 mode 0100644 gid 100",
    ),
    (L, 2, Rlcreate(F, 0), ">>> Rlcreate tag 2 qid (00000000deadbeef 1f '') iounit 0"),
    (
        L,
        2,
        Tsymlink(3, b"sh", b"/bin/dash", 0),
        "<<< Tsymlink tag 2 fid 3 name 'sh' symtgt '/bin/dash' gid 0",
    ),
    (L, 2, Rsymlink(Qid(2, 0, 3)), ">>> Rsymlink tag 2 qid (0000000000000003 0 'L')"),
    (
        L,
        2,
        Tmknod(3, b"null", 0o20666, 1, 3, 0),
        "<<< Tmknod tag 2 dfid 3 name 'null' mode 020666 major 1 minor 3 gid 0",
    ),
    (L, 2, Rmknod(F), ">>> Rmknod tag 2 qid (00000000deadbeef 1f '')"),
    (L, 2, Trename(3, 4, b"new"), "<<< Trename tag 2 fid 3 dfid 4 name 'new'"),
    (L, 2, Rrename(), ">>> Rrename tag 2"),
    (L, 2, Treadlink(3), "<<< Treadlink tag 2 fid 3"),
    (L, 2, Rreadlink(b"/bin/dash"), ">>> Rreadlink tag 2 target '/bin/dash'"),
    (L, 2, Tgetattr(3, 0x3FFF), "<<< Tgetattr tag 2 fid 3 request_mask 0x3fff"),
    (
        L,
        2,
        Rgetattr(
            0x7FF,
            D,
            0o40755,
            0,
            4,
            2,
            0,
            4096,
            4096,
            8,
            0,
            0,
            2**64 - 5,
            999_999_999,
            1,
            2,
            0,
            0,
            0,
            0,
        ),
        ">>> Rgetattr tag 2 valid 0x7ff qid (0000000000000002 1 'd') mode 040755 uid 0 gid 4 "
        "nlink 2 rdev 0x0 size 4096 blksize 4096 blocks 8 atime_sec 0 atime_nsec 0 mtime_sec -5 "
        "mtime_nsec 999999999 ctime_sec 1 ctime_nsec 2 btime_sec 0 btime_nsec 0 gen 0 "
        "data_version 0",
    ),
    (
        L,
        2,
        Tsetattr(3, 0x1, 0o644, NOFID, NOFID, 0, 1, 2, 3, 4),
        "<<< Tsetattr tag 2 fid 3 valid 0x1 mode 0644 uid -1 gid -1 size 0 atime_sec 1 atime_nsec"
        " 2 mtime_sec 3 mtime_nsec 4",
    ),
    (L, 2, Rsetattr(), ">>> Rsetattr tag 2"),
    (
        L,
        2,
        Txattrwalk(3, 4, b"security.capability"),
        "<<< Txattrwalk tag 2 fid 3 newfid 4 name 'security.capability'",
    ),
    (L, 2, Rxattrwalk(20), ">>> Rxattrwalk tag 2 size 20"),
    (
        L,
        2,
        Txattrcreate(3, b"user.a", 5, 1),
        "<<< Txattrcreate tag 2 fid 3 name 'user.a' attr_size 5 flags 0x1",
    ),
    (L, 2, Rxattrcreate(), ">>> Rxattrcreate tag 2"),
    (L, 2, Treaddir(3, 0, 8168), "<<< Treaddir tag 2 fid 3 offset 0 count 8168"),
    (
        L,
        2,
        Rreaddir(DIRENTS),
        ">>> Rreaddir tag 2 count 57 qid (0000000000000002 1 'd') offset 1 type 4 name '.' qid "
        "(00000000deadbeef 1f '') offset 3 type 8 name 'new\\nline'",
    ),
    (L, 2, Rreaddir(b""), ">>> Rreaddir tag 2 count 0 ''"),
    (L, 2, Rreaddir(b"no"), ">>> Rreaddir tag 2 count 2 'no'"),
    (L, 2, Tfsync(3, 1), "<<< Tfsync tag 2 fid 3 datasync 1"),
    (L, 2, Rfsync(), ">>> Rfsync tag 2"),
    (
        L,
        2,
        Tlock(3, 1, 1, 0, 2**64 - 1, 77, b"guest"),
        "<<< Tlock tag 2 fid 3 type 1 flags 0x1 start 0 length -1 proc_id 77 client_id 'guest'",
    ),
    (L, 2, Rlock(1), ">>> Rlock tag 2 status 1"),
    (
        L,
        2,
        Tgetlock(3, 1, 0, 0, 77, b"guest"),
        "<<< Tgetlock tag 2 fid 3 type 1 start 0 length 0 proc_id 77 client_id 'guest'",
    ),
    (
        L,
        2,
        Rgetlock(2, 0, 0, 77, b"guest"),
        ">>> Rgetlock tag 2 type 2 start 0 length 0 proc_id 77 client_id 'guest'",
    ),
    (L, 2, Tlink(3, 4, b"hard"), "<<< Tlink tag 2 dfid 3 fid 4 name 'hard'"),
    (L, 2, Rlink(), ">>> Rlink tag 2"),
    (L, 2, Tmkdir(3, b"d", 0o755, 0), "<<< Tmkdir tag 2 dfid 3 name 'd' mode 0755 gid 0"),
    (L, 2, Rmkdir(D), ">>> Rmkdir tag 2 qid (0000000000000002 1 'd')"),
    (
        L,
        2,
        Trenameat(3, b"old", 4, b"new"),
        "<<< Trenameat tag 2 olddirfid 3 oldname 'old' newdirfid 4 newname 'new'",
    ),
    (L, 2, Rrenameat(), ">>> Rrenameat tag 2"),
    (L, 2, Tunlinkat(3, b"old", 0x200), "<<< Tunlinkat tag 2 dirfid 3 name 'old' flags 0x200"),
    (L, 2, Runlinkat(), ">>> Runlinkat tag 2"),
]


@pytest.mark.parametrize(("dialect", "tag", "message", "line"), GOLDEN)
def test_a_message_is_a_line_and_the_line_is_the_message(
    dialect: Dialect, tag: int, message: Message, line: str
) -> None:
    incoming = line.startswith("<<<")
    assert text_of(incoming, tag, message, dialect) == line
    assert parse(line) == Line(incoming, tag, message)


def test_every_message_has_its_line() -> None:
    assert {type(message) for _, _, message, _ in GOLDEN} == set(MESSAGES.values())


@given(st.data(), st.booleans(), st.integers(0, NOTAG))
def test_any_message_comes_back(data: st.DataObject, incoming: bool, tag: int) -> None:
    dialect = data.draw(st.sampled_from(DIALECTS))
    message = data.draw(messages(dialect))
    line = text_of(incoming, tag, message, dialect)
    assert line.isascii()
    assert line.isprintable()
    assert parse(f"12:00:01.5 web01 {line}\n") == Line(incoming, tag, message)


def traced(*frames: tuple[bool, bytes]) -> list[str]:
    lines: list[str] = []
    tracer = Tracer(lines.append)
    for incoming, frame in frames:
        tracer(incoming, frame)
    return lines


@given(st.booleans(), st.integers(0, 255), st.binary(max_size=60))
def test_any_bytes_at_all_have_a_line_that_holds_them(
    incoming: bool, kind: int, body: bytes
) -> None:
    for frame in (body, HEADER.pack(7 + len(body), kind, 3) + body):
        [line] = traced((incoming, frame))
        back = parse(line)
        assert back.incoming is incoming
        if isinstance(back.message, bytes):
            assert back.message == frame
        elif not back.message.optional:  # else what the sender left out is not told
            dialects = [each for each in DIALECTS if each in back.message.dialects]
            assert frame in [
                MessageCodec.of(each).encode(back.message, back.tag) for each in dialects
            ]


def test_a_tracer_follows_the_dialect() -> None:
    attach = Tattach(1, NOFID, b"u", b"", 7)
    frames = []
    for dialect in DIALECTS:
        codec = MessageCodec.of(dialect)
        frames += [
            (True, codec.encode(Tversion(8192, dialect.version), NOTAG)),
            (False, codec.encode(Rversion(8192, dialect.version), NOTAG)),
            (True, codec.encode(attach, 0)),
        ]
    lines = traced(*frames)
    assert [line.endswith("n_uname 7") for line in lines[2::3]] == [False, True, True]
    assert all("???" not in line for line in lines)


def test_a_session_that_agreed_to_less_is_traced_as_what_it_is() -> None:
    lines = traced(
        (True, MessageCodec.of(L).encode(Tversion(8192, L.version), NOTAG)),
        (False, MessageCodec.of(P).encode(Rversion(8192, P.version), NOTAG)),
        (True, MessageCodec.of(P).encode(Tattach(1, NOFID, b"u", b"", NONUNAME), 0)),
        (True, MessageCodec.of(L).encode(Tgetattr(1, 1), 5)),
        (True, MessageCodec.of(P).encode(Tversion(8192, b"9P3000"), NOTAG)),
        (False, MessageCodec.of(P).encode(Rversion(8192, b"unknown"), NOTAG)),
        (False, MessageCodec.of(P).encode(Rerror(b"no", 0), 5)),
    )
    assert lines[2] == "<<< Tattach tag 0 fid 1 afid -1 uname 'u' aname ''"
    assert lines[3] == "<<< ??? 130000001805000100000001000000000000" + "00"
    assert parse(lines[3]).tag == 5
    assert lines[6] == ">>> Rerror tag 5 ename 'no'"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Tclunk tag 0 fid 1",
        "<< Tclunk tag 0 fid 1",
        "<<< Tfoo tag 0",
        "<<< Tclunk",
        "<<< Tclunk tag 0",
        "<<< Tclunk fid 1 tag 0",
        "<<< Tclunk tag 0 fid",
        "<<< Tclunk tag 0 fid x",
        "<<< Tclunk tag 0 fid 1 fid 2",
        "<<< Tclunk tag 65536 fid 1",
        "<<< Tclunk tag 0 fid -2",
        "<<< Tclunk tag 0 fid 1_0",
        "<<< Tclunk tag 0 fid 09",
        "<<< Tclunk tag 0 fid '1'",
        "<<< Tlock tag 0 fid 1 type -1 flags 0x0 start 0 length 0 proc_id 0 client_id ''",
        "<<< Twalk tag 0 fid 1 newfid 2 nwname 2 'a'",
        "<<< Twalk tag 0 fid 1 newfid 2 nwname 0 'a'",
        "<<< Twalk tag 0 fid 1 newfid 2 nwname 1 a",
        "<<< Twalk tag 0 fid 1 newfid 2 nwname 1 'a",
        "<<< Twalk tag 0 fid 1 newfid 2 nwname 1 '\\q'",
        "<<< Twalk tag 0 fid 1 newfid 2 nwname 1 '\\'",
        "<<< Twalk tag 0 fid 1 newfid 2 nwname 1 '\u00e9'",
        ">>> Rwalk tag 0 nwqid 1 (2 0 'd')",
        ">>> Rwalk tag 0 nwqid 1 (0000000000000002 0 'dd')",
        ">>> Rwalk tag 0 nwqid 1 'd'",
        ">>> Rread tag 0 count 2 'a'",
        ">>> Rread tag 0 count 1 6",
        ">>> Rread tag 0 count 1",
        ">>> Rreaddir tag 0 count 1 qid (0000000000000002 0 'd')",
        "<<< ??? 0",
        "<<< ??? xx",
    ],
)
def test_what_is_no_line_is_refused(line: str) -> None:
    with pytest.raises(WireError):
        parse(line)
