"""How many connections there may be, in all and from one peer.

Owns the counting; knows peers, not sockets. One peer can then use up only its share of a server's
memory and descriptors.
"""

import ipaddress

from ventifs.errors import VentifsError
from ventifs.net.peer import Peer

CONNECTIONS_MAX = 4096
CONNECTIONS_OF_A_PEER_MAX = 256  # a mount is one; a host that serves its own guests has them all


class TooMany(VentifsError):
    """A connection is refused; the message says which limit it met."""


def identity(peer: Peer) -> str:
    """Who a peer is when its connections are counted, however many ports and processes it has.

    An IPv6 address counts by its network of 64 bits, since a machine has all of one.
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
    """Counts the connections that there are.

    Concurrency: for one thread; it never waits.
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
        """Count one more.

        Raises:
            TooMany: it is one too many, and not counted.
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
        """One that was admitted is over."""
        who = identity(peer)
        self.connections -= 1
        self._counts[who] -= 1
        if not self._counts[who]:
            del self._counts[who]  # or a million visitors would be remembered
