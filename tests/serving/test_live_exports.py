"""Live exports: a process each, connections that move there, and what happens to them."""

import errno
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.patience import PATIENCE_S, wait_in_trio_until
from tests.support.processes import kill_stranger
from tests.support.serve import ventifs
from tests.support.sessions import CODEC, Caller, frames
from tests.support.standin import POISON, failing_main, own_user_main, standin_main, stuck_main
from ventifs.cli.serving.front_end import local_sessions, worker_main
from ventifs.net.address import parse_address
from ventifs.net.allow_list import AllowList, Exports, parse_rule
from ventifs.net.channel import DescriptorChannel, socket_channel
from ventifs.net.listen import listen
from ventifs.net.peer import STDIO, Peer
from ventifs.ninep.protocol import messages as m
from ventifs.serving.handover import Departure
from ventifs.serving.live_exports import LiveExports
from ventifs.serving.service import ServicePlan, serve
from ventifs.serving.session import Agreed, Handover
from ventifs.serving.settings import Backend, Settings
from ventifs.serving.worker_pool import WorkerPool
from ventifs.vfs.live.export import LiveExport, Sharing, Squashing
from ventifs.vfs.live.exposure import open_export

_TCP_REPAIR = 19  # linux/tcp.h
VERSION = (m.NOTAG, m.Tversion(8192, b"9P2000.L"))


def attach(aname: str, fid: int = 0) -> m.Tattach:
    return m.Tattach(fid, m.NOFID, b"root", aname.encode(), 0)


class Running:
    """A server in this process, and its clients."""

    def __init__(self, listener: socket.socket, live: LiveExports) -> None:
        self._family, self._at = listener.family, listener.getsockname()
        self.live = live
        self.orders, self.next_order = trio.open_memory_channel[str](2)
        self.callers: list[Caller] = []
        self._stopped = False

    async def stop(self) -> None:
        """Order the server to stop, once: a second order would end it at once."""
        if not self._stopped:
            self._stopped = True
            await self.orders.send("stop")

    def connect(self) -> Caller:
        """A new connection."""
        connected = socket.socket(self._family)
        connected.connect(self._at)
        self.callers.append(Caller(connected))
        return self.callers[-1]

    async def attached(self, aname: str) -> Caller:
        """A new connection that is attached to something, as fid 0."""
        caller = self.connect()
        assert await caller.ask(VERSION[1], m.NOTAG) == m.Rversion(8192, b"9P2000.L")
        assert isinstance(await caller.ask(attach(aname)), m.Rattach)
        return caller

    async def attached_at_last(self, aname: str) -> Caller:
        """A new connection that is attached as soon as another one is seen to be gone."""
        while True:
            caller = self.connect()
            await caller.ask(VERSION[1], m.NOTAG)
            if isinstance(await caller.ask(attach(aname)), m.Rattach):
                return caller
            caller.close()

    async def process_of(self, name: str) -> int:
        """The process of an export."""
        [found] = [each for each, _ in await self.live.ask() if each.name == name]
        assert found.pid is not None
        return found.pid


