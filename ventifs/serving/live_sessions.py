"""The sessions of a process that serves one live export, and what such a process is.

Owns how the export's file system and the sessions are put together, and the rule of `exclusive`:
one connection at a time. Always: a peer that is `nobody` never uses files as this process's own
user. A connection comes here when another process has read its first attach,
see `handover.py`.
"""

import errno
import logging
import os
import resource
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import NoReturn, Protocol, Self

import trio

from ventifs.net.allow_list import Exports
from ventifs.net.channel import Channel, FileChannel, probing
from ventifs.net.peer import Peer
from ventifs.serving.activity import Process
from ventifs.serving.connections import Server
from ventifs.serving.handover import PassOn
from ventifs.serving.loader import Loader
from ventifs.serving.log import event
from ventifs.serving.session import FrontEnd, Handover
from ventifs.serving.settings import SWITCHES, Settings, client_bytes_default
from ventifs.vfs.interface import Filesystem, Load, Refused, User
from ventifs.vfs.live.capabilities import drop_privileges
from ventifs.vfs.live.export import LiveExport, Squashing
from ventifs.vfs.memory_budget import Budget

# Threads wait for the disk most of the time, and hold the interpreter for a moment: more of them
# keep more of a disk busy. See docs/performance.md.
LIVE_AT_ONCE = 8
NO_NOBODY = (
    "this server is not root's, so that it cannot use files as nobody; allow the peer by --allow"
)
_HELD = "another connection has this exclusive export"
FREE_S = 1.0  # for a client that has unmounted, or whose machine has started anew, to be gone


class LiveTrees(Protocol):
    """An export's directory as file systems.

    Attributes:
        acts_as_users: whether this process uses files as the user who asks, also as `nobody`; if
            not, as its own user, whichever user asks.
    """

    acts_as_users: bool

    def view(self, squash: Squashing) -> Filesystem:
        """The file system for clients some of whose users become `nobody`: which, `squash` says."""

    def close(self) -> None:
        """Close what is open; no session is left."""


class LiveSessions:
    """All sessions of one live export; see `ProcessSessions`."""

    def __init__(
        self, settings: Settings, export: LiveExport, trees: LiveTrees, front_end: FrontEnd
    ) -> None:
        """Serve an open directory by a front end."""
        self._export = export
        self._trees = trees
        self._busy = RefusingExport(errno.EBUSY, f"{export.name}: another connection has it")
        self._no_nobody = RefusingExport(errno.EACCES, f"{export.name}: {NO_NOBODY}")
        self._holder: Channel | None = None  # that has it for itself, if the export is exclusive
        self._freed = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.server = Server(
            front_end,
            self._filesystem_for,
            budget=Budget(settings.client_bytes or client_bytes_default()),
            loader=Loader(at_once=LIVE_AT_ONCE, batch=1, warm_s=0),
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
        """Close the directory."""
        self._trees.close()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Backend`."""
        with SWITCHES:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    await self.server.run(task_status)
                finally:
                    nursery.cancel_scope.cancel()

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
        channel = FileChannel(channel.reads, channel.writes, half_closes=channel.half_closes)
        if exports.as_nobody and not self._trees.acts_as_users:
            event("no_nobody", level=logging.WARNING, peer=peer, note=NO_NOBODY)
            self.server.start(channel, peer, exports, over, begun=begun, filesystem=self._no_nobody)
            return
        if self._export.sharing == "shared":
            self.server.start(channel, peer, exports, over, pass_on, begun)
            return
        assert self._nursery is not None, "the sessions do not run"
        self._nursery.start_soon(self._start_alone, channel, peer, exports, over, begun)

    async def _start_alone(
        self,
        channel: Channel,
        peer: Peer,
        exports: Exports,
        over: Callable[[], None],
        begun: Handover | None,
    ) -> None:
        """Serve a channel alone; if another connection stays, its attaches get EBUSY."""
        with trio.move_on_after(FREE_S):
            while self._holder is not None:
                with probing(self._holder):
                    await self._freed.wait()
        if self._holder is not None:
            gone = self._holder.reads < 0
            note = "a thread still works for the last connection" if gone else _HELD
            event("busy", peer=peer, note=note)
            self.server.start(channel, peer, exports, over, begun=begun, filesystem=self._busy)
            return
        self._holder = channel

        def ended() -> None:
            over()
            assert self._nursery is not None
            self._nursery.start_soon(self._free)

        self.server.start(channel, peer, exports, ended, begun=begun)

    async def _free(self) -> None:
        """Let another connection have the export once no thread works for the last one."""
        await self.server.loader.idle()
        self._holder = None
        self._freed.set()
        self._freed = trio.Event()

    async def ask(self) -> Process:
        """See `Backend`."""
        return self.server.figures()

    async def drain(self, grace_s: float) -> None:
        """See `Backend`."""
        await self.server.drain(grace_s)

    def _filesystem_for(self, peer: Peer, exports: Exports) -> Filesystem:
        return self._trees.view("all" if exports.as_nobody else self._export.squash)


class RefusingExport:
    """A `Filesystem` that a connection may not use: every attach gets an error."""

    def __init__(self, number: int, reason: str) -> None:
        """Refuse with an errno."""
        self._number = number
        self._reason = reason

    def attach(self, user: User, aname: bytes) -> NoReturn:
        """See `Filesystem`."""
        raise Refused(self._number, self._reason)

    def session(self) -> "RefusingExport":
        """See `Filesystem`."""
        return self

    def ahead(self) -> list[Load]:
        """See `Filesystem`."""
        return []


def prepare_process(*, root: bool) -> None:
    """Make this process fit to serve live files: its umask, descriptors and capabilities.

    It also ends with its parent, whatever it does: the kernel forgets PR_SET_PDEATHSIG of a thread
    that changes its user, and the event loop may wait for a disk.

    Args:
        root: whether root in a guest is to be root here.

    Raises:
        OSError: the kernel refuses.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    parent = os.getppid()
    drop_privileges(root=root)
    Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    with suppress(ProcessLookupError):
        ended = os.pidfd_open(parent)
        if os.getppid() == parent:
            select.select([ended], [], [])
    os.kill(os.getpid(), signal.SIGKILL)
