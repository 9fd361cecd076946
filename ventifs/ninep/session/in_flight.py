"""Requests in flight: those that were not answered at once, and the order in which they go on.

A request waits for a load, for work in a thread, or for fids that earlier requests change. Rules:

- It waits while an earlier request that is not done changes a fid that it names, or while an
  earlier request that has not begun names a fid that it changes. So a request that names the new
  fid of a walk waits for the walk.
- A flush of a request without effects drops the request, and is answered at once. A flush of
  another request (its work is a thread's, its fid is freed, or one of its several effects has
  happened) is answered after that request. Flushes of one request, and flushes of these flushes,
  are answered in the order in which they came.
- A Tversion drops everything. What a thread opens for a dropped request is closed.

Knows nothing of the meaning of messages, nor of bytes.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from ventifs.ninep.protocol.messages import Message
from ventifs.ninep.session.fids import Fid, Uses
from ventifs.vfs.interface import Load


class Raised(msgspec.Struct, frozen=True):
    """An outcome that is an error."""

    error: BaseException


class PendingRequest(msgspec.Struct, eq=False):
    """A request in flight.

    Attributes:
        tag, number, message: as they came; number is the message's type.
        size: bytes of its frame.
        handle: answers it, from (fid, message).
        uses: how it uses fids.
        named, changed: numbers of fids.
        fid: the fid it is for, set when it first ran; what becomes of its number does not matter.
        outcomes: what its calls of the file system returned or raised so far, in order.
        tries: how many times it ran and had to wait.
        effects: it has changed something, or is about to: its reply must be sent.
        dropped: no client waits for it any more.
        flushes: tags of the flushes to be answered after it, in order.
        target: of a flush, the request it waits for.
    """

    tag: int
    number: int
    message: Message
    size: int
    handle: Callable[[Any, Any], Any]
    uses: Uses
    named: frozenset[int] = frozenset()
    changed: frozenset[int] = frozenset()
    fid: Fid | None = None
    outcomes: list[Any] = []
    tries: int = 0
    effects: bool = False
    dropped: bool = False
    flushes: list[int] = []
    target: "PendingRequest | None" = None


class InFlight:
    """The requests in flight of a session.

    Attributes:
        tags: by tag, all that are not answered, flushes among them.
        ready: those that can go on, in order.
        size: bytes of their frames.
        changing: numbers of fids that requests change which have begun, or are ready to.
        waiting: requests that wait for fids, in order of arrival.
        loads: those that are not finished, and the requests that wait for each: for some none is
            left.
    """

    def __init__(self) -> None:
        """Nothing is in flight."""
        self.tags: dict[int, PendingRequest] = {}
        self.ready: deque[PendingRequest] = deque()
        self.size = 0
        self.changing: set[int] = set()
        self.waiting: list[PendingRequest] = []
        self._wait_named: set[int] = set()
        self._wait_changed: set[int] = set()
        self.loads: dict[Load, list[PendingRequest]] = {}
        self._new: list[Load] = []

    def must_wait(self, named: frozenset[int], changed: frozenset[int]) -> bool:
        """Whether a request that uses these fids waits for earlier ones."""
        return not (
            self.changing.isdisjoint(named)
            and self._wait_changed.isdisjoint(named)
            and self._wait_named.isdisjoint(changed)
        )

    def wait(self, request: PendingRequest) -> None:
        """Let a new request wait for fids."""
        self._enter(request)
        self._queue(request)

    def suspend_for_load(self, request: PendingRequest, load: Load) -> None:
        """Let a request wait for a load, for which others may wait too."""
        self._begin(request)
        if request.uses.several and request.outcomes:
            request.effects = True
        if load not in self.loads:
            self._enter_load(load)
        self.loads[load].append(request)

    def suspend_for_work(self, request: PendingRequest, work: Callable[[], Any]) -> None:
        """Let a request wait for its own work."""
        self._begin(request)
        request.effects = True
        load = Load(None, work)
        self._enter_load(load)
        self.loads[load].append(request)

    def new_loads(self) -> list[Load]:
        """Loads that are not yet handed out, each handed out once."""
        new, self._new = self._new, []
        return new

    def finish(self, load: Load, value: Any, error: BaseException | None) -> None:
        """Take the result of a load. One that is unknown, or finished already, changes nothing."""
        requests = self.loads.pop(load, ())
        for request in requests:
            if error is not None:
                request.outcomes.append(Raised(error))
            elif load.key is None:
                request.outcomes.append(value)
            if request.dropped:
                self._discard(request)
            else:
                self.ready.append(request)

    def done(self, request: PendingRequest) -> list[int]:
        """Remove a request that is answered, or never will be; return tags of flushes to answer."""
        del self.tags[request.tag]
        self.size -= request.size
        self._release(request)
        for tag in request.flushes:
            self.size -= self.tags.pop(tag).size
        return request.flushes

    def flush(self, flush: PendingRequest, oldtag: int) -> bool:
        """Flush a tag; return whether to answer the flush at once. If not, it is in flight."""
        old = self.tags.get(oldtag)
        if old is None:
            return True
        target = old.target or old
        if target is old and not old.effects:
            self._drop(old)
            return True
        self._enter(flush)
        flush.target = target
        target.flushes.append(flush.tag)
        return False

    def reset(self) -> None:
        """Drop everything. Work that a thread may have begun keeps its fid until it is done."""
        for request in self.tags.values():
            request.dropped = True
        for load, requests in list(self.loads.items()):
            if load.key is not None or load in self._new:
                for request in requests:
                    self._discard(request)
                requests.clear()
            if load in self._new:
                del self.loads[load]
        for request in self.ready:
            self._discard(request)
        self.tags, self.ready, self.size = {}, deque(), 0
        self.changing.clear()
        self.waiting, self._new = [], []
        self._index()

    def _enter(self, request: PendingRequest) -> None:
        if request.tag not in self.tags:
            self.tags[request.tag] = request
            self.size += request.size

    def _begin(self, request: PendingRequest) -> None:
        """Take note that a request has run, and will run again."""
        self._enter(request)
        if request.tries == 0:
            if request.fid is not None:
                request.fid.users += 1
            self.changing |= request.changed
        request.tries += 1
        if request.uses.freed:
            request.effects = True
            self._settle(request)

    def _drop(self, request: PendingRequest) -> None:
        request.dropped = True
        for requests in self.loads.values():
            if request in requests:
                requests.remove(request)
        self.done(request)

    def _release(self, request: PendingRequest) -> None:
        if request.tries and request.fid is not None:
            request.fid.release()
        if request in self.waiting:
            self.waiting.remove(request)
            self._let_go()
        elif request.changed:
            self._settle(request)

    def _settle(self, request: PendingRequest) -> None:
        """Take note that a request changes fids no more, and let those go on that waited."""
        self.changing -= request.changed
        request.changed = frozenset()
        if self.waiting:
            self._let_go()

    def _let_go(self) -> None:
        """Make requests ready that no longer have to wait for fids."""
        waiting, self.waiting = self.waiting, []
        self._index()
        for request in waiting:
            if self.must_wait(request.named, request.changed):
                self._queue(request)
            else:
                self.changing |= request.changed
                self.ready.append(request)

    def _queue(self, request: PendingRequest) -> None:
        self.waiting.append(request)
        self._wait_named |= request.named
        self._wait_changed |= request.changed

    def _index(self) -> None:
        self._wait_named = set().union(*[request.named for request in self.waiting])
        self._wait_changed = set().union(*[request.changed for request in self.waiting])

    def _enter_load(self, load: Load) -> None:
        self.loads[load] = []
        self._new.append(load)

    def _discard(self, request: PendingRequest) -> None:
        """Close what was opened for a dropped request, and let go of its fid."""
        if request.tries and request.fid is not None:
            request.fid.release()
        for outcome in request.outcomes:
            made = outcome[-1] if isinstance(outcome, tuple) and outcome else outcome
            close = getattr(made, "close", None)
            if close is not None:
                close()
