"""A server's leases: real servers and clients, in versions that are forgotten meanwhile."""

import errno
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio

from tests.support.leasing import files
from tests.support.patience import PATIENCE_S, wait_in_trio_until, wait_until
from tests.support.serve import Serve, ventifs
from tests.support.sessions import EVERYTHING, PEER
from tests.support.talking import Talk
from tests.support.trees import noise
from ventifs.cli.serving.front_end import local_sessions
from ventifs.net.channel import socket_channel
from ventifs.ninep.client.checks import RemoteError
from ventifs.ninep.client.client import Client
from ventifs.ninep.client.rpc import Disconnected
from ventifs.ninep.protocol.messages import Tclunk, Twalk
from ventifs.serving import settings
from ventifs.store import Store
from ventifs.store.leases import leased
from ventifs.tree.objects.records import encode_entry
from ventifs.tree.versions.catalog import find_version
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split

TCP = ("tcp://127.0.0.1:0", "--allow", "tcp *")
OLD, NEW = b"2026-01-01T00:00:00Z", b"2026-01-02T00:00:00Z"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store, in `data/ventifs`, with two versions of `web`."""
    made_home(tmp_path)
    return tmp_path


def made_home(home: Path) -> None:
    (home / "tree").mkdir()
    ventifs(home, "init")
    for number, when in enumerate((OLD, NEW)):
        (home / "tree" / "large").write_bytes(noise(3_000_000, number))
        ventifs(home, "archive", "tree", "--name", "web", "--time", when.decode())


def store_of(home: Path) -> Path:
    return home / "data" / "ventifs"


def root_of(home: Path, text: str) -> bytes:
    with Store.open(store_of(home)) as store:
        return encode_entry(find_version(store, text).root, root=True)


async def refused(operation: Callable[[], Awaitable[object]]) -> int | None:
    try:
        await operation()
    except RemoteError as error:
        number: int | None = error.errno
        return number
    return 0


async def attached(address: str, aname: bytes) -> bytes:
    async with Client.connect(address, aname=aname) as client:
        return (await client.list(b""))[0].name


@pytest.mark.parametrize("workers", [1, 2])
def test_two_clients_in_a_forgotten_version(home: Path, workers: int) -> None:
    """One attaches to it, one walks in; killed and started again, the server has it no more."""
    store, root = store_of(home), root_of(home, "web")
    done: list[bool] = []

    async def use(server: Serve) -> None:
        [address] = server.addresses
        async with AsyncExitStack() as stack:
            stack.enter_context(trio.fail_after(PATIENCE_S))
            attaching = await stack.enter_async_context(
                Client.connect(address, aname=b"web@latest")
            )
            walking = await stack.enter_async_context(Client.connect(address))
            first = await stack.enter_async_context(await attaching.open(b"large"))
            second = await stack.enter_async_context(await walking.open(b"web/latest/large"))
            assert await first.read(0, 1000) == noise(3_000_000, 1)[:1000]
            assert leased(store) == [root]
            assert len(files(store)) == workers
            forget = partial(ventifs, home, "forget", f"web@{NEW.decode()}")
            await trio.to_thread.run_sync(forget)
            # They go on, in what was never read before too.
            for at in range(0, 3_000_000, 100_000):
                for fid in (first, second):
                    assert await fid.read(at, 8000) == noise(3_000_000, 1)[at : at + 8000]
            assert await attaching.read(b"large") == noise(3_000_000, 1)
            for aname in (b"web@" + NEW, b"web@" + NEW + b":/"):
                while await refused(partial(attached, address, aname)) != errno.ENOENT:
                    await trio.lowlevel.checkpoint()  # it looks at the catalog once a second
            assert await refused(partial(walking.stat, b"web/" + NEW)) == errno.ENOENT
            assert (await walking.stat(b"web/latest")).qid  # of the version before
            assert root in leased(store)
            done.append(True)
            server.process.send_signal(signal.SIGKILL)
            await trio.to_thread.run_sync(server.process.wait)

    with Serve(home, *TCP, "--workers", str(workers)) as server:
        children = server.workers()
        with pytest.raises((Disconnected, BaseExceptionGroup)) as broken:
            trio.run(use, server)
        assert done, broken.value
        for pid in children:
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
    assert leased(store) == []
    if workers == 1:  # else they saw their parent's end
        assert len(files(store)) == 1

    with Serve(home, *TCP) as server:
        [address] = server.addresses
        assert trio.run(refused, partial(attached, address, b"web@" + NEW)) == errno.ENOENT
        assert trio.run(attached, address, b"web@latest") == b"large"
        assert leased(store) == [root_of(home, "web")]
        assert len(files(store)) == 1
        assert server.stop() == 0
    assert files(store) == []


def test_a_server_gives_up_what_was_forgotten_when_its_clients_have_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "TEND_S", 0.01)
    store, old, new = store_of(home), root_of(home, "web@~1"), root_of(home, "web")

    async def main() -> None:
        with trio.fail_after(PATIENCE_S), local_sessions(settings.Settings(str(store))) as sessions:
            async with trio.open_nursery() as nursery:
                await nursery.start(sessions.run)

                def connected() -> socket.socket:
                    ours, theirs = socket.socketpair()
                    sessions.start(socket_channel(theirs), PEER, EVERYTHING, lambda: None)
                    return ours

                async with Client.connect(connected()) as stays:
                    async with Client.connect(connected()) as leaves:
                        fid = await stays.open(b"web/" + NEW + b"/large")
                        assert await leaves.read(b"web/" + NEW + b"/large")
                        assert await stays.read(b"web/" + OLD + b"/large")
                        forget = partial(
                            ventifs, home, "forget", f"web@{NEW.decode()}", f"web@{OLD.decode()}"
                        )
                        await trio.to_thread.run_sync(partial(forget, "--force"))
                        await wait_in_trio_until(lambda: leased(store) == [new])
                    # The connection stays, and the directory that it left last.
                    assert await fid.read(0, 8000) == noise(3_000_000, 1)[:8000]
                    assert leased(store) == [new]
                    await fid.clunk()
                    await wait_in_trio_until(lambda: leased(store) == [])
                nursery.cancel_scope.cancel()

    assert old != new
    trio.run(main)
    assert files(store) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_server_that_may_not_write_leases_says_so_and_serves(
    open_home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = store_of(open_home)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            settings.start_log(as_json=False)
            trio.run(_read_both, store)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    said = capfd.readouterr().err
    assert said.count("there is no lease on what is read") == 1
    assert f"{store}/leases: permission denied: there is no lease" in said
    assert files(store) == []


@pytest.fixture
def open_home() -> Iterator[Path]:
    """As `home`, for a user that reads, and writes only what LMDB's readers must."""
    with TemporaryDirectory(dir="/tmp", prefix="ventifs-test-") as directory:
        home = Path(directory)
        made_home(home)
        for path in (home, *home.rglob("*")):
            path.chmod(path.stat().st_mode | 0o055)
        (store_of(home) / "index" / "lock.mdb").chmod(0o666)
        yield home


