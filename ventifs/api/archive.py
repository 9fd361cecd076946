"""An open archive: what `ventifs.open` returns.

Always: every change is durable when the method that makes it returns, and done whole or not at all.
An archive that is open for reading sees what others commit meanwhile. The calls that archive a
source stand in one place, `Archive.add`.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import tzinfo
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Self, get_args

from ventifs.api.catalog_changes import CatalogChanges
from ventifs.api.copying import Copying
from ventifs.api.path import ArchivedPath, as_patterns, given_path
from ventifs.api.results import Added, Thinned
from ventifs.api.space_figures import SpaceFigures
from ventifs.api.version import ArchivedVersion
from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Store
from ventifs.store.header import ARENA_SIZE_DEFAULT
from ventifs.store.permissions import PRIVATE, Access
from ventifs.store.store import CACHE_BYTES_DEFAULT, LEVEL_DEFAULT
from ventifs.text import printable
from ventifs.tree.versions.catalog import check_name, find_version, split_path
from ventifs.tree.versions.catalog import versions as all_versions

if TYPE_CHECKING:
    from ventifs.api.path import GivenPatterns
    from ventifs.api.serving import Serving
    from ventifs.serving.settings import Access as Access9P
    from ventifs.serving.settings import Squashed
    from ventifs.tree.archive.source import Source
    from ventifs.tree.archive.tally import Tally
    from ventifs.tree.process_pool import Pool

    GivenSource = str | bytes | os.PathLike[str] | BinaryIO | Source

OpenMode = Literal["read", "write", "rehearse"]


def init(
    path: str | os.PathLike[str],
    *,
    arena_size: int = ARENA_SIZE_DEFAULT,
    access: Access = PRIVATE,
    reserve: int | None = None,
) -> None:
    """Make a new, empty archive in a directory that is empty or not there.

    Args:
        path: the directory; missing parents are made.
        arena_size: bytes at which the files that hold blocks are sealed, 4 MiB to 3 GiB.
        access: which users may reach it, whatever the umask: only the user who calls this, or a
            group too, with what `ventifs.store.permissions.readers` or `shared` returns for it.
        reserve: bytes of disk set aside, so that versions can be forgotten when the disk is full;
            0 for none. By default 64 MiB, but at most 1 % of the file system. Where there is no
            room, a later writer makes it.

    Raises:
        ValueError: for an arena size or a reserve out of range.
        VentifsError: the directory holds something, or cannot be written.
    """
    Store.create(given_path(path), arena_size=arena_size, access=access, reserve=reserve)


def open(  # noqa: A001, as `io.open` and `tarfile.open`
    path: str | os.PathLike[str],
    mode: OpenMode = "read",
    *,
    level: int = LEVEL_DEFAULT,
    cache_bytes: int = CACHE_BYTES_DEFAULT,
    reserve: bool = False,
    wait_s: float | None = None,
) -> "Archive":
    """Open an archive, as a context manager.

    Args:
        path: the store's directory.
        mode: "read"; "write"; or "rehearse", in which `add` writes nothing and only reports.
        level: how hard to compress what is added, 1 to 19: zstd's levels.
        cache_bytes: memory for blocks that were read.
        reserve: on a full disk, use the archive's reserve to open it for writing. For what then
            frees something, such as `forget`, which uses the reserve too.
        wait_s: how many seconds to wait for each lock that others hold. By default for those that
            are held for a moment only, as long as it takes, and not at all for others.

    Raises:
        VentifsError: there is no archive, or this user may not use it, or not in this mode.
        Busy: another process needs it alone, for a rebuild, repair or upgrade.
        Corrupt: its header is damaged.
        ValueError: another mode, or an empty path.
    """
    if mode not in get_args(OpenMode):
        raise ValueError(f"mode {mode!r}: 'read', 'write' or 'rehearse'")
    store = Store.open(
        given_path(path),
        mode,
        level=level,
        cache_bytes=cache_bytes,
        reserve=reserve,
        wait_s=wait_s,
    )
    return Archive(store)


class Archive(CatalogChanges, Copying, SpaceFigures):
    """Versions of any number of names, in one store.

    Several processes may have one archive open in any mode at once. Runs under one name exclude
    each other.

    Concurrency: every method may be called from any thread, but `add` from one at a time, and
    `close` when no other is at work. An open archive must not be used after a fork: a child opens
    its own.

    Attributes:
        store: the block store, for what this class does not do.
    """

    def __init__(self, store: Store) -> None:
        """Use `ventifs.open`."""
        self.store = store

    # --- versions -----------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The names that have versions, sorted.

        Raises:
            VentifsError: the archive is closed.
            Corrupt: a version's record is damaged.
        """
        self._check_open()
        return sorted({version.name for version in all_versions(self.store)})

    def versions(self, name: str | None = None) -> list[ArchivedVersion]:
        """All versions, or those of one name, by name and then by time; none if it has none.

        Raises:
            VentifsError: `name` cannot be a name, or the archive is closed.
            Corrupt: a version's record is damaged.
        """
        self._check_open()
        found = all_versions(self.store, None if name is None else check_name(name))
        return [ArchivedVersion(self.store, version) for version in found]

    def version(self, text: str) -> ArchivedVersion:
        """The version that a text names; `archive[text]` is the same.

        Args:
            text: `NAME` and `NAME@latest` for the newest that is not in the future, `NAME@~2` for
                two before, `NAME@TIME` for the last within a time that may be partial
                (`2026-11-23`), or `score:` with 8 digits or more.

        Raises:
            NoSuchVersion: there is none, or more than one; the message names the nearest.
            VentifsError: the text is none of these, or the archive is closed.
            Corrupt: a version's record is damaged.
        """
        self._check_open()
        return ArchivedVersion(self.store, find_version(self.store, text), text)

    def path(self, text: str) -> ArchivedPath:
        """The path that a text names: a version as above, then perhaps `:/` and a path in it.

        Raises:
            NoSuchVersion, VentifsError, Corrupt: as `version`. The path is not looked up yet.
        """
        wanted, path = split_path(text)
        return self.version(wanted) / path

    def __getitem__(self, text: str) -> ArchivedVersion:
        """The version that a text names; raises as `version`."""
        return self.version(text)

    def __contains__(self, text: object) -> bool:
        """Whether a version is there, or a text names one.

        Raises:
            VentifsError: the archive is closed.
            Corrupt: a version's record is damaged.
        """
        self._check_open()
        if isinstance(text, ArchivedVersion):
            return text in self.versions(text.name)
        try:
            return isinstance(text, str) and self.version(text) is not None
        except Corrupt:
            raise
        except VentifsError:
            return False

    def __iter__(self) -> Iterator[ArchivedVersion]:
        """All versions, by name and then by time; raises as `versions`."""
        return iter(self.versions())

    # --- changes ------------------------------------------------------------------------------

    def add(
        self,
        source: "GivenSource",
        name: str,
        *,
        time_ns: int | None = None,
        comment: str = "",
        tags: Iterable[str] = (),
        exclude: "GivenPatterns" = (),
        one_file_system: bool = False,
        exclude_caches: bool = False,
        read_all: bool = False,
        pool: "Pool | None" = None,
        progress: "Callable[[Tally, bytes], None] | None" = None,
    ) -> Added:
        """Archive a source as a new version. What the archive has already is not stored again.

        What cannot be read is listed in the version's `troubles`, and everything else archived.

        Args:
            source: the path of a directory; the path of a tar, packed or not, or a binary stream of
                one; or an object with the methods of `ventifs.tree.archive.source.Source`, such as
                a disk, which has options of its own.
            name: letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
            time_ns: the version's time, UTC nanoseconds since 1970; now, if None.
            comment: a line of text, kept with the version.
            tags: texts, kept with the version; one alone may be given as it is.
            exclude: gitignore patterns, relative to the source; what they match is left out.
            one_file_system: leave out what is mounted below a directory.
            exclude_caches: leave out what is in directories with a CACHEDIR.TAG.
            read_all: read every file; otherwise those that look as in the name's last run are not.
            pool: processes that read a directory's files for this one; None reads them here. Made
                before the archive is opened, as `ventifs.tree.archive.worker.serving` says, with
                the same patterns and level as this run.
            progress: called for every directory and batch of files, with what is done so far.

        Raises:
            VentifsError: the source cannot be read, the name, comment or tags cannot be kept, the
                name has a version of that time, or the archive is not open for writing.
            Busy: another run, or a rename, is at work under this name.
            NoSpace: the disk is full. In all cases there is no new version.
            ValueError: `pool` or what is to be left out is given for a source that has options of
                its own.
        """
        from ventifs.api.sources import source_of
        from ventifs.tree.archive.archive_run import archive
        from ventifs.tree.archive.scan import Options

        options = Options(as_patterns(exclude), one_file_system, exclude_caches)
        with ExitStack() as stack:
            version, tally = archive(
                self.store,
                source_of(source, options, pool, stack),
                name,
                time_ns=time_ns,
                comment=comment,
                tags=(tags,) if isinstance(tags, str) else tuple(tags),
                read_all=read_all,
                progress=progress,
            )
        return Added(ArchivedVersion(self.store, version), tally)

    def forget(
        self, *wanted: str | ArchivedVersion, force: bool = False, dry_run: bool = False
    ) -> Thinned:
        """Remove versions from the catalog; `undelete` brings them back.

        Their blocks stay until `ventifs.reclaim` frees them.

        Args:
            wanted: versions, or texts that name one; a bare name is refused, since it may be meant
                as all its versions.
            force: forget even the last version of a name.
            dry_run: change nothing; reading is enough for that.

        Raises:
            NoSuchVersion, VentifsError: one of them is not there or held, or a name would lose its
                last version without `force`. Nothing is removed.
            ValueError: a version is in another archive.
        """
        from ventifs.api.thinning import forget

        self._check_open()
        found = [self._given(each) for each in wanted]
        return forget(self.store, found, force=force, dry_run=dry_run)

    def thin(
        self,
        *names: str,
        last: int = 0,
        hourly: int = 0,
        daily: int = 0,
        weekly: int = 0,
        monthly: int = 0,
        yearly: int = 0,
        within: str = "",
        tags: Iterable[str] = (),
        timezone: str | tzinfo | None = None,
        dry_run: bool = False,
    ) -> Thinned:
        """Forget the versions that no rule and no hold keeps, of the names given or of all names.

        A version that is held, or lies in the future, is always kept. While there are fewer periods
        than a rule would keep, it keeps the oldest version too. Among the versions of a period
        those without troubles come first; `last` keeps so many of these in any case.

        Args:
            names: whose versions are thinned.
            last: keep so many of the latest versions.
            hourly: keep the newest version of each of so many latest hours that have one.
            daily: the same of days.
            weekly: the same of ISO weeks.
            monthly: the same of months.
            yearly: the same of years.
            within: keep all that are newer than the latest less this: "30d", "36h", "1y5m7d2h".
            tags: keep those with any of these tags; one alone may be given as it is.
            timezone: whose hours, days and so on they are: a name such as "Europe/Berlin", an
                offset such as "+02:00", or a `tzinfo`; None is the machine's own.
            dry_run: change nothing; reading is enough for that.

        Raises:
            NoSuchVersion: a name has no versions. Nothing is removed.
            VentifsError: no rule keeps anything, of all names or one of them; or a name, a length
                of time or a zone cannot be one. Nothing is removed.
            ValueError: a number is negative.
        """
        from ventifs.api.thinning import thin
        from ventifs.tree.versions.retention import Policy
        from ventifs.tree.versions.times import CalendarSpan, parse_span
        from ventifs.tree.versions.zones import zone_of

        self._check_open()
        numbers = last, hourly, daily, weekly, monthly, yearly
        if min(numbers) < 0:
            raise ValueError("a number of versions to keep cannot be negative")
        span = parse_span(within) if within else CalendarSpan()
        policy = Policy(*numbers, span, (tags,) if isinstance(tags, str) else tuple(tags))
        wanted = map(check_name, names)
        return thin(self.store, wanted, policy, zone=zone_of(timezone), dry_run=dry_run)

    def serve(
        self,
        *addresses: str,
        allow: str | Iterable[str] | None = None,
        access: "Access9P" = "trust",
        squash: "Squashed" = "none",
        scores: bool = False,
        client_bytes: int = 0,
    ) -> "Serving":
        """Serve all versions over 9P, read-only, from a thread of this process, until it is closed.

        Args:
            addresses: `tcp://HOST:PORT`, `unix:///PATH` or `vsock://CID:PORT`, at least one.
            allow: rules as `ventifs serve --allow` takes them, such as "192.0.2.0/24 web*". With
                None, users of this machine reach everything, and other peers what the user
                `nobody` may read.
            access: "trust" lets the client's kernel check permissions; "mode" checks here.
            squash: with "mode": "root" makes root nobody, "all" everybody.
            scores: whether trees can be reached by their scores.
            client_bytes: memory for what clients hold; 0 is an eighth of the machine's.

        Returns:
            The server, a context manager; `addresses` is where it listens. It goes on when the
            archive is closed. While it runs, the interpreter's switch interval is 0.2 ms.

        Raises:
            ValueError: no address is given, another `access` or `squash`, or `squash` without
                "mode".
            VentifsError: an address or a rule makes no sense, or cannot be had.
        """
        from ventifs.api.serving import Serving
        from ventifs.net.allow_list import AllowList, parse_rule
        from ventifs.serving.settings import Access as Access9P
        from ventifs.serving.settings import Settings, Squashed

        self._check_open()
        if not addresses:
            raise ValueError("name an address to listen at")
        if access not in get_args(Access9P) or squash not in get_args(Squashed):
            raise ValueError(f"access {access!r} and squash {squash!r}: see the documentation")
        if squash != "none" and access != "mode":
            raise ValueError('squash needs access="mode": with "trust", clients\' kernels check')
        given = [allow] if isinstance(allow, str) else allow
        rules = None if given is None else tuple(map(parse_rule, given))
        settings = Settings(
            str(self.store.path),
            client_bytes=client_bytes,
            access=access,
            squash=squash,
            scores=scores,
        )
        return Serving(settings, addresses, AllowList(rules))

    # --- the end ------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self.store.closed

    def close(self) -> None:
        """Release everything; idempotent. Paths and files of its versions cannot be read any more.

        Raises:
            NoSpace, VentifsError: blocks that were put into `store` could not be made durable.
        """
        self.store.close()

    def __enter__(self) -> Self:
        """The archive itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.store.__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.store.mode
        return f"<{type(self).__name__} {printable(self.store.path)} ({state})>"
