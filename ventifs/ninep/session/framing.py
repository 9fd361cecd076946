"""The two ends of a session's stream: bytes that came, cut into frames, and replies to be sent.

What always holds: each byte that comes is copied a few times at most, however it was cut; small
pieces of replies are joined, large ones are sent as they are, and so is all of a very large reply.
"""

from ventifs.buffer import Buffer
from ventifs.ninep.protocol.codec import HEADER_SIZE
from ventifs.ninep.protocol.wire import WireError

SMALL = 4096  # bytes of a reply's piece that is joined with its neighbours; of a large one, less


class Input:
    """Bytes that came and were not looked at.

    Attributes:
        data: bytes with whole frames, from `at` on, and perhaps a part of one.
        at: how far they were looked at.
        tail: bytes that came behind `data`, while that holds no whole frame.
    """

    def __init__(self) -> None:
        """Nothing came."""
        self.data = b""
        self.at = 0
        self.tail = bytearray()

    def receive(self, data: bytes) -> None:
        """Take bytes as they came."""
        if self.at == len(self.data) and not self.tail:
            self.data, self.at = data, 0
            return
        if not self.tail:
            self.tail += memoryview(self.data)[self.at :]
            self.data, self.at = b"", 0
        self.tail += data

    def frame(self, size_max: int) -> bool:
        """Whether a whole frame is at hand, which is then in `data` at `at`.

        Args:
            size_max: bytes that a frame may have.

        Raises:
            WireError: when the next one has an impossible size.
        """
        source: bytes | bytearray = self.data
        at = self.at
        if self.tail:
            source, at = self.tail, 0
        left = len(source) - at
        if left < 4:
            return False
        size = int.from_bytes(source[at : at + 4], "little")
        if not HEADER_SIZE <= size <= size_max:
            raise WireError(f"a message of {size} bytes: {HEADER_SIZE} to {size_max} are allowed")
        if left < size:
            return False
        if self.tail:
            self.data, self.at, self.tail = bytes(self.tail), 0, bytearray()
        return True

    def __len__(self) -> int:
        """Bytes not looked at."""
        return len(self.data) - self.at + len(self.tail)


class Output:
    """The replies of a turn.

    Attributes:
        small: small pieces that follow all else.
        size: bytes of the replies.
        pinned: bytes of memory that they keep from being freed; not kept for a reply that ends the
            turn by its size alone.
    """

    def __init__(self, size_max: int) -> None:
        """No reply yet; the turn ends with `size_max` bytes of them."""
        self.small: list[Buffer] = []
        self._size_max = size_max
        self.size = 0
        self.pinned = 0
        self._whole: list[Buffer] = []

    def add(self, pieces: list[Buffer], size: int) -> None:
        """Add a reply of so many bytes."""
        small = self.small
        self.size += size
        if size >= self._size_max and size > SMALL * len(pieces):
            # The turn's last, in large pieces: 3 us less for 512 KiB in 16 than to look at each.
            self._join()
            self._whole += pieces
            return
        for piece in pieces:
            if len(piece) <= SMALL:
                small.append(piece)
            else:
                if small:
                    self._join()
                self._whole.append(piece)
                whole = piece.obj if type(piece) is memoryview else piece
                # All of a clump, for a part of it; of bytes the quick way.
                self.pinned += len(whole) if type(whole) is bytes else memoryview(whole).nbytes

    def collected(self) -> list[Buffer]:
        """All replies, as they are to be sent."""
        self._join()
        return self._whole

    def _join(self) -> None:
        if self.small:
            # Cleared, not replaced: the session's loop holds it.
            self._whole.append(b"".join(self.small))
            self.small.clear()
