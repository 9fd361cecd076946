"""The order of a session: what waits for what, flushes, clunks, tags and generations."""

import errno
import stat as st

import pytest

from tests.ninep.session.test_session import refusal
from tests.support.memoryfs import MemoryFilesystem
from tests.support.talking import MSIZE, Talk, run, tags
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.messages import Dialect
from ventifs.ninep.protocol.wire import Qid
from ventifs.ninep.session.limits import SessionLimits


class Weather:
    """Calls by name, and how they come out; the rest is fine."""

    def __init__(self, **calls: str) -> None:
        self.calls = calls

    def __call__(self, call: str) -> str:
        return self.calls.get(call, "")


def talk_in(limits: SessionLimits | None = None, **calls: str) -> tuple[Talk, MemoryFilesystem]:
    """A session with fid 0 at the root, fid 1 at `d`, fid 2 open at `f`; then the weather."""
    fs = MemoryFilesystem()
    fs.add("d/x", st.S_IFREG | 0o644, b"x")
    fs.add("f", st.S_IFREG | 0o644, b"hello")
    talk = Talk(fs, limits=limits)
    talk.ask(m.Twalk(0, 1, (b"d",)), m.Twalk(0, 2, (b"f",)), m.Tlopen(2, 2))
    fs.weather = Weather(**calls)
    return talk, fs


def test_requests_wait_for_the_walk_that_makes_their_fid() -> None:
    talk, _ = talk_in(walk="cold")
    sent = talk.send(
        (1, m.Twalk(0, 9, (b"f",))),
        (2, m.Tgetattr(9, 1)),
        (3, m.Tgetattr(0, 1)),
        (4, m.Tlopen(9, 0)),
        (5, m.Tread(9, 0, 10)),
        (6, m.Tclunk(9)),
    )
    assert tags(sent) == [3]
    replies = talk.work()
    assert tags(replies) == [1, 2, 4, 5, 6]
    assert replies[3][1] == m.Rread(b"hello")
    assert (talk.session.handles, talk.session.in_flight) == (3, 0)


def test_they_are_bad_fids_when_the_walk_fails() -> None:
    talk, _ = talk_in(walk="cold")
    assert talk.send((1, m.Twalk(0, 9, (b"none",))), (2, m.Tgetattr(9, 1)), (6, m.Tclunk(9))) == []
    replies = talk.work()
    assert [(tag, refusal(reply)) for tag, reply in replies] == [
        (1, errno.ENOENT),
        (2, errno.EBADF),
        (6, errno.EBADF),
    ]


def test_a_walk_that_waits_reserves_its_fid_too() -> None:
    talk, _ = talk_in(walk="cold")
    talk.send(
        (1, m.Twalk(0, 8, (b"d",))),
        (2, m.Twalk(8, 9, (b"x",))),
        (3, m.Tgetattr(9, 1)),
        (4, m.Twalk(9, 10, ())),
        (5, m.Tclunk(10)),
    )
    assert tags(talk.work()) == [1, 2, 3, 4, 5]


def test_walks_that_do_not_meet_do_not_wait_for_each_other() -> None:
    talk, _ = talk_in(walk="cold")
    talk.send((1, m.Twalk(0, 8, (b"d",))), (2, m.Twalk(0, 9, (b"f",))))
    assert len(talk.jobs) == 2
    talk.jobs.reverse()
    assert tags(talk.work()) == [2, 1]


def test_a_number_can_be_walked_to_again_behind_its_clunk() -> None:
    talk, _ = talk_in(walk="cold")
    talk.send(
        (1, m.Twalk(0, 9, (b"d",))),
        (2, m.Tclunk(9)),
        (3, m.Twalk(0, 9, (b"f",))),
        (4, m.Tgetattr(9, 1)),
    )
    replies = talk.work()
    assert tags(replies) == [1, 2, 3, 4]
    assert replies[3][1].size == 5  # type: ignore[attr-defined]