async def names(caller: Caller) -> set[str]:
    """What is in the directory that a connection is attached to."""
    await caller.ask(m.Twalk(0, 90, ()))
    await caller.ask(m.Tlopen(90, 0))
    reply = await caller.ask(m.Treaddir(90, 0, 8000))
    await caller.ask(m.Tclunk(90))
    return {each.name.decode() for each in CODEC.dirents(reply.data)} - {".", ".."}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a version of `web`."""
    made = tmp_path_factory.mktemp("live")
    (made / "tree").mkdir()
    (made / "tree" / "file").write_bytes(b"x" * 100)
    ventifs(made, "init")
    ventifs(made, "archive", "tree", "--name", "web", "--time", "2026-01-01")
    return made


class Setting:
    """Directories `one` and `two` to export, and how to serve them."""

    def __init__(self, home: Path, directory: Path) -> None:
        self.store = str(home / "data" / "ventifs")
        self.directory = directory
        self.exports = tuple(LiveExport(name, str(directory / name)) for name in ("one", "two"))
        self.address = f"unix://{directory}/s"
        self.main = standin_main
        self.grace_s = float(PATIENCE_S)
        self.workers = 0
        self.allow = AllowList()
        for name in ("one", "two"):
            (directory / name).mkdir()
            (directory / name / f"in-{name}").touch()

    def serving(self, test: Callable[[Running], Awaitable[None]]) -> None:
        """Run a test with a server; the server ends by itself afterwards."""
        settings = Settings(self.store, cache_bytes=64 << 20, live=self.exports)

        async def main() -> None:
            live = LiveExports(settings, directories, self.main)
            listeners = listen(parse_address(self.address))
            running = Running(listeners[0], live)
            plan = ServicePlan(
                self.store, (), listeners, self.allow, live=live, grace_s=self.grace_s
            )
            ready = trio.Event()

            @contextmanager
            def orders() -> Iterator[Callable[[], Awaitable[str]]]:
                yield running.next_order.receive

            with trio.fail_after(PATIENCE_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(serve, plan, backend, ready.set, orders)
                    await ready.wait()
                    await test(running)
                    await running.stop()
            for caller in running.callers:
                caller.close()

        with ExitStack() as stack:
            directories = []
            for export in self.exports:
                directories.append(open_export(export))
                stack.callback(os.close, directories[-1].fd)
            backend: Backend = (
                WorkerPool(settings, self.workers, worker_main)
                if self.workers
                else stack.enter_context(local_sessions(settings))
            )
            trio.run(main)


@pytest.fixture
def setting(home: Path, tmp_path: Path) -> Setting:
    return Setting(home, tmp_path)


@pytest.mark.parametrize(("workers", "store"), [(0, True), (2, True), (0, False)])
def test_the_first_attach_takes_a_connection_to_its_exports_process(
    setting: Setting, workers: int, store: bool
) -> None:
    setting.workers = workers
    if not store:
        setting.store = ""

    async def test(server: Running) -> None:
        assert all(each.pid is None for each, _ in await server.live.ask())
        one = await server.attached("one")
        assert "in-one" in await names(one)
        assert [each.pid is None for each, _ in await server.live.ask()] == [False, True]
        two, again = await server.attached("two"), await server.attached("one:/")
        assert "in-two" in await names(two)
        assert "in-one" in await names(again)
        assert await server.process_of("one") != await server.process_of("two")
        [(activity, process), _] = await server.live.ask()
        assert activity.connections == len(process.sessions) == 2
        assert process.sessions[0].dialect == "9P2000.L"
        assert {each.export for each in process.sessions} == {"one", "one:/"}
        for caller in (one, again):
            caller.close()
        await wait_in_trio_until_async(server, "one", 0)
        if store:
            archived = await server.attached("web@latest")
            assert await names(archived) == {"file"}

    setting.serving(test)


async def wait_in_trio_until_async(server: Running, name: str, connections: int) -> None:
    """Until an export has this many connections."""

    def there() -> bool:
        running = server.live._processes[name].running
        return (0 if running is None else len(running.connections)) == connections

    await wait_in_trio_until(there)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_comes_with_the_attach_is_answered_there(setting: Setting, workers: int) -> None:
    """In one piece, byte by byte, and with much behind it."""
    setting.workers = workers
    sent = frames(
        VERSION, (1, attach("one")), (2, m.Tgetattr(0, 0x7FF)), (3, m.Twalk(0, 1, (b"in-one",)))
    )

    async def test(server: Running) -> None:
        whole = server.connect()
        await whole.send_bytes(sent)
        assert [type((await whole.reply())[1]) for _ in range(4)] == [
            m.Rversion,
            m.Rattach,
            m.Rgetattr,
            m.Rwalk,
        ]
        slow = server.connect()
        for byte in sent:
            await slow.send_bytes(bytes([byte]))
        assert [(await slow.reply())[0] for _ in range(4)] == [m.NOTAG, 1, 2, 3]
        much = server.connect()
        await much.send(VERSION, (1, attach("one")), *[(2, m.Tgetattr(0, 0x7FF))] * 3000)
        assert [(await much.reply())[0] for _ in range(3002)] == [m.NOTAG, 1, *[2] * 3000]

    setting.serving(test)


def test_an_attach_that_is_too_large_to_be_handed_over_ends_the_connection(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(server: Running) -> None:
        caller = server.connect()
        large = m.Tattach(0, m.NOFID, b"n" * 60_000, b"one:/" + b"p" * 65_000, 0)
        await caller.send((m.NOTAG, m.Tversion(200_000, b"9P2000.L")), (1, large))
        assert (await caller.reply())[0] == m.NOTAG
        assert await caller.hung_up()
        assert "in-one" in await names(await server.attached("one"))

    setting.serving(test)
    assert "refused" in caplog.messages


def test_a_directory_that_is_renamed_stays_the_one_that_is_served(setting: Setting) -> None:
    async def test(server: Running) -> None:
        (setting.directory / "one").rename(setting.directory / "elsewhere")
        (setting.directory / "one").mkdir()
        (setting.directory / "one" / "another").touch()
        first = await server.attached("one")
        assert "in-one" in await names(first)
        kill_stranger(await server.process_of("one"))
        assert await first.hung_up()
        assert "in-one" in await names(await server.attached("one"))

    setting.serving(test)


def test_a_process_that_died_begins_again_at_the_next_attach(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(server: Running) -> None:
        one, other, two = [await server.attached(name) for name in ("one", "one", "two")]
        before = await server.process_of("one")
        kill_stranger(before)
        assert await one.hung_up()
        assert await other.hung_up()
        assert "in-two" in await names(two)
        [(activity, process), _] = await server.live.ask()
        assert (activity.pid, activity.connections, process.sessions) == (None, 0, [])
        assert "in-one" in await names(await server.attached("one"))
        [(activity, process), _] = await server.live.ask()
        assert activity.pid not in {None, before}
        assert activity.restarts == 1
        assert len(process.sessions) == 1

    setting.serving(test)
    [died] = [each.__dict__["fields"] for each in caplog.records if each.msg == "export_died"]
    assert died == {"live": "one", "how": "was ended by SIGKILL", "connections": 2}


def test_a_connection_that_has_moved_outlives_the_worker_that_it_came_from(
    setting: Setting,
) -> None:
    setting.workers = 1

    async def test(server: Running) -> None:
        one, archived = await server.attached("one"), await server.attached("web@latest")
        [worker] = _workers_of(os.getpid())
        kill_stranger(worker)
        assert await archived.hung_up()
        assert "in-one" in await names(one)

    setting.serving(test)


def _workers_of(parent: int) -> set[int]:
    """The children of a process that have an index open: its workers."""
    found = set()
    for path in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if "data.mdb" in Path(f"/proc/{path}/maps").read_text():
            found.add(int(path))
    return found


def test_an_attach_that_ends_the_process_is_tried_once(setting: Setting) -> None:
    async def test(server: Running) -> None:
        poison = setting.directory / "one" / POISON
        poison.touch()
        for _ in range(2):
            caller = server.connect()
            await caller.send(VERSION, (1, attach("one")))
            await caller.reply()
            assert await caller.hung_up()
        poison.unlink()
        assert "in-one" in await names(await server.attached("one"))
        [(activity, _), _] = await server.live.ask()
        assert activity.restarts == 2

    setting.serving(test)


def test_an_export_that_cannot_begin_refuses_with_the_reason(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    setting.main = failing_main

    async def test(server: Running) -> None:
        caller = server.connect()
        await caller.send(VERSION, (1, attach("one")))
        await caller.reply()
        assert await caller.hung_up()
        assert await names(await server.attached("web@latest")) == {"file"}

    setting.serving(test)
    [fields] = [each.__dict__["fields"] for each in caplog.records if each.msg == "refused"]
    assert "live export 'one': " in fields["reason"]
    assert "Input/output error" in fields["reason"]


def test_a_process_that_stands_still_harms_its_own_users_alone(setting: Setting) -> None:
    """As one does whose disk hangs."""

    async def test(server: Running) -> None:
        one = await server.attached("one")
        pid = await server.process_of("one")
        os.kill(pid, signal.SIGSTOP)
        try:
            await one.send((7, m.Tgetattr(0, 0x7FF)))
            waiting = server.connect()
            await waiting.send(VERSION, (1, attach("one")))
            assert (await waiting.reply())[0] == m.NOTAG
            assert "in-two" in await names(await server.attached("two"))
            assert await names(await server.attached("web@latest")) == {"file"}
            (silent, _), _ = await server.live.ask()
            assert not silent.answers
            assert silent.connections == 2
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (await one.reply())[0] == 7
        assert (await waiting.reply())[0] == 1
        while not (await server.live.ask())[0][0].answers:
            pass  # it has a second for each answer

    setting.serving(test)


def test_the_server_ends_though_a_process_stands_still(setting: Setting) -> None:
    pids = []

    setting.grace_s = 0.01

    async def test(server: Running) -> None:
        await server.attached("one")
        pids.append(await server.process_of("one"))
        os.kill(pids[0], signal.SIGSTOP)

    setting.serving(test)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_exclusive_is_for_one_connection_at_a_time(setting: Setting) -> None:
    setting.exports = (LiveExport("one", str(setting.directory / "one"), sharing="exclusive"),)

    async def test(server: Running) -> None:
        first = await server.attached("one")
        assert isinstance(await first.ask(attach("one", 1)), m.Rattach)  # another user's
        second = server.connect()
        await second.ask(VERSION[1], m.NOTAG)
        assert await second.ask(attach("one")) == m.Rlerror(errno.EBUSY)
        assert await second.ask(attach("one:/", 1)) == m.Rlerror(errno.EBUSY)
        assert "in-one" in await names(first)
        first.close()
        assert "in-one" in await names(await server.attached_at_last("one"))

    setting.serving(test)


def test_exclusive_is_for_the_next_one_when_no_thread_works_for_the_last(
    setting: Setting,
) -> None:
    """Else a late write of a client that has gone would change what the next one caches."""
    setting.exports = (LiveExport("one", str(setting.directory / "one"), sharing="exclusive"),)
    setting.main = stuck_main
    fifo = setting.directory / "one" / "fifo"

    async def test(server: Running) -> None:
        first = await server.attached("one")
        os.mkfifo(fifo)
        assert isinstance(await first.ask(m.Twalk(0, 1, (b"in-one",))), m.Rwalk)
        assert isinstance(await first.ask(m.Tlopen(1, os.O_RDWR)), m.Rlopen)
        await first.send((77, m.Tfsync(1, 0)))
        await wait_in_trio_until((setting.directory / "one" / "begun").exists)
        first.close()
        await wait_in_trio_until_async(server, "one", 0)
        second = server.connect()
        await second.ask(VERSION[1], m.NOTAG)
        assert await second.ask(attach("one")) == m.Rlerror(errno.EBUSY)
        second.close()
        await trio.to_thread.run_sync(lambda: os.close(os.open(fifo, os.O_WRONLY)))
        assert "in-one" in await names(await server.attached_at_last("one"))

    setting.serving(test)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can end a connection without a word")
def test_a_machine_that_started_anew_gets_its_exclusive_export_again(setting: Setting) -> None:
    setting.exports = (LiveExport("one", str(setting.directory / "one"), sharing="exclusive"),)
    setting.address = "tcp://127.0.0.1:0"

    async def test(server: Running) -> None:
        first = await server.attached("one")
        first.socket.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        first.close()  # sends nothing, as a machine that loses its power
        assert "in-one" in await names(await server.attached_at_last("one"))

    setting.serving(test)


def test_what_is_named_wrongly_or_not_allowed_is_not_there(setting: Setting) -> None:
    setting.allow = AllowList((parse_rule("unix two,w*"),))

    async def test(server: Running) -> None:
        caller = await server.attached("/")
        assert await names(caller) == {"two", "web"}
        for name in ("one", "one:/", "two@latest", "three", "on", "two:", "two/"):
            other = server.connect()
            await other.ask(VERSION[1], m.NOTAG)
            reply = await other.ask(attach(name))
            if name == "two:":  # no path follows
                assert isinstance(reply, m.Rattach)
            else:
                assert reply == m.Rlerror(errno.ENOENT), name
        assert await caller.ask(m.Twalk(0, 5, (b"one",))) == m.Rlerror(errno.ENOENT)
        assert await caller.ask(m.Twalk(0, 5, (b"two",))) == m.Rlerror(errno.EXDEV)

    setting.serving(test)


def test_from_the_root_live_exports_are_seen_and_not_entered(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(server: Running) -> None:
        caller = await server.attached("/")
        assert await names(caller) == {"one", "two", "web"}
        for _ in range(3):
            assert await caller.ask(m.Twalk(0, 5, (b"one",))) == m.Rlerror(errno.EXDEV)
            assert await caller.ask(m.Twalk(0, 5, (b"one", b"in-one"))) == m.Rlerror(errno.EXDEV)
        assert await caller.ask(attach("two", 5)) == m.Rlerror(errno.EXDEV)
        assert isinstance(await caller.ask(m.Twalk(0, 5, (b"web", b"latest"))), m.Rwalk)
        assert all(each.pid is None for each, _ in await server.live.ask())

    setting.serving(test)
    said = [each for each in caplog.messages if "live export 'one'" in each]
    assert len(said) == 1
    assert "aname=one" in said[0]


def test_from_an_export_nothing_else_is_reached(setting: Setting) -> None:
    async def test(server: Running) -> None:
        caller = await server.attached("one")
        for name in ("two", "web@latest", ""):
            assert await caller.ask(attach(name, 5)) == m.Rlerror(errno.EXDEV)
        assert isinstance(await caller.ask(attach("one", 5)), m.Rattach)

    setting.serving(test)


@pytest.mark.parametrize("squash", ["none", "root", "all"])
def test_the_process_is_prepared_and_squashes_as_it_was_told(
    setting: Setting, squash: Squashing
) -> None:
    setting.exports = (LiveExport("one", str(setting.directory / "one"), squash=squash),)

    async def test(server: Running) -> None:
        found = await names(await server.attached("one"))
        assert {f"squash-{squash}", "umask-0"} <= found
        limits = Path(f"/proc/{await server.process_of('one')}/limits").read_text()
        [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
        soft, hard = line.split()[3:5]
        assert soft == hard

    setting.serving(test)


async def attached_over_tcp(server: Running, name: str) -> tuple[Caller, m.Message]:
    """A connection of a peer that no list names, and the reply to its attach.

    A pair of sockets takes the place of TCP.
    """
    ours, theirs = socket.socketpair()
    caller = Caller(ours)
    server.callers.append(caller)
    peer = Peer("tcp", ip="192.0.2.1", port=1)
    handover = Handover(name, Agreed("9P2000.L", 8192), frames((1, attach(name))))
    exports = AllowList().exports(peer)
    server.live.take(Departure(socket_channel(theirs), peer, exports, lambda: None, handover))
    return caller, (await caller.reply())[1]


def test_whom_no_list_names_is_nobody_there(setting: Setting) -> None:
    """Over TCP, of which a pair of sockets takes the place here."""

    async def test(server: Running) -> None:
        ours, theirs = socket.socketpair()
        caller = Caller(ours)
        peer = Peer("tcp", ip="192.0.2.1", port=1)
        over = trio.Event()
        handover = Handover("one", Agreed("9P2000.L", 8192), frames((1, attach("one"))))
        exports = AllowList().exports(peer)
        server.live.take(Departure(socket_channel(theirs), peer, exports, over.set, handover))
        assert isinstance((await caller.reply())[1], m.Rattach)
        assert "squash-all" in await names(caller)
        assert not over.is_set()
        caller.close()
        await over.wait()

    setting.serving(test)


@pytest.mark.parametrize("sharing", ["shared", "exclusive"])
def test_who_is_nobody_never_acts_as_the_servers_own_user(
    setting: Setting, sharing: Sharing
) -> None:
    """A process that is not root's cannot act as nobody; nor do such peers keep others out."""
    setting.main = own_user_main
    setting.exports = (LiveExport("one", str(setting.directory / "one"), sharing=sharing),)

    async def test(server: Running) -> None:
        caller, reply = await attached_over_tcp(server, "one")
        assert reply == m.Rlerror(errno.EACCES)
        assert await caller.ask(attach("one")) == m.Rlerror(errno.EACCES)
        assert "in-one" in await names(await server.attached("one"))

    setting.serving(test)


