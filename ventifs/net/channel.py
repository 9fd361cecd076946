"""The two descriptors that carry a session's bytes: one socket for both, or two pipes.

Owns reading and writing without waiting and without copying. The scheduler waits for the
descriptors. Knows no protocol.
"""

import errno
import fcntl
import os
import select
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, cast

from ventifs.buffer import Buffer, FileRange, Piece
from ventifs.errors import VentifsError

_DISCARDED = 64 << 10  # bytes, at once
_PROBES_MAX = 127  # without an answer: the most that Linux allows
_SLICES_MAX = os.sysconf("SC_IOV_MAX")


class Channel(Protocol):
    """Where bytes of a session come from and go to.

    Attributes:
        reads, writes: descriptors to be waited for, which may be equal.
        half_closes: whether the output may still have a reader after the input has ended.
    """

    reads: int
    writes: int
    half_closes: bool

    def read(self, size: int) -> bytes | None:
        """Some bytes, at most `size`; no bytes at the end; None when there are none yet.

        Raises:
            OSError: the connection is broken.
        """

    def write(self, pieces: list[Piece]) -> list[Piece]:
        """Write what can be written now, and return the rest.

        Raises:
            OSError: the connection is broken.
        """

    def close(self, *, politely: bool = False) -> None:
        """Close it.

        Args:
            politely: first discard the input that has arrived unread. With unread input TCP would
                reset the connection, and the other end could lose what was written to it.
        """


class DescriptorChannel:
    """A `Channel` over descriptors that can be waited for."""

    def __init__(self, reads: int, writes: int, *, half_closes: bool = False) -> None:
        """Own the descriptors, which may be equal. They are made non-blocking.

        Raises:
            OSError: one of them is not open.
        """
        self.half_closes = half_closes
        self.reads = reads
        self.writes = writes
        os.set_blocking(reads, False)
        os.set_blocking(writes, False)

    def read(self, size: int) -> bytes | None:
        """See `Channel`."""
        try:
            return os.read(self.reads, size)
        except BlockingIOError:
            return None

    def write(self, pieces: list[Piece]) -> list[Piece]:
        """See `Channel`. A `FileRange` is a TypeError; see `FileChannel`."""
        buffers, start = cast("list[Buffer]", pieces), 0
        if len(buffers) == 1:  # fast path for small replies; see docs/performance.md
            try:
                sent = os.write(self.writes, buffers[0])
            except BlockingIOError:
                return pieces
            return [memoryview(buffers[0])[sent:]] if sent < len(buffers[0]) else []
        while True:
            part = buffers[start : start + _SLICES_MAX]
            try:
                sent = os.writev(self.writes, part)
            except BlockingIOError:
                return pieces[start:]
            whole = start
            while start < len(buffers) and sent >= len(buffers[start]):
                sent -= len(buffers[start])
                start += 1
            if start == len(buffers):
                return []
            if start - whole < len(part):  # a buffer was written in part: there is no more room
                return [memoryview(buffers[start])[sent:], *buffers[start + 1 :]]

    def close(self, *, politely: bool = False) -> None:
        """See `Channel`."""
        if self.reads < 0:
            return
        if politely:
            self._discard_input()
        os.close(self.reads)
        if self.writes != self.reads:
            os.close(self.writes)
        self.reads = self.writes = -1

    def _discard_input(self) -> None:
        """Read and discard up to 16 MiB of the input that has arrived; see `Channel.close`."""
        with suppress(OSError):
            for _ in range(256):  # 16 MiB, more than a socket holds
                if not os.read(self.reads, _DISCARDED):
                    return


class FileChannel(DescriptorChannel):
    """A `Channel` that also sends ranges of files, without a copy."""

    def write(self, pieces: list[Piece]) -> list[Piece]:
        """See `Channel`."""
        start = 0
        for at, piece in enumerate(pieces):
            if isinstance(piece, FileRange):
                left = super().write(pieces[start:at]) if at > start else []
                if left:
                    return [*left, *pieces[at:]]
                left = self._send(piece)
                if left:
                    return [*left, *pieces[at + 1 :]]
                start = at + 1
        return super().write(pieces[start:]) if start < len(pieces) else []

    def _send(self, piece: FileRange) -> list[Piece]:
        offset, count = piece.offset, piece.count
        while count:
            try:
                sent = os.sendfile(self.writes, piece.fd, offset, count)
            except BlockingIOError:
                return [piece.last(count)]
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                return super().write([piece.last(count).content()])  # as with some devices
            if not sent:  # the file has become shorter
                return super().write([bytes(count)])
            offset += sent
            count -= sent
        return []


def received_channel(fds: Sequence[int], *, half_closes: bool) -> DescriptorChannel:
    """A channel over the descriptors of another process's channel, which it takes over.

    Args:
        fds: as `descriptors` listed them there.
        half_closes: see `Channel`.

    Raises:
        OSError: one of them is not open.
    """
    return DescriptorChannel(fds[0], fds[-1], half_closes=half_closes)


def descriptors(channel: Channel) -> list[int]:
    """The descriptors of a channel, each once."""
    return list(dict.fromkeys([channel.reads, channel.writes]))


def socket_channel(connection: socket.socket) -> DescriptorChannel:
    """A channel over a connected socket, which it takes over."""
    fd = connection.detach()
    return DescriptorChannel(fd, fd)


@contextmanager
def probing(channel: Channel) -> Iterator[None]:
    """Ask the other end of a TCP connection whether it is there; wait within this for the answer.

    A machine that has started anew does not know the connection, and resets it. One that does not
    answer, as a guest that is paused, keeps it. Other connections are closed by their kernel.
    """
    level, idle = socket.IPPROTO_TCP, socket.TCP_KEEPIDLE
    try:
        connection = socket.socket(fileno=os.dup(channel.reads))
    except OSError:  # it is no socket, or closed
        yield
        return
    with connection:
        if connection.family not in {socket.AF_INET, socket.AF_INET6}:
            yield
            return
        before = connection.getsockopt(level, idle)
        connection.setsockopt(level, socket.TCP_KEEPCNT, _PROBES_MAX)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(level, idle, 1)  # if it has been idle for longer, asks at once
        try:
            yield
        finally:
            connection.setsockopt(level, idle, before)


def standard_channel() -> DescriptorChannel:
    """A channel over standard input and output: a socket, pipes or a character device.

    The descriptors move to other numbers. Later prints go to standard error, so that no stray line
    gets between replies. QEMU's guestfwd passes the guest's connection as standard error, too; then
    standard error becomes `/dev/null`.

    Raises:
        VentifsError: one of them is a file, a terminal, or a device that cannot be waited for, such
            as `/dev/null`.
    """
    for fd, name in ((0, "standard input"), (1, "standard output")):
        mode = os.fstat(fd).st_mode
        if os.isatty(fd):
            raise VentifsError(f"{name} is a terminal; --stdio is for programs that speak 9P")
        if not (stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            raise VentifsError(f"{name} is a file; --stdio needs a socket, pipes or a device")
        if not _can_be_waited_for(fd):
            raise VentifsError(f"{name} has no end to wait for; --stdio needs a socket or pipes")
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


def _can_be_waited_for(fd: int) -> bool:
    with select.epoll() as epoll:
        try:
            epoll.register(fd, select.EPOLLIN)
        except PermissionError:
            return False
    return True
