"""Checks that everything versions refer to is stored and canonical, and finds what is harmed.

Directory nodes and content nodes are read, and every tree is rebuilt from its items in memory. The
same items always make the same nodes, so a different score means that a node is cut elsewhere, or
that a count, total or key is wrong, even if readers do not notice. Rebuilding takes the smaller
part of the time; see docs/performance.md. File data is only looked up, because
`check --read-data` reads it. A directory that several versions share is checked once, if the first
of these versions is sound.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from ventifs.errors import Corrupt, NotStored
from ventifs.store import Score, Store, score_of
from ventifs.tree.objects.content import SLICE_DEPTH_MAX, read_whole
from ventifs.tree.objects.directory import entries
from ventifs.tree.objects.prolly import Builder, walk
from ventifs.tree.objects.records import (
    INLINE_MAX,
    Block,
    Chunk,
    Content,
    Directory,
    Empty,
    Entry,
    Item,
    Listed,
    RegularFile,
    Slice,
    Tree,
    bounded_total,
    decode_item,
    decode_xattrs,
    encode,
    length_of,
)
from ventifs.tree.versions.catalog import Version
from ventifs.tree.versions.leasing import ForgottenMeanwhile, leased
from ventifs.tree.versions.troubles import troubles_of

_BATCH = 4096

VersionPath = tuple[str, bytes]  # version, path
DirectoryTotals = tuple[int, int]  # of a directory: paths below, bytes of regular files below


@dataclass(slots=True, frozen=True)
class Harm:
    """A path of a version that is damaged, and the reason."""

    version: str
    path: bytes
    reason: str


class Verifier:
    """Checks versions of one store.

    Attributes:
        paths: how many paths were checked; those in directories known to be sound are left out.
    """

    def __init__(self, store: Store) -> None:
        """Start with nothing checked."""
        self.paths = 0
        self._store = store
        # Directories found sound, with all below them.
        self._sound: dict[bytes, DirectoryTotals] = {}
        self._waiting: list[tuple[Score, VersionPath]] = []
        self._found: list[Harm] = []

    def version(self, version: Version) -> Iterator[Harm]:
        """What is wrong with one version; nothing if it was forgotten meanwhile."""
        with suppress(ForgottenMeanwhile), leased(self._store, version):
            yield from self._version(version)

    def _version(self, version: Version) -> Iterator[Harm]:
        pending = [(b"", version.root)]
        seen: dict[bytes, DirectoryTotals] = {}
        harmed = False
        while pending:
            path, entry = pending.pop()
            self._entry((str(version), path), entry, pending, seen)
            if not pending:
                self._look_up()
            harmed = harmed or bool(self._found)
            yield from self._found
            self._found = []
        yield from self._troubles(version)
        if not harmed:
            self._sound.update(seen)

    def _troubles(self, version: Version) -> Iterator[Harm]:
        """What is wrong with the list of troubles that its record names."""
        if isinstance(version.beyond, Empty):
            return
        place = (str(version), b"")
        try:
            self._content(place, version.beyond)
            deque(troubles_of(self._store, version), 0)
        except (Corrupt, NotStored) as error:
            self._found.append(Harm(*place, f"its list of troubles: {error}"))
        self._look_up()
        yield from self._found
        self._found = []

    def _entry(
        self,
        place: VersionPath,
        entry: Entry,
        pending: list[tuple[bytes, Entry]],
        seen: dict[bytes, DirectoryTotals],
    ) -> None:
        self.paths += 1
        try:
            self._attributes(place, entry)
        except (Corrupt, NotStored) as error:
            self._found.append(Harm(*place, str(error)))
        try:
            if isinstance(entry.detail, RegularFile):
                self._content(place, entry.detail.content)
            elif isinstance(entry.detail, Directory):
                self._directory(place, entry.detail, pending, seen)
        except (Corrupt, NotStored) as error:
            self._found.append(Harm(*place, str(error)))

    def _directory(
        self,
        place: VersionPath,
        detail: Directory,
        pending: list[tuple[bytes, Entry]],
        seen: dict[bytes, DirectoryTotals],
    ) -> None:
        content = detail.content
        if not isinstance(content, Tree):
            totals = (0, 0)
        elif content.score in self._sound:
            totals = self._sound[content.score]
        else:
            totals = seen[content.score] = self._children(place, content, pending, seen)
        if totals != (detail.paths, detail.bytes):
            raise Corrupt(
                f"directory of {totals[0]:,} paths and {totals[1]:,} bytes, "
                f"where {detail.paths:,} and {detail.bytes:,} are said"
            )

    def _children(
        self,
        place: VersionPath,
        content: Tree,
        pending: list[tuple[bytes, Entry]],
        seen: dict[bytes, DirectoryTotals],
    ) -> DirectoryTotals:
        """Check a directory's entries, subdirectories later; return the totals it should have."""
        self._wait(Score(content.score), place)  # `entries` may read it from a cache
        again = Builder(score_of)
        prefix = place[1] + b"/" if place[1] else b""
        paths = total = 0
        for child in entries(self._store, content):
            again.add(encode(child), key=child.name)
            below, paths = prefix + child.name, paths + 1
            if isinstance(child.detail, Directory):
                paths, total = paths + child.detail.paths, total + child.detail.bytes
                pending.append((below, child))
            else:
                total += child.size
                self._entry((place[0], below), child, pending, seen)
        self._compare(place, content, again.finish())
        return paths, bounded_total(total)

    def _attributes(self, place: VersionPath, entry: Entry) -> None:
        if isinstance(entry.xattrs, Listed):
            return
        if data := read_whole(self._store, entry.xattrs):
            decode_xattrs(data)
        self._content(place, entry.xattrs)

    def _content(self, place: VersionPath, top: Content) -> None:
        """Check a file's content, and the contents that its slices refer to, each once."""
        pending, seen = [(top, 0)], {top}
        while pending:
            content, depth = pending.pop()
            if isinstance(content, Block | Tree) and length_of(content) <= INLINE_MAX:
                raise Corrupt(f"content of {length_of(content)} bytes that should be inline")
            if isinstance(content, Block):
                self._wait(Score(content.score), place)
            elif isinstance(content, Tree):
                for item in self._items(place, content):
                    if isinstance(item, Chunk):
                        self._wait(Score(item.score), place)
                    elif isinstance(item, Slice) and item.content not in seen:
                        if depth == SLICE_DEPTH_MAX:
                            raise Corrupt("slices of slices, too deep")
                        seen.add(item.content)
                        pending.append((item.content, depth + 1))

    def _items(self, place: VersionPath, content: Tree) -> Iterator[Item]:
        self._wait(Score(content.score), place)
        again = Builder(score_of)
        for _, data in walk(self._store.get, Score(content.score)):
            item = decode_item(data)
            again.add(data, length=item.length)
            yield item
        self._compare(place, content, again.finish())
        if again.total != content.length:
            raise Corrupt(f"content of {again.total:,} bytes, where {content.length:,} are said")
        if again.count == 1 and isinstance(item, Chunk):
            raise Corrupt("a tree of one chunk, which should be a block", score=content.score)

    def _compare(self, place: VersionPath, content: Tree, made: Score) -> None:
        if made != content.score:
            reason = f"block {content.score.hex()}, the same items make another tree than this"
            self._found.append(Harm(*place, reason))

    def _wait(self, score: Score, place: VersionPath) -> None:
        self._waiting.append((score, place))
        if len(self._waiting) >= _BATCH:
            self._look_up()

    def _look_up(self) -> None:
        """Check that the waiting blocks are in the store."""
        waiting, self._waiting = self._waiting, []
        there = self._store.has_many([score for score, _ in waiting])
        self._found += [
            Harm(*place, f"block {score.hex()} is not in the store")
            for (score, place), known in zip(waiting, there, strict=True)
            if not known
        ]
