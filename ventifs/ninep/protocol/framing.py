"""Cuts a stream of 9P into messages, for servers and clients.

Invariant: each received byte is copied a few times at most, in whatever pieces the stream arrives.
"""

from ventifs.ninep.protocol.codec import HEADER_SIZE
from ventifs.ninep.protocol.wire import WireError


class FrameSizeError(WireError):
    """The next message has a size outside the allowed range.

    Attributes:
        size: bytes, as the message states it.
    """

    def __init__(self, size: int, size_max: int) -> None:
        """Report a message of `size` bytes where at most `size_max` are allowed."""
        super().__init__(f"a message of {size} bytes: {HEADER_SIZE} to {size_max} are allowed")
        self.size = size


class Input:
    """Received bytes that are not consumed yet.

    Attributes:
        data: from `at` on, frames that are not consumed; the last may be incomplete.
        at: offset in `data` of the first byte that is not consumed.
        tail: where it is not empty, all bytes that are not consumed; `data` is then empty.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.data = b""
        self.at = 0
        self.tail = bytearray()

    def receive(self, data: bytes) -> None:
        """Append received bytes."""
        if self.at == len(self.data) and not self.tail:
            self.data, self.at = data, 0
            return
        if not self.tail:
            self.tail += memoryview(self.data)[self.at :]
            self.data, self.at = b"", 0
        self.tail += data

    def frame(self, size_max: int) -> bool:
        """Return whether a whole frame has arrived; it then starts at `at` in `data`.

        Args:
            size_max: the largest allowed frame, in bytes.

        Raises:
            FrameSizeError: when the size of the next frame is not allowed.
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
            raise FrameSizeError(size, size_max)
        if left < size:
            return False
        if self.tail:
            self.data, self.at, self.tail = bytes(self.tail), 0, bytearray()
        return True

    def next(self, size_max: int) -> bytes | None:
        """Consume and return the next whole frame; None while it is incomplete.

        Raises:
            FrameSizeError: when the size of the next frame is not allowed.
        """
        if not self.frame(size_max):
            return None
        data, at = self.data, self.at
        self.at = end = at + int.from_bytes(data[at : at + 4], "little")
        return data[at:end]

    def __len__(self) -> int:
        """The number of bytes that are not consumed."""
        return len(self.data) - self.at + len(self.tail)
