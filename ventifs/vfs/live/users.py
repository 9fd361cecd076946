"""Which user of the host each user of a guest is: `Users` makes an `Actor` of a `User`.

Groups are those of the host's accounts, as getgrouplist(3) reports them; a guest's own files never
count. They are kept for `KEPT_S`. Looking them up may wait for a server of accounts, so threads do
it. An attach uses the groups of its time as long as it lasts, as a login on the host does.
"""

import os
import re
import time
from collections.abc import Callable
from functools import partial
from threading import Lock

from ventifs.vfs.access.guard import Squash
from ventifs.vfs.access.permission import NOBODY_GID, NOBODY_UID
from ventifs.vfs.interface import Cold, Load, User
from ventifs.vfs.live.actor import GROUPS_MAX, ID_MAX, Acting, Actor

KEPT_S = 60.0
_KNOWN_MAX = 1024  # accounts remembered; a guest can ask for any number of them

NOBODY = Actor(NOBODY_UID, NOBODY_GID)

_NAME = re.compile(rb"[^\x00-\x20\x7f:/,]{1,256}")  # what may be asked of a server of accounts

Account = Actor | None
LookUp = Callable[[int | bytes], Account]


def look_up(who: int | bytes) -> Account:
    """The host's account of a uid or a name, with all its groups; it may wait.

    Returns:
        None for a name without account. A uid without account is in the group of its own number if
        the host has no such group, as most systems make users; else in that of `nobody`.
    """
    import grp
    import pwd

    try:
        account = pwd.getpwuid(who) if isinstance(who, int) else pwd.getpwnam(os.fsdecode(who))
    except (KeyError, ValueError):
        if not isinstance(who, int):
            return None
        try:
            grp.getgrgid(who)
        except KeyError:
            return Actor(who, who)
        return Actor(who, NOBODY_GID)
    gid = account.pw_gid
    groups = sorted(set(os.getgrouplist(account.pw_name, gid)) - {gid})
    return Actor(account.pw_uid, gid, tuple(groups[:GROUPS_MAX]))


class HostAccounts:
    """Accounts of the host that were looked up lately.

    Concurrency: for the event loop's thread; the loads it asks for run anywhere.
    """

    def __init__(
        self,
        acting: Acting,
        *,
        clock: Callable[[], float] = time.monotonic,
        look_up: LookUp = look_up,
    ) -> None:
        """Start empty.

        Args:
            acting: of the process; accounts are looked up as the server.
            clock: in seconds.
            look_up: looks up one account.
        """
        self._acting = acting
        self._clock = clock
        self._look_up = look_up
        self._known: dict[int | bytes, tuple[float, Account]] = {}  # the oldest first
        self._changing = Lock()

    def account(self, who: int | bytes) -> Account:
        """The account of a uid or name; the same object as long as nothing changes.

        Raises:
            Cold: to be tried again.
        """
        known = self._known.get(who)
        if known is None or known[0] <= self._clock():
            raise Cold(Load(("host account", id(self), who), partial(self._load, who)))
        return known[1]

    def _load(self, who: int | bytes) -> None:
        self._acting.as_server()
        found = self._look_up(who)
        with self._changing:
            before = self._known.pop(who, None)
            if before is not None and before[1] == found:
                found = before[1]
            self._known[who] = self._clock() + KEPT_S, found
            while len(self._known) > _KNOWN_MAX:
                del self._known[next(iter(self._known))]


class Users:
    """The users of guests that may attach to an export."""

    def __init__(
        self, acting: Acting, accounts: HostAccounts, *, squash: Squash = Squash.NONE
    ) -> None:
        """For an export, or for those of its connections that `squash` applies to.

        Args:
            acting: of the process. If it never switches, every user is the server's own.
            accounts: of the host.
            squash: which users become `nobody`, the user 65534 in the group 65534 alone.
        """
        self._accounts = accounts
        self._squash = squash
        self._only: Actor | None = None
        if not acting.switches:
            gid = os.getegid()
            self._only = Actor(os.geteuid(), gid, tuple(sorted(set(os.getgroups()) - {gid})))
        elif squash is Squash.ALL:
            self._only = NOBODY

    def actor(self, user: User) -> Actor:
        """The user of the host as which operations of an attached user are done.

        A user without a number is the host's user of its name, or else `nobody`.

        Raises:
            Cold: to be tried again.
        """
        if self._only is not None:
            return self._only
        who: int | bytes
        if user.uid is None:
            if not _NAME.fullmatch(user.name):
                return NOBODY
            who = user.name
        else:
            who = user.uid
            if not 0 <= who <= ID_MAX or who == NOBODY_UID:
                return NOBODY
            if not who and self._squash is Squash.ROOT:
                return NOBODY
        account = self._accounts.account(who)
        if account is None or account.uid == NOBODY_UID:
            return NOBODY
        return NOBODY if not account.uid and self._squash is Squash.ROOT else account
