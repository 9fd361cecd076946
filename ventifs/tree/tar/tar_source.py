"""A tar stream as the source of an archive run."""

from typing import BinaryIO

from ventifs.store.journal import Record
from ventifs.tree.archive.source import Archived, ArchiveRun
from ventifs.tree.patterns import Patterns
from ventifs.tree.versions.catalog import Version


class TarSource:
    """A tar archive to read, compressed or not; see `tree.archive.source.Source`.

    Attributes:
        label: its name for users.
    """

    def __init__(self, stream: BinaryIO, label: str, *, exclude: Patterns | None = None) -> None:
        """Read nothing yet.

        Args:
            stream: read once, from where it is; the caller closes it.
            label: its name for users.
            exclude: what to leave out; None for nothing.
        """
        self.label = label
        self._stream = stream
        self._exclude = exclude or Patterns()

    def archive(self, run: ArchiveRun) -> Archived:
        """See `tree.archive.source.Source`.

        Raises:
            BadTar: the stream cannot be read to its end.
            VentifsError: the store's own problems.
        """
        from ventifs.tree.tar.decompress import BadTar
        from ventifs.tree.tar.importer import TarArchiver  # slow to import, and only for tars

        archiver = TarArchiver(run.store, exclude=self._exclude, progress=run.progress)
        try:
            root = archiver.run(self._stream)
        except BadTar as error:
            raise BadTar(f"{self.label}: {error}") from None
        return Archived(root, archiver.tally, archiver.troubles)

    def records(self, run: ArchiveRun) -> tuple[list[tuple[bytes, bytes]], list[Record]]:
        """See `tree.archive.source.Source`: there are none."""
        return [], []

    def committed(self, run: ArchiveRun, version: Version) -> None:
        """See `tree.archive.source.Source`: the next run reads all of its stream."""

    def close(self) -> None:
        """See `tree.archive.source.Source`: nothing is held."""
