"""Encodes and decodes the messages of a dialect; codecs are compiled from the declarations."""

import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Self

from ventifs.ninep.protocol.messages import MESSAGES, Dialect, Dirent, Message, Stat, WireRecord
from ventifs.ninep.protocol.wire import (
    Decode,
    RecordLayout,
    Sized,
    WireError,
    compile_decode,
    compile_encode,
    fields_of,
)

HEADER = struct.Struct("<IBH")  # size of the whole message, type, tag
HEADER_SIZE = HEADER.size
READ_OVERHEAD = 24  # bytes of msize that reads leave free, by convention; an Rread needs 11
_LENGTH = struct.Struct("<H")
_DIRENT_FIXED = 24  # bytes of a Dirent without its name


class MessageCodec:
    """Encodes and decodes all messages of one dialect.

    Attributes:
        dialect: the dialect.
        decoders: by message type, a function of (data, start of the fields, end).
        encoders: by message class, a function of (message, tag).
    """

    def __init__(self, dialect: Dialect) -> None:
        """Compile the codecs of all messages; call `of` instead, which caches the result."""
        self.dialect = dialect
        self._sized: dict[type, Sized] = {}
        for part in (Dirent, Stat):
            self._sized[part] = self._compiled(part)
        self.decoders: dict[int, Decode] = {}
        self.encoders: dict[type, Callable[[Any, int], bytes]] = {}
        for number, record in MESSAGES.items():
            if dialect in record.dialects:
                layout = self._layout(record)
                self.decoders[number] = compile_decode(layout, self._sized)
                self.encoders[record] = compile_encode(layout, self._sized, number)

    @classmethod
    @cache
    def of(cls, dialect: Dialect) -> Self:
        """The codec of a dialect."""
        return cls(dialect)

    def _layout(self, record: type[WireRecord]) -> RecordLayout:
        away = {
            name: value
            for name, (dialects, value) in record.only_in.items()
            if self.dialect not in dialects
        }
        fields = tuple(field for field in fields_of(record) if field.name not in away)
        return RecordLayout(record, fields, away, record.optional)

    def _compiled(self, record: type[WireRecord]) -> Sized:
        layout = self._layout(record)
        decode, encode = compile_decode(layout, self._sized), compile_encode(layout, self._sized)
        if not record.prefixed:
            return Sized(decode, encode)

        def decode_prefixed(data: bytes, at: int, end: int) -> Any:
            if end - at < 2 or _LENGTH.unpack_from(data, at)[0] != end - at - 2:
                raise WireError(f"{record.__name__} is not of the size it says")
            return decode(data, at + 2, end)

        def encode_prefixed(value: Any) -> bytes:
            body = encode(value)
            if len(body) > 0xFFFF:
                raise WireError(f"{record.__name__} of {len(body)} bytes")
            return _LENGTH.pack(len(body)) + body

        return Sized(decode_prefixed, encode_prefixed)

    def decode(self, frame: bytes) -> tuple[int, Message]:
        """Decode a whole frame, from its size field on, to (tag, message).

        Raises:
            WireError: when the frame is no valid message of this dialect.
        """
        if len(frame) < HEADER_SIZE:
            raise WireError(f"a message of {len(frame)} bytes: the least is {HEADER_SIZE}")
        size, number, tag = HEADER.unpack_from(frame)
        if size != len(frame):
            raise WireError(f"a message of {len(frame)} bytes says it has {size}")
        decode = self.decoders.get(number)
        if decode is None:
            raise WireError(f"{self.dialect.version.decode()} has no message of type {number}")
        return tag, decode(frame, HEADER_SIZE, size)

    def encode(self, message: Message, tag: int) -> bytes:
        """Encode a message to a whole frame, from its size field on.

        Raises:
            WireError: for a value that does not fit its field.
        """
        return self.encoders[type(message)](message, tag)

    def encode_record(self, record: WireRecord) -> bytes:
        """Encode a `Stat` or a `Dirent` as it appears in the data of a directory.

        Raises:
            WireError: for a value that does not fit its field.
        """
        return self._sized[type(record)].encode(record)

    def stats(self, data: bytes) -> Iterator[Stat]:
        """The records in the data of a directory's Rread.

        Raises:
            WireError: when the data is not a whole number of records.
        """
        at = 0
        while at < len(data):
            if len(data) - at < 2:
                raise WireError("a directory ends within a Stat")
            end = at + 2 + _LENGTH.unpack_from(data, at)[0]
            if end > len(data):
                raise WireError("a directory ends within a Stat")
            yield self._sized[Stat].decode(data, at, end)
            at = end

    def dirents(self, data: bytes) -> Iterator[Dirent]:
        """The records in the data of an Rreaddir.

        Raises:
            WireError: when the data is not a whole number of records.
        """
        at = 0
        while at < len(data):
            if len(data) - at < _DIRENT_FIXED:
                raise WireError("a directory ends within a Dirent")
            end = at + _DIRENT_FIXED + _LENGTH.unpack_from(data, at + _DIRENT_FIXED - 2)[0]
            if end > len(data):
                raise WireError("a directory ends within a Dirent")
            yield self._sized[Dirent].decode(data, at, end)
            at = end
