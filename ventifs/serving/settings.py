"""The settings of a server, and the sessions of this process over an open store.

Owns how a store, its file system and the sessions are put together, in a server that is one process
and in each worker. `Backend` is what the rest of a server sees of local sessions and of workers,
`ProcessSessions` what a process has that serves alone. `live_sessions.py` has those of an export.
"""

import logging
import os
import socket
import sys
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from types import TracebackType
from typing import Literal, Protocol, Self

import msgspec
import trio

from ventifs.net.allow_list import Exports
from ventifs.net.channel import Channel, socket_channel
from ventifs.net.peer import Peer
from ventifs.serving.activity import Process
from ventifs.serving.connections import Server
from ventifs.serving.handover import PassOn
from ventifs.serving.log import LineFormatter, event
from ventifs.serving.session import FrontEnd, Handover
from ventifs.store import Store
from ventifs.tree.versions.catalog import version_records
from ventifs.vfs.access.groups import AccountBook
from ventifs.vfs.access.guard import GuardedFilesystem, Squash
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.no_versions import NoVersions
from ventifs.vfs.archived.served_versions import Split
from ventifs.vfs.archived.upper_directories import View
from ventifs.vfs.interface import Filesystem
from ventifs.vfs.live.export import LiveExport
from ventifs.vfs.memory_budget import Budget

CACHE_BYTES_DEFAULT = 256 << 20
# A thread that loads gives the interpreter's lock to the loop that answers after this time. With
# Python's 5 ms a session whose files are in memory is slower beside a cold reader: see
# docs/performance.md.
SWITCH_S = 0.0002
GARBAGE_THRESHOLD = 200_000  # objects; a server makes no cycles, and looking for them takes time
TEND_S = 30.0  # from one look for versions that were forgotten to the next
_VIEWS_MAX = 256  # kept for later peers with the same exports; each guest may have its own

Access = Literal["trust", "mode"]
Squashed = Literal["none", "root", "all"]


class Settings(msgspec.Struct, frozen=True):
    """What is served, and how.

    Attributes:
        store: the directory of the store; empty if only live exports are served.
        cache_bytes: bytes of memory for decoded data.
        client_bytes: bytes of memory for what clients hold: fids, open files, messages. 0 is an
            eighth of what the machine has.
        access: what checks permissions: the client's kernel, or the server against n_uname.
        squash: which users count as nobody, when the server checks.
        scores: whether trees can be reached by their scores.
        message_bytes: bytes of the largest message; 0 is the front end's own limit.
        log_json: whether log lines are JSON.
        trace: whether every message is written to standard output.
        live: directories that processes of their own serve.
    """

    store: str
    cache_bytes: int = CACHE_BYTES_DEFAULT
    client_bytes: int = 0
    access: Access = "trust"
    squash: Squashed = "none"
    scores: bool = False
    message_bytes: int = 0
    log_json: bool = False
    trace: bool = False
    live: tuple[LiveExport, ...] = ()


class Backend(Protocol):
    """What has the sessions of a server: this process, or workers.

    Attributes:
        workers: processes that have sessions; 0 when this one has them.
        restarts: how many times a worker was started again so far.
        pass_on: takes connections that attach to live exports; without it they end. To be set
            before `run`.
    """

    workers: int
    restarts: int
    pass_on: PassOn | None

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled; reports started when it can take connections."""

    async def take(
        self, connection: socket.socket, peer: Peer, exports: Exports, over: Callable[[], None]
    ) -> None:
        """Serve a connection, which the backend now owns; `over` is called at its end."""

    async def ask(self) -> Process:
        """The figures of all its sessions."""

    async def drain(self, grace_s: float) -> None:
        """Let sessions answer what is in flight, for at most `grace_s` seconds."""


class ProcessSessions(Protocol):
    """All sessions of a process that serves alone; a context manager that closes what is open."""

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """See `Backend`."""

    def start(
        self,
        channel: Channel,
        peer: Peer,
        exports: Exports,
        over: Callable[[], None],
        pass_on: PassOn | None = None,
        begun: Handover | None = None,
    ) -> None:
        """Serve a channel; see `Server.start`."""

    async def ask(self) -> Process:
        """See `Backend`."""

    async def drain(self, grace_s: float) -> None:
        """See `Backend`."""

    def __enter__(self) -> object:
        """Return itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close what is open."""


class Switches:
    """Makes the interpreter's switch interval `SWITCH_S` while any server of the process runs."""

    def __init__(self) -> None:
        """Start with none."""
        self._servers = 0
        self._before_s = 0.0
        self._lock = Lock()

    def __enter__(self) -> None:
        with self._lock:
            if not self._servers:
                self._before_s = sys.getswitchinterval()
                sys.setswitchinterval(SWITCH_S)
            self._servers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._servers -= 1
            if not self._servers:
                sys.setswitchinterval(self._before_s)


