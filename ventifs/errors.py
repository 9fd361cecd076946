"""The exceptions that cross layers.

Every message is one line that names the object, the reason and, where there is one, the remedy. The
command line prints it unchanged. A message is safe to show anywhere: nonprintable characters in it
are escaped. A package's own exceptions live beside the code that raises them and derive from these.
"""

from ventifs.text import one_line


class VentifsError(Exception):
    """An operation failed, for a reason other than a bug in ventifs."""

    def __str__(self) -> str:
        """The message in one line; what does not print is escaped, in case a caller forgot to.

        Callers pass names through `printable` when they compose it. Nothing is escaped twice: this
        leaves backslashes alone.
        """
        return one_line(super().__str__())


class Corrupt(VentifsError):
    """Stored bytes are not what they were when they were written.

    Attributes:
        score: the block that is affected, where one is known.
        arena: hexadecimal id of the arena that holds the bytes, if one does.
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
        """Compose one line from the reason and the known parts of the place."""
        where = [] if score is None else [f"block {score.hex()}"]
        if arena is not None:
            where.append(f"arena {arena}" + ("" if offset is None else f" at {offset}"))
        super().__init__(", ".join([*where, reason]))
        self.reason = reason
        self.score = score
        self.arena = arena
        self.offset = offset


class NotStored(VentifsError):
    """The store does not hold a requested block."""


class NoSpace(VentifsError):
    """The disk is full; what was committed before is untouched."""


class Busy(VentifsError):
    """A lock or another resource that this operation needs is in use."""
