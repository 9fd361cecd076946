"""The groups of users, from a tree's own `/etc/passwd` and `/etc/group`.

The files may be hostile: they are read as bytes, up to 1 MiB each, and malformed lines are ignored.
Symbolic links are not followed, so in a tree without the files themselves users have no groups.
Invariants: memory grows with the length of the files and not with its square, and a user's
`Credentials` is one object, however many fids share it.
"""

import errno
import logging
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from stat import S_ISREG
from threading import Lock
from weakref import WeakValueDictionary

from ventifs.buffer import Piece, joined
from ventifs.errors import Corrupt, NotStored
from ventifs.vfs.access.permission import (
    NOBODY_GID,
    NOBODY_IN_ANY_GROUP,
    NOBODY_UID,
    Credentials,
    in_any_group,
)
from ventifs.vfs.interface import RESULTS_MAX, Cold, File, Load, Refused

SIZE_MAX = 1 << 20
BOOK_BYTES_MAX = 32 << 20  # of all trees' accounts; those of one Debian take some 20 KiB
_LOST_MAX = 64  # trees remembered because their accounts cannot be read
_NOBODY = b"nobody"  # a name that `/etc/group` may have where `/etc/passwd` does not
_GROUPS_MAX = 65_536  # of one user; Linux's own limit
_LINES_MAX = 64  # of `/etc/passwd` for one uid
_COPIED_MAX = 16  # groups in a set of the user's own, which takes 728 bytes; more are shared
_LINE_BYTES = 400  # of memory for a user's line: its name, its numbers, their places in tables
_NAME_BYTES = 224  # of a name that has groups, beside 4 bytes for each of them

log = logging.getLogger(__name__)


class Groups:
    """The groups of a user that is in many: sorted arrays, which users of a tree may share."""

    __slots__ = ("_parts",)

    def __init__(self, parts: "Sequence[array[int]]") -> None:
        """All groups of these sorted arrays."""
        self._parts = parts

    def __contains__(self, gid: object) -> bool:
        """Whether the user is in a group."""
        for part in self._parts:
            at = bisect_left(part, gid)  # type: ignore[call-overload]
            if at < len(part) and part[at] == gid:
                return True
        return False


class Accounts:
    """The users of one tree.

    Attributes:
        cost: bytes of memory to account for.
    """

    def __init__(self, passwd: bytes, group: bytes) -> None:
        """Parse the contents of the two files."""
        self._users = _users(passwd)
        names = {name for lines in self._users.values() for name, _ in lines}
        self._members = _members(group, names | {_NOBODY})
        self.cost = (
            _LINE_BYTES * sum(map(len, self._users.values()))
            + _NAME_BYTES * len(self._members)
            + sum(part.itemsize * len(part) for part in self._members.values())
        )

    def identity_of(self, uid: int) -> Credentials:
        """A user with all its groups; those of `nobody`, by uid or by name, only deny.

        A user that has too many groups or lines counts as one that may be in any group.
        """
        lines = self._users.get(uid, [])
        names = {name for name, _ in lines}
        own = {gid for _, gid in lines}
        if uid == NOBODY_UID:
            names.add(_NOBODY)
            own.add(NOBODY_GID)
        parts = [self._members[name] for name in names if name in self._members]
        count = len(own) + sum(map(len, parts))
        if len(lines) > _LINES_MAX or count > _GROUPS_MAX:
            return in_any_group(uid)
        if count <= _COPIED_MAX:
            return Credentials(uid, frozenset(own.union(*parts)), deny_only=uid == NOBODY_UID)
        groups = Groups([array("I", sorted(own)), *parts])
        return Credentials(uid, groups, deny_only=uid == NOBODY_UID)


def _users(passwd: bytes) -> dict[int, list[tuple[bytes, int]]]:
    """The lines of each uid: user name, and primary group.

    At most one line more than `_LINES_MAX` is kept of a uid, which is enough to see that it has too
    many. So a hostile file cannot make one uid costly.
    """
    users: dict[int, list[tuple[bytes, int]]] = {}
    for line in passwd.split(b"\n"):
        fields = line.split(b":")
        uid, gid = (_number(field) for field in fields[2:4]) if len(fields) >= 4 else (-1, -1)
        if uid >= 0 and gid >= 0 and fields[0]:
            lines = users.setdefault(uid, [])
            if len(lines) <= _LINES_MAX:
                lines.append((fields[0], gid))
    return users


def _members(group: bytes, names: set[bytes]) -> "dict[bytes, array[int]]":
    """The groups that list each of these users as a member: sorted gids, by user name."""
    members: dict[bytes, array[int]] = {}
    for line in group.split(b"\n"):
        fields = line.split(b":")
        gid = _number(fields[2]) if len(fields) >= 4 else -1
        if gid >= 0:
            for name in names.intersection(fields[3].strip().split(b",")):
                members.setdefault(name, array("I")).append(gid)
    return {name: array("I", sorted(gids)) for name, gids in members.items()}


