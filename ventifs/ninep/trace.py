r"""Messages as lines of text and back, in the notation of Plan 9's and npfs's traces.

    <<< Twalk tag 0 fid 1 newfid 2 nwname 2 'usr' 'bin'
    >>> Rwalk tag 0 nwqid 1 (0000000000000002 0 'd')
    >>> Rread tag 3 count 6 'hello\n'

`<<<` is what the tracing side received, `>>>` what it sent. A line holds all of its message, is
ASCII, and follows from the message's declaration: labels are the fields' names, but for those in
the tables below. All ones (NOTAG, NOFID, "leave as it is") are -1, as C's %d had them. What is no
message of the dialect stands as `??? HEX`. Owns no stream and no file.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from ventifs.ninep.codec import HEADER, HEADER_SIZE, Codec
from ventifs.ninep.messages import (
    MESSAGES,
    NOTAG,
    Dialect,
    Dirent,
    Message,
    Record,
    Rreaddir,
    Rversion,
    Tcreate,
    Topen,
    Tversion,
)
from ventifs.ninep.wire import Field, Qid, WireError, fields_of

RECORDS: dict[type[Record], type[Record]] = {Rreaddir: Dirent}  # what their data consists of
_LABELS = {"data": "count", "wnames": "nwname", "wqids": "nwqid", "kind": "type"}
_OCTAL = frozenset({"mode", "perm"})
_HEX = frozenset({"flags", "request_mask", "valid", "rdev", "fstype", "fsid"})
_DECIMAL = {(Topen, "mode"), (Tcreate, "mode")}  # not a file's mode, whatever its name
_BITS = {"B": 8, "H": 16, "I": 32, "Q": 64}
_LEAST = {8: 0, 16: -1, 32: -1, 64: -1 << 63}  # by bits; times before 1970 are negative
_BIT_LETTERS = (
    "dalMAtLH"  # directory, append-only, exclusive, mount, auth, temporary, symlink, link
)
_QID_TYPES = ["".join(letter for bit, letter in enumerate(_BIT_LETTERS) if number & 0x80 >> bit)
              for number in range(256)]  # fmt: skip

_NAMED = {record.__name__: record for record in MESSAGES.values()}
_DIALECTS = {dialect.version: dialect for dialect in Dialect}
_PLAIN = bytes(byte for byte in range(32, 127) if byte not in b"'\\")
_ESCAPES = [chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in range(256)]
for _byte, _letter in (b"''", b"\\\\", b"\nn", b"\tt"):
    _ESCAPES[_byte] = f"\\{_letter:c}"
_UNESCAPES = {text.encode(): bytes([byte]) for byte, text in enumerate(_ESCAPES)}
_ESCAPE = re.compile(rb"\\(?:x[0-9a-f]{2}|.)")
_TOKEN = re.compile(r" (\([0-9a-f]{16} [0-9a-f]{1,8} '[a-zA-Z]*'\)|'(?:[^'\\]|\\.)*'|[^ '()]+)")
_NUMBER = re.compile(r"-?[0-9]+|0x[0-9a-f]+")
_LINE = re.compile(r"(<<<|>>>) (\w+|\?\?\?)((?: .*)?)", re.ASCII)


class Line(NamedTuple):
    """What a line of a trace says.

    Attributes:
        incoming: whether the side that traced received it.
        tag: the message's; NOTAG of a frame too short to have one.
        message: the message, or the bytes of a frame that was none.
    """

    incoming: bool
    tag: int
    message: Message | bytes


class Tracer:
    """Turns the frames of one session into lines. Use it as the session's trace."""

    def __init__(self, write: Callable[[str], object]) -> None:
        """Give each line, without its end, to `write`."""
        self._write = write
        self._codecs = _undecided()

    def __call__(self, incoming: bool, frame: bytes) -> None:
        """Write a whole message; Tversion and Rversion tell the dialect of what follows."""
        for codec in self._codecs:
            try:
                tag, message = codec.decode(frame)
            except WireError:
                continue
            if isinstance(message, Tversion | Rversion):
                agreed = _DIALECTS.get(message.version)
                self._codecs = [Codec.of(agreed)] if agreed else _undecided()
            self._write(text_of(incoming, tag, message, codec.dialect))
            return
        self._write(f"{_arrow(incoming)} ??? {frame.hex()}")


