"""What volumes a disk has: partitions, logical volumes, or one file system alone.

Each is told with what is in it; a disk that is a file system from its first byte on counts as
partition 1. It knows nothing of files.
"""

from collections.abc import Iterator

from ventifs.image.disk import Disk, ImageError
from ventifs.image.events import Noted, Range, Volume
from ventifs.image.partitions import Table, read_table
from ventifs.image.signatures import Contents, identify
from ventifs.image.volumes import Window


def find_volumes(disk: Disk) -> Iterator[Volume | Noted]:
    """The volumes of a disk, in order of their numbers, and what is wrong with its tables."""
    whole = Window(disk, [(0, disk.size)] if disk.size else [])
    try:
        table = read_table(whole)
    except ImageError as error:
        yield Noted(f"the partition table cannot be read: {error}")
        table = Table("", (), ())
    for note in table.notes:
        yield Noted(note)
    for part in sorted(table.partitions, key=lambda part: part.number):
        yield from _volume(disk, str(part.number), (part.start, part.end), part.type, part.title)
    if not table.kind and disk.size:
        for event in _volume(disk, "1", (0, disk.size)):
            if not isinstance(event, Volume) or event.filesystem:
                yield event


def _volume(
    disk: Disk, name: str, place: Range, type_: str = "", title: str = ""
) -> Iterator[Volume | Noted]:
    contents = Contents()
    try:
        contents = identify(Window(disk, [place]))
    except ImageError as error:
        yield Noted(f"partition {name} cannot be read: {error}")
    yield Volume(name, False, (place,), type_, title, *contents)
