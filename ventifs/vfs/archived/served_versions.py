"""The versions of one store as they are served: the roots of their trees, and what is shared.

Owns the caches that the files of all versions share, and finds the directory that a client attaches
to. A version's own files are in `files.py`, the directories above the versions in
`upper_directories.py`.
"""

import errno
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from sys import getsizeof
from threading import Lock
from weakref import WeakValueDictionary

import msgspec

from ventifs.store import Store
from ventifs.tree.versions.leasing import ForgottenMeanwhile, lease_record
from ventifs.vfs.access.placed import PassThrough
from ventifs.vfs.archived.entry_bytes import S_DIRECTORY, S_SYMLINK, type_of
from ventifs.vfs.archived.exports import (
    Catalog,
    Offered,
)
from ventifs.vfs.archived.files import (
    ArchivedDirectory,
    Recent,
    RootDirectory,
    ServedVersion,
)
from ventifs.vfs.archived.identities import token_of
from ventifs.vfs.archived.link_counts import LinkCounts
from ventifs.vfs.archived.reader import AHEAD, StoreContents
from ventifs.vfs.archived.tree_lookup import TreeLookup
from ventifs.vfs.interface import (
    Cold,
    File,
    Load,
    Refused,
)

_ROOTS_BYTES = 4 << 20  # of attach points and roots of versions kept for the next attach
_WAY_MAX = 32  # directories on the path to an attach point that is kept
_ENTERING_MAX = 256  # versions that are kept for the clients that enter them
_PATHS_BYTES_MAX = 1 << 20  # of entries on the paths of attaches that wait for loads
_PATH_MAX = 4096  # bytes of the path in an aname: Linux's own limit
_FILE_BYTES = 1100  # of a file that was used lately, with all that is known of it


