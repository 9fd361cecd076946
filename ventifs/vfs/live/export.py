"""What a live export is: a directory of this host under a name, and how it is written.

Owns the grammar of `NAME=DIR[,rw][,shared|exclusive]`. Opens nothing.
"""

import os
import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from ventifs.errors import VentifsError
from ventifs.text import printable
from ventifs.tree.versions.catalog import check_name

Sharing = Literal["shared", "exclusive"]
Squashing = Literal["none", "root", "all"]

_FORM = "write NAME=DIR, and after it ,rw or ,exclusive, such as web=/srv/web,rw"
_WORD = re.compile("(?:[^,]|,,)+")
_TAKEN = "score"  # the directory of scores in `/`
_OPTIONS = frozenset({"ro", "rw", "shared", "exclusive"})


class ExportError(VentifsError):
    """A live export is written wrongly, or its name is taken."""


class LiveExport(msgspec.Struct, frozen=True):
    """A directory that is served as it is now.

    Attributes:
        name: by which clients attach; as archived names are.
        directory: its absolute path when the server started, for messages: it is served by a
            descriptor.
        writable: whether clients may write.
        sharing: `shared` for any number of connections, `exclusive` for one at a time.
        squash: which users of clients count as nobody.
    """

    name: str
    directory: str
    writable: bool = False
    sharing: Sharing = "shared"
    squash: Squashing = "none"


def parse_export(text: str, squash: Squashing = "none") -> LiveExport:
    """Parse `NAME=DIR[,rw][,shared|exclusive]`; a comma in DIR is written twice.

    Raises:
        ExportError: naming the text, what is wrong with it and how to write it.
    """
    shown = printable(text)
    name, equals, rest = text.partition("=")
    if not equals:
        raise ExportError(f"{shown}: has no '='; {_FORM}")
    try:
        check_name(name)
    except VentifsError as error:
        raise ExportError(f"{shown}: {error}") from None
    if name == _TAKEN:
        raise ExportError(f"{shown}: '{_TAKEN}' lists trees by score; choose another name")
    words = _WORD.findall(rest)
    if not words or rest.startswith(",") or ",".join(words) != rest:
        raise ExportError(f"{shown}: a directory or option is empty; {_FORM}")
    directory, *options = (word.replace(",,", ",") for word in words)
    for option in options:
        if option not in _OPTIONS:
            raise ExportError(
                f"{shown}: '{printable(option)}' is no option; write rw, shared or exclusive, and "
                "a comma in the directory's name twice"
            )
    for pair in ({"ro", "rw"}, {"shared", "exclusive"}):
        if pair <= set(options):
            raise ExportError(f"{shown}: {' and '.join(sorted(pair))} contradict each other")
    return LiveExport(
        name,
        os.path.join(os.getcwd(), directory),  # `..` after a symbolic link is the kernel's
        writable="rw" in options,
        sharing="exclusive" if "exclusive" in options else "shared",
        squash=squash,
    )


def check_names(exports: Iterable[LiveExport], archived: Iterable[str] = ()) -> None:
    """Check that each name stands for one thing.

    Args:
        exports: live ones.
        archived: the names of versions.

    Raises:
        ExportError: naming the name.
    """
    versions, seen = frozenset(archived), set[str]()
    for export in exports:
        if export.name in seen:
            raise ExportError(f"two live exports have the name '{export.name}'; rename one")
        if export.name in versions:
            raise ExportError(
                f"live export '{export.name}': versions have this name; choose another one"
            )
        seen.add(export.name)
