"""A server that reads without any look-up: one sendmsg per read, of slices decoded beforehand.

Its rate is the upper bound for a Python server on one core. It serves one file of a version, cut at
multiples of one count into the same slices of blocks that the 9P server sends. It speaks just
enough 9P2000.L for load.c, checks no request, and serves one connection after the other.
"""

import socket
import struct
import sys
from pathlib import Path

from tools.bench.stored import CACHE_BYTES, Slices, content_of, slices
from ventifs.store import Store
from ventifs.tree.objects.records import length_of

_HEADER = struct.Struct("<IBH")  # size, type, tag
_READ = struct.Struct("<QI")  # offset, count; they follow the fid
_RREAD = struct.Struct("<IBHI")
_QID = struct.pack("<BIQ", 0, 1, 1)
_TLOPEN, _TGETATTR, _TATTACH, _TWALK, _TREAD = 12, 24, 104, 110, 116


def serve(connection: socket.socket, length: int, windows: dict[int, Slices]) -> None:
    """Answer requests until the peer closes the connection."""
    attributes = struct.pack("<Q13sIIIQQQ96x", 0x7FF, _QID, 0o100644, 0, 0, 1, 0, length)
    fixed = {_TATTACH: _QID, _TGETATTR: attributes, _TLOPEN: _QID + bytes(4)}
    while data := connection.recv(1 << 16):
        at = 0
        while at < len(data):
            size, kind, tag = _HEADER.unpack_from(data, at)
            if kind == _TREAD:
                offset, count = _READ.unpack_from(data, at + 11)
                head = _RREAD.pack(11 + count, kind + 1, tag, count)
                connection.sendmsg([head, *windows[offset]])
            else:
                body = fixed.get(kind, data[at + 7 : at + size])  # Rversion repeats Tversion's body
                if kind == _TWALK:
                    names = data[at + 15 : at + 17]
                    body = names + int.from_bytes(names, "little") * _QID
                connection.sendall(_HEADER.pack(7 + len(body), kind + 1, tag) + body)
            at += size


def listening(address: str) -> socket.socket:
    """A listening socket at /PATH or HOST:PORT."""
    if not address.startswith("/"):
        host, port = address.split(":")
        return socket.create_server((host, int(port)))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    return listener


def main() -> None:
    """Arguments: STORE VERSION PATH COUNT ADDRESS."""
    path, version, name, count, address = sys.argv[1:]
    with Store.open(Path(path), cache_bytes=CACHE_BYTES) as store:
        content = content_of(store, version, name)
        length = length_of(content)
        windows = {
            offset: slices(store, content, offset, int(count))
            for offset in range(0, length, int(count))
        }
    listener = listening(address)
    while True:
        connection, _ = listener.accept()
        if connection.family == socket.AF_INET:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            serve(connection, length, windows)


if __name__ == "__main__":
    main()
