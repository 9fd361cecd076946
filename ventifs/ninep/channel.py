"""The two descriptors that bytes of a session come and go by: of a socket the same one, or pipes.

Owns reading and writing without blocking and without copying. Always: at most `READ_MAX` bytes are
read at once, and `write` returns when everything is in the kernel's hands. Descriptors and not
trio's streams, since each layer would cost one request at a time some microseconds: a getattr takes
75 in all. Knows no protocol.
"""

import fcntl
import os
import socket
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import trio
from trio.lowlevel import notify_closing, wait_readable, wait_writable

from ventifs.errors import VentifsError
from ventifs.ninep.fs import Buffer

READ_MAX = 256 << 10
_SLICES_MAX = os.sysconf("SC_IOV_MAX")

# One for all channels of a process: what is read is copied out before anybody else can read. To
# let the kernel fill a new object of this size each time cost 18 us, half of a round trip.
_room = memoryview(bytearray(READ_MAX))
_rooms = [_room]


class Channel(Protocol):
    """Where bytes of a session come from and go to.

    Attributes:
        half_closes: whether an end of input leaves somebody who reads what is written.

    Concurrency: one task reads and writes; any other may wake it or close the channel after.
    """

    half_closes: bool

    async def read(self) -> bytes | None:
        """Some bytes, at most `READ_MAX`; none at the end; None when `wake` was called meanwhile.

        Raises:
            OSError: the connection is broken.
        """

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """Write everything.

        Raises:
            OSError: the connection is broken.
        """

    def wake(self) -> None:
        """Have a `read` that waits return None."""

    def close(self, *, politely: bool = False) -> None:
        """Close it; politely, so that what was written arrives although more was sent to us."""


class DescriptorChannel:
    """A `Channel` over descriptors that can be waited for."""

    def __init__(self, reads: int, writes: int, *, half_closes: bool = False) -> None:
        """Own the descriptors, which may be equal. They are made non-blocking.

        Raises:
            OSError: one of them is not open.
        """
        self.half_closes = half_closes
        self._reads = reads
        self._writes = writes
        self._waits = False
        os.set_blocking(reads, False)
        os.set_blocking(writes, False)

    async def read(self) -> bytes | None:
        """See `Channel`."""
        while True:
            self._waits = True
            try:
                await wait_readable(self._reads)
            except trio.ClosedResourceError:
                return None
            finally:
                self._waits = False
            try:
                return bytes(_room[: os.readv(self._reads, _rooms)])
            except BlockingIOError:  # woken for nothing
                continue

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """See `Channel`."""
        start = 0
        while True:
            try:
                sent = os.writev(self._writes, buffers[start : start + _SLICES_MAX])
            except BlockingIOError:
                await wait_writable(self._writes)
                continue
            while start < len(buffers) and sent >= len(buffers[start]):
                sent -= len(buffers[start])
                start += 1
            if start == len(buffers):
                return
            if sent:  # this one is sent in part
                buffers = [memoryview(buffers[start])[sent:], *buffers[start + 1 :]]
                start = 0

    def wake(self) -> None:
        """See `Channel`. A cancel scope around each wait would cost a round trip 3 us."""
        if self._waits:
            notify_closing(self._reads)

    def close(self, *, politely: bool = False) -> None:
        """See `Channel`."""
        if self._reads < 0:
            return
        notify_closing(self._reads)
        notify_closing(self._writes)
        if politely:
            self._discard_input()
        os.close(self._reads)
        if self._writes != self._reads:
            os.close(self._writes)
        self._reads = self._writes = -1

    def _discard_input(self) -> None:
        """Read what nobody will answer.

        TCP resets a connection that is closed with bytes unread, and the other end then loses what
        was sent to it before.
        """
        with suppress(OSError):
            for _ in range(64):  # 16 MiB, more than a socket holds
                if not os.readv(self._reads, _rooms):
                    return


def socket_channel(connection: socket.socket) -> DescriptorChannel:
    """A channel over a connected socket, which it takes over."""
    fd = connection.detach()
    return DescriptorChannel(fd, fd)


def standard_channel() -> DescriptorChannel:
    """A channel over standard input and output: a socket, pipes or a character device.

    They are moved to other numbers; whatever else prints then prints to standard error, so that no
    stray line can get between replies. QEMU's guestfwd gives what it runs the guest's connection as
    standard error, too, which is then nowhere.

    Raises:
        VentifsError: they are a file or a terminal.
    """
    for fd, name in ((0, "standard input"), (1, "standard output")):
        mode = os.fstat(fd).st_mode
        if os.isatty(fd):
            raise VentifsError(f"{name} is a terminal; --stdio is for programs that speak 9P")
        if not (stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            raise VentifsError(f"{name} is a file; --stdio needs a socket, pipes or a device")
    one = os.path.sameopenfile(0, 1) if stat.S_ISSOCK(os.fstat(0).st_mode) else False
    reads = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    writes = reads if one else fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    if stat.S_ISSOCK(os.fstat(2).st_mode) and os.path.sameopenfile(1, 2):
        os.dup2(nothing, 2)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    return DescriptorChannel(reads, writes, half_closes=not one)