def _number(field: bytes) -> int:
    """A uid or gid; -1 for a field that is neither."""
    if not (field.isdigit() and len(field) <= 10):
        return -1
    number = int(field)
    return number if number < 2**32 - 1 else -1


_Key = tuple[int, int]  # of a user: the identity's number of a tree's root, and the uid


class AccountBook:
    """The accounts of the trees used last, by the identity of their root, and the users in use.

    Concurrency: for the event loop's thread; the loads it asks for run anywhere.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._known: OrderedDict[int, Accounts] = OrderedDict()
        self._changing = Lock()  # for threads that change `_known` or `_landed`
        self._used: WeakValueDictionary[_Key, Credentials] = WeakValueDictionary()
        # Users that loads have made. Each request finds its own here, even if its tree's accounts
        # were so large that others have replaced them.
        self._landed: OrderedDict[_Key, Credentials] = OrderedDict()
        self._lost: set[int] = set()  # trees whose files could not be read for `nobody`

    @property
    def bytes(self) -> int:
        """The sum of the costs of all known accounts."""
        return sum(accounts.cost for accounts in list(self._known.values()))

    def identity(self, home: File, uid: int) -> Credentials:
        """A user in the tree with this root: the same object as long as anything uses it.

        Raises:
            Cold: to be tried again.
            Refused, Corrupt: the files cannot be read. Then the user is not let in: without its
                groups, it could get what a file denies to one of them.
        """
        tree = home.identity.number
        if uid == NOBODY_UID and tree in self._lost:
            return NOBODY_IN_ANY_GROUP
        key = tree, uid
        found = self._used.get(key) or self._landed.pop(key, None) or self._known_one(tree, uid)
        if found is None:
            if uid == NOBODY_UID:
                return self._of_nobody(home)
            raise self._cold(home, uid)
        self._used[key] = found
        return found

    def _known_one(self, tree: int, uid: int) -> Credentials | None:
        known = self._known.get(tree)
        if known is None:
            return None
        with suppress(KeyError):  # a thread has just dropped it to make room
            self._known.move_to_end(tree)
        return known.identity_of(uid)

    def _of_nobody(self, home: File) -> Credentials:
        """The user `nobody`, which may come in without accounts; it only gets less then."""
        tree = home.identity.number
        try:
            raise self._cold(home, NOBODY_UID)
        except Cold as cold:
            load = cold.load  # an exception of it would end the whole request: see `_tried`
            run = partial(self._tried, tree, load.run)
            raise Cold(Load(("nobodys", load.key), run)) from None
        except (Refused, Corrupt, NotStored):
            return NOBODY_IN_ANY_GROUP

    def _cold(self, home: File, uid: int) -> Cold:
        """A load of a user, if both files are in memory; else raises the load that they need."""
        key = home.identity.number, uid
        passwd, group = _content(home, b"passwd"), _content(home, b"group")
        # Parsing may take too long for the event loop; see docs/performance.md.
        return Cold(Load(("accounts", *key), partial(self._parse, key, passwd, group)))

    def _tried(self, tree: int, run: Callable[[], None]) -> None:
        """Run a load; a tree that cannot be read is remembered, and other errors are raised."""
        try:
            run()
        except (Refused, Corrupt, NotStored) as error:
            log.error("a version's users cannot be read, nobody may be in any group: %s", error)
            if len(self._lost) >= _LOST_MAX:
                self._lost.clear()
            self._lost.add(tree)

    def _parse(self, key: _Key, passwd: Sequence[Piece], group: Sequence[Piece]) -> None:
        tree, uid = key
        accounts = self._known.get(tree) or Accounts(joined(passwd), joined(group))
        identity = accounts.identity_of(uid)
        with self._changing:
            self._known[tree] = accounts
            while len(self._known) > 1 and self.bytes > BOOK_BYTES_MAX:
                self._known.popitem(last=False)
            self._landed[key] = identity
            while len(self._landed) > RESULTS_MAX:
                self._landed.popitem(last=False)


def _content(home: File, name: bytes) -> Sequence[Piece]:
    try:
        file = home.walk(b"etc").walk(name)
    except Refused as refused:
        if refused.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return []
    attributes = file.attributes()
    if not S_ISREG(attributes.mode):
        return []
    if attributes.size > SIZE_MAX:
        log.error(
            "/etc/%s has %d bytes, more than a list of users and groups may have",
            name.decode(),
            attributes.size,
        )
        raise Refused(errno.EIO)
    opened = file.open(0)
    try:
        return opened.read(0, SIZE_MAX)
    finally:
        opened.close()
