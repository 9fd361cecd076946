"""Conversations with a session over a live export of a test's own directory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.talking import Talk
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.messages import NOFID, Dialect, Message
from ventifs.ninep.session.limits import SessionLimits
from ventifs.vfs.live.actor import acting_here
from ventifs.vfs.live.export import LiveExport
from ventifs.vfs.live.filesystem import LiveDirectory

NAME = b"live"
TOP = 0


@contextmanager
def served(path: Path, **settings: Any) -> Iterator[LiveDirectory]:
    """A writable export of a directory.

    Threads that talk to it act as its users; a test gives them to `in_thread`.
    """
    export = LiveExport(name=NAME.decode(), directory=str(path), writable=True)
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        live = LiveDirectory(export, fd, **settings)
        yield live
        live.close()
    finally:
        os.close(fd)
        acting_here().as_server()


class LiveTalk(Talk):
    """A client that is attached to the top of an export as fid `TOP`.

    Attributes:
        replies: all replies so far that were not errors.
    """

    def __init__(
        self,
        live: LiveDirectory,
        uid: int = 0,
        *,
        dialect: Dialect = Dialect.LINUX,
        limits: SessionLimits | None = None,
        msize: int = 8192,
    ) -> None:
        self.replies: list[Message] = []
        files = live.view("none").session()
        super().__init__(files, dialect, msize=msize, limits=limits, attach=False)
        reply = self.ask(m.Tattach(TOP, NOFID, b"", NAME, uid))
        assert isinstance(reply, m.Rattach), reply

    def do(self, message: Message) -> Any:
        """Send a request, and return its reply; None for an error."""
        reply = self.ask(message)
        if isinstance(reply, m.Rlerror | m.Rerror):
            return None
        self.replies.append(reply)
        return reply

    def clunk(self, *fids: int) -> None:
        """Free fids, whether or not they are in use."""
        for fid in fids:
            self.ask(m.Tclunk(fid))
