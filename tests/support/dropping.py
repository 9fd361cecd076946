"""Drops arenas as a reclaim does: what lives in them is stored elsewhere first."""

from collections.abc import Collection, Iterable

from ventifs.store import Score, Store
from ventifs.store.arenas import Arenas
from ventifs.store.clump import ClumpKind
from ventifs.store.header import StoreHeader


def arenas_of(store: Store) -> Arenas:
    """The arenas of an open store, seen from outside."""
    header: StoreHeader = store.header
    return Arenas(store.path, header.store_id)


def sealed(store: Store) -> list[bytes]:
    """The ids of its sealed arenas, the first made first."""
    arenas = arenas_of(store)
    return sorted(arenas.sealed_ids(), key=lambda each: arenas.sealed_path(each).stat().st_mtime_ns)


def copy_from(store: Store, doomed: Collection[bytes], scores: Iterable[Score]) -> None:
    """Store those of some blocks again that live in arenas, and commit."""
    for score in scores:
        place = store._index.locate(score)
        if place is not None and place.arena in doomed:
            store._add(score, bytes(store.get(score)), ClumpKind.DATA)
    store.commit()


def drop(store: Store, doomed: Collection[bytes], scores: Iterable[Score]) -> None:
    """Copy what lives in arenas, drop them, and remove their files."""
    copy_from(store, doomed, scores)
    store.drop_arenas(doomed)
    for arena in doomed:
        store._files.unlink(arenas_of(store).sealed_path(arena))
    store._files.sync_directory(arenas_of(store).sealed_directory)
