"""The fids of a session: which numbers stand for which files, and which fids each message uses.

What always holds: a fid that operations still use is closed when the last of them ends, however
early its number was given up; what fids hold besides files has a limit. Knows nothing of order:
that is `flight.py`'s.
"""

import errno
from typing import Any, NamedTuple

import msgspec

from ventifs.ninep import messages as m
from ventifs.ninep.fs import File, Opened, Refused


class Fid(msgspec.Struct, eq=False, gc=False):
    """What a fid stands for. With its number and its place in the table it takes 124 bytes.

    Attributes:
        file: the file it points at.
        opened: the file as it is open, or whatever else is read and written through the fid.
        users: operations in flight that use it.
        gone: its number was given up; it is closed when no operation uses it.
        remove: the file is removed when the fid is clunked (ORCLOSE).
    """

    file: File
    opened: Opened | None = None
    users: int = 0
    gone: bool = False
    remove: bool = False

    def give_up(self) -> None:
        """The number stands for it no more."""
        self.gone = True
        if not self.users:
            self.close()

    def release(self) -> None:
        """One operation uses it no more."""
        self.users -= 1
        if self.gone and not self.users:
            self.close()

    def close(self) -> None:
        """Close what is open."""
        opened, self.opened = self.opened, None
        if opened is not None:
            opened.close()


class Fids:
    """The table of a session.

    Attributes:
        table: fids by number. To be read; changed by the methods.
        held: bytes that fids hold besides what the file system does.
    """

    def __init__(self, count_max: int, held_max: int) -> None:
        """An empty table.

        Args:
            count_max: fids at most.
            held_max: bytes that fids may hold, of attributes and places in directories.
        """
        self.table: dict[int, Fid] = {}
        self.held = 0
        self._count_max = count_max
        self._held_max = held_max

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
        """See that a number can become a fid.

        Raises:
            Refused: EBADF when it is one, or can be none; ENFILE when there are too many.
        """
        if number in self.table or number == m.NOFID:
            raise Refused(errno.EBADF)
        if len(self.table) >= self._count_max:
            raise Refused(errno.ENFILE)

    def replace(self, number: int, old: Fid, new: Fid) -> None:
        """Let a number stand for another file; operations in flight go on with the old one."""
        assert self.table[number] is old
        self.table[number] = new
        old.give_up()

    def forget(self, number: int, fid: Fid) -> None:
        """Free a number, unless it was freed and stands for another fid by now."""
        if self.table.get(number) is fid:
            del self.table[number]
            fid.give_up()

    def clear(self) -> None:
        """Free all numbers."""
        table, self.table = self.table, {}
        for fid in table.values():
            fid.give_up()

    def hold(self, size: int) -> bool:
        """Take `size` bytes of what fids may hold; negative gives back. Whether it was taken."""
        if self.held + size > self._held_max and size > 0:
            return False
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
