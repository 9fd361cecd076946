"""The replies of a turn, as they are to be sent.

Always: small pieces are joined; large ones are sent as they are, and so are all pieces of a very
large reply.
"""

from collections.abc import Sequence

from ventifs.buffer import Buffer, FileRange, Piece

SMALL = 4096  # bytes of the largest piece of a reply that is joined with its neighbours


class TurnOutput:
    """The replies of a turn.

    Attributes:
        small: the small pieces that come after all others, not yet joined.
        size: bytes of the replies.
        pinned: bytes of memory that they keep from being freed; not counted for a reply that ends
            the turn by its size alone.
    """

    def __init__(self, size_max: int) -> None:
        """No reply yet; the turn ends with `size_max` bytes of them."""
        self.small: list[Buffer] = []
        self._size_max = size_max
        self.size = 0
        self.pinned = 0
        self._whole: list[Piece] = []

    def add(self, pieces: Sequence[Piece], size: int) -> None:
        """Add a reply of so many bytes."""
        small = self.small
        self.size += size
        if size >= self._size_max and size > SMALL * len(pieces):
            # The turn's last reply, in large pieces: looking at each of them costs time. See
            # docs/performance.md.
            self._join()
            self._whole += pieces
            return
        for piece in pieces:
            if len(piece) <= SMALL:
                small.append(piece)  # type: ignore[arg-type]  # a range of a file is larger
            else:
                if small:
                    self._join()
                self._whole.append(piece)
                if isinstance(piece, FileRange):
                    continue
                whole = piece.obj if type(piece) is memoryview else piece
                # A view of a part keeps the whole clump. For bytes, `len` is quicker.
                self.pinned += len(whole) if type(whole) is bytes else memoryview(whole).nbytes

    def collected(self) -> list[Piece]:
        """All replies, as they are to be sent."""
        self._join()
        return self._whole

    def _join(self) -> None:
        if self.small:
            # Cleared, not replaced: the session's loop keeps its `append`.
            self._whole.append(b"".join(self.small))
            self.small.clear()