class Split(msgspec.Struct, frozen=True):
    """How the memory that `--cache` gives is divided.

    A Debian root of 47,000 entries takes 19 MB of nodes when all of it is walked, and 52 MB of
    files used lately. Clumps get the rest, since reading needs most.

    Attributes:
        clumps: bytes for the store's own cache.
        nodes: bytes for decoded nodes.
        files: the number of files used lately that are kept.
        ahead: bytes of each file that may be read ahead.
    """

    clumps: int
    nodes: int
    files: int
    ahead: int

    @classmethod
    def of(cls, cache_bytes: int) -> "Split":
        """Divide `cache_bytes`: 5/8 for clumps, 2/8 for nodes, 1/8 for files."""
        files = min(65_536, max(256, cache_bytes // 8 // _FILE_BYTES))
        return cls(cache_bytes * 5 // 8, cache_bytes // 4, files, min(AHEAD, cache_bytes // 32))


class ServedVersions:
    """All versions of a store.

    Attributes:
        catalog: which there are.
        scores: whether a tree can be reached by its score.
        token: of the directory of all names.

    Concurrency: for one event loop's thread; the loads it asks for run anywhere. It must not be
    used after the store is closed.
    """

    def __init__(
        self,
        store: Store,
        split: Split,
        *,
        scores: bool = False,
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Serve an open store.

        Args:
            store: opened with `split.clumps` as `cache_bytes`.
            split: the memory it may use.
            scores: whether a tree can be reached by its score.
            clock: returns seconds.
            now_ns: returns UTC nanoseconds since 1970, for what lies in the future.
        """
        self.scores = scores
        self._store = store
        self.catalog = Catalog(store, clock, now_ns)
        self.token = token_of(b"exports", b"\0", store.header.store_id)
        self._trees = TreeLookup(store, split.nodes)
        self._contents = StoreContents(self._trees, split.ahead)
        self._links = LinkCounts(store)
        self._recent = Recent(split.files)
        self._versions: WeakValueDictionary[bytes, ServedVersion] = WeakValueDictionary()
        self._roots: OrderedDict[tuple[object, ...], RootDirectory] = OrderedDict()
        # Versions that clients are entering: their leases must last until the clients' next try.
        self._entering: deque[ServedVersion] = deque(maxlen=_ENTERING_MAX)
        self._paths = Paths()
        self._roots_bytes = 0

    def ahead(self) -> list[Load]:
        """Loads that read ahead; see `Filesystem`."""
        return self._contents.wishes()

    @property
    def node_bytes(self) -> int:
        """Bytes of decoded nodes in memory."""
        return self._trees.nodes.bytes

    def listed(self, offered: Offered, parent: File, name: bytes) -> RootDirectory:
        """The root directory of a version, as an entry of `parent`; nothing in it can be read."""
        return self._root(
            (parent, name, offered.record_id, b""), lambda: self._new_root(offered, parent, name)
        )

    def entered(self, offered: Offered, parent: File, name: bytes) -> RootDirectory:
        """The root directory of a version, under a name in `parent`, for a client that walks there.

        Raises:
            Refused: ENOENT, if the version was forgotten meanwhile.
            Cold: to be tried again.
        """
        root = self.listed(offered, parent, name)
        self._require_lease(root.version, offered)
        return root

    def _require_lease(self, version: ServedVersion, offered: Offered) -> None:
        """See that a version is leased.

        Raises:
            Refused, Cold: as `entered`.
        """
        if version.lease is None:
            run = partial(self._take_lease, version, offered)
            raise Cold(Load(("lease", offered.record_id), run))

    def _take_lease(self, version: ServedVersion, offered: Offered) -> None:
        """The load of `_require_lease`; for any thread."""
        try:
            version.lease = lease_record(
                self._store, offered.name, offered.time_ns, offered.record_id, offered.root
            )
        except ForgottenMeanwhile:
            raise Refused(errno.ENOENT) from None
        self._entering.append(version)

    def tend(self) -> None:
        """Give up the leases that no client needs any more; to be called now and then.

        The lease of a version that the catalog has costs nothing, so it stays as long as the caches
        refer to the version. What the caches have of versions that were forgotten is dropped here:
        their leases end with the last fid. Never waits.
        """
        known = self.catalog.known.of_record
        leased = [(key, each) for key, each in list(self._versions.items()) if each.lease]
        gone = {version for key, version in leased if key not in known}
        if gone:
            for key in [key for key, root in self._roots.items() if root.version in gone]:
                self._roots_bytes -= self._roots.pop(key).weight
            self._recent.drop(gone)
            for version in gone:
                version.let_go()
        # Requests that wait for their version's lease have had it by now, or will ask again.
        self._entering.clear()

    def looks(self) -> list[Load]:
        """The loads that `tend` needs the next time: a look at the catalog, if there are leases."""
        leases = any(version.lease for version in list(self._versions.values()))
        return [self.catalog.look()] if leases else []

    def _new_root(self, offered: Offered, parent: File | None, name: bytes) -> RootDirectory:
        version = self._version(offered)
        return RootDirectory(parent, name, version.root, version.token, version)

    def _version(self, offered: Offered) -> ServedVersion:
        version = self._versions.get(offered.record_id)
        if version is None:
            version = ServedVersion(
                self._trees,
                self._contents,
                self._links,
                self._recent,
                offered.record_id,
                offered.root,
            )
            self._versions[offered.record_id] = version
        return version

    def _root(self, key: tuple[object, ...], make: Callable[[], RootDirectory]) -> RootDirectory:
        root = self._roots.get(key)
        if root is None:
            root = make()
            if len(root.way()) > _WAY_MAX:
                return root  # not kept; the client is charged while it is attached
            self._roots[key] = root
            self._roots_bytes += root.weight
            while self._roots_bytes > _ROOTS_BYTES:
                self._roots_bytes -= self._roots.popitem(last=False)[1].weight
        else:
            self._roots.move_to_end(key)
        return root

    def attached(
        self, offered: Offered, path: bytes, pass_through: PassThrough | None = None
    ) -> RootDirectory:
        """The directory at a path of a version, as the root of an attach.

        Args:
            offered: the version.
            path: in it.
            pass_through: see `placed.Attachable`; without one every directory may be passed.

        Raises:
            Refused: ENOENT, or ENOTDIR or ELOOP for what is no directory.
            Cold: to be tried again.
        """
        if len(path) > _PATH_MAX:
            raise Refused(errno.ENAMETOOLONG)
        names = tuple(name for name in path.split(b"/") if name not in (b"", b"."))
        key = (None, b"/", offered.record_id, names)
        root = self._roots.get(key)
        if root is not None and pass_through is not None:
            for above in root.way():
                pass_through(above)
        return self._root(key, lambda: self._new_attached(offered, names, pass_through))

    def _new_attached(
        self, offered: Offered, names: tuple[bytes, ...], pass_through: PassThrough | None
    ) -> RootDirectory:
        version = self._version(offered)
        self._require_lease(version, offered)
        path = offered.record_id, names
        found = self._paths.of(path)
        way: list[ArchivedDirectory] = [version.home()]
        # Not by `walk`: the `..` of the files that it makes leads out of the attach root.
        for number, name in enumerate(names):
            at = way[-1]
            if pass_through is not None:
                pass_through(at)
            raw = found[number] if number < len(found) else self._entry(way, path)
            if raw is None:
                raise Refused(errno.ENOENT)
            if type_of(raw) != S_DIRECTORY:
                raise Refused(errno.ELOOP if type_of(raw) == S_SYMLINK else errno.ENOTDIR)
            way.append(ArchivedDirectory(at, raw, token_of(at.token, b"/", name), version))
        last = way.pop()
        return RootDirectory(None, b"/", last.raw, last.token, version, tuple(way))

    def _entry(self, way: list[ArchivedDirectory], path: "_Wanted") -> bytes | None:
        """The raw entry of the next name on the path.

        Raises:
            Cold: with a load of the whole path; otherwise an attach to a deep path would need one
                for each directory. Damage beyond this name is not reported, since the user may not
                be allowed to pass that far.
        """
        names = path[1]
        try:
            return self._trees.entry(way[-1].content(), names[len(way) - 1])
        except Cold:
            content, strict = way[0].content(), len(way)

            def run() -> None:
                self._paths.keep(path, self._trees.bring_path(content, names, strict))

            raise Cold(Load(("path", *path, strict), run)) from None


_Wanted = tuple[bytes, tuple[bytes, ...]]  # a version's record, and names below its root


class Paths:
    """Entries on the paths of attaches, as loads have found them.

    They are kept so that an attach ends however few nodes stay in memory. Any thread may use it.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.bytes = 0
        self._found: OrderedDict[_Wanted, tuple[bytes, ...]] = OrderedDict()
        self._lock = Lock()

    def of(self, path: _Wanted) -> tuple[bytes, ...]:
        """The entries of a path that were found lately, from the first one on."""
        return self._found.get(path, ())

    def keep(self, path: _Wanted, entries: tuple[bytes, ...]) -> None:
        """Keep entries; at too many bytes, drop the paths found first, but never this one."""
        with self._lock:
            self._drop(path)
            self._found[path] = entries
            self.bytes += _size_of(path, entries)
            while self.bytes > _PATHS_BYTES_MAX and len(self._found) > 1:
                self._drop(next(iter(self._found)))

    def _drop(self, path: _Wanted) -> None:
        entries = self._found.pop(path, None)
        if entries is not None:
            self.bytes -= _size_of(path, entries)


def _size_of(path: _Wanted, entries: tuple[bytes, ...]) -> int:
    return sum(map(getsizeof, path[1])) + sum(map(getsizeof, entries)) + 16 * len(entries) + 512
