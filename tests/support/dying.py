"""Files with which a store dies in the test's own process, perhaps because the power goes."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.support.faults import FaultyFiles
from ventifs.buffer import Buffer
from ventifs.store.files import Files

T = TypeVar("T")


class Death(BaseException):
    """The process dies here."""


class DyingFiles(FaultyFiles):
    """Files that die at one operation; nothing is written after that."""

    def __init__(self, durable: dict[int, int] | None = None) -> None:
        """`durable` is one table for all that would lose power at once."""
        super().__init__(self._die, "after", -1)
        self.dead = False
        # Of files that were written to, by inode: bytes
        self.durable: dict[int, int] = {} if durable is None else durable

    def _die(self) -> None:
        self.dead = True
        raise Death

    def _step(self, operation: Callable[..., T], *args: Any) -> T:
        if self.dead:
            raise Death
        return super()._step(operation, *args)

    def create(self, path: Path) -> int:
        fd = super().create(path)
        self.durable.pop(os.fstat(fd).st_ino, None)  # a number may be given again
        return fd

    def append(self, fd: int, parts: Sequence[Buffer], offset: int) -> int:
        self.durable.setdefault(os.fstat(fd).st_ino, offset)
        return super().append(fd, parts, offset)

    def sync(self, fd: int) -> None:
        def synced(fd: int) -> None:
            Files.sync(self, fd)
            self.durable[os.fstat(fd).st_ino] = os.fstat(fd).st_size

        self._step(synced, fd)

    def lose_power(self, root: Path) -> None:
        """Take away what was not durable of a store's arenas."""
        for path in (root / "arenas").glob("*/*.arena"):
            status = path.stat()
            length = self.durable.get(status.st_ino, status.st_size)
            if status.st_size > length:
                os.truncate(path, length)
