"""One connection: carries bytes between a channel and a session, in turns.

Always: the kernel has taken all replies of a turn before the next turn, so that a peer that does
not read holds up one turn of its own and no other session; a failure in a session ends that session
alone. Each connection has one task, for its beginning, its end and the time limit of its first
request; no bytes go through that task. Knows no message, no file and no address: the session
(`session.py`) knows what bytes mean.
"""

import errno
import logging
import time

import trio

from ventifs.buffer import Piece, joined
from ventifs.net.channel import Channel
from ventifs.net.peer import Peer
from ventifs.serving.activity import SessionActivity, Totals
from ventifs.serving.deferred_close import DeferredClose
from ventifs.serving.loader import Loader, Result
from ventifs.serving.log import event
from ventifs.serving.scheduler import Runnable, Scheduler
from ventifs.serving.session import READ_MAX, WASTE_MAX, FrontEnd, Handover, StreamError
from ventifs.serving.waits import Waits
from ventifs.text import printable
from ventifs.vfs.interface import File, Filesystem, Refused, User
from ventifs.vfs.memory_budget import Share

# After more turns without a load, a session counts as one that needs none. A sequential reader asks
# for more to be read ahead only once in 4 MiB: 512 turns of 8 KiB.
WARM_TURNS = 512
NAME_SHOWN_MAX = 128  # characters of a user's or export's name

log = logging.getLogger(__name__)


def thrifty(waiting: list[Piece]) -> list[Piece]:
    """Replies that have to wait, copied if they keep more than twice their bytes and `WASTE_MAX`.

    A view of a few bytes keeps a whole clump in memory, even if the cache drops it meanwhile.
    """
    kept = {
        id(view.obj): memoryview(view.obj).nbytes for view in waiting if type(view) is memoryview
    }
    size = sum(map(len, waiting))
    if sum(kept.values()) <= 2 * size + WASTE_MAX:
        return waiting
    return [joined(waiting)]


class _Noting:
    """A file system that remembers the user and the name of the first attach."""

    def __init__(self, filesystem: Filesystem) -> None:
        self._filesystem = filesystem
        self.ahead = filesystem.ahead  # without a call between: it is called after each turn
        self.plain_writes: bool = getattr(filesystem, "plain_writes", False)
        self.user: User | None = None
        self.aname = b""

    def attach(self, user: User, aname: bytes) -> File:
        root = self._filesystem.attach(user, aname)
        if self.user is None:
            self.user, self.aname = user, aname
        return root

    def session(self) -> Filesystem:
        return self._filesystem.session()


