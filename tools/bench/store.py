"""The store's speed and memory, each figure beside its raw primitive, measured in turn in one run.

Speeds are medians of several rounds; a ratio is the median of the rounds' own ratios, so that it
holds when the machine's speed drifts. Durability is the default, on the disk that holds the
directory given; puts include opening the store and the final commit. Prints a table; `--quick` uses
less data, to try the bench itself.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import zstandard
from blake3 import blake3

from ventifs.store import Score, Store
from ventifs.store.arena_state import ArenaState, ArenaTotals
from ventifs.store.arenas import Arenas
from ventifs.store.header import read_header
from ventifs.store.index import Index
from ventifs.store.journal import Changes, CommitCounters
from ventifs.store.store import LEVEL_DEFAULT

BLOCK = 16 << 10
PER_CLUMP = 8
KNOWN_ARENAS = 40_000  # 10 TiB of arenas

Row = tuple[str, str, str, str]


def text_blocks(count: int) -> list[bytes]:
    """Different 16 KiB blocks of made-up words; zstd compresses them to less than half."""
    rng = random.Random(1)
    words = [
        bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 10))) for _ in range(5000)
    ]
    text = b" ".join(rng.choices(words, k=count * BLOCK // 7))
    blocks = []
    for number in range(count):
        at = number * BLOCK % (len(text) - BLOCK)
        blocks.append((b"%d " % number + text[at : at + BLOCK])[:BLOCK])
    return blocks


def timed(work: Callable[[], object]) -> float:
    """The wall time of `work` in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def paired(ours: Callable[[], float], raw: Callable[[], float], rounds: int) -> tuple[float, float]:
    """(median of our seconds, median of raw / ours) over rounds that take turns."""
    pairs = [(raw(), ours()) for _ in range(rounds)]
    return median(our for _, our in pairs), median(theirs / our for theirs, our in pairs)


def throughput(name: str, size: int, result: tuple[float, float], target: str) -> Row:
    """A row for work over `size` bytes."""
    seconds, ratio = result
    return name, f"{size / seconds / 1e6:,.0f} MB/s", f"{100 * ratio:.0f} % of raw", target


