"""Whether everything that versions refer to is there and sound, and what is harmed if not.

Directory nodes and content nodes are read and checked; file data is only looked up, for `check
--read-data` has read it. What several versions share is looked at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ventifs.errors import Corrupt, NotStored
from ventifs.store import Score, Store
from ventifs.tree.catalog import Version
from ventifs.tree.content import read_whole
from ventifs.tree.directory import entries
from ventifs.tree.prolly import walk
from ventifs.tree.records import (
    Block,
    Chunk,
    Content,
    Directory,
    Entry,
    File,
    Listed,
    Slice,
    Tree,
    decode_item,
    decode_xattrs,
)

_BATCH = 4096


@dataclass(slots=True, frozen=True)
class Harm:
    """A path of a version that cannot be brought back as it was."""

    version: str
    path: bytes
    reason: str


class Verifier:
    """Looks over versions of one store.

    Attributes:
        paths: how many paths were looked at; those in directories seen before are left out.
    """

    def __init__(self, store: Store) -> None:
        """Nothing is seen yet."""
        self.paths = 0
        self._store = store
        self._sound: set[bytes] = set()  # scores of trees found whole, with all below them
        self._waiting: list[tuple[Score, str, bytes]] = []

    def version(self, version: Version) -> Iterator[Harm]:
        """What is wrong with one version."""
        pending = [(b"", version.root)]
        seen: list[bytes] = []
        harmed = False
        while pending:
            path, entry = pending.pop()
            self.paths += 1
            try:
                self._attributes(entry)
                if isinstance(entry.detail, File):
                    self._content(entry.detail.content, str(version), path)
                elif isinstance(entry.detail, Directory):
                    pending += self._children(path, entry.detail.content, str(version), seen)
            except (Corrupt, NotStored) as error:
                harmed = True
                yield Harm(str(version), path, str(error))
            if len(self._waiting) >= _BATCH:
                for harm in self._looked_up():
                    harmed = True
                    yield harm
        for harm in self._looked_up():
            harmed = True
            yield harm
        if not harmed:
            self._sound.update(seen)

    def _children(
        self, path: bytes, content: Content, version: str, seen: list[bytes]
    ) -> list[tuple[bytes, Entry]]:
        if not isinstance(content, Tree) or content.score in self._sound:
            return []
        seen.append(content.score)
        self._waiting.append((Score(content.score), version, path))  # a cache may still have it
        prefix = path + b"/" if path else b""
        return [(prefix + child.name, child) for child in entries(self._store, content)]

    def _attributes(self, entry: Entry) -> None:
        if not isinstance(entry.xattrs, Listed) and (data := read_whole(self._store, entry.xattrs)):
            decode_xattrs(data)

    def _content(self, content: Content, version: str, path: bytes) -> None:
        match content:
            case Block(score, _):
                self._waiting.append((Score(score), version, path))
            case Tree(score, _):
                self._waiting.append((Score(score), version, path))
                for _, data in walk(self._store.get, Score(score)):
                    item = decode_item(data)
                    if isinstance(item, Chunk):
                        self._waiting.append((Score(item.score), version, path))
                    elif isinstance(item, Slice):
                        self._content(item.content, version, path)

    def _looked_up(self) -> Iterator[Harm]:
        """Whether the blocks of files that wait are in the store."""
        waiting, self._waiting = self._waiting, []
        there = self._store.has_many([score for score, _, _ in waiting])
        for (score, version, path), known in zip(waiting, there, strict=True):
            if not known:
                yield Harm(version, path, f"block {score.hex()} is not in the store")
