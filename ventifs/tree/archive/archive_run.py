"""One archive run: from a source to a committed version.

The version's record is the last thing written. A run that ends early, however it ends, leaves no
record; the blocks it has stored make the next one faster.
"""

import os
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.store.journal import Record
from ventifs.text import printable
from ventifs.tree.archive.archiver import Archiver, Progress, Tally
from ventifs.tree.archive.scan import Options
from ventifs.tree.archive.statcache import StatCache
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import Entry
from ventifs.tree.process_pool import Pool
from ventifs.tree.versions.catalog import (
    TIME_NS_MAX,
    Version,
    check_name,
    check_notes,
    decode_version,
    encode_version,
    time_text,
    version_key,
    versions,
)
from ventifs.tree.versions.troubles import Troubles, encodable, fitted

_LABEL_MAX = 16 << 10  # characters of a source's label: four times the longest path of the kernel


class TarStream(msgspec.Struct, frozen=True):
    """A tar archive to read, compressed or not, and its label for users."""

    stream: BinaryIO
    label: str


class Source(Protocol):
    """A source that a higher layer archives in its own way.

    Attributes:
        label: its name for users.
    """

    label: str

    def archive(
        self, store: Store, name: str, *, read_all: bool, progress: Progress | None
    ) -> tuple[Entry, Tally, Troubles]:
        """Store everything; return the version's root, the tally and the troubles.

        Raises:
            VentifsError: no version is made.
        """

    def records(self, store: Store, name: str) -> tuple[list[tuple[bytes, bytes]], list[Record]]:
        """Records to put and to delete together with the version's.

        Raises:
            VentifsError: no version is made.
        """

    def committed(self, store: Store, version: Version) -> None:
        """Called after the version is committed."""


def archive(
    store: Store,
    source: Path | TarStream | Source,
    name: str,
    *,
    time_ns: int | None = None,
    comment: str = "",
    tags: tuple[str, ...] = (),
    options: Options | None = None,
    read_all: bool = False,
    pool: Pool | None = None,
    progress: Progress | None = None,
) -> tuple[Version, Tally]:
    """Archive a directory, a tar archive, or another source, as a new version.

    Args:
        store: open for writing, or to rehearse: then nothing is kept.
        source: the directory, the tar archive, or the other source.
        name: the version's.
        time_ns: the version's time; now, if None.
        comment: kept with the version.
        tags: kept with the version.
        options: what to leave out; of a tar archive, only the paths.
        read_all: read every file, whatever the previous run saw.
        pool: reads a directory's files; None reads them in this process.
        progress: called for every directory, and for every batch of files that was read.

    Returns:
        The committed version, and the tally. The version lists up to 200 troubles;
        `troubles.troubles_of` yields all.

    Raises:
        VentifsError: when there is a version of that name and time; the store's and the source's
            own problems. No version is made.
        Busy: another run is archiving under this name.
    """
    started = time.monotonic()
    stamp = time.time_ns() if time_ns is None else time_ns
    check_notes(comment, tags)
    if not 0 <= stamp <= TIME_NS_MAX:
        raise VentifsError("a version's time lies between 1970 and 2554")
    rehearsal = store.mode == "rehearse"
    ask = not read_all and isinstance(source, Path)
    with closing(StatCache(store, check_name(name), ask=ask, gather=not rehearsal)) as cache:
        # Checked after the cache is open: its lock keeps out other runs of this name.
        if any(version.time_ns == stamp for version in versions(store, name)):
            raise VentifsError(f"{name}@{time_text(stamp)}: there is such a version already")
        stored_before = store.stored_bytes
        if isinstance(source, Path):
            archiver = Archiver(store, cache, options=options, pool=pool, progress=progress)
            root, tally, found = archiver.run(source), archiver.tally, archiver.troubles
            where = printable(os.fsencode(source.absolute()))
        elif not isinstance(source, TarStream):
            root, tally, found = source.archive(store, name, read_all=read_all, progress=progress)
            where = source.label
        else:
            root, tally, found = _unpacked(store, source, options or Options(), progress)
            where = source.label
        version = Version(
            name,
            stamp,
            root,
            _label(where),
            comment,
            tags,
            tally.new_bytes,
            time.monotonic() - started,
        )
        version = fitted(version, found, None if rehearsal else ContentWriter(store))
        if rehearsal:
            return version, tally
        puts, deletes = _records(store, source, name)
        put = (version_key(name, stamp), encode_version(version))
        record = store.commit([put, *puts], deletes)[0]
        tally.stored_bytes = store.stored_bytes - stored_before
        with suppress(OSError):  # the version is committed; the next run only reads more
            cache.put_in_place()
        committed = decode_version(record)
        if not isinstance(source, Path | TarStream):
            source.committed(store, committed)
    return committed, tally


def _label(text: str) -> str:
    """A source's label, as a record keeps it: encodable, and of limited length."""
    text = encodable(text)
    return text if len(text) <= _LABEL_MAX else text[: _LABEL_MAX - 3] + "..."


def _records(
    store: Store, source: Path | TarStream | Source, name: str
) -> tuple[list[tuple[bytes, bytes]], list[Record]]:
    return ([], []) if isinstance(source, Path | TarStream) else source.records(store, name)


def _unpacked(
    store: Store, source: TarStream, options: Options, progress: Progress | None
) -> tuple[Entry, Tally, Troubles]:
    from ventifs.tree.tar.decompress import BadTar
    from ventifs.tree.tar.importer import TarArchiver  # slow to import, and not for directories

    archiver = TarArchiver(store, exclude=options.exclude, progress=progress)
    try:
        root = archiver.run(source.stream)
    except BadTar as error:
        raise BadTar(f"{source.label}: {error}") from None
    return root, archiver.tally, archiver.troubles
