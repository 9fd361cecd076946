"""Leases on versions: a version that is read stays whole, whatever is forgotten meanwhile.

Whatever reads a version's blocks takes a lease first. Always: the roots are leased before the
catalog is looked at, so either a reclaimer sees the lease, or the version is refused. FORMAT.md of
the store has the order in which a reclaimer looks.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager

from ventifs.store import Store
from ventifs.store.leases import Lease
from ventifs.tree.objects.records import Empty, Entry, RegularFile, encode_entry
from ventifs.tree.versions.catalog import (
    NoSuchVersion,
    Version,
    decode_version,
    version_key,
    version_records,
)
from ventifs.tree.versions.forgotten import Forgotten, forgotten_key
from ventifs.tree.versions.times import time_text


class ForgottenMeanwhile(NoSuchVersion):
    """A version that was found in the catalog, and forgotten before it was read."""


def lease(store: Store, version: Version) -> Lease:
    """Keep a version's blocks from being reclaimed, until the lease is released or dropped.

    A version that this store has leased already may have been forgotten since.
    A version without a record, as a rehearsal makes, gets a lease on nothing.

    Raises:
        ForgottenMeanwhile: the version is not in the catalog any more.
        VentifsError: the store is closed.
        IndexDamaged: the index has lost records.
    """
    if version.record is None:
        return store.lease()
    roots = roots_of(version)
    return lease_record(store, version.name, version.time_ns, version.record.id, *roots)


def roots_of(version: Version) -> list[bytes]:
    """The encoded root entries that a lease on a version keeps: its own first."""
    roots = [encode_entry(version.root, root=True)]
    if not isinstance(version.beyond, Empty):
        roots.append(encode_entry(_file_of_troubles(version), root=True))
    return roots


def lease_record(
    store: Store, name: str, time_ns: int, record_id: bytes, root: bytes, *more: bytes
) -> Lease:
    """As `lease`, for a version of which only this is known.

    Args:
        store: where it is.
        name: the version's.
        time_ns: the version's.
        record_id: of its record.
        root: the encoded root entry.
        more: further entries to keep.
    """
    taken = store.lease(root, *more)
    if taken.confirmed:
        return taken
    try:
        if not _is_there(store, name, time_ns, record_id, root):
            raise ForgottenMeanwhile(
                f"{name}@{time_text(time_ns)}: it was forgotten meanwhile; 'ventifs versions' "
                "lists those there are"
            )
    except BaseException:
        taken.release()
        raise
    taken.confirm()
    return taken


@contextmanager
def leased(store: Store, version: Version) -> Iterator[None]:
    """Hold a lease on a version; raises as `lease`."""
    held = lease(store, version)
    try:
        yield
    finally:
        held.release()


@contextmanager
def leased_forgotten(store: Store, each: Forgotten) -> Iterator[None]:
    """Hold a lease on a forgotten version.

    Raises:
        ForgottenMeanwhile: it is not kept any more, or was brought back.
        VentifsError, IndexDamaged: as `lease`.
    """
    held = store.lease(*roots_of(each.version))
    try:
        if not keeps(store, each):
            raise ForgottenMeanwhile(f"{each.version}: it is not among the forgotten any more")
        yield
    finally:
        held.release()


def is_there(store: Store, version: Version) -> bool:
    """Whether a version is in the catalog, perhaps renamed; also if it never had a record."""
    if version.record is None:
        return True
    root = encode_entry(version.root, root=True)
    return _is_there(store, version.name, version.time_ns, version.record.id, root)


def keeps(store: Store, each: Forgotten) -> bool:
    """Whether a forgotten version is kept still."""
    version = each.version
    key = forgotten_key(version.name, version.time_ns, each.forgotten_ns)
    return version.record is not None and store.has_record(key, version.record.id)


def _is_there(store: Store, name: str, time_ns: int, record_id: bytes, root: bytes) -> bool:
    return store.has_record(version_key(name, time_ns), record_id) or _is_there_otherwise(
        store, time_ns, root
    )


def _is_there_otherwise(store: Store, time_ns: int, root: bytes) -> bool:
    """Whether another record has the same version, as when it was renamed."""
    for record in version_records(store):
        if root in record.value:
            version = decode_version(record)
            if version.time_ns == time_ns and encode_entry(version.root, root=True) == root:
                return True
    return False


def _file_of_troubles(version: Version) -> Entry:
    """A nameless regular file with the content in which a version's further troubles are."""
    return Entry(b"", stat.S_IFREG, 0, 0, 0, RegularFile(version.beyond), Empty(), b"")
