"""Writes the headers of a POSIX tar archive: the ustar block and the pax records before it.

A value goes into a record only if it does not fit its field of the block exactly, so the same
member always has the same bytes. Names are bytes, and stand in the block unchanged if they fit. The
standard requires UTF-8 in records, so a long name that is not UTF-8 goes into a header of GNU's own
kind before the others, which bsdtar knows too.
"""

import struct

import msgspec

BLOCK = 512
END_SIZE = 20 * BLOCK  # POSIX: an archive is a multiple of this, and ends in zeros
_FIELDS = {  # bytes, in order
    "name": 100,
    "mode": 8,
    "uid": 8,
    "gid": 8,
    "size": 12,
    "mtime": 12,
    "checksum": 8,
    "type": 1,
    "linkname": 100,
    "magic": 6,
    "version": 2,
    "uname": 32,
    "gname": 32,
    "devmajor": 8,
    "devminor": 8,
    "prefix": 155,
    "": 12,
}
_HEADER = struct.Struct("".join(f"{size}s" for size in _FIELDS.values()))
_CHECKSUM_AT = sum(list(_FIELDS.values())[: list(_FIELDS).index("checksum")])
_FIXED = {"magic": b"ustar\0", "version": b"00", "checksum": b" " * 8}
_LONG = {"name": (b"path", b"L"), "linkname": (b"linkpath", b"K")}  # pax keyword, GNU's type


class UstarHeader(msgspec.Struct):
    """One member.

    Attributes:
        type: its letter, as in `tarfile`.
        name: any bytes but NUL; a directory's ends in a slash.
        size: bytes that follow in the stream.
        records: more (keyword, value) pax records.
    """

    type: bytes
    name: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    records: list[tuple[bytes, bytes]] = []

    def encode(self) -> bytes:
        """The member's headers, whole blocks."""
        fields = {"type": self.type, "mode": _octal(self.mode, "mode") or b""}
        head, records = b"", []
        for name, text in (("name", self.name), ("linkname", self.target)):
            fields[name] = text[: _FIELDS[name]]
            if len(text) > _FIELDS[name]:
                keyword, letter = _LONG[name]
                if _is_utf8(text):
                    records.append((keyword, text))
                else:
                    head += _before(letter, b"././@LongLink", text + b"\0")
        numbers = [("uid", self.uid), ("gid", self.gid), ("size", self.size)]
        if self.type in (b"3", b"4"):
            numbers += [("devmajor", self.device[0]), ("devminor", self.device[1])]
        for name, number in numbers:
            octal = _octal(number, name)
            fields[name] = octal or _octal(0, name) or b""
            if octal is None:
                records.append((name.encode(), b"%d" % number))
        seconds, nanoseconds = divmod(self.mtime_ns, 10**9)
        octal = _octal(seconds, "mtime")
        fields["mtime"] = octal or _octal(0, "mtime") or b""
        if nanoseconds or octal is None:
            records.append((b"mtime", _decimal(self.mtime_ns)))
        if records or self.records:
            body = b"".join(_record(*record) for record in [*records, *self.records])
            head += _before(b"x", b"././@PaxHeader", body)
        return head + _block(fields)


def _before(letter: bytes, name: bytes, body: bytes) -> bytes:
    """An extra header with a body, which describes the member after it."""
    return UstarHeader(letter, name, size=len(body)).encode() + padded(body)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def padded(data: bytes) -> bytes:
    """Data filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def _block(fields: dict[str, bytes]) -> bytes:
    values = {**_FIXED, **fields}
    block = _HEADER.pack(*(values.get(name, b"") for name in _FIELDS))
    checksum = b"%06o\0 " % sum(block)
    return block[:_CHECKSUM_AT] + checksum + block[_CHECKSUM_AT + len(checksum) :]


def _octal(number: int, name: str) -> bytes | None:
    """A number as the field `name` holds it; None if it does not fit."""
    text = b"%0*o" % (_FIELDS[name] - 1, number)
    return text if number >= 0 and len(text) < _FIELDS[name] else None


def _decimal(nanoseconds: int) -> bytes:
    """Seconds, with the sign in front and no zeros at the end."""
    whole, fraction = divmod(abs(nanoseconds), 10**9)
    text = b"%s%d.%09d" % (b"-" if nanoseconds < 0 else b"", whole, fraction)
    return text.rstrip(b"0").rstrip(b".")


def _record(keyword: bytes, value: bytes) -> bytes:
    """A pax record: its own length in decimal, which counts itself, comes first."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, keyword, value)
