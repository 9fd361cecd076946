"""Counts what a restore would make, and lists the links of the destination that it would replace.

Only directory nodes are read. The destination is examined, never changed.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.archive.file_reader import allow_many_descriptors
from ventifs.tree.objects.records import Directory, Entry
from ventifs.tree.restore.alias_paths import Alias, Aliases
from ventifs.tree.restore.directory_symlinks import (
    DirectoryNames,
    NotKept,
    Symlinks,
    described,
    follow,
)
from ventifs.tree.restore.selection import Selection, walk

ReportEntry = Callable[[bytes, Entry], None]
_FIND_TOP = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_FIND = _FIND_TOP | os.O_NOFOLLOW


@dataclass(slots=True)
class _There:
    """A directory on the current path; `fd` is -1 if the destination does not have it."""

    fd: int
    names: DirectoryNames = ()
    alias: Alias | None = None  # see `alias_paths`


class Plan:
    """Counts what is chosen below an entry; a `selection.Visitor`.

    Attributes:
        entries: names that would be made.
        size: bytes of regular files among them, each file once.
        failed: (path, reason) of damaged directories, and of entries whose place is taken by a
            different entry, because a kept link leads there.
        replaced: (path, what is there) of symbolic links that would be replaced by directories.
    """

    def __init__(
        self,
        store: Store,
        root: Entry,
        selection: Selection,
        report: ReportEntry,
        *,
        target: Path | None = None,
        symlinks: Symlinks = Symlinks.TRUSTED,
    ) -> None:
        """Walk `root` and call `report` with each path; `target` is the destination, if any."""
        self.entries = self.size = 0
        self.failed: list[tuple[bytes, str]] = []
        self.replaced: list[tuple[bytes, str]] = []
        self._report = report
        self._target = target
        self._symlinks = symlinks
        self._aliases = Aliases(store, root, selection)
        self._names: list[bytes] = []
        self._links: set[bytes] = set()
        self._there: list[_There] = []
        allow_many_descriptors()
        if isinstance(root.detail, Directory):
            walk(store, root, selection, self)
        else:
            self.leaf(root, b"")

    def enter(self, entry: Entry) -> bool:
        """Count a directory."""
        if self._is_rivalled(entry):
            return False
        self._names.append(entry.name if self._names else b"")
        self._there.append(self._below(entry) if self._there else self._top())
        self.entries += 1
        self._report(self._path(), entry)
        return True

    def leaf(self, entry: Entry, data: bytes) -> None:
        """Count anything else."""
        if self._is_rivalled(entry):
            return
        self.entries += 1
        if entry.link not in self._links:
            self.size += entry.size
        if entry.link:
            self._links.add(entry.link)
        self._report(self._path(entry.name), entry)

    def damaged(self, error: VentifsError) -> None:
        """Record a damaged directory."""
        self.failed.append((self._path(), str(error)))

    def leave(self) -> None:
        """Go up."""
        self._names.pop()
        there = self._there.pop()
        if there.fd >= 0:
            os.close(there.fd)

    def _top(self) -> _There:
        try:
            return _There(-1 if self._target is None else os.open(self._target, _FIND_TOP))
        except OSError:  # it does not exist yet
            return _There(-1)

    def _below(self, entry: Entry) -> _There:
        """Find a directory in the destination; follow a link in its place, or record it."""
        above = self._there[-1]
        names = (*above.names, entry.name)
        there = _There(-1, names, self._aliases.below(above.alias, lambda: names, entry.name))
        if above.fd < 0:
            return there
        try:
            mode = os.stat(entry.name, dir_fd=above.fd, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                there.fd = os.open(entry.name, _FIND, dir_fd=above.fd)
            elif stat.S_ISLNK(mode):
                self._follow(entry, above, there)
        except OSError:  # the restore reports it
            pass
        return there

    def _follow(self, entry: Entry, above: _There, there: _There) -> None:
        top, name = self._there[0].fd, entry.name
        try:
            there.names, there.fd = follow(top, above.names, above.fd, name, self._symlinks)
        except NotKept as error:
            self.replaced.append((self._path(), described(name, above.fd, str(error))))
        else:
            names = tuple(self._path().split(b"/"))
            there.alias = self._aliases.linked(there.names, names, entry)

    def _is_rivalled(self, entry: Entry) -> bool:
        """Whether an earlier name of the same directory provides an entry instead; record it if so.

        A kept link can give a directory of the destination several names in the version. If an
        earlier name has the same entry, this one is counted and reported, though it is not made
        again. If an earlier name has a different entry, this one is recorded as failed.
        """
        if not self._there:
            return False
        reason = self._aliases.verdict(self._there[-1].alias, entry)
        if reason is None:
            return False
        if reason:
            self.failed.append((self._path(entry.name), reason))
        else:
            self.entries += 1
            self._report(self._path(entry.name), entry)
        return True

    def _path(self, name: bytes = b"") -> bytes:
        return b"/".join(part for part in (*self._names, name) if part)
