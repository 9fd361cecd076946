"""Finds the blocks that only one version needs, or only the versions of one name.

For one version, its blocks are gathered first. Then every other version is walked, each shared node
once, and the blocks that it refers to are removed from the result. For many, all versions are
walked in one pass: each block and node has a holder, which grows from one version to its name, and
from that to several names. A node is read again only when its holder has grown, so at most three
times; what is below it grows with it.

Memory: about 150 bytes for each block of the versions asked for, and for each node of the others,
which have one for some hundred blocks; and as much again for each block that is in the result.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from ventifs.errors import Corrupt, NotStored
from ventifs.store import Score, Store
from ventifs.tree.versions.catalog import Version
from ventifs.tree.versions.leasing import ForgottenMeanwhile, leased
from ventifs.tree.versions.reachable import RefKind, below, reach_version, top

ReferenceProgress = Callable[[int], None]  # number of references looked at so far

_SEVERAL = -1  # the holder of what several names, or versions that were not asked for, reach


class Exclusives(NamedTuple):
    """What versions hold that nothing else does.

    Attributes:
        versions: for each version asked for, the scores that no other version reaches.
        names: for each of their names, those that no version of another name reaches; they are more
            than those of its versions together.
    """

    versions: list[set[Score]]
    names: dict[str, set[Score]]


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


def exclusives(
    store: Store,
    wanted: Sequence[Version],
    others: Iterable[Version] = (),
    progress: ReferenceProgress | None = None,
) -> Exclusives:
    """What each of many versions, and each of their names, alone holds, nodes included.

    Args:
        store: where they are.
        wanted: all versions of the names to look at.
        others: all other versions.
        progress: called now and then.

    Raises:
        Corrupt: a version is damaged; the message names it. What it holds cannot be known, and so
            not what the others alone hold.
    """
    holders = _Holders(store, wanted, progress)
    for number, version in enumerate(wanted):
        holders.walk(version, number)
    for version in others:
        holders.walk(version, _SEVERAL)
    return holders.exclusives()


class _Holders:
    """What holds each block, of the versions walked so far.

    A holder is the number of a version in `wanted`; -2, -3... for several versions of the first
    name, of the second...; or `_SEVERAL`. Always, between walks: a node's holder includes those of
    all nodes above it. So a walk need not go below a node whose holder it does not change.
    """

    def __init__(
        self, store: Store, wanted: Sequence[Version], progress: ReferenceProgress | None
    ) -> None:
        self._store = store
        self._names = list(dict.fromkeys(version.name for version in wanted))
        numbers = {name: -2 - number for number, name in enumerate(self._names)}
        self._name_of = [numbers[version.name] for version in wanted]
        self._progress = progress
        self._looked_at = 0
        # Apart, because a file may have the bytes of a node: that does not hold what is below it.
        self._nodes: dict[Score, int] = {}
        self._data: dict[Score, int] = {}

    def walk(self, version: Version, holder: int) -> None:
        """Add a version as a holder of all that it reaches, unless it is forgotten meanwhile."""
        try:
            with suppress(ForgottenMeanwhile), leased(self._store, version):
                self._walk(version, holder)
        except (Corrupt, NotStored) as error:
            raise Corrupt(f"{version}: {error}; 'ventifs check' lists what is damaged") from error

    def _walk(self, version: Version, holder: int) -> None:
        nodes, data = self._nodes, self._data
        pending = [top(version)]
        while pending:
            for ref in pending[-1]:
                self._looked_at += 1
                is_node = ref.kind is not RefKind.DATA
                table = nodes if is_node else data
                before = table.get(ref.score)
                if before in (holder, _SEVERAL):
                    continue
                if not (is_node or holder != _SEVERAL or before is not None or ref.score in nodes):
                    continue  # data that no version asked for has reached: only that takes memory
                after = self._joined(before, holder)
                if after == before:
                    continue
                table[ref.score] = after
                if is_node:
                    pending.append(below(self._store, ref))
                    break
            else:
                pending.pop()
                if self._progress is not None:
                    self._progress(self._looked_at)

    def _joined(self, one: int | None, other: int) -> int:
        """The least holder that includes two."""
        if one is None or one == other:
            return other
        if _SEVERAL in (one, other):
            return _SEVERAL
        name = self._named(one)
        return name if name == self._named(other) else _SEVERAL

    def _named(self, holder: int) -> int:
        return self._name_of[holder] if holder >= 0 else holder

    def exclusives(self) -> Exclusives:
        """What has one holder."""
        versions: list[set[Score]] = [set() for _ in self._name_of]
        names: list[set[Score]] = [set() for _ in self._names]
        for table, other in ((self._nodes, self._data), (self._data, self._nodes)):
            for score, holder in table.items():
                joined = self._joined(other.get(score), holder)
                if joined >= 0:
                    versions[joined].add(score)
                if joined != _SEVERAL:
                    names[-2 - self._named(joined)].add(score)
        return Exclusives(versions, dict(zip(self._names, names, strict=True)))
