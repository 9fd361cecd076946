"""Sessions over live trees reach nothing outside, and leave nothing open, whatever clients send.

The requests are those of the sessions' own fuzzer (`tests/ninep/session/test_session_fuzz.py`).
"""

import gc
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tests.ninep.session.test_session_fuzz import LIMITS, frame_of, no_bugs, requests
from tests.support.live_talk import NAME, LiveTalk, served
from tests.support.privileges import open_directory
from tests.support.threads import in_thread
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.messages import Dialect, Message
from ventifs.serving.session import StreamError

EXAMPLES = 2000 if os.environ.get("VENTIFS_LONG") else 50
UIDS = some.sampled_from([0, 1000, 65534])
PINS = some.sampled_from([None, 1, 2])
Batch = tuple[list[tuple[int, Message]], int]  # requests with their tags; loads to run after them


def laid_out(top: Path) -> tuple[Path, Path]:
    """An export with one file of each kind, and a directory outside that its links lead to."""
    export, outside = top / "export", top / "outside"
    for place in (export / "etc", export / "bin", outside / "etc"):
        place.mkdir(parents=True)
    for place in (export, outside):
        (place / "etc" / "passwd").write_bytes(b"content of a file")
        (place / "etc" / "passwd").chmod(0o666)
    (export / "etc" / "etc").symlink_to(outside)
    os.mkfifo(export / "null", 0o666)
    (export / "etc" / "bin").symlink_to("../bin")
    os.link(export / "etc" / "passwd", export / "bin" / "passwd")
    for place in (export, export / "etc", export / "bin", outside, outside / "etc"):
        place.chmod(0o777)
    return export, outside


def looks(outside: Path) -> list[tuple[object, ...]]:
    """What a client could have changed outside."""
    found: list[tuple[object, ...]] = []
    for path in [outside.parent, outside, *sorted(outside.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        owner = (status.st_uid, status.st_gid)
        found.append((str(path), status.st_mode, owner, status.st_ctime_ns, content))
    return found


def descriptors() -> dict[str, str]:
    """What this process has open, by number."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


@contextmanager
def no_collection() -> Iterator[None]:
    """The garbage collector closes nothing: a server's runs seldom."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def attaching(message: Message) -> Message:
    """The same request; an attach is to the export."""
    if isinstance(message, m.Tattach):
        return msgspec.structs.replace(message, aname=NAME)
    return message


def batches(dialect: Dialect) -> some.SearchStrategy[list[Batch]]:
    request = some.tuples(some.integers(0, 9), requests(dialect).map(attaching))
    return some.lists(some.tuples(some.lists(request, max_size=6), some.integers(0, 3)), max_size=8)


@pytest.mark.slow
@given(some.data(), some.sampled_from(list(Dialect)), UIDS, PINS)
@settings(max_examples=EXAMPLES)
def test_requests_of_any_kind(
    data: some.DataObject, dialect: Dialect, uid: int, pins_max: int | None
) -> None:
    drawn = data.draw(batches(dialect))
    with open_directory() as top:
        export, outside = laid_out(top)
        before = looks(outside)

        def work() -> None:
            gc.collect()  # what other tests have left
            with served(export, pins_max=pins_max) as live:
                open_before = descriptors()
                talk = LiveTalk(live, uid, dialect=dialect, msize=4096, limits=LIMITS)
                for requests, jobs in drawn:
                    talk.send(*requests)
                    assert talk.session.handles <= LIMITS.fids_max
                    talk.work(jobs)
                talk.work()
                assert talk.session.in_flight == 0
                assert talk.largest < 4096
                talk.close()
                assert talk.session._fids.held == 0
                del talk
                assert len(live.tree.pins) == 0
                assert descriptors().items() - open_before.items() == set()

        with no_bugs(), no_collection():
            in_thread(work)
        assert looks(outside) == before


@pytest.mark.slow
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
    some.sampled_from(list(Dialect)),
    UIDS,
)
@settings(max_examples=EXAMPLES)
def test_any_bytes(pieces: list[bytes], dialect: Dialect, uid: int) -> None:
    with open_directory() as top:
        export, outside = laid_out(top)
        before = looks(outside)

        def work() -> None:
            gc.collect()  # what other tests have left
            with served(export) as live:
                open_before = descriptors()
                talk = LiveTalk(live, uid, dialect=dialect)
                try:
                    for piece in pieces:
                        talk.session.receive(piece)
                        talk.turns()
                        talk.work()
                except StreamError:
                    pass
                talk.close()
                del talk
                assert descriptors().items() - open_before.items() == set()

        with no_bugs(), no_collection():
            in_thread(work)
        assert looks(outside) == before


@pytest.mark.parametrize(
    "request_",
    [
        m.Tattach(1, m.NOFID, b"", NAME + b":/etc", 0),
        m.Tattach(1, m.NOFID, b"", NAME + b":/none", 0),
        m.Twalk(0, 1, (b"none",)),
        m.Twalk(0, 1, (b"etc", b"etc", b"etc")),
        m.Twalk(0, 1, (b"etc", b"passwd", b"..")),
        m.Twalk(0, 1, (b"etc", b"..")),
        m.Tunlinkat(0, b"none", 0),
        m.Tmkdir(0, b"etc", 0o755, 0),
        m.Tlcreate(0, b"etc", os.O_RDWR, 0o644, 0),
        m.Trenameat(0, b"none", 0, b"other"),
        m.Txattrwalk(0, 1, b"user.none"),
        m.Treadlink(0),
        m.Tlopen(0, os.O_RDWR),
    ],
    ids=lambda each: type(each).__name__,
)
def test_no_request_leaves_a_cycle_of_references(request_: Message) -> None:
    """Files would stay open until the garbage collector runs, which a server's seldom does."""
    with open_directory() as top:
        export, _ = laid_out(top)

        def work() -> None:
            with served(export) as live:
                gc.collect()
                before = descriptors()
                for _ in range(3):
                    talk = LiveTalk(live, 0)
                    talk.ask(request_)
                    talk.close()
                    del talk
                assert len(live.tree.pins) == 0
                assert descriptors().items() - before.items() == set()

        with no_collection():
            in_thread(work)
