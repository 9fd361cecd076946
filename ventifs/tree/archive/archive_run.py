"""One archive run: from a source to a committed version.

The version's record is the last thing written. A run that ends early, however it ends, leaves no
record; the blocks it has stored make the next one faster.
"""

import time
from contextlib import ExitStack

from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.archive.run_lock import RunLock
from ventifs.tree.archive.source import ArchiveRun, Source
from ventifs.tree.archive.tally import ArchiveProgress, Tally
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.versions.catalog import (
    TIME_NS_MAX,
    Version,
    check_name,
    check_notes,
    decode_version,
    encode_version,
    version_key,
    versions,
)
from ventifs.tree.versions.catalog_lock import UNLOCKED_BYTES, catalog_lock
from ventifs.tree.versions.holds import hold_key
from ventifs.tree.versions.times import time_text
from ventifs.tree.versions.troubles import encodable, fitted

_LABEL_MAX = 16 << 10  # characters of a source's label: four times the longest path of the kernel


def archive(
    store: Store,
    source: Source,
    name: str,
    *,
    time_ns: int | None = None,
    comment: str = "",
    tags: tuple[str, ...] = (),
    read_all: bool = False,
    progress: ArchiveProgress | None = None,
) -> tuple[Version, Tally]:
    """Archive a source as a new version.

    Args:
        store: open for writing, or to rehearse: then nothing is kept.
        source: not yet used by another run.
        name: the version's.
        time_ns: the version's time; now, if None.
        comment: kept with the version.
        tags: kept with the version.
        read_all: read everything, whatever the previous run saw.
        progress: called now and then, such as for every directory and every batch of files.

    Returns:
        The committed version, and the tally. The version lists up to 200 troubles;
        `troubles.troubles_of` yields all.

    Raises:
        VentifsError: when there is a version of that name and time; the store's and the source's
            own problems. No version is made.
        Busy: another run, or a rename, is at work under this name.
    """
    started = time.monotonic()
    stamp = time.time_ns() if time_ns is None else time_ns
    check_notes(comment, tags)
    if not 0 <= stamp <= TIME_NS_MAX:
        raise VentifsError("a version's time lies between 1970 and 2554")
    rehearsal = store.mode == "rehearse"
    if not rehearsal:
        store.check_writable()
    check_name(name)
    with ExitStack() as stack:
        lock = None if rehearsal else stack.enter_context(RunLock(store, name))
        stack.callback(source.close)
        # Looked up under the lock, which keeps out other runs of this name.
        earlier = _of_other_times(store, name, stamp)
        stored_before = store.stored_bytes
        run = ArchiveRun(store, name, lock, earlier, read_all=read_all, progress=progress)
        root, tally, troubles = source.archive(run)
        version = Version(
            name,
            stamp,
            root,
            _label(source.label),
            comment,
            tags,
            tally.new_bytes,
            time.monotonic() - started,
        )
        version = fitted(version, troubles, None if rehearsal else ContentWriter(store))
        if rehearsal:
            return version, tally
        put = (version_key(name, stamp), encode_version(version))
        if tally.new_bytes > UNLOCKED_BYTES:
            store.commit()
        with catalog_lock(store):
            _of_other_times(store, name, stamp)  # again: a copy takes no lock of the name
            puts, deletes = source.records(run)
            left = store.records(hold_key(name, stamp))  # by an older program's `forget`
            record = store.commit([put, *puts], [*deletes, *left])[0]
        tally.stored_bytes = store.stored_bytes - stored_before
        committed = decode_version(record)
        source.committed(run, committed)
    return committed, tally


def _of_other_times(store: Store, name: str, time_ns: int) -> list[Version]:
    """The versions of a name, none of which may have a time.

    Raises:
        VentifsError: one has it.
    """
    found = versions(store, name)
    if any(version.time_ns == time_ns for version in found):
        raise VentifsError(f"{name}@{time_text(time_ns)}: there is such a version already")
    return found


def _label(text: str) -> str:
    """A source's label, as a record keeps it: encodable, and of limited length."""
    text = encodable(text)
    return text if len(text) <= _LABEL_MAX else text[: _LABEL_MAX - 3] + "..."
