"""A live export as a `Filesystem`: where clients attach, and as whom.

Always: all sessions of an export share one `LiveTree`, so that its descriptors have one bound; a
session has locks of its own, which its open files hold. This module knows no connections: that an
exclusive export has one is the business of `serving`.
"""

import errno
import os
import time
from collections.abc import Callable
from functools import partial
from weakref import WeakValueDictionary

from ventifs.vfs.access.guard import Squash
from ventifs.vfs.interface import Cold, File, Load, Refused, User
from ventifs.vfs.live.access import Access
from ventifs.vfs.live.actor import Acting, Actor
from ventifs.vfs.live.export import LiveExport, Squashing
from ventifs.vfs.live.files import root_at, root_of
from ventifs.vfs.live.holds import SessionHolds
from ventifs.vfs.live.locks import ExportLocks, SessionLocks
from ventifs.vfs.live.tree import LiveTree
from ventifs.vfs.live.users import HostAccounts, Users

_LOCKS_SHARE = 8  # of the descriptors that pins may have, those of locks may be one in this many


class LiveDirectory:
    """The directory of an export, for one process.

    Attributes:
        tree: its files.
        locks: what its sessions have locked.
        acts_as_users: whether files are used as the user who asks; if not, as the server's own.
    """

    def __init__(
        self,
        export: LiveExport,
        directory: int,
        *,
        acting: Acting | None = None,
        accounts: HostAccounts | None = None,
        pins_max: int | None = None,
        sends: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Serve an open directory.

        Args:
            export: its name and settings.
            directory: a descriptor of it, which the caller keeps.
            acting: sets the user of operations; this process's own by default.
            accounts: of the host.
            pins_max: see `LiveTree`.
            sends: see `LiveTree`.
            clock: see `LiveTree`.

        Raises:
            OSError: it cannot be opened.
        """
        self.tree = LiveTree(
            directory,
            writable=export.writable,
            exclusive=export.sharing == "exclusive",
            acting=acting,
            pins_max=pins_max,
            sends=sends,
            clock=clock,
        )
        self.locks = ExportLocks(max(8, self.tree.pins.pins_max // _LOCKS_SHARE))
        self.acts_as_users = self.tree.acting.switches
        self._name = os.fsencode(export.name)
        self._accounts = accounts or HostAccounts(self.tree.acting)
        self._views: dict[Squashing, LiveFilesystem] = {}

    def view(self, squash: Squashing) -> "LiveFilesystem":
        """The file system for clients some of whose users become `nobody`: which, `squash` says."""
        if squash not in self._views:
            users = Users(self.tree.acting, self._accounts, squash=Squash(squash))
            self._views[squash] = LiveFilesystem(self._name, self.tree, users, self.locks)
        return self._views[squash]

    def close(self) -> None:
        """Let go of what is open; descriptors of files go with the files."""
        self._views.clear()


class LiveFilesystem:
    """A live export, for peers whose users are mapped alike; a `Filesystem`."""

    def __init__(self, name: bytes, tree: LiveTree, users: Users, locks: ExportLocks) -> None:
        """Serve a tree under a name."""
        self._name = name
        self._tree = tree
        self._users = users
        self._locks = locks

    def attach(self, user: User, aname: bytes) -> File:
        """See `Filesystem`; as a session of its own."""
        return self.session().attach(user, aname)

    def session(self) -> "LiveSession":
        """See `Filesystem`."""
        return LiveSession(self._name, self._tree, self._users, self._locks.session())

    def ahead(self) -> list[Load]:
        """See `Filesystem`: the kernel itself reads ahead."""
        return []


class LiveSession:
    """A live export for one session; a `Filesystem`."""

    def __init__(self, name: bytes, tree: LiveTree, users: Users, locks: SessionLocks) -> None:
        """Serve a tree under a name, with locks of the session's own."""
        self._name = name
        self._tree = tree
        self._users = users
        self._locks = locks
        self._holds = SessionHolds(tree.holds)
        self._accesses: WeakValueDictionary[Actor, Access] = WeakValueDictionary()

    def attach(self, user: User, aname: bytes) -> File:
        """See `Filesystem`; `NAME` is the export's directory, `NAME:/PATH` one of its files.

        The user must be allowed to search each directory of the path.

        Raises:
            Refused: EXDEV for the name of another export, and for a mount point.
        """
        name, _, path = aname.removeprefix(b"/").partition(b":")
        if name != self._name:
            raise Refused(errno.EXDEV)
        access = self._access(self._users.actor(user))
        names = [name for name in path.split(b"/") if name]
        if not names:
            return root_of(access)
        raise Cold(Load(None, partial(root_at, access, names)))

    def _access(self, actor: Actor) -> Access:
        """The user's, which all its attaches share."""
        access = self._accesses.get(actor)
        if access is None:
            access = self._accesses[actor] = Access(self._tree, actor, self._locks, self._holds)
        return access

    def session(self) -> "LiveSession":
        """See `Filesystem`: itself."""
        return self

    def ahead(self) -> list[Load]:
        """See `Filesystem`."""
        return []
