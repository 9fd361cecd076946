"""Limits on the number of connections, in total and from one peer.

Owns the counts; knows peers, not sockets. The limits keep one peer from using up more than its
share of a server's memory and descriptors.
"""

import ipaddress

from ventifs.errors import VentifsError
from ventifs.net.peer import Peer

CONNECTIONS_MAX = 4096
CONNECTIONS_OF_A_PEER_MAX = 256  # one for a mount; guests behind one address count together


class TooMany(VentifsError):
    """A connection is refused; the message says which limit is reached."""


def identity(peer: Peer) -> str:
    """The key by which a peer's connections are counted, whatever ports and processes it uses.

    An IPv6 address counts as its /64 network, since one machine may use all of it.
    """
    match peer.kind:
        case "tcp":
            ip = ipaddress.ip_address(str(peer.ip))
            if ip.version == 6:
                return f"ip {ipaddress.ip_network((ip, 64), strict=False)}"
            return f"ip {ip}"
        case "vsock":
            return f"cid {peer.cid}"
        case "unix":
            return f"uid {peer.uid}"
    return peer.kind


class Admission:
    """Counts open connections, and enforces the limits.

    Concurrency: for one thread; never waits.
    """

    def __init__(
        self, most: int = CONNECTIONS_MAX, of_a_peer: int = CONNECTIONS_OF_A_PEER_MAX
    ) -> None:
        """Admit at most `most` connections, and `of_a_peer` from each peer."""
        self._most = most
        self._of_a_peer = of_a_peer
        self._counts: dict[str, int] = {}
        self.connections = 0

    def admit(self, peer: Peer) -> None:
        """Count one more connection.

        Raises:
            TooMany: a limit is reached; the connection is not counted.
        """
        who = identity(peer)
        held = self._counts.get(who, 0)
        if held >= self._of_a_peer:
            raise TooMany(f"{peer}: {who} has {held} connections, the most that one peer may have")
        if self.connections >= self._most:
            raise TooMany(f"{peer}: the server has {self.connections} connections, its most")
        self._counts[who] = held + 1
        self.connections += 1

    def leave(self, peer: Peer) -> None:
        """Stop counting a connection that `admit` counted."""
        who = identity(peer)
        self.connections -= 1
        self._counts[who] -= 1
        if not self._counts[who]:
            del self._counts[who]  # peers that have left must not take memory
