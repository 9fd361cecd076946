"""Archives a tar stream and makes the entry of a root, as if the tree itself had been archived.

Contents go to the store as they arrive, and entries to a `Gathered`. Directories are built from it
when the stream has ended well; a stream that is damaged or cut off makes no root. If several
members have the same path, the last one counts. A hard link becomes what its target is at that
moment, as when GNU tar unpacks.
"""

import stat
import tarfile
from typing import BinaryIO

import msgspec

from ventifs.store import Store
from ventifs.tree.archive.file_reader import Trouble
from ventifs.tree.archive.tally import ArchiveProgress, Tally
from ventifs.tree.objects.content import WHOLE_MAX as XATTRS_MAX
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import (
    LENGTH_MAX,
    NAME_MAX,
    Content,
    Detail,
    Device,
    Directory,
    Empty,
    Entry,
    Listed,
    RegularFile,
    Special,
    Symlink,
    clamped_ns,
    encode,
    entry_problem,
    time_problem,
)
from ventifs.tree.objects.tree_builder import AS_CLOSED, CLOSED, Key, path_of
from ventifs.tree.patterns import Patterns
from ventifs.tree.tar.decompress import Unpacked
from ventifs.tree.tar.members import Members, TarMember
from ventifs.tree.tar.pax_xattrs import PaxFacts, found_in
from ventifs.tree.tar.staging import Gathered, gather
from ventifs.tree.versions.troubles import Troubles, shortened

_WHOLE_MAX = 64 << 10  # content that is stored in one piece
_PATH_MAX = 16 << 10  # bytes, four times the kernel's limit, so that deep paths cost little
_REPORTED_MAX = 4096  # bytes of an invalid path in a report
_TYPES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.CONTTYPE: stat.S_IFREG,
    tarfile.GNUTYPE_SPARSE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    b"D": stat.S_IFDIR,  # GNU's, with a list of names, in incremental archives
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
_NOTHING = Patterns()
_LABEL = b"V"  # the volume's name: no file


class _Left(Exception):
    """A member cannot be archived; the text is the reason."""


