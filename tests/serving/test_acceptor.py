"""Who comes in, over real sockets."""

import logging
import socket
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.sessions import PATIENCE_S, until
from ventifs.net.address import TcpAddress, UnixAddress
from ventifs.net.admission import Admission
from ventifs.net.allow_list import AllowList, Exports, parse_rule
from ventifs.net.listen import listen
from ventifs.net.peer import Peer
from ventifs.serving.acceptor import Acceptor


class Taken:
    """What was handed on."""

    def __init__(self) -> None:
        self.connections: list[tuple[socket.socket, Peer, Exports]] = []

    async def __call__(self, connection: socket.socket, peer: Peer, exports: Exports) -> None:
        self.connections.append((connection, peer, exports))


def run(
    listeners: list[socket.socket],
    test: Callable[[Acceptor, Taken, Admission], Awaitable[None]],
    *rules: str,
    admission: Admission | None = None,
) -> None:
    """Run a test beside an acceptor."""

    async def main() -> None:
        taken, counts = Taken(), admission or Admission()
        acceptor = Acceptor(AllowList(tuple(map(parse_rule, rules))), counts, taken)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(acceptor.run, listeners)
            await test(acceptor, taken, counts)
            nursery.cancel_scope.cancel()
        for connection, _, _ in taken.connections:
            connection.close()

    try:
        trio.run(main)
    finally:
        for listener in listeners:
            listener.close()


def _connect(listener: socket.socket) -> socket.socket:
    client = socket.socket(listener.family)
    client.settimeout(PATIENCE_S)
    client.connect(listener.getsockname())
    return client


async def _is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    wrapped = trio.socket.from_stdlib_socket(client)
    with trio.fail_after(PATIENCE_S):
        try:
            return await wrapped.recv(1) == b""
        except ConnectionResetError:
            return True


def test_who_is_allowed_comes_in_with_what_is_his(tmp_path: Path) -> None:
    listeners = [*listen(TcpAddress("127.0.0.1", 0)), *listen(UnixAddress(f"{tmp_path}/s"))]

    async def test(acceptor: Acceptor, taken: Taken, admission: Admission) -> None:
        with _connect(listeners[0]), _connect(listeners[1]):
            await until(lambda: len(taken.connections) == 2)
        given = {peer.kind: exports.patterns for _, peer, exports in taken.connections}
        assert given == {"tcp": ("web*", "db"), "unix": ("all",)}
        assert admission.connections == 2
        assert acceptor.refused == 0

    run(listeners, test, "127.0.0.0/8 web*", "tcp db", "unix all")


def test_who_is_given_nothing_is_not_let_in(caplog: pytest.LogCaptureFixture) -> None:
    listeners = listen(TcpAddress("127.0.0.1", 0))

    async def test(acceptor: Acceptor, taken: Taken, admission: Admission) -> None:
        with _connect(listeners[0]) as client:
            client.send(b"anything")
            assert await _is_closed(client)
        assert taken.connections == []
        assert (acceptor.refused, admission.connections) == (1, 0)

    caplog.set_level(logging.INFO)
    run(listeners, test, "192.0.2.0/24 *")
    [record] = caplog.records
    assert record.getMessage() == "refused"
    assert record.fields["reason"] == "the allow list gives it nothing"  # type: ignore[attr-defined]


def test_one_peer_has_only_so_many(caplog: pytest.LogCaptureFixture) -> None:
    listeners = listen(TcpAddress("127.0.0.1", 0))

    async def test(acceptor: Acceptor, taken: Taken, admission: Admission) -> None:
        with _connect(listeners[0]), _connect(listeners[0]):
            await until(lambda: len(taken.connections) == 2)
            with _connect(listeners[0]) as third:
                assert await _is_closed(third)
            admission.leave(taken.connections[0][1])
            with _connect(listeners[0]):
                await until(lambda: len(taken.connections) == 3)
        assert acceptor.refused == 1

    run(listeners, test, "* *", admission=Admission(10, 2))
    [record] = caplog.records
    assert "the most that one peer may have" in record.fields["reason"]  # type: ignore[attr-defined]


def test_without_descriptors_it_waits_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    [listener] = listen(TcpAddress("127.0.0.1", 0))
    failures = iter([OSError(24, "Too many open files"), OSError(104, "reset")])

    class Exhausted(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            for failure in failures:
                raise failure
            return super().accept()

    stands_in = Exhausted(fileno=listener.detach())

    async def test(acceptor: Acceptor, taken: Taken, admission: Admission) -> None:
        with _connect(stands_in):
            await until(lambda: len(taken.connections) == 1)

    monkeypatch.setattr("ventifs.serving.acceptor._EXHAUSTED_S", 0)
    run([stands_in], test, "* *")


def test_a_flood_of_connections_leaves_others_their_turn() -> None:
    listeners = listen(TcpAddress("127.0.0.1", 0))

    async def test(acceptor: Acceptor, taken: Taken, admission: Admission) -> None:
        await wait_all_tasks_blocked()
        clients = [_connect(listeners[0]) for _ in range(100)]
        passes, counts = 0, []
        while len(taken.connections) < 100:
            await trio.lowlevel.checkpoint()
            passes += 1
            counts.append(len(taken.connections))
        steps = [after - before for before, after in pairwise(counts)]
        assert max(steps) <= 2 * 16  # the order of tasks in a pass is random
        for client in clients:
            client.close()

    run(listeners, test, "* *")
