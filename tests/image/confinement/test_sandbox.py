"""What a child tells arrives, and however it ends is told and hurts nobody."""

import ctypes
import os
import resource
import select
import signal
from collections.abc import Iterator

import pytest

from tests.support.patience import PATIENCE_S, wait_until
from ventifs.errors import VentifsError
from ventifs.image.confinement import sandbox as apart
from ventifs.image.confinement.sandbox import Apart, EventBatch, ProcessLimits
from ventifs.image.survey_events import Ended, Event, FoundName, Free, Inode, Noted, Volume

LIMITS = ProcessLimits(memory=256 << 20, cpu_s=60, stall_s=30)


def gone(pid: int) -> bool:
    """Whether no process has this number; a zombie of ours would still have it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def told(tell: object, limits: ProcessLimits = LIMITS) -> tuple[list[Event], str]:
    with Apart(tell, limits) as child:  # type: ignore[arg-type]
        return list(child), child.problem


def test_every_kind_of_event_arrives_as_it_was() -> None:
    inode = Inode(
        mode=0o100644,
        uid=1,
        gid=1 << 31,
        mtime_ns=-5,
        links=1,
        size=1 << 60,
        rdev=(1, 2),
        target=b"\xff",
        xattrs=((b"user.a", b"\x00\xff"),),
        extents=((0, 1 << 50, 4096),),
        data=b"inline",
    )
    events: list[Event] = [
        Volume("1", False, ((0, 1 << 62),), "83", "root", "ext4", "uuid", "label"),
        FoundName(b"", 2, inode),
        FoundName(b"a\0\xff", 12, None, "problem"),
        Free(((1, 2), (3, 4))),
        Ended("problem", ("a", "b")),
        Noted("é"),
    ]
    assert told(lambda: iter(events)) == (events, "")


def test_nothing_told_is_no_problem() -> None:
    assert told(lambda: iter(())) == ([], "")


def test_many_events_come_in_batches_and_in_order() -> None:
    def tell() -> Iterator[Event]:
        for number in range(50_000):
            yield FoundName(b"%d" % number, number, None)

    events, problem = told(tell)
    assert problem == ""
    assert [event.number for event in events if isinstance(event, FoundName)] == list(range(50_000))


def test_a_child_waits_for_a_slow_reader() -> None:
    here = os.pipe()

    def tell() -> Iterator[Event]:
        while True:  # more than any memory, if it did not wait
            os.write(here[1], b".")
            yield Noted("x" * (1 << 20))

    os.set_blocking(here[0], False)
    with Apart(tell, LIMITS) as child:
        for _, event in zip(range(8), child, strict=False):
            assert isinstance(event, Noted)
        pid = child._pid
        wait_until(lambda: "S" in _state(pid))  # it has filled the pipe
        assert len(os.read(here[0], 1 << 16)) <= 8 + 2
    os.close(here[0])
    os.close(here[1])
    assert gone(pid)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (VentifsError("no such table"), "no such table"),
        (ValueError("a\nb"), "the parser failed (ValueError: a b)"),
        (RecursionError("deep"), "the parser failed (RecursionError: deep)"),
        (KeyboardInterrupt(), "the parser ended early"),
        (SystemExit(0), "the parser ended early"),
    ],
)
def test_exceptions_are_told_after_what_came_before(error: BaseException, problem: str) -> None:
    def tell() -> Iterator[Event]:
        yield Noted("before")
        raise error

    events, why = told(tell)
    assert why == problem
    if isinstance(error, Exception):
        assert events == [Noted("before")]


def test_an_event_that_cannot_be_sent_costs_itself_only() -> None:
    def tell() -> Iterator[Event]:
        yield Noted("before")
        yield Ended("", ("fine", 1 << 70))  # type: ignore[arg-type]

    events, problem = told(tell)
    assert events == [Noted("before")]
    assert "OverflowError" in problem


def test_an_event_larger_than_a_frame_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "FRAME_BYTES_MAX", 100_000)

    def tell() -> Iterator[Event]:
        yield Noted("before")
        yield Noted("x" * 100_000)

    assert told(tell) == ([Noted("before")], "a file is in too many pieces to be told")


def _crash() -> Iterator[Event]:
    for _ in range(20_000):
        yield Noted("before")
    ctypes.string_at(0)


def test_a_crash_is_told() -> None:
    events, problem = told(_crash)
    assert problem == "the parser crashed (Segmentation fault)"
    assert len(events) > 10_000  # but for the last batch


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGKILL, signal.SIGTERM])
def test_a_signal_is_told(number: signal.Signals) -> None:
    def tell() -> Iterator[Event]:
        os.kill(os.getpid(), number)
        yield Noted("never")

    assert told(tell) == ([], f"the parser crashed ({signal.strsignal(number)})")


def test_no_core_is_left_and_ctrl_c_is_the_parents() -> None:
    def tell() -> Iterator[Event]:
        os.kill(os.getpid(), signal.SIGINT)
        yield Noted(str(resource.getrlimit(resource.RLIMIT_CORE)))

    assert told(tell) == ([Noted("(0, 0)")], "")


def _loop() -> Iterator[Event]:
    yield Noted("before")
    while True:
        pass


def test_a_loop_is_stopped() -> None:
    _, problem = told(_loop, ProcessLimits(memory=256 << 20, cpu_s=60, stall_s=1))
    assert problem == "the parser took too much processor time and was stopped"


def test_endless_events_are_stopped() -> None:
    def tell() -> Iterator[Event]:
        while True:
            yield Noted("again")

    with Apart(tell, ProcessLimits(memory=256 << 20, cpu_s=1, stall_s=30)) as child:
        assert sum(1 for _ in child) > 1000
        assert child.problem == "the parser took too much processor time and was stopped"


def test_too_much_memory_is_refused() -> None:
    def tell() -> Iterator[Event]:
        yield Noted("before")
        yield Noted(str(len(bytearray(2 * LIMITS.memory))))

    assert told(tell) == (
        [Noted("before")],
        "the parser wants more than 256 MiB of memory",
    )


@pytest.mark.parametrize(
    "garbage", [b"", b"\0", b"\0\xff\xff\xff\xff", b"\0\1\0\0\0\xc1", b"\7" * 9]
)
def test_a_child_that_writes_garbage_ends_early(
    garbage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart._Teller, "flush", lambda self: os.write(self._fd, garbage))
    monkeypatch.setattr(apart._Teller, "end", lambda self, kind, text: os._exit(0))
    assert told(lambda: iter([Noted("x")])) == ([], "the parser ended early")


def test_whatever_a_child_prints_is_not_seen(capfd: pytest.CaptureFixture[str]) -> None:
    def tell() -> Iterator[Event]:
        os.write(1, b"hello\n")
        os.write(2, b"malloc(): corrupted top size\n")
        yield from ()

    assert told(tell) == ([], "")
    assert capfd.readouterr() == ("", "")


def test_left_early_it_is_gone_and_closing_again_is_harmless() -> None:
    child = Apart(_loop, LIMITS)
    pid, fd = child._pid, child._fd
    child.close()
    child.close()
    assert gone(pid)
    with pytest.raises(OSError):
        os.fstat(fd)
    assert list(child) == []


def test_one_within_another_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_BATCH_S", 0)  # every event at once

    def inner() -> Iterator[Event]:
        yield Noted(str(os.getpid()))
        while True:
            signal.pause()

    def outer() -> Iterator[Event]:
        with Apart(inner, LIMITS) as child:
            yield from child

    with Apart(outer, LIMITS) as child:
        first = next(iter(child))
        assert isinstance(first, Noted)
        handle = os.pidfd_open(int(first.text))
    assert select.select([handle], [], [], PATIENCE_S)[0], "it lives on"
    os.close(handle)


def test_batches_of_one_within_are_passed_on_in_their_place() -> None:
    def inner() -> Iterator[Event]:
        for number in range(20_000):
            yield FoundName(b"%d" % number, number, None)

    def outer() -> Iterator[Event | EventBatch]:
        yield Noted("before")
        with Apart(inner, LIMITS) as child:
            for batch in child.batches():
                yield EventBatch(batch.body, passed_on=True)
        yield Noted("after")

    with Apart(outer, LIMITS) as child:
        first, *passed, last = child.batches()
        assert child.problem == ""
    assert child.events_of(first) == [Noted("before")]
    assert child.events_of(last) == [Noted("after")]
    assert not first.passed_on
    assert not last.passed_on
    assert len(passed) > 2
    assert all(batch.passed_on for batch in passed)
    events = [event for batch in passed for event in child.events_of(batch)]
    assert events == list(inner())


def test_one_within_another_crashes_alone() -> None:
    def outer() -> Iterator[Event]:
        with Apart(_crash, LIMITS) as child:
            yield from child
            yield Ended(child.problem)

    events, problem = told(outer)
    assert events[-1] == Ended("the parser crashed (Segmentation fault)")
    assert problem == ""


def test_descriptors_are_not_lost() -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        told(_crash)
        Apart(_loop, LIMITS).close()
    assert set(os.listdir("/proc/self/fd")) == before
