"""Control sockets: each server of this machine reports by one what it does.

Owns their place: `control-PID.sock` in a directory of such sockets, of mode 0600. A client that
connects receives the `Activity` as JSON, then the end of the stream. The server reads nothing, so
there is nothing to attack. Commands read the sockets without an event loop.
"""

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from ventifs.net.address import UnixAddress
from ventifs.net.dial import TransportError, connect
from ventifs.serving.activity import Activity

_PATIENCE_S = 5.0
_ANSWER_MAX = 64 << 20  # bytes: a session is some 400
_PATTERN = "control-*.sock"


def control_address(directory: Path, pid: int) -> UnixAddress:
    """The control socket of the server with this process id."""
    return UnixAddress(str(directory / _PATTERN.replace("*", str(pid))))


def control_addresses(directory: Path) -> list[UnixAddress]:
    """The control sockets in a directory; the files of killed servers stay."""
    return [UnixAddress(str(path)) for path in sorted(directory.glob(_PATTERN))]


async def serve_control(listener: socket.socket, ask: Callable[[], Awaitable[Activity]]) -> None:
    """Answer clients until cancelled."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            with trio.move_on_after(_PATIENCE_S), suppress(trio.BrokenResourceError):
                await stream.send_all(msgspec.json.encode(await ask()))

    trio_listener = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    await trio.serve_listeners(answer, [trio_listener])


def servers(directory: Path) -> list[Activity]:
    """Reports of the servers that have a control socket in a directory, or in its `control`.

    The latter is a service's own directory, within one of root's. The list is empty if there is no
    such directory. Servers of other users, and servers that have gone, are left out.
    """
    found = []
    for path in sorted([*directory.glob(_PATTERN), *directory.glob(f"control/{_PATTERN}")]):
        with suppress(TransportError, OSError, msgspec.DecodeError):
            found.append(msgspec.json.decode(_asked(path), type=Activity))
    return found


def _asked(path: Path) -> bytes:
    answer = bytearray()
    with connect(UnixAddress(str(path)), _PATIENCE_S) as connection:
        connection.settimeout(_PATIENCE_S)
        while len(answer) < _ANSWER_MAX and (more := connection.recv(1 << 16)):
            answer += more
    return bytes(answer)
