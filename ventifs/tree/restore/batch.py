"""A batch: entries that stand together, which a restore hands to a worker in one request."""

import os

import msgspec

from ventifs.tree.objects.records import Entry
from ventifs.tree.restore.destination import Places, UnfinishedDirectory
from ventifs.tree.restore.hardlinks import LinkedFile

_ENTRIES_MAX = 512
_BYTES_MAX = 4 << 20  # of contents; the last entry may exceed it
_REQUEST_MAX = 56 << 10  # bytes: an entry takes up to 5 KiB, a request up to 64 KiB
_PLACES_MAX = 64


class FileBatch:
    """One request that is being put together.

    Attributes:
        members: (place, entry) in order.
        places: the index of each place's descriptor; the batch counts as pending in each place.
        descriptors: for each place its directory, followed by its staging directory if it has one.
        groups: for each first name of a hard-linked file, its index in `members` and its group.
        size: bytes of contents.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.members: list[tuple[UnfinishedDirectory, Entry]] = []
        self.places: dict[UnfinishedDirectory, int] = {}
        self.descriptors: list[int] = []
        self.groups: list[tuple[int, LinkedFile]] = []
        self.size = 0
        self._items: list[tuple[int, msgspec.Raw]] = []
        self._encoded = 0

    @property
    def full(self) -> bool:
        """Whether the batch is to be handed over now."""
        return (
            len(self.members) >= _ENTRIES_MAX
            or self.size >= _BYTES_MAX
            or self._encoded >= _REQUEST_MAX
            or len(self.places) >= _PLACES_MAX
        )

    def add(
        self,
        places: Places,
        place: UnfinishedDirectory,
        entry: Entry,
        data: bytes,
        group: LinkedFile | None,
    ) -> None:
        """Add an entry; `data` is its canonical bytes."""
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
        """The encoded request, as `file_maker.Maker` takes it."""
        return msgspec.msgpack.encode(self._items)

    def close(self) -> None:
        """Close the descriptors, after they were handed over."""
        for fd in self.descriptors:
            os.close(fd)
        self.descriptors = []
