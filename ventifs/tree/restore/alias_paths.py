"""Directories of the destination that have several names in the version, because of kept links.

The usual case: a version with `lib` and `usr/lib` is restored over a root whose `lib` is a link to
`usr/lib`. The names of such a directory have an order: its own name comes first, then each link
that led to it or to a directory above it. The directory gets the metadata archived under its first
name. An entry comes from the first name that has it. If a later name has the same entry, it is made
once; if the entries differ, the later one is reported. The own name is looked up in the version,
and earlier links have been followed, so no result depends on what another process has made so far.

Memory grows only with the number of kept links: directories of the destination are not remembered.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.store.lmdb_environment import IndexDamaged
from ventifs.text import printable
from ventifs.tree.objects.directory import look_up, resolve, tree
from ventifs.tree.objects.records import Directory, Entry, encode
from ventifs.tree.restore.directory_symlinks import DirectoryNames
from ventifs.tree.restore.selection import Selection

_OWN = -1  # the order of a directory's own name


@dataclass(frozen=True, slots=True)
class Claim:
    """One name of a directory.

    Attributes:
        entry: the directory that is archived under this name.
        names: the path of that entry in what is restored.
        order: number of the link that led there, among the kept links; `_OWN` without a link.
    """

    entry: Entry
    names: DirectoryNames
    order: int


@dataclass(frozen=True, slots=True)
class Alias:
    """A directory that is entered under a name that is not its own.

    Attributes:
        order: number of the link that led there, among the kept links.
        earlier: its names that come before this one, in order.
    """

    order: int
    earlier: tuple[Claim, ...]


class Aliases:
    """The names in a version of the directories that links of a destination lead to."""

    def __init__(self, store: Store, root: Entry, selection: Selection) -> None:
        """Start without links; `selection` is what is restored from `root`."""
        self._store = store
        self._root = root
        self._selection = selection
        # Links, by the directory that they lead to.
        self._kept: dict[DirectoryNames, list[Claim]] = {}
        self._count = 0

    def linked(self, real: DirectoryNames, names: DirectoryNames, entry: Entry) -> Alias | None:
        """The alias of a directory that a link led to; None if the link has become that directory.

        Args:
            real: the directory's own names in the destination.
            names: the names of the link.
            entry: the entry archived under the link's names.
        """
        claims = self._claims(real)
        earlier = tuple(takewhile(lambda claim: claim.names != names, claims))
        if len(earlier) < len(claims):  # a known name: no new link leads to it
            order = claims[len(earlier)].order
            return None if order == _OWN else Alias(order, earlier)
        order, self._count = self._count, self._count + 1
        self._kept.setdefault(real, []).append(Claim(entry, names, order))
        return Alias(order, earlier)

    def below(
        self, above: Alias | None, real: Callable[[], DirectoryNames], name: bytes
    ) -> Alias | None:
        """The alias of a directory without a link of its own, in a directory with alias `above`."""
        if above is None:
            return None
        claims = [claim for claim in self._kept.get(real(), ()) if claim.order < above.order]
        for claim in above.earlier:
            found = self._look_up(claim.entry, name)
            if found is not None and found.is_directory:
                claims.append(Claim(found, (*claim.names, name), claim.order))
        return Alias(above.order, tuple(sorted(claims, key=_order)))

    def verdict(self, alias: Alias | None, entry: Entry) -> str | None:
        """Decide whether an earlier name of an entry's directory provides the entry instead.

        Returns:
            None if the entry is to be made; an empty text if the earlier name has the same entry;
            otherwise the reason why the entry cannot be made.
        """
        if alias is None or not alias.earlier:
            return None
        there = [
            (found, b"/".join((*claim.names, entry.name)))
            for claim in alias.earlier
            if (found := self._look_up(claim.entry, entry.name)) is not None
        ]
        if entry.is_directory and all(found.is_directory for found, _ in there):
            return None
        for found, path in there:
            if self._is_restored(found, path):  # this one decides; later ones were refused
                if entry.is_directory and found.is_directory:
                    return None
                return _conflict(found, path, entry)
        return None

    def _claims(self, real: DirectoryNames) -> list[Claim]:
        """All names of a directory that are known so far, in order."""
        known = [Claim(self._root, (), _OWN)]
        claims = [
            Claim(found, (*claim.names, *real[length:]), claim.order)
            for length in range(len(real) + 1)
            for claim in (*(known if length == 0 else ()), *self._kept.get(real[:length], ()))
            if (found := self._at(claim.entry, real[length:])) is not None
        ]
        return sorted(claims, key=_order)

    def _is_restored(self, entry: Entry, path: bytes) -> bool:
        """Whether an entry is chosen, or is a directory with something chosen below it."""
        if self._selection.chooses(path, directory=entry.is_directory):
            return True
        if not (entry.is_directory and self._selection.include):
            return False
        return any(
            self._selection.chooses(below, directory=found.is_directory)
            for below, found in self._tree(entry, path)
        )

    def _tree(self, entry: Entry, path: bytes) -> Iterator[tuple[bytes, Entry]]:
        try:
            yield from tree(self._store, entry, path)
        except IndexDamaged:
            raise
        except VentifsError:  # the walk reports it
            return

    def _at(self, entry: Entry, below: DirectoryNames) -> Entry | None:
        try:
            found = resolve(self._store, entry, b"/".join(below))
        except IndexDamaged:
            raise
        except VentifsError:  # missing, or unreadable, which the walk reports
            return None
        return found if found.is_directory else None

    def _look_up(self, entry: Entry, name: bytes) -> Entry | None:
        assert isinstance(entry.detail, Directory)
        try:
            return look_up(self._store, entry.detail.content, name)
        except IndexDamaged:
            raise
        except VentifsError:
            return None


def _order(claim: Claim) -> int:
    return claim.order


def _conflict(rival: Entry, path: bytes, entry: Entry) -> str:
    """The reason why an entry cannot be restored beside its rival; empty if they are the same."""
    if encode(rival) == encode(entry):
        return ""
    return (
        f"{printable(path)}, which is archived too, is at the same place, for a link leads there: "
        "--replace-symlinks restores both"
    )
