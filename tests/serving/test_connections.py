"""Sessions over real sockets: what they do to each other, and how they end."""

import errno
import gc
import logging
import os
import socket
import threading
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.memoryfs import MemoryFilesystem
from tests.support.sessions import (
    MSIZE,
    PATIENCE_S,
    Caller,
    Serving,
    frames,
    serving,
    until,
)
from ventifs.net.channel import DescriptorChannel
from ventifs.ninep.protocol.messages import (
    NOFID,
    NOTAG,
    Rattach,
    Rgetattr,
    Rlerror,
    Rlopen,
    Rread,
    Rversion,
    Rwalk,
    Tattach,
    Tclunk,
    Tgetattr,
    Tlopen,
    Tread,
    Tversion,
    Twalk,
)
from ventifs.ninep.session.limits import SessionLimits
from ventifs.serving.connection import WARM_TURNS
from ventifs.serving.connections import HANDSHAKE_S

GETATTR = Tgetattr(0, 0x7FF)
SIZE = 1 << 20


def filesystem(weather: Callable[[str], str] = lambda call: "") -> MemoryFilesystem:
    """One file, `large`."""
    made = MemoryFilesystem(weather)
    made.add("large", 0o100644, os.urandom(SIZE))
    return made


def holding(files: MemoryFilesystem) -> tuple[threading.Event, threading.Semaphore]:
    """Have every call's work wait in its thread: an event that lets go, and who has come there."""
    go, entered = threading.Event(), threading.Semaphore(0)
    files.weather = lambda call: "blocking"
    ready = files.ready

    def held(call: str, key: Any, work: Callable[[], Any]) -> Any:
        def wait() -> Any:
            entered.release()
            assert go.wait(PATIENCE_S)
            return work()

        return ready(call, key, wait)

    files.ready = held  # type: ignore[method-assign]
    return go, entered


def run(
    test: Callable[[Serving], Awaitable[None]],
    files: MemoryFilesystem | None = None,
    clock: MockClock | None = None,
    **settings: Any,
) -> None:
    """Run a test beside a server."""

    async def main() -> None:
        async with serving(files or filesystem(), **settings) as served:
            await test(served)

    trio.run(main, clock=clock)


async def open_large(caller: Caller) -> None:
    """Have `large` open as fid 1."""
    assert isinstance(await caller.ask(Twalk(0, 1, (b"large",))), Rwalk)
    assert isinstance(await caller.ask(Tlopen(1, 0)), Rlopen)


def test_a_session_from_its_first_byte_to_its_last() -> None:
    files = filesystem()

    async def test(served: Serving) -> None:
        caller = served.connect()
        assert await caller.ask(Tversion(MSIZE, b"9P2000.L"), NOTAG) == Rversion(MSIZE, b"9P2000.L")
        assert isinstance(await caller.ask(Tattach(0, NOFID, b"u", b"", 7)), Rattach)
        await open_large(caller)
        assert await caller.ask(Tread(1, 5, 100)) == Rread(
            bytes(files.root.children[b"large"].data[5:105])
        )
        [connection] = served.server.connections
        told = connection.activity()
        assert (told.user, told.export, told.dialect) == ("7", "/", "9P2000.L")
        assert (told.fids, told.operations, told.errors, told.in_flight) == (2, 5, 0, 0)
        caller.close()
        await until(lambda: not served.server.connections)
        assert served.over == 1
        assert files.opened == 0
        totals = served.server.now()
        assert (totals.sessions, totals.operations["Twalk"], totals.operations["Tread"]) == (
            1,
            1,
            1,
        )
        assert totals.bytes_in == told.bytes_in
        assert totals.bytes_out == told.bytes_out > 100

    run(test, files)


