"""Parses lines of a 9P trace into messages: the reverse of `ventifs.ninep.protocol.trace`."""

import re
from typing import Any, NamedTuple

from ventifs.ninep.protocol.codec import HEADER, HEADER_SIZE, MessageCodec
from ventifs.ninep.protocol.messages import MESSAGES, NOTAG, Dialect, Message, WireRecord
from ventifs.ninep.protocol.trace import BITS, ESCAPES, LABELS, QID_TYPES, RECORDS
from ventifs.ninep.protocol.wire import Field, Qid, WireError, fields_of

_LEAST = {8: 0, 16: -1, 32: -1, 64: -1 << 63}  # by bits; times before 1970 are negative
_NAMED = {record.__name__: record for record in MESSAGES.values()}
_UNESCAPES = {text.encode(): bytes([byte]) for byte, text in enumerate(ESCAPES)}
_ESCAPE = re.compile(rb"\\(?:x[0-9a-f]{2}|.)")
_TOKEN = re.compile(r" (\([0-9a-f]{16} [0-9a-f]{1,8} '[a-zA-Z]*'\)|'(?:[^'\\]|\\.)*'|[^ '()]+)")
_NUMBER = re.compile(r"-?[0-9]+|0x[0-9a-f]+")
_LINE = re.compile(r"(<<<|>>>) (\w+|\?\?\?)((?: .*)?)", re.ASCII)


class Line(NamedTuple):
    """The content of a line.

    Attributes:
        incoming: whether the tracing side received it.
        tag: that of the message; NOTAG for a frame too short to have one.
        message: the message, or the bytes of a frame that is not one.
    """

    incoming: bool
    tag: int
    message: Message | bytes


def parse(line: str) -> Line:
    """The content of a line; text before its arrow, such as a time, is ignored.

    Raises:
        WireError: it is no such line, or incomplete.
    """
    found = _LINE.search(line.rstrip("\r\n"))
    if found is None:
        raise WireError(f"no line of a 9P trace: {line[:60]!r}")
    incoming, name, rest = found[1] == "<<<", found[2], found[3]
    try:
        if name == "???":
            frame = bytes.fromhex(rest)
            tag = HEADER.unpack_from(frame)[2] if len(frame) >= HEADER_SIZE else NOTAG
            return Line(incoming, tag, frame)
        words = _Words(rest)
        tag = words.number("tag", 16)
        message = words.record(_NAMED[name])
        words.end()
    except (KeyError, ValueError) as error:
        raise WireError(f"no {name} as a 9P trace has it: {error}") from None
    return Line(incoming, tag, message)


class _Words:
    """The words of a line behind the message's name, taken from the left."""

    def __init__(self, text: str) -> None:
        self._words: list[str] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise ValueError(f"{text[at:][:30]!r} is not to be understood")
            self._words.append(found[1])
            at = found.end()
        self._words.reverse()

    def _next(self) -> str:
        if not self._words:
            raise ValueError("it ends too early")
        return self._words.pop()

    def _sees(self, label: str) -> bool:
        return self._words[-1:] == [label]

    def _take(self, label: str) -> None:
        if not self._sees(label):
            raise ValueError(f"{label} is missing")
        self._words.pop()

    def end(self) -> None:
        """Check that nothing is left."""
        if self._words:
            raise ValueError(f"{self._words[-1][:30]!r} is too much")

    def record(self, kind: type[WireRecord]) -> Any:
        """A record, from its first label on; fields that only some dialects have may be missing."""
        values = []
        for field in fields_of(kind):
            label = LABELS.get(field.name, field.name)
            if field.name in kind.only_in and not self._sees(label):
                values.append(kind.only_in[field.name][1])
            else:
                values.append(self._value(kind, field, label))
        return kind(*values)

    def _value(self, kind: type[WireRecord], field: Field, label: str) -> Any:
        shape = field.kind.shape
        if not shape:
            return self.number(label, BITS[field.kind.format])
        if shape in ("names", "qids"):
            one = self._text if shape == "names" else self._qid
            return tuple(one() for _ in range(self.number(label, 16)))
        if field.kind.format == "I":
            return self._data(kind, self.number(label, 32))
        self._take(label)
        if shape == "nested":
            assert field.nested is not None
            return self.record(field.nested)
        return self._qid() if shape == "qid" else self._text()

    def number(self, label: str, bits: int) -> int:
        """The number after a label."""
        self._take(label)
        word = self._next()
        if not _NUMBER.fullmatch(word):
            raise ValueError(f"{label} {word[:30]!r} is no number")
        base = 16 if word.startswith("0x") else 8 if word.startswith("0") else 10
        value = int(word, base)  # octal digits of 8 or 9 are its ValueError
        if not _LEAST[bits] <= value < 1 << bits:
            raise ValueError(f"{label} {word} does not fit {bits} bits")
        return value & (1 << bits) - 1

    def _qid(self) -> Qid:
        word = self._next()
        if not word.startswith("("):
            raise ValueError(f"{word[:30]!r} is no qid")
        path, version, letters = word[1:-1].split(" ")
        return Qid(QID_TYPES.index(letters[1:-1]), int(version, 16), int(path, 16))

    def _text(self) -> bytes:
        word = self._next()
        if not word.startswith("'"):
            raise ValueError(f"{word[:30]!r} is not quoted")
        return _ESCAPE.sub(lambda found: _UNESCAPES[found[0]], word[1:-1].encode("ascii"))

    def _data(self, kind: type[WireRecord], length: int) -> bytes:
        data = b""
        if kind in RECORDS and self._sees("qid"):
            codec = MessageCodec.of(Dialect.LINUX)
            pieces = []
            while self._sees("qid"):
                pieces.append(codec.encode_record(self.record(RECORDS[kind])))
            data = b"".join(pieces)
        elif self._words and self._words[-1].startswith("'"):
            data = self._text()
        else:
            data = bytes.fromhex(self._next())
        if len(data) != length:
            raise ValueError(f"count {length}, but {len(data)} bytes")
        return data
