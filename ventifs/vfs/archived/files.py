"""The files of one archived version: what a fid points at, and what opening it gives.

A server may have a million of them. So a `File` is its directory, its raw entry and 15 bytes of
hash, 250 bytes in all; what is decoded of it is kept only for files used lately (`Recent`). That
hash, the token, is made of the directory's token and the file's name: a walk costs one hash. A
file's identity is made of its token. Knows no names of versions.
"""

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from ventifs.store.leases import Lease
from ventifs.tree.objects.records import (
    Content,
    Device,
    Directory,
    Empty,
    Listed,
    RegularFile,
    Symlink,
    Xattrs,
    length_of,
    own_entry,
)
from ventifs.vfs.archived.entry_bytes import (
    S_DIRECTORY,
    S_REGULAR,
    S_SYMLINK,
    is_linked,
    name_of,
    type_of,
)
from ventifs.vfs.archived.identities import identity_of, number_of, token_of
from ventifs.vfs.archived.link_counts import LinkCounts, claim_of
from ventifs.vfs.archived.opened_entries import OpenedEntries, dots
from ventifs.vfs.archived.reader import OpenedContent, StoreContents
from ventifs.vfs.archived.room import DIRECTORY_BLOCKS, DIRECTORY_SIZE, blocks_of
from ventifs.vfs.archived.tree_lookup import TreeLookup
from ventifs.vfs.held_directories import HeldDirectories
from ventifs.vfs.interface import (
    Attributes,
    File,
    Identity,
    ReadOnlyFile,
    Refused,
    Statfs,
    check_reading,
)
from ventifs.vfs.memory_budget import DIRECTORY_BYTES, RAW_BYTES, ROOT_BYTES, Budget

_DIRECTORIES_MIN = 4096  # room for those above recent files, however few files are kept


class Recent:
    """The files walked to lately, by directory and name, and all that is decoded of them.

    Only these, and each `RootDirectory`, may have `known` set. For the event loop's thread alone.
    """

    def __init__(self, files_max: int) -> None:
        """Keep up to `files_max` files, about 1,100 bytes each.

        It keeps fewer if the directories above them take too much memory. These are mostly files
        used lately themselves, but in a hostile tree thousands may be above each file.
        """
        self.files_max = files_max
        self.files: OrderedDict[tuple[ArchivedDirectory, bytes], ArchivedFile] = OrderedDict()
        budget = Budget(2 * max(files_max, _DIRECTORIES_MIN) * DIRECTORY_BYTES)
        self._directories = HeldDirectories(budget.share_of(""))

    def keep(
        self,
        file: "ArchivedFile",
        parent: "ArchivedDirectory",
        name: bytes,
        identity: Identity | None = None,
    ) -> "_Known":
        """Keep what is known of a file, and forget that of the file used longest ago if need be.

        If the file lies too deep for any file to be kept, the result is returned but not kept.
        """
        key, known = (parent, name), _Known(identity or file.make_identity())
        before = self.files.pop(key, None)
        if before is not None:
            before.known = None
        else:
            below = self._directories.below
            count = below.get(parent)
            if count is not None:  # fast path for the common case
                below[parent] = count + 1
            elif not self._begin(parent):
                return known
        self.files[key] = file
        if len(self.files) > self.files_max:
            self._forget_one()
        file.known = known
        return known

    def drop(self, gone: "set[ServedVersion]") -> None:
        """Forget all files of some versions; O(n) in the files kept."""
        below = [key for key in self.files if key[0].version in gone]
        for key in below:
            self.files.move_to_end(key, last=False)
            self._forget_one()
        self._directories.forget_left()

    def _begin(self, parent: "ArchivedDirectory") -> bool:
        """Count a file below a new directory, and forget other files if there is no room.

        Returns whether there is room at all.
        """
        while not self._directories.begin(parent):
            if not self.files:
                return False
            self._forget_one()
        return True

    def _forget_one(self) -> None:
        (parent, _), file = self.files.popitem(last=False)
        file.known = None
        directories = self._directories
        count = directories.below[parent]
        if count > 1:
            directories.below[parent] = count - 1
        else:
            directories.end(parent)


class _Known:
    """What is known of a file that was used lately."""

    __slots__ = ("attributes", "content", "identity")

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.attributes: Attributes | None = None
        self.content: Content | None = None  # of a directory


