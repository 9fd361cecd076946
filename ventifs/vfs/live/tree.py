"""The directory of an export: its root, how its files are numbered, and how they are found again.

Always: every descriptor of a file comes from its directory's, a component a step, or from a file
handle of a file that was reached so; nothing is opened by a path. No mount point below the root is
crossed. This module knows no sessions and no sockets.
"""

import errno
import os
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from blake3 import blake3

from ventifs.vfs.interface import Cold, Load, Refused
from ventifs.vfs.live.actor import Acting, acting_here
from ventifs.vfs.live.descriptors import Descriptor, Pins, pins_allowed
from ventifs.vfs.live.holds import ExportHolds
from ventifs.vfs.live.leftovers import Leftovers
from ventifs.vfs.live.marks import NO_HANDLE, handle_in, mark_of, name_in, same, with_handle
from ventifs.vfs.live.syscalls import (
    Born,
    born,
    born_at,
    handle_of,
    open_beneath,
    open_handle,
    proc_path,
    statx,
)

if TYPE_CHECKING:
    from ventifs.vfs.live.files import LiveFile

T = TypeVar("T")

PATH_ONLY = os.O_PATH | os.O_NOFOLLOW
SCRATCH = 1 << 20  # bytes of the largest read whose result may be a `FileRange`
SLOW_S = 0.001  # longer than anything takes that needs no disk, unless others take the core
THREADED = 16  # operations that threads do after one that was slow

# qid.path: inode numbers of the root's device as they are, others with a prefix in their upper bits
_PREFIX_BITS = 48
_DEVICES_MAX = (1 << 15) - 1
_HASHED = 0xFFFF << _PREFIX_BITS
_LOST = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.EACCES})


