"""The fids of a session: which numbers stand for which files, and which fids each message uses.

Always: a fid that operations still use is closed when the last of them ends, however early its
number was freed; what fids hold besides files has a limit; the memory of all fids, and of the
directories that their files keep (`vfs/held_directories.py`), is taken from the peer's share, and
given back. Knows nothing of the order of requests: `in_flight.py` owns that.
"""

import errno
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from ventifs.ninep.protocol import messages as m
from ventifs.ninep.session.limits import FID_BYTES, OPEN_BYTES
from ventifs.vfs.held_directories import HeldDirectories, shrink
from ventifs.vfs.interface import File, Opened, Refused
from ventifs.vfs.memory_budget import GUARDED_DIRECTORY_BYTES, Budget, Share

_PORTION = 64  # fids that memory is taken for together, so that few walks have to ask
# More fids, counted with the directories that they keep, are closed in portions by a task of its
# own, since closing many takes long: see docs/performance.md.
_CLEARED_AT_ONCE = 1024


class Uncommon(msgspec.Struct, eq=False):
    """What few fids have, and few of those for long; so all others are smaller without it.

    Attributes:
        users: operations in flight that use the fid.
        gone: set when its number is freed while operations use it: what counts the directories
            that its file keeps, until the last operation closes it.
        remove: the file is removed when the fid is clunked (ORCLOSE).
    """

    users: int = 0
    gone: HeldDirectories | None = None
    remove: bool = False


class Fid(msgspec.Struct, eq=False, gc=False):
    """What a fid stands for. With its number and its place in the table it takes 108 bytes.

    Attributes:
        file: the file it points at.
        opened: the file as it is open, or whatever else is read and written through the fid.
        uncommon: None while all of that has its default.
        charged: the share and the bytes taken from it, beyond those of every fid; None if none.
    """

    file: File
    opened: Opened | None = None
    uncommon: Uncommon | None = None
    charged: tuple[Share, int] | None = None

    def use(self) -> None:
        """Take note that one operation more uses it, until `release`."""
        if self.uncommon is None:
            self.uncommon = Uncommon()
        self.uncommon.users += 1

    def remove_at_end(self) -> None:
        """Let its file be removed when it is clunked."""
        if self.uncommon is None:
            self.uncommon = Uncommon()
        self.uncommon.remove = True

    def give_up(self, directories: HeldDirectories) -> None:
        """Close it, now or after its last operation; `directories` count what its file keeps."""
        if self.uncommon is not None and self.uncommon.users:
            self.uncommon.gone = directories
        else:
            self._end(directories)

    def leave(self, directories: HeldDirectories) -> None:
        """As `give_up`, but the caller drops all that `directories` count."""
        if self.uncommon is not None and self.uncommon.users:
            self.uncommon.gone = directories
        else:
            self.close()

    def release(self) -> None:
        """Take note that one operation has ended; after the last, close it if it is gone."""
        uncommon = self.uncommon
        assert uncommon is not None
        uncommon.users -= 1
        if not uncommon.users:
            directories, uncommon.gone = uncommon.gone, None
            if not uncommon.remove:
                self.uncommon = None
            if directories is not None:
                self._end(directories)

    def _end(self, directories: HeldDirectories) -> None:
        above = self.file.above
        if above is not None:
            directories.end(above)
        self.close()

    def close(self) -> None:
        """Close what is open, and give back what it was charged."""
        if self.charged is None:
            return  # nothing is open either: see `Fids.opened`
        opened, self.opened = self.opened, None
        if opened is not None:
            opened.close()
        share, size = self.charged
        self.charged = None
        share.give(size)


class LeftFids:
    """Fids without a number, and the directories their files keep, to be closed in portions."""

    def __init__(
        self, table: dict[int, Fid], directories: HeldDirectories, share: Share, taken: int
    ) -> None:
        """Take over a table, for which `taken` bytes of the share were taken."""
        self._table = table
        self._directories = directories
        self._share = share
        self._taken = taken

    def __len__(self) -> int:
        """Fids and directories that are left."""
        return len(self._table) + len(self._directories.below)

    def some(self, count: int) -> bool:
        """Close at most `count`, and give back their memory; return whether any are left.

        Directories go after the fids, each by itself: one fid may keep a million of them.
        """
        table = self._table
        gone = min(count, len(table))
        for _ in range(gone):
            table.popitem()[1].leave(self._directories)
        given = min(gone * FID_BYTES, self._taken) if table else self._taken
        self._taken -= given
        self._share.give(given)
        self._directories.drop(count - gone)
        return len(self) > 0

    def all(self) -> None:
        """Close all of them now."""
        self.some(len(self))


