"""The exceptions that cross layers.

Every message is one line that names the thing, the reason and, where there is one, the remedy; the
command line prints it as it stands. It can be shown anywhere: what does not print in it is escaped.
A package's own exceptions live beside the code that raises them and derive from these.
"""

from ventifs.text import one_line


class VentifsError(Exception):
    """Anything that went wrong in an operation, as opposed to a bug in ventifs."""

    def __str__(self) -> str:
        """The message. Names in it are escaped by `printable` where it is composed."""
        return one_line(super().__str__())


class Corrupt(VentifsError):
    """Stored bytes are not what they were when they were written.

    Attributes:
        score: the block that is affected, where one is known.
        arena: hexadecimal id of the arena the bytes stand in, where they stand in one.
        offset: byte offset of the damaged clump or structure in that arena.
    """

    def __init__(
        self,
        reason: str,
        *,
        score: bytes | None = None,
        arena: str | None = None,
        offset: int | None = None,
    ) -> None:
        """Compose the one line from what is known of the place."""
        where = [] if score is None else [f"block {score.hex()}"]
        if arena is not None:
            where.append(f"arena {arena}" + ("" if offset is None else f" at {offset}"))
        super().__init__(", ".join([*where, reason]))
        self.reason = reason
        self.score = score
        self.arena = arena
        self.offset = offset


class NotStored(VentifsError):
    """A block was asked for that the store does not hold."""


class NoSpace(VentifsError):
    """The disk is full; what was committed before is untouched."""


class Busy(VentifsError):
    """Somebody else holds a lock that this operation needs."""
