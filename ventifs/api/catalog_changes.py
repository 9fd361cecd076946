"""What `Archive` does to versions that it has: bring back, hold, rename, tag, comment.

Always: each call is one commit, done whole or not at all, and no two changes of a catalog overlap.
A change waits for another, which takes no longer than a commit.
"""

import time
from collections.abc import Iterable

from ventifs.api.results import ForgottenVersion
from ventifs.api.version import ArchivedVersion
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.versions.catalog import VersionId, check_name, find_version


class CatalogChanges:
    """The part of `Archive` that changes versions, and lists those that were forgotten."""

    store: Store

    def forgotten(self, name: str | None = None) -> list[ForgottenVersion]:
        """All forgotten versions, or those of one name, by name, time and time of forgetting.

        Raises:
            VentifsError: `name` cannot be a name, or the archive is closed.
            Corrupt: a record is damaged.
        """
        from ventifs.tree.versions.forgotten import forgotten

        self._check_open()
        return [
            ForgottenVersion(ArchivedVersion(self.store, each.version), each.forgotten_ns)
            for each in forgotten(self.store, name)
        ]

    def undelete(
        self, *wanted: str, every: bool = False, forgotten: str | None = None
    ) -> list[ArchivedVersion]:
        """Bring forgotten versions back as they were, but for holds.

        What was reclaimed, or forgotten by programs without this, cannot come back.

        Args:
            wanted: texts as for `version`, of which each names a forgotten version: `~N` and
                `latest` count those forgotten of the name. Of several of one time the one that was
                forgotten last is meant.
            every: the texts are names, whose forgotten versions all come back, but for those of a
                time that the name has a version of.
            forgotten: only those forgotten within this time, which may be partial.

        Returns:
            The versions that came back, in the given order.

        Raises:
            NoSuchVersion: one of them was not forgotten, or not kept. Nothing is changed.
            VentifsError: there is a version of the name and time of one of them. Nothing is
                changed.
        """
        from ventifs.api.undeleting import to_bring_back, undelete

        self._check_open()
        chosen = to_bring_back(self.store, wanted, every=every, during=forgotten)
        return undelete(self.store, chosen)

    def hold(
        self, *wanted: str | ArchivedVersion, until_ns: int | None = None
    ) -> list[ArchivedVersion]:
        """Hold versions: `forget` refuses them, and every rule of `thin` keeps them; return them.

        Args:
            wanted: versions, or texts that name one; a bare name is refused.
            until_ns: when the holds end, UTC nanoseconds since 1970; never, if None. An earlier
                hold of a version counts no more.

        Raises:
            NoSuchVersion: one of them is not there. Nothing is changed.
            VentifsError: the time is past.
            ValueError: a version is in another archive.
        """
        from ventifs.tree.versions.holds import hold

        made = hold(self.store, self._ids(wanted), until_ns, now_ns=time.time_ns())
        return [ArchivedVersion(self.store, version) for version in made]

    def release(self, *wanted: str | ArchivedVersion) -> list[ArchivedVersion]:
        """End the holds of versions; return the versions.

        Raises:
            NoSuchVersion: one of them is not there. Nothing is changed.
            VentifsError: one of them is not held. Nothing is changed.
            ValueError: a version is in another archive.
        """
        from ventifs.tree.versions.holds import release

        freed = release(self.store, self._ids(wanted))
        return [ArchivedVersion(self.store, version) for version in freed]

    def rename(self, name: str, new: str, *, force: bool = False) -> list[ArchivedVersion]:
        """Give all versions of a name another one, forgotten ones too; return them.

        Holds and what is kept for the next run go with them, and that run is as fast as under the
        old name. Versions in memory keep the old name, which finds nothing any more.

        Args:
            name: the name; it may have only forgotten versions.
            new: the new one.
            force: even if the new name has forgotten versions, which then stay under it.

        Raises:
            NoSuchVersion: the name has no versions, and no forgotten ones.
            VentifsError: the new name cannot be one, is the same, or has versions.
            Busy: a run is at work under one of the names.
        """
        from ventifs.tree.versions.rename import rename

        self._check_open()
        renamed = rename(self.store, name, new, force=force)
        return [ArchivedVersion(self.store, version) for version in renamed]

    def tag(
        self,
        *wanted: str | ArchivedVersion,
        add: str | Iterable[str] = (),
        remove: str | Iterable[str] = (),
    ) -> list[ArchivedVersion]:
        """Remove tags from versions, then add others; return the versions as they are now.

        Args:
            wanted: versions, or texts that name one; a bare name is refused.
            add: tags; those that a version has already are not added again.
            remove: tags; those that a version lacks are no error.

        Raises:
            NoSuchVersion: one of them is not there. Nothing is changed.
            VentifsError: a tag is not allowed, or there are too many. Nothing is changed.
            ValueError: a version is in another archive.
        """
        from ventifs.tree.versions.notes import tag

        added = [add] if isinstance(add, str) else list(add)
        removed = [remove] if isinstance(remove, str) else list(remove)
        made = tag(self.store, self._ids(wanted), added, removed)
        return [ArchivedVersion(self.store, version) for version in made]

    def comment(self, wanted: str | ArchivedVersion, text: str) -> ArchivedVersion:
        """Replace the comment of a version; return the version as it is now.

        Args:
            wanted: a version, or a text that names one; a bare name is refused.
            text: a line; empty for none.

        Raises:
            NoSuchVersion: it is not there.
            VentifsError: the text cannot be a comment.
            ValueError: the version is in another archive.
        """
        from ventifs.tree.versions.notes import comment

        [version] = self._ids([wanted])
        return ArchivedVersion(self.store, comment(self.store, version, text))

    # --- what these share -----------------------------------------------------------------------

    def _ids(self, wanted: Iterable[str | ArchivedVersion]) -> list[VersionId]:
        self._check_open()
        return [(each.name, each.time_ns) for each in map(self._given, wanted)]

    def _given(self, version: str | ArchivedVersion) -> ArchivedVersion:
        """A version of this archive, or the one that a text names.

        Raises:
            NoSuchVersion, VentifsError: as `Archive.version`, or a name stands alone, or several
                versions have the score.
            ValueError: the version is in another archive.
        """
        if isinstance(version, ArchivedVersion):
            if not version.is_in(self.store):
                raise ValueError(f"{version} is in another archive than {self.store.path}")
            return version
        if not set("@:") & set(version):
            check_name(version)
            raise VentifsError(f"{version} names all its versions; {version}@latest is the latest")
        return ArchivedVersion(self.store, find_version(self.store, version, single=True), version)

    def _check_open(self) -> None:
        if self.store.closed:
            raise VentifsError(f"{self.store.path}: the archive is closed")
