"""What changes of an archive return."""

from typing import TYPE_CHECKING, NamedTuple

from ventifs.api.version import ArchivedVersion

if TYPE_CHECKING:
    from ventifs.tree.archive.tally import Tally
    from ventifs.tree.versions.copy import CopiedBlocks

Kept = list[tuple[ArchivedVersion, list[str]]]  # with the rules that keep them


class Added(NamedTuple):
    """What an archive run has made.

    Attributes:
        version: the new version; in a rehearsal, what would be it.
        tally: names and bytes that were archived, and bytes that were new.
    """

    version: ArchivedVersion
    tally: "Tally"


class Thinned(NamedTuple):
    """What was forgotten, or would be.

    Attributes:
        kept: the versions that stay of the names concerned, each with the rules that keep it, as
            `daily 2026-11-23`; without rules if versions were named.
        forgotten: the versions that are not in the catalog any more.
    """

    kept: Kept
    forgotten: list[ArchivedVersion]


class Copied(NamedTuple):
    """What a copy has made.

    Attributes:
        version: the version in the other archive.
        blocks: blocks and bytes that were sent.
        there: whether it was there already; then only missing blocks were sent.
    """

    version: ArchivedVersion
    blocks: "CopiedBlocks"
    there: bool
