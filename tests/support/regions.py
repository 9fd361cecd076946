"""A small store with every kind of structure, and a map of the purpose of each byte."""

import random
from dataclasses import dataclass
from pathlib import Path

from tests.support.damage import overwrite
from tests.support.tiny import made_up_blocks, tiny_store
from ventifs.store import Score, Store
from ventifs.store.arena import HEADER_SIZE, TRAILER_SIZE, Arena, Clump
from ventifs.store.clump import HEAD_SIZE, ClumpCodec, ClumpKind, Head

LARGE = 140_000  # a block that is alone in its clump, and does not compress
_ARENA = 900_000  # room for five of them and small blocks, not for six


@dataclass(frozen=True)
class Region:
    """A range of bytes of an arena that serve one purpose.

    Attributes:
        name: "header", "head of DATA", "list of DATA", "payload of DATA RAW", "directory", ...
        head: that of the clump they belong to, if any; `offset` is then the clump's.
    """

    path: Path
    name: str
    start: int
    end: int
    offset: int = 0
    head: Head | None = None

    def bits(self, rng: random.Random, count: int) -> list[tuple[int, int]]:
        """(byte, mask) for a bit of every byte; of `count` random bytes, if there are more."""
        everything = range(self.start, self.end)
        chosen = everything if len(everything) <= count else rng.sample(everything, count)
        return [(at, 1 << rng.randrange(8)) for at in chosen]


@dataclass(frozen=True)
class Whole:
    """An undamaged store and what it holds."""

    root: Path
    blocks: dict[Score, bytes]
    regions: list[Region]

    def named(self, start: str) -> list[Region]:
        """The regions whose names begin with `start`."""
        return [region for region in self.regions if region.name.startswith(start)]


def whole_store(root: Path) -> Whole:
    """Make a sealed and an open arena, both with clumps of every kind and codec and a gap."""
    tiny_store(root, arena_size=_ARENA)
    blocks: dict[Score, bytes] = {}
    for seed in (1, 2):
        blocks.update(_half_filled(root, seed))
    [sealed] = (root / "arenas" / "sealed").iterdir()
    [opened] = (root / "arenas" / "open").glob("*.arena")
    for torn in opened.parent.glob("*.torn"):
        torn.unlink()
    regions = [region for path in (sealed, opened) for region in _regions(path)]
    return Whole(root, blocks, regions)


def _half_filled(root: Path, seed: int) -> dict[Score, bytes]:
    """Fill an arena until the next writer seals it."""
    rng = random.Random(seed)
    *blocks, lost, kept, filler = (rng.randbytes(LARGE - 1) + b"." for _ in range(5))
    small = made_up_blocks(20, seed=seed, size_max=4000)
    with Store.open(root, "write") as store:
        stored = {store.put(block)[0]: block for block in blocks}
        stored |= {store.put(block, node=at % 3 == 0)[0]: block for at, block in enumerate(small)}
        store.commit([(b"record %d" % seed, b"value " * 20)])
        [path] = (root / "arenas" / "open").glob("*.arena")
        offset = path.stat().st_size
        store.put(lost)
        stored[store.put(kept)[0]] = kept
        store.abandon()
    overwrite(path, offset, rng.randbytes(200))  # a crash leaves a hole before a whole clump
    with Store.open(root, "write") as store:
        store.commit([(b"another %d" % seed, b"")])
        stored[store.put(filler)[0]] = filler
    return stored


def _regions(path: Path) -> list[Region]:
    arena = Arena.open(path)
    trailer = arena.trailer()
    regions = [Region(path, "header", 0, HEADER_SIZE)]
    for clump in arena.scan(HEADER_SIZE, arena.clumps_end()):
        assert isinstance(clump, Clump)
        regions += _clump_regions(path, clump)
    if trailer is not None:
        end = arena.length() - TRAILER_SIZE
        regions.append(Region(path, "directory", trailer.directory_offset, end))
        regions.append(Region(path, "trailer", end, arena.length()))
    return regions


def _clump_regions(path: Path, clump: Clump) -> list[Region]:
    start, head = clump.offset, clump.head
    listed, kind, codec = start + len(head.listed), head.kind.name, ClumpCodec(head.codec).name
    regions = [Region(path, f"head of {kind}", start, start + HEAD_SIZE, start, head)]
    if head.blocks:
        regions.append(Region(path, f"list of {kind}", start + HEAD_SIZE, listed, start, head))
    if head.kind is not ClumpKind.GAP:
        name = f"payload of {kind} {codec}"
        regions.append(Region(path, name, listed, clump.end, start, head))
    return regions
