"""Serving a store over 9P, from a thread of this process."""

import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from threading import Event, Thread
from types import TracebackType
from typing import Self

import trio

from ventifs.net.address import parse_address
from ventifs.net.allow_list import AllowList
from ventifs.net.listen import forsake, listen, local_address
from ventifs.ninep.session.front_end import NinepFrontEnd
from ventifs.serving.service import ServicePlan, first_of
from ventifs.serving.service import serve as serve_plan
from ventifs.serving.settings import LocalSessions, Settings

log = logging.getLogger(__name__)


class Serving:
    """A server that runs, until it is closed; a context manager.

    Attributes:
        addresses: where it listens; `*` stands for all addresses of this machine.

    Concurrency: of the thread that made it. It opens the store for itself.
    """

    def __init__(self, settings: Settings, texts: Sequence[str], allow: AllowList) -> None:
        """Listen at addresses, and serve a store to whom the list allows it.

        Raises:
            VentifsError: an address makes no sense, or cannot be listened at.
        """
        self._stack = ExitStack()
        self._sender, self._orders = trio.open_memory_channel[str](1)
        self._failure: BaseException | None = None
        self._ready = Event()
        self._token: trio.lowlevel.TrioToken | None = None
        with self._stack:
            listeners: list[socket.socket] = []
            for address in map(parse_address, texts):
                opened = listen(address)
                self._stack.callback(forsake, address)
                listeners += [self._stack.enter_context(each) for each in opened]
            self.addresses = list(dict.fromkeys(str(local_address(each)) for each in listeners))
            plan = ServicePlan(settings.store, self.addresses, listeners, allow)
            sessions = self._stack.enter_context(LocalSessions(settings, NinepFrontEnd()))
            self._thread = Thread(target=self._run, args=(plan, sessions), daemon=True)
            self._thread.start()
            self._stack.callback(self._stop)
            self._ready.wait()
            if self._failure is not None:
                raise self._failure
            self._stack = self._stack.pop_all()

    def close(self) -> None:
        """Answer what was asked, within 10 seconds, and end. Idempotent.

        Raises:
            Exception: what ended the server before; it is logged when it happens.
        """
        self._stack.close()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        """The server itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _run(self, plan: ServicePlan, sessions: LocalSessions) -> None:
        async def main() -> None:
            self._token = trio.lowlevel.current_trio_token()
            await serve_plan(plan, sessions, self._ready.set, self._stops)

        try:
            trio.run(main)
        except BaseException as error:
            self._failure = first_of(error)
            if self._ready.is_set():  # else `__init__` raises it
                log.error("a server ended", exc_info=self._failure)
        finally:
            self._ready.set()

    @contextmanager
    def _stops(self) -> Iterator[Callable[[], Awaitable[str]]]:
        yield self._orders.receive

    def _stop(self) -> None:
        self._ready.wait()
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._order)
        self._thread.join()

    def _order(self) -> None:
        with suppress(trio.WouldBlock):  # it was ordered before
            self._sender.send_nowait("close")