@pytest.mark.parametrize("weather", ["cold", "blocking"])
def test_what_is_not_in_memory_comes_from_a_thread(weather: str) -> None:
    async def test(served: Serving) -> None:
        caller = await served.connect().attach()
        await open_large(caller)
        data = b""
        for offset in range(0, SIZE, 1 << 15):
            data += (await caller.ask(Tread(1, offset, 1 << 15))).data
        assert data == files.root.children[b"large"].data
        assert served.server.loader.runs > SIZE >> 15

    files = filesystem(lambda call: weather)
    run(test, files)


def test_the_loader_is_told_of_who_lacks_nothing_for_a_while() -> None:
    files = filesystem()

    async def test(served: Serving) -> None:
        loader = served.server.loader
        caller = await served.connect().attach()
        await open_large(caller)
        for times, told in ((WARM_TURNS // 2, False), (WARM_TURNS, True)):
            files.weather = lambda call: "cold"
            await caller.ask(Tread(1, 0, 10))
            files.weather = lambda call: ""
            loader.warm = 0
            for _ in range(times):
                await caller.ask(GETATTR)
            assert (loader.warm > 0) is told

    run(test, files)


def test_bytes_may_come_one_by_one() -> None:
    async def test(served: Serving) -> None:
        caller = await served.connect().attach()
        for byte in frames((1, GETATTR), (2, Twalk(0, 1, (b"large",)))):
            await caller.send_bytes(bytes([byte]))
            await wait_all_tasks_blocked()
        assert isinstance((await caller.reply())[1], Rgetattr)
        assert isinstance((await caller.reply())[1], Rwalk)

    run(test)


def test_a_client_that_does_not_read_holds_up_one_turn_and_nobody_else() -> None:
    async def test(served: Serving) -> None:
        stalled = await served.connect(room=1 << 16).attach()
        await open_large(stalled)
        [connection] = served.server.connections
        other = await served.connect().attach()
        reads = [(tag, Tread(1, tag * 1000, 32 << 10)) for tag in range(200)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stalled.send, *reads)
            for _ in range(50):
                assert isinstance(await other.ask(GETATTR), Rgetattr)
            await wait_all_tasks_blocked()
            answered = connection.activity()
            # A turn of 256 KiB waits, and what the socket has room for is gone before it.
            assert answered.bytes_out < (256 + 32 + 2 * 64 + 128) << 10
            assert isinstance(await other.ask(GETATTR), Rgetattr)
            assert connection.activity() == answered
            data = files.root.children[b"large"].data
            for tag, read in reads:
                assert await stalled.reply() == (
                    tag,
                    Rread(bytes(data[read.offset : read.offset + read.count])),
                )

    files = filesystem()
    run(test, files)


def test_many_clients_that_do_not_read() -> None:
    async def test(served: Serving) -> None:
        stalled = [await served.connect(room=1 << 14).attach() for _ in range(30)]
        for caller in stalled:
            await open_large(caller)
            await caller.send(*((tag, Tread(1, 0, 60_000)) for tag in range(30)))
        other = await served.connect().attach()
        for _ in range(100):
            assert isinstance(await other.ask(GETATTR), Rgetattr)
        for caller in stalled:
            caller.close()
        await until(lambda: len(served.server.connections) == 1)
        assert isinstance(await other.ask(GETATTR), Rgetattr)

    run(test)


@pytest.mark.parametrize("sent", [0, 1, 3, 7, 10])
def test_a_client_that_goes_in_the_middle_of_a_message(sent: int) -> None:
    files = filesystem()

    async def test(served: Serving) -> None:
        other = await served.connect().attach()
        caller = await served.connect().attach()
        await open_large(caller)
        assert files.opened == 1
        await caller.send_bytes(frames((1, Tread(1, 0, 10)))[:sent])
        caller.close()
        await until(lambda: served.over == 1)
        assert files.opened == 0
        assert isinstance(await other.ask(GETATTR), Rgetattr)

    run(test, files)


def test_a_client_that_goes_with_replies_queued() -> None:
    files = filesystem()

    async def test(served: Serving) -> None:
        caller = await served.connect(room=1 << 14).attach()
        await open_large(caller)
        await caller.send(*((tag, Tread(1, 0, 60_000)) for tag in range(30)))
        await wait_all_tasks_blocked()
        caller.close()
        await until(lambda: served.over == 1)
        assert files.opened == 0

    run(test, files)


def test_jobs_of_a_client_that_went_are_dropped() -> None:
    files = filesystem()

    async def test(served: Serving) -> None:
        caller, other = await served.connect().attach(), await served.connect().attach()
        go, entered = holding(files)
        await caller.send(*((tag, GETATTR) for tag in range(30)))
        await until(lambda: served.server.loader.queued > 0 and entered.acquire(blocking=False))
        caller.close()
        await until(lambda: served.over == 1)
        begun = served.server.loader.runs
        assert served.server.loader.queued == 0
        go.set()
        assert isinstance(await other.ask(GETATTR), Rgetattr)
        assert served.server.loader.runs == begun + 1

    run(test, files)


@pytest.mark.parametrize("weather", ["own", "blocking"])
def test_a_client_that_goes_leaves_nothing_behind(weather: str) -> None:
    """Neither what threads have begun, nor what they have not: see `Loader.drop`."""
    files = filesystem()

    async def test(served: Serving) -> None:
        caller = await served.connect().attach()
        await open_large(caller)
        go, entered = holding(files)
        files.weather = lambda call: weather
        opens = [(tag, Twalk(0, tag, ())) for tag in range(10, 20)]
        await caller.send(*opens, *[(tag + 10, Tlopen(tag, 0)) for tag, _ in opens])
        await caller.send(*[(tag, Tread(1, tag, 9)) for tag in range(30, 60)])
        await until(lambda: served.server.loader.queued > 20 and entered.acquire(blocking=False))
        caller.close()
        await until(lambda: served.over == 1)
        go.set()
        await until(lambda: not served.server.loader.busy())
        await until(lambda: (files.opened, served.server.budget.held) == (0, 0))

    run(test, files)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0" * 64,
        b"\xff" * 64,
        b"\x06\0\0\0\0\0\0",
    ],
)
def test_bytes_that_are_no_9p_end_that_session_alone(garbage: bytes) -> None:
    async def test(served: Serving) -> None:
        other = await served.connect().attach()
        fresh, attached = served.connect(), await served.connect().attach()
        for caller in fresh, attached:
            await caller.send_bytes(garbage)
            assert await caller.hung_up()
        assert isinstance(await other.ask(GETATTR), Rgetattr)
        assert served.over == 2

    run(test)


