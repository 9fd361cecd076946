"""Drops what no version needs from the index alone, and checks what is left.

For tests of what an archive run relies on: a reclaim has the same effect, but waits for the run.
"""

from pathlib import Path

from ventifs.store import Score, Store
from ventifs.store.journal import Record
from ventifs.tree.versions.catalog import Version, versions
from ventifs.tree.versions.reachable import reach_version
from ventifs.tree.versions.verify import Verifier


def needed(store: Store) -> set[Score]:
    """The blocks that the versions of the catalog refer to."""
    seen: set[Score] = set()
    return {ref.score for version in versions(store) for ref in reach_version(store, version, seen)}


def drop_dead(root: Path) -> int:
    """Drop all other blocks from the index; return how many. The epoch stays as it is."""
    with Store.open(root, "write") as store:
        alive = needed(store)
        dead = [score for score, _ in store._index.entries() if score not in alive]
        for score in dead:
            store._index.drop_block(score)
    return len(dead)


def forget(root: Path, version: Version) -> Record:
    """Delete a version's record; return it, for `put_back`."""
    assert version.record is not None
    with Store.open(root, "write") as store:
        store.commit(deletes=[version.record])
    return version.record


def put_back(root: Path, record: Record) -> None:
    """Put a deleted record again: another record with the same key and value."""
    with Store.open(root, "write") as store:
        store.commit([(record.key, record.value)])


def nothing_is_missing(root: Path) -> None:
    """Fail unless the versions of the catalog are sound, and all that they need is in the store."""
    with Store.open(root) as store:
        verifier = Verifier(store)
        assert [harm for version in versions(store) for harm in verifier.version(version)] == []
        scores = sorted(needed(store))
        there = store.has_many(scores)
        assert [score.hex() for score, found in zip(scores, there, strict=True) if not found] == []
