"""Runs a command of ventifs, and notes the seconds that its process waits for other processes.

As a script: `python -m tools.bench.waits FILE COMMAND...`. A line for every wait goes to the file:
its seconds, and what was waited for: a lock (with the reason), or the index, which one process
writes at a time. A lock that was free has a few microseconds.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ventifs.store import lock
from ventifs.store.index import Index


def note_waits(notes: Path) -> None:
    """Make locks and write transactions of this process note their waits.

    Must come before modules that import `take` by name: those of the catalog's lock.
    """
    take, writing = lock.take, Index._writing

    def noted(seconds: float, what: str) -> None:
        with notes.open("a") as file:
            file.write(f"{seconds:.6f} {what}\n")

    def noting_take(fd: int, what: str, in_use: str, **options: Any) -> None:
        began = time.perf_counter()
        try:
            take(fd, what, in_use, **options)
        finally:
            noted(time.perf_counter() - began, in_use)

    @contextmanager
    def noting_writing(index: Index) -> Iterator[Any]:
        began = time.perf_counter()
        with writing(index) as transaction:
            noted(time.perf_counter() - began, "the index")
            yield transaction

    setattr(lock, "take", noting_take)  # noqa: B010
    setattr(Index, "_writing", noting_writing)  # noqa: B010


def read_waits(notes: Path) -> float:
    """The seconds that were noted, in all."""
    return sum(float(line.split()[0]) for line in notes.read_text().splitlines())


if __name__ == "__main__":
    note_waits(Path(sys.argv[1]))
    sys.argv[:2] = []
    sys.argv.insert(0, "ventifs")
    from ventifs.cli.main import main

    main()
