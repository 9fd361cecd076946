"""The files and the free space of a volume's file system, whatever its kind.

Which kind it is has been found out by others; here is decided who reads it, and nothing is raised:
what cannot be read is told.
"""

from collections.abc import Iterator
from itertools import islice

from ventifs.image.disk import ImageError
from ventifs.image.filesystems.ext.reader import Ext
from ventifs.image.filesystems.walk import Walk
from ventifs.image.filesystems.xfs.reader import Xfs
from ventifs.image.survey_events import Ended, Free, Node, Range
from ventifs.image.volumes.window import Window

READ = frozenset(("ext2", "ext3", "ext4", "xfs"))
_RANGES = 4096  # in one Free


def read_files(window: Window, filesystem: str, *, free: bool) -> Iterator[Node | Free | Ended]:
    """What is in a volume: its nodes, its free ranges if they are asked for, and one `Ended`.

    All offsets are bytes from the volume's start.

    Args:
        window: the volume.
        filesystem: what it holds, as `blkid` calls it; one of `READ` if files are to be told.
        free: whether to tell free ranges, if the file system is clean.
    """
    if filesystem not in READ:
        yield Ended()
        return
    try:
        reader = Xfs(window) if filesystem == "xfs" else Ext(window)
    except ImageError as error:
        yield Ended(str(error))
        return
    notes = reader.notes()
    walk = Walk(reader)
    yield from walk.nodes()
    if free and reader.clean:
        yield from _batches(reader.free_ranges())
    elif free:
        notes.append("its free space is kept, for it is not clean")
    yield Ended("; ".join(walk.problems), tuple(notes))


def _batches(ranges: Iterator[Range]) -> Iterator[Free]:
    while batch := tuple(islice(ranges, _RANGES)):
        yield Free(batch)