def test_a_connection_is_over_once_wherever_it_went(setting: Setting) -> None:
    async def test(server: Running) -> None:
        ends: list[int] = []
        peer = Peer("unix", pid=1, uid=0, gid=0)
        for name, data in (("one", frames((1, attach("one")))), ("three", b"")):
            ours, theirs = socket.socketpair()
            handover = Handover(name, Agreed("9P2000.L", 8192), data)
            over = partial(ends.append, len(ends))
            server.live.take(
                Departure(socket_channel(theirs), peer, Exports(("*",)), over, handover)
            )
            if name == "one":
                await Caller(ours).reply()
                kill_stranger(await server.process_of("one"))
            assert await Caller(ours).hung_up()
            ours.close()
        await wait_in_trio_until(lambda: len(ends) == 2)

    setting.serving(test)


def test_two_pipes_move_as_a_socket_does(setting: Setting) -> None:
    """Standard input and output may be two."""

    async def test(server: Running) -> None:
        (reads, to_server), (from_server, writes) = os.pipe(), os.pipe()
        channel = DescriptorChannel(reads, writes, half_closes=True)
        over = trio.Event()
        handover = Handover("one", Agreed("9P2000.L", 8192), frames((1, attach("one"))))
        server.live.take(Departure(channel, STDIO, Exports(("*",)), over.set, handover))
        with open(from_server, "rb") as replies:
            assert CODEC.decode(await trio.to_thread.run_sync(_frame, replies))[0] == 1
            os.write(to_server, frames((2, m.Tgetattr(0, 0x7FF))))
            os.close(to_server)  # what was asked is still answered
            assert CODEC.decode(await trio.to_thread.run_sync(_frame, replies))[0] == 2
            assert await trio.to_thread.run_sync(replies.read) == b""
        await over.wait()

    setting.serving(test)


def _frame(replies: Any) -> bytes:
    head: bytes = replies.read(4)
    return head + bytes(replies.read(int.from_bytes(head, "little") - 4))


def test_stopping_ends_the_process_in_order(
    setting: Setting, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def test(server: Running) -> None:
        caller = await server.attached("one")
        await server.stop()
        assert await caller.hung_up()

    setting.serving(test)
    assert "export_died" not in caplog.messages
    said = capfd.readouterr().err
    assert said.count("event=closed") == 1, said
    [closed] = [line for line in said.splitlines() if "event=closed" in line]
    assert "reason=stopped" in closed
    assert closed.endswith("live=one")
