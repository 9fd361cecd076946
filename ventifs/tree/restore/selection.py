"""Which part of a tree is restored, and the walk over it.

`exclude` leaves out what it matches, with everything below. With `include`, only what it matches is
chosen, with everything below a matching directory and with the directories on the way. A visitor
enters the directories on the way only when something below them is chosen. Only directory nodes are
read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.store.lmdb_environment import IndexDamaged
from ventifs.tree.objects.directory import encoded_entries
from ventifs.tree.objects.records import Directory, Entry
from ventifs.tree.patterns import Patterns


@dataclass(frozen=True, slots=True)
class Selection:
    """Patterns relative to the root of what is restored; without any, everything is chosen."""

    include: Patterns = field(default_factory=Patterns)
    exclude: Patterns = field(default_factory=Patterns)

    def __bool__(self) -> bool:
        """Whether anything may be left out."""
        return bool(self.include) or bool(self.exclude)

    def chooses(self, path: bytes, *, directory: bool) -> bool:
        """Whether a path is chosen; directories that are only on the way do not count."""
        names = path.split(b"/")
        whole = not self.include
        for length in range(1, len(names) + 1):
            upto = b"/".join(names[:length])
            is_directory = directory or length < len(names)
            if self.exclude.match(upto, directory=is_directory):
                return False
            whole = whole or self.include.match(upto, directory=is_directory)
        return whole


class Visitor(Protocol):
    """What `walk` calls for the entries of a tree."""

    def enter(self, entry: Entry) -> bool:
        """Enter a directory, the root first; False skips what is in it, and its `leave`."""

    def leaf(self, entry: Entry, data: bytes) -> None:
        """Visit anything else in the directory entered last; `data` is its canonical bytes."""

    def damaged(self, error: VentifsError) -> None:
        """Note that the rest of the directory entered last cannot be read."""

    def leave(self) -> None:
        """Leave the directory entered last: it has ended."""


@dataclass(slots=True)
class _SelectionLevel:
    """A directory on the way."""

    entry: Entry
    children: Iterator[tuple[Entry, bytes]]
    prefix: bytes  # what its children's paths begin with; unused without patterns
    whole: bool  # everything below is chosen unless it is excluded
    entered: bool = False


def walk(store: Store, root: Entry, selection: Selection, visitor: Visitor) -> None:
    """Lead a visitor over everything chosen below a directory, in order, depth first."""
    levels: list[_SelectionLevel] = []
    chooses = bool(selection)
    _go_down(store, levels, root, b"", visitor, whole=not selection.include)
    while levels:
        level = levels[-1]
        try:
            child = next(level.children, None)
        except IndexDamaged:  # rebuilding the index repairs it for all directories
            raise
        except VentifsError as error:
            if _entered(levels, visitor):
                visitor.damaged(error)
            continue
        if child is None:
            levels.pop()
            if level.entered:
                visitor.leave()
            continue
        entry, data = child
        path, whole = b"", True
        if chooses:
            path = level.prefix + entry.name
            if selection.exclude.match(path, directory=entry.is_directory):
                continue
            whole = level.whole or selection.include.match(path, directory=entry.is_directory)
        if entry.is_directory:
            _go_down(store, levels, entry, path, visitor, whole=whole)
        elif whole and (level.entered or _entered(levels, visitor)):
            visitor.leaf(entry, data)


def _go_down(
    store: Store,
    levels: list[_SelectionLevel],
    entry: Entry,
    path: bytes,
    visitor: Visitor,
    *,
    whole: bool,
) -> None:
    assert isinstance(entry.detail, Directory)
    children = encoded_entries(store, entry.detail.content)
    levels.append(_SelectionLevel(entry, children, path + b"/" if path else b"", whole))
    if whole:
        _entered(levels, visitor)


def _entered(levels: list[_SelectionLevel], visitor: Visitor) -> bool:
    """Enter the directories not entered yet; False if the visitor refuses one, which ends it."""
    if levels[-1].entered:
        return True
    for number, level in enumerate(levels):
        if not level.entered:
            if not visitor.enter(level.entry):
                del levels[number:]
                return False
            level.entered = True
    return True
