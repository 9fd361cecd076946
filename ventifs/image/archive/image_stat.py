"""Records the status of an image's files at the last run, so that an unchanged image is not read.

There is one small disposable file for each version name, beside the stat caches. Like them it is
bound to the store's id, its epoch, and the root score of the version whose run wrote it, and counts
only while a version of the name has that root (`tree.archive.statcache` has the reasons). The rule
is the stat cache's, too: inode, size, mtime and ctime of every file that the image consists of are
unchanged, and the ctimes lay 2 s or more before the run began. The status of a device does not show
changes, so a device never counts as unchanged.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from ventifs.store import Store
from ventifs.store.permissions import create_file, make_directory
from ventifs.tree.archive.run_lock import LEFT_BY_RUNS
from ventifs.tree.archive.statcache import SETTLED_NS
from ventifs.tree.objects.records import time_problem
from ventifs.tree.versions.catalog import Version, last_with_root

READERS = 2  # goes up when parsers improve: then unchanged disks are read once more

Status = tuple[int, int, int, int]  # inode, size, mtime_ns, ctime_ns


class SeenImage(msgspec.Struct, frozen=True, array_like=True):
    """What a run saw.

    Attributes:
        store_id, epoch: of the store.
        root: the score of the version's tree.
        files: status of the image's files; empty if it cannot prove them unchanged.
        drop_free: whether the version has zeros for free space.
        mark: set before the image was read, to ask what is unchanged since; empty if there is none.
        readers: `READERS` of the program that made the version.
        format: the format that the image was read as.
        backing: status of the image's files beside the first; None if it cannot prove them
            unchanged. A mark covers only the first file.
    """

    store_id: bytes
    epoch: bytes
    root: bytes
    files: list[Status]
    drop_free: bool
    mark: bytes = b""
    readers: int = READERS
    format: str = ""
    backing: list[Status] | None = None

    def is_like(self, other: "SeenImage") -> bool:
        """Whether both runs make the same of the same bytes."""
        return (self.drop_free, self.readers, self.format) == (
            other.drop_free,
            other.readers,
            other.format,
        )


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SeenImage).decode


def statuses(files: Sequence[os.stat_result], started_ns: int) -> list[Status]:
    """The status that identifies the state of an image's files; empty if that is not certain.

    It is not certain for devices, while files may be changing, and for times beyond what
    MessagePack holds.
    """
    settled = all(
        stat.S_ISREG(each.st_mode)
        and each.st_ctime_ns < started_ns - SETTLED_NS
        and not time_problem(each.st_mtime_ns)
        and not time_problem(each.st_ctime_ns)
        for each in files
    )
    if not settled:
        return []
    return [(each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in files]


def recall(store: Store, name: str) -> SeenImage | None:
    """What the last run of this store saw; None if anything is wrong with the record."""
    with suppress(OSError, msgspec.DecodeError):
        seen = _decode(_path(store, name).read_bytes())
        if seen.store_id == store.header.store_id:
            return seen
    return None


def version_of(seen: SeenImage, store: Store, earlier: Sequence[Version]) -> Version | None:
    """The version that a record is bound to; None if it does not count.

    Args:
        seen: the record.
        store: where the version is.
        earlier: all versions of the name, looked up after the lock of the name was taken.
    """
    return last_with_root(earlier, seen.root) if seen.epoch == store.epoch else None


def remember(store: Store, name: str, seen: SeenImage) -> None:
    """Record what this run saw, for the next one. A failure to write it costs only time."""
    path = _path(store, name)
    temporary = path.with_name(path.name + "~new")
    with suppress(OSError):
        make_directory(path.parent)
        temporary.unlink(missing_ok=True)  # of a run that was killed
        with os.fdopen(create_file(temporary), "wb") as file:
            file.write(_encode(seen))
        temporary.replace(path)


def _path(store: Store, name: str) -> Path:
    """The record's path, which no stat cache, lock or temporary file has: names have no tilde."""
    return store.path / LEFT_BY_RUNS / f".{name}~image"
