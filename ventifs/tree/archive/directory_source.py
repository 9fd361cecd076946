"""A directory as the source of an archive run; it uses and renews the name's stat cache."""

import os
from contextlib import suppress
from pathlib import Path

from ventifs.store.journal import Record
from ventifs.text import printable
from ventifs.tree.archive.archiver import Archiver
from ventifs.tree.archive.scan import Options
from ventifs.tree.archive.source import Archived, ArchiveRun
from ventifs.tree.archive.statcache import StatCache
from ventifs.tree.process_pool import Pool
from ventifs.tree.versions.catalog import Version, tree_score


class DirectorySource:
    """A directory to archive; see `source.Source`."""

    def __init__(
        self, path: Path, *, options: Options | None = None, pool: Pool | None = None
    ) -> None:
        """Open nothing yet.

        Args:
            path: of the directory.
            options: what to leave out.
            pool: reads the files; None reads them in this process.
        """
        self._path = path
        self._options = options
        self._pool = pool
        self._cache: StatCache | None = None

    @property
    def label(self) -> str:
        """The absolute path."""
        return printable(os.fsencode(self._path.absolute()))

    def archive(self, run: ArchiveRun) -> Archived:
        """See `source.Source`.

        Raises:
            VentifsError: the directory cannot be read; the store's own problems.
        """
        cache = self._cache = StatCache(
            run.store, run.name, run.lock, run.earlier, ask=not run.read_all
        )
        archiver = Archiver(
            run.store, cache, options=self._options, pool=self._pool, progress=run.progress
        )
        root = archiver.run(self._path)
        return Archived(root, archiver.tally, archiver.troubles)

    def records(self, run: ArchiveRun) -> tuple[list[tuple[bytes, bytes]], list[Record]]:
        """See `source.Source`: there are none."""
        return [], []

    def committed(self, run: ArchiveRun, version: Version) -> None:
        """See `source.Source`: put the stat cache in place."""
        assert self._cache is not None
        with suppress(OSError):  # the version is committed; the next run only reads more
            self._cache.put_in_place(tree_score(version.root))

    def close(self) -> None:
        """See `source.Source`."""
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()
