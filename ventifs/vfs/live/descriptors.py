"""The descriptors that pin the inodes of files: a bounded number, those used lately.

Always:

- A pin is closed when nothing uses it: neither its file, nor a thread that works with it.
- There are at most `pins_max` pins that can be evicted. What is open, and what has no name any
  more, is never evicted: it could not be found again.
- An evicted file is found again by its file handle, or by its name and the time of its birth. If
  what is found is not the same file, that is ESTALE; it is never another file.

This module knows neither names nor users: a file itself looks for its name (`files.py`).
"""

import errno
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, Protocol, TypeVar
from weakref import ref

import msgspec

P = ParamSpec("P")
T = TypeVar("T")

# Each pin keeps about 1.7 KiB of the kernel's memory: its inode, its name and its open file.
PINS_MAX = 65_536
_EVICTED_AT_ONCE = 32  # when the process has no descriptor left
_NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})


class Descriptor(msgspec.Struct, gc=False, eq=False):
    """An open descriptor, which is closed when nothing refers to it any more.

    Attributes:
        fd: its number.
        opens: of a pin: how many open files need it to stay.
    """

    fd: int
    opens: int = 0

    def __del__(self) -> None:
        os.close(self.fd)


class Pinned(Protocol):
    """A file with a pin, or one that can be found again.

    Attributes:
        pin: None while it is evicted.
    """

    pin: Descriptor | None

    def evict(self) -> bool:
        """Let its pin go, and return whether it did: it must be found again by something."""


def pins_allowed() -> int:
    """How many pins this process may have: half of its limit on descriptors.

    The rest is for open files, locks and connections, which may also take what pins give back.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return PINS_MAX if soft < 0 else max(16, min(PINS_MAX, soft // 2))


class Pins:
    """The pins of one export that can be evicted, those used longest ago first.

    Attributes:
        pins_max: how many there are at most.
        evictions: how many were evicted so far.

    Concurrency: methods are for any thread.
    """

    def __init__(self, pins_max: int) -> None:
        """Keep up to `pins_max`."""
        self.pins_max = pins_max
        self.evictions = 0
        self._files: OrderedDict[int, ref[Pinned]] = OrderedDict()  # by number of the descriptor
        self._lock = threading.Lock()  # between evicting a file and opening it

    def __len__(self) -> int:
        """How many can be evicted now."""
        return len(self._files)

    def keep(self, file: Pinned, pin: Descriptor) -> None:
        """Count the new pin of a file; evict others if there are too many."""
        files = self._files
        files[pin.fd] = ref(file)
        while len(files) > self.pins_max:
            self._evict_one()

    def touch(self, pin: Descriptor) -> None:
        """Take note that a pin is used."""
        if pin.fd in self._files:  # else it cannot be evicted
            with suppress(KeyError):  # a thread has evicted it meanwhile
                self._files.move_to_end(pin.fd)

    def forget(self, pin: Descriptor) -> None:
        """Take note that the file of a pin is gone."""
        self._files.pop(pin.fd, None)

    def restore(self, file: Pinned, pin: Descriptor) -> Descriptor:
        """Give an evicted file the pin that was found; return that of another thread if it has one.

        There is only one, so that what holds it keeps the file from being evicted.
        """
        with self._lock:
            found = file.pin
            if found is not None:
                return found
            file.pin = pin
        self.keep(file, pin)
        return pin

    def hold(self, file: Pinned, pin: Descriptor) -> None:
        """Keep a file from being evicted, as often as this is called.

        Args:
            file: one that was pinned a moment ago.
            pin: its pin then, which it gets again if it has been evicted since.
        """
        with self._lock:
            held = file.pin
            if held is None:
                held = file.pin = pin
            held.opens += 1
            self._files.pop(held.fd, None)

    def release(self, file: Pinned, pin: Descriptor) -> None:
        """End one `hold`."""
        with self._lock:
            pin.opens -= 1
            if not pin.opens and file.pin is pin:
                self._files[pin.fd] = ref(file)

    def with_room(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what makes a descriptor; evict pins if there is no room for one.

        Raises:
            OSError: EMFILE or ENFILE, when there is no pin left to be evicted.
        """
        while True:
            try:
                return call(*args, **kwargs)
            except OSError as error:
                if error.errno not in _NONE_LEFT or not self._evict_some():
                    raise

    def _evict_some(self) -> bool:
        before = self.evictions
        for _ in range(min(_EVICTED_AT_ONCE, len(self._files))):
            self._evict_one()
        return self.evictions > before

    def _evict_one(self) -> None:
        """Evict the pin that was used longest ago; one without a name is let alone for ever."""
        with self._lock:
            try:
                fd, reference = self._files.popitem(last=False)
            except KeyError:
                return
            file = reference()
            pin = None if file is None else file.pin
            if file is None or pin is None or pin.fd != fd or pin.opens:
                return
            if os.fstat(fd).st_nlink and file.evict():
                self.evictions += 1
