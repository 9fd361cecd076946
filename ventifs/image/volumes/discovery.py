"""Finds the volumes of a disk: partitions, logical volumes, or one file system alone.

Reports each volume with what it holds. A disk without a partition table, with a file system or an
LVM physical volume from its first byte on, counts as partition 1. Knows nothing of files.
"""

from collections.abc import Iterator

from ventifs.image.disk import Disk, ImageError
from ventifs.image.survey_events import Noted, Range, Volume
from ventifs.image.volumes.lvm import find_logical
from ventifs.image.volumes.partitions import PartitionTable, read_table
from ventifs.image.volumes.signatures import VolumeContents, identify
from ventifs.image.volumes.window import Window


def find_volumes(disk: Disk) -> Iterator[Volume | Noted]:
    """Yield the volumes of a disk, and notes on what is wrong with its tables.

    Partitions come first, in order of their numbers, then logical volumes, in order of the names of
    their groups.
    """
    physical: list[Window] = []
    for event in _partitions(disk):
        if isinstance(event, Volume) and event.filesystem == "LVM2_member":
            physical.append(Window(disk, event.ranges))
        yield event
    for logical in find_logical(disk.size, physical):
        if isinstance(logical, Noted):
            yield logical
        else:
            yield from _volume(disk, logical.name, logical.ranges, logical=True)


def _partitions(disk: Disk) -> Iterator[Volume | Noted]:
    whole = Window(disk, [(0, disk.size)] if disk.size else [])
    try:
        table = read_table(whole)
    except ImageError as error:
        yield Noted(f"the partition table cannot be read: {error}")
        table = PartitionTable("", (), ())
    for note in table.notes:
        yield Noted(note)
    for part in sorted(table.partitions, key=lambda part: part.number):
        place = ((part.start, part.end),)
        yield from _volume(disk, str(part.number), place, part.type, part.title)
    if not table.kind and disk.size:
        for event in _volume(disk, "1", ((0, disk.size),)):
            if not isinstance(event, Volume) or event.filesystem:
                yield event


def _volume(
    disk: Disk,
    name: str,
    ranges: tuple[Range, ...],
    type_: str = "",
    title: str = "",
    *,
    logical: bool = False,
) -> Iterator[Volume | Noted]:
    contents = VolumeContents()
    try:
        contents = identify(Window(disk, ranges))
    except ImageError as error:
        yield Noted(
            f"{'logical volume' if logical else 'partition'} {name} cannot be read: {error}"
        )
    yield Volume(name, logical, ranges, type_, title, *contents)