def test_a_clunk_waits_for_what_was_asked_of_its_fid_before() -> None:
    talk, _ = talk_in(walk="cold")
    talk.send((1, m.Twalk(0, 9, (b"none",))), (2, m.Twalk(1, 9, ())))  # waits for 9 to be free
    assert talk.send((3, m.Tclunk(1))) == []
    replies = talk.work()
    assert [(tag, type(reply)) for tag, reply in replies] == [
        (1, m.Rlerror),
        (2, m.Rwalk),
        (3, m.Rclunk),
    ]


def test_what_one_request_was_given_is_not_given_to_another() -> None:
    talk, fs = talk_in(SessionLimits(fids_max=4), walk="blocking")
    talk.send((1, m.Twalk(0, 8, (b"d",))))
    assert tags(talk.send((2, m.Twalk(0, 9, ())))) == [2]  # the last fid
    [(tag, reply)] = talk.work()
    assert (tag, refusal(reply)) == (1, errno.ENFILE)
    assert talk.ask(m.Tgetattr(2, 1)).size == 5
    talk.ask(m.Tclunk(9))
    talk.send((1, m.Twalk(0, 9, (b"d", b"x"))))
    talk.work(1)  # the first name
    assert tags(talk.send((2, m.Tgetattr(0, 1)), (3, m.Tgetattr(2, 1)))) == [2, 3]
    [(tag, reply)] = talk.work()
    assert isinstance(reply, m.Rwalk)
    assert [qid.path for qid in reply.wqids] == [2, 3]
    assert fs.opened == 1


@pytest.mark.parametrize("move", [m.Twalk(0, 0, (b"d",)), m.Tlcreate(0, b"new", 1, 0o644, 0)])
def test_what_was_asked_before_a_fid_moved_is_of_the_old_file(move: m.Message) -> None:
    talk, _ = talk_in(attributes="cold")
    talk.send((1, m.Tgetattr(0, 1)))
    assert tags(talk.send((2, move))) == [2]
    [(_, reply)] = talk.work()
    assert isinstance(reply, m.Rgetattr)
    assert reply.qid.path == 1


def test_equal_loads_have_equal_keys() -> None:
    """By which the loader runs them once."""
    talk, _ = talk_in(walk="cold")
    talk.send((1, m.Twalk(0, 8, (b"d",))), (2, m.Twalk(0, 9, (b"d",))))
    first, second = talk.jobs
    assert first.key == second.key is not None
    assert tags(talk.work(1)) == [1]  # the model's warmth is good for one
    assert tags(talk.work()) == [2]


def test_what_a_load_raises_is_what_became_of_those_that_waited() -> None:
    talk, _ = talk_in(walk="cold")
    talk.send((1, m.Twalk(0, 8, (b"d",))), (2, m.Tgetattr(8, 1)))
    [job] = talk.jobs
    talk.session.finish(job, error=OSError(errno.EIO, "no"))
    assert [(t, refusal(r)) for t, r in talk.turns()] == [(1, errno.EIO), (2, errno.EBADF)]


@pytest.mark.parametrize("dialect", [Dialect.LINUX, Dialect.PLAIN])
def test_a_listing_whose_load_fails_is_not_loaded_again(dialect: Dialect) -> None:
    fs = MemoryFilesystem()
    fs.add("d/x", st.S_IFREG | 0o644)
    talk = Talk(fs, dialect)
    linux = dialect is Dialect.LINUX
    talk.ask(m.Twalk(0, 1, (b"d",)), m.Tlopen(1, 0) if linux else m.Topen(1, 0))
    fs.weather = Weather(entries="cold")
    ask = m.Treaddir(1, 2, 4096) if linux else m.Tread(1, 0, 4096)
    assert talk.send((1, ask)) == []
    talk.session.finish(talk.jobs.pop(), error=OSError(errno.EIO, "no"))
    [(tag, reply)] = talk.turns()
    assert (tag, refusal(reply)) == (1, errno.EIO)
    assert talk.jobs == []
    assert len(talk.ask(ask).data) > 24  # and it can be asked again


