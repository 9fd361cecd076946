"""A file layer that records its operations, and the disks that a power cut could have left.

The model is that of ALICE (Pillai et al., OSDI 2014). Data that was synced before the cut is on the
disk. Of the writes since the last sync of a file, each is there, missing, or there in part, in any
combination. The same holds for names since the last sync of their directory. Two assumptions: a
rename is atomic, also between directories; and LMDB keeps its own promises, so that its file is
copied whole whenever it has changed.
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import current_thread, main_thread

from blake3 import blake3

from ventifs.buffer import Buffer
from ventifs.store.files import Files

_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Create:
    """A new name for a new, empty file."""

    path: Path
    file: int


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes written at an offset: an append or an overwrite."""

    file: int
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file cut to a length."""

    file: int
    length: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A file's contents made durable."""

    file: int


@dataclass(frozen=True, slots=True)
class SyncDirectory:
    """A directory's names made durable."""

    path: Path


@dataclass(frozen=True, slots=True)
class Rename:
    """A name moved."""

    source: Path
    target: Path


@dataclass(frozen=True, slots=True)
class Unlink:
    """A name removed."""

    path: Path


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """A new directory."""

    path: Path


@dataclass(frozen=True, slots=True)
class IndexWritten:
    """LMDB has committed; holds its whole file."""

    data: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The store has acknowledged a state to its caller."""

    state: object


ContentOperation = Write | Truncate
NameOperation = Create | Rename | Unlink | MakeDirectory
Event = ContentOperation | NameOperation | Sync | SyncDirectory | IndexWritten | Acknowledged


class RecordingFiles(Files):
    """Runs all operations for real, below one directory, and logs them.

    Attributes:
        log: the events, in order; of LMDB it holds only copies of its file.
        base: the disk at the start, all of it durable.
    """

    def __init__(self, root: Path) -> None:
        """Record what happens below `root`."""
        self.root = root
        self.log: list[Event] = []
        self.base = Disk()
        self._numbers: dict[tuple[int, int], int] = {}  # of the files that have had names
        self._index: bytes | None = None
        self._take_base()

    def _take_base(self) -> None:
        for path in sorted(self.root.rglob("*")) if self.root.exists() else ():
            if self._ours(path) and path.is_dir():
                self.base.directories.append(self._relative(path))
            elif self._ours(path) and path.name != "lock":
                number = self._number(os.stat(path))
                self.base.names[self._relative(path)] = number
                self.base.contents[number] = path.read_bytes()
        self.note_index()
        self.base.index = self._index

    def _relative(self, path: Path) -> Path:
        return path.relative_to(self.root)

    def _ours(self, path: Path) -> bool:
        top = self._relative(path).parts[:1]
        return not (top and top[0].split(".")[0] == "index")

    def _number(self, status: os.stat_result, *, new: bool = False) -> int:
        key = status.st_dev, status.st_ino
        if new or key not in self._numbers:
            self._numbers[key] = len(self.base.contents) + len(self.log)
        return self._numbers[key]

    def _of(self, fd: int) -> int:
        return self._number(os.fstat(fd))

    def note_index(self) -> None:
        """Log a commit of LMDB since the last call, if there was one.

        Does so only in the main thread, which alone commits, so that LMDB's file is whole.
        """
        if current_thread() is not main_thread():
            return
        try:
            data: bytes | None = (self.root / "index" / "data.mdb").read_bytes()
        except FileNotFoundError:
            data = None
        if data != self._index:
            self._index = data
            self._log(IndexWritten(data))

    def acknowledged(self, state: object) -> None:
        """Log that the store has acknowledged this state to its caller."""
        self.note_index()
        self._log(Acknowledged(state))

    def _log(self, event: Event) -> None:
        if not isinstance(event, IndexWritten):
            self.note_index()
        self.log.append(event)

    def create(self, path: Path) -> int:
        fd = super().create(path)
        self._log(Create(self._relative(path), self._number(os.fstat(fd), new=True)))
        return fd

    def append(self, fd: int, parts: Sequence[Buffer], offset: int) -> int:
        self._log(Write(self._of(fd), offset, b"".join(parts)))
        return super().append(fd, parts, offset)

    def overwrite(self, fd: int, data: Buffer, offset: int) -> None:
        self._log(Write(self._of(fd), offset, bytes(data)))
        super().overwrite(fd, data, offset)

    def truncate(self, fd: int, length: int) -> None:
        self._log(Truncate(self._of(fd), length))
        super().truncate(fd, length)

    def sync(self, fd: int) -> None:
        self._log(Sync(self._of(fd)))
        super().sync(fd)

    def sync_directory(self, path: Path) -> None:
        if path != self.root.parent and self._ours(path):
            self._log(SyncDirectory(self._relative(path)))
        super().sync_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        if self._ours(source):
            self._log(Rename(self._relative(source), self._relative(target)))
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._log(Unlink(self._relative(path)))
        super().unlink(path)

    def make_directory(self, path: Path) -> None:
        self._log(MakeDirectory(self._relative(path)))
        super().make_directory(path)


@dataclass
class Disk:
    """The content of a disk after a power cut, below the store's directory."""

    directories: list[Path] = field(default_factory=list)
    names: dict[Path, int] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    index: bytes | None = None

    def copy(self) -> "Disk":
        """A copy of the disk."""
        return Disk(list(self.directories), dict(self.names), dict(self.contents), self.index)

    def digest(self) -> bytes:
        """A digest that is equal for disks with the same files."""
        hasher = blake3(self.index or b"")
        for path, file in sorted(self.names.items()):
            hasher.update(f"{path} {len(self.contents[file])} {self.index is None}".encode())
            hasher.update(self.contents[file])
        return hasher.digest()

    def apply(self, event: Event) -> None:
        """Apply a name operation; it has no effect if its file is missing."""
        match event:
            case Create(path, file):
                self.names[path] = file
                self.contents.setdefault(file, b"")
            case Rename(source, target) if source in self.names:
                self.names[target] = self.names.pop(source)
            case Unlink(path):
                self.names.pop(path, None)
            case MakeDirectory(path):
                if path not in self.directories:
                    self.directories.append(path)

    def write_to(self, root: Path) -> None:
        """Write the disk's files below `root`."""
        root.mkdir()
        for directory in sorted(self.directories):
            (root / directory).mkdir(parents=True)
        for path, file in self.names.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(self.contents[file])
        if self.index is not None:
            (root / "index").mkdir()
            (root / "index" / "data.mdb").write_bytes(self.index)


