"""The files and the free space of a volume's file system, whatever its kind.

The caller knows the kind; this module chooses its reader. It raises no `ImageError`: `FoundName`
and `Ended` report what cannot be read.
"""

from collections.abc import Iterator
from itertools import islice

from ventifs.image.disk import ImageError
from ventifs.image.filesystems.ext.reader import Ext
from ventifs.image.filesystems.walk import FilesystemWalk
from ventifs.image.filesystems.xfs.reader import Xfs
from ventifs.image.survey_events import Ended, FoundName, Free, Range
from ventifs.image.volumes.window import Window

READ = frozenset(("ext2", "ext3", "ext4", "xfs"))
_RANGES = 4096  # ranges in one Free


def read_files(
    window: Window, filesystem: str, *, free: bool
) -> Iterator[FoundName | Free | Ended]:
    """Yield a volume's nodes, then its free ranges if requested, and one `Ended` at the end.

    All offsets are bytes from the volume's start.

    Args:
        window: the volume.
        filesystem: what it holds, by `blkid`'s name; if that is not in `READ`, only `Ended` comes.
        free: whether to yield free ranges, if the file system is clean.
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
    walk = FilesystemWalk(reader)
    yield from walk.nodes()
    if free and reader.clean:
        yield from _batches(reader.free_ranges())
    elif free:
        notes.append("its free space is kept, for it is not clean")
    yield Ended("; ".join(walk.problems), tuple(notes))


def _batches(ranges: Iterator[Range]) -> Iterator[Free]:
    while batch := tuple(islice(ranges, _RANGES)):
        yield Free(batch)
