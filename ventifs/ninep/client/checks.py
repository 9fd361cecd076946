"""What a reply may be: an error, or what was asked for and no more.

Owns the exceptions that come of a server's replies, and the limits that a reply alone can break;
what a dialect's attributes and directories may hold is in status.py and remote.py.
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

MSIZE_LEAST = 256  # less, and not even errors fit
ERRNO_MAX = 4095  # of Linux
_NUMBERS = {os.strerror(number).encode(): number for number in sorted(errno.errorcode)}


class RemoteError(VentifsError):
    """The server answered that it cannot, or will not.

    Attributes:
        errno: Linux's number; None when the server speaks words that are none of Linux's.
        ename: the server's words; in 9P2000.L, which has none, Linux's.
    """

    def __init__(self, number: int | None, ename: bytes = b"") -> None:
        """Give the number words, if there are none."""
        self.errno = number
        self.ename = ename or os.strerror(number or 0).encode()
        super().__init__(printable(self.ename).lower())


class Violation(WireError):
    """The server sent what the protocol does not allow; the connection is given up."""


def failure_of(reply: Message, request: Message) -> RemoteError | None:
    """The error that a reply is; None when it is the request's own reply.

    Raises:
        Violation: when it can be no answer to the request.
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
    """Refuse what is more than was asked for.

    Raises:
        Violation: saying how.
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