def test_requests_before_garbage_are_answered() -> None:
    async def test(served: Serving) -> None:
        caller = await served.connect().attach()
        await caller.send_bytes(frames((5, GETATTR)) + b"\0" * 16)
        assert (await caller.reply())[0] == 5
        assert await caller.hung_up()

    run(test)


def test_a_bug_in_a_session_ends_it_alone(caplog: pytest.LogCaptureFixture) -> None:
    made: list[None] = []

    def trace() -> Callable[[bool, bytes], None]:
        made.append(None)

        def told(incoming: bool, frame: bytes, which: int = len(made)) -> None:
            if which == 2 and frame[4] == Tgetattr.type:
                raise RuntimeError("a bug")

        return told

    async def test(served: Serving) -> None:
        one, two = await served.connect().attach(), await served.connect().attach()
        await two.send((1, GETATTR))
        assert await two.hung_up()
        assert isinstance(await one.ask(GETATTR), Rgetattr)

    run(test, trace=trace)
    assert "a session failed" in caplog.text


def test_a_flood_of_slow_requests_is_not_read_beyond_the_limit() -> None:
    files = filesystem()
    limits = SessionLimits(in_flight_max=20)

    async def test(served: Serving) -> None:
        flood, other = await served.connect().attach(), await served.connect().attach()
        go, _ = holding(files)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood.send, *((tag, GETATTR) for tag in range(20_000)))
            await until(lambda: served.server.loader.queued > 0)
            await wait_all_tasks_blocked()
            told = max(
                (each.activity() for each in served.server.connections),
                key=lambda each: each.bytes_in,
            )
            assert told.in_flight == 20
            assert told.bytes_in < 1 << 20
            go.set()
            assert isinstance(await other.ask(GETATTR), Rgetattr)
            tags = {(await flood.reply())[0] for _ in range(20_000)}
            assert tags == set(range(20_000))

    run(test, files, limits=limits)