@pytest.mark.parametrize("kind", ["cold", "blocking"])
def test_a_clunk_is_answered_at_once_and_reads_go_on(kind: str) -> None:
    talk, fs = talk_in(read=kind)
    assert talk.send((1, m.Tread(2, 0, 9))) == []
    assert tags(talk.send((2, m.Tclunk(2)), (3, m.Twalk(0, 2, (b"d",))))) == [2, 3]
    assert fs.opened == 1
    assert talk.work() == [(1, m.Rread(b"hello"))]
    assert fs.opened == 0
    assert talk.ask(m.Tgetattr(2, 1)).qid.type == 0x80


def test_a_flush_of_a_load_is_answered_at_once_and_undoes_the_fid() -> None:
    talk, fs = talk_in(walk="cold")
    talk.send((1, m.Twalk(0, 9, (b"f",))), (2, m.Tgetattr(9, 1)))
    replies = talk.send((3, m.Tflush(1)))
    assert [tag for tag, _ in replies] == [3, 2]
    assert refusal(replies[1][1]) == errno.EBADF
    assert talk.work() == []
    assert talk.session.handles == 3
    fs.weather = Weather()
    assert tags(talk.send((1, m.Twalk(0, 9, (b"f",))))) == [1]  # tag and fid are free


def test_a_flush_of_a_request_that_waits_for_a_fid() -> None:
    talk, _ = talk_in(walk="cold")
    talk.send((1, m.Twalk(0, 9, (b"d",))), (2, m.Twalk(9, 10, ())), (3, m.Tgetattr(10, 1)))
    assert tags(talk.send((4, m.Tflush(2)))) == [4, 3]
    assert tags(talk.work()) == [1]
    assert talk.session.handles == 4


def test_a_flush_of_work_waits_for_it() -> None:
    talk, fs = talk_in(write="blocking")
    talk.send((1, m.Twrite(2, 0, b"HE")))
    assert talk.send((2, m.Tflush(1)), (3, m.Tflush(2)), (4, m.Tflush(1)), (5, m.Tflush(3))) == []
    assert talk.session.in_flight == 5
    assert tags(talk.send((9, m.Tgetattr(0, 1)))) == [9]
    assert talk.work() == [
        (1, m.Rwrite(2)),
        (2, m.Rflush()),
        (3, m.Rflush()),
        (4, m.Rflush()),
        (5, m.Rflush()),
    ]
    assert bytes(fs.root.children[b"f"].data) == b"HEllo"
    assert talk.session.in_flight == 0


def test_flushes_of_what_is_not_in_flight_are_answered() -> None:
    talk, _ = talk_in()
    assert talk.send(
        (1, m.Tflush(77)),
        (2, m.Tflush(2)),
        (3, m.Tflush(1)),
        (4, m.Tflush(65535)),
    ) == [(tag, m.Rflush()) for tag in (1, 2, 3, 4)]


def test_what_was_half_done_is_not_flushed() -> None:
    """A directory was made, and is still to be opened: the client must hear of it."""
    fs = MemoryFilesystem()
    talk = Talk(fs, Dialect.UNIX)
    fs.weather = Weather(open="cold")
    talk.send((1, m.Tcreate(0, b"new", 0x800001ED, 0, b"")))
    assert talk.send((2, m.Tflush(1))) == []
    assert tags(talk.work()) == [1, 2]
    assert list(fs.root.children) == [b"new"]


def test_a_fid_that_was_freed_is_not_unflushed() -> None:
    talk, _ = talk_in(remove="cold")
    assert talk.send((1, m.Tremove(2)), (2, m.Tflush(1))) == []
    assert tags(talk.work()) == [1, 2]
    assert talk.session.handles == 2


def test_a_tag_in_flight_is_refused_and_the_first_is_not_confused() -> None:
    talk, _ = talk_in(read="cold")
    talk.send((1, m.Tread(2, 0, 9)))
    [(tag, reply)] = talk.send((1, m.Tgetattr(0, 1)))
    assert (tag, refusal(reply)) == (1, errno.EPROTO)
    [(tag, reply)] = talk.send((1, m.Tflush(1)))
    assert refusal(reply) == errno.EPROTO
    assert talk.work() == [(1, m.Rread(b"hello"))]
    assert tags(talk.send((1, m.Tgetattr(0, 1)))) == [1]


