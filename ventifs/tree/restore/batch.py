"""What a restore hands over at once: entries that stand together, and where they go."""

import os

import msgspec

from ventifs.tree.objects.records import Entry
from ventifs.tree.restore.destination import Place, Places
from ventifs.tree.restore.hardlinks import Group

_ENTRIES_MAX = 512
_BYTES_MAX = 4 << 20  # of contents, but for the last entry's
_REQUEST_MAX = 56 << 10  # an entry takes up to 5 KiB, a request 64
_PLACES_MAX = 64


class Batch:
    """One request in the making.

    Attributes:
        members: (place, entry) in order.
        places: each place once; the batch counts as pending in it.
        descriptors: of each place the directory, followed by its staging directory if it has one.
        groups: of each first name of hard links its number in the batch, and its group.
        size: bytes of contents.
    """

    def __init__(self) -> None:
        """Nothing is in it."""
        self.members: list[tuple[Place, Entry]] = []
        self.places: dict[Place, int] = {}
        self.descriptors: list[int] = []
        self.groups: list[tuple[int, Group]] = []
        self.size = 0
        self._items: list[tuple[int, msgspec.Raw]] = []
        self._encoded = 0

    @property
    def full(self) -> bool:
        """Whether it is time to hand it over."""
        return (
            len(self.members) >= _ENTRIES_MAX
            or self.size >= _BYTES_MAX
            or self._encoded >= _REQUEST_MAX
            or len(self.places) >= _PLACES_MAX
        )

    def add(
        self, places: Places, place: Place, entry: Entry, data: bytes, group: Group | None
    ) -> None:
        """Take in an entry; `data` is its canonical bytes."""
        at = self.places.get(place)
        if at is None:
            at = self.places[place] = len(self.descriptors)
            self.descriptors.append(os.dup(places.fd(place)))
            if place.staging >= 0:
                self.descriptors.append(os.dup(place.staging))
            place.pending += 1
        if group is not None:
            self.groups.append((len(self.members), group))
        self.members.append((place, entry))
        self.size += entry.size
        self._items.append((at, msgspec.Raw(data)))
        self._encoded += len(data) + 8

    def request(self) -> bytes:
        """What `file_maker.Maker` takes."""
        return msgspec.msgpack.encode(self._items)

    def close(self) -> None:
        """Close the descriptors, once they are handed over."""
        for fd in self.descriptors:
            os.close(fd)
        self.descriptors = []