class ServedVersion:
    """What the files of one version share.

    Attributes:
        token: hashed from the version's record id, so that no two versions share an identity.
        root: the root directory's raw entry.
        statfs: of the whole version.
        lease: keeps its blocks as long as any of its files is in memory; None until a client enters
            it. Only its listed attributes can be read before.
    """

    __slots__ = (
        "__weakref__",
        "_home",
        "_tree",
        "contents",
        "lease",
        "links",
        "recent",
        "root",
        "statfs",
        "token",
        "trees",
    )

    def __init__(
        self,
        trees: TreeLookup,
        contents: StoreContents,
        links: LinkCounts,
        recent: Recent,
        record_id: bytes,
        root: bytes,
    ) -> None:
        """Of the id of a record, and the raw entry of the root in it."""
        detail = own_entry(root).detail
        assert isinstance(detail, Directory)
        self.trees = trees
        self.contents = contents
        self.links = links
        self.recent = recent
        self.token = token_of(b"version", b"\0", record_id)
        self.root = root
        self.statfs = Statfs(
            blocks=-(-detail.bytes // 4096), files=detail.paths + 1, fsid=number_of(self.token)
        )
        self.lease: Lease | None = None
        self._tree = detail.content
        self._home: RootDirectory | None = None

    def home(self) -> "RootDirectory":
        """Its root directory, as the root of an attach."""
        if self._home is None:
            self._home = RootDirectory(None, b"/", self.root, self.token, self)
        return self._home

    def let_go(self) -> None:
        """Drop what refers back to it, so that it ends with the last of its files."""
        self._home = None

    def names_of(self, raw: bytes) -> int:
        """How many names a linked file has in this version.

        Raises:
            Cold: they are not counted yet.
        """
        return self.links.count(self._tree, raw)


class ArchivedFile(ReadOnlyFile):
    """A file of a version that is no directory."""

    __slots__ = ("above", "known", "raw", "token")

    above: "ArchivedDirectory | File | None"
    version: ServedVersion

    def __init__(self, parent: "ArchivedDirectory", raw: bytes, token: bytes) -> None:
        """In a directory, with its raw entry."""
        self.above = parent
        self.raw = raw
        self.token = token
        self.known: _Known | None = None

    def _version(self) -> ServedVersion:
        above = self.above
        assert isinstance(above, ArchivedDirectory)
        return above.version

    @property
    def identity(self) -> Identity:
        """See `File`."""
        known = self.known
        return self.make_identity() if known is None else known.identity

    def make_identity(self) -> Identity:
        """The identity, made anew."""
        return identity_of(self.raw, self.token)

    @property
    def name(self) -> bytes:
        """See `File`."""
        return name_of(self.raw)

    @property
    def kind(self) -> int:
        """See `File`."""
        return type_of(self.raw)

    def attributes(self) -> Attributes:
        """See `File`; the same object while `Recent` keeps the file."""
        known = self.known
        if known is not None and known.attributes is not None:
            return known.attributes
        entry = own_entry(self.raw)
        version = self._version()
        detail, mtime = entry.detail, entry.mtime_ns
        nlink = version.names_of(self.raw) if entry.link else 1
        if isinstance(detail, Directory):
            size, blocks = DIRECTORY_SIZE, DIRECTORY_BLOCKS
        elif isinstance(detail, RegularFile):
            size = length_of(detail.content)
            blocks = blocks_of(detail.content)
        else:
            size = len(detail.target) if isinstance(detail, Symlink) else 0
            blocks = 0  # file systems keep it in the inode
        rdev = os.makedev(detail.major, detail.minor) if isinstance(detail, Device) else 0
        attributes = Attributes(
            entry.mode, entry.uid, entry.gid, nlink, rdev, size, mtime, mtime, mtime, blocks
        )
        self._know(version).attributes = attributes
        return attributes

    def _know(self, version: ServedVersion) -> _Known:
        known = self.known
        if known is None:
            assert isinstance(self.above, ArchivedDirectory)
            known = version.recent.keep(self, self.above, name_of(self.raw))
        return known

    def walk(self, name: bytes) -> File:
        """See `File`."""
        raise Refused(errno.ENOTDIR)

    def open(self, flags: int) -> "OpenedContent | OpenedDirectory":
        """See `File`."""
        kind = type_of(self.raw)
        if kind == S_SYMLINK:
            raise Refused(errno.ELOOP)
        check_reading(flags)
        if flags & os.O_DIRECTORY:
            raise Refused(errno.ENOTDIR)
        detail = own_entry(self.raw).detail if kind == S_REGULAR else None
        content = detail.content if isinstance(detail, RegularFile) else Empty()
        return OpenedContent(self, self._version().contents, content)

    def readlink(self) -> bytes:
        """See `File`."""
        detail = own_entry(self.raw).detail if type_of(self.raw) == S_SYMLINK else None
        if not isinstance(detail, Symlink):
            raise Refused(errno.EINVAL)
        return detail.target

    def xattr_names(self) -> list[bytes]:
        """See `File`."""
        return [name for name, _ in self._xattrs()]

    def xattr(self, name: bytes) -> bytes:
        """See `File`."""
        for known, value in self._xattrs():
            if known == name:
                return value
        raise Refused(errno.ENODATA)

    def _xattrs(self) -> Xattrs:
        xattrs = own_entry(self.raw).xattrs
        if isinstance(xattrs, Listed):
            return xattrs.pairs
        return () if isinstance(xattrs, Empty) else self._version().contents.xattrs(xattrs)

    def statfs(self) -> Statfs:
        """See `File`."""
        return self._version().statfs

    def home(self) -> "RootDirectory":
        """The root of its version; see `placed.Placed`."""
        return self._version().home()

    def way(self) -> "Sequence[ArchivedDirectory]":
        """See `placed.Placed`."""
        return ()


class ArchivedDirectory(ArchivedFile):
    """A directory of a version."""

    __slots__ = ("version",)

    def __init__(
        self,
        parent: "ArchivedDirectory | File | None",
        raw: bytes,
        token: bytes,
        version: ServedVersion,
    ) -> None:
        """In a directory, with its raw entry."""
        self.above = parent
        self.raw = raw
        self.token = token
        self.known = None
        self.version = version

    def _version(self) -> ServedVersion:
        return self.version

    def content(self) -> Content:
        """The tree of its entries."""
        known = self.known or self._know(self.version)
        if known.content is None:
            detail = own_entry(self.raw).detail
            assert isinstance(detail, Directory)
            known.content = detail.content
        return known.content

    def walk(self, name: bytes) -> File:
        """See `File`."""
        recent = self.version.recent
        key = self, name
        file = recent.files.get(key)
        if file is not None:
            recent.files.move_to_end(key)
            return file
        if name == b"..":
            return self if self.above is None else self.above
        if name == b".":
            return self
        raw = self.version.trees.entry(self.content(), name)
        if raw is None:
            raise Refused(errno.ENOENT)
        file = self.child(name, raw)
        recent.keep(file, self, name)
        return file

    def child(self, name: bytes, raw: bytes) -> ArchivedFile:
        """The file of an entry of this directory."""
        heavy = len(raw) > RAW_BYTES
        if is_linked(raw):
            token = token_of(self.version.token, b"\0", claim_of(raw))
        else:
            token = token_of(self.token, b"/", name)
            if type_of(raw) == S_DIRECTORY:
                made = _HeavyDirectory if heavy else ArchivedDirectory
                return made(self, raw, token, self.version)
        return (_HeavyFile if heavy else ArchivedFile)(self, raw, token)

    def open(self, flags: int) -> "OpenedDirectory":
        """See `File`."""
        check_reading(flags)
        return OpenedDirectory(self)


class _HeavyFile(ArchivedFile):
    """A file with a long entry, which stays in memory with it: up to 5 KiB."""

    __slots__ = ()

    @property
    def weight(self) -> int:  # type: ignore[override]
        """See `File`."""
        return len(self.raw)


class _HeavyDirectory(ArchivedDirectory):
    """A directory with a long entry."""

    __slots__ = ()

    @property
    def weight(self) -> int:  # type: ignore[override]
        """See `File`."""
        return len(self.raw)


class RootDirectory(ArchivedDirectory):
    """A directory that is reached from outside its version: by an attach, or a list of versions.

    There are few of these, so that what is known of them is always kept.
    """

    __slots__ = ("_name", "_way", "weight")

    def __init__(
        self,
        parent: File | None,
        name: bytes,
        raw: bytes,
        token: bytes,
        version: ServedVersion,
        way: "Sequence[ArchivedDirectory]" = (),
    ) -> None:
        """Under `name` in `parent`; without a parent its `..` is itself, whatever the path was."""
        super().__init__(parent, raw, token, version)
        self._name = name
        self._way = way
        self.weight = ROOT_BYTES + sum([DIRECTORY_BYTES + each.weight for each in way])
        if len(raw) > RAW_BYTES:
            self.weight += len(raw)
        self.known = _Known(self.make_identity())

    @property
    def name(self) -> bytes:
        """See `File`."""
        return self._name

    def way(self) -> "Sequence[ArchivedDirectory]":
        """See `placed.Placed`."""
        return self._way


class OpenedDirectory(OpenedEntries):
    """An open directory."""

    __slots__ = ("_directory",)

    def __init__(self, directory: ArchivedDirectory) -> None:
        """Of `directory`."""
        super().__init__()
        self._directory = directory

    def attributes(self) -> Attributes:
        """See `Opened`."""
        return self._directory.attributes()

    def entries(self, cookie: int) -> Iterator[tuple[int, bytes, Identity, int]]:
        """See `Opened`; cookies are ordinals: 1 after `.`, 2 after `..`, 3 after the next."""
        directory = self._directory
        yield from dots(directory, cookie)
        cookie = max(cookie, 2)
        files, child = directory.version.recent.files, directory.child
        try:
            for name, raw in directory.version.trees.entries(directory.content(), cookie - 2):
                file = self._file = files.get((directory, name)) or child(name, raw)
                cookie += 1
                entry = self._entry = cookie, name, file.identity, type_of(raw)
                yield entry
        finally:
            self._file = None

    def listed(self, name: bytes) -> File:
        """See `Opened`."""
        file, entry = self._file, self._entry
        if file is None or entry[1] != name:
            return self._find(name)
        assert isinstance(file, ArchivedFile)
        if file.known is None:  # its attributes are asked for next
            self._directory.version.recent.keep(file, self._directory, name, entry[2])
        return file

    def _find(self, name: bytes) -> File:
        return self._directory.walk(name)
