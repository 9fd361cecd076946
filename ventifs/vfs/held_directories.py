"""The directories that a session's fids keep in memory, because their files lie below them.

A file of a version keeps its directory in memory, which keeps the one above it, and so on up.
Invariants: each such directory is counted once, and its memory is taken from the peer's share, as
long as a counted file or directory lies directly below it. So a directory counts as one in the
directory above it, however much lies below. Memory for one more file is taken as a whole or not at
all. Knows neither fids nor their numbers.

Clients walk to one file of a directory after another, often with one fid. So the directory that
was left last stays counted, with nothing below it, until another is left.
"""

from typing import Any

from ventifs.vfs.interface import File
from ventifs.vfs.memory_budget import DIRECTORY_BYTES, Share

_FEW = 1024  # directories: a table that never had more is not made smaller


class HeldDirectories:
    """The counted directories, and how many counted files and directories lie below each.

    Attributes:
        below: for each counted directory, how many counted files and directories lie directly
            below it. Callers may raise a count. They may lower a count of 2 or more, or that of
            `left`.
        left: the directory that was left last, which may have nothing below it.

    Concurrency: for the event loop's thread; never waits.
    """

    __slots__ = ("_most", "_share", "below", "left")

    def __init__(self, share: Share) -> None:
        """Start with no directories; their memory is taken from `share`."""
        self.below: dict[File, int] = {}
        self.left: File | None = None
        self._share = share
        self._most = 0

    def begin(self, directory: File) -> bool:
        """Count one more file below a directory, and return whether the share had the memory.

        If it had not, nothing is counted; only `left` may have been given back. The time grows with
        the number of new directories, and there are few: a walk has 16 names.
        """
        below, new, size = self.below, [], 0
        at: File | None = directory
        while at is not None and at not in below:
            new.append(at)
            size += DIRECTORY_BYTES + at.weight
            at = at.above
        if size and not self._share.take(size):
            return self.forget_left() and self.begin(directory)
        if at is not None:
            below[at] += 1
        for each in reversed(new):  # the deepest last, to be dropped first: see `drop`
            below[each] = 1
        self._most = max(self._most, len(below))
        return True

    def end(self, directory: File) -> None:
        """Count one less below a directory.

        A directory that nothing lies below any more becomes `left`, and the one that was left
        before is given back.
        """
        count = self.below.get(directory)
        if count is None:
            return  # dropped, while an operation still used the fid
        self.below[directory] = count - 1
        if count == 1 and directory is not self.left:
            self.forget_left()
            self.left = directory

    def drop(self, count: int) -> None:
        """Give back at most `count` directories, whatever lies below them."""
        self.left = None
        for _ in range(min(count, len(self.below))):
            directory, _ = self.below.popitem()
            self._share.give(DIRECTORY_BYTES + directory.weight)

    def forget_left(self) -> bool:
        """Give back `left` if nothing lies below it, and return whether that was so.

        The directories above it that then have nothing below them are given back too.
        """
        at, self.left = self.left, None
        below = self.below
        if at is None or below.get(at) != 0:
            return False
        count = 0
        while at is not None and count == 0:
            del below[at]
            self._share.give(DIRECTORY_BYTES + at.weight)
            at = at.above
            if at is not None:
                count = below[at] = below[at] - 1
        if self._most > _FEW and len(below) < self._most // 8:
            shrink(below)
            self._most = len(below)
        return True


def shrink(table: dict[Any, Any]) -> None:
    """Free the memory that a table needed when it had many more entries."""
    kept = table.copy()
    table.clear()
    table.update(kept)
