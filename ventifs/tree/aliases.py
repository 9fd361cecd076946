"""Two names of a version that are one directory of the destination, for a link there is kept.

A version that has `lib` and `usr/lib` restored over a root whose `lib` leads to `usr/lib` is the
usual case. The directory's own name decides: metadata and entries of `usr/lib` are those archived
as `usr/lib`, and what only `lib` has is added. What both have is made once if it is the same, and
reported if it is not. So nothing depends on which of them is restored first, or by which process.
Where no directory is archived under its own name, the first link that led to it decides.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.store.environment import IndexDamaged
from ventifs.text import printable
from ventifs.tree.choosing import Selection
from ventifs.tree.directory import look_up, resolve
from ventifs.tree.records import Directory, Entry, encode
from ventifs.tree.symlinks import Names


@dataclass(frozen=True, slots=True)
class Own:
    """What decides about a directory that is entered under another name.

    Attributes:
        entry: of the directory.
        names: where that stands in what is restored.
    """

    entry: Entry
    names: Names


class Aliases:
    """What a version has of the directories that links of a destination lead to."""

    def __init__(self, store: Store, root: Entry, selection: Selection) -> None:
        """Of what is restored from `root`."""
        self._store = store
        self._root = root
        self._selection = selection
        self._first: dict[Names, Own] = {}  # where no directory is archived, but links led

    def linked(self, real: Names, names: Names, entry: Entry) -> Own | None:
        """What decides about the directory that a link led to.

        Args:
            real: its own names in the destination.
            names: those of the link.
            entry: archived under them, which decides itself if nothing else does.
        """
        own = self._at(self._root, (), real)
        for length in range(len(real), -1, -1):
            if own is None and real[:length] in self._first:
                first = self._first[real[:length]]
                own = self._at(first.entry, first.names, real[length:])
        if own is not None and own.names == names:
            return None  # the link has become the directory meanwhile
        if own is None:
            self._first[real] = Own(entry, names)
        return own

    def below(self, above: Own | None, real: Callable[[], Names], name: bytes) -> Own | None:
        """The same of a directory in one of which that is known."""
        if above is not None:
            found = self._look_up(above.entry, name)
            if found is not None and found.is_directory:
                return Own(found, (*above.names, name))
        return self._first.get(real()) if self._first else None

    def rival(self, own: Own, entry: Entry) -> Entry | None:
        """What else is restored to an entry's place. Two directories are no rivals.

        Args:
            own: of the directory it is in.
            entry: archived under another name of that.
        """
        found = self._look_up(own.entry, entry.name)
        if found is None or (found.is_directory and entry.is_directory):
            return None
        path = b"/".join((*own.names, entry.name))
        return found if self._selection.chooses(path, directory=found.is_directory) else None

    def _at(self, entry: Entry, names: Names, below: Names) -> Own | None:
        try:
            found = resolve(self._store, entry, b"/".join(below))
        except IndexDamaged:
            raise
        except VentifsError:  # none, or one that cannot be read, which the walk reports there
            return None
        return Own(found, (*names, *below)) if found.is_directory else None

    def _look_up(self, entry: Entry, name: bytes) -> Entry | None:
        assert isinstance(entry.detail, Directory)
        try:
            return look_up(self._store, entry.detail.content, name)
        except IndexDamaged:
            raise
        except VentifsError:
            return None


def conflict(rival: Entry, own: Own, entry: Entry) -> str:
    """Why an entry is not restored beside its rival; nothing if they are the same."""
    if encode(rival) == encode(entry):
        return ""
    path = printable(b"/".join((*own.names, entry.name)))
    return (
        f"{path}, which is archived too, is at the same place, for a link leads there: "
        "--replace-symlinks restores both"
    )
