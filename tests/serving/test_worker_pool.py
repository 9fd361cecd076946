"""Workers: real processes over a real store, killed and stopped while they are at it."""

import errno
import json
import os
import re
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.patience import PATIENCE_S, wait_in_trio_until, wait_until
from tests.support.processes import kill_stranger
from tests.support.serve import Serve, ventifs
from tests.support.sessions import CODEC, Caller, frames
from ventifs.cli.serving.front_end import worker_main, worker_sessions
from ventifs.errors import VentifsError
from ventifs.net.allow_list import Exports
from ventifs.net.peer import STDIO
from ventifs.ninep.protocol.messages import NOFID, NONUNAME, NOTAG, Tattach, Tgetattr, Tversion
from ventifs.serving.activity import Process
from ventifs.serving.settings import Settings
from ventifs.serving.worker import Worker
from ventifs.serving.worker_ipc import (
    PACKET_MAX,
    Ask,
    Configure,
    Over,
    Ready,
    Take,
    Told,
    TooLarge,
    receive_report,
    send,
)
from ventifs.serving.worker_pool import WorkerPool

ATTACH = frames((NOTAG, Tversion(8192, b"9P2000.L")), (1, Tattach(0, NOFID, b"", b"web@latest", 0)))
GETATTR = CODEC.encode(Tgetattr(0, 0x7FF), 2)
OPTIONS = ("--workers", "3", "--cache", "64MiB")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a version of `web`."""
    made = tmp_path_factory.mktemp("workers")
    (made / "tree").mkdir()
    (made / "tree" / "file").write_bytes(b"x" * 100_000)
    ventifs(made, "init")
    ventifs(made, "archive", "tree", "--name", "web", "--time", "2026-01-01")
    return made


@pytest.fixture
def server(home: Path) -> Iterator[Serve]:
    """A server of three workers at `home/s`."""
    (home / "log").unlink(missing_ok=True)
    (home / "s").unlink(missing_ok=True)
    with Serve(home, f"unix://{home}/s", *OPTIONS) as server:
        yield server


class Mount:
    """A client that blocks."""

    def __init__(self, home: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(str(home / "s"))
        try:
            self._socket.sendall(ATTACH)
            assert [self._reply(), self._reply()] == [101, 105]
        except BaseException:
            self._socket.close()
            raise

    def works(self) -> bool:
        """Whether it is served; not when the connection is over."""
        try:
            self._socket.sendall(GETATTR)
            return self._reply() == 25
        except (ConnectionError, EOFError):
            return False

    def close(self) -> None:
        self._socket.close()

    def _reply(self) -> int:
        head = self._read(7)
        self._read(int.from_bytes(head[:4], "little") - 7)
        return head[4]

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data


def _status(home: Path) -> Any:
    [server] = json.loads(ventifs(home, "servers", "--json").stdout)
    return server


def _workers(server: Serve, other_than: set[int]) -> list[int]:
    """Three workers, none of which is one of those."""
    found: list[int] = []

    def complete() -> bool:
        found[:] = server.workers()
        return len(found) >= 3 and not other_than & set(found)

    wait_until(complete)
    return found


def _until_served(home: Path) -> Mount:
    mounts: list[Mount] = []

    def mounted() -> bool:
        with suppress(ConnectionError, EOFError):
            mounts.append(Mount(home))
        return bool(mounts)

    wait_until(mounted)
    return mounts[0]


def test_connections_go_where_there_are_fewest_and_are_told_of_together(
    home: Path, server: Serve
) -> None:
    mounts = [Mount(home) for _ in range(6)]
    opened = server.heard(r"event=opened .*worker=(\d)", 6)
    assert sorted(opened) == ["1", "1", "2", "2", "3", "3"]
    assert all(mount.works() for mount in mounts)
    status = _status(home)
    assert status["workers"] == 3
    assert len(status["process"]["sessions"]) == 6
    assert status["process"]["totals"]["operations"] == {
        "Tversion": 6,
        "Tattach": 6,
        "Tgetattr": 6,
    }
    assert abs(status["process"]["cache_bytes_max"] - (64 << 20)) < 3
    mounts[0].close()
    mounts[3].close()
    closed = server.heard(r"event=closed .*worker=(\d)", 2)
    more = [Mount(home), Mount(home)]
    assert sorted(server.heard(r"event=opened .*worker=(\d)", 8)[6:]) == sorted(closed)
    for mount in [*mounts, *more]:
        mount.close()


def test_the_parent_never_opens_the_index_and_workers_do(home: Path, server: Serve) -> None:
    mount = Mount(home)
    assert mount.works()
    assert "data.mdb" not in Path(f"/proc/{server.process.pid}/maps").read_text()
    assert any("data.mdb" in Path(f"/proc/{pid}/maps").read_text() for pid in server.workers())
    mount.close()


def test_a_worker_that_is_killed_takes_only_its_own_with_it(home: Path, server: Serve) -> None:
    mounts = [Mount(home) for _ in range(6)]
    before = server.workers()
    kill_stranger(before[0])
    [lost] = server.heard(
        r"event=worker_died worker=\d how=\"was ended by SIGKILL\" "
        r"connections=(\d)"
    )
    assert lost == "2"
    assert sorted(mount.works() for mount in mounts) == [False] * 2 + [True] * 4
    after = _workers(server, {before[0]})
    assert set(before[1:]) < set(after)
    fresh = [Mount(home) for _ in range(3)]
    assert all(mount.works() for mount in fresh)
    status = _status(home)
    assert status["restarts"] == 1
    assert len(status["process"]["sessions"]) == 7
    for mount in [*mounts, *fresh]:
        mount.close()
    assert server.stop() == 0


def test_while_all_workers_are_dead_connections_wait(home: Path, server: Serve) -> None:
    before = server.workers()
    for pid in before:
        kill_stranger(pid)
    mount = _until_served(home)
    assert mount.works()
    assert not set(_workers(server, set(before))) & set(before)
    mount.close()


def test_workers_end_with_their_parent_however_it_ends(home: Path, server: Serve) -> None:
    mount = Mount(home)
    handles = [os.pidfd_open(pid) for pid in server.workers()]
    os.kill(server.process.pid, signal.SIGKILL)
    for handle in handles:
        assert select.select([handle], [], [], PATIENCE_S)[0], "a worker is left behind"
        os.close(handle)
    assert not mount.works()
    mount.close()


def test_signals_to_all_of_them_are_the_parents_affair(home: Path, server: Serve) -> None:
    """As a terminal or a service manager sends them: to each process."""
    mount = Mount(home)
    workers = server.workers()
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert mount.works()
    assert server.workers() == workers
    assert server.stop(signal.SIGINT) == 0
    assert not mount.works()
    mount.close()
    assert "worker_died" not in server.log
    assert re.search(r"event=closed .* reason=stopped .* operations=3 ", server.log)


def test_a_store_that_cannot_be_opened_is_told_once_in_a_line(home: Path, tmp_path: Path) -> None:
    ventifs(tmp_path, "init")
    for path in (tmp_path / "data" / "ventifs").glob("index*"):
        path.rename(path.with_name("elsewhere"))
    failed = ventifs(tmp_path, "serve", f"unix://{tmp_path}/s", *OPTIONS, expected=1)
    told = failed.stderr.decode().splitlines()
    assert len(told) == 1
    assert told[0].startswith("ventifs: ")
    assert "rebuild-index" in told[0]
    assert not (tmp_path / "s").exists()


def test_a_pool_serves_what_it_is_handed(home: Path) -> None:
    """In this process, where what becomes of the connection can be seen."""
    over = []

    async def main() -> None:
        pool = WorkerPool(Settings(store=str(home / "data" / "ventifs")), 2, worker_main)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(pool.run)
                ours, theirs = socket.socketpair()
                await pool.take(theirs, STDIO, Exports(("web",)), lambda: over.append(1))
                assert theirs.fileno() == -1
                caller = Caller(ours)
                await caller.send_bytes(ATTACH)
                assert [(await caller.reply())[0] for _ in range(2)] == [NOTAG, 1]
                assert len((await pool.ask()).sessions) == 1
                caller.close()
                await wait_in_trio_until(lambda: over)
                ours, theirs = socket.socketpair()
                many = Exports(tuple(f"name{number}" for number in range(20_000)))
                await pool.take(theirs, STDIO, many, lambda: over.append(2))
                assert over == [1, 2]
                assert await Caller(ours).hung_up()
                ours.close()
                await pool.drain(PATIENCE_S)
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_connections_that_wait_for_a_worker_together_are_told_apart(home: Path) -> None:
    """Each once took the number of the last, and only one of them was ever over."""
    over: list[int] = []

    async def main() -> None:
        pool = WorkerPool(Settings(store=str(home / "data" / "ventifs")), 1, worker_main)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(pool.run)
                live = pool._live.copy()
                pool._live.clear()
                callers = []
                for number in range(3):
                    ours, theirs = socket.socketpair()
                    callers.append(Caller(ours))
                    call = partial(over.append, number)
                    nursery.start_soon(pool.take, theirs, STDIO, Exports(("web",)), call)
                await wait_all_tasks_blocked()
                pool._live.update(live)
                pool._arrived.set()
                for caller in callers:
                    await caller.send_bytes(ATTACH)
                    assert [(await caller.reply())[0] for _ in range(2)] == [NOTAG, 1]
                assert len(live[1].connections) == 3
                for number in (1, 0, 2):
                    callers[number].close()
                    await wait_in_trio_until(partial(over.__contains__, number))
                assert over == [1, 0, 2]
                assert not live[1].connections
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_worker_that_died_takes_nothing_from_the_one_in_its_place(home: Path) -> None:
    over: list[int] = []

    async def main() -> None:
        pool = WorkerPool(Settings(store=str(home / "data" / "ventifs")), 1, worker_main)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(pool.run)
                [dead] = pool._live.values()
                dead.connections[7] = partial(over.append, 7)
                dead.process.kill()
                await wait_in_trio_until(lambda: pool._live.get(1) not in {None, dead})
                [fresh] = pool._live.values()
                pool._bury(dead)  # as a connection does that finds it dead only now
                assert pool._live == {1: fresh}
                dead.forget(7)
                assert over == [7]
                with pytest.raises(OSError, match=r"Bad file|Broken pipe"):
                    await dead.send(Ask(1))
                fresh.told(Told(fresh._asked - 1, Process(loads=10**6), last=True))
                assert (
                    await pool.ask()
                ).loads < 10**6  # an answer that came too late is no other's
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_pool_over_no_store_fails(tmp_path: Path) -> None:
    async def main() -> None:
        await WorkerPool(Settings(store=str(tmp_path)), 2, worker_main).run()

    with pytest.raises(ExceptionGroup) as failed:
        trio.run(main)
    error: BaseException = failed.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, VentifsError)
    assert str(tmp_path) in str(error)


def test_who_has_endless_names_harms_no_worker(home: Path) -> None:
    """All that they are called must fit into the packets that tell of them."""
    names = [b"\xff" * 65_000, b"\1" * 65_000, ("\U0010ffff" * 16_000).encode(), b"short"]

    async def main() -> None:
        pool = WorkerPool(Settings(store=str(home / "data" / "ventifs")), 1, worker_main)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(pool.run)
                callers = []
                for name in names * 40:
                    ours, theirs = socket.socketpair()
                    await pool.take(theirs, STDIO, Exports(("web",)), lambda: None)
                    callers.append(caller := Caller(ours))
                    path = b"web@latest:" + b"/." * 2000
                    await caller.ask(Tversion(1 << 20, b"9P2000.L"), NOTAG)
                    await caller.ask(Tattach(0, NOFID, name, path, NONUNAME))
                sessions = (await pool.ask()).sessions
                assert len(sessions) == len(callers)
                assert {len(str(session.user)) for session in sessions} == {131, 5}
                assert all(len(str(session.export)) == 131 for session in sessions)
                assert pool.restarts == 0
                for caller in callers:
                    caller.close()
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_worker_that_cannot_be_started_anew_is_tried_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [OSError(errno.EAGAIN, "no processes left")] * 2

    class Scarce(subprocess.Popen[bytes]):
        def __init__(self, *words: Any, **settings: Any) -> None:
            if refusals and started:
                raise refusals.pop()
            started.append(1)
            super().__init__(*words, **settings)

    started: list[int] = []
    monkeypatch.setattr("ventifs.serving.worker_process.subprocess.Popen", Scarce)
    monkeypatch.setattr("ventifs.serving.worker_pool.PAUSE_MIN_S", 0.01)

    async def main() -> None:
        pool = WorkerPool(Settings(store=str(home / "data" / "ventifs")), 1, worker_main)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(pool.run)
                [worker] = pool._live.values()
                worker.process.kill()
                await wait_in_trio_until(lambda: pool._live.get(1) not in {None, worker})
                assert not refusals
                assert pool.restarts == 3
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_connection_that_a_worker_has_no_room_for_is_over(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel then delivers the order without its descriptor."""
    monkeypatch.setattr("ventifs.serving.worker.start_log", lambda **_: None)

    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, trio.fail_after(PATIENCE_S):
            ours.setblocking(False)
            theirs.setblocking(False)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Worker(theirs, worker_sessions).run)
                await send(ours, Configure(Settings(store=str(store)), 1))
                assert isinstance((await receive_report(ours))[0], Ready)
                await send(ours, Take(7, STDIO, Exports(("web",))))
                assert await receive_report(ours) == (Over(7), [])
                ours.close()

    store = home / "data" / "ventifs"
    trio.run(main)


def test_a_packet_has_a_limit() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.setblocking(False)
            with pytest.raises(TooLarge):
                await send(ours, Take(1, STDIO, Exports(("x" * PACKET_MAX,))))

    trio.run(main)
