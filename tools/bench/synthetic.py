"""The memory and speed of a reclaim's join in a store of very many blocks, which is made up.

The index has all of the blocks, with scores that are spread over all there are. The blocks are in
arenas in an order that has nothing to do with their scores. The arenas have real headers,
directories and trailers, and holes in place of clumps: the join reads none. Half of the blocks
live, chosen as if by chance, so no clump is spared the look at its blocks. The join runs in a
process of its own, which begins with the live scores, as marking leaves them.

Anonymous memory is what the process itself takes. Pages of the index are the kernel's page cache,
which gives them up when others need memory; they are shown apart.
"""

import argparse
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from blake3 import blake3

from ventifs.store.arena import (
    HEADER_SIZE,
    Trailer,
    encode_directory_start,
    encode_header,
    encode_trailer,
)
from ventifs.store.arena_state import ArenaState, ArenaTotals
from ventifs.store.arenas import Arenas
from ventifs.store.clump import MAGIC, ClumpCodec, ClumpKind
from ventifs.store.index import Index
from ventifs.store.journal import Changes, CommitCounters
from ventifs.store.reclaim.join import ArenaUses
from ventifs.store.score import SCORE_SIZE, Score
from ventifs.store.spill import Spill

STORE_ID = bytes(range(16))
BLOCK_BYTES = 8 << 10
PAYLOAD = 64 << 10  # of each clump, compressed to half
PER_CLUMP = 16
PER_ARENA = 1 << 16  # blocks; arenas of 270 MB
BYTES_A_BLOCK = 135  # of disk: 58 index, 42 directory, 32 twice for the half that lives, and some
MEMORY_MIB = 300
SAMPLES_EVERY_S = 0.02
_STEP = 64_000

_HEAD = struct.Struct("<4sBBHII16s")  # FORMAT.md, section Clump: the last is the checksum
_BLOCK = struct.Struct("<32sI")
_OFFSET = struct.Struct("<Q")
_CLUMP_SIZE = _HEAD.size + PER_CLUMP * _BLOCK.size + PAYLOAD


class Order:
    """Where each block is: a block has a rank among the scores, and a place among the arenas."""

    def __init__(self, count: int) -> None:
        """Choose the order of `count` blocks."""
        self.count = count
        self._gap = 2**64 // count
        self._step = next(
            step
            for step in range(int(count * 0.618) | 1, 2 * count + 2)
            if math.gcd(step, count) == 1
        )
        self._back = pow(self._step, -1, count)

    def place(self, rank: int) -> int:
        """The place of the block with a rank."""
        return rank * self._step % self.count

    def rank(self, place: int) -> int:
        """The rank of the block at a place."""
        return place * self._back % self.count

    def score(self, rank: int) -> Score:
        """A made-up score, ascending with the rank."""
        return Score((rank * self._gap).to_bytes(8, "big") + rank.to_bytes(24, "little"))


def lives(rank: int) -> bool:
    """Whether a block lives; half of them do."""
    return bool(rank * 0x9E3779B97F4A7C15 >> 37 & 1)


def arena_id(number: int) -> bytes:
    """The id of an arena, by its number in the index."""
    return number.to_bytes(16, "big")


def clump_offset(place: int) -> int:
    """The offset in its arena of the clump that has the block at a place."""
    return HEADER_SIZE + place % PER_ARENA // PER_CLUMP * _CLUMP_SIZE


