"""Turns: of the threads that are about to do the same thing, one does it and the others wait."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from threading import Lock


class Turns:
    """Locks by key, each there only as long as somebody wants it.

    Concurrency: any number of threads. 1 us when nobody else wants the key.
    """

    def __init__(self) -> None:
        """Nobody wants anything."""
        self._lock = Lock()
        self._turns: dict[Hashable, tuple[Lock, list[None]]] = {}

    @contextmanager
    def of(self, key: Hashable) -> Iterator[None]:
        """Wait for the turn at `key`, and have it."""
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
        """How many keys somebody wants."""
        return len(self._turns)
