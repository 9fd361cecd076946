"""Small types that the store's modules exchange: where a block is, how far an arena goes."""

from collections.abc import Callable

import msgspec

from ventifs.store.clump import ClumpKind, Head

ArenaProgress = Callable[[int, int], None]  # bytes of arenas done, bytes in all


class Place(msgspec.Struct, frozen=True):
    """Where a block is: arena id, offset of its clump, and position in the clump."""

    arena: bytes
    offset: int
    position: int


class ArenaTotals(msgspec.Struct):
    """What an arena's indexed clumps hold.

    Attributes:
        clumps: number of clumps of every kind.
        data_blocks, node_blocks: blocks in them.
        data_bytes, node_bytes: raw bytes, before compression.
        stored_bytes: size of all clumps in the arena, those of the journal included.
        gap_bytes: of these, bytes that a crash left unreadable.
    """

    clumps: int = 0
    data_blocks: int = 0
    data_bytes: int = 0
    node_blocks: int = 0
    node_bytes: int = 0
    stored_bytes: int = 0
    gap_bytes: int = 0

    def add(self, other: "ArenaTotals") -> None:
        """Add the figures of `other` to these."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def count(self, head: Head) -> None:
        """Add one clump."""
        self.clumps += 1
        self.stored_bytes += head.size
        match head.kind:
            case ClumpKind.DATA:
                self.data_blocks += len(head.blocks)
                self.data_bytes += head.raw_length
            case ClumpKind.NODE:
                self.node_blocks += len(head.blocks)
                self.node_bytes += head.raw_length
            case ClumpKind.GAP:
                self.gap_bytes += head.size


class ArenaState(msgspec.Struct):
    """How far one arena is indexed.

    Attributes:
        length: every clump below this offset is in the index.
        sealed: whether only directory and trailer follow `length`.
        totals: of the clumps between `start` and `length`.
        start: 0 in the index's own states.
    """

    arena: bytes
    length: int
    sealed: bool
    totals: ArenaTotals
    start: int = 0
