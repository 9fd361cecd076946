"""Copies many versions of an archive into another one."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ventifs.api.results import Copied, CopiedAll, NotCopied
from ventifs.api.version import ArchivedVersion
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.versions.catalog import Version
from ventifs.tree.versions.chosen import chosen
from ventifs.tree.versions.copy import CopiedBlocks, CopyResult
from ventifs.tree.versions.copy import copy_all as copy_versions

if TYPE_CHECKING:
    from ventifs.tree.versions.copy import CopyAllProgress


def copy_all(
    source: Store,
    target: Store,
    wanted: Iterable[str | ArchivedVersion],
    *,
    name: str | None,
    repair: bool,
    dry_run: bool,
    progress: "CopyAllProgress | None",
    report: Callable[[Copied | NotCopied], None] | None,
) -> CopiedAll:
    """See `Archive.copy_all`."""
    given = list(wanted)
    texts = [each for each in given if isinstance(each, str)]
    found, unreadable = chosen(source, texts) if texts or not given else ([], [])
    versions = {str(version): version for version in found}
    versions |= {str(each): each.stored for each in given if isinstance(each, ArchivedVersion)}
    names = sorted({version.name for version in versions.values()})
    if name is not None and len(names) > 1:
        raise VentifsError(
            f"{name}: versions of {len(names):,} names ({names[0]}, {names[1]}...) cannot get one; "
            "copy them name by name"
        )
    all_done = CopiedAll([], [], CopiedBlocks())

    def note(done: Copied | NotCopied) -> None:
        if isinstance(done, Copied):
            all_done.copied.append(done)
            all_done.blocks.add(done.blocks)
        else:
            all_done.left.append(done)
        if report is not None:
            report(done)

    for key, error in unreadable:
        note(NotCopied(key, error))
    for result in copy_versions(
        source,
        target,
        list(versions.values()),
        name=name,
        repair=repair,
        rehearsal=dry_run,
        progress=progress,
    ):
        note(_noted(result, target, name))
    return all_done


def _noted(result: CopyResult, target: Store, name: str | None) -> Copied | NotCopied:
    if result.error is not None:
        return NotCopied(str(result.version), result.error)
    made = result.made or _would_be(result.version, name)
    return Copied(ArchivedVersion(target, made), result.blocks, result.there)


def _would_be(version: Version, name: str | None) -> Version:
    return replace(version, name=name or version.name, record=None)
