"""What changes of an archive return."""

from typing import TYPE_CHECKING, NamedTuple

from ventifs.api.version import ArchivedVersion
from ventifs.errors import VentifsError
from ventifs.tree.objects.records import Entry

if TYPE_CHECKING:
    from ventifs.tree.archive.tally import Tally
    from ventifs.tree.versions.copy import CopiedBlocks
    from ventifs.tree.versions.dead import Space

KeptVersions = list[tuple[ArchivedVersion, list[str]]]  # with the rules that keep them


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
            `daily 2026-11-23` or `held`; without rules if versions were named.
        forgotten: the versions that are not in the catalog any more.
    """

    kept: KeptVersions
    forgotten: list[ArchivedVersion]


class ForgottenVersion(NamedTuple):
    """A version that was forgotten.

    Attributes:
        version: as it was.
        forgotten_ns: when, UTC nanoseconds since 1970.
    """

    version: ArchivedVersion
    forgotten_ns: int


class HistoryStep(NamedTuple):
    """A change of a path from one version of a name to the next.

    Attributes:
        version: the one in which the path is as it is now.
        kind: "added", "modified" or "removed".
        entry: what the path is in the version; None if it is removed.
        what: of what is modified, which attributes differ.
    """

    version: ArchivedVersion
    kind: str
    entry: Entry | None
    what: tuple[str, ...]


class Copied(NamedTuple):
    """What a copy has made.

    Attributes:
        version: the version in the other archive; in a dry run, perhaps what would be it.
        blocks: blocks and bytes that were sent.
        there: whether it was there already; then only missing blocks were sent.
        noted: whether it was there with another comment or other tags, and got those of this
            archive; in a dry run, would get.
    """

    version: ArchivedVersion
    blocks: "CopiedBlocks"
    there: bool
    noted: bool = False


class NotCopied(NamedTuple):
    """A version that a copy has left out.

    Attributes:
        called: `NAME@TIME` in this archive; of a damaged record, its key.
        error: why: `Corrupt` or `NotStored` if it is damaged here; `NoSuchVersion` if it was
            forgotten meanwhile; otherwise the other archive has another tree, or a damaged record,
            of that name and time.
    """

    called: str
    error: VentifsError


class CopiedAll(NamedTuple):
    """What a copy of many versions has made.

    Attributes:
        copied: the versions that are in the other archive now, those that were there already
            included; in a dry run, that would be.
        left: the versions that are not, with the reasons.
        blocks: blocks and bytes that were sent in all.
    """

    copied: list[Copied]
    left: list[NotCopied]
    blocks: "CopiedBlocks"


class HeldAlone(NamedTuple):
    """What versions and names hold that nothing else needs.

    Attributes:
        versions: each version, and what no other version needs.
        names: for each of their names what no version of another name needs: at least what its
            versions hold alone together.
    """

    versions: "list[tuple[ArchivedVersion, Space]]"
    names: "dict[str, Space]"
