"""Locks by key: of several threads about to do the same work, one does it and the others wait."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from threading import Lock


class KeyedLocks:
    """Locks by key; each exists only while a thread holds it or waits for it.

    Concurrency: any number of threads. Takes little time when no other thread uses the key; see
    docs/performance.md.
    """

    def __init__(self) -> None:
        """Start without locks."""
        self._lock = Lock()
        self._turns: dict[Hashable, tuple[Lock, list[None]]] = {}

    @contextmanager
    def of(self, key: Hashable) -> Iterator[None]:
        """Wait for the lock of `key`, and hold it."""
        with self._lock:
            turn, users = self._turns.setdefault(key, (Lock(), []))
            users.append(None)
        try:
            with turn:
                yield
        finally:
            with self._lock:
                users.pop()
                if not users:
                    del self._turns[key]

    def __len__(self) -> int:
        """The number of keys that threads hold or wait for."""
        return len(self._turns)
