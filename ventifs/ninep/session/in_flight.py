"""Requests in flight: those that were not answered at once, and the order in which they go on.

A request waits for a load, for work in a thread, for something else that the driver tries again and
again (`Wait`), or for fids that earlier requests change. Rules:

- It waits while an earlier request that is not done changes a fid that it names, or while an
  earlier request that has not begun names a fid that it changes. So a request that names the new
  fid of a walk waits for the walk.
- A flush of a request without effects drops the request, and is answered at once. A flush of
  another request (its work is a thread's, its fid is freed, or one of its several effects has
  happened) is answered after that request. Flushes of one request, and flushes of these flushes,
  are answered in the order in which they came.
- A Tversion drops everything.
- While a thread has a load of a request, the fid of that request stays in use, even if the request
  is dropped: no file is closed that a thread works with. What a thread opens for a dropped request
  is closed.

Knows nothing of the meaning of messages, nor of bytes.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from ventifs.ninep.protocol.messages import Message
from ventifs.ninep.session.fids import Fid, Uses
from ventifs.vfs.interface import Load, Wait


class Raised(msgspec.Struct, frozen=True):
    """An outcome that is an error."""

    error: BaseException


class PendingRequest(msgspec.Struct, eq=False):
    """A request in flight.

    Attributes:
        tag, number, message: as they came; number is the message's type.
        size: bytes of its frame.
        result: bytes that its loads return for it alone, at most.
        handle: answers it, from (fid, message).
        uses: how it uses fids.
        named, changed: numbers of fids.
        fid: the fid it is for, set when it first ran; what becomes of its number does not matter.
        outcomes: what its calls of the file system returned or raised so far, in order.
        tries: how many times it ran and had to wait.
        effects: it has changed something, or is about to: its reply must be sent.
        dropped: no client waits for it any more.
        on: the load or wait that it waits for now.
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
    result: int = 0
    tries: int = 0
    effects: bool = False
    dropped: bool = False
    on: Load | Wait | None = None
    flushes: list[int] = []
    target: "PendingRequest | None" = None


class InFlight:
    """The requests in flight of a session.

    Attributes:
        tags: by tag, all that are not answered, flushes among them.
        ready: those that can go on, in order.
        size: bytes of their frames.
        results: bytes of what loads return, or have returned, for single ones of them, at most.
        changing: numbers of fids that requests change which have begun, or are ready to.
        waiting: requests that wait for fids, in order of arrival.
        loads: those that are not finished, and waits, with the requests that wait for each; of
            loads that threads have, the dropped ones too.
    """

    def __init__(self) -> None:
        """Nothing is in flight."""
        self.tags: dict[int, PendingRequest] = {}
        self.ready: deque[PendingRequest] = deque()
        self.size = 0
        self.results = 0
        self.changing: set[int] = set()
        self.waiting: list[PendingRequest] = []
        self._wait_named: set[int] = set()
        self._wait_changed: set[int] = set()
        self.loads: dict[Load | Wait, list[PendingRequest]] = {}
        self._new: list[Load] = []
        self._new_waits: list[Wait] = []

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

    def suspend_for_load(self, request: PendingRequest, load: Load, result: int = 0) -> None:
        """Let a request wait for a load, for which others may wait too.

        The request then holds up to `result` bytes that the load returns.
        """
        self._begin(request)
        request.result += result
        self.results += result
        if request.uses.several and request.outcomes:
            request.effects = True
        if load not in self.loads:
            self._enter_load(load)
        self._put_on(load, request)

    def suspend_for_work(self, request: PendingRequest, work: Callable[[], Any]) -> None:
        """Let a request wait for its own work."""
        self._begin(request)
        request.effects = True
        load = Load(None, work)
        self._enter_load(load)
        self._put_on(load, request)

    def suspend_for_wait(self, request: PendingRequest, wait: Wait) -> None:
        """Let a request wait for something that the driver tries again and again."""
        self._begin(request)
        self.loads[wait] = []
        self._new_waits.append(wait)
        self._put_on(wait, request)

    def new_loads(self) -> list[Load]:
        """Loads that are not yet handed out, each handed out once."""
        if not self._new:
            return []
        new, self._new = self._new, []
        return new

    def new_waits(self) -> list[Wait]:
        """Waits that are not yet handed out, each handed out once."""
        if not self._new_waits:
            return []
        new, self._new_waits = self._new_waits, []
        return [wait for wait in new if not wait.over]

    def finish(self, on: Load | Wait, value: Any, error: BaseException | None) -> None:
        """Take the result of a load or wait; an unknown or finished one changes nothing."""
        requests = self.loads.pop(on, ())
        for request in requests:
            request.on = None
            if error is not None:
                request.outcomes.append(Raised(error))
            elif isinstance(on, Wait) or on.key is None:
                request.outcomes.append(value)
            if isinstance(on, Wait):
                on.over = request.effects = True  # the client must learn that it has the lock
            if request.dropped:
                self._discard(request)
            else:
                self.ready.append(request)

    def done(self, request: PendingRequest) -> list[int]:
        """Remove a request that is answered; return the tags of flushes to answer."""
        if request.tries and request.fid is not None:
            request.fid.release()
        return self._remove(request)

    def _remove(self, request: PendingRequest) -> list[int]:
        del self.tags[request.tag]
        self.size -= request.size
        self.results -= request.result
        if request in self.waiting:
            self.waiting.remove(request)
            self._let_go()
        elif request.changed:
            self._settle(request)
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
        """Drop everything; what threads have keeps its fids until it is done."""
        for request in self.tags.values():
            request.dropped = True
        for on, requests in list(self.loads.items()):
            if self._recall(on):
                del self.loads[on]
                for request in requests:
                    self._discard(request)
        for request in self.ready:
            self._discard(request)
        self.tags, self.ready, self.size, self.results = {}, deque(), 0, 0
        self.changing.clear()
        self.waiting, self._new, self._new_waits = [], [], []
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
                request.fid.use()
            self.changing |= request.changed
        request.tries += 1
        if request.uses.freed:
            request.effects = True
            self._settle(request)

    def _drop(self, request: PendingRequest) -> None:
        request.dropped = True
        self._remove(request)
        if request in self.ready:
            self.ready.remove(request)
        on = request.on
        if on is None:
            self._discard(request)
        elif self._recall(on):
            self.loads[on].remove(request)
            if not self.loads[on]:
                del self.loads[on]
                if not isinstance(on, Wait):
                    self._new.remove(on)
            self._discard(request)

    def _recall(self, on: Load | Wait) -> bool:
        """Whether no thread has, or will get, what a request waits for; a wait ends."""
        if isinstance(on, Wait):
            if not on.over:
                on.over = True
                on.cancel()
            return True
        return on in self._new

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

    def _put_on(self, on: Load | Wait, request: PendingRequest) -> None:
        self.loads[on].append(request)
        request.on = on

    def _discard(self, request: PendingRequest) -> None:
        """Close what was opened for a dropped request, and let go of its fid."""
        if request.tries and request.fid is not None:
            request.fid.release()
        close_opened(request.outcomes)


def close_opened(outcomes: list[Any]) -> None:
    """Close what calls of the file system opened, and no fid got."""
    for outcome in outcomes:
        made = outcome[-1] if isinstance(outcome, tuple) and outcome else outcome
        close = getattr(made, "close", None)
        if close is not None and not isinstance(made, Fid):  # a fid of a Tlink is not its own
            close()
    outcomes.clear()