@pytest.mark.parametrize("kind", ["cold", "blocking"])
def test_a_version_begins_anew(kind: str) -> None:
    talk, fs = talk_in(read=kind, walk=kind, open=kind)
    talk.send(
        (1, m.Tread(2, 0, 9)),
        (2, m.Twalk(0, 9, (b"d",))),
        (3, m.Tlopen(1, 0)),
        (4, m.Tgetattr(9, 1)),
        (5, m.Tflush(1)),
    )
    early, *late = talk.jobs
    value = early.run()
    assert talk.send((m.NOTAG, m.Tversion(MSIZE, b"9P2000.L"))) == [
        (m.NOTAG, m.Rversion(MSIZE, b"9P2000.L"))
    ]
    assert (talk.session.handles, talk.session.in_flight) == (0, 0)
    fs.weather = Weather()
    assert tags(talk.send((1, m.Tattach(2, m.NOFID, b"", b"", 0)))) == [1]
    talk.session.finish(early, value)
    assert talk.turns() == []
    for job in late:
        run(talk.session, job)
    assert talk.turns() == []
    assert fs.opened == 0
    assert talk.session.handles == 1


def test_work_that_nobody_has_begun_is_not_begun_after_a_version() -> None:
    fs = MemoryFilesystem()
    talk = Talk(fs)
    fs.weather = Weather(mkdir="blocking")
    talk.session.receive(
        talk.frames((1, m.Tmkdir(0, b"d", 0o755, 0)), (m.NOTAG, m.Tversion(MSIZE, b"9P2000.L")))
    )
    talk.turns()
    assert talk.jobs == []
    assert fs.root.children == {}


@pytest.mark.parametrize("when", ["not handed out", "begun", "done"])
def test_a_flush_closes_what_its_request_opens(when: str) -> None:
    """And answers at once: an open without effects needs no reply."""
    talk, fs = talk_in(open="own")
    ask, flush = talk.frames((1, m.Tlopen(1, 0))), talk.frames((9, m.Tflush(1)))
    if when == "not handed out":
        talk.session.receive(ask + flush)
        assert talk.turns() == [(9, m.Rflush())]
        assert talk.jobs == []
    else:
        talk.session.receive(ask)
        assert talk.turns() == []
        if when == "done":
            [job] = talk.jobs
            value = job.run()
            assert fs.opened == 2
        talk.session.receive(flush)
        assert talk.turns() == [(9, m.Rflush())]
        if when == "done":
            talk.session.finish(job, value)
        else:
            talk.work()
    assert talk.turns() == []
    assert fs.opened == 1  # fid 2
    fs.weather = Weather()
    assert talk.ask(m.Tlopen(1, 0)).qid.path == 2  # the fid is as it was


@pytest.mark.parametrize("weather", ["cold", "own", "blocking"])
@pytest.mark.parametrize("end", ["flush", "version", "close"])
def test_no_file_is_closed_that_a_thread_works_with(weather: str, end: str) -> None:
    talk, fs = talk_in(read=weather)
    assert talk.send((1, m.Tread(2, 0, 9))) == []
    if end == "close":
        talk.close()
    elif end == "version":
        talk.send((m.NOTAG, m.Tversion(MSIZE, b"9P2000.L")))
    else:
        talk.send((9, m.Tflush(1)), (3, m.Tclunk(2)))
    assert fs.opened == 1
    talk.work()
    assert fs.opened == 0
    assert not talk.session.more


