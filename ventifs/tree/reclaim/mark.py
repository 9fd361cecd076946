"""Finds every block that versions and leases refer to, and keeps the scores outside of memory.

The walk goes level by level: all nodes of one distance from the roots are located together, read in
the order in which they lie in the arenas, and decoded at once. So each clump is read about once a
level, and memory is bounded however many blocks there are.

Always: a node is walked once for each of its roles, of a file's tree and of a directory's, also if
it is known as data. A block that is data in one place can be a node in another, and what is below
it lives then. A reference that cannot be followed ends the marking: what is below it is not known.

About 550,000 references a second and processor; see docs/performance.md.

Nodes are decoded by records with what marking needs. A score vouches for a node's bytes, so it is
not checked again that they are canonical: if they are not, readers refuse the node, and what is
marked below it in vain costs space, not data. But bytes that are no node of the role that their
referrer names are refused here as well.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import msgspec

from ventifs.errors import Corrupt, NotStored
from ventifs.store import SCORE_SIZE, ZERO_SCORE, Score, Store
from ventifs.store.clump import ARENA_ID_SIZE
from ventifs.store.spill import Spill
from ventifs.tree.objects.prolly import LEVEL_MAX, NODE_SIZE_MAX
from ventifs.tree.versions.reachable import Ref, RefKind

MEMORY_DEFAULT = 128 << 20

_END = 0xC1  # the last byte of a node, see `prolly`
_CONTENT, _DIRECTORY = b"\0", b"\1"  # roles, as the last byte of an item of a Spill
_ROLES = {RefKind.CONTENT: _CONTENT, RefKind.DIRECTORY: _DIRECTORY}
_NODE_ITEM = SCORE_SIZE + 1  # score, role
_CLUMP = ARENA_ID_SIZE + 4  # bytes that tell a clump: arena, offset
_AT = _CLUMP + 2  # bytes that tell a place: clump, position
_PLACED_ITEM = _AT + _NODE_ITEM  # in the order of reading
_WAITING_MAX = 1 << 14  # scores gathered before they are added
_REMEDY = (
    "'ventifs check' lists the versions that need it, and says how to mend them: forget those that "
    "cannot be mended; if it lists none, a running process reads or serves one that is gone"
)

_Named = Annotated[bytes, msgspec.Meta(min_length=SCORE_SIZE, max_length=SCORE_SIZE)]


class _Record(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    pass


class _EmptyRef(_Record, tag=0):
    pass


class _InlineRef(_Record, tag=1):
    data: bytes


class _BlockRef(_Record, tag=2):
    score: _Named
    length: int


class _TreeRef(_Record, tag=3):
    score: _Named
    length: int


class _ListedRef(_Record, tag=4):
    pairs: msgspec.Raw


_ContentRef = _EmptyRef | _InlineRef | _BlockRef | _TreeRef


class _HoleRef(_Record, tag=0):
    length: int


class _ChunkRef(_Record, tag=1):
    score: _Named
    length: int


class _SliceRef(_Record, tag=2):
    content: _ContentRef
    offset: int
    length: int


class _ChildRef(_Record):
    score: _Named
    count: int
    total: int
    key: bytes


class _FileRef(_Record, tag=0):
    content: _ContentRef


class _DirectoryRef(_Record, tag=1):
    content: _EmptyRef | _TreeRef
    paths: int
    bytes: int


class _SymlinkRef(_Record, tag=2):
    target: bytes


class _DeviceRef(_Record, tag=3):
    major: int
    minor: int


class _SpecialRef(_Record, tag=4):
    pass


class _EntryRef(_Record):
    name: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    detail: _FileRef | _DirectoryRef | _SymlinkRef | _DeviceRef | _SpecialRef
    xattrs: _ListedRef | _ContentRef
    link: bytes


class _InnerNode(_Record):
    level: int
    items: list[_ChildRef]


class _ContentLeaf(_Record):
    level: int
    items: list[_HoleRef | _ChunkRef | _SliceRef]


class _DirectoryLeaf(_Record):
    level: int
    items: list[_EntryRef]


_inner = msgspec.msgpack.Decoder(_InnerNode).decode
_content_leaf = msgspec.msgpack.Decoder(_ContentLeaf).decode
_directory_leaf = msgspec.msgpack.Decoder(_DirectoryLeaf).decode

Found = tuple[list[bytes], list[bytes]]  # scores of data; scores of nodes, each with its role


def found_in(data: bytes | memoryview, role: bytes) -> Found:
    """What a node refers to.

    Args:
        data: the node.
        role: of the node: the last byte of an item.

    Raises:
        Corrupt: the bytes are no node of that role.
    """
    if not 4 <= len(data) <= NODE_SIZE_MAX or data[-1] != _END:
        raise Corrupt("tree node is none, or too large")
    scores: list[bytes] = []
    nodes: list[bytes] = []
    items: Sequence[_Record]
    try:
        if data[1]:  # the level, behind the head of an array of two
            inner = _inner(data[:-1])
            items, sound = inner.items, 1 <= inner.level <= LEVEL_MAX
            nodes = [child.score + role for child in inner.items]
        elif role == _CONTENT:
            content = _content_leaf(data[:-1])
            items, sound = content.items, content.level == 0
            for item in content.items:
                if type(item) is _ChunkRef:
                    scores.append(item.score)
                elif type(item) is _SliceRef:
                    _of_content(item.content, scores, nodes)
        else:
            directory = _directory_leaf(data[:-1])
            items, sound = directory.items, directory.level == 0
            for entry in directory.items:
                _of_entry(entry, scores, nodes)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Corrupt(f"tree node cannot be read: {error}") from None
    if not sound or not items:
        raise Corrupt("tree node is of the wrong level, or empty")
    return scores, nodes


def _of_content(content: _ContentRef, scores: list[bytes], nodes: list[bytes]) -> None:
    kind = type(content)
    if kind is _BlockRef:
        scores.append(content.score)  # type: ignore[union-attr]
    elif kind is _TreeRef:
        nodes.append(content.score + _CONTENT)  # type: ignore[union-attr]


def _of_entry(entry: _EntryRef, scores: list[bytes], nodes: list[bytes]) -> None:
    detail = entry.detail
    if type(detail) is _FileRef:
        content = detail.content
        if type(content) is _BlockRef:  # most entries; not by a call, which costs more
            scores.append(content.score)
        else:
            _of_content(content, scores, nodes)
    elif type(detail) is _DirectoryRef and type(detail.content) is _TreeRef:
        nodes.append(detail.content.score + _DIRECTORY)
    xattrs = entry.xattrs
    if type(xattrs) is _BlockRef or type(xattrs) is _TreeRef:
        _of_content(xattrs, scores, nodes)


class Marks:
    """What was found to live, in one store. Not to be shared between threads.

    Attributes:
        live: the scores reached: of data, and of nodes. The zero score is never among them.
        walked: score and role of every node walked.
        references: how many references were followed so far.
    """

    def __init__(
        self,
        store: Store,
        *,
        first: int = 0,
        end: int = 256,
        memory: int = MEMORY_DEFAULT,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Start with nothing marked.

        Args:
            store: where the blocks are.
            first: `live` has only scores whose first byte is at least this. All nodes are walked
                nevertheless.
            end: and below this.
            memory: bytes to use, about, before temporary files are used; see `Spill`. In addition,
                about 200 bytes for each clump that has nodes.
            progress: called often, with `references`.
        """
        self.references = 0
        self._store = store
        self._first, self._end = first, end
        self._progress = progress
        self._part = memory // 8
        self.live = Spill(SCORE_SIZE, memory=memory // 2)
        self.walked = Spill(_NODE_ITEM, memory=self._part)
        # For each clump, by arena and offset: two bits for each position, one for each role. A node
        # that moves to another place meanwhile may be walked again, which changes nothing.
        self._bits: dict[bytes, int] = {}

    def close(self) -> None:
        """Give temporary files back."""
        self.live.close()
        self.walked.close()

    def mark(self, references: Iterable[Ref]) -> None:
        """Walk everything below some references that is not walked yet.

        Raises:
            Corrupt, NotStored: the node that cannot be read, and what to do. Nothing that is marked
                may be relied on any more.
            NoSpace, VentifsError: as `Spill.add`.
        """
        self._walk(references, None)

    def since(self, references: Iterable[Ref]) -> Spill:
        """As `mark`, when blocks may have been moved since; returns the scores reached.

        It finds in `walked` which nodes were walked before, as their places may be others by now.

        Returns:
            The scores that this call reached, some of which may have been reached before. The
            caller closes it.
        """
        fresh = Spill(SCORE_SIZE, memory=self._part)
        try:
            self._walk(references, fresh)
        except BaseException:
            fresh.close()
            raise
        return fresh

    def _walk(self, references: Iterable[Ref], fresh: Spill | None) -> None:
        """Walk below references, one level after the other; put scores into `fresh` as well."""
        frontier = self._first_level(references, fresh)
        while frontier.added:
            frontier = self._level(frontier, fresh)

    def _level(self, frontier: Spill, fresh: Spill | None) -> Spill:
        """Walk the nodes of one level; return those of the next."""
        with frontier, Spill(_PLACED_ITEM, memory=self._part) as placed:
            for nodes in frontier.pieces():
                placed.add(self._to_walk(nodes, by_place=fresh is None))
            frontier.close()
            following = Spill(_NODE_ITEM, memory=self._part)
            for items in placed.pieces():
                self._walk_nodes(items, following, fresh)
            return following

    def _first_level(self, references: Iterable[Ref], fresh: Spill | None) -> Spill:
        """The nodes that references lead to; data is reached at once."""
        frontier = Spill(_NODE_ITEM, memory=self._part)
        scores: list[bytes] = []
        for ref in references:
            self.references += 1
            if ref.kind is RefKind.DATA:
                scores.append(ref.score)
            else:
                frontier.add([ref.score + _ROLES[ref.kind]])
        self._reach(scores, fresh)
        return frontier

    def _to_walk(self, nodes: list[bytes], *, by_place: bool) -> list[bytes]:
        """Those of some nodes, in order, that were not walked; their places before them.

        Raises:
            NotStored: the index lacks one of them.
        """
        if not by_place:
            walked = self.walked.holds(nodes)
            nodes = [node for node, known in zip(nodes, walked, strict=True) if not known]
        places = self._store.locate_many([Score(node[:SCORE_SIZE]) for node in nodes])
        placed: list[bytes] = []
        for node, place in zip(nodes, places, strict=True):
            if place is None:
                raise NotStored(
                    f"block {node[:SCORE_SIZE].hex()} is needed and not in the store; {_REMEDY}"
                )
            clump = place.arena + place.offset.to_bytes(4, "big")
            bit = 2 * place.position + node[SCORE_SIZE]
            if not (by_place and self._bits.get(clump, 0) >> bit & 1):
                placed.append(clump + place.position.to_bytes(2, "big") + node)
        return placed

    def _walk_nodes(self, placed: list[bytes], frontier: Spill, fresh: Spill | None) -> None:
        """Read nodes in the order of their places; what they refer to is reached, or comes next.

        Raises:
            Corrupt, NotStored: one of them cannot be read.
        """
        scores: list[bytes] = []
        nodes: list[bytes] = []
        for item in placed:
            score, role = Score(item[_AT:-1]), item[-1:]
            try:
                data, below = found_in(self._store.get(score), role)
            except Corrupt as error:
                raise Corrupt(
                    f"{error.reason}; {_REMEDY}",
                    score=score,
                    arena=error.arena,
                    offset=error.offset,
                ) from error
            except NotStored as error:
                raise NotStored(f"{error}; {_REMEDY}") from error
            self.references += len(data) + len(below)
            scores += data
            scores.append(score)
            nodes += below
            clump, position = item[:_CLUMP], int.from_bytes(item[_CLUMP:_AT], "big")
            self._bits[clump] = self._bits.get(clump, 0) | 1 << 2 * position + item[-1]
            if len(scores) > _WAITING_MAX:
                self._reach(scores, fresh)
                frontier.add(nodes)
                scores, nodes = [], []
        self._reach(scores, fresh)
        frontier.add(nodes)
        self.walked.add(item[_AT:] for item in placed)

    def _reach(self, scores: list[bytes], fresh: Spill | None) -> None:
        """Put scores into `live`."""
        if ZERO_SCORE in scores:
            scores = [score for score in scores if score != ZERO_SCORE]
        if self._first > 0 or self._end < 256:
            scores = [score for score in scores if self._first <= score[0] < self._end]
        self.live.add(scores)
        if fresh is not None:
            fresh.add(scores)
        if self._progress is not None:
            self._progress(self.references)
