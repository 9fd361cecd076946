"""The messages between a server and its workers, and how connections are handed over.

Each message is one packet of a Unix socket of type SOCK_SEQPACKET: JSON, and beside it descriptors:
with a `Take` and a `Pass` those of a connection, with a `Configure` that of a live directory. Owns
the messages, and both directions of the socket. Knows neither what a worker does nor how it is
started.
"""

import errno
import json
import signal
import socket
from collections.abc import Sequence
from typing import Any

import msgspec
from trio.lowlevel import wait_readable, wait_writable

from ventifs.errors import VentifsError
from ventifs.net.allow_list import Exports
from ventifs.net.peer import Peer
from ventifs.serving.activity import Process
from ventifs.serving.session import Handover
from ventifs.serving.settings import Settings

PACKET_MAX = 160 << 10  # bytes; the kernel's default room for one is 208 KiB
SESSIONS_TOLD = 64  # in one packet; a session takes some 400 bytes, with long names 2 KiB
_FDS_MAX = 2  # of one message: standard input and output
LEFT_TO_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a worker never hears: a terminal and a service manager send them to every process."""


class TooLarge(VentifsError):
    """A message does not fit into a packet."""


class Configure(msgspec.Struct, tag=True):
    """The first: what to serve, and as which worker.

    Attributes:
        export: the live export to serve, whose directory comes with this; empty for the versions.
    """

    settings: Settings
    number: int
    export: str = ""


class Take(msgspec.Struct, tag=True):
    """Serve this connection; `Over` will name its `id`.

    Attributes:
        half_closes: see `Channel`.
        begun: how far its session got in another process.
    """

    id: int
    peer: Peer
    exports: Exports
    half_closes: bool = False
    begun: Handover | None = None


class Ask(msgspec.Struct, tag=True):
    """Report your figures; each part of the answer has this `number`."""

    number: int


class Stop(msgspec.Struct, tag=True):
    """Answer what is in flight, for at most `grace_s` seconds, and end."""

    grace_s: float


class Ready(msgspec.Struct, tag=True):
    """The store is open."""


class NotReady(msgspec.Struct, tag=True):
    """The store cannot be opened; `reason` is one line."""

    reason: str


class Over(msgspec.Struct, tag=True):
    """A connection is over."""

    id: int


class Pass(msgspec.Struct, tag=True):
    """A connection that another process is to serve, in answer to its `Take` with some more."""

    id: int
    peer: Peer
    exports: Exports
    half_closes: bool
    begun: Handover


class Told(msgspec.Struct, tag=True):
    """A part of the answer to the `Ask` of this number; the parts are added up."""

    number: int
    process: Process
    last: bool


Order = Configure | Take | Ask | Stop
Report = Ready | NotReady | Over | Pass | Told


def _encoded(message: Order | Report) -> bytes:
    """Encode as JSON; msgspec's own encoder does not take a store's path that is no UTF-8."""
    text = json.dumps(msgspec.to_builtins(message), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def _decoded(packet: bytes, kind: Any) -> Any:
    return msgspec.convert(json.loads(packet.decode("utf-8", "surrogatepass")), kind)


async def send(packets: socket.socket, message: Order | Report, fds: Sequence[int] = ()) -> None:
    """Send a message, and with it descriptors, which stay open here.

    Raises:
        TooLarge: the message does not fit into a packet; nothing was sent.
        OSError: the other end has gone.
    """
    packet = _encoded(message)
    if len(packet) > PACKET_MAX:
        raise TooLarge(f"{type(message).__name__} of {len(packet)} bytes")
    while True:
        try:
            socket.send_fds(packets, [packet], fds)
        except BlockingIOError:
            await wait_writable(packets)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            raise TooLarge(f"{type(message).__name__} of {len(packet)} bytes") from None
        else:
            return


async def receive_order(packets: socket.socket) -> tuple[Order | None, list[int]]:
    """A worker's next order and its descriptors; none when the parent has gone.

    Descriptors that this process has no room for are lost.
    """
    packet, fds = await _receive(packets)
    return (_decoded(packet, Order) if packet else None), fds


async def receive_report(packets: socket.socket) -> tuple[Report | None, list[int]]:
    """The next report of a worker and its descriptors; none when it has gone."""
    packet, fds = await _receive(packets)
    return (_decoded(packet, Report) if packet else None), fds


async def _receive(packets: socket.socket) -> tuple[bytes, list[int]]:
    while True:
        await wait_readable(packets)
        try:
            packet, fds, _, _ = socket.recv_fds(
                packets, PACKET_MAX, _FDS_MAX, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            continue
        except ConnectionResetError:
            return b"", []
        return packet, fds