class Bench:
    """All measurements, below one directory on a real disk."""

    def __init__(self, directory: Path, *, quick: bool) -> None:
        """Make the data to store."""
        self.directory = directory
        self.quick = quick
        self.rounds = 3 if quick else 5
        self.blocks = text_blocks(4096 if quick else 16384)
        self.size = len(self.blocks) * BLOCK
        self.clumps = [
            b"".join(self.blocks[at : at + PER_CLUMP])
            for at in range(0, len(self.blocks), PER_CLUMP)
        ]
        self.compressor = zstandard.ZstdCompressor(level=LEVEL_DEFAULT)
        self.packed = [self.compressor.compress(clump) for clump in self.clumps]
        self._stores = 0

    def new_store(self) -> Path:
        """An empty store."""
        self._stores += 1
        path = self.directory / f"store{self._stores}"
        Store.create(path)
        return path

    def put(self, path: Path) -> list[Score]:
        """Open, put every block, commit."""
        with Store.open(path, "write") as store:
            scores = [store.put(block)[0] for block in self.blocks]
            store.commit([(b"bench", b"")])
        return scores

    def _compress_alone(self) -> float:
        compress = self.compressor.compress
        return timed(lambda: [len(compress(clump)) for clump in self.clumps])

    def _hash_alone(self) -> float:
        return timed(lambda: [blake3(block).digest() for block in self.blocks])

    def _decompress_and_hash_alone(self) -> float:
        decompress = zstandard.ZstdDecompressor().decompress

        def work() -> None:
            for packed in self.packed:
                raw = memoryview(decompress(packed))
                for at in range(0, len(raw), BLOCK):
                    blake3(raw[at : at + BLOCK]).digest()

        return timed(work)

    def puts(self) -> list[Row]:
        """Measure puts of new and of known blocks."""
        new = paired(
            lambda: timed(lambda: self.put(self.new_store())), self._compress_alone, self.rounds
        )
        path = self.new_store()
        self.put(path)
        known = paired(lambda: timed(lambda: self.put(path)), self._hash_alone, self.rounds)
        ratio = self.size / sum(map(len, self.packed))
        return [
            throughput(
                f"put, new 16 KiB blocks (zstd ratio {ratio:.1f}) / zstd", self.size, new, "85 %"
            ),
            throughput("put, known blocks / BLAKE3", self.size, known, "50 %"),
        ]

    def gets(self) -> list[Row]:
        """Measure gets of all blocks in stored order, and of some at random, with cold caches."""
        path = self.new_store()
        scores = self.put(path)

        def in_order() -> float:
            with Store.open(path) as store:
                return timed(lambda: [store.get(score) for score in scores])

        ordered = paired(in_order, self._decompress_and_hash_alone, self.rounds)
        sample = random.Random(2).sample(scores, 1000)

        def at_random() -> float:
            with Store.open(path, cache_bytes=0) as store:
                return timed(lambda: [store.get(score) for score in sample])

        def clumps_alone() -> float:
            return self._decompress_and_hash_alone() / len(self.clumps) * len(sample)

        seconds, ratio = paired(at_random, clumps_alone, self.rounds)
        return [
            throughput("get, all in stored order / zstd -d + BLAKE3", self.size, ordered, "70 %"),
            (
                "get, one at random / one clump's zstd -d + BLAKE3",
                f"{seconds / len(sample) * 1e6:.0f} us",
                f"{1 / ratio:.2f} times raw",
                "< 1.5",
            ),
        ]

    def index(self) -> list[Row]:
        """Measure ten million entries: load as a rebuild does, look up, add; open the store."""
        count = 1_000_000 if self.quick else 10_000_000
        path = self.new_store()
        header = read_header(path)
        index = Index(path / "index", header.store_id)
        number = index.number_of(bytes(16))
        step = 64_000

        def load() -> None:
            for start in range(0, count, step):
                index.append_blocks(
                    (spread(at, count), number, at % 2**28, at % 8)
                    for at in range(start, min(start + step, count))
                )

        seconds = timed(load)
        rows = [
            (
                "index: load in order, as a rebuild does",
                f"{count / seconds / 1e6:.2f} M entries/s",
                f"{count:,} entries",
                "",
            )
        ]
        size = (path / "index" / "data.mdb").stat().st_size
        rows.append(("index: bytes an entry after that", f"{size / count:.0f} B", "", "<= 110 B"))
        rng = random.Random(3)
        sample = [spread(rng.randrange(count), count) for _ in range(200_000)]
        found: list[bool] = []
        seconds = timed(lambda: found.extend(index.known(score) for score in sample))
        assert all(found)
        one_by_one = f"{len(sample) / seconds / 1e3:,.0f} k/s"
        seconds = timed(lambda: index.known_many(sample))
        sorted_rate = f"{len(sample) / seconds / 1e3:,.0f} k/s"
        rows.append(
            ("index: random look-ups one by one", one_by_one, f"{sorted_rate} in one batch", "")
        )
        more = [(Score(os.urandom(32)), at, 0) for at in range(250_000)]
        seconds = timed(lambda: index.add_blocks(bytes(16), more))
        rows.append(
            (
                "index: add 250,000 pending entries",
                f"{seconds:.2f} s",
                f"{(path / 'index' / 'data.mdb').stat().st_size / (count + 250_000):.0f} B "
                "an entry then",
                "",
            )
        )
        self._pretend_arenas(path, index)
        index.close()
        return rows + self._openings(path)

    def _pretend_arenas(self, path: Path, index: Index) -> None:
        """Give the store as many sealed arenas as 10 TiB have (empty files; opening reads none)."""
        arenas = Arenas(path, read_header(path).store_id)
        states = []
        for at in range(1, KNOWN_ARENAS + 1):
            arena = at.to_bytes(16, "big")
            arenas.sealed_path(arena).touch()
            states.append(ArenaState(arena, 0, True, ArenaTotals()))
        states.append(ArenaState(bytes(16), 0, True, ArenaTotals()))
        arenas.sealed_path(bytes(16)).touch()
        index.settle(states, Changes(), CommitCounters())

    def _openings(self, path: Path) -> list[Row]:
        rows: list[Row] = []
        for mode in ("read", "write"):
            seconds = []
            for _ in range(9):
                started = time.perf_counter()
                store = Store.open(path, mode)
                seconds.append(time.perf_counter() - started)
                store.abandon()
            name = f"open to {mode}, {KNOWN_ARENAS:,} arenas"
            rows.append((name, f"{median(seconds) * 1e3:.1f} ms", "", "< 20 ms"))
        return rows

    def memory(self) -> list[Row]:
        """Measure peak resident memory of a process that puts blocks and gets some of them."""
        rows: list[Row] = []
        for gigabytes in (1, 5) if self.quick else (1, 50):
            path = self.new_store()
            command = [sys.executable, __file__, "--fill", str(path), str(gigabytes)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows.append(
                (
                    f"memory: put {gigabytes} GB, 64 KiB blocks",
                    f"{output.strip()} MiB peak",
                    "",
                    "same",
                )
            )
        return rows

    def command(self) -> list[Row]:
        """Measure the time of `ventifs --help`."""
        ventifs = Path(sys.executable).with_name("ventifs")
        seconds = [
            timed(
                lambda: subprocess.run([ventifs, "--help"], check=True, stdout=subprocess.DEVNULL)
            )
            for _ in range(9)
        ]
        return [("ventifs --help", f"{median(seconds) * 1e3:.0f} ms", "", "< 200 ms")]


def spread(at: int, count: int) -> Score:
    """A made-up score, ascending with `at`."""
    return Score((at * (2**64 // count)).to_bytes(8, "big") + at.to_bytes(24, "little"))


def fill(path: Path, gigabytes: int) -> None:
    """Put synthetic data that compresses to almost nothing; print peak memory in MiB."""
    body = bytes(range(1, 256)) * 257
    with Store.open(path, "write") as store:
        for number in range(gigabytes * 10**9 >> 16):
            score, _ = store.put(number.to_bytes(8, "big") + body[: (64 << 10) - 8])
            if number % 1000 == 0:
                store.get(score)
        store.commit([(b"filled", b"")])
    status = Path("/proc/self/status").read_text()  # ru_maxrss would include our parent's
    print(int(status.split("VmHWM:")[1].split()[0]) // 1024)


def show(rows: list[Row]) -> None:
    """Print rows as they come."""
    for name, figure, ratio, target in rows:
        print(f"{name:<56}{figure:>18}  {ratio:<28}{target}".rstrip(), flush=True)


def main() -> None:
    """Parse arguments, run everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less data, fewer rounds")
    parser.add_argument(
        "--on",
        type=Path,
        default=Path.cwd(),
        metavar="DIRECTORY",
        help="a directory on the disk to measure (default: here)",
    )
    parser.add_argument("--fill", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fill:
        fill(Path(arguments.fill[0]), int(arguments.fill[1]))
        return
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.on) as directory:
        bench = Bench(Path(directory), quick=arguments.quick)
        show([("", "median", "", "target")])
        for part in (bench.puts, bench.gets, bench.index, bench.memory, bench.command):
            show(part())


if __name__ == "__main__":
    main()