class TarArchiver:
    """One archive run. Not to be used twice."""

    def __init__(
        self, store: Store, *, exclude: Patterns = _NOTHING, progress: ArchiveProgress | None = None
    ) -> None:
        """Prepare a run.

        Args:
            store: open in mode "write", or "rehearse" for a dry run.
            exclude: patterns of what is not archived.
            progress: called with the tally and the path after each member, unless it could not be
                archived.
        """
        self.tally = Tally()
        self.troubles = Troubles(store=store)
        self._exclude = exclude
        self._progress = progress
        self._writer = ContentWriter(store)
        self._parent = (b"", False)  # the last directory, and whether it is excluded

    def run(self, stream: BinaryIO) -> Entry:
        """Archive the rest of a tar stream, compressed or not; return the root's entry.

        Raises:
            BadTar: it is no tar archive, is damaged, or ends early.
            VentifsError: the store's own problems.
        """
        with gather() as gathered:
            members = Members(Unpacked(stream))
            for member in members:
                self._take(member, members, gathered)
            self.troubles.extend(gathered.prune())
            root = gathered.build(self._writer.put_node)
        assert isinstance(root.detail, Directory)
        self.tally.entries, self.tally.bytes = root.detail.paths + 1, root.detail.bytes
        self.tally.new_bytes = self._writer.new_bytes
        return root

    def _take(self, member: TarMember, members: Members, gathered: Gathered) -> None:
        """Archive one member, or record why it is left out."""
        path = member.path_bytes
        try:
            key = _key(path)
            path = path_of(key)
            entry = self._entry(member, members, key, gathered)
        except _Left as left:
            self.troubles.append(Trouble(shortened(path, _REPORTED_MAX), str(left), missing=True))
            return
        if entry is not None:
            self.tally.entries += 1
            self.tally.bytes += entry.size
        self.tally.new_bytes = self._writer.new_bytes
        if self._progress is not None:
            self._progress(self.tally, path)

    def _entry(
        self, member: TarMember, members: Members, key: Key, gathered: Gathered
    ) -> Entry | None:
        """Gather a member's entry, unless it is left out on purpose.

        Raises:
            _Left: it cannot be archived.
        """
        if member.type == _LABEL:
            return None
        linked = member.type == tarfile.LNKTYPE
        kind = _TYPES.get(member.type, 0)
        if not kind and not linked:
            raise _Left(f"a member of the unknown type {member.type!r}")
        if self._is_excluded(key, directory=kind == stat.S_IFDIR):
            return None
        if not key and kind != stat.S_IFDIR:
            raise _Left("the root can only be a directory")
        file = None
        if linked:
            found = gathered.find(_key(member.target_bytes))
            if found is None:
                raise _Left("a hard link to what is not in the archive, or left out")
            entry, file = msgspec.structs.replace(found[0], name=_name(key)), found[1]
        else:
            entry = self._made(member, members, kind, key)
        gathered.put(key, entry, file)
        return entry

    def _made(self, member: TarMember, members: Members, kind: int, key: Key) -> Entry:
        """Store the content of a member that is not a hard link; return its entry.

        Raises:
            _Left: something about it is invalid.
        """
        try:
            (uid, gid), size, time_ns = member.owner, member.real_size, member.mtime_ns
        except ValueError as error:
            return self._closed(kind, key, str(error))
        if problem := time_problem(time_ns):
            self._trouble(key, problem)
            time_ns = clamped_ns(time_ns)
        detail: Detail = Special()
        match kind:
            case stat.S_IFREG:
                detail = RegularFile(Empty())
            case stat.S_IFDIR:
                detail = Directory(Empty(), 0, 0)
            case stat.S_IFLNK:
                detail = Symlink(member.target_bytes)
            case stat.S_IFCHR | stat.S_IFBLK:
                detail = Device(member.devmajor, member.devminor)
        found, mode = found_in(member.pax_headers), kind | member.mode & 0o7777
        if found.permissions is not None:
            mode = mode & ~0o777 | found.permissions
        xattrs = self._xattrs(found, key)
        entry = Entry(_name(key), mode, uid, gid, time_ns, detail, xattrs, b"")
        problem = entry_problem(entry, root=not key)
        if problem or not 0 <= size <= LENGTH_MAX:
            return self._closed(kind, key, problem or "a size that cannot be")
        if kind == stat.S_IFREG:
            entry = msgspec.structs.replace(
                entry, detail=RegularFile(self._content(member, members))
            )
        return entry

    def _closed(self, kind: int, key: Key, problem: str) -> Entry:
        """A private directory in place of one whose attributes cannot be kept; its contents stay.

        Raises:
            _Left: the member is no directory.
        """
        if kind != stat.S_IFDIR:
            raise _Left(problem)
        self._trouble(key, f"{problem}; {AS_CLOSED}")
        return msgspec.structs.replace(CLOSED, name=_name(key))

    def _trouble(self, key: Key, reason: str) -> None:
        """Record that part of a member is not archived as it should be."""
        self.troubles.append(Trouble(path_of(key), reason, missing=False))

    def _content(self, member: TarMember, members: Members) -> Content:
        pieces = members.pieces(member)
        if member.real_size > _WHOLE_MAX:
            return self._writer.write(pieces)
        return self._writer.write_whole(b"".join(bytes(piece) for piece in pieces))

    def _xattrs(self, found: PaxFacts, key: Key) -> Listed | Content:
        encoded = encode(found.xattrs)
        if len(encoded) > XATTRS_MAX:
            found = PaxFacts(problems=[*found.problems, "attributes left out: they are too long"])
        for problem in found.problems:
            self._trouble(key, problem)
        return self._writer.write_xattrs(found.xattrs)

    def _is_excluded(self, key: Key, *, directory: bool) -> bool:
        """Whether a pattern matches a path, or a directory above it."""
        if not key or not self._exclude:
            return False
        path = path_of(key)
        parent = path.rpartition(b"/")[0]
        if parent != self._parent[0]:
            above = [parent[:at] for at, byte in enumerate(parent) if byte == ord("/")]
            excluded = any(self._exclude.match(each, directory=True) for each in [*above, parent])
            self._parent = (parent, bool(parent) and excluded)
        return self._parent[1] or self._exclude.match(path, directory=directory)


def _name(key: Key) -> bytes:
    return key.rpartition(b"\0")[2]


def _key(path: bytes) -> Key:
    """A member's name as the key of its path; empty for the root.

    Raises:
        _Left: the path is invalid.
    """
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise _Left("a name with '..' in it")
    if len(path) > _PATH_MAX:
        raise _Left(f"a path of {len(path):,} bytes; up to {_PATH_MAX:,} are taken")
    if b"\0" in path or any(len(name) > NAME_MAX for name in names):
        raise _Left("a name that cannot be")
    return b"\0".join(names)
