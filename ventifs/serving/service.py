"""A whole server: listeners, sessions, control socket and metrics, until a signal ends it.

Owns the order of start and stop. At a signal the server accepts no more connections, lets requests
in flight be answered within `GRACE_S`, and closes everything; a second signal ends it at once.
"""

import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import msgspec
import trio

from ventifs.net.admission import Admission
from ventifs.net.allow_list import AllowList, Exports
from ventifs.net.channel import Channel
from ventifs.net.peer import STDIO, Peer
from ventifs.serving.acceptor import Acceptor
from ventifs.serving.activity import Activity, together
from ventifs.serving.connections import GRACE_S
from ventifs.serving.control import serve_control
from ventifs.serving.live_exports import LiveExports
from ventifs.serving.log import event
from ventifs.serving.metrics import serve_metrics
from ventifs.serving.settings import Backend, LocalSessions
from ventifs.text import printable

_SIGNALS = signal.SIGTERM, signal.SIGINT

NextOrder = Callable[[], Awaitable[str]]
"""Waits for the next order to stop; returns its name, for the log."""


@contextmanager
def signals() -> Iterator[NextOrder]:
    """SIGTERM and SIGINT as orders to stop; for the main thread."""
    with trio.open_signal_receiver(*_SIGNALS) as numbers:

        async def next_order() -> str:
            return signal.Signals(await anext(numbers)).name

        yield next_order


class ServicePlan(msgspec.Struct, frozen=True):
    """Where a server is reached, and by which peers.

    Attributes:
        store: the directory of the store, for display; empty without one.
        addresses: where it listens, for display.
        listeners: listening sockets for clients.
        allow: which exports each peer may reach.
        control: the listening control socket.
        metrics: listening sockets for scrapes.
        live: the live exports, beside the versions.
        grace_s: seconds for requests in flight when the server stops.
    """

    store: str
    addresses: Sequence[str]
    listeners: Sequence[socket.socket]
    allow: AllowList
    control: socket.socket | None = None
    metrics: Sequence[socket.socket] = ()
    live: LiveExports | None = None
    grace_s: float = GRACE_S


async def serve(
    plan: ServicePlan,
    backend: Backend,
    ready: Callable[[], None],
    orders: Callable[[], AbstractContextManager[NextOrder]] = signals,
) -> None:
    """Serve until it is ordered to stop; a second order ends it at once.

    Args:
        plan: where, and for whom.
        backend: has the sessions.
        ready: called when connections are accepted.
        orders: where orders to stop come from.

    Raises:
        VentifsError: the backend cannot start.
    """
    started = time.time()
    admission = Admission()
    live = plan.live
    if live is not None:
        backend.pass_on = live.take

    async def take(connection: socket.socket, peer: Peer, exports: Exports) -> None:
        await backend.take(connection, peer, exports, partial(admission.leave, peer))

    acceptor = Acceptor(plan.allow, admission, take)

    async def ask() -> Activity:
        asked = [] if live is None else await live.ask()
        process = together([await backend.ask(), *(process for _, process in asked)])
        return Activity(
            pid=os.getpid(),
            started=started,
            store=printable(plan.store),
            addresses=[printable(address) for address in plan.addresses],
            workers=backend.workers,
            restarts=backend.restarts,
            refused=acceptor.refused + process.refused,
            process=process,
            live=[each for each, _ in asked],
        )

    with orders() as next_order:
        async with trio.open_nursery() as nursery:
            if live is not None:
                await nursery.start(live.run)
            await nursery.start(backend.run)
            accepting = trio.CancelScope()
            nursery.start_soon(_accept, acceptor, plan.listeners, accepting)
            if plan.control is not None:
                nursery.start_soon(serve_control, plan.control, ask)
            if plan.metrics:
                nursery.start_soon(serve_metrics, plan.metrics, ask)
            ready()
            event("stopping", signal=await next_order())
            nursery.start_soon(_end_at_once, next_order, nursery.cancel_scope)
            accepting.cancel()
            await _drain(backend, live, plan.grace_s)
            nursery.cancel_scope.cancel()
    event("stopped", seconds=time.time() - started)


async def serve_channel(
    channel: Channel, local: LocalSessions, allow: AllowList, live: LiveExports | None = None
) -> None:
    """Serve one session, with the peer `STDIO`, until it is over or a signal comes."""
    over = trio.Event()
    with signals() as next_order:
        async with trio.open_nursery() as nursery:
            if live is not None:
                await nursery.start(live.run)
            await nursery.start(local.run)
            pass_on = None if live is None else live.take
            local.start(channel, STDIO, allow.exports(STDIO), over.set, pass_on)
            nursery.start_soon(_drain_at_order, next_order, local, live, nursery.cancel_scope)
            await over.wait()
            nursery.cancel_scope.cancel()


async def _drain(backend: Backend, live: LiveExports | None, grace_s: float) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.drain, grace_s)
        if live is not None:
            nursery.start_soon(live.drain, grace_s)


def first_of(error: BaseException) -> BaseException:
    """The first exception of the groups that nurseries raise, or the exception itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _accept(
    acceptor: Acceptor, listeners: Sequence[socket.socket], scope: trio.CancelScope
) -> None:
    try:
        with scope:
            await acceptor.run(listeners)
    finally:  # not before: waiting for a socket that is closed raises an error
        for listener in listeners:
            listener.close()


async def _end_at_once(next_order: NextOrder, scope: trio.CancelScope) -> None:
    event("stopping", signal=await next_order(), at_once=True)
    scope.cancel()


async def _drain_at_order(
    next_order: NextOrder,
    local: LocalSessions,
    live: LiveExports | None,
    scope: trio.CancelScope,
) -> None:
    await next_order()
    with trio.CancelScope() as draining:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_at_once, next_order, scope)
            await _drain(local, live, GRACE_S)
            draining.cancel()
    scope.cancel()
