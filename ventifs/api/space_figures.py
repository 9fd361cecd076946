"""What `Archive` reports about space: what versions hold alone, and what no version needs."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ventifs.api.opened import check_open
from ventifs.api.results import HeldAlone
from ventifs.api.version import ArchivedVersion
from ventifs.store import Store
from ventifs.tree.versions.catalog import check_name, find_version, versions

if TYPE_CHECKING:
    from ventifs.tree.versions.dead import DeadEstimate, MarkedSpace


class SpaceFigures:
    """The part of `Archive` that says what would be freed."""

    store: Store

    def held_alone(
        self, name: str | None = None, *, progress: Callable[[int], None] | None = None
    ) -> HeldAlone:
        """What each version holds that no other needs, and each name: what is freed if it goes.

        Reads the nodes of all versions, in one pass, each at most three times. Memory: about 150
        bytes for each block of the versions asked for, and for each node of the others. Forgotten
        versions do not count: they hold nothing back.

        Args:
            name: whose versions; of all names, if None.
            progress: called now and then with the number of references looked at.

        Raises:
            NoSuchVersion: the name has no versions.
            Corrupt: a version is damaged; the message names it.
        """
        from ventifs.tree.versions.dead import space_of
        from ventifs.tree.versions.exclusive import exclusives

        check_open(self.store)
        every = versions(self.store)
        if name is not None and not any(each.name == check_name(name) for each in every):
            find_version(self.store, name)  # says which names there are
        wanted = [each for each in every if name in (None, each.name)]
        others = [each for each in every if name not in (None, each.name)]
        found = exclusives(self.store, wanted, others, progress)
        return HeldAlone(
            [
                (ArchivedVersion(self.store, version), space_of(self.store, scores))
                for version, scores in zip(wanted, found.versions, strict=True)
            ],
            {each: space_of(self.store, scores) for each, scores in found.names.items()},
        )

    def estimated_dead(self) -> "DeadEstimate":
        """About how much of what is stored no version needs, at once.

        It compares what is stored with what the versions added, as their records say;
        `ventifs.tree.versions.dead` says when that is wrong, and `measured_dead` is exact.

        Raises:
            Corrupt: a version's record is damaged.
        """
        from ventifs.tree.versions.dead import estimated

        check_open(self.store)
        return estimated(self.store)

    def measured_dead(self, *, progress: Callable[[int], None] | None = None) -> "MarkedSpace":
        """How much of what is stored versions need, forgotten ones alone, and none.

        Reads the nodes of all versions, each once, the index, and the heads of clumps. Memory:
        about 150 bytes for each block of the store.

        Args:
            progress: called now and then with the number of references looked at.

        Raises:
            Corrupt: a version is damaged; the message names it.
        """
        from ventifs.tree.versions.dead import measured

        check_open(self.store)
        return measured(self.store, progress)
