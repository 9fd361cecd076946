"""How a connection goes from one process of a server to another, with a session that has begun.

A client says in its first attach which export it wants. If another process serves that one, it
gets the connection, with what was agreed on and what is not answered yet. Always: the connection
stays counted where it was admitted, and what counts it learns of its end once.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from ventifs.net.allow_list import Exports
from ventifs.net.channel import Channel
from ventifs.net.peer import Peer


class Begun(msgspec.Struct, frozen=True):
    """What a session knows when it is to go on in another process.

    Attributes:
        export: that its client attaches to.
        dialect: the version of the protocol that was agreed on.
        message_bytes: bytes of the largest message, as agreed on.
        unread: what the client has sent from its first attach on.
    """

    export: str
    dialect: str
    message_bytes: int
    unread: bytes


class Handover(NamedTuple):
    """A connection that another process is to serve; the taker owns the channel.

    Attributes:
        over: to be called when the connection is over.
    """

    channel: Channel
    peer: Peer
    exports: Exports
    over: Callable[[], None]
    begun: Begun

    def refuse(self) -> None:
        """End the connection."""
        self.channel.close()
        self.over()


PassOn = Callable[[Handover], None]
"""Takes over a connection; neither waits nor raises."""