@pytest.mark.parametrize("end", ["flush", "version", "close"])
def test_a_link_that_is_dropped_leaves_the_other_fid_open(end: str) -> None:
    talk, fs = talk_in(link="own", rename="own")
    talk.ask(m.Twalk(0, 3, (b"f",)))
    assert talk.send((1, m.Tlink(0, 2, b"new")), (3, m.Trename(3, 2, b"new"))) == []
    link, rename = talk.jobs
    if end == "flush":
        assert tags(talk.send((9, m.Tflush(1)), (10, m.Tflush(3)))) == [9, 10]
        talk.session.finish(link)
        talk.session.finish(rename)
        fs.weather = Weather()
        assert talk.ask(m.Tread(2, 0, 9)).data == b"hello"
        return
    if end == "close":
        talk.close()
    else:
        talk.send((m.NOTAG, m.Tversion(MSIZE, b"9P2000.L")))
    talk.session.finish(link)
    talk.session.finish(rename)
    assert fs.opened == 0


@pytest.mark.parametrize("when", ["begun", "done", "never"])
def test_what_a_thread_opens_for_a_session_that_is_gone_is_closed(when: str) -> None:
    talk, fs = talk_in(open="blocking", create="blocking")
    talk.send((1, m.Tlopen(1, 0)), (2, m.Tlcreate(0, b"new", 1, 0o644, 0)))
    jobs = talk.jobs
    if when == "done":
        for job in jobs:
            run(talk.session, job)
    talk.close()
    if when == "begun":
        for job in jobs:
            run(talk.session, job)
    assert fs.opened == 0
    assert not talk.session.more


def test_a_job_counts_once_and_an_unknown_one_not_at_all() -> None:
    talk, _ = talk_in(read="cold")
    other, _ = talk_in(read="cold")
    talk.send((1, m.Tread(2, 0, 9)))
    other.send((1, m.Tread(2, 0, 9)))
    talk.session.finish(other.jobs[0])
    assert not talk.session.more
    run(talk.session, talk.jobs[0])
    run(talk.session, talk.jobs[0])
    assert talk.turns() == [(1, m.Rread(b"hello"))]


def test_a_tag_flood_is_not_read_beyond_a_limit() -> None:
    limits = SessionLimits(in_flight_max=10, in_flight_bytes_max=10_000)
    talk, fs = talk_in(limits, read="cold", write="blocking")
    flood = talk.frames(*[(tag, m.Tread(2, 0, 9)) for tag in range(1000)])
    talk.session.receive(flood)
    assert talk.turns() == []
    assert talk.session.in_flight == 10
    assert not talk.session.hungry
    assert not talk.session.more
    fs.weather = Weather()
    assert tags(talk.work()) == list(range(1000))
    assert talk.session.hungry
    fs.weather = Weather(write="blocking")
    talk.session.receive(talk.frames(*[(t, m.Twrite(2, 0, bytes(4000))) for t in range(100)]))
    talk.turns()
    assert talk.session.in_flight == 3
    assert not talk.session.hungry
    assert len(talk.work()) == 100


@pytest.mark.parametrize("end", ["flush", "version"])
def test_loads_that_nobody_waits_for_any_more_are_limited(end: str) -> None:
    talk, _ = talk_in(SessionLimits(in_flight_max=10), read="cold")
    setup = talk.frames(
        (m.NOTAG, m.Tversion(MSIZE, b"9P2000.L")),
        (0, m.Tattach(0, m.NOFID, b"", b"", 0)),
        (0, m.Twalk(0, 2, (b"f",))),
        (0, m.Tlopen(2, 2)),
    )
    for offset in range(1000):
        talk.session.receive(talk.frames((1, m.Tread(2, offset, 9))))
        talk.turns()  # the load is begun
        talk.session.receive(talk.frames((2, m.Tflush(1))) if end == "flush" else setup)
        talk.turns()
    assert len(talk.jobs) == 10
    assert not talk.session.hungry
    talk.work()
    assert (talk.session.in_flight, talk.session.more, talk.jobs) == (0, False, [])
    assert talk.session.hungry


def test_input_that_cannot_be_looked_at_is_limited() -> None:
    limits = SessionLimits(in_flight_max=1, in_flight_bytes_max=100)
    talk, _ = talk_in(limits, read="cold")
    talk.send((1, m.Tread(2, 0, 9)))
    assert not talk.session.hungry
    talk.work()
    assert talk.session.hungry
    talk.session.receive(bytes([255, 31, 0, 0]) + bytes(8000))  # a frame that is not whole yet
    assert talk.session.hungry


