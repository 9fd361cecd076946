"""The stream of a session: framing, versions, tags, limits, and what is refused in each dialect."""

import errno
import stat as st
import struct
import tracemalloc

import pytest

from tests.support.clock import Clock
from tests.support.memoryfs import MemoryFilesystem
from tests.support.talking import MSIZE, Talk, tags
from ventifs.buffer import Buffer, joined
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.codec import MessageCodec
from ventifs.ninep.protocol.messages import Dialect
from ventifs.ninep.session.limits import SessionLimits
from ventifs.ninep.session.output import TurnOutput
from ventifs.ninep.session.session import NinepSession
from ventifs.serving.session import StreamError
from ventifs.vfs.interface import (
    DIRECTORY,
    Attributes,
    Identity,
    ReadOnlyFile,
    ReadOnlyOpened,
    User,
)

DIALECTS = list(Dialect)


def tree() -> MemoryFilesystem:
    fs = MemoryFilesystem()
    fs.add("etc/passwd", st.S_IFREG | 0o644, b"root:x:0:0\n")
    fs.add("bin", st.S_IFLNK | 0o777, b"usr/bin")
    fs.add("null", st.S_IFCHR | 0o666, rdev=0x103)
    return fs


def conversation(dialect: Dialect) -> list[tuple[int, m.Message]]:
    asked: m.Message = m.Tgetattr(2, 0x7FF) if dialect is Dialect.LINUX else m.Tstat(2)
    return [
        (m.NOTAG, m.Tversion(MSIZE, dialect.version)),
        (0, m.Tattach(1, m.NOFID, b"", b"", 0)),
        (7, m.Twalk(1, 2, (b"etc", b"passwd"))),
        (8, asked),
        (9, m.Tflush(8)),
        (10, m.Tclunk(2)),
        (11, m.Tclunk(2)),
    ]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_any_split_of_the_stream_gives_the_same_replies(dialect: Dialect) -> None:
    codec = MessageCodec.of(dialect)
    frames = b"".join(codec.encode(message, tag) for tag, message in conversation(dialect))
    whole = NinepSession(tree(), clock=Clock())
    whole.receive(frames)
    wanted = joined(whole.turn())
    for step in (1, 2, 3, 7, 11, 64):
        session, got = NinepSession(tree(), clock=Clock()), b""
        for at in range(0, len(frames), step):
            session.receive(frames[at : at + step])
            got += joined(session.turn())
        assert got == wanted
    partial = NinepSession(tree(), clock=Clock())
    partial.receive(frames + frames[:10])
    assert joined(partial.turn()) == wanted
    assert not partial.more
    assert partial.hungry


