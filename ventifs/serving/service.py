"""A whole server: listeners, sessions, control socket and metrics, until a signal ends it.

Owns the order of start and stop. At a signal the server accepts no more connections, lets requests
in flight be answered within `GRACE_S`, and closes everything; a second signal ends it at once.
"""

import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import msgspec
import trio

from ventifs.net.admission import Admission
from ventifs.net.allow_list import AllowList, Exports
from ventifs.net.channel import Channel
from ventifs.net.peer import STDIO, Peer
from ventifs.serving.acceptor import Acceptor
from ventifs.serving.activity import Activity
from ventifs.serving.connections import GRACE_S
from ventifs.serving.control import serve_control
from ventifs.serving.log import event
from ventifs.serving.metrics import serve_metrics
from ventifs.serving.settings import Backend, LocalSessions
from ventifs.text import printable

_SIGNALS = signal.SIGTERM, signal.SIGINT


class ServicePlan(msgspec.Struct, frozen=True):
    """Where a server is reached, and by which peers.

    Attributes:
        store: the directory of the store, for display.
        addresses: where it listens, for display.
        listeners: listening sockets for clients.
        allow: which exports each peer may reach.
        control: the listening control socket.
        metrics: listening sockets for scrapes.
        grace_s: seconds for requests in flight when the server stops.
    """

    store: str
    addresses: Sequence[str]
    listeners: Sequence[socket.socket]
    allow: AllowList
    control: socket.socket | None = None
    metrics: Sequence[socket.socket] = ()
    grace_s: float = GRACE_S


async def serve(plan: ServicePlan, backend: Backend, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called when connections are accepted.

    Raises:
        VentifsError: the backend cannot start.
    """
    started = time.time()
    admission = Admission()

    async def take(connection: socket.socket, peer: Peer, exports: Exports) -> None:
        await backend.take(connection, peer, exports, partial(admission.leave, peer))

    acceptor = Acceptor(plan.allow, admission, take)

    async def ask() -> Activity:
        process = await backend.ask()
        return Activity(
            pid=os.getpid(),
            started=started,
            store=printable(plan.store),
            addresses=[printable(address) for address in plan.addresses],
            workers=backend.workers,
            restarts=backend.restarts,
            refused=acceptor.refused + process.refused,
            process=process,
        )

    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(backend.run)
            accepting = trio.CancelScope()
            nursery.start_soon(_accept, acceptor, plan.listeners, accepting)
            if plan.control is not None:
                nursery.start_soon(serve_control, plan.control, ask)
            if plan.metrics:
                nursery.start_soon(serve_metrics, plan.metrics, ask)
            ready()
            number = await anext(signals)
            event("stopping", signal=signal.Signals(number).name)
            nursery.start_soon(_end_at_once, signals, nursery.cancel_scope)
            accepting.cancel()
            await backend.drain(plan.grace_s)
            nursery.cancel_scope.cancel()
    event("stopped", seconds=time.time() - started)


async def serve_channel(channel: Channel, local: LocalSessions, allow: AllowList) -> None:
    """Serve one session, with the peer `STDIO`, until it is over or a signal comes."""
    over = trio.Event()
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(local.run)
            local.start(channel, STDIO, allow.exports(STDIO), over.set)
            nursery.start_soon(_drain_at_signal, signals, local, nursery.cancel_scope)
            await over.wait()
            nursery.cancel_scope.cancel()


async def _accept(
    acceptor: Acceptor, listeners: Sequence[socket.socket], scope: trio.CancelScope
) -> None:
    try:
        with scope:
            await acceptor.run(listeners)
    finally:  # not before: waiting for a socket that is closed raises an error
        for listener in listeners:
            listener.close()


async def _end_at_once(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    number = await anext(signals)
    event("stopping", signal=signal.Signals(number).name, at_once=True)
    scope.cancel()


async def _drain_at_signal(
    signals: AsyncIterator[int], local: LocalSessions, scope: trio.CancelScope
) -> None:
    await anext(signals)
    with trio.CancelScope() as draining:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_at_once, signals, scope)
            await local.drain(GRACE_S)
            draining.cancel()
    scope.cancel()
