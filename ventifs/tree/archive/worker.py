"""The worker service of an archive run: one dispatch of requests, one task for the processes.

A request is a struct with a tag, registered in `REQUESTS`, so no two requests share a tag, whatever
package they belong to. A kind of source says how its requests are answered (`Handlers`). The
service adds the one request that all workers answer: to make the stored blocks durable and hand
them over. A worker opens the store when a handler first needs it: an unchanged tree needs none.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ventifs.store import Store
from ventifs.store.claims import Claims
from ventifs.store.writer import WorkerBatch
from ventifs.tree.process_pool import Handle, Pool, Send

PENDING_MAX = 64_000  # blocks (about 1 GiB) that wait for a commit

AnyRequest = TypeVar("AnyRequest", bound=msgspec.Struct)
Handler = Callable[[Any, Sequence[int]], bytes]  # (request, its descriptors) -> reply
Handlers = Mapping[type[msgspec.Struct], Handler]
OpenStore = Callable[[], Store]  # opens the store to write to, the first time
MakeHandlers = Callable[[OpenStore], Handlers]


class RequestTags:
    """All requests by their tags."""

    def __init__(self) -> None:
        """There are none yet."""
        self._by_tag: dict[int, type[msgspec.Struct]] = {}

    def register(self, request: type[AnyRequest]) -> type[AnyRequest]:
        """Register a request by the tag of its struct; a class decorator.

        Raises:
            TypeError: it has no number as its tag.
            ValueError: another request has the same tag.
        """
        tag = request.__struct_config__.tag
        if not isinstance(tag, int):
            raise TypeError(f"the request {request.__qualname__} has no number as its tag")
        if tag in self._by_tag:
            raise ValueError(
                f"the requests {self._by_tag[tag].__qualname__} and {request.__qualname__} "
                f"have the same tag, {tag}"
            )
        self._by_tag[tag] = request
        return request

    def __contains__(self, request: type[msgspec.Struct]) -> bool:
        return request in self._by_tag.values()


REQUESTS = RequestTags()  # 0 to 15 are for `tree`, from 16 on for `image`


@REQUESTS.register
class HandOver(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """A request to make the stored blocks durable and hand them over."""


_encode = msgspec.msgpack.Encoder().encode


class WorkerService:
    """Answers the requests of one run."""

    def __init__(self, open_store: OpenStore, make_handlers: MakeHandlers) -> None:
        """Open nothing yet.

        Args:
            open_store: opens the store; called once at most.
            make_handlers: returns the handlers of the run's kind of source.

        Raises:
            ValueError: a handler's request is not registered, or has a handler already.
        """
        self._open_store = open_store
        self._store: Store | None = None
        self._handlers: dict[type[msgspec.Struct], Handler] = {HandOver: self._hand_over}
        for request, handler in make_handlers(self._opened).items():
            if request not in REQUESTS:
                raise ValueError(f"the request {request.__qualname__} is not registered")
            if request in self._handlers:
                raise ValueError(f"the request {request.__qualname__} has a handler already")
            self._handlers[request] = handler
        self._decode = msgspec.msgpack.Decoder(reduce(or_, self._handlers)).decode

    def handle(self, request: bytes, descriptors: Sequence[int]) -> bytes:
        """The reply to a request.

        Raises:
            VentifsError: the store's own problems, and those of the run's source.
        """
        decoded = self._decode(request)
        return self._handlers[type(decoded)](decoded, descriptors)

    def _opened(self) -> Store:
        if self._store is None:
            self._store = self._open_store()
        return self._store

    def _hand_over(self, _: HandOver, descriptors: Sequence[int]) -> bytes:
        if self._store is not None and self._store.mode == "worker":
            return pickle.dumps(self._store.hand_over())
        return b""


def collect(pool: Pool, store: Store) -> None:
    """Make all that workers stored part of the store's next commit."""

    def adopt(reply: bytes) -> None:
        if reply:
            store.adopt(pickle.loads(reply))  # noqa: S301, from our own worker

    pool.ask_all(_encode(HandOver()), adopt)


def commit_notes(pool: Pool, store: Store) -> None:
    """From now on, commit what workers hand over by themselves, about 1 GiB each time."""

    def commit(note: bytes) -> None:
        store.adopt(pickle.loads(note))  # noqa: S301, from our own worker
        store.commit()

    pool.on_note = commit


@contextmanager
def serving(
    path: Path, claims: Claims, level: int, make_handlers: MakeHandlers, send: Send
) -> Iterator[Handle]:
    """The task of a worker: answer the requests of a run into the store at `path`."""

    def give(batch: WorkerBatch) -> None:
        send(pickle.dumps(batch))

    with ExitStack() as stack:

        def opened() -> Store:
            return stack.enter_context(
                Store.open(
                    path, "worker", pending_max=PENDING_MAX, level=level, give=give, claims=claims
                )
            )

        yield WorkerService(opened, make_handlers).handle
