"""Files that are evicted and found again all the time, by threads: each request is of its own file.

A descriptor's number is given to another file as soon as it is closed. So whatever works with a
number must keep its descriptor open, also while other threads evict.
"""

import errno
import os
from pathlib import Path

import pytest
import trio

from tests.support.clock import Clock
from tests.support.live_talk import NAME, served
from tests.support.sessions import Serving
from tests.support.threads import in_thread
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.session.front_end import NinepFrontEnd
from ventifs.serving.connections import Server
from ventifs.vfs.live import files, syscalls
from ventifs.vfs.live.filesystem import LiveDirectory

CLIENTS, FILES, ROUNDS = 4, 6, 12
MASK = 0x17FF


def open_slowly(directory: int, name: bytes, flags: int, cached: bool = True) -> int:
    """As `open_beneath`, on a disk that never has a name in memory."""
    if cached:
        raise BlockingIOError(errno.EAGAIN, "not in memory")
    return syscalls.open_beneath(directory, name, flags, cached=False)


def size_of(client: int, number: int) -> int:
    return 1000 * client + number


@pytest.mark.slow
@pytest.mark.parametrize("by", ["handles", "names"])
@pytest.mark.parametrize("pins_max", [1, 8])
def test_no_request_is_of_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pins_max: int, by: str
) -> None:
    monkeypatch.setattr(files, "open_beneath", open_slowly)
    for client in range(CLIENTS):
        (tmp_path / f"{client}").mkdir()
        for number in range(FILES):
            path = tmp_path / f"{client}" / f"{number}"
            path.write_bytes(bytes(size_of(client, number)))
            path.chmod(0o600)

    async def ask(serving: Serving, client: int) -> None:
        caller = serving.connect()
        await caller.ask(m.Tversion(8192, b"9P2000.L"), m.NOTAG)
        attached = await caller.ask(m.Tattach(0, m.NOFID, b"", NAME, os.geteuid()))
        assert isinstance(attached, m.Rattach)
        await caller.ask(m.Twalk(0, 99, (b"%d" % client,)))
        for number in range(FILES):
            await caller.ask(m.Twalk(99, 1 + number, (b"%d" % number,)))
        mode = 0o600
        for turn in range(ROUNDS):
            before, mode = mode, 0o600 + turn % 8
            for number in range(FILES):
                fid, size = 1 + number, size_of(client, number)
                status = await caller.ask(m.Tgetattr(fid, MASK))
                assert (status.size, status.mode & 0o777) == (size, before)
                value = b"%d" % size
                await caller.ask(m.Twalk(fid, 98, ()))
                await caller.ask(m.Txattrcreate(98, b"user.size", len(value), 0))
                await caller.ask(m.Twrite(98, 0, value))
                assert await caller.ask(m.Tclunk(98)) == m.Rclunk()
                await caller.ask(m.Twalk(fid, 97, ()))
                assert isinstance(await caller.ask(m.Tlopen(97, os.O_RDWR)), m.Rlopen)
                data = await caller.ask(m.Tread(97, 0, 8000))
                assert len(data.data) == size
                await caller.ask(m.Tclunk(97))
                changed = await caller.ask(m.Tsetattr(fid, 1, mode, 0, 0, 0, 0, 0, 0, 0))
                assert changed == m.Rsetattr()

    async def serve(live: LiveDirectory) -> None:
        server = Server(NinepFrontEnd(), lambda peer, exports: live.view("none"))
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            serving = Serving(server)
            async with trio.open_nursery() as clients:
                for client in range(CLIENTS):
                    clients.start_soon(ask, serving, client)
            serving.close()
            nursery.cancel_scope.cancel()

    def work() -> None:
        with served(tmp_path, pins_max=pins_max, clock=Clock(step_s=1.0)) as live:
            if by == "names":
                live.tree._mount = None
            trio.run(serve, live)
            assert live.tree.pins.evictions > CLIENTS * FILES

    in_thread(work)
    for client in range(CLIENTS):
        for number in range(FILES):
            path, size = tmp_path / f"{client}" / f"{number}", size_of(client, number)
            assert path.stat().st_size == size
            assert path.stat().st_mode & 0o777 == 0o600 + (ROUNDS - 1) % 8
            assert os.getxattr(path, "user.size") == b"%d" % size
