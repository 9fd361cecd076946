r"""Foreign bytes as text that is safe to show: the one place where names and messages are escaped.

A name, an owner, a label, a comment or a server's words can hold anything: a newline that forges a
line, an escape sequence that drives the terminal, a mark that turns the order of characters. What
comes from outside passes `printable` where a line is composed. Whole lines pass `one_line` where
they are printed, and streams for people are `PrintableStream`, so that a forgotten place shows
odd characters but does no harm. Contents of files and names behind `-0` are not text and pass none.

What always holds: the result prints (`str.isprintable`), and so holds no control character (C0,
DEL, C1), no format character (bidirectional marks, zero-width characters), no line separator and
no surrogate; nor a character that Unicode says is drawn as nothing. `printable` gives different
names different texts.
"""

import codecs
import io
import os
import re
from typing import TextIO, cast

# Drawn as nothing, though `str.isprintable` takes them for letters, marks and symbols: of Unicode's
# Default_Ignorable_Code_Point what it lets through, and the empty braille cell.
_blank = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
).search
_LETTERS = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}


def printable(text: bytes | str | os.PathLike[str]) -> str:
    r"""A foreign text as a part of a line, another for every text.

    A byte that is not UTF-8 is `\xff`, a control character `\n` or `\x1b`, other characters that do
    not print `\u2028`; a backslash is two, as `ls -b` has it. Of a str, surrogates stand for bytes,
    as `os.fsdecode` has it.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    elif not isinstance(text, str):
        text = os.fspath(text)
    if "\\" in text:
        text = text.replace("\\", r"\\")
    return text if text.isascii() and text.isprintable() else one_line(text)


def one_line(text: str) -> str:
    """A composed line, of parts that are escaped already: whatever still does not print is escaped.

    Idempotent. Backslashes stay, so two texts may give one; names need `printable`.
    """
    if _prints(text):
        return text
    return "".join(map(_shown, text))


def shell_word(text: str | os.PathLike[str]) -> str:
    r"""A word of a command to paste: the shell reads it as `text`, whatever stands in it.

    Where something does not print it is `$'\x1b'`, as bash, zsh, ksh and busybox read it.
    """
    import shlex  # seldom needed

    text = os.fspath(text)
    if one_line(text) == text:
        return shlex.quote(text)
    return f"$'{''.join(map(_in_shell, text))}'"


class PrintableStream(io.TextIOWrapper):
    """A text stream for people: newlines pass, everything else that does not print is escaped."""

    origin: io.TextIOWrapper | None = None  # it closes the buffer, which both have, when it goes

    def write(self, text: str) -> int:
        """Write lines, or parts of one."""
        if not _prints(text.removesuffix("\n")):
            text = "\n".join(map(one_line, text.split("\n")))
        return super().write(text)

    def drawing(self) -> TextIO:
        """A stream to the same place for what the program draws itself; nothing is escaped."""
        return cast(TextIO, _Drawing(self))


def _unencodable(error: UnicodeError) -> tuple[str, int]:
    """What a locale's encoding lacks: shown as other characters are, never as a byte."""
    assert isinstance(error, UnicodeEncodeError)
    part = error.object[error.start : error.end]
    return "".join(map(_code, part)), error.end


UNENCODABLE = "ventifs.printable"
"""The `errors` of streams for people."""
codecs.register_error(UNENCODABLE, _unencodable)


def escaping(stream: io.TextIOWrapper) -> PrintableStream:
    """A stream for people to the same place, line by line; `stream` itself is used no more."""
    stream.flush()
    made = PrintableStream(
        stream.buffer, encoding=stream.encoding, errors=UNENCODABLE, line_buffering=True
    )
    made.origin = stream
    return made


class _Drawing(io.TextIOBase):
    """Writes to a stream's buffer. Closes nothing when it is dropped."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def write(self, text: str) -> int:
        self._stream.flush()
        self._stream.buffer.write(text.encode(self._stream.encoding, UNENCODABLE))
        return len(text)

    def flush(self) -> None:
        self._stream.buffer.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def _prints(text: str) -> bool:
    """Whether a text is shown as it is."""
    return text.isprintable() and (text.isascii() or not _blank(text))


def _shown(character: str) -> str:
    if _prints(character):
        return character
    return _LETTERS.get(character) or _code(character)


def _code(character: str) -> str:
    number = ord(character)
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def _in_shell(character: str) -> str:
    if character in "'\\":
        return f"\\{character}"
    if one_line(character) == character:
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
