"""Limits on the memory that clients make a process hold: in total, and for each peer.

Owns the sums, and what files cost. Invariants: the sum charged to a peer is never more than its
share, and the sum charged to all peers is never more than the budget; what is given back can be
taken again. The sums are estimates, rounded up, of the memory of sessions and fids; caches that all
peers share are not included. A peer is what `net/admission.py` counts as one, however many
connections it has. Knows neither fids nor sessions.
"""

import sys

# What is charged for files (`File.weight`), in bytes of resident memory, measured and rounded up.
RAW_BYTES = 192  # the longest entry that the charge for every file covers
# For a directory that has counted files below it (`held_directories.py`), in addition to its
# weight: its object 80, its token 48, its entry at most 240, its place in the table 60. A file
# keeps all directories above it, which may be thousands. A directory is charged this even if a fid
# holds it too.
DIRECTORY_BYTES = 448
GUARDED_DIRECTORY_BYTES = 768  # of a directory whose modes are checked: its attributes are kept
ROOT_BYTES = 1024  # of a root of a version, which always keeps its identity


class Share:
    """The memory that one peer holds.

    Attributes:
        held: bytes.
        bytes_max: the most that it may hold.

    Concurrency: for the event loop's thread; never waits.
    """

    __slots__ = ("_budget", "_who", "bytes_max", "held")

    def __init__(self, budget: "Budget", who: str, bytes_max: int) -> None:
        """Start with a peer that holds nothing."""
        self._budget = budget
        self._who = who
        self.bytes_max = bytes_max
        self.held = 0

    def take(self, size: int) -> bool:
        """Take `size` bytes, all or none, and return whether they were available."""
        held, budget = self.held + size, self._budget
        whole = budget.held + size
        if held > self.bytes_max or whole > budget.bytes_max:
            if not self.held:
                budget.forget(self._who)
            return False
        self.held = held
        budget.held = whole
        return True

    def has(self, size: int) -> bool:
        """Whether `size` bytes could be taken now."""
        budget = self._budget
        return self.held + size <= self.bytes_max and budget.held + size <= budget.bytes_max

    def shortage(self, size: int) -> str:
        """Why `size` bytes cannot be taken, for the log."""
        if self.held + size > self.bytes_max:
            return f"{self._who} holds {self.held} bytes of memory, of {self.bytes_max}"
        return f"clients hold {self._budget.held} bytes of memory, of {self._budget.bytes_max}"

    def give(self, size: int) -> None:
        """Give back `size` bytes that were taken."""
        self.held -= size
        self._budget.held -= size
        assert self.held >= 0, "more was given back than was taken"
        if not self.held:
            self._budget.forget(self._who)


class Budget:
    """The memory that all peers of a process may hold.

    Attributes:
        bytes_max: the most that all may hold together; one peer may hold half of it.
        held: bytes that they hold now.
    """

    def __init__(self, bytes_max: int = sys.maxsize) -> None:
        """Start with no peers."""
        self.bytes_max = bytes_max
        self.held = 0
        self._shares: dict[str, Share] = {}

    def share_of(self, who: str) -> Share:
        """A peer's share: the same object as long as the peer holds something."""
        share = self._shares.get(who)
        if share is None:
            share = self._shares[who] = Share(self, who, self.bytes_max // 2)
        return share

    @property
    def peers(self) -> int:
        """The number of peers that hold something, or are about to."""
        return len(self._shares)

    def forget(self, who: str) -> None:
        """Drop the share of a peer that holds nothing, so that past peers take no memory."""
        self._shares.pop(who, None)
