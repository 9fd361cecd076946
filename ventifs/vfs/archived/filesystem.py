"""Archived versions as a `Filesystem`: the root lists names, a name lists its versions."""

import time
from collections.abc import Callable

from ventifs.store import Store
from ventifs.vfs.access.placed import PassThrough
from ventifs.vfs.archived.served_versions import ServedVersions, Split
from ventifs.vfs.archived.upper_directories import SessionView, View
from ventifs.vfs.interface import File, User


class ArchiveFilesystem(ServedVersions):
    """The versions of one store in one process; as a `Filesystem` it shows every name.

    `view` returns a file system of what one kind of peer may reach; all views share the memory.
    """

    def __init__(
        self,
        store: Store,
        split: Split,
        *,
        scores: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See `ServedVersions`."""
        super().__init__(store, split, scores=scores, clock=clock)
        self._view = View(self, lambda name: True)

    def view(self, allowed: Callable[[str], bool]) -> View:
        """A view of the names for which `allowed` returns true, and of nothing else.

        Make one for each kind of peer rather than for each peer: files reached through the list of
        names are kept for a view.
        """
        return View(self, allowed)

    def attach(self, user: User, aname: bytes, pass_through: PassThrough | None = None) -> File:
        """See `placed.Attachable`."""
        return self._view.attach(user, aname, pass_through)

    def session(self) -> SessionView:
        """See `Filesystem`."""
        return self._view.session()
