"""Memory that clients make a process hold: so much in all, and so much for each peer.

Owns the sums, and what files cost. What always holds: the sum charged to a peer is never more than
its share, and the sum charged to all peers never more than the budget; what is given back can be
taken again. The sums are estimates, rounded up, of what sessions and fids take; caches that all
peers share are not in them. A peer is what `net/admission.py` counts connections of, however many
connections it has. Knows neither fids nor sessions.
"""

import sys

# What is charged for files (`File.weight`), in bytes of resident memory, measured and rounded up.
RAW_BYTES = 192  # of a file's entry, at most, in what is charged for every file
# Of a directory that files lie below (`held_directories.py`), beside its weight: its object 80, its
# token 48, its entry at most 240, its place in the table 60. Files keep their directories, so that
# thousands may hang on one file; a directory is charged this whether it is held itself too or not.
DIRECTORY_BYTES = 448
GUARDED_DIRECTORY_BYTES = 768  # of a directory whose modes are checked: its attributes are kept
ROOT_BYTES = 1024  # of a root of a version, which always knows what it is


class Share:
    """What one peer holds.

    Attributes:
        held: bytes.
        bytes_max: more is not given.

    Concurrency: of the event loop's thread; never waits.
    """

    __slots__ = ("_budget", "_who", "bytes_max", "held")

    def __init__(self, budget: "Budget", who: str, bytes_max: int) -> None:
        """Of a peer that holds nothing."""
        self._budget = budget
        self._who = who
        self.bytes_max = bytes_max
        self.held = 0

    def take(self, size: int) -> bool:
        """Take so many bytes, all or none; whether they were there."""
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
        """Whether so many bytes could be taken now."""
        budget = self._budget
        return self.held + size <= self.bytes_max and budget.held + size <= budget.bytes_max

    def shortage(self, size: int) -> str:
        """Why so many bytes cannot be taken, for the log."""
        if self.held + size > self.bytes_max:
            return f"{self._who} holds {self.held} bytes of memory, of {self.bytes_max}"
        return f"clients hold {self._budget.held} bytes of memory, of {self._budget.bytes_max}"

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.held -= size
        self._budget.held -= size
        assert self.held >= 0, "more was given back than was taken"
        if not self.held:
            self._budget.forget(self._who)


class Budget:
    """What all peers of a process may hold.

    Attributes:
        bytes_max: all together; one peer half of it.
        held: bytes that they hold now.
    """

    def __init__(self, bytes_max: int = sys.maxsize) -> None:
        """Nobody holds anything yet."""
        self.bytes_max = bytes_max
        self.held = 0
        self._shares: dict[str, Share] = {}

    def share_of(self, who: str) -> Share:
        """A peer's share; the same one as long as it holds something."""
        share = self._shares.get(who)
        if share is None:
            share = self._shares[who] = Share(self, who, self.bytes_max // 2)
        return share

    @property
    def peers(self) -> int:
        """Peers that hold something, or are about to."""
        return len(self._shares)

    def forget(self, who: str) -> None:
        """A peer holds nothing: or a million visitors would be remembered."""
        self._shares.pop(who, None)
