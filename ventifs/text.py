r"""Foreign bytes as text that is safe to show: the one place where names and messages are escaped.

A name, an owner, a label, a comment or a server's message can hold anything: a newline that forges
a line, an escape sequence that controls the terminal, a mark that reverses the order of characters.
Foreign text passes `printable` when a line is composed. Whole lines pass `one_line` when they are
printed, and streams for people are `PrintableStream`. So text that a caller forgot to escape shows
odd characters, but does no harm. Contents of files and names printed by `-0` are not text, and are
not escaped.

Always: the result is printable (`str.isprintable`). It therefore holds no control character (C0,
DEL, C1), no format character (bidirectional marks, zero-width characters), no line separator and
no surrogate. It also holds no character that Unicode draws as nothing. `printable` gives different
texts for different names.
"""

import codecs
import io
import os
import re
from typing import TextIO, cast

# Characters that are drawn as nothing although `str.isprintable` accepts them: those of Unicode's
# Default_Ignorable_Code_Point that count as letters, marks or symbols, and the empty braille cell.
_blank = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
).search
_UNSAFE = re.compile(r"([^\w@%+=:,./-])")  # to a shell
_LETTERS = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}


def printable(text: bytes | str | os.PathLike[str]) -> str:
    r"""Escape foreign text for use in a line; different texts give different results.

    A byte that is not UTF-8 becomes `\xff`, a control character `\n` or `\x1b`, any other
    nonprintable character `\u2028`. A backslash is doubled, as in `ls -b`. In a str, surrogates
    stand for bytes, as in `os.fsdecode`.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    elif not isinstance(text, str):
        text = os.fspath(text)
    if "\\" in text:
        text = text.replace("\\", r"\\")
    return text if text.isascii() and text.isprintable() else one_line(text)


def one_line(text: str) -> str:
    """Escape what is still nonprintable in a composed line, whose parts are escaped already.

    Idempotent. Backslashes stay, so two texts may give the same result; names need `printable`.
    """
    if _prints(text):
        return text
    return "".join(map(_shown, text))


def shell_word(text: str | os.PathLike[str]) -> str:
    r"""Quote `text` as one word of a command to paste; the shell reads the word as `text`.

    A text with nonprintable characters is quoted as `$'\x1b'`, which bash, zsh, ksh and busybox
    understand.
    """
    import shlex  # seldom needed

    text = os.fspath(text)
    if one_line(text) == text:
        return shlex.quote(text)
    return f"$'{''.join(map(_in_shell, text))}'"


def command_word(text: str | os.PathLike[str]) -> str:
    r"""As `shell_word`, for a command that stands between single quotes in a message.

    Printable text is quoted with backslashes, so that the single quotes around the command are the
    only ones.
    """
    text = os.fspath(text)
    if one_line(text) == text:
        return _UNSAFE.sub(r"\\\1", text) or '""'
    return shell_word(text)


class PrintableStream(io.TextIOWrapper):
    """A text stream for people: escapes all nonprintable characters except newlines."""

    origin: io.TextIOWrapper | None = None  # kept: when deleted, it closes the shared buffer

    def write(self, text: str) -> int:
        """Write lines, or parts of one."""
        if not _prints(text.removesuffix("\n")):
            text = "\n".join(map(one_line, text.split("\n")))
        return super().write(text)

    def drawing(self) -> TextIO:
        """A stream to the same place that escapes nothing, for what the program itself draws."""
        return cast(TextIO, _Drawing(self))


def _unencodable(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: show characters that the encoding lacks by number, never as a byte."""
    assert isinstance(error, UnicodeEncodeError)
    part = error.object[error.start : error.end]
    return "".join(map(_code, part)), error.end


UNENCODABLE = "ventifs.printable"
"""The `errors` of streams for people."""
codecs.register_error(UNENCODABLE, _unencodable)


def escaping(stream: io.TextIOWrapper) -> PrintableStream:
    """A line-buffered stream for people to the same place; `stream` must not be used any more."""
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