def test_a_file_system_that_is_never_warm_ends_in_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    talk, fs = talk_in(attributes="cold")

    class Never(set[object]):
        def __contains__(self, key: object) -> bool:
            return False

    fs.warm = Never()
    talk.send((1, m.Tgetattr(0, 1)))
    [(tag, reply)] = talk.work()
    assert (tag, refusal(reply)) == (1, errno.EIO)
    assert "loads without end" in caplog.text
    assert talk.session.in_flight == 0


def test_a_bug_of_the_file_system_is_told_as_eio(caplog: pytest.LogCaptureFixture) -> None:
    def bug(call: str) -> str:
        raise ZeroDivisionError(call)

    talk, fs = talk_in()
    fs.weather = bug
    assert talk.ask(m.Tgetattr(0, 1)) == m.Rlerror(errno.EIO)
    assert "ZeroDivisionError" in caplog.text
    fs.weather = Weather()
    assert talk.ask(m.Twalk(0, 5, ())) == m.Rwalk(())


def test_every_kind_of_call_can_be_done_by_a_thread_or_after_a_load() -> None:
    def story(weather: str) -> list[m.Message]:
        fs = MemoryFilesystem()
        talk = Talk(fs)
        fs.weather = lambda call: weather
        x, root = b"user.x", 0
        asks: list[m.Message] = [
            m.Tmkdir(root, b"d", 0o755, 5),
            m.Twalk(root, 1, (b"d",)),
            m.Tlcreate(1, b"f", 2, 0o644, 6),
            m.Twrite(1, 0, b"text"),
            m.Tread(1, 1, 2),
            m.Tfsync(1, 1),
            m.Tlock(1, 1, 0, 0, 0, 5, b"me"),
            m.Tgetlock(1, 1, 0, 0, 6, b"you"),
            m.Tclunk(1),
            m.Twalk(root, 1, (b"d", b"f")),
            m.Twalk(root, 2, (b"d",)),
            m.Tlink(root, 1, b"hard"),
            m.Tgetattr(1, 1),
            m.Tsymlink(root, b"s", b"tgt", 0),
            m.Twalk(root, 3, (b"s",)),
            m.Treadlink(3),
            m.Tmknod(root, b"p", 0o10644, 0, 0, 0),
            m.Trename(1, root, b"g"),
            m.Trenameat(root, b"g", 2, b"h"),
            m.Tunlinkat(root, b"p", 0),
            m.Tsetattr(2, 1, 0o700, 0, 0, 0, 0, 0, 0, 0),
            m.Twalk(2, 4, ()),
            m.Txattrcreate(4, x, 3, 0),
            m.Twrite(4, 0, b"abc"),
            m.Tclunk(4),
            m.Txattrwalk(2, 4, x),
            m.Tread(4, 0, 9),
            m.Tclunk(4),
            m.Txattrwalk(2, 4, b""),
            m.Tread(4, 0, 99),
            m.Tstatfs(root),
            m.Twalk(root, 5, ()),
            m.Tlopen(5, 0),
            m.Tremove(3),
            m.Twalk(root, 6, (b"s",)),
            m.Twalk(root, 6, (b"d", b"..", b"d", b".", b"h")),
        ]
        replies = [talk.ask(ask) for ask in asks]
        names, cookie = [], 0
        while data := talk.ask(m.Treaddir(5, cookie, 4096)).data:
            found = list(talk.codec.dirents(data))
            names += [dirent.name for dirent in found]
            cookie = found[-1].offset
        assert names == [b".", b"..", b"d", b"hard"]
        assert not [r for r in replies[:-2] if isinstance(r, m.Rlerror)], replies
        assert talk.session.in_flight == 0
        talk.close()
        assert fs.opened == 0
        return replies

    warm = story("")
    assert warm[-1] == m.Rwalk(tuple(warm[-1].wqids))  # type: ignore[attr-defined]
    assert isinstance(warm[-1].wqids[0], Qid)
    assert story("cold") == warm
    assert story("own") == warm
    assert story("blocking") == warm