def index_states(log: Sequence[Event], base: Disk, cut: int) -> list[bytes | None]:
    """All states of LMDB's file until the cut, in order."""
    written = [event.data for event in log[:cut] if isinstance(event, IndexWritten)]
    return [base.index, *written]


Chooser = Callable[[bytes, ContentOperation], bytes]
NameChooser = Callable[[NameOperation], bool]


def disk_after(
    log: Sequence[Event], base: Disk, cut: int, *, content: Chooser, name: NameChooser
) -> Disk:
    """A disk that a cut before event `cut` could leave.

    Args:
        log: the recorded events.
        base: the disk before them.
        cut: the number of events before the cut.
        content: returns a file's content after an unsynced operation, given that before it.
        name: whether an unsynced name operation reached the disk.
    """
    disk = base.copy()
    synced_contents = _last_syncs(log[:cut])
    for at, event in enumerate(log[:cut]):
        match event:
            case Create(path, file):
                disk.contents[file] = b""
                if _names_synced(log[at:cut], path) or name(event):
                    disk.apply(event)
            case Write() | Truncate():
                before = disk.contents[event.file]
                durable = at < synced_contents.get(event.file, 0)
                chosen = all_of_it if durable else content
                disk.contents[event.file] = chosen(before, event)
            case Rename(source, target):
                synced = _names_synced(log[at:cut], source) or _names_synced(log[at:cut], target)
                if synced or name(event):
                    disk.apply(event)
            case Unlink(path) | MakeDirectory(path):
                if _names_synced(log[at:cut], path) or name(event):
                    disk.apply(event)
    disk.index = index_states(log, base, cut)[-1]
    return disk


def _last_syncs(log: Sequence[Event]) -> dict[int, int]:
    return {event.file: at for at, event in enumerate(log) if isinstance(event, Sync)}


def _names_synced(later: Sequence[Event], path: Path) -> bool:
    return SyncDirectory(path.parent) in later


def all_of_it(before: bytes, operation: ContentOperation) -> bytes:
    """The whole operation reached the disk."""
    if isinstance(operation, Truncate):
        return before[: operation.length].ljust(operation.length, b"\0")
    start, end = operation.offset, operation.offset + len(operation.data)
    return before[:start].ljust(start, b"\0") + operation.data + before[end:]


def none_of_it(before: bytes, operation: ContentOperation) -> bytes:
    """Nothing of the operation reached the disk."""
    return before


def length_only(before: bytes, operation: ContentOperation) -> bytes:
    """The file's new length reached the disk, but not its data: zeros are in its place."""
    if isinstance(operation, Truncate):
        return all_of_it(before, operation)
    return before.ljust(operation.offset + len(operation.data), b"\0")


def any_of_it(rng: random.Random) -> Chooser:
    """All, nothing, zeros, only the beginning, or only some pages, at random."""

    def prefix(before: bytes, operation: ContentOperation) -> bytes:
        if isinstance(operation, Truncate):
            return before
        part = operation.data[: rng.randint(0, len(operation.data))]
        return all_of_it(before, Write(operation.file, operation.offset, part))

    def pages(before: bytes, operation: ContentOperation) -> bytes:
        after = bytearray(all_of_it(before, operation))
        for start in range(0, len(after), _PAGE):
            if rng.random() < 0.3:
                page = before[start : start + _PAGE]
                after[start : start + _PAGE] = page.ljust(len(after[start : start + _PAGE]), b"\0")
        return bytes(after)

    def chosen(before: bytes, operation: ContentOperation) -> bytes:
        how = rng.choice((all_of_it, all_of_it, none_of_it, length_only, prefix, pages))
        return how(before, operation)

    return chosen


def possible_disks(
    log: Sequence[Event], base: Disk, cut: int, rng: random.Random, *, chances: int
) -> Iterator[Disk]:
    """The simplest disks that a cut could leave, then random ones."""
    yes, no = (lambda _: True), (lambda _: False)
    yield disk_after(log, base, cut, content=all_of_it, name=yes)
    yield disk_after(log, base, cut, content=none_of_it, name=no)
    yield disk_after(log, base, cut, content=none_of_it, name=yes)
    yield disk_after(log, base, cut, content=length_only, name=yes)
    for _ in range(chances):
        yield disk_after(log, base, cut, content=any_of_it(rng), name=lambda _: rng.random() < 0.5)
