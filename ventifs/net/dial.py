"""Connects to a server, and explains why an address cannot be used.

Owns connecting, for commands that are not asynchronous, and the messages for addresses that cannot
be connected to or listened on. Knows no event loop and no protocol.
"""

import errno
import os
import socket
from collections.abc import Mapping

from ventifs.errors import VentifsError
from ventifs.net.address import (
    ANY_HOST,
    CID_ANY,
    Address,
    TcpAddress,
    UnixAddress,
    VsockAddress,
)

_REMEDIES = {
    errno.ECONNREFUSED: "nobody listens there; start ventifs serve with this address",
    errno.ENOENT: "there is no such socket; start ventifs serve with this address",
    errno.EACCES: "your user may not; use sudo, or ask whom the socket belongs to",
    errno.EAFNOSUPPORT: "this kernel lacks the transport; for vsock load vsock and its driver",
    errno.ENODEV: "there is no such guest or host; give the guest a vhost-vsock device",
    errno.EHOSTUNREACH: "check the address, and the network between",
    errno.ENETUNREACH: "check the address, and the network between",
    errno.ECONNRESET: "nobody listens there; start ventifs serve with this address",
}


class TransportError(VentifsError):
    """An address cannot be listened on or connected to; the message says why and what to do."""


def connect(address: Address, timeout_s: float) -> socket.socket:
    """A blocking socket without a timeout, connected to a server within `timeout_s` seconds.

    If a host has several addresses, each is tried in turn, with the whole timeout for each.

    Raises:
        TransportError: naming the address, the reason and what to do about it.
    """
    try:
        match address:
            case TcpAddress(host, port):
                if host == ANY_HOST:
                    raise TransportError(f"{address}: * is every host; name the server's")
                connected = socket.create_connection((host, port), timeout_s)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            case UnixAddress(path):
                connected = _connected(socket.AF_UNIX, path, timeout_s)
            case VsockAddress(cid, port):
                if cid == CID_ANY:
                    raise TransportError(f"{address}: any is every CID; from a guest, use host")
                connected = _connected(socket.AF_VSOCK, (cid, port), timeout_s)
    except OSError as error:
        raise explained(address, "cannot connect", error, _REMEDIES) from None
    connected.settimeout(None)
    return connected


def explained(
    address: Address, what: str, error: OSError, remedies: Mapping[int, str]
) -> TransportError:
    """An error that explains in one line what went wrong at an address.

    Args:
        address: which.
        what: what did not work, such as `cannot connect`.
        error: why.
        remedies: what to do about it, by errno.
    """
    if isinstance(error, socket.gaierror):
        return TransportError(f"{address}: no address is known for the host; check its name")
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return TransportError(f"{address}: {what}: no answer; check the address and firewalls")
    remedy = remedies.get(error.errno or 0, "")
    reason = os.strerror(error.errno or 0).lower()
    return TransportError(f"{address}: {what}: {reason}" + (f"; {remedy}" if remedy else ""))


def _connected(family: int, place: str | tuple[int, int], timeout_s: float) -> socket.socket:
    connected = socket.socket(family, socket.SOCK_STREAM)
    connected.settimeout(timeout_s)
    try:
        connected.connect(place)
    except BaseException:
        connected.close()
        raise
    return connected
