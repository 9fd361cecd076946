"""Serving an open archive over 9P, from a thread of this process."""

import socket
import sys
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
from ventifs.store import Store


class Serving:
    """A server that runs, until it is closed; a context manager.

    Attributes:
        addresses: where it listens, as `ventifs mount` and clients take them.

    Concurrency: of the thread that made it. Its own thread reads the store meanwhile.
    """

    def __init__(
        self, store: Store, settings: Settings, texts: Sequence[str], allow: AllowList
    ) -> None:
        """Listen at addresses, and serve an open store to whom the list allows it.

        Raises:
            VentifsError: an address makes no sense, or cannot be listened at.
        """
        self._stack = ExitStack()
        self._sender, self._orders = trio.open_memory_channel[str](1)
        self._failure: BaseException | None = None
        self._ready = Event()
        self._token: trio.lowlevel.TrioToken | None = None
        switch_s = sys.getswitchinterval()
        self._stack.callback(sys.setswitchinterval, switch_s)  # sessions set their own
        with self._stack:
            listeners: list[socket.socket] = []
            for address in map(parse_address, texts):
                opened = listen(address)
                self._stack.callback(forsake, address)
                listeners += [self._stack.enter_context(each) for each in opened]
            self.addresses = list(dict.fromkeys(str(local_address(each)) for each in listeners))
            plan = ServicePlan(settings.store, self.addresses, listeners, allow)
            sessions = LocalSessions(settings, NinepFrontEnd(), store)
            self._thread = Thread(target=self._run, args=(plan, sessions), daemon=True)
            self._thread.start()
            self._ready.wait()
            if self._failure is not None:
                raise self._failure
            self._stack = self._stack.pop_all()

    def close(self) -> None:
        """Answer what was asked, within 10 seconds, and end. Idempotent."""
        if self._thread.is_alive() and self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._order)
        self._thread.join()
        self._stack.close()

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
        except BaseException as error:  # of `__init__`, if it was not ready yet
            self._failure = first_of(error)
        finally:
            self._ready.set()

    @contextmanager
    def _stops(self) -> Iterator[Callable[[], Awaitable[str]]]:
        yield self._orders.receive

    def _order(self) -> None:
        self._sender.send_nowait("close")
