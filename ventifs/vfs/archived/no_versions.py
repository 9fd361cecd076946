"""What a server without a store offers in place of versions: none."""

import time
from collections.abc import Sequence
from typing import NoReturn

from ventifs.vfs.archived.exports import Offered, OfferedSnapshot, Unknown
from ventifs.vfs.archived.identities import token_of
from ventifs.vfs.interface import File, Load


class EmptyCatalog:
    """A `Catalog` of no store."""

    def __init__(self) -> None:
        """Start, as it stays, with no versions."""
        self.known = OfferedSnapshot(b"none")  # no generation is that of no list yet

    def now_ns(self) -> int:
        """UTC nanoseconds since 1970."""
        return time.time_ns()

    def current(self) -> OfferedSnapshot:
        """See `Catalog`; never raises."""
        return self.known

    def latest(self, versions: Sequence[Offered]) -> int:
        """See `Catalog`."""
        return -1


class NoVersions:
    """In the place of `ServedVersions`."""

    scores = False

    def __init__(self) -> None:
        """Offer nothing."""
        self.catalog = EmptyCatalog()
        self.token = token_of(b"exports", b"\0", b"")

    def ahead(self) -> list[Load]:
        """See `Filesystem`."""
        return []

    def attached(self, offered: Offered, path: bytes, pass_through: object) -> NoReturn:
        """See `ServedVersions`."""
        raise Unknown("no store is served")

    def listed(self, offered: Offered, parent: File, name: bytes) -> NoReturn:
        """See `ServedVersions`."""
        raise Unknown("no store is served")

    def entered(self, offered: Offered, parent: File, name: bytes) -> NoReturn:
        """See `ServedVersions`."""
        raise Unknown("no store is served")
