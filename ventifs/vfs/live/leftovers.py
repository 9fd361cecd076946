"""What listings of directories have read from the kernel and not used yet.

A reply takes fewer entries than one call of the kernel gives, so that the rest is kept for the next
reply, of a few listings only: there may be a million open directories. What was dropped is read
again. This module knows no descriptors.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from itertools import chain

Entry = tuple[int, int, int, bytes]  # inode number, cookie of what comes next, type, name

KEPT_MAX = 16  # listings; of each at most what one call of the kernel gives


class Leftover:
    """Entries of one listing, from a cookie on.

    Attributes:
        cookie: where `rest` begins.
        rest: the entries.
        end: there are none, and nothing comes after `cookie`.
        new: nothing has used them yet.
    """

    __slots__ = ("_before", "_last", "cookie", "end", "new", "rest")

    def __init__(self, cookie: int, rest: Iterator[Entry], *, end: bool = False) -> None:
        """Start at a cookie."""
        self.cookie = cookie
        self.rest = rest
        self.end = end
        self.new = True
        self._before = cookie
        self._last: Entry | None = None

    def __iter__(self) -> Iterator[Entry]:
        for entry in self.rest:
            self._before, self._last = self.cookie, entry
            self.cookie = entry[1]
            yield entry

    def back_to(self, cookie: int) -> bool:
        """Go to a cookie, and return whether that was possible.

        It is if nothing comes before it, or the entry that was given last: a reply had no room for
        that one.
        """
        if self.cookie == cookie:
            return True
        if self._last is None or self._before != cookie:
            return False
        self.rest = chain([self._last], self.rest)
        self.cookie, self._last = cookie, None
        return True


class Leftovers:
    """The leftovers of the listings used last.

    Concurrency: for any thread.
    """

    def __init__(self) -> None:
        """Keep none."""
        self._kept: OrderedDict[Hashable, Leftover] = OrderedDict()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._kept)

    def put(self, listing: Hashable, leftover: Leftover) -> None:
        """Keep what is left of a listing."""
        self._kept[listing] = leftover
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)

    def take(self, listing: Hashable, cookie: int) -> Leftover | None:
        """What is left of a listing from a cookie on, and forget it.

        What is listed from its beginning is always read anew.
        """
        leftover = self._kept.pop(listing, None)
        if leftover is None or not (cookie or leftover.new) or not leftover.back_to(cookie):
            return None
        leftover.new = False
        return leftover

    def forget(self, listing: Hashable) -> None:
        """Drop what is left of a listing."""
        self._kept.pop(listing, None)
