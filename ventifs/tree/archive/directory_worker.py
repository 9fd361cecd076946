"""How workers answer the requests of a directory's archive run.

They read leaves, and compare units with the live tree.
"""

import time
from collections.abc import Callable, Sequence

from msgspec import DecodeError

from ventifs.tree.archive.change_scan import Compare, Scout, all_unknown
from ventifs.tree.archive.file_reader import Opener, allow_many_descriptors
from ventifs.tree.archive.read_batches import BatchReader, ReadLeaves
from ventifs.tree.archive.scan import Options
from ventifs.tree.archive.statcache import PreviousCache
from ventifs.tree.archive.worker import Handlers, OpenStore


def directory_handlers(
    options: Options, store: OpenStore, *, clock: Callable[[], int] = time.time_ns
) -> Handlers:
    """Handlers for the requests of one run.

    Args:
        options: what is left out.
        store: opens the store.
        clock: returns ns since 1970; a file that changed just before is read again next time.
    """
    allow_many_descriptors()
    worker = _DirectoryWorker(options, store, clock)
    return {ReadLeaves: worker.read, Compare: worker.compare}


class _DirectoryWorker:
    def __init__(self, options: Options, store: OpenStore, clock: Callable[[], int]) -> None:
        self._options = options
        self._store = store
        self._clock = clock
        self._reader: BatchReader | None = None
        self._scout: Scout | None = None

    def read(self, request: ReadLeaves, descriptors: Sequence[int]) -> bytes:
        if self._reader is None:
            self._reader = BatchReader(self._store(), self._clock)
        return self._reader.read(request, descriptors)

    def compare(self, request: Compare, descriptors: Sequence[int]) -> bytes:
        top, previous = descriptors
        if self._scout is None:
            try:
                cache = PreviousCache(previous)
            except (OSError, DecodeError):
                return all_unknown(request)
            self._scout = Scout(cache, self._options, Opener())
        return self._scout.compare(request, top, previous)
