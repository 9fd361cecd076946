"""Connections that another process goes on with: what is handed over, and what begins there."""

import errno
import stat as st

import pytest

from tests.ninep.session.test_session import DIALECTS, refusal
from tests.support.memoryfs import MemoryFilesystem
from tests.support.talking import MSIZE, Talk, tags
from ventifs.buffer import joined
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.messages import Dialect
from ventifs.ninep.session.limits import MSIZE_FIRST, SessionLimits
from ventifs.serving.session import Agreed, Handover, StreamError
from ventifs.vfs.memory_budget import Budget

ATTACH = m.Tattach(4, m.NOFID, b"me", b"live", 1000)


def apart(weather: str = "") -> MemoryFilesystem:
    """A file system whose export `live` is served elsewhere."""
    fs = MemoryFilesystem(lambda call: weather)
    fs.elsewhere.add(b"live")
    return fs


@pytest.mark.parametrize("weather", ["", "cold", "own"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_session_stops_before_the_attach(dialect: Dialect, weather: str) -> None:
    talk = Talk(apart(weather), dialect, attach=False)
    after = talk.frames((1, ATTACH), (2, m.Twalk(4, 5, (b"f",))), (3, m.Tclunk(5)))
    talk.session.receive(talk.frames((3, m.Tclunk(9))) + after + b"\x20\0")
    tag, reply = talk.codec.decode(joined(talk.session.turn()))
    assert (tag, refusal(reply)) == (3, errno.EBADF)  # what came before is answered
    talk.jobs += talk.session.loads()
    assert talk.work() == []
    agreed = Agreed(dialect.version.decode(), MSIZE)
    assert talk.session.elsewhere == Handover("live", agreed, after + b"\x20\0")
    assert not talk.session.hungry
    assert not talk.session.more
    assert talk.session.turn() == []
    assert (talk.session.in_flight, talk.session.handles) == (0, 0)
    counted = {
        number: times for number, times in enumerate(talk.session.counters.requests) if times
    }
    assert counted == {m.Tversion.type: 1, m.Tclunk.type: 1}


@pytest.mark.parametrize("weather", ["", "cold", "own"])
def test_a_session_that_holds_something_goes_nowhere(weather: str) -> None:
    fs = apart()
    fs.add("f", st.S_IFREG | 0o644)
    talk = Talk(fs)
    fs.weather = lambda call: weather if call == "attach" else ""
    assert refusal(talk.ask(ATTACH)) == errno.EXDEV
    assert talk.session.elsewhere is None
    assert talk.ask(m.Twalk(0, 5, (b"f",))).wqids
    talk.ask(m.Tclunk(5), m.Tclunk(0))
    assert talk.send((1, ATTACH)) + talk.work() == []
    assert talk.session.elsewhere is not None


def test_a_session_with_a_request_in_flight_goes_nowhere() -> None:
    fs = apart("cold")
    talk = Talk(fs, attach=False)
    assert talk.send((1, m.Tattach(1, m.NOFID, b"me", b"", 0))) == []
    fs.weather = lambda call: ""
    [(tag, reply)] = talk.send((2, ATTACH))
    assert (tag, refusal(reply)) == (2, errno.EXDEV)
    assert tags(talk.work()) == [1]
    assert talk.session.elsewhere is None


def test_an_attach_that_was_flushed_goes_nowhere() -> None:
    talk = Talk(apart("own"), attach=False)
    assert talk.send((1, ATTACH)) == []
    assert talk.send((2, m.Tflush(1))) == [(2, m.Rflush())]
    assert talk.work() == []
    assert talk.session.elsewhere is None
    assert talk.session.hungry


@pytest.mark.parametrize("dialect", DIALECTS)
def test_another_session_goes_on(dialect: Dialect) -> None:
    first = Talk(apart(), dialect, msize=100_000, attach=False)
    first.send((1, ATTACH), (2, m.Twalk(4, 5, (b"f",))))
    handover = first.session.elsewhere
    assert handover is not None
    fs = MemoryFilesystem()
    fs.add("f", st.S_IFREG | 0o644, bytes(200_000))
    fs.allowed[b"live"] = b"/"
    share = Budget().share_of("peer")
    share.take(SessionLimits().session_bytes(MSIZE_FIRST))
    talk = Talk(fs, dialect, agreed=handover.agreed, share=share)
    talk.session.receive(handover.data)
    assert talk.session.dialect == dialect.version.decode()
    assert talk.session.memory == SessionLimits().session_bytes(100_000)
    assert tags(talk.turns()) == [1, 2]
    read = m.Tread(5, 0, 1 << 20)
    opening = m.Tlopen(5, 0) if dialect is Dialect.LINUX else m.Topen(5, 0)
    assert len(talk.ask(opening, read).data) == 100_000 - 24
    talk.close()
    assert (fs.opened, share.held) == (0, 0)


def test_another_session_without_memory_for_it_ends() -> None:
    budget = Budget(4 * SessionLimits().session_bytes(MSIZE_FIRST))
    share = budget.share_of("peer")
    assert share.take(SessionLimits().session_bytes(MSIZE_FIRST))
    talk = Talk(apart(), agreed=Agreed("9P2000.L", 1 << 20), share=share)
    talk.session.receive(talk.frames((1, ATTACH)))
    assert talk.session.more
    with pytest.raises(StreamError, match="no memory for messages of 1048576 bytes"):
        talk.session.turn()
    talk.close()
    assert share.held == 0
