"""A server, whole: how it begins and ends, whenever it is told to."""

import os
import signal
import socket
from collections.abc import Callable

import trio

from tests.support.patience import PATIENCE_S
from ventifs.net.allow_list import AllowList, Exports
from ventifs.net.peer import Peer
from ventifs.serving.activity import Process
from ventifs.serving.handover import PassOn
from ventifs.serving.service import ServicePlan, serve


class SlowToBegin:
    """A backend that is told to end while it begins, as workers may be."""

    def __init__(self) -> None:
        self.workers = self.restarts = 0
        self.pass_on: PassOn | None = None
        self.drained = False

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await trio.lowlevel.checkpoint()
        task_status.started()
        await trio.sleep_forever()

    async def take(
        self, connection: socket.socket, peer: Peer, exports: Exports, over: Callable[[], None]
    ) -> None:
        raise AssertionError("nobody has connected")

    async def ask(self) -> Process:
        raise AssertionError("nobody has asked")

    async def drain(self, grace_s: float) -> None:
        await trio.lowlevel.checkpoint()
        self.drained = True


def test_a_signal_while_it_begins_ends_it() -> None:
    backend = SlowToBegin()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    plan = ServicePlan(store="", addresses=(), listeners=[listener], allow=AllowList())

    async def main() -> None:
        with trio.fail_after(PATIENCE_S):
            await serve(plan, backend, lambda: None)

    trio.run(main)
    assert backend.drained
    assert listener.fileno() == -1