def test_sessions_take_turns_however_much_they_ask() -> None:
    order: list[int] = []

    def trace() -> Callable[[bool, bytes], None]:
        number = next(numbers)

        def told(incoming: bool, frame: bytes) -> None:
            if incoming and frame[4] == Tgetattr.type:
                order.append(number)

        return told

    numbers = iter(range(10))
    # A turn ends by its number of requests alone, so that the counts below do not hang on time.
    limits = SessionLimits(turn_requests=10, turn_s=3600)

    async def test(served: Serving) -> None:
        busy = [await served.connect().attach() for _ in range(3)]
        quiet = await served.connect().attach()
        for caller in busy:  # nothing else runs between these
            caller.socket._sock.send(frames(*((tag, GETATTR) for tag in range(500))))  # type: ignore[attr-defined]
        for _ in range(5):
            before = len(order)
            assert isinstance(await quiet.ask(GETATTR), Rgetattr)
            turns = len(order) - before
            # At worst each of the others has one turn before and one after its own is due.
            assert turns <= 3 * 2 * 10 + 1
        for caller in busy:
            for tag in range(500):
                assert (await caller.reply())[0] == tag
        counts = [order[:300].count(number) for number in range(3)]
        assert max(counts) - min(counts) <= 20, counts

    run(test, limits=limits)


def test_an_idle_session_takes_little_memory() -> None:
    """17 KiB each when measured, the client too; a buffer of a message's size would be 64 more."""

    async def test(served: Serving) -> None:
        callers = [await served.connect().attach() for _ in range(20)]  # what all share is there
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        callers += [await served.connect().attach() for _ in range(50)]
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (after - before) / 50 < 32 << 10
        assert all([isinstance(await caller.ask(GETATTR), Rgetattr) for caller in callers])

    run(test)


def test_who_says_nothing_is_shown_the_door() -> None:
    async def test(served: Serving) -> None:
        silent, slow, spoke = served.connect(), served.connect(), served.connect()
        await spoke.attach()
        await slow.send_bytes(frames((NOTAG, Tversion(MSIZE, b"9P2000.L")))[:-1])
        await wait_all_tasks_blocked()
        clock.jump(HANDSHAKE_S - 1)
        await wait_all_tasks_blocked()
        assert served.over == 0
        clock.jump(2)
        assert await silent.hung_up()
        assert await slow.hung_up()
        clock.jump(10 * 86400)  # a mount may idle
        await wait_all_tasks_blocked()
        assert isinstance(await spoke.ask(GETATTR), Rgetattr)

    clock = MockClock()
    run(test, clock=clock)


def test_to_stop_is_to_answer_first() -> None:
    files = filesystem()

    async def test(served: Serving) -> None:
        asking, idle = await served.connect().attach(), await served.connect().attach()
        await open_large(asking)
        go, entered = holding(files)
        await asking.send((1, GETATTR), (2, GETATTR), (3, GETATTR))
        await until(lambda: entered.acquire(blocking=False))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.server.drain)
            assert await idle.hung_up()
            await wait_all_tasks_blocked()
            assert len(served.server.connections) == 1
            await asking.send((4, GETATTR))  # too late
            go.set()
            tags = {(await asking.reply())[0] for _ in range(3)}
            assert tags == {1, 2, 3}
            assert await asking.hung_up()
        assert not served.server.connections
        assert files.opened == 0

    run(test, files)


