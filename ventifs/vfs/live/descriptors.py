"""The descriptors that pin the inodes of files: a bounded number, those used lately.

Always:

- A pin is closed when nothing uses it: neither its file, nor a thread that works with it.
- There are at most `pins_max` pins that can be evicted. What is open is never evicted. What has no
  name any more could not be found again, and stays as long as its session may hold it (`holds.py`).
- An evicted file is found again by its file handle, or by its name and the time of its birth. If
  what is found is not the same file, that is ESTALE; it is never another file.
- Whatever clients have open, the process has descriptors left for new connections, and to look up
  accounts: without one, the host's libraries say that an account does not exist.

This module knows neither names nor users: a file itself looks for its name (`files.py`).
"""

import errno
import os
import resource
import threading
from collections.abc import Callable
from typing import ParamSpec, Protocol
from weakref import ref

import msgspec

P = ParamSpec("P")

# Each pin keeps about 1.7 KiB of the kernel's memory: its inode, its name and its open file. What
# was evicted is found again in some 10 microseconds: docs/performance.md.
PINS_MAX = 16_384
RESERVED = 64  # descriptors that clients' files do not get
_LOOKED_AT_MAX = 1024  # of the pins that were used lately; then the next is evicted, used or not
_EVICTED_AT_ONCE = 32  # when the process has no descriptor left
_NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})


class Descriptor(msgspec.Struct, gc=False, eq=False):
    """An open descriptor, which is closed when nothing refers to it any more.

    Attributes:
        fd: its number.
        used: of a pin: whether it was used lately. Whatever uses one sets this.
    """

    fd: int
    used: bool = True

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

    def lose(self) -> bool:
        """Let its pin go for good, unless its session may hold it; return whether it did."""


def pins_allowed() -> int:
    """How many pins this process may have: half of its limit on descriptors.

    The rest is for open files, locks and connections, which may also take what pins give back.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return PINS_MAX if soft < 0 else max(16, min(PINS_MAX, soft // 2))


def numbers_allowed() -> int:
    """Below which number descriptors of clients' files must be."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 31 if soft < 0 else soft - min(RESERVED, soft // 8)


class Pins:
    """The pins of one export that can be evicted.

    They are evicted as CLOCK does it: a hand goes round all of them, and takes the first that was
    not used since it came by. Using one is then a single assignment, and the list takes 8 bytes for
    each: docs/performance.md.

    Attributes:
        pins_max: how many there are at most.
        numbers_max: below which number all descriptors of clients' files are, but for one.
        short: whether there was no room once; `check_room` is then to be called before a file is
            created.
        evictions: how many were evicted so far.

    Concurrency: methods are for any thread.
    """

    def __init__(self, pins_max: int) -> None:
        """Keep up to `pins_max`."""
        self.pins_max = pins_max
        self.numbers_max = numbers_allowed()
        self.short = False
        self.evictions = 0
        self._files: list[ref[Pinned] | None] = []  # by number of the descriptor
        self._count = 0  # of those that are not None, also of files that are gone
        self._hand = 0
        self._holds: dict[int, int] = {}  # how often one is held, by number of the descriptor
        self._lock = threading.RLock()  # within it a file may end, which is forgotten then

    def __len__(self) -> int:
        """How many can be evicted now; O(n)."""
        return sum(reference is not None and reference() is not None for reference in self._files)

    def keep(self, file: Pinned, pin: Descriptor) -> None:
        """Count the new pin of a file; evict others if there are too many.

        Nothing has to be done when a file goes: it is counted until the hand comes by, or until
        another descriptor has its number.
        """
        fd, files = pin.fd, self._files
        with self._lock:
            if fd >= len(files) or files[fd] is None:
                self._add(file, pin)
            else:  # the common case: the number was another file's
                files[fd] = ref(file)
            while self._count > self.pins_max:
                self._evict_one(pin)

    def _add(self, file: Pinned, pin: Descriptor) -> None:
        fd, files = pin.fd, self._files
        while fd >= len(files):
            files.append(None)
        self._count += files[fd] is None
        files[fd] = ref(file)

    def forget(self, pin: Descriptor) -> None:
        """Take note that a pin must not be evicted."""
        fd, files = pin.fd, self._files
        with self._lock:
            if fd < len(files) and files[fd] is not None:
                files[fd] = None
                self._count -= 1

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

    def hold_new(self, pin: Descriptor) -> None:
        """Keep the pin of a file that is being made from being evicted until `release`."""
        self._holds[pin.fd] = 1

    def hold(self, file: Pinned, pin: Descriptor) -> bool:
        """Keep a file's pin from being evicted until `release`, as often as this is called.

        Returns:
            False if it is not the file's pin any more.
        """
        with self._lock:
            if file.pin is not pin:
                return False
            self._holds[pin.fd] = self._holds.get(pin.fd, 0) + 1
            self.forget(pin)
            return True

    def release(self, file: Pinned, pin: Descriptor) -> None:
        """End one `hold`."""
        holds = self._holds
        with self._lock:
            left = holds.pop(pin.fd) - 1
            if left:
                holds[pin.fd] = left
            else:
                self.keep(file, pin)

    def with_room(self, call: Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> int:
        """Call what makes a descriptor; evict pins if there is no room for one.

        It must not have other effects: it may be called again.

        Raises:
            OSError: EMFILE or ENFILE, when there is no pin left to be evicted.
        """
        while True:
            try:
                fd = call(*args, **kwargs)
                if fd < self.numbers_max:
                    return fd
                os.close(fd)
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            except OSError as error:
                if not self.makes_room(error):
                    raise

    def check_room(self, fd: int) -> None:
        """See that there is room for a file that is to be created; `fd` is of anything.

        Raises:
            OSError: see `with_room`.
        """
        os.close(self.with_room(os.dup, fd))

    def makes_room(self, error: OSError) -> bool:
        """Evict pins if a call has failed for want of descriptors; return whether it did."""
        if error.errno not in _NONE_LEFT:
            return False
        before = self.evictions
        with self._lock:
            while self._count and self.evictions < before + _EVICTED_AT_ONCE:
                self._evict_one(None)
        return self.evictions > before

    def _evict_one(self, spared: Descriptor | None) -> None:
        """Evict a pin that was not used lately, but not the one that is spared.

        One without a name is let alone for ever, if its session may hold it.
        """
        files, looked_at = self._files, 0
        while self._count:
            fd = self._hand
            self._hand = fd + 1 if fd + 1 < len(files) else 0
            reference = files[fd]
            if reference is None:
                continue
            file = reference()
            pin = None if file is None else file.pin
            if file is None or pin is None or pin.fd != fd:
                files[fd] = None  # the file is gone
                self._count -= 1
                return
            if pin is spared:
                if self._count > 1:
                    continue
                return
            looked_at += 1
            if pin.used and looked_at < _LOOKED_AT_MAX:
                pin.used = False
                continue
            self.forget(pin)
            if (os.fstat(fd).st_nlink and file.evict()) or file.lose():
                self.evictions += 1
            return
