"""What the files of one user share: the export, whose they are, and the session's locks.

This module decides as which user and group an operation is done. It opens nothing.
"""

import errno
import os
from typing import TYPE_CHECKING

from ventifs.vfs.interface import Refused
from ventifs.vfs.live.actor import Actor
from ventifs.vfs.live.holds import SessionHolds
from ventifs.vfs.live.overrides import Writers

if TYPE_CHECKING:
    from ventifs.vfs.live.locks import SessionLocks
    from ventifs.vfs.live.tree import LiveTree

NO_GROUP = 0xFFFF_FFFF  # of a request that does not say
_PASSED = os.O_ACCMODE | os.O_TRUNC | os.O_SYNC | os.O_DSYNC  # of the flags of a client's open


class Access:
    """One user of a session; its attaches share it.

    Attributes:
        tree: the export's.
        actor: the user that operations are done as.
        locks, holds: the session's.
        writers: what the user has open for writing.
    """

    __slots__ = ("__weakref__", "_other", "actor", "holds", "locks", "tree", "writers")

    def __init__(
        self, tree: "LiveTree", actor: Actor, locks: "SessionLocks", holds: SessionHolds
    ) -> None:
        """Serve a tree to one user of a session."""
        self.tree = tree
        self.actor = actor
        self.locks = locks
        self.holds = holds
        self.writers = Writers()
        self._other = actor  # the user with another group, as that was used last

    def act(self) -> None:
        """Let this thread use files as the user."""
        self.tree.acting.become(self.actor)

    def act_in(self, gid: int) -> None:
        """Let this thread make files as the user, for a group that a request names.

        It counts if the user is in that group, or is root; else the user's primary group does. In a
        set-gid directory the kernel takes the directory's.
        """
        actor = self.actor
        if gid not in (actor.gid, NO_GROUP) and actor.is_member(gid):
            if self._other.gid != gid:
                groups = tuple(sorted({*actor.groups, actor.gid}))
                self._other = Actor(actor.uid, gid, groups)
            actor = self._other
        self.tree.acting.become(actor)

    def check_writable(self) -> None:
        """See that anything may be changed.

        Raises:
            Refused: EROFS.
        """
        if not self.tree.writable:
            raise Refused(errno.EROFS)

    def opening(self, flags: int) -> int:
        """The flags that a file is opened with on the host, of those that a client gives.

        Raises:
            Refused: EINVAL for the access mode that Linux has for devices alone.
        """
        if flags & os.O_ACCMODE == os.O_ACCMODE:
            raise Refused(errno.EINVAL)
        return flags & (_PASSED | os.O_APPEND if self.tree.appends else _PASSED)
