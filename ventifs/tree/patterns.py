"""Gitignore patterns that select paths: the last pattern that matches decides.

A pattern with a slash in it is anchored at the tree's root, one without matches at any depth, one
that ends in a slash matches directories only, and `!` negates. As in git, nothing below an excluded
directory can be included again: callers walk from the top, match every path once, and do not enter
a directory that is excluded.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ventifs.errors import VentifsError
from ventifs.text import printable

if TYPE_CHECKING:
    from dulwich.ignore import Pattern


class Patterns:
    """Compiled gitignore patterns: immutable, and true if there are any."""

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        """Compile the lines; comments and blank lines are ignored.

        Raises:
            VentifsError: naming the invalid pattern.
        """
        self._patterns: list[Pattern] = []
        for line in lines:
            text = _stripped(line)
            if text and not text.startswith(b"#"):
                self._patterns.append(_compiled(text))

    def __bool__(self) -> bool:
        """Whether there are any patterns."""
        return bool(self._patterns)

    def match(self, path: bytes, *, directory: bool) -> bool:
        """Whether the last pattern that matches a path, relative to the root, has no `!`."""
        for pattern in reversed(self._patterns):
            if pattern.matches(path, directory):
                return pattern.is_exclude
        return False


def _compiled(text: bytes) -> "Pattern":
    from dulwich.ignore import Pattern  # slow to import, and seldom needed
    from dulwich.wildmatch import MalformedPattern

    try:
        return Pattern(text)
    except MalformedPattern:
        raise VentifsError(f"'{printable(text)}' is not a gitignore pattern") from None


def _stripped(line: bytes) -> bytes:
    """A line without its end, and without unescaped trailing spaces."""
    text = line.rstrip(b"\r\n")
    while text.endswith(b" ") and not text.endswith(b"\\ "):
        text = text[:-1]
    return text
