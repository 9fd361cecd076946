"""Faults at one chosen operation: the process is killed, or the disk fills up."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ventifs.buffer import Buffer
from ventifs.store.files import Files
from ventifs.store.index import Index

When = Literal["before", "after", "torn"]
Where = Literal["files", "index"]
Act = Callable[[], None]
T = TypeVar("T")


def kill_self() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Point:
    """One operation at which a fault happens.

    Attributes:
        where: counts operations on files, or calls of the index's writing methods.
        when: right before or after the operation, or (files) with half of an append written.
        at: which operation, from 1; "torn" counts appends alone.
    """

    where: Where
    when: When
    at: int


class FaultyFiles(Files):
    """Real files that also call `act` at one operation."""

    def __init__(self, act: Act, when: When, at: int) -> None:
        self.act = act
        self.when = when
        self.at = at
        self.count = 0

    def _step(self, operation: Callable[..., T], *args: Any) -> T:
        if self.when == "torn":
            return operation(*args)
        self.count += 1
        due = self.count == self.at
        if due and self.when == "before":
            self.act()
        result = operation(*args)
        if due and self.when == "after":
            self.act()
        return result

    def create(self, path: Path) -> int:
        return self._step(super().create, path)

    def append(self, fd: int, parts: Sequence[Buffer], offset: int) -> int:
        if self.when == "torn":
            self.count += 1
            if self.count == self.at:
                whole = b"".join(parts)
                os.pwrite(fd, whole[: len(whole) // 2], offset)
                self.act()
        return self._step(super().append, fd, parts, offset)

    def overwrite(self, fd: int, data: Buffer, offset: int) -> None:
        self._step(super().overwrite, fd, data, offset)

    def truncate(self, fd: int, length: int) -> None:
        self._step(super().truncate, fd, length)

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        self._step(super().start_writeback, fd, offset, length)

    def sync(self, fd: int) -> None:
        self._step(super().sync, fd)

    def sync_directory(self, path: Path) -> None:
        self._step(super().sync_directory, path)

    def rename(self, source: Path, target: Path) -> None:
        self._step(super().rename, source, target)

    def unlink(self, path: Path) -> None:
        self._step(super().unlink, path)

    def make_directory(self, path: Path) -> None:
        self._step(super().make_directory, path)


INDEX_METHODS = (
    "add_blocks",
    "settle",
    "append_blocks",
    "number_of",
    "sync",
    "remove_leftovers",
)


def armed(point: Point) -> Files:
    """Files that make this process, a child, die at `point`; patches the index in place."""
    if point.where == "files":
        return FaultyFiles(kill_self, point.when, point.at)
    count = 0

    def wrapped(method: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            due = count == point.at
            if due and point.when == "before":
                kill_self()
            result = method(*args, **options)
            if due and point.when == "after":
                kill_self()
            return result

        return step

    for name in INDEX_METHODS:
        setattr(Index, name, wrapped(getattr(Index, name)))
    return Files()
