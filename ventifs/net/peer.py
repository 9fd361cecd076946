"""The peer of a connection, as the kernel reports it.

Owns what a peer is, and how to get the peer of a socket. Knows no event loop, no protocol, and not
what a peer may do: that is in `allow_list.py`.
"""

import ipaddress
import socket
import struct
from typing import Literal

from msgspec import Struct

_SO_PEERGROUPS = 59  # Linux's number on every machine but PA-RISC and SPARC; socket has no name
_GROUPS_BYTES_MAX = 1024  # the largest buffer that socket.getsockopt allows


class Peer(Struct, frozen=True):
    """The other end of a connection, as the kernel reports it.

    For TCP the kernel knows only where packets come from, which proves no identity. The hypervisor
    assigns a CID, and this kernel assigns Unix credentials, so that neither can be forged.

    Attributes:
        kind: the transport; `stdio` is the process that started this one.
        ip: of TCP, the address in its canonical text, never IPv4 mapped into IPv6, and without a
            zone.
        cid: of vsock.
        port: of TCP and vsock.
        pid, uid, gid, groups: of a Unix socket, as they were when the peer connected; groups are
            the supplementary ones, and empty for a peer in more than 256 of them. An id without a
            mapping in this process's user namespace is the kernel's overflow id, mostly 65534.
    """

    kind: Literal["tcp", "unix", "vsock", "stdio"]
    ip: str | None = None
    cid: int | None = None
    port: int | None = None
    pid: int | None = None
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()

    def __str__(self) -> str:
        """The text for log lines, such as `unix uid 1000 pid 4242`."""
        match self.kind:
            case "tcp":
                return f"tcp {f'[{self.ip}]' if ':' in str(self.ip) else self.ip}:{self.port}"
            case "vsock":
                return f"vsock cid {self.cid} port {self.port}"
            case "unix":
                return f"unix uid {self.uid} pid {self.pid}"
        return self.kind


STDIO = Peer(kind="stdio")


def peer_of(connection: socket.socket) -> Peer:
    """The peer of a connected or accepted socket.

    Raises:
        OSError: the peer is gone, and the kernel no longer knows it.
    """
    if connection.family == socket.AF_UNIX:
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, gid = struct.unpack("=iII", packed)
        return Peer(kind="unix", pid=pid, uid=uid, gid=gid, groups=_groups_of(connection))
    if connection.family == socket.AF_VSOCK:
        cid, port = connection.getpeername()
        return Peer(kind="vsock", cid=cid, port=port)
    host, port = connection.getpeername()[:2]
    ip = ipaddress.ip_address(host.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return Peer(kind="tcp", ip=str(mapped or ip), port=port)


def _groups_of(connection: socket.socket) -> tuple[int, ...]:
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES_MAX)
    except OSError:  # too many for the buffer: without groups fewer rules match, so less is given
        return ()
    return struct.unpack(f"={len(packed) // 4}I", packed)
