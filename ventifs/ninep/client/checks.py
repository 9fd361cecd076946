"""Checks replies: a reply is an error, or what was asked for and no more.

Owns the exceptions for a server's replies, and the limits that can be checked by a reply and its
request alone. The checks of attributes and directories are in attributes.py and fid.py.
"""

import errno
import os
from typing import Any

from ventifs.errors import VentifsError
from ventifs.ninep.protocol.messages import (
    MESSAGES,
    Message,
    Rerror,
    Rgetattr,
    Rlerror,
    Rread,
    Rreaddir,
    Rversion,
    Rwalk,
    Rwrite,
    Tflush,
    Twrite,
)
from ventifs.ninep.protocol.wire import WireError
from ventifs.text import printable

MSIZE_LEAST = 256  # bytes; errors would not fit into less
ERRNO_MAX = 4095  # of Linux
_NUMBERS = {os.strerror(number).encode(): number for number in sorted(errno.errorcode)}


class RemoteError(VentifsError):
    """The server answered with an error.

    Attributes:
        errno: Linux's number; None when the server sends a message that is none of Linux's.
        ename: the server's message; in 9P2000.L, which has none, Linux's.
    """

    def __init__(self, number: int | None, ename: bytes = b"") -> None:
        """Use Linux's message for the number if `ename` is empty."""
        self.errno = number
        self.ename = ename or os.strerror(number or 0).encode()
        super().__init__(printable(self.ename).lower())


class Violation(WireError):
    """The server broke the protocol; the connection is given up."""


def failure_of(reply: Message, request: Message) -> RemoteError | None:
    """The error in an error reply; None for the reply that belongs to the request.

    Raises:
        Violation: when the reply cannot be an answer to the request.
    """
    if isinstance(request, Tflush) and isinstance(reply, Rlerror | Rerror):
        raise Violation("the server answered a Tflush with an error")
    if isinstance(reply, Rlerror):
        if not 0 < reply.ecode <= ERRNO_MAX:
            raise Violation(f"the server sent errno {reply.ecode}")
        return RemoteError(reply.ecode)
    if isinstance(reply, Rerror):
        return RemoteError(reply.errno or _NUMBERS.get(reply.ename), reply.ename)
    wanted = MESSAGES[request.type + 1]
    if type(reply) is not wanted:
        raise Violation(
            f"the server answered a {type(request).__name__} with a {type(reply).__name__}"
        )
    return None


def check(request: Any, reply: Message) -> None:
    """Refuse a reply that is more than was asked for.

    Raises:
        Violation: with a message that says what is wrong.
    """
    what = ""
    match reply:
        case Rversion(msize, version) if (
            version != b"unknown" and not MSIZE_LEAST <= msize <= request.msize
        ):
            what = f"msize {msize}, asked for {request.msize}"
        case Rwalk(wqids) if len(wqids) > len(request.wnames):
            what = f"{len(wqids)} qids for {len(request.wnames)} names"
        case Rwalk(()) if request.wnames:
            what = "no qids, where an error belongs"
        case Rread(data) | Rreaddir(data) if len(data) > request.count:
            what = f"{len(data)} bytes, asked for {request.count}"
        case Rwrite(count) if isinstance(request, Twrite) and count > len(request.data):
            what = f"{count} bytes written of {len(request.data)}"
        case Rgetattr() if max(reply.atime_nsec, reply.mtime_nsec, reply.ctime_nsec) >= 10**9:
            what = "a time of more than 999,999,999 ns"
    if what:
        raise Violation(f"the server sent a {type(reply).__name__} of {what}")
