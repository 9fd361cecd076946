"""A stream of 9P cut into messages, for servers and clients.

What always holds: each byte that comes is copied a few times at most, however it was cut.
"""

from ventifs.ninep.protocol.codec import HEADER_SIZE
from ventifs.ninep.protocol.wire import WireError


class FrameSizeError(WireError):
    """The next message has a size that none can have.

    Attributes:
        size: bytes.
    """

    def __init__(self, size: int, size_max: int) -> None:
        """Of so many bytes, where `size_max` are allowed."""
        super().__init__(f"a message of {size} bytes: {HEADER_SIZE} to {size_max} are allowed")
        self.size = size


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
            FrameSizeError: for the size of the next one.
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
        """The next whole frame, which was then looked at; None when it has not come whole.

        Raises:
            FrameSizeError: for the size of the next one.
        """
        if not self.frame(size_max):
            return None
        data, at = self.data, self.at
        self.at = end = at + int.from_bytes(data[at : at + 4], "little")
        return data[at:end]

    def __len__(self) -> int:
        """Bytes not looked at."""
        return len(self.data) - self.at + len(self.tail)
