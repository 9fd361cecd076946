"""What an archive run has done so far, and how it reports that."""

from collections.abc import Callable

import msgspec


class Tally(msgspec.Struct):
    """What an archive run has done so far.

    Attributes:
        entries: names archived, directories included.
        bytes: bytes of regular files.
        new_bytes: bytes of blocks that the store did not have.
        stored_bytes: how much the arenas grew; known at the end.
    """

    entries: int = 0
    bytes: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0


ArchiveProgress = Callable[[Tally, bytes], None]  # what was done, the current path