class Pace:
    """Decides whether what may need a disk is done at once, or by a thread.

    A hop to a thread costs ten times as much as looking up a name that the disk's cache has. So
    such operations are done at once, until one is slow; then threads do the next `THREADED`.

    Concurrency: for any thread; counts may be off by one.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        """Start with doing everything at once; `clock` returns seconds."""
        self._clock = clock
        self._threaded = 0

    def run(self, work: Callable[[], T]) -> T:
        """Do an operation without effects, whose result is the caller's own.

        Raises:
            Cold: a thread is to do it, and its result is the operation's.
        """
        if self._threaded:
            self._threaded -= 1
            raise Cold(Load(None, work))
        start = self._clock()
        try:
            return work()
        finally:
            self.note(start)

    def bring(self, key: object, work: Callable[[], object]) -> None:
        """Bring something into memory.

        Raises:
            Cold: a thread is to bring it; the operation is tried again then.
        """
        if self._threaded:
            self._threaded -= 1
            raise Cold(Load(key, work))
        start = self._clock()
        try:
            work()
        finally:
            self.note(start)

    def note(self, start: float) -> None:
        """Take note of how long something took that began at `start`."""
        if self._clock() - start > SLOW_S:
            self._threaded = THREADED


class LiveTree:
    """One export's directory.

    Attributes:
        writable: whether anything may be changed.
        appends: whether O_APPEND is passed on to the host.
        acting: sets the user of operations.
        root: a descriptor of the directory.
        pins: the descriptors of its files.
        holds: which of them cannot be evicted.
        leftovers: what listings have read and not used yet.
        pace: of operations that may need a disk.
        scratch: where reads are tried whose result may be a `FileRange`; empty if none may. What is
            in it is never used.
        nowait: whether the kernel can say that a read would wait for a disk; False once it cannot.
    """

    def __init__(
        self,
        directory: int,
        *,
        writable: bool = False,
        exclusive: bool = False,
        sends: bool = False,
        acting: Acting | None = None,
        pins_max: int | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """Serve a directory.

        Args:
            directory: a descriptor of it, which the caller keeps.
            writable: whether anything may be changed.
            exclusive: whether one client has it alone. It may then write back what others than it
                cannot have changed, so O_APPEND is not passed on: Linux before 6.4 writes back
                whole pages through such files.
            sends: whether what is read may be a `FileRange`.
            acting: sets the user; this process's own by default.
            pins_max: descriptors that pin files, at most; by default, half of what the process may
                have.
            clock: returns seconds; for `Pace`.

        Raises:
            OSError: the directory, or `/proc/self/fd`, cannot be opened.
        """
        self.writable = writable
        self.appends = not exclusive
        self.acting = acting or acting_here()
        self.acting.as_server()
        self.root = Descriptor(os.open(proc_path(directory), os.O_PATH | os.O_DIRECTORY))
        self.pins = Pins(pins_allowed() if pins_max is None else pins_max)
        self.holds = ExportHolds(self.pins)
        self.leftovers = Leftovers()
        self.pace = Pace(clock)
        self.nowait = True
        self.scratch = memoryview(bytearray(SCRATCH if sends else 0))
        self._proc = Descriptor(os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY))
        status = statx(self.root.fd)
        self._device = status.dev
        self._here = born(self.root.fd)[4]  # the same device
        self._prefixes: dict[int, int] = {}
        self._births = status.btime_ns != 0
        self._handles = self._has_handles()
        self._mount = self._mount_of() if self.acting.switches and self._handles else None

    def _has_handles(self) -> bool:
        try:
            return bool(handle_of(self.root.fd))
        except OSError:
            return False

    def _mount_of(self) -> Descriptor | None:
        """What `open_handle` needs, if this process may use it."""
        try:
            mount = Descriptor(os.open(proc_path(self.root.fd), os.O_RDONLY | os.O_DIRECTORY))
            os.close(open_handle(mount.fd, handle_of(self.root.fd), os.O_PATH))
        except OSError:
            return None
        return mount

    # Numbers

    def number(self, device: int, ino: int) -> int:
        """The number of a file: its inode number if it is on the root's own device.

        Within one mount other devices are rare: subvolumes of btrfs, and layers of overlayfs.
        """
        if device == self._device:
            return ino if 0 < ino < _HASHED else _hashed(device, ino)
        prefix = self._prefixes.get(device)
        if prefix is None:
            if len(self._prefixes) >= _DEVICES_MAX:
                return _hashed(device, ino)
            prefix = self._prefixes[device] = len(self._prefixes) + 1
        return prefix << _PREFIX_BITS | ino if ino < 1 << _PREFIX_BITS else _hashed(device, ino)

    def mark(self, fd: int, name: bytes) -> bytes:
        """The mark of a descriptor's file."""
        return self._mark(born(fd), name)

    def mark_at(self, directory: int, name: bytes) -> bytes:
        """The mark of a name in a directory. May wait for the disk."""
        return self._mark(born_at(directory, name), name)

    def _mark(self, status: Born, name: bytes) -> bytes:
        mode, ino, birth_s, birth_ns, device = status
        if device != self._here or not 0 < ino < _HASHED:
            ino = self.number(os.makedev(device & 0xFFFF_FFFF, device >> 32), ino)
        return mark_of(mode, birth_s * 1_000_000_000 + birth_ns, ino, name)

    def number_beside(self, number: int, ino: int) -> int:
        """The number of an inode on the device of another file, whose number is given."""
        prefix = number >> _PREFIX_BITS
        return ino if not prefix or number == ino else prefix << _PREFIX_BITS | ino

    # Descriptors

    def reopen(self, pin: Descriptor, flags: int) -> int:
        """Open the file of a pin, as the thread's user; it must be a regular file or a directory.

        Nothing waits: not for a lease, and no terminal becomes the process's own.
        """
        flags |= os.O_NONBLOCK | os.O_NOCTTY
        return self.pins.with_room(os.open, b"%d" % pin.fd, flags, dir_fd=self._proc.fd)

    def evictable(self, fd: int, mark: bytes) -> bytes | None:
        """The mark by which a file is found again; None if it could be taken for another one."""
        if handle_in(mark):
            return mark
        if self._handles:
            return with_handle(mark, handle_of(fd))
        return mark if self._births else None

    def found(self, file: "LiveFile") -> Descriptor:
        """Pin an evicted file again. May wait for the disk.

        Raises:
            Refused: ESTALE, when it is gone, or something else has its name.
        """
        self.acting.as_server()
        mark = file.mark
        handle = handle_in(mark)
        if handle == NO_HANDLE:
            raise Refused(errno.ESTALE)
        if handle and self._mount is not None:
            fd = self.pins.with_room(open_handle, self._mount.fd, handle, PATH_ONLY)
            return self._take_back(file, Descriptor(fd))
        return self._found_by_names(file)

    def _found_by_names(self, file: "LiveFile") -> Descriptor:
        way: list[LiveFile] = []
        at = file
        pin = file.pin
        while pin is None:
            way.append(at)
            assert at.above is not None, "a root is always pinned"
            at = at.above
            pin = at.pin
        for each in reversed(way):
            try:
                fd = self.pins.with_room(
                    open_beneath, pin.fd, name_in(each.mark), PATH_ONLY, cached=False
                )
            except OSError as error:
                raise Refused(errno.ESTALE) if error.errno in _LOST else error from None
            pin = self._take_back(each, Descriptor(fd))
        return pin

    def _take_back(self, file: "LiveFile", pin: Descriptor) -> Descriptor:
        mark = file.mark
        handle = handle_in(mark)
        if same(self.mark(pin.fd, b"")) != same(mark) or (
            handle and not (self._handles and handle_of(pin.fd) == handle)
        ):
            raise Refused(errno.ESTALE)
        return self.pins.restore(file, pin)


def _hashed(*numbers: int) -> int:
    """A number for what has none that is free: not one of the prefixes, and never 2^64 - 1."""
    digest = blake3(b"".join([each.to_bytes(8, "little") for each in numbers])).digest(8)
    low = int.from_bytes(digest, "little") & (1 << _PREFIX_BITS) - 1
    return _HASHED | (low if low != (1 << _PREFIX_BITS) - 1 else 0)