class Fids:
    """The table of a session.

    Attributes:
        table: fids by number. Fids are added to it; everything else is done by the methods.
        directories: the directories that their files keep.
        held: bytes of attributes and places in directories that fids hold.
    """

    def __init__(
        self,
        count_max: int,
        held_max: int,
        share: Share | None = None,
        leave: Callable[[LeftFids], None] = LeftFids.all,
    ) -> None:
        """An empty table.

        Args:
            count_max: fids at most.
            held_max: bytes that fids may hold, of attributes and places in directories.
            share: of the peer; all that fids need is taken from it.
            leave: closes many fids that were freed together.
        """
        self.table: dict[int, Fid] = {}
        self.held = 0
        self.share = share or Budget().share_of("")
        self.directories = HeldDirectories(self.share)
        self._count_max = count_max
        self._held_max = held_max
        self._leave = leave
        self._room = 0  # fids that memory was taken for
        self._few = -1  # with fewer fids, memory of some is given back
        self._most = 0  # the largest `_room` since the table was made or made smaller
        self._one_open = self.share, OPEN_BYTES  # what most open fids are charged
        self._one_directory = self.share, GUARDED_DIRECTORY_BYTES

    @property
    def memory(self) -> int:
        """Bytes taken for every fid alike, and for what fids hold (`held`)."""
        return self._room * FID_BYTES + self.held

    def of(self, number: int) -> Fid:
        """The fid of a number.

        Raises:
            Refused: EBADF when there is none.
        """
        fid = self.table.get(number)
        if fid is None:
            raise Refused(errno.EBADF)
        return fid

    def check_new(self, number: int) -> None:
        """Check that a number can become a fid.

        Raises:
            Refused: EBADF when it is one, or can be none; ENFILE when there are too many, or the
                peer's memory is used up.
        """
        table = self.table
        if number in table or number == m.NOFID:
            raise Refused(errno.EBADF)
        if len(table) >= self._room:
            self._take_room()

    def _take(self, size: int) -> bool:
        """Take bytes of the share; if it lacks them, drop directories that nothing needs."""
        take = self.share.take
        return take(size) or (self.directories.forget_left() and take(size))

    def _take_room(self) -> None:
        more = min(_PORTION, self._count_max - self._room)
        if more <= 0 or not self._take(more * FID_BYTES):
            raise Refused(errno.ENFILE)
        self._room += more
        self._most = max(self._most, self._room)
        self._few = self._room - 2 * _PORTION

    def _give_room(self) -> None:
        self._room -= _PORTION
        self._few = self._room - 2 * _PORTION
        self.share.give(_PORTION * FID_BYTES)
        if self._room < self._most // 8:
            shrink(self.table)
            self._most = self._room

    def made(self, file: File) -> Fid:
        """Make a fid, and take the memory for all that its file keeps.

        The caller must put it into the table, or pass it to `abandon`.

        Raises:
            Refused: ENFILE, when the peer's memory is used up.
        """
        fid = Fid(file)
        if file.weight:
            self.charge(fid, file.weight)
        above = file.above
        if above is not None:
            below = self.directories.below
            count = below.get(above)
            if count is not None:  # the common case
                below[above] = count + 1
            elif not self.directories.begin(above):
                fid.close()
                raise Refused(errno.ENFILE)
        return fid

    def made_open(self, file: File, opened: Opened) -> Fid:
        """Make a fid that is open; if that fails, close what was opened.

        Raises:
            Refused: ENFILE, when the peer's memory is used up.
        """
        try:
            fid = self.made(file)
        except Refused:
            opened.close()
            raise
        try:
            self.opened(fid, opened)
        except Refused:
            self.abandon(fid)
            raise
        return fid

    def abandon(self, fid: Fid) -> None:
        """Give back what was taken for a fid that got no number."""
        fid.give_up(self.directories)

    def charge(self, fid: Fid, size: int) -> None:
        """Take memory beyond that of every fid; it is given back when this fid is closed.

        Raises:
            Refused: ENFILE, when the peer's memory is used up.
        """
        if not self._take(size):
            raise Refused(errno.ENFILE)
        if fid.charged is not None:
            fid.charged = self.share, fid.charged[1] + size
        elif size == GUARDED_DIRECTORY_BYTES:
            fid.charged = self._one_directory
        else:
            fid.charged = self.share, size

    def check_open(self) -> None:
        """Check that one more fid can be open, before opening a file has an effect.

        Raises:
            Refused: ENFILE, when the peer's memory is used up.
        """
        has = self.share.has
        if not (has(OPEN_BYTES) or (self.directories.forget_left() and has(OPEN_BYTES))):
            raise Refused(errno.ENFILE)

    def opened(self, fid: Fid, opened: Opened) -> None:
        """Set what a fid is open to; if there is no memory for it, close that.

        Raises:
            Refused: ENFILE, when the peer's memory is used up.
        """
        if fid.charged is None and self._take(OPEN_BYTES):
            fid.charged = self._one_open
        else:
            try:
                self.charge(fid, OPEN_BYTES)
            except Refused:
                opened.close()
                raise
        fid.opened = opened

    def replace(self, number: int, old: Fid, new: Fid) -> None:
        """Let a number stand for another fid; operations in flight go on with the old one."""
        assert self.table[number] is old
        self.table[number] = new
        old.give_up(self.directories)

    def forget(self, number: int, fid: Fid) -> None:
        """Free a number, unless it was freed and stands for another fid by now."""
        table = self.table
        if table.get(number) is fid:
            del table[number]
            if fid.uncommon is not None or fid.charged is not None:
                fid.give_up(self.directories)
            else:  # the same without calls, in the common case
                above = fid.file.above
                if above is not None:
                    directories = self.directories
                    count = directories.below[above]
                    if count > 1 or above is directories.left:
                        directories.below[above] = count - 1
                    else:
                        directories.end(above)
            if len(table) < self._few:
                self._give_room()

    def clear(self) -> None:
        """Free all numbers. Many fids are closed later, and their memory is given back then."""
        leaving = LeftFids(self.table, self.directories, self.share, self._room * FID_BYTES)
        self.table, self.directories = {}, HeldDirectories(self.share)
        self._room, self._few, self._most = 0, -1, 0
        if len(leaving) > _CLEARED_AT_ONCE:
            self._leave(leaving)
        else:
            leaving.all()

    def must_hold(self, size: int) -> None:
        """Take `size` bytes of what fids may hold.

        Raises:
            Refused: ENFILE when the peer's memory is used up, ENOMEM when the session's fids hold
                too much.
        """
        if not self.hold(size):
            raise Refused(errno.ENOMEM if self.share.has(size) else errno.ENFILE)

    def hold(self, size: int) -> bool:
        """Take `size` bytes of what fids may hold; return whether. Negative gives back."""
        if size > 0:
            if self.held + size > self._held_max or not self._take(size):
                return False
        else:
            self.share.give(-size)
        self.held += size
        return True