def _undecided() -> list[Codec]:
    """Those to be tried while no dialect is agreed on: the one with most fields first."""
    return [Codec.of(dialect) for dialect in (Dialect.LINUX, Dialect.UNIX, Dialect.PLAIN)]


def text_of(incoming: bool, tag: int, message: Message, dialect: Dialect) -> str:
    """The line of a message, without its end; of the fields, those that the dialect has."""
    words = [_arrow(incoming), type(message).__name__, "tag", "-1" if tag == NOTAG else str(tag)]
    words += _words(message, dialect)
    return " ".join(words)


def _arrow(incoming: bool) -> str:
    return "<<<" if incoming else ">>>"


@cache
def _fields(record: type[Record], dialect: Dialect) -> tuple[Field, ...]:
    return tuple(field for field in fields_of(record)
                 if field.name not in record.only_in
                 or dialect in record.only_in[field.name][0])  # fmt: skip


def _words(record: Record, dialect: Dialect) -> Iterator[str]:
    """Label and value of each field, in order."""
    for field in _fields(type(record), dialect):
        value = getattr(record, field.name)
        yield _LABELS.get(field.name, field.name)
        shape = field.kind.shape
        if shape == "nested":
            yield from _words(value, dialect)
        elif shape == "qid":
            yield _qid(value)
        elif shape in ("names", "qids"):
            yield str(len(value))
            yield from map(_quoted if shape == "names" else _qid, value)
        elif shape == "bytes" and field.kind.format == "H":
            yield _quoted(value)
        elif shape == "bytes":
            yield str(len(value))
            yield from _data(type(record), value)
        else:
            yield _number(type(record), field, value)


def _number(record: type[Record], field: Field, value: int) -> str:
    bits = _BITS[field.kind.format]
    if bits > 8 and value == (1 << bits) - 1:
        return "-1"
    if field.name in _HEX:
        return f"{value:#x}"
    if field.name in _OCTAL and (record, field.name) not in _DECIMAL:
        return f"0{value:o}" if value else "0"
    return str(value - (1 << 64) if value >> 63 else value)  # times before 1970


def _qid(qid: Qid) -> str:
    return f"({qid.path:016x} {qid.version:x} '{_QID_TYPES[qid.type]}')"


def _quoted(data: bytes) -> str:
    if not data.translate(None, _PLAIN):
        return f"'{data.decode()}'"
    return f"'{''.join(map(_ESCAPES.__getitem__, data))}'"


def _data(record: type[Record], data: bytes) -> Iterator[str]:
    """Records where they are meant and there are some; else text, or what is not text in hex."""
    part = RECORDS.get(record)
    if part is not None and data:
        try:
            for dirent in list(Codec.of(Dialect.LINUX).dirents(data)):
                yield from _words(dirent, Dialect.LINUX)
            return
        except WireError:
            pass
    odd = len(data.translate(None, _PLAIN))
    yield data.hex() if 3 * odd > len(data) else _quoted(data)


def parse(line: str) -> Line:
    """What a line of a trace says; whatever stands before its arrow, such as a time, is passed by.

    Raises:
        WireError: when it is no such line, or not whole.
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
        """Nothing is left."""
        if self._words:
            raise ValueError(f"{self._words[-1][:30]!r} is too much")

    def record(self, kind: type[Record]) -> Any:
        """A record, from its first label on; fields that only some dialects have may be missing."""
        values = []
        for field in fields_of(kind):
            label = _LABELS.get(field.name, field.name)
            if field.name in kind.only_in and not self._sees(label):
                values.append(kind.only_in[field.name][1])
            else:
                values.append(self._value(kind, field, label))
        return kind(*values)

    def _value(self, kind: type[Record], field: Field, label: str) -> Any:
        shape = field.kind.shape
        if not shape:
            return self.number(label, _BITS[field.kind.format])
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
        """A number behind its label."""
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
        return Qid(_QID_TYPES.index(letters[1:-1]), int(version, 16), int(path, 16))

    def _text(self) -> bytes:
        word = self._next()
        if not word.startswith("'"):
            raise ValueError(f"{word[:30]!r} is not quoted")
        return _ESCAPE.sub(lambda found: _UNESCAPES[found[0]], word[1:-1].encode("ascii"))

    def _data(self, kind: type[Record], length: int) -> bytes:
        data = b""
        if kind in RECORDS and self._sees("qid"):
            codec = Codec.of(Dialect.LINUX)
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
