"""The user as which a thread uses files: `Acting` sets it, by credentials of the thread alone.

A process of root acts as the user of each operation (`ManyUsers`): the kernel then checks every
permission, and gives files their owners. Invariants:

- a thread's user is unknown at first, and set by the thread's first operation, whatever the thread
  inherited from the one that started it;
- every user but 0 has an empty set of effective capabilities, so that it can do what it can do on
  the host and no more: after a change of the user id alone, a thread could still set
  `security.capability` and `trusted.*`;
- a switch that fails leaves the thread's user unknown, and the next operation sets all of it.

The effective user stays root, so that the process does not look like one of its user's, which
`pkill -u` ends. Any other process uses files as its own user, whichever user asks (`OneUser`). A
mode for unprivileged servers with mapped ids would be a third class beside these two. This module
knows nothing of names or sessions; `users.py` does.
"""

import os
import threading
from typing import Protocol

import msgspec

from ventifs.vfs.live import syscalls
from ventifs.vfs.live.capabilities import CHANGE_IDS

ID_MAX = 2**32 - 2  # one more is -1, which the kernel takes for 'no change'
GROUPS_MAX = 65_536  # Linux's own limit


class Actor(msgspec.Struct, frozen=True, weakref=True):
    """A user with its groups, as the host has them.

    Attributes:
        uid: 0 to `ID_MAX`.
        gid: of its primary group.
        groups: the others, in ascending order, at most `GROUPS_MAX`.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        ids = (self.uid, self.gid, *self.groups)
        if min(ids) < 0 or max(ids) > ID_MAX or len(self.groups) > GROUPS_MAX:
            raise ValueError(f"no user has the ids {self.uid}, {self.gid}, {self.groups[:9]}")

    def is_member(self, gid: int) -> bool:
        """Whether it may give its files to a group; root may give them to any."""
        return not self.uid or gid == self.gid or gid in self.groups


SERVER = Actor(0, 0)


class Acting(Protocol):
    """The users as which the threads of a process use files.

    Attributes:
        switches: whether it ever changes the user. If not, every file belongs to the server's own
            user, whichever user asks.
    """

    switches: bool

    def become(self, actor: Actor) -> None:
        """Let this thread use files as `actor` from now on.

        Concurrency: for any thread; it changes the calling one.

        Raises:
            OSError: EPERM or ENOMEM. Then nothing must be done with files until it succeeds.
        """

    def as_server(self) -> None:
        """Let this thread use files as the server itself, with all capabilities that are left.

        For what no user asked for: handles of evicted files, the host's accounts, modules that are
        imported late.
        """


class OneUser:
    """An `Acting` of a process that cannot change users: it stays what it is."""

    switches = False

    def become(self, actor: Actor) -> None:
        """Do nothing."""

    def as_server(self) -> None:
        """Do nothing."""


class _Now(threading.local):
    """What this thread acts as; None while that is unknown."""

    actor: Actor | None = None


class ManyUsers:
    """An `Acting` of root: the user of a thread is changed where the next one differs."""

    switches = True

    def __init__(self) -> None:
        """For this process, whose permitted capabilities must not change any more."""
        _, self._permitted, _ = syscalls.capabilities()
        self._now = _Now()

    def become(self, actor: Actor) -> None:
        """See `Acting`."""
        before = self._now.actor
        if actor is not before:
            self._switch(before, actor)

    def as_server(self) -> None:
        """See `Acting`."""
        if self._now.actor is not SERVER:
            self._switch(self._now.actor, SERVER)

    def _switch(self, before: Actor | None, actor: Actor) -> None:
        if before == actor:
            self._now.actor = actor
            return
        self._now.actor = None
        permitted = self._permitted
        if before is None or before.uid:
            syscalls.set_capabilities(permitted, permitted)
        if before is None or before.groups != actor.groups:
            syscalls.set_groups(actor.groups)
        if before is None or before.gid != actor.gid:
            syscalls.set_fsgid(actor.gid)
        if before is None or before.uid != actor.uid:
            syscalls.set_fsuid(actor.uid)
        if actor.uid:
            syscalls.set_capabilities(0, permitted)
        self._now.actor = actor


def acting_here() -> Acting:
    """The `Acting` of this process: `ManyUsers` if it is root's and may change users."""
    _, permitted, _ = syscalls.capabilities()
    if os.geteuid() == 0 and permitted & CHANGE_IDS == CHANGE_IDS:
        return ManyUsers()
    return OneUser()
