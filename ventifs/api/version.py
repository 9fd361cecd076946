"""Versions of an archive: a tree as one run saw it, and the record of that run.

Concurrency: versions may be used from any thread, while their archive is open.
"""

import io
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from ventifs.api.path import BUFFER_SIZE_DEFAULT, AnyPath, ArchivedPath
from ventifs.errors import VentifsError
from ventifs.image.disk_facts import DISK, Facts, facts_of
from ventifs.store import Store
from ventifs.tree.objects.records import Empty, Listed
from ventifs.tree.versions.catalog import ListedTrouble, Version, tree_score
from ventifs.tree.versions.leasing import lease
from ventifs.tree.versions.times import in_future

if TYPE_CHECKING:
    from ventifs.api.path import GivenPatterns, GivenSymlinks
    from ventifs.store.leases import Lease
    from ventifs.tree.process_pool import Pool
    from ventifs.tree.restore.restored import Restored
    from ventifs.tree.versions.diff import Change
    from ventifs.tree.versions.holds import Hold

_T = TypeVar("_T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ArchivedVersion:
    """One version of an archive: a tree as one run saw it, and the record of that run.

    From the first read on, what is in it cannot be reclaimed, even if it is forgotten, as long as
    the archive is open and there is this object, or a path, file object or iterator made from it.

    Attributes:
        stored: the record, with further fields.
        called: the text by which it was found; messages name it so.
    """

    __slots__ = ("_lease", "_store", "called", "stored")

    def __init__(self, store: Store, stored: Version, called: str = "") -> None:
        """Use `Archive.version` or `Archive.versions`."""
        self._store = store
        self.stored = stored
        self.called = called or str(stored)
        self._lease: Lease | None = None

    # --- what the record says -----------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name under which it was archived."""
        return self.stored.name

    @property
    def time(self) -> datetime:
        """When it was archived, in UTC, rounded down to microseconds; exact in `time_ns`."""
        return _EPOCH + timedelta(microseconds=self.stored.time_ns // 1000)

    @property
    def time_ns(self) -> int:
        """When it was archived: UTC nanoseconds since 1970."""
        return self.stored.time_ns

    @property
    def in_future(self) -> bool:
        """Whether its time lies more than a minute after this machine's clock.

        Such a version is the latest of its name only if all are, and is forgotten only by name.
        """
        return in_future(self.stored.time_ns)

    @property
    def source(self) -> str:
        """Where it came from, as a text for users."""
        return self.stored.source

    @property
    def comment(self) -> str:
        """The comment given to the run; empty if none was."""
        return self.stored.comment

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags given to the run."""
        return self.stored.tags

    @property
    def score(self) -> str:
        """64 hexadecimal digits that name the tree: `score:` and these find a version, too."""
        return tree_score(self.stored.root).hex()

    @property
    def held(self) -> bool:
        """Whether a hold keeps it from being forgotten, by the archive's catalog as it is now."""
        hold = self.hold
        return hold is not None and hold.active(time.time_ns())

    @property
    def hold(self) -> "Hold | None":
        """Its hold, which may have ended; None if there is none. Read anew from the catalog."""
        from ventifs.tree.versions.holds import held

        return held(self.store).get((self.name, self.time_ns))

    def troubles(self) -> Iterator[ListedTrouble]:
        """What could not be archived, or not as it was: (path, reason, whether it is missing).

        Raises:
            Corrupt, NotStored: where the archive is damaged.
        """
        from ventifs.tree.versions.troubles import troubles_of

        store = self._opened if isinstance(self.stored.beyond, Empty) else self.store
        return self.keeping(troubles_of(store, self.stored))

    def disk_facts(self) -> Facts | None:
        """What is on the disk that was archived; None for a version of something else.

        Raises:
            Corrupt, NotStored: where the archive is damaged.
        """
        root = self.stored.root
        in_record = isinstance(root.xattrs, Listed | Empty)  # then no block is read
        return facts_of(self._opened if in_record else self.store, root)

    def disk(self) -> ArchivedPath | None:
        """The archived disk as one file; None for a version of something else.

        Raises:
            Corrupt, NotStored: where the archive is damaged.
        """
        disk = None if self.disk_facts() is None else self.root / DISK
        return disk if disk is not None and disk.is_file() else None

    # --- what is in it ------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        """The store that it is in, to read this version from: it is leased.

        Raises:
            VentifsError: the archive is closed.
            ForgottenMeanwhile: the version was forgotten before it was first read.
        """
        store = self._opened
        if self._lease is None:
            self._lease = lease(store, self.stored)
        return store

    @property
    def _opened(self) -> Store:
        if self._store.closed:
            raise VentifsError(f"{self._store.path}: the archive is closed")
        return self._store

    def keeping(self, found: Iterator[_T]) -> Iterator[_T]:
        """What an iterator yields that reads this version, which is leased meanwhile."""
        yield from found

    @property
    def root(self) -> ArchivedPath:
        """Its root directory."""
        return ArchivedPath(self, b"", self.stored.root)

    def __truediv__(self, path: AnyPath) -> ArchivedPath:
        """A path from the root: `version / "etc/fstab"`."""
        return self.root / path

    def open(self, path: AnyPath, *, buffer_size: int = BUFFER_SIZE_DEFAULT) -> io.BufferedReader:
        """Open a regular file, see `ArchivedPath.open`."""
        return (self / path).open(buffer_size=buffer_size)

    def walk(self) -> Iterator[ArchivedPath]:
        """Everything below the root, see `ArchivedPath.walk`."""
        return self.root.walk()

    def diff(self, other: "ArchivedVersion | ArchivedPath") -> Iterator["Change"]:
        """What is different in another version, see `ArchivedPath.diff`."""
        return self.root.diff(other)

    def restore(
        self,
        destination: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        symlinks: "GivenSymlinks" = "trusted",
        include: "GivenPatterns" = (),
        exclude: "GivenPatterns" = (),
        pool: "Pool | None" = None,
        progress: "Callable[[Restored, bytes], None] | None" = None,
    ) -> "Restored":
        """Bring the whole version back, see `ArchivedPath.restore`."""
        return self.root.restore(
            destination,
            overwrite=overwrite,
            symlinks=symlinks,
            include=include,
            exclude=exclude,
            pool=pool,
            progress=progress,
        )

    # --- itself -------------------------------------------------------------------------------

    def __str__(self) -> str:
        """`NAME@TIME`, which finds it again."""
        return str(self.stored)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def is_in(self, store: Store) -> bool:
        """Whether it is in a store, by whichever object that is open. Neither needs to be open."""
        return self._store.place == store.place

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArchivedVersion) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[tuple[int, int], str, int]:
        return self._store.place, self.name, self.time_ns
