"""Interleavings of requests, loads, work, flushes, clunks and versions, against a simple model.

The model is a server that does one request after the other in the order of arrival. What is
answered must be what it would say, whatever waited for what; a request that was flushed before it
was answered never was. Only that sameness, and the rules of Rflush, are asserted.
"""

import errno
import stat as st

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.support.memoryfs import MemoryFilesystem
from tests.support.talking import MSIZE, Talk, run
from ventifs.ninep.protocol import messages as m

FIDS = some.integers(0, 3)
NAMES = some.sampled_from([b"a", b"a", b"f", b"none", b".."])
KINDS = some.sampled_from(["cold", "cold", "own", "blocking", ""])
KIDS = {"/": {b"a": "a", b"f": "f"}, "a": {b"f": "af", b"a": "aa"}, "aa": {}}
UP = {"/": "/", "a": "/", "aa": "a"}
PATHS = {"/": 1, "a": 2, "af": 3, "aa": 4, "f": 5}


class Sent:
    """A request, and what was answered."""

    def __init__(self, tag: int, message: m.Message) -> None:
        self.tag = tag
        self.message = message
        self.reply: m.Message | None = None


class Model:
    """Fids of a server that does one thing after the other: where each is, and whether open."""

    def __init__(self) -> None:
        self.fids = {0: "/"}
        self.open: set[int] = set()

    def answer(self, ask: m.Message) -> int | bytes | None:
        """An errno, 0 for success, a path's number, or bytes read."""
        assert hasattr(ask, "fid")
        place = self.fids.get(ask.fid)
        if place is None:
            return errno.EBADF
        match ask:
            case m.Twalk():
                return self.walk(ask, place)
            case m.Tgetattr():
                return PATHS[place]
            case m.Tclunk():
                del self.fids[ask.fid]
                self.open.discard(ask.fid)
                return 0
            case m.Tlopen():
                if ask.fid in self.open:
                    return errno.EINVAL
                self.open.add(ask.fid)
                return PATHS[place]
            case m.Tread():
                if ask.fid not in self.open:
                    return errno.EBADF
                return place.encode() if place[-1] == "f" else errno.EISDIR
        raise AssertionError(ask)

    def walk(self, ask: m.Twalk, place: str) -> int:
        if ask.newfid == ask.fid and ask.fid in self.open:
            return errno.EINVAL
        if ask.newfid != ask.fid and ask.newfid in self.fids:
            return errno.EBADF
        for name in ask.wnames:
            if place not in KIDS:
                return errno.ENOTDIR
            if name == b"..":
                place = UP[place]
            elif name in KIDS[place]:
                place = KIDS[place][name]
            else:
                return errno.ENOENT
        self.fids[ask.newfid] = place
        return PATHS[place] if ask.wnames else 0


def outcome(reply: m.Message) -> int | bytes:
    match reply:
        case m.Rlerror():
            return reply.ecode
        case m.Rwalk():
            return reply.wqids[-1].path if reply.wqids else 0
        case m.Rgetattr() | m.Rlopen():
            return reply.qid.path
        case m.Rread():
            return reply.data
    return 0


