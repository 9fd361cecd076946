"""Archived versions as a `Filesystem`: the root lists names, a name lists its versions."""

import time
from collections.abc import Callable, Iterable

from ventifs.store import Store
from ventifs.vfs.access.placed import PassThrough
from ventifs.vfs.archived.served_versions import ServedVersions, Split
from ventifs.vfs.archived.upper_directories import SessionView, View
from ventifs.vfs.interface import File, User


class ArchiveFilesystem(ServedVersions):
    """All versions of one store, for one process; itself a `Filesystem` that shows every name.

    `view` returns a `Filesystem` with only the names that some peers may reach. All views share the
    caches.
    """

    def __init__(
        self,
        store: Store,
        split: Split,
        *,
        scores: bool = False,
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """See `ServedVersions`."""
        super().__init__(store, split, scores=scores, clock=clock, now_ns=now_ns)
        self._view = View(self, lambda name: True)

    def view(self, allowed: Callable[[str], bool], live: Iterable[str] = ()) -> View:
        """A view of the names for which `allowed` returns true, and of nothing else.

        `live` are the names of live exports; see `View`.

        Peers that may reach the same names should share one view, since each view keeps the files
        that were reached through its list of names.
        """
        return View(self, allowed, live)

    def attach(self, user: User, aname: bytes, pass_through: PassThrough | None = None) -> File:
        """See `placed.Attachable`."""
        return self._view.attach(user, aname, pass_through)

    def session(self) -> SessionView:
        """See `Filesystem`."""
        return self._view.session()
