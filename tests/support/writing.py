"""Writers without a store around them, and the clumps that they have written."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.support.arenafiles import DECOMPRESSOR, STORE_ID, incompressible, new_arenas
from ventifs.store import Score, score_of
from ventifs.store.arena import HEADER_SIZE, Arena
from ventifs.store.arenas import Arenas
from ventifs.store.clump import ClumpKind
from ventifs.store.files import Files
from ventifs.store.index import Index
from ventifs.store.journal import Changes, Commit, Record, decode_commit
from ventifs.store.writer import Writer

MIB = 1 << 20
Clumps = list[tuple[ClumpKind, list[int]]]


class Site:
    """Arenas and an index for writers, without a store around them."""

    def __init__(self, root: Path) -> None:
        self.arenas: Arenas = new_arenas(root)
        self.index = Index(root / "index", STORE_ID, create=True, sync=False)
        self.writers: list[Writer] = []

    def close(self) -> None:
        """Close the writers and the index."""
        for writer in self.writers:
            writer.close()
        self.index.close()

    def writer(self, *, arena_size: int = 16 * MIB, files: Files | None = None) -> Writer:
        made = Writer(self.arenas, self.index, files or Files(), arena_size=arena_size, level=1)
        self.writers.append(made)
        return made

    def every_arena(self) -> list[Arena]:
        return [self.arenas.reader(arena_id) for arena_id in self.arenas.all_ids()]

    def clumps(self) -> Clumps:
        """Kind and block lengths of every clump in every arena, in order."""
        return [
            (head.kind, [length for _, length in head.blocks])
            for arena in self.every_arena()
            for _, head in arena.heads(HEADER_SIZE, arena.clumps_end())
        ]

    def commits(self) -> list[tuple[Arena, int, Commit]]:
        """Arena, offset and content of every commit clump."""
        return [
            (arena, offset, decode_commit(arena.read_raw(offset, DECOMPRESSOR)))
            for arena in self.every_arena()
            for offset, head in arena.heads(HEADER_SIZE, arena.clumps_end())
            if head.kind is ClumpKind.COMMIT
        ]


def add(writer: Writer, *blocks: bytes, kind: ClumpKind = ClumpKind.DATA) -> list[Score]:
    """Hand blocks to a writer; their scores."""
    scores = [score_of(block) for block in blocks]
    for score, block in zip(scores, blocks, strict=True):
        writer.add(score, block, kind)
    return scores


def commit(
    writer: Writer, puts: Iterable[tuple[bytes, bytes]] = (), deletes: Sequence[bytes] = ()
) -> list[Record]:
    """Commit what was added, with records put and deleted; return those put."""
    records = [Record.new(*put) for put in puts]
    writer.commit(Changes(records, deletes))
    return records


def sized(*sizes: int) -> list[bytes]:
    """Different incompressible blocks of these sizes."""
    return [incompressible(size, seed=number) for number, size in enumerate(sizes)]
