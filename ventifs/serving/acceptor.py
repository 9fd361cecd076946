"""Accepts connections, checks the allow list and the limits, and hands on those that may pass.

Always: a connection that the allow list gives no export, or that exceeds a limit, is closed before
a byte of it is read, and logged with the reason. Knows no protocol, and not what serves the
connections.
"""

import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable

import trio
from trio.lowlevel import wait_readable

from ventifs.net.admission import Admission, TooMany
from ventifs.net.allow_list import AllowList, Exports
from ventifs.net.peer import Peer, peer_of
from ventifs.serving.log import event

_ACCEPTED_AT_ONCE = 16  # connections, before sessions have a turn
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_EXHAUSTED_S = 0.25

Take = Callable[[socket.socket, Peer, Exports], Awaitable[None]]


class Acceptor:
    """The listeners of a server.

    Attributes:
        refused: connections refused so far.
    """

    def __init__(self, allow: AllowList, admission: Admission, take: Take) -> None:
        """Hand each connection that may pass to `take`, which then owns it.

        The new owner calls `admission.leave` when the connection is over.
        """
        self.refused = 0
        self._allow = allow
        self._admission = admission
        self._take = take

    async def run(self, listeners: Iterable[socket.socket]) -> None:
        """Accept until cancelled; the listeners stay open."""
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(self._accept_all, listener)

    async def _accept_all(self, listener: socket.socket) -> None:
        while True:
            await wait_readable(listener)
            for _ in range(_ACCEPTED_AT_ONCE):
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in _EXHAUSTED:  # others go on; new ones stay in the backlog
                        event("exhausted", level=logging.ERROR, reason=error.strerror)
                        await trio.sleep(_EXHAUSTED_S)
                    break  # any other: the connection is already gone
                await self._pass(connection)

    async def _pass(self, connection: socket.socket) -> None:
        try:
            peer = peer_of(connection)
        except OSError:  # it is already gone
            connection.close()
            return
        exports = self._allow.exports(peer)
        reason = None if exports else "the allow list gives it nothing"
        if reason is None:
            try:
                self._admission.admit(peer)
            except TooMany as error:
                reason = str(error).removeprefix(f"{peer}: ")
        if reason is not None:
            self.refused += 1
            event("refused", level=logging.WARNING, peer=peer, reason=reason)
            connection.close()
            return
        await self._take(connection, peer, exports)