class Uses(NamedTuple):
    """Which fields of a message are fids.

    Attributes:
        named: all of them.
        changed: those that stand for something else, or are opened, when the request succeeds.
        freed: the number is free as soon as the request has begun.
        several: it can have effects one after the other, and wait between them.
    """

    named: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    freed: bool = False
    several: bool = False

    def of(self, message: Any) -> tuple[frozenset[int], frozenset[int]]:
        """The numbers that a message names, and those it changes."""
        return (
            frozenset([getattr(message, name) for name in self.named]),
            frozenset([getattr(message, name) for name in self.changed]),
        )


_FID = Uses(("fid",))
_OPENS = Uses(("fid",), ("fid",))
_WALKS = Uses(("fid", "newfid"), ("newfid",))
_FREES = Uses(("fid",), ("fid",), freed=True)
_DIRECTORY = Uses(("dfid",))

USES: dict[type[m.Message], Uses] = {
    m.Tversion: Uses(),
    m.Tauth: Uses(),
    m.Tflush: Uses(),
    m.Tattach: _OPENS,
    m.Twalk: _WALKS,
    m.Txattrwalk: _WALKS,
    m.Topen: _OPENS,
    m.Tlopen: _OPENS,
    m.Tcreate: Uses(("fid",), ("fid",), several=True),
    m.Tlcreate: _OPENS,
    m.Txattrcreate: _OPENS,
    m.Tclunk: _FREES,
    m.Tremove: _FREES,
    m.Tread: _FID,
    m.Twrite: _FID,
    m.Tstat: _FID,
    m.Twstat: Uses(("fid",), several=True),
    m.Tstatfs: _FID,
    m.Treadlink: _FID,
    m.Tgetattr: _FID,
    m.Tsetattr: _FID,
    m.Treaddir: _FID,
    m.Tfsync: _FID,
    m.Tlock: _FID,
    m.Tgetlock: _FID,
    m.Tsymlink: _FID,
    m.Tmknod: _DIRECTORY,
    m.Tmkdir: _DIRECTORY,
    m.Trename: Uses(("fid", "dfid")),
    m.Tlink: Uses(("dfid", "fid")),
    m.Trenameat: Uses(("olddirfid", "newdirfid")),
    m.Tunlinkat: Uses(("dirfid",)),
}
"""The first one named is the fid the request is for, and the first field, but for Tattach."""
