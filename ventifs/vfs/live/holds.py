"""What sessions keep from being evicted: open files, and files without a name.

Always: when a session takes more, it holds no more than all sessions together leave free: the first
one at most half of the descriptors, each further one at most half of what is left. An open file
counts as two, its own descriptor and its pin, though it may need only one. A file without a name
counts once the pins' hand has come by, for as long as it is known; a session that has its share
already loses it, and gets ESTALE for it.

Locks have limits of their own (`locks.py`). Replies that wait to be sent may keep the descriptors
of a few files more that are closed already. This module opens nothing.
"""

import errno
from typing import TYPE_CHECKING
from weakref import WeakSet

from ventifs.vfs.interface import Refused
from ventifs.vfs.live.descriptors import Pins

if TYPE_CHECKING:
    from ventifs.vfs.live.files import LiveFile

_OPEN = 2  # descriptors of an open file


class ExportHolds:
    """What all sessions of an export hold.

    Attributes:
        opened: descriptors of open files.
        nameless: files that could not be found again.
    """

    def __init__(self, pins: Pins) -> None:
        """Start with nothing; `pins` says how many descriptors there may be."""
        self.opened = 0
        self.nameless: WeakSet[LiveFile] = WeakSet()
        self._pins = pins

    def left(self) -> int:
        """How many descriptors no session holds."""
        return self._pins.numbers_max - self.opened - len(self.nameless)


class SessionHolds:
    """What one session holds.

    Concurrency: open files are counted in the event loop's thread; `keeps` is called by any thread
    that has the lock of `Pins`.
    """

    def __init__(self, export: ExportHolds) -> None:
        """Start with nothing."""
        self._export = export
        self._opened = 0
        self._nameless: WeakSet[LiveFile] = WeakSet()

    def check(self) -> None:
        """See that one more file may be opened.

        Raises:
            Refused: EMFILE.
        """
        if not self._has_room(_OPEN):
            raise Refused(errno.EMFILE, "a guest has too many open files")

    def open(self) -> None:
        """Take note of one more open file."""
        self._opened += _OPEN
        self._export.opened += _OPEN

    def close(self) -> None:
        """Take note of one less."""
        self._opened -= _OPEN
        self._export.opened -= _OPEN

    def keeps(self, file: "LiveFile") -> bool:
        """Whether a file keeps its pin that could not be found again; it counts from now on."""
        if file not in self._nameless:
            if not self._has_room(1):
                return False
            self._nameless.add(file)
            self._export.nameless.add(file)
        return True

    def _has_room(self, more: int) -> bool:
        return self._opened + len(self._nameless) + more <= self._export.left() - more
