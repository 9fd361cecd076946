"""Sessions that wait for locks, over real sockets: nothing else waits, and every wait ends."""

import stat
from collections.abc import Awaitable, Callable

import trio
from trio.testing import MockClock

from tests.support.memoryfs import MemoryFilesystem
from tests.support.sessions import Caller, Serving, serving, until
from ventifs.ninep.protocol.messages import (
    Rclunk,
    Rflush,
    Rlock,
    Rread,
    Tclunk,
    Tflush,
    Tlock,
    Tlopen,
    Tread,
    Twalk,
)
from ventifs.serving.waits import PAUSE_MAX_S
from ventifs.vfs.interface import LOCK_BLOCK, LOCK_BLOCKED, LOCK_SUCCESS, UNLOCKED

WRITE = 1
HELD_S = 1.0  # in `MemoryFilesystem`


def run(test: Callable[[Serving, MemoryFilesystem, MockClock], Awaitable[None]]) -> None:
    """Run a test beside a server with a file, `f`; only the test moves the clock."""
    clock = MockClock()

    async def main() -> None:
        files = MemoryFilesystem()
        files.add("f", stat.S_IFREG | 0o644, b"content")
        async with serving(files) as served:
            await test(served, files, clock)
            await until(lambda: len(served.server.waits) == 0)

    trio.run(main, clock=clock)


async def opened(served: Serving) -> Caller:
    """A client with the file open as fid 1."""
    caller = await served.connect().attach()
    await caller.ask(Twalk(0, 1, (b"f",)))
    await caller.ask(Tlopen(1, 2))
    return caller


def lock(kind: int, process: int = 1, flags: int = LOCK_BLOCK) -> Tlock:
    return Tlock(1, kind, flags, 0, 0, process, b"guest")


async def waiting(served: Serving, count: int = 1) -> tuple[Caller, Caller]:
    """A client that has a lock, and another with requests 10, 11... that wait for it."""
    holder, other = await opened(served), await opened(served)
    assert await holder.ask(lock(WRITE)) == Rlock(LOCK_SUCCESS)
    for number in range(count):
        await other.send((10 + number, lock(WRITE, 2 + number)))
    await until(lambda: len(served.server.waits) == count)
    return holder, other


async def pass_(clock: MockClock, seconds: float) -> None:
    """Let time pass, and all that is due happen."""
    for _ in range(round(seconds / 0.01)):
        clock.jump(0.01)
        for _ in range(20):
            await trio.lowlevel.checkpoint()


def test_a_lock_comes_soon_after_it_is_given_back() -> None:
    async def test(served: Serving, files: MemoryFilesystem, clock: MockClock) -> None:
        holder, other = await waiting(served)
        await pass_(clock, 0.3)
        assert await other.ask(Tread(1, 0, 7), tag=2) == Rread(b"content")
        assert await holder.ask(lock(UNLOCKED)) == Rlock(LOCK_SUCCESS)
        await pass_(clock, PAUSE_MAX_S + 0.02)
        assert await other.reply() == (10, Rlock(LOCK_SUCCESS))
        assert [held.proc_id for held in files.root.children[b"f"].locks] == [2]

    run(test)


def test_a_lock_that_is_not_given_back_is_answered_after_a_second() -> None:
    async def test(served: Serving, files: MemoryFilesystem, clock: MockClock) -> None:
        _, other = await waiting(served)
        await pass_(clock, HELD_S - 0.1)
        assert len(served.server.waits) == 1
        await pass_(clock, 0.2)
        assert await other.reply() == (10, Rlock(LOCK_BLOCKED))
        assert files.cancelled == 1

    run(test)


def test_a_flush_is_answered_at_once() -> None:
    async def test(served: Serving, files: MemoryFilesystem, clock: MockClock) -> None:
        holder, other = await waiting(served)
        assert await other.ask(Tflush(10), tag=2) == Rflush()
        assert files.cancelled == 1
        await holder.ask(lock(UNLOCKED))
        await pass_(clock, HELD_S)
        assert files.root.children[b"f"].locks == []
        assert await other.ask(Tclunk(1)) == Rclunk()

    run(test)


def test_a_client_that_goes_waits_no_more() -> None:
    async def test(served: Serving, files: MemoryFilesystem, clock: MockClock) -> None:
        holder, other = await waiting(served, 5)
        other.close()
        await until(lambda: len(served.server.connections) == 1)
        assert files.cancelled == 5
        await holder.ask(lock(UNLOCKED))
        await pass_(clock, HELD_S)
        assert files.root.children[b"f"].locks == []
        assert files.opened == 1

    run(test)


def test_a_server_that_stops_answers_what_waits() -> None:
    async def test(served: Serving, files: MemoryFilesystem, clock: MockClock) -> None:
        holder, other = await waiting(served)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.server.drain)
            await until(lambda: len(served.server.connections) == 1)
            assert await holder.hung_up()
            await pass_(clock, HELD_S + 0.1)
            assert await other.reply() == (10, Rlock(LOCK_BLOCKED))
            assert await other.hung_up()

    run(test)


def test_waits_need_no_thread() -> None:
    async def test(served: Serving, files: MemoryFilesystem, clock: MockClock) -> None:
        _, other = await waiting(served, 100)
        assert not served.server.loader.busy()
        hops = served.server.loader.hops
        await pass_(clock, HELD_S + 0.1)
        tags = [(await other.reply())[0] for _ in range(100)]
        assert sorted(tags) == list(range(10, 110))
        assert served.server.loader.hops == hops
        assert not served.server.loader.busy()

    run(test)
