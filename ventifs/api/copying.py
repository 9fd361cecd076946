"""What `Archive` copies into other archives: one version, or many for the price of their union."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ventifs.api.opened import check_open
from ventifs.api.results import Copied, CopiedAll, NotCopied
from ventifs.api.version import ArchivedVersion
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.versions.catalog import Version, find_version

if TYPE_CHECKING:
    from ventifs.tree.versions.copy import CopiedBlocks, CopyAllProgress, CopyResult


class Copying:
    """The part of `Archive` that copies versions into other archives."""

    store: Store

    def copy(
        self,
        version: str | ArchivedVersion,
        to: "Copying",
        *,
        name: str | None = None,
        progress: "Callable[[CopiedBlocks], None] | None" = None,
    ) -> Copied:
        """Copy a version into another archive, which gets only the blocks that it lacks.

        A version that is there already gets the comment and tags that it has here.

        Args:
            version: the one.
            to: the other archive, open for writing.
            name: what to call it there; its own name, if None.
            progress: called now and then with what is done.

        Raises:
            NoSuchVersion: as `version`.
            ValueError: the other archive is this one.
            VentifsError: the other archive has another tree of that name and time.
            Corrupt, NotStored: where this archive is damaged; there is no new version.
        """
        from ventifs.tree.versions.copy import copy

        found = version if isinstance(version, ArchivedVersion) else self._found(version)
        _check_copied(found, to)
        made, done = copy(found.store, to.store, found.stored, name=name, progress=progress)
        return Copied(ArchivedVersion(to.store, made), done.blocks, done.there, done.noted)

    def copy_all(
        self,
        to: "Copying",
        *wanted: str | ArchivedVersion,
        name: str | None = None,
        repair: bool = False,
        dry_run: bool = False,
        progress: "CopyAllProgress | None" = None,
        report: Callable[[Copied | NotCopied], None] | None = None,
    ) -> CopiedAll:
        """Copy many versions into another archive, which gets only the blocks that it lacks.

        What several versions share is looked at once. Versions that are there already get the
        comment and tags that they have here. What stops this at any moment loses nothing:
        called again, it sends only the rest.

        Args:
            to: the other archive, open for writing; for a dry run, reading is enough.
            wanted: versions; names, which mean all their versions here; patterns over names such as
                "web*", which mean all versions of those names, or the one of that time of each
                ("web*@latest"); or texts that name one version. All versions, if there are none.
            name: what to call them there, if all have one name; their own, if None.
            repair: also walk versions that are there already, and send what is missing of them.
                Otherwise they cost nothing, if their comments and tags are the same.
            dry_run: write nothing. It does not read data, and so finds less damage.
            progress: called now and then with what is done in all, and the version at work.
            report: called for each version when it is done.

        Returns:
            All versions, those that are not copied with the reason: they do not keep the others
            back.

        Raises:
            NoSuchVersion, VentifsError: a text means no version, or `name` is given for versions of
                several names, nothing is sent; or the other archive cannot be read or written.
            ValueError: the other archive is this one, or a version is in another than this.
        """
        check_open(self.store)
        if self.store.place == to.store.place:
            raise ValueError(f"{to.store.path} is this archive itself")
        for each in wanted:
            if isinstance(each, ArchivedVersion):
                _check_copied(each, to)
                if not each.is_in(self.store):
                    raise ValueError(f"{each} is in another archive than {self.store.path}")
        return _copy_all(
            self.store,
            to.store,
            wanted,
            name=name,
            repair=repair,
            dry_run=dry_run,
            progress=progress,
            report=report,
        )

    def _found(self, text: str) -> ArchivedVersion:
        check_open(self.store)
        return ArchivedVersion(self.store, find_version(self.store, text), text)


def _check_copied(version: ArchivedVersion, to: Copying) -> None:
    if version.stored.record is None:
        raise VentifsError(f"{version}: a rehearsed version is nowhere, and cannot be copied")
    if version.is_in(to.store):
        raise ValueError(f"{version} is in {to.store.path} itself")


def _copy_all(
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
    from ventifs.tree.versions.chosen import chosen
    from ventifs.tree.versions.copy import CopiedBlocks, copy_all

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
    for result in copy_all(
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


def _noted(result: "CopyResult", target: Store, name: str | None) -> Copied | NotCopied:
    if result.error is not None:
        return NotCopied(str(result.version), result.error)
    made = result.made or _would_be(result.version, name)
    return Copied(ArchivedVersion(target, made), result.blocks, result.there, result.noted)


def _would_be(version: Version, name: str | None) -> Version:
    return replace(version, name=name or version.name, record=None)