class Order(RuleBasedStateMachine):
    """A client that does whatever it may."""

    @initialize(walk=KINDS, other=KINDS)
    def begin(self, walk: str, other: str) -> None:
        self.fs = MemoryFilesystem()
        for path in ("a", "a/f", "a/a", "f"):
            kind = st.S_IFREG if path[-1] == "f" else st.S_IFDIR
            content = path.replace("/", "").encode() if path[-1] == "f" else b""
            self.fs.add(path, kind | 0o644, content)
        self.talk = Talk(self.fs)
        self.history: list[Sent] = []
        self.pending: dict[int, Sent] = {}
        self.flushes: list[tuple[int, int]] = []  # (tag, oldtag), in order of arrival
        self.fs.weather = lambda call: self.weather.get(call, "")
        self.weather = {"walk": walk, "attributes": other, "open": other, "read": other}

    @rule(call=some.sampled_from(["walk", "attributes", "open", "read"]), kind=KINDS)
    def turn_weather(self, call: str, kind: str) -> None:
        self.weather[call] = kind

    def tag(self) -> int:
        return next(n for n in range(1000) if n not in self.pending and not self.flushing(n))

    def flushing(self, tag: int) -> bool:
        return any(tag == flush for flush, _ in self.flushes)

    def send(self, *messages: m.Message) -> None:
        batch = []
        for message in messages:
            sent = Sent(self.tag(), message)
            self.history.append(sent)
            self.pending[sent.tag] = sent
            batch.append((sent.tag, message))
        self.hear(self.talk.send(*batch))

    @rule(fid=FIDS, newfid=FIDS, name=NAMES)
    def walk(self, fid: int, newfid: int, name: bytes) -> None:
        self.send(m.Twalk(fid, newfid, (name,)))

    @rule(fid=FIDS, newfid=FIDS, third=FIDS, name=NAMES, clunk=some.booleans())
    def pipeline(self, fid: int, newfid: int, third: int, name: bytes, clunk: bool) -> None:
        walks = m.Twalk(fid, newfid, (name,)), m.Twalk(newfid, third, ())
        self.send(*walks, m.Tclunk(fid if clunk else newfid), m.Tgetattr(third, 1))

    @rule(fid=FIDS)
    def getattr(self, fid: int) -> None:
        self.send(m.Tgetattr(fid, 1))

    @rule(fid=FIDS)
    def open(self, fid: int) -> None:
        self.send(m.Tlopen(fid, 0))

    @rule(fid=FIDS)
    def read(self, fid: int) -> None:
        self.send(m.Tread(fid, 0, 9))

    @rule(fid=FIDS)
    def clunk(self, fid: int) -> None:
        self.send(m.Tclunk(fid))

    @rule(number=some.integers(0, 20))
    def flush(self, number: int) -> None:
        old = [*self.pending, *[flush for flush, _ in self.flushes], 5000]
        flush, oldtag = self.tag(), old[number % len(old)]
        self.flushes.append((flush, oldtag))
        self.hear(self.talk.send((flush, m.Tflush(oldtag))))

    @precondition(lambda self: self.talk.jobs)
    @rule(number=some.integers(0, 20))
    def work(self, number: int) -> None:
        run(self.talk.session, self.talk.jobs.pop(number % len(self.talk.jobs)))
        self.hear(self.talk.turns())

    @rule(seldom=some.integers(0, 5))
    def version(self, seldom: int) -> None:
        if seldom:
            return
        replies = self.talk.send((m.NOTAG, m.Tversion(MSIZE, b"9P2000.L")))
        assert replies == [(m.NOTAG, m.Rversion(MSIZE, b"9P2000.L"))]
        assert self.talk.session.handles == 0
        self.history, self.pending, self.flushes = [], {}, []
        [(tag, reply)] = self.talk.send((5, m.Tattach(0, m.NOFID, b"", b"", 0)))
        assert (tag, type(reply)) == (5, m.Rattach)

    def hear(self, replies: list[tuple[int, m.Message]]) -> None:
        for tag, reply in replies:
            if isinstance(reply, m.Rflush):
                self.flushed(tag)
            else:
                sent = self.pending.pop(tag)  # KeyError: answered twice, or after its Rflush
                sent.reply = reply

    def flushed(self, tag: int) -> None:
        [oldtag] = [old for flush, old in self.flushes if flush == tag]
        at = self.flushes.index((tag, oldtag))
        # Flushes of the same request, or of flushes of it, are answered in order.
        assert oldtag not in [flush for flush, _ in self.flushes[:at]]
        assert oldtag not in [old for _, old in self.flushes[:at]]
        del self.flushes[at]
        dropped = self.pending.pop(oldtag, None)
        if dropped is not None:
            self.history.remove(dropped)

    @invariant()
    def what_is_answered_is_right(self) -> None:
        model = Model()
        for sent in self.history:
            expected = model.answer(sent.message)
            if sent.reply is not None:
                assert outcome(sent.reply) == expected, (sent.message, sent.reply)
        self.model = model

    def teardown(self) -> None:
        if not hasattr(self, "talk"):
            return
        while self.talk.jobs:
            self.hear(self.talk.work(1))
        assert not self.pending
        assert not self.flushes
        self.what_is_answered_is_right()
        assert self.talk.session.in_flight == 0
        assert self.talk.session.handles == len(self.model.fids)
        assert self.fs.opened == len(self.model.open)
        self.talk.close()
        assert self.fs.opened == 0


TestOrder = Order.TestCase
TestOrder.settings = settings(max_examples=150, stateful_step_count=20)
