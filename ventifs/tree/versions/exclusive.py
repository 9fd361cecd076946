"""Finds the blocks that only one version needs.

All blocks of the version are gathered first. Then every other version is walked, each shared node
once, and the blocks that it refers to are removed from the result. Memory: about 100 bytes for each
block of the version, and for each node of the others, which have one for some hundred blocks.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from ventifs.store import Score, Store
from ventifs.tree.versions.catalog import Version
from ventifs.tree.versions.leasing import ForgottenMeanwhile, leased
from ventifs.tree.versions.reachable import reach_version

ReferenceProgress = Callable[[int], None]  # number of references looked at so far


def exclusive(
    store: Store,
    version: Version,
    others: Iterable[Version],
    progress: ReferenceProgress | None = None,
) -> set[Score]:
    """The scores that `version` reaches and none of the others does, nodes included.

    Others that are forgotten meanwhile need nothing.

    Raises:
        ForgottenMeanwhile: `version` is not in the catalog any more.
        Corrupt, NotStored: where nodes of any of them are damaged.
    """
    looked_at = 0

    def scores(each: Version, seen: set[Score]) -> Iterator[Score]:
        nonlocal looked_at
        with leased(store, each):
            for ref in reach_version(store, each, seen):
                looked_at += 1
                if progress is not None:
                    progress(looked_at)
                yield ref.score

    only = set(scores(version, set()))
    seen: set[Score] = set()
    for other in others:
        if not only:
            break
        with suppress(ForgottenMeanwhile):
            for score in scores(other, seen):
                only.discard(score)
    return only