def test_to_stop_takes_no_longer_than_it_may() -> None:
    async def test(served: Serving) -> None:
        stalled = await served.connect(room=1 << 14).attach()
        await open_large(stalled)
        await stalled.send(*((tag, Tread(1, 0, 60_000)) for tag in range(30)))
        await wait_all_tasks_blocked()
        done = trio.Event()

        async def drain() -> None:
            await served.server.drain(5)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await wait_all_tasks_blocked()
            clock.jump(4)
            await wait_all_tasks_blocked()
            assert not done.is_set()
            clock.jump(2)
            await done.wait()

    clock = MockClock()
    run(test, clock=clock)


def test_who_has_just_come_is_stopped_too() -> None:
    async def test(served: Serving) -> None:
        callers = [served.connect() for _ in range(20)]  # whose tasks have not begun
        with trio.fail_after(PATIENCE_S):
            await served.server.drain(2 * PATIENCE_S)
        for caller in callers:
            assert await caller.hung_up()

    run(test)


def test_what_cannot_be_waited_for_ends_its_session_alone() -> None:
    async def test(served: Serving) -> None:
        fd = os.open(os.devnull, os.O_RDWR)
        served.start(DescriptorChannel(fd, fd))
        await until(lambda: served.over == 1)
        await served.connect().attach()

    run(test)


def test_what_was_answered_arrives_although_more_was_asked() -> None:
    """Over TCP, closing with bytes unread would reset the connection and lose the replies."""

    async def test(served: Serving) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        fd = theirs.detach()
        served.start(DescriptorChannel(fd, fd))
        caller = await Caller(ours).attach()
        go, entered = holding(files)
        await caller.send((1, GETATTR))
        await until(lambda: entered.acquire(blocking=False))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.server.drain)
            await wait_all_tasks_blocked()
            await caller.send(*((tag, GETATTR) for tag in range(2, 200)))
            go.set()
        assert (await caller.reply())[0] == 1
        assert await caller.hung_up()
        caller.close()

    files = filesystem()
    run(test, files)


def test_after_the_end_of_input_pipes_get_what_was_asked() -> None:
    files = filesystem(lambda call: "cold")

    async def test(served: Serving) -> None:
        (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
        served.start(DescriptorChannel(their_in, their_out, half_closes=True))
        requests = frames(
            (NOTAG, Tversion(MSIZE, b"9P2000.L")),
            (1, Tattach(0, NOFID, b"", b"", 0)),
            (2, Twalk(0, 1, (b"large",))),
            (3, Tlopen(1, 0)),
            (4, Tread(1, 0, 3000)),
            (5, Tclunk(1)),
            (6, Tread(9, 0, 1)),
        )
        os.write(our_out, requests)
        os.close(our_out)
        await until(lambda: served.over == 1)
        with os.fdopen(our_in, "rb") as replies:
            answer = replies.read()
        assert bytes(files.root.children[b"large"].data[:3000]) in answer
        assert frames((6, Rlerror(errno.EBADF))) in answer
        assert files.opened == 0

    run(test, files)


def test_what_happens_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def test(served: Serving) -> None:
        caller = await served.connect().attach()
        await caller.ask(Tread(7, 0, 1))
        caller.close()
        await until(lambda: served.over == 1)

    run(test)
    opened, closed = [record for record in caplog.records if record.name == "ventifs.serve"]
    assert opened.getMessage() == "opened"
    assert closed.getMessage() == "closed"
    fields: dict[str, Any] = closed.fields  # type: ignore[attr-defined]
    assert str(fields["peer"]) == "unix uid 0 pid 1"
    assert {
        "reason": "closed by peer",
        "export": "/",
        "user": "0",
        "operations": 3,
        "errors": 1,
    }.items() <= fields.items()
    assert fields["bytes_in"] > 0 < fields["bytes_out"]
    assert fields["seconds"] >= 0
