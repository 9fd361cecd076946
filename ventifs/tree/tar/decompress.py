"""Decompresses a stream that may be compressed: forward only, once.

The compression is recognised by the first bytes, never by a name. A stream that ends within a
compressed frame is refused, even where the library would not notice. A decompressor gets so little
input at a time that it returns no more than about 100 MiB at once, even for hostile input.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

import msgspec
import zstandard

from ventifs.errors import VentifsError

_HEAD_SIZE = 512  # bytes, which show what the stream is
_PIECE = 256 << 10
_XZ_MEMORY_MAX = 256 << 20  # xz -9 needs 65 MiB
_USTAR_AT = slice(257, 262)  # a tar header's magic: its first name may look like a compression's


class BadTar(VentifsError):
    """A stream that is no tar archive, or not a whole one."""


class _Decompressor(Protocol):
    """What the libraries' objects have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class _Compression(msgspec.Struct, frozen=True):
    """One compression.

    Attributes:
        name: for messages.
        magics: what a frame begins with.
        new: makes the decompressor of one frame.
        piece: bytes to hand to it at a time.
    """

    name: str
    magics: tuple[bytes, ...]
    new: Callable[[], _Decompressor]
    piece: int


_CODECS = (
    _Compression("gzip", (b"\x1f\x8b\x08",), lambda: zlib.decompressobj(wbits=31), 4096),
    _Compression(
        "xz",
        (b"\xfd7zXZ\0",),
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_MAX),
        4096,
    ),
    _Compression(
        "zstd",
        (b"\x28\xb5\x2f\xfd", b"P*M\x18"),  # a frame, or the skippable one that pzstd writes first
        lambda: zstandard.ZstdDecompressor().decompressobj(),
        2048,
    ),
    _Compression("bzip2", (b"BZh",), bz2.BZ2Decompressor, 64),
)
_BAD_DATA = (
    OSError,
    EOFError,
    ValueError,
    MemoryError,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
)


class _Feed:
    """The stream before decompression, with look-ahead and a way to give bytes back."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._data = b""
        self._at = 0

    def peek(self, length: int) -> bytes:
        """The next bytes, without taking them; fewer only at the end."""
        while len(self._data) - self._at < length and (more := self._stream.read(_PIECE)):
            self._data, self._at = self._data[self._at :] + more, 0
        return self._data[self._at : self._at + length]

    def take(self, length: int) -> bytes:
        """Take at least one and at most `length` bytes; none at the end."""
        if self._at == len(self._data):
            self._data, self._at = self._stream.read(_PIECE) or b"", 0
        data = self._data[self._at : self._at + length]
        self._at += len(data)
        return data

    def give_back(self, length: int) -> None:
        """Give back the last `length` bytes that were taken."""
        self._at -= length


class Unpacked:
    """The unpacked bytes.

    Attributes:
        position: how many were read.
        codec: the compression's name; empty for none.
    """

    def __init__(self, stream: BinaryIO) -> None:
        """Read `stream` from its current position.

        Raises:
            BadTar: there is nothing to read.
        """
        feed = _Feed(stream)
        head = feed.peek(_HEAD_SIZE)
        if not head:
            raise BadTar("the input is empty; see whether what should write it has failed")
        codec = _codec_of(head)
        self.position = 0
        self.codec = "" if codec is None else codec.name
        self._pieces = _plain(feed) if codec is None else _unpacked(feed, codec)
        self._piece = b""
        self._at = 0

    def read(self, length: int) -> bytes:
        """The next bytes; fewer than `length` only at the end.

        Raises:
            BadTar: the compressed data is damaged or ends early.
            OSError: from reading.
        """
        parts = []
        while length > 0:
            if self._at == len(self._piece):
                self._piece, self._at = next(self._pieces, b""), 0
                if not self._piece:
                    break
            part = self._piece[self._at : self._at + length]
            parts.append(part)
            self._at += len(part)
            self.position += len(part)
            length -= len(part)
        return b"".join(parts)

    def skip(self, length: int) -> bool:
        """Skip bytes; return whether there were as many."""
        while length > 0:
            skipped = len(self.read(min(length, _PIECE)))
            if not skipped:
                return False
            length -= skipped
        return True

    def drain(self) -> bool:
        """Read to the end, so that the writer can finish and checksums are verified.

        Returns:
            Whether only zeros were left.
        """
        zeros = True
        while piece := self.read(_PIECE):
            zeros = zeros and not piece.strip(b"\0")
        return zeros


def _codec_of(head: bytes) -> _Compression | None:
    if head[_USTAR_AT] == b"ustar":
        return None
    return next((codec for codec in _CODECS if head.startswith(codec.magics)), None)


def _plain(feed: _Feed) -> Iterator[bytes]:
    while data := feed.take(_PIECE):
        yield data


def _unpacked(feed: _Feed, codec: _Compression) -> Iterator[bytes]:
    """Decompress frame after frame; what follows the last and is no frame is read and dropped."""
    while feed.peek(max(map(len, codec.magics))).startswith(codec.magics):
        yield from _frame(feed, codec)
        while feed.peek(1) == b"\0":  # padding
            feed.take(1)
    while feed.take(_PIECE):
        pass


def _frame(feed: _Feed, codec: _Compression) -> Iterator[bytes]:
    frame = codec.new()
    while not frame.eof:
        packed = feed.take(codec.piece)
        if not packed:
            raise BadTar(f"the {codec.name} data ends early; see whether what wrote it has failed")
        try:
            data = frame.decompress(packed)
        except _BAD_DATA as error:
            reason = " ".join(str(error).split())
            raise BadTar(
                f"the {codec.name} data is damaged ({reason}); make it or fetch it anew"
            ) from None
        if data:
            yield data
    feed.give_back(len(frame.unused_data))
