"""What the last run under a name saw of its image file, so that an unchanged one is not read.

One small disposable file a version name, beside the stat caches. It counts only for the same store
and epoch, and if the version it speaks of is there still. The rule is the stat cache's: inode,
size, mtime and ctime of every file that the image consists of are as they were, and the ctimes lay
2 s or more before the run began. A device tells nothing, so it never counts.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from ventifs.store import Store
from ventifs.store.permissions import create_file, make_directory
from ventifs.tree.archive.statcache import SETTLED_NS
from ventifs.tree.objects.records import time_problem
from ventifs.tree.versions.catalog import Version, versions

READERS = 2  # goes up when disks are understood better: then unchanged ones are read once more

Status = tuple[int, int, int, int]  # inode, size, mtime_ns, ctime_ns


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """What was seen.

    Attributes:
        store_id, epoch: of the store.
        time_ns: of the version.
        files: of the image's files; empty, if they tell nothing.
        drop_free: whether the version was made so.
        mark: set before the image was read, to ask what is unchanged since; empty, if none.
        readers: `READERS` of who made the version.
        format: that the image was taken for.
        backing: files that it consists of beside the first; None, if they tell nothing. A mark
            speaks only of the first.
    """

    store_id: bytes
    epoch: bytes
    time_ns: int
    files: list[Status]
    drop_free: bool
    mark: bytes = b""
    readers: int = READERS
    format: str = ""
    backing: list[Status] | None = None

    def is_like(self, other: "Seen") -> bool:
        """Whether a run now would make of the same bytes what that run made."""
        return (self.drop_free, self.readers, self.format) == (
            other.drop_free,
            other.readers,
            other.format,
        )


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Seen).decode


def statuses(files: Sequence[os.stat_result], started_ns: int) -> list[Status]:
    """What identifies the state of an image's files; empty, if that is not known for sure.

    It is not while they may be changing, and not of times beyond what MessagePack holds.
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


def recall(store: Store, name: str) -> tuple[Seen, Version] | None:
    """What the last run saw, and the version it made; whatever is wrong with it, None."""
    with suppress(OSError, msgspec.DecodeError):
        seen = _decode(_path(store, name).read_bytes())
        if (seen.store_id, seen.epoch) == (store.header.store_id, store.epoch):
            for version in versions(store, name):
                if version.time_ns == seen.time_ns:
                    return seen, version
    return None


def remember(store: Store, name: str, seen: Seen) -> None:
    """Let the next run know. That it cannot be written costs only time."""
    path = _path(store, name)
    temporary = path.with_name(path.name + "~new")
    with suppress(OSError):
        make_directory(path.parent)
        temporary.unlink(missing_ok=True)  # of a run that was killed
        with os.fdopen(create_file(temporary), "wb") as file:
            file.write(_encode(seen))
        temporary.replace(path)


def _path(store: Store, name: str) -> Path:
    """Of no stat cache, nor of its lock or temporary file: names of versions have no tilde."""
    return store.path / "statcache" / f".{name}~image"