@pytest.mark.parametrize("size", [0, 1, 6, MSIZE + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_frame_of_an_impossible_size_ends_the_stream(size: int) -> None:
    talk = Talk(tree())
    good = talk.frames((5, m.Tgetattr(0, 1)))
    talk.session.receive(good + struct.pack("<IBH", size, 24, 1))
    replies = joined(talk.session.turn())
    assert talk.codec.decode(replies)[0] == 5  # what came before is answered
    assert talk.session.more
    with pytest.raises(StreamError, match="are allowed"):
        talk.session.turn()


def test_before_a_version_only_small_frames_and_only_versions_are_taken() -> None:
    session = NinepSession(tree())
    session.receive(MessageCodec.of(Dialect.PLAIN).encode(m.Tclunk(1), 3))
    reply = MessageCodec.of(Dialect.PLAIN).decode(joined(session.turn()))
    assert reply == (3, m.Rerror(b"Operation not supported", 0))
    session.receive(struct.pack("<IBH", 8193, 100, m.NOTAG))
    with pytest.raises(StreamError):
        session.turn()


@pytest.mark.parametrize(
    "version", [b"", b"9P", b"9P2000.X", b"9P2000.l", b"unknown", b"\xff" * 99]
)
def test_an_unknown_version_is_answered_and_can_be_tried_again(version: bytes) -> None:
    talk = Talk(tree(), attach=False)
    assert talk.send((m.NOTAG, m.Tversion(MSIZE, version))) == [
        (m.NOTAG, m.Rversion(MSIZE, b"unknown"))
    ]
    talk.session.receive(talk.frames((1, m.Tattach(0, m.NOFID, b"", b"", 0))))
    assert joined(talk.session.turn())[4] == m.Rerror.type
    assert talk.send((m.NOTAG, m.Tversion(MSIZE, b"9P2000.L"))) == [
        (m.NOTAG, m.Rversion(MSIZE, b"9P2000.L"))
    ]
    assert talk.ask(m.Tattach(0, m.NOFID, b"", b"", 0)).qid.type == 0x80


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_msize_is_the_smaller_one_and_none_is_too_small(dialect: Dialect) -> None:
    talk = Talk(tree(), dialect, attach=False)
    most = SessionLimits().msize_max
    for asked, given in ((4096, 4096), (1 << 20, 1 << 20), (0xFFFFFFFF, most)):
        assert talk.ask(m.Tversion(asked, dialect.version)).msize == given
    for asked in (0, 24, 4095):
        reply = talk.ask(m.Tversion(asked, dialect.version))
        assert (
            reply
            == {
                Dialect.PLAIN: m.Rerror(b"Input/output error", 0),
                Dialect.UNIX: m.Rerror(b"Input/output error", errno.EIO),
                Dialect.LINUX: m.Rlerror(errno.EIO),
            }[dialect]
        )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_types_that_a_dialect_has_not_are_not_supported(dialect: Dialect) -> None:
    talk = Talk(tree(), dialect)
    known = {
        n
        for n, record in m.MESSAGES.items()
        if dialect in record.dialects and record.__name__[0] == "T"
    }
    for number in set(range(256)) - known:
        talk.session.receive(struct.pack("<IBHQ", 15, number, 77, 0))
        [(tag, reply)] = talk.turns()
        assert tag == 77
        assert refusal(reply) == errno.EOPNOTSUPP


@pytest.mark.parametrize("dialect", DIALECTS)
def test_bodies_that_do_not_parse_are_an_error_of_that_tag_alone(dialect: Dialect) -> None:
    talk = Talk(tree(), dialect)
    for number, record in m.MESSAGES.items():
        if dialect not in record.dialects or record.__name__[0] != "T" or record is m.Tversion:
            continue
        for body in (b"", b"\0", b"\0\0\0\0" * 99):
            talk.session.receive(struct.pack("<IBH", 7 + len(body), number, 9) + body)
            [(tag, reply)] = talk.turns()
            assert tag == 9
            assert refusal(reply) in {errno.EPROTO, errno.EBADF}, record
    assert talk.ask(m.Twalk(0, 5, ())) == m.Rwalk(())


def test_auth_is_answered_as_clients_expect_it() -> None:
    ask = m.Tauth(3, b"me", b"", 0)
    assert Talk(tree()).ask(ask) == m.Rlerror(errno.ENOENT)
    unix = Talk(tree(), Dialect.UNIX).ask(ask)
    assert unix == m.Rerror(b"authentication not required", errno.ENOENT)
    plain = Talk(tree(), Dialect.PLAIN).ask(ask)
    assert plain == m.Rerror(b"authentication not required", 0)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_attach(dialect: Dialect) -> None:
    talk = Talk(tree(), dialect, attach=False)
    assert refusal(talk.ask(m.Tattach(0, 5, b"", b"", 0))) == errno.EBADF
    assert refusal(talk.ask(m.Tattach(m.NOFID, m.NOFID, b"", b"", 0))) == errno.EBADF
    assert refusal(talk.ask(m.Tattach(0, m.NOFID, b"", b"elsewhere", 0))) == errno.ENOENT
    assert talk.session.handles == 0
    assert isinstance(talk.ask(m.Tattach(0, m.NOFID, b"", b"", 0)), m.Rattach)
    assert refusal(talk.ask(m.Tattach(0, m.NOFID, b"", b"", 0))) == errno.EBADF
    assert isinstance(talk.ask(m.Tattach(1, m.NOFID, b"", b"", 0)), m.Rattach)


def test_a_turn_answers_no_more_than_its_limits() -> None:
    fs = tree()
    fs.add("big", st.S_IFREG | 0o644, bytes(100_000))
    talk = Talk(fs, msize=1 << 17)
    talk.ask(m.Twalk(0, 1, (b"big",)), m.Tlopen(1, 0))
    talk.session.receive(talk.frames(*[(tag, m.Tgetattr(1, 1)) for tag in range(100)]))
    assert len(joined(talk.session.turn())) == 64 * 160
    assert talk.session.more
    assert len(joined(talk.session.turn())) == 36 * 160
    assert not talk.session.more
    failing = [(tag, m.Twalk(0, 2, (b"none",))) for tag in range(100)]
    talk.session.receive(talk.frames(*failing))
    assert len(joined(talk.session.turn())) == 64 * 11
    assert len(joined(talk.session.turn())) == 36 * 11
    talk.session.receive(talk.frames(*[(tag, m.Tread(1, 0, 100_000)) for tag in range(5)]))
    assert len(joined(talk.session.turn())) == 3 * 100_011
    assert len(joined(talk.session.turn())) == 2 * 100_011


@pytest.mark.parametrize(
    ("limits", "step_s", "answered"),
    [
        (SessionLimits(turn_pinned=30_001), 0.0, 2),
        (
            SessionLimits(turn_s=0.001),
            0.0011,
            1,
        ),  # seconds from one look to the next, after each reply
        (SessionLimits(turn_s=0.001), 0.0004, 3),
    ],
)
def test_a_turn_ends_when_replies_pin_much_or_took_long(
    limits: SessionLimits, step_s: float, answered: int
) -> None:
    fs = tree()
    fs.add("big", st.S_IFREG | 0o644, bytes(20_000))
    clock = Clock()
    talk = Talk(fs, msize=1 << 17, limits=limits, clock=clock)
    talk.ask(m.Twalk(0, 1, (b"big",)), m.Tlopen(1, 0))
    clock.step_s = step_s
    talk.session.receive(talk.frames(*[(tag, m.Tread(1, 0, 20_000)) for tag in range(5)]))
    assert len(joined(talk.session.turn())) == answered * 20_011
    assert talk.session.more


@pytest.mark.parametrize("turn_s", [0.0, 0.001, 3600.0])
def test_what_is_answered_does_not_hang_on_the_time_that_turns_take(turn_s: float) -> None:
    """On the machine's own clock, whatever that says."""
    frames = Talk(tree(), attach=False).frames(*conversation(Dialect.LINUX))
    replies = []
    for session in (
        NinepSession(tree(), limits=SessionLimits(turn_s=turn_s)),
        NinepSession(tree(), clock=Clock()),
    ):
        session.receive(frames)
        answer = joined(session.turn())
        while session.more:
            answer += joined(session.turn())
        replies.append(answer)
    assert replies[0] == replies[1]


def test_large_pieces_are_sent_as_they_came_and_small_ones_together() -> None:
    fs = tree()
    fs.add("big", st.S_IFREG | 0o644, bytes(range(256)) * 400)
    talk = Talk(fs, msize=1 << 17)
    talk.ask(m.Twalk(0, 1, (b"big",)), m.Tlopen(1, 0))
    talk.session.receive(
        talk.frames(
            (1, m.Tgetattr(0, 1)),
            (2, m.Tread(1, 0, 102_400)),
            (3, m.Tread(1, 0, 100)),
            (4, m.Tgetattr(0, 1)),
        )
    )
    replies = talk.session.turn()
    assert [len(piece) for piece in replies] == [160 + 11, 51_200, 51_200, 111 + 160]
    assert isinstance(replies[1], memoryview)


def test_a_reply_that_ends_the_turn_is_sent_as_it_came() -> None:
    fs = tree()
    fs.add("big", st.S_IFREG | 0o644, bytes(range(256)) * 400)
    talk = Talk(fs, msize=1 << 17, limits=SessionLimits(turn_bytes=100_000))
    talk.ask(m.Twalk(0, 1, (b"big",)), m.Tlopen(1, 0))
    talk.session.receive(
        talk.frames((1, m.Tgetattr(0, 1)), (2, m.Tread(1, 0, 102_400)), (3, m.Tgetattr(0, 1)))
    )
    replies = talk.session.turn()
    assert [len(piece) for piece in replies] == [160, 7, 4, 51_200, 51_200]
    assert joined(replies)[171:] == bytes(range(256)) * 400
    assert [len(piece) for piece in talk.session.turn()] == [160]


def test_small_pieces_are_copied_however_many_they_are() -> None:
    """Each of them would keep a whole clump."""
    output = TurnOutput(100_000)
    pieces: list[Buffer] = [memoryview(bytes(1 << 17))[:1400] for _ in range(200)]
    output.add(pieces, 280_000)
    [joined] = output.collected()
    assert len(joined) == 280_000
    assert output.pinned == 0


def test_the_trace_tells_every_message() -> None:
    told: list[tuple[bool, bytes]] = []
    session = NinepSession(
        tree(), trace=lambda incoming, frame: told.append((incoming, frame)), clock=Clock()
    )
    codec = MessageCodec.of(Dialect.LINUX)
    session.receive(
        b"".join(codec.encode(message, tag) for tag, message in conversation(Dialect.LINUX))
    )
    replies = joined(session.turn())
    assert [codec.decode(frame) for incoming, frame in told if incoming] == conversation(
        Dialect.LINUX
    )
    assert b"".join(frame for incoming, frame in told if not incoming) == replies


def test_counters() -> None:
    talk = Talk(tree())
    before = talk.session.counters
    requests, hits, errors = before.requests[m.Tgetattr.type], before.hits, before.errors
    talk.ask(m.Tgetattr(0, 1), m.Tgetattr(0, 1), m.Tgetattr(5, 1))
    assert before.requests[m.Tgetattr.type] == requests + 3
    assert before.hits == hits + 2
    assert before.errors == errors + 1
    assert before.colds == 0
    assert before.replied > 3 * 11
    talk2 = Talk(MemoryFilesystem(lambda call: "cold"))
    assert talk2.session.counters.colds == 1


def test_nothing_is_left_when_the_connection_is_gone() -> None:
    fs = tree()
    talk = Talk(fs)
    talk.ask(m.Twalk(0, 1, (b"etc", b"passwd")), m.Tlopen(1, 0))
    assert fs.opened == 1
    talk.close()
    talk.close()
    assert (fs.opened, talk.session.handles, talk.session.in_flight) == (0, 0, 0)
    assert not talk.session.hungry
    assert not talk.session.more
    talk.session.receive(b"\0" * 100)
    assert talk.session.turn() == []


class OneDirectory(ReadOnlyFile):
    """A file system of one directory, whose files and what they are opened to take no memory."""

    identity = Identity(DIRECTORY, 1, 1)
    name = b"/"

    def attach(self, user: User, aname: bytes) -> "OneDirectory":
        return self

    def attributes(self) -> Attributes:
        return Attributes(0o40755, 0, 0, 1, 0, 0, 0, 0, 0, 0)

    def open(self, flags: int) -> ReadOnlyOpened:
        return _OPENED


_OPENED = ReadOnlyOpened()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_open_directories_are_small(dialect: Dialect) -> None:
    """A file is at most 250 bytes, so that a fid has 150 for the rest; open, some more."""
    talk = Talk(OneDirectory(), dialect)
    topen = m.Tlopen if dialect is Dialect.LINUX else m.Topen
    count = 5000
    frames = talk.frames(
        *[
            (1, message)
            for fid in range(1, count + 1)
            for message in (m.Twalk(0, fid, ()), topen(fid, 0))
        ]
    )
    tracemalloc.start()
    talk.session.receive(frames)
    while talk.session.more:
        talk.session.turn()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert (talk.session.handles, talk.session.counters.errors) == (count + 1, 0)
    assert 100 < size / count < 300


def test_requests_that_wait_for_nothing_are_answered_in_order() -> None:
    talk = Talk(tree())
    asked = [(tag, m.Tgetattr(0, 1)) for tag in (9, 3, 3, 500, 0)]
    assert tags(talk.send(*asked)) == [9, 3, 3, 500, 0]  # one answered is one no longer in flight


def refusal(reply: m.Message) -> int:
    """The errno of an error, in whatever dialect."""
    if isinstance(reply, m.Rlerror):
        return reply.ecode
    assert isinstance(reply, m.Rerror), reply
    if reply.errno:
        return reply.errno
    import os

    [number] = [
        n
        for n in errno.errorcode
        if os.strerror(n).encode() == reply.ename and n not in {errno.EDEADLOCK}
    ]
    return number
