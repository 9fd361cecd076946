"""Which groups a user is in, told by a tree's own `/etc/passwd` and `/etc/group`.

The files are somebody else's: read as bytes, up to a megabyte each, and what a line does not say
properly it does not say. Symbolic links are not followed, so a tree without the files themselves
has users without groups.
"""

import errno
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from stat import S_ISREG

from ventifs.errors import Corrupt, NotStored, VentifsError
from ventifs.ninep.fs import Buffer, Cold, File, Load, Refused
from ventifs.ninep.permission import NOBODY_UID

SIZE_MAX = 1 << 20
_TREES_MAX = 64
_NOBODY = b"nobody"  # which `/etc/group` may have where `/etc/passwd` does not
_GROUPS_MAX = 65_536  # of one user; Linux's own limit

log = logging.getLogger(__name__)


class Accounts:
    """The users of one tree."""

    def __init__(self, passwd: bytes, group: bytes) -> None:
        """Of the two files."""
        names: defaultdict[int, set[bytes]] = defaultdict(set)
        of_uid: defaultdict[int, set[int]] = defaultdict(set)
        for line in passwd.split(b"\n"):
            fields = line.split(b":")
            uid, gid = (_number(field) for field in fields[2:4]) if len(fields) >= 4 else (-1, -1)
            if uid >= 0 and gid >= 0 and fields[0]:
                names[uid].add(fields[0])
                of_uid[uid].add(gid)
        members: defaultdict[bytes, set[int]] = defaultdict(set)
        for line in group.split(b"\n"):
            fields = line.split(b":")
            gid = _number(fields[2]) if len(fields) >= 4 else -1
            if gid >= 0:
                for name in fields[3].strip().split(b","):
                    members[name].add(gid)
        for uid, called in names.items():
            for name in called:
                of_uid[uid] |= members.get(name, set())
        self._groups = {uid: frozenset(gids) for uid, gids in of_uid.items()
                        if len(gids) <= _GROUPS_MAX}  # fmt: skip
        self._nobodys = frozenset(members.get(_NOBODY, set()) | of_uid.get(NOBODY_UID, set()))

    def nobodys(self) -> frozenset[int]:
        """All groups of nobody, be it found by its number or by its name; they only deny."""
        return self._nobodys

    def gids(self, uid: int) -> frozenset[int]:
        """All groups of a user, the same object each time; none of one who is not there."""
        return self._groups.get(uid, frozenset())


def _number(field: bytes) -> int:
    """A uid or gid; -1 for what is none."""
    if not (field.isdigit() and len(field) <= 10):
        return -1
    number = int(field)
    return number if number < 2**32 - 1 else -1


class AccountBook:
    """The accounts of the trees seen last, by the qid of their root.

    Concurrency: for the event loop's thread; the loads it asks for run anywhere.
    """

    def __init__(self) -> None:
        """None is known yet."""
        self._known: OrderedDict[int, Accounts] = OrderedDict()
        self._lost: set[int] = set()  # of which files could not be read

    def of(self, home: File) -> Accounts:
        """The accounts of the tree with this root.

        Raises:
            Cold: to be tried again.
            Refused, Corrupt: the files cannot be read; then it is better to let nobody in than to
                take away a group, which may be what somebody is kept out by.
        """
        key = home.qid.path
        known = self._known.get(key)
        if known is not None:
            with suppress(KeyError):  # a thread has just let it go for another
                self._known.move_to_end(key)
            return known
        passwd, group = _content(home, b"passwd"), _content(home, b"group")
        # Parsing may take a tenth of a second: no work for the loop.
        raise Cold(Load(("accounts", key), partial(self._parse, key, passwd, group)))

    def nobodys(self, home: File) -> frozenset[int] | None:
        """The groups of nobody in the tree with this root; None when they cannot be read.

        Raises:
            Cold: to be tried again.
        """
        key = home.qid.path
        if key in self._lost:
            return None
        try:
            return self.of(home).nobodys()
        except Cold as cold:
            load = cold.load  # what it raises would end the whole request
            raise Cold(Load(("nobodys", load.key), partial(self._tried, key, load.run))) from None
        except (Refused, Corrupt, NotStored):
            return None

    def _tried(self, key: int, run: Callable[[], None]) -> None:
        try:
            run()
        except (VentifsError, OSError) as error:
            log.error("a version's users cannot be read, nobody may be in any group: %s", error)
            if len(self._lost) >= _TREES_MAX:
                self._lost.clear()
            self._lost.add(key)

    def _parse(self, key: int, passwd: Sequence[Buffer], group: Sequence[Buffer]) -> None:
        self._known[key] = Accounts(b"".join(passwd), b"".join(group))
        while len(self._known) > _TREES_MAX:
            self._known.popitem(last=False)


def _content(home: File, name: bytes) -> list[Buffer]:
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
        log.error("/etc/%s has %d bytes, more than a list of users and groups may have",
                  name.decode(), attributes.size)  # fmt: skip
        raise Refused(errno.EIO)
    opened = file.open(0)
    try:
        return opened.read(0, SIZE_MAX)
    finally:
        opened.close()
