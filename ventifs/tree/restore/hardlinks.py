"""Hard links of a restore: the names of one file, and making those after the first."""

import os
from dataclasses import dataclass, field

from ventifs.tree.archive.hardlinks import claim_of
from ventifs.tree.objects.records import Entry
from ventifs.tree.restore.destination import Places, UnfinishedDirectory
from ventifs.tree.restore.file_maker import put_in_place


@dataclass(slots=True, eq=False)
class LinkedFile:
    """The names of one file.

    Attributes:
        place: the directory of the first name.
        first: the entry of the first name.
        made: whether the first name has been made.
        failed: whether the first name cannot be made.
        waiting: further names, until `made` or `failed` is set.
    """

    place: UnfinishedDirectory
    first: Entry
    made: bool = False
    failed: bool = False
    waiting: list[tuple[UnfinishedDirectory, Entry]] = field(default_factory=list)


class Links:
    """The hard links of one restore."""

    def __init__(self, places: Places) -> None:
        """The names are in these places."""
        self._places = places
        self._groups: dict[bytes, LinkedFile] = {}
        self._staged = 0

    def group(self, entry: Entry, place: UnfinishedDirectory) -> LinkedFile:
        """The group of an entry with a link id; a new one if there is none, or its first failed."""
        key = claim_of(entry)
        group = self._groups.get(key)
        if group is None or group.failed:
            group = self._groups[key] = LinkedFile(place, entry)
            above: UnfinishedDirectory | None = place
            while above is not None and not above.linked:
                above.linked = True
                above = above.above
        return group

    def make(self, group: LinkedFile, place: UnfinishedDirectory, entry: Entry) -> None:
        """Give the file of a group another name, replacing what has it if there is staging.

        Raises:
            OSError: the link cannot be made.
        """
        source = os.dup(self._places.fd(group.place))
        try:
            directory = self._places.fd(place)
            name, into = entry.name, directory
            if place.staging >= 0:
                self._staged += 1
                name, into = b"link.%d" % self._staged, place.staging
            os.link(
                group.first.name, name, src_dir_fd=source, dst_dir_fd=into, follow_symlinks=False
            )
        finally:
            os.close(source)
        if place.staging >= 0:
            put_in_place(name, into, entry.name, directory)