class Connection(Runnable):
    """One session, from its first byte to its last.

    Attributes:
        channel: its bytes'; when it has `left`, the channel is still open.
        left: with what another process is to go on with it, since that one serves the export.

    Concurrency: `run` is its one task, the scheduler calls `step`; everything runs in the event
    loop's thread.
    """

    def __init__(
        self,
        channel: Channel,
        peer: Peer,
        filesystem: Filesystem,
        loader: Loader,
        waits: Waits,
        scheduler: Scheduler,
        front_end: FrontEnd,
        share: Share,
        deferred: DeferredClose,
        begun: Handover | None = None,
    ) -> None:
        """Make the session; `share` is its peer's, with the session's `first_bytes` taken.

        With `begun` the session goes on that another process had.
        """
        super().__init__(channel.reads, channel.writes)
        self.peer = peer
        self.channel = channel
        self.started = time.time()
        self.left: Handover | None = None
        self._begun = begun
        self._filesystem = _Noting(filesystem)
        self._names = front_end.requests
        self._session = front_end.session(
            self._filesystem,
            clock=loader.clock,
            share=share,
            leave=deferred.add,
            agreed=begun.agreed if begun else None,
        )
        self._loader = loader
        self._waits = waits
        self._scheduler = scheduler
        self._unsent: list[Piece] = []  # of the last turn
        self._warm = 0  # turns since it last needed a load
        self._greeted = trio.Event()  # the first replies were sent, or it is over
        self._over = trio.Event()
        self._reason = "stopped"
        self._ending = False
        self._bytes_in = 0

    async def run(self, handshake_s: float) -> None:
        """Serve until the session is over or has left; close the channel, and log the reason."""
        began = trio.current_time()
        if self._begun is None:
            event("opened", peer=self.peer)
        try:
            self._join()
            if self._begun is None:  # else the request came whole, and may wait for a disk
                await self._greet(handshake_s)
            await self._over.wait()
        finally:
            self._scheduler.remove(self)
            taken = self._loader.drop(self)
            activity = self.activity()
            self._session.close()
            for load in taken:
                self._session.finish(load, error=Refused(errno.ECANCELED))
            if self.left is not None:
                event("handed_over", peer=self.peer, export=self.left.export)
            else:
                self.channel.close(politely=self._ending)
                self._log_end(activity, trio.current_time() - began)

    async def _greet(self, handshake_s: float) -> None:
        """Wait for the first replies to be sent, but not for ever."""
        with trio.move_on_after(handshake_s):
            await self._greeted.wait()
        if not self._greeted.is_set():
            self._finish(f"no request in {handshake_s:g} s")

    def _log_end(self, activity: SessionActivity, seconds: float) -> None:
        event(
            "closed",
            peer=self.peer,
            reason=self._reason,
            dialect=activity.dialect,
            export=activity.export,
            user=activity.user,
            operations=activity.operations,
            errors=activity.errors,
            bytes_in=activity.bytes_in,
            bytes_out=activity.bytes_out,
            seconds=seconds,
        )

    def _join(self) -> None:
        try:
            self._scheduler.add(self)
        except OSError as error:  # such as a device that epoll does not take
            self._fail(error)
        if self._begun is not None:
            self._session.receive(self._begun.data)
        if self._ending or self._begun is not None:  # `end` was called before
            self._scheduler.wake(self)

    def end(self) -> None:
        """Read no more, answer what was read, and then close."""
        self._ending = True
        self._scheduler.wake(self)

    def finished(self, results: list[Result]) -> None:
        """See `loader.Waiter`."""
        try:
            for load, value, error in results:
                self._session.finish(load, value, error)
        except Exception as failure:
            self._fail(failure)
        if not self._over.is_set():
            self._scheduler.wake(self)

    def tidy(self) -> None:
        """Let its session go of files that no handle needs."""
        self._session.tidy()

    def activity(self) -> SessionActivity:
        """The figures of its session."""
        session, user = self._session, self._filesystem.user
        counters = session.counters
        attached = user is not None
        return SessionActivity(
            peer=str(self.peer),
            since=self.started,
            dialect=session.dialect,
            export=_text(self._filesystem.aname) or "/" if attached else None,
            user=_name(user) if user else None,
            fids=session.handles,
            memory=session.memory,
            in_flight=session.in_flight,
            operations=sum(counters.requests),
            errors=counters.errors,
            hits=counters.hits,
            colds=counters.colds,
            bytes_in=self._bytes_in,
            bytes_out=counters.replied,
        )

    def add_to(self, totals: Totals) -> None:
        """Add what its session did to the totals."""
        counters = self._session.counters
        totals.errors += counters.errors
        totals.hits += counters.hits
        totals.colds += counters.colds
        totals.bytes_in += self._bytes_in
        totals.bytes_out += counters.replied
        for number, times in enumerate(counters.requests):
            if times:
                name = self._names.get(number, "unknown")
                totals.operations[name] = totals.operations.get(name, 0) + times

    def step(self) -> bool:
        """See `Runnable`."""
        try:
            if self._unsent:
                self._send(self._unsent)
            if self._unsent or self._over.is_set():
                return False
            if self._session.elsewhere is not None:
                self._leave(self._session.elsewhere)
                return False
            return (self._session.more or self._input()) and self._turn()
        except Exception as error:
            self._fail(error)
            return False

    def _turn(self) -> bool:
        """Let the session have a turn; return whether there is more to do at once."""
        session = self._session
        replies = session.turn()
        if replies:
            self._send(replies)
        self._warm += 1
        if loads := session.loads():
            self._loader.submit(self, loads)
            self._warm = 0
        if waits := session.waits():
            self._waits.add(self, waits)
        if wished := self._filesystem.ahead():
            self._loader.ahead(wished)
            self._warm = 0
        if self._warm > WARM_TURNS:
            self._loader.warm = self._loader.clock()
        if self._unsent:
            return False
        if session.elsewhere is not None:
            return True
        if self._ending:
            return session.more or not session.in_flight
        return session.more or (self.readable and session.hungry)

    def _leave(self, left: Handover) -> None:
        """End here, so that another process goes on, unless this server stops."""
        if not self._ending:
            self.left = left
        self._finish("stopped")

    def _input(self) -> bool:
        """Read from the channel; return whether the session is to have a turn."""
        session = self._session
        if self._ending and not session.in_flight:
            self._finish("stopped")
        if self._ending or not self.readable or not session.hungry:
            return False
        data = self.channel.read(READ_MAX)
        if data is None:
            self.readable = False
            return False
        if not data:
            if not self.channel.half_closes:
                self._finish("closed by peer")
                return False
            self.readable = False
            self._ending = True
            return not session.in_flight
        if len(data) < READ_MAX and not self.ended:
            self.readable = False  # that was all; epoll reports what comes next
        self._bytes_in += len(data)
        session.receive(data)
        return True

    def _send(self, replies: list[Piece]) -> None:
        waited = bool(self._unsent)
        self._unsent = self.channel.write(replies)
        if self._unsent:
            if not waited:
                self._unsent = thrifty(self._unsent)
            self._scheduler.wait_writable(self)
        else:
            self._greeted.set()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, StreamError):
            self._finish(str(error))
        elif isinstance(error, OSError):
            self._finish((error.strerror or str(error)).lower())
        else:
            log.error("a session failed: a bug in ventifs", exc_info=error)
            self._finish("failed")

    def _finish(self, reason: str) -> None:
        """End the session; of several reasons the first counts."""
        if not self._over.is_set():
            self._reason = reason
            self._over.set()
            self._greeted.set()


def _text(name: bytes) -> str:
    """A name that a peer sent, escaped and shortened: it may have sent 64 KiB."""
    text = printable(name[: 4 * NAME_SHOWN_MAX + 1])
    return text if len(text) <= NAME_SHOWN_MAX else f"{text[:NAME_SHOWN_MAX]}..."


def _name(user: User) -> str:
    """A user for display: its number if there is one, else its name."""
    return _text(user.name) if user.uid is None else str(user.uid)
