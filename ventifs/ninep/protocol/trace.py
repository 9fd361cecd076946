r"""Messages as lines of text, in the notation of Plan 9's and npfs's traces.

    <<< Twalk tag 0 fid 1 newfid 2 nwname 2 'usr' 'bin'
    >>> Rwalk tag 0 nwqid 1 (0000000000000002 0 'd')
    >>> Rread tag 3 count 6 'hello\n'

`<<<` marks messages that the tracing side received, `>>>` those that it sent. A line is ASCII and
holds the whole message. It follows from the message's declaration: labels are the fields' names,
except those in the tables below. All ones (NOTAG, NOFID, "leave as it is") are shown as -1, as C's
%d shows them. A frame that is no message of the dialect is shown as `??? HEX`. Owns no stream and
no file.
"""

from collections.abc import Callable, Iterator
from functools import cache

from ventifs.ninep.protocol.codec import MessageCodec
from ventifs.ninep.protocol.messages import (
    NOTAG,
    Dialect,
    Dirent,
    Message,
    Rreaddir,
    Rversion,
    Tcreate,
    Topen,
    Tversion,
    WireRecord,
)
from ventifs.ninep.protocol.wire import Field, Qid, WireError, fields_of

RECORDS: dict[type[WireRecord], type[WireRecord]] = {
    Rreaddir: Dirent
}  # the records in the data of these messages
LABELS = {"data": "count", "wnames": "nwname", "wqids": "nwqid", "kind": "type"}
_OCTAL = frozenset({"mode", "perm"})
_HEX = frozenset({"flags", "request_mask", "valid", "rdev", "fstype", "fsid"})
_DECIMAL = {(Topen, "mode"), (Tcreate, "mode")}  # an open mode, not a file's
BITS = {"B": 8, "H": 16, "I": 32, "Q": 64}
_BIT_LETTERS = (
    "dalMAtLH"  # directory, append-only, exclusive, mount, auth, temporary, symlink, link
)
QID_TYPES = [
    "".join(letter for bit, letter in enumerate(_BIT_LETTERS) if number & 0x80 >> bit)
    for number in range(256)
]

_DIALECTS = {dialect.version: dialect for dialect in Dialect}
_PLAIN = bytes(byte for byte in range(32, 127) if byte not in b"'\\")
ESCAPES = [chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in range(256)]
for _byte, _letter in (b"''", b"\\\\", b"\nn", b"\tt"):
    ESCAPES[_byte] = f"\\{_letter:c}"


class Tracer:
    """Turns the frames of one session into lines; pass it as the session's trace."""

    def __init__(self, write: Callable[[str], object]) -> None:
        """Call `write` with each line, without a newline."""
        self._write = write
        self._codecs = _undecided()

    def __call__(self, incoming: bool, frame: bytes) -> None:
        """Write the line of a frame; Tversion and Rversion set the dialect of later frames."""
        for codec in self._codecs:
            try:
                tag, message = codec.decode(frame)
            except WireError:
                continue
            if isinstance(message, Tversion | Rversion):
                agreed = _DIALECTS.get(message.version)
                self._codecs = [MessageCodec.of(agreed)] if agreed else _undecided()
            self._write(text_of(incoming, tag, message, codec.dialect))
            return
        self._write(f"{_arrow(incoming)} ??? {frame.hex()}")


def _undecided() -> list[MessageCodec]:
    """The codecs to try while no dialect is agreed on, the one with the most fields first."""
    return [MessageCodec.of(dialect) for dialect in (Dialect.LINUX, Dialect.UNIX, Dialect.PLAIN)]


def text_of(incoming: bool, tag: int, message: Message, dialect: Dialect) -> str:
    """The line of a message, without a newline, with the fields that the dialect has."""
    words = [_arrow(incoming), type(message).__name__, "tag", "-1" if tag == NOTAG else str(tag)]
    words += _words(message, dialect)
    return " ".join(words)


def _arrow(incoming: bool) -> str:
    return "<<<" if incoming else ">>>"


@cache
def _fields(record: type[WireRecord], dialect: Dialect) -> tuple[Field, ...]:
    return tuple(
        field
        for field in fields_of(record)
        if field.name not in record.only_in or dialect in record.only_in[field.name][0]
    )


def _words(record: WireRecord, dialect: Dialect) -> Iterator[str]:
    """Label and value of each field, in order."""
    for field in _fields(type(record), dialect):
        value = getattr(record, field.name)
        yield LABELS.get(field.name, field.name)
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


def _number(record: type[WireRecord], field: Field, value: int) -> str:
    bits = BITS[field.kind.format]
    if bits > 8 and value == (1 << bits) - 1:
        return "-1"
    if field.name in _HEX:
        return f"{value:#x}"
    if field.name in _OCTAL and (record, field.name) not in _DECIMAL:
        return f"0{value:o}" if value else "0"
    return str(value - (1 << 64) if value >> 63 else value)  # times before 1970


def _qid(qid: Qid) -> str:
    return f"({qid.path:016x} {qid.version:x} '{QID_TYPES[qid.type]}')"


def _quoted(data: bytes) -> str:
    if not data.translate(None, _PLAIN):
        return f"'{data.decode()}'"
    return f"'{''.join(map(ESCAPES.__getitem__, data))}'"


def _data(record: type[WireRecord], data: bytes) -> Iterator[str]:
    """The records of an Rreaddir; else quoted text, or hex if over a third does not print."""
    part = RECORDS.get(record)
    if part is not None and data:
        try:
            for dirent in list(MessageCodec.of(Dialect.LINUX).dirents(data)):
                yield from _words(dirent, Dialect.LINUX)
            return
        except WireError:
            pass
    odd = len(data.translate(None, _PLAIN))
    yield data.hex() if 3 * odd > len(data) else _quoted(data)