async def _read_both(store: Path) -> None:
    with trio.fail_after(PATIENCE_S), local_sessions(settings.Settings(str(store))) as sessions:
        async with trio.open_nursery() as nursery:
            await nursery.start(sessions.run)
            ours, theirs = socket.socketpair()
            sessions.start(socket_channel(theirs), PEER, EVERYTHING, lambda: None)
            async with Client.connect(ours) as client:
                for number, when in enumerate((OLD, NEW)):
                    assert await client.read(b"web/" + when + b"/large") == noise(3_000_000, number)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("last", ["a walk that ends on its way", "a clunk in a directory"])
def test_an_idle_session_lets_go_of_what_no_fid_needs(home: Path, last: str) -> None:
    store = store_of(home)
    split = Split.of(8 << 20)
    with Store.open(store, cache_bytes=split.clumps) as opened:
        files = ArchiveFilesystem(opened, split)
        talk = Talk(files)
        if last == "a clunk in a directory":
            talk.ask(Twalk(0, 1, (b"web", b"latest", b"large")), Tclunk(1))
        else:
            walk = Twalk(0, 1, (b"web", b"latest", b"none"))
            way = talk.ask(walk, walk)  # the second one needs no load
            assert len(way.wqids) == 2
        assert len(leased(store)) == 1
        ventifs(home, "forget", f"web@{NEW.decode()}")
        for _ in range(2):
            files.tend()
            for load in files.looks():
                load.run()
        assert len(leased(store)) == 1
        talk.session.tidy()
        files.tend()
        assert leased(store) == []
        talk.close()
