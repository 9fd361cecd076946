"""Whatever comes in, a session says something of the protocol or `StreamError`, and ends clean."""

import contextlib
import logging
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from tests.ninep.protocol.test_messages import records
from tests.ninep.session.test_session import tree
from tests.support.memoryfs import MemoryFilesystem
from tests.support.talking import Talk, run
from ventifs.buffer import joined
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.codec import MessageCodec
from ventifs.ninep.protocol.messages import MESSAGES, Dialect, Message
from ventifs.ninep.session.limits import SessionLimits
from ventifs.ninep.session.session import NinepSession
from ventifs.serving.session import StreamError

LIMITS = SessionLimits(in_flight_max=8, in_flight_bytes_max=1 << 14, fids_max=16, held_max=1 << 12)
_SMALL = some.integers(0, 3)
_NAMES = some.sampled_from([b"etc", b"passwd", b"bin", b"null", b"none", b".", b"..", b"", b"a/b"])


@contextlib.contextmanager
def no_bugs() -> Iterator[None]:
    """Nothing is logged, as a handler's bug or the model's assertion would be."""
    seen: list[logging.LogRecord] = []

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    log, handler = logging.getLogger("ventifs.vfs.errnos"), Seen()
    log.addHandler(handler)
    propagate, log.propagate = log.propagate, False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagate
    for record in seen:
        raise AssertionError(record.getMessage()) from (record.exc_info or (None, None))[1]


def requests(dialect: Dialect) -> some.SearchStrategy[Message]:
    """Requests that often meet: few fids, few names."""
    kinds = [
        record
        for record in MESSAGES.values()
        if dialect in record.dialects and record.__name__[0] == "T" and record is not m.Tversion
    ]

    def likely(message: Message) -> some.SearchStrategy[Message]:
        values: dict[str, Any] = {
            name: getattr(message, name) for name in message.__struct_fields__
        }
        few: dict[str, some.SearchStrategy[Any]] = {}
        for name, value in values.items():
            if name.endswith("fid") and name != "afid":
                few[name] = _SMALL
            elif name in {"name", "oldname", "newname"}:
                few[name] = _NAMES
            elif name == "wnames":
                few[name] = some.lists(_NAMES, max_size=3).map(tuple)
            elif name in {"oldtag", "offset", "mode", "flags", "attr_size"}:
                few[name] = some.one_of(some.just(value), _SMALL)
            elif name == "afid":
                few[name] = some.just(m.NOFID)
            elif name == "aname":
                few[name] = some.just(b"")
            else:
                few[name] = some.just(value)
        return some.builds(type(message), **few)

    return some.sampled_from(kinds).flatmap(lambda kind: records(kind, dialect).flatmap(likely))


@given(some.data(), some.sampled_from(list(Dialect)))
@settings(max_examples=300)
def test_requests_of_any_kind_in_any_weather(data: some.DataObject, dialect: Dialect) -> None:
    with no_bugs():
        fs = tree()
        talk = Talk(fs, dialect, msize=4096, limits=LIMITS)
        weathers = data.draw(
            some.lists(some.sampled_from(["", "", "cold", "own", "blocking"]), min_size=1)
        )
        calls = iter(range(1 << 30))
        fs.weather = lambda call: weathers[next(calls) % len(weathers)]
        request = some.tuples(some.integers(0, 9), requests(dialect))
        batches = data.draw(some.lists(some.lists(request, max_size=6), max_size=8))
        for batch in batches:
            talk.send(*batch)
            assert talk.session.in_flight <= LIMITS.in_flight_max
            assert talk.session.handles <= LIMITS.fids_max
            talk.work(data.draw(some.integers(0, 3)))
        talk.work()
        while talk.give_up():
            talk.work()
        assert talk.session.in_flight == 0
        assert talk.largest < 4096
        talk.close()
        assert fs.opened == 0
        assert talk.session._fids.held == 0


def frame_of(number: int, tag: int, body: bytes) -> bytes:
    return struct.pack("<IBH", 7 + len(body), number, tag) + body


@given(
    some.lists(
        some.one_of(
            some.binary(max_size=40),
            some.builds(
                frame_of, some.integers(0, 255), some.integers(0, 3), some.binary(max_size=40)
            ),
        ),
        max_size=20,
    ),
    some.sampled_from([None, *Dialect]),
    some.integers(1, 50),
)
@example([b"\x07\0\0\0\x64\0\0", b"\x07\0\0\0\xff\0\0"], None, 3)
@settings(max_examples=300)
def test_any_bytes(pieces: list[bytes], dialect: Dialect | None, step: int) -> None:
    with no_bugs():
        fs = tree()
        session = NinepSession(fs, limits=LIMITS)
        codec = MessageCodec.of(dialect or Dialect.PLAIN)
        stream = b"".join(pieces)
        if dialect is not None:
            stream = codec.encode(m.Tversion(8192, dialect.version), m.NOTAG) + stream
        out = b""
        try:
            for at in range(0, len(stream), step):
                session.receive(stream[at : at + step])
                while session.more:
                    out += joined(session.turn())
                    for job in session.loads():
                        run(session, job)
        except StreamError:
            pass
        at = 0
        while at < len(out):
            size = int.from_bytes(out[at : at + 4], "little")
            assert out[at + 4] in {7, 107} or out[at + 4] % 2
            at += size
        assert at == len(out)
        session.close()
        assert fs.opened == 0


def test_a_large_frame_byte_by_byte_costs_neither_time_nor_memory() -> None:
    fs = tree()
    talk = Talk(fs, msize=1 << 20)
    frame = talk.frames((1, m.Twrite(0, 0, bytes(1 << 19))))
    tracemalloc.start()
    talk.session.receive(frame[:1])
    talk.session.receive(frame[1:2])
    tail = talk.session._input.tail
    for at in range(2, len(frame)):
        talk.session.receive(frame[at : at + 1])
        if not at % 1024:
            talk.session.turn()
    # What came grew in its place. It was copied for each byte once: 128 GB in all.
    assert talk.session._input.tail is tail
    assert tail == frame
    [(tag, _)] = talk.turns()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tag == 1
    assert peak < 4 << 20


@pytest.mark.slow
def test_a_million_fids_at_most_150_bytes_each_then_enfile() -> None:
    """The figure is the session's own: the model's file is one object for all of them."""
    fs = MemoryFilesystem()
    talk = Talk(fs)
    total, measured, batch = 1 << 20, 1 << 18, 1 << 12
    walk = b"\x11\0\0\0\x6e\x01\0\0\0\0\0%s\0\0"  # the root again: no file of its own
    tracemalloc.start()
    for first in range(1, total, batch):
        fids = range(first, min(first + batch, total))
        talk.session.receive(b"".join([walk % fid.to_bytes(4, "little") for fid in fids]))
        while talk.session.more:
            talk.session.turn()
        if first + batch > measured and tracemalloc.is_tracing():  # which makes it slow
            used, _ = tracemalloc.get_traced_memory()
            assert used / talk.session.handles < 150
            tracemalloc.stop()
    assert talk.session.handles == total
    assert talk.ask(m.Twalk(0, total, ())) == m.Rlerror(23)
    assert talk.ask(m.Tclunk(5), m.Twalk(0, total, ())) == m.Rwalk(())
    talk.close()
    assert talk.session.handles == 0