SWITCHES = Switches()


class LocalSessions:
    """The sessions of this process over an open store; a `Backend`, and a context manager."""

    def __init__(self, settings: Settings, front_end: FrontEnd) -> None:
        """Open the store, if there is one, and serve it by a front end.

        Raises:
            VentifsError: there is no store, or it cannot be read.
        """
        self.workers = self.restarts = 0
        self.pass_on: PassOn | None = None
        self._settings = settings
        self._store: Store | None = None
        self._archive: ArchiveFilesystem | None = None
        self._views: OrderedDict[Exports, Filesystem] = OrderedDict()
        self._accounts = AccountBook()  # for all views: a tree's users are the same for all peers
        self._live = [export.name for export in settings.live]
        if settings.store:
            split = Split.of(settings.cache_bytes)
            self._store = Store.open(settings.store, cache_bytes=split.clumps)
            self._archive = ArchiveFilesystem(self._store, split, scores=settings.scores)
            if not version_records(self._store):
                note = "no versions yet; ventifs archive makes them"
                event("empty", store=settings.store, note=note)
        self.server = Server(
            front_end,
            self._filesystem_for,
            budget=Budget(settings.client_bytes or client_bytes_default()),
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Backend`."""
        with SWITCHES:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tend)
                try:
                    await self.server.run(task_status)
                finally:
                    nursery.cancel_scope.cancel()

    async def _tend(self) -> None:
        """Give up leases on versions that were forgotten, and that no client uses any more."""
        while True:
            await trio.sleep(TEND_S)
            self.server.tidy()
            if self._archive is not None:
                self._archive.tend()
                self.server.loader.ahead(self._archive.looks())

    async def take(
        self, connection: socket.socket, peer: Peer, exports: Exports, over: Callable[[], None]
    ) -> None:
        """See `Backend`."""
        self.start(socket_channel(connection), peer, exports, over, self.pass_on)

    def start(
        self,
        channel: Channel,
        peer: Peer,
        exports: Exports,
        over: Callable[[], None],
        pass_on: PassOn | None = None,
        begun: Handover | None = None,
    ) -> None:
        """Serve a channel; see `Server.start`."""
        self.server.start(channel, peer, exports, over, pass_on, begun)

    async def ask(self) -> Process:
        """See `Backend`."""
        server = self.server
        process = server.figures()
        if self._store is not None and self._archive is not None:
            process.cache_bytes = self._store.cached_bytes + self._archive.node_bytes
            process.cache_bytes_max = self._settings.cache_bytes
        return process

    async def drain(self, grace_s: float) -> None:
        """See `Backend`."""
        await self.server.drain(grace_s)

    def _filesystem_for(self, peer: Peer, exports: Exports) -> Filesystem:
        made = self._views.pop(exports, None) or self._made(exports)
        self._views[exports] = made
        if len(self._views) > _VIEWS_MAX:
            self._views.popitem(last=False)
        return made

    def _made(self, exports: Exports) -> Filesystem:
        if self._archive is None:
            view = View(NoVersions(), exports, self._live)
        else:
            view = self._archive.view(exports, self._live)
        if exports.as_nobody:
            return GuardedFilesystem(view, self._accounts, squash=Squash.ALL)
        if self._settings.access == "mode":
            squash = Squash(self._settings.squash)
            return GuardedFilesystem(view, self._accounts, squash=squash)
        return view


def client_bytes_default() -> int:
    """Bytes of memory that clients may hold: an eighth of the machine's."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8


def start_log(*, as_json: bool, worker: int | None = None, live: str | None = None) -> None:
    """Log everything to standard error, as lines of fields."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(as_json=as_json, worker=worker, live=live))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
