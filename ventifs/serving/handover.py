"""How a connection goes from one process of a server to another, with a session that has begun.

A client says in its first attach which export it wants. If another process serves that one, it gets
the connection, and the `Handover` that the session here has left. Always: the connection stays
counted where it was admitted, and its end is reported there once.
"""

from collections.abc import Callable
from typing import NamedTuple

from ventifs.net.allow_list import Exports
from ventifs.net.channel import Channel
from ventifs.net.peer import Peer
from ventifs.serving.session import Handover


class Departure(NamedTuple):
    """A connection that another process is to serve; the taker owns the channel.

    Attributes:
        over: to be called when the connection is over.
    """

    channel: Channel
    peer: Peer
    exports: Exports
    over: Callable[[], None]
    handover: Handover

    def refuse(self) -> None:
        """End the connection."""
        self.channel.close()
        self.over()


PassOn = Callable[[Departure], None]
"""Takes over a connection; neither waits nor raises."""