def make_arenas(root: Path, count: int) -> None:
    """Make all arena files."""
    order, arenas = Order(count), Arenas(root, STORE_ID)
    arenas.sealed_directory.mkdir(parents=True)
    for number in range(-(-count // PER_ARENA)):
        with arenas.sealed_path(arena_id(number)).open("wb") as file:
            header = encode_header(STORE_ID, arena_id(number), 0)
            file.write(header)
            first, end = number * PER_ARENA, min((number + 1) * PER_ARENA, count)
            parts = [encode_directory_start(header)]
            parts += (entry(order, at) for at in range(first, end, PER_CLUMP))
            directory = b"".join(parts)
            file.seek(arena_length(first, end))
            file.write(directory)
            trailer = Trailer(
                arena_length(first, end),
                len(directory),
                len(parts) - 1,
                end - first,
                blake3(directory).digest(),
            )
            file.write(encode_trailer(trailer, arena_id(number)))


def arena_length(first: int, end: int) -> int:
    """Where the clumps end of an arena with the blocks at these places."""
    return HEADER_SIZE + (end - first) // PER_CLUMP * _CLUMP_SIZE


def entry(order: Order, place: int) -> bytes:
    """The entry of a clump in the directory; the clump begins with the block at a place."""
    places = range(place, place + PER_CLUMP)
    head = _HEAD.pack(
        MAGIC,
        ClumpKind.DATA,
        ClumpCodec.ZSTD,
        PER_CLUMP,
        PER_CLUMP * BLOCK_BYTES,
        PAYLOAD,
        bytes(16),
    )
    listed = [_BLOCK.pack(order.score(order.rank(at)), BLOCK_BYTES) for at in places]
    return _OFFSET.pack(clump_offset(place)) + head + b"".join(listed)


def make_index(root: Path, count: int) -> None:
    """Make the index."""
    order = Order(count)
    index = Index(root / "index", STORE_ID, create=True, sync=False)
    states = []
    for number in range(-(-count // PER_ARENA)):
        assert index.number_of(arena_id(number)) == number
        first, end = number * PER_ARENA, min((number + 1) * PER_ARENA, count)
        length = arena_length(first, end)
        totals = ArenaTotals(
            clumps=(end - first) // PER_CLUMP,
            data_blocks=end - first,
            data_bytes=(end - first) * BLOCK_BYTES,
            stored_bytes=length - HEADER_SIZE,
        )
        states.append(ArenaState(arena_id(number), length, True, totals))
    index.settle(states, Changes(), CommitCounters())
    for start in range(0, count, _STEP):
        index.append_blocks(
            (order.score(rank), place // PER_ARENA, clump_offset(place), place % PER_CLUMP)
            for rank in range(start, min(start + _STEP, count))
            for place in (order.place(rank),)
        )
    index.sync()
    index.close()


def make(root: Path, count: int) -> None:
    """Make arenas and index, side by side."""
    with ProcessPoolExecutor(1) as pool:
        arenas = pool.submit(make_arenas, root, count)
        make_index(root, count)
        arenas.result()


def join(root: Path, count: int) -> None:
    """Gather the live scores, join them with the index, and print the figures as JSON."""
    index, arenas = Index(root / "index", STORE_ID), Arenas(root, STORE_ID)
    order = Order(count)
    began = time.perf_counter()
    with Spill(SCORE_SIZE) as live:
        expected = 0
        for piece in shuffled(order):
            live.add(piece)
            expected += len(piece)
        gathered = time.perf_counter()
        uses = ArenaUses(index, arenas)
        uses.add(live)
        joined = time.perf_counter()
    found = uses.all()
    problems = {use.problem for use in found}
    figures = {
        "gather_s": gathered - began,
        "join_s": joined - gathered,
        "live": sum(use.live_blocks for use in found),
        "arenas": len(found),
    }
    if problems != {""} or figures["live"] != expected or uses.blocks != count:
        sys.exit(f"the join is wrong: {figures}, {expected} live, {uses.blocks} seen, {problems}")
    print(json.dumps(figures))


def shuffled(order: Order) -> Iterator[list[Score]]:
    """The scores of all blocks that live, in the order of their places."""
    score, rank = order.score, order.rank
    scores = (score(at) for at in map(rank, range(order.count)) if lives(at))
    while piece := list(islice(scores, _STEP)):
        yield piece


def measured(root: Path, count: int) -> dict[str, float]:
    """Run the join in a process of its own; its figures, and its peaks of memory in bytes."""
    command = [sys.executable, "-m", "tools.bench.synthetic", "--join", str(root)]
    child = subprocess.Popen(
        [*command, "--blocks", str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(root)},
    )
    peaks = {"RssAnon": 0, "RssFile": 0}
    while child.poll() is None:
        for name, size in memory_of(child.pid).items():
            peaks[name] = max(peaks.get(name, 0), size)
        time.sleep(SAMPLES_EVERY_S)
    said, _ = child.communicate()
    if child.returncode:
        sys.exit("the join failed; its reason is above")
    return {**json.loads(said), **peaks}


def memory_of(pid: int) -> dict[str, int]:
    """Bytes of a process's memory, by the names of /proc/PID/status; none once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    wanted = ("VmHWM:", "RssAnon:", "RssFile:")
    found = (line.split() for line in lines if line.startswith(wanted))
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in found}


def main() -> None:
    """Parse arguments, make the store, measure."""
    parser = argparse.ArgumentParser(prog="reclaim --blocks", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--blocks", type=int, required=True, metavar="N", help="100000000 takes 13 GB of disk"
    )
    parser.add_argument(
        "--work", type=Path, metavar="DIRECTORY", help="default: a temporary directory"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--join", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    count = -(-arguments.blocks // PER_CLUMP) * PER_CLUMP  # clumps are full
    if count < 1:
        parser.error("--blocks is at least 1")
    if arguments.join:
        join(arguments.join, count)
        return
    with ExitStack() as stack:
        if arguments.work is not None:
            arguments.work.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.work)
        root = Path(stack.enter_context(made))
        free = shutil.disk_usage(root).free
        if free < count * BYTES_A_BLOCK:
            needed = count * BYTES_A_BLOCK / 1e9
            sys.exit(
                f"reclaim: {root.parent}: {free / 1e9:.1f} GB are free and {needed:.1f} GB needed; "
                "choose another disk by --work"
            )
        began = time.perf_counter()
        make(root, count)
        print(f"{count:,} blocks, made in {time.perf_counter() - began:.0f} s", flush=True)
        index = (root / "index" / "data.mdb").stat().st_size
        figures = measured(root, count)
    print(
        f"  {figures['live']:,.0f} live ones gathered in {figures['gather_s']:.1f} s, joined with "
        f"an index of {index / 1e9:.2f} GB and {figures['arenas']:,.0f} arenas in "
        f"{figures['join_s']:.1f} s: {count / figures['join_s'] / 1e6:.2f} M entries a second\n"
        f"  memory: peak of anonymous pages {figures['RssAnon'] / 2**20:.0f} MiB (target: "
        f"{MEMORY_MIB}); of mapped files {figures['RssFile'] / 2**20:,.0f} MiB, of both "
        f"{figures['VmHWM'] / 2**20:,.0f} MiB"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({**figures, "index_bytes": index}, indent=1) + "\n")


if __name__ == "__main__":
    main()
