"""The requests of an archive run to its workers, and the service that answers them.

There are three requests: to read leaves, to compare units with the live tree, and to make stored
blocks durable and hand them over. A worker opens the store only for its first read: an unchanged
tree needs none.
"""

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from ventifs.store import Store
from ventifs.store.claims import Claims
from ventifs.store.writer import Batch
from ventifs.tree.archive.change_scan import Compare, Scout
from ventifs.tree.archive.file_reader import Opener, allow_many_descriptors
from ventifs.tree.archive.read_batches import BatchReader, Read
from ventifs.tree.archive.scan import Options
from ventifs.tree.archive.statcache import Previous
from ventifs.tree.process_pool import Handle, Pool, Send

PENDING_MAX = 64_000  # blocks (about 1 GiB) that wait for a commit


class HandOver(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A request to make the stored blocks durable and hand them over."""


_decode = msgspec.msgpack.Decoder(Read | Compare | HandOver).decode
_encode = msgspec.msgpack.Encoder().encode


class Service:
    """Answers requests."""

    def __init__(
        self,
        store: Callable[[], Store],
        options: Options,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Open and read nothing yet.

        Args:
            store: opens the store when it is first needed.
            options: what is left out.
            clock: returns ns since 1970; a file that changed just before is read again next time.
        """
        self._clock = clock
        self._open_store = store
        self._options = options
        self._reader: BatchReader | None = None
        self._store: Store | None = None
        self._scout: Scout | None = None

    def handle(self, request: bytes, descriptors: Sequence[int]) -> bytes:
        """The reply to a request.

        Raises:
            VentifsError: the store's own problems.
        """
        match _decode(request):
            case Read() as read:
                if self._reader is None:
                    self._store = self._open_store()
                    self._reader = BatchReader(self._store, self._clock)
                return self._reader.read(read, descriptors)
            case Compare() as compare:
                top, previous = descriptors
                if self._scout is None:
                    self._scout = Scout(Previous(previous), self._options, Opener())
                return self._scout.compare(compare, top, previous)
            case HandOver():
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
    path: Path, claims: Claims, options: Options, level: int, send: Send
) -> Iterator[Handle]:
    """The task of a worker: answer the requests of a run into the store at `path`."""

    def give(batch: Batch) -> None:
        send(pickle.dumps(batch))

    allow_many_descriptors()
    with ExitStack() as stack:

        def opened() -> Store:
            return stack.enter_context(
                Store.open(
                    path, "worker", pending_max=PENDING_MAX, level=level, give=give, claims=claims
                )
            )

        yield Service(opened, options).handle
