"""The 9P server's speed and memory, beside diod, a bare sendmsg loop, and zstd with BLAKE3 alone.

diod serves the same directories that the versions were archived from, over the same kind of socket;
the servers take turns in every round. Figures are medians, and a ratio is the median of the rounds'
own ratios, so that it holds when the machine's speed drifts. One generator (load.c) sends requests
to all servers; it checks every reply, and any error ends the bench. A row shows our rate, the
other's, the ratio and its target, both servers' p99 and CPU time per reply (ours first), and the
generator's CPU time in per cent of our server's.
"""

import argparse
import json
import os
import random
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from tools.bench.contestants import VENTIFS, Bare, Diod, Place, Result, Ventifs, compiled_load
from tools.bench.rounds import Rounds, Runs, row, run
from tools.bench.stored import clumps, decoding_seconds

DEPTHS = (1, 8, 32)
READ_SMALL = 65512  # diod's largest
READ_LARGE = 512 << 10
LARGE = ("-m", 1 << 20, "-k", READ_LARGE)  # for reads of this size, from a server with this msize
ENTRIES = 10_000
CROWD = 200_000  # different files for fids, more than a server caches
FIDS = 1_000_000
CLIENTS = 63
CACHE_MIB = 64
SYNTHETIC_BYTES = 256 << 20  # per large file: the cold reader must outlast a measurement
DISK_BYTES = 512 << 20  # of the image of a file system with /usr/share (some 200 MB)
DISK_PART = ("-w", 128 << 20)  # the part that is read: small files, less than a cache holds

# The least ratio to the other's rate, and the ratio that is aimed at.
TARGETS = {
    "getattr, depth 1": (0.9, "aim 1"),
    "getattr, depth 8": (1.3, "aim 2"),
    "getattr, depth 32": (1.6, "aim 3"),
    "walk+clunk, depth 1": (0.9, "aim 1"),
    "walk+clunk, depth 8": (1.2, "aim 2"),
    "walk+clunk, depth 32": (1.4, "aim 3"),
    "read 65,512, depth 1": (1.0, "aim 1.5"),
    "read 65,512, depth 8": (1.0, "aim 1.5"),
    "read 512 KiB, depth 1": (0.75, ""),
    "read 512 KiB, depth 8": (0.75, ""),
    "first read, real files": (0.6, ""),
    "first read, text": (0.6, ""),
    "first read, random": (0, "no zstd in it"),
    "list 10,000, depth 1": (1.0, ""),
    "list 10,000, depth 8": (1.0, ""),
    "getattr beside a cold reader": (0.5, "of alone"),
    "disk: first read": (0.6, ""),
    "disk: 512 KiB, depth 1": (0.6, ""),
    "disk: 512 KiB, depth 8": (0.6, ""),
    "disk: 4 KiB anywhere, depth 1": (0, "5,000/s"),
}


class Bench(Rounds):
    """All parts, below one directory on the disk to measure."""

    def __init__(
        self, root: Path, scratch: Path, *, unix: bool, rounds: int, seconds: float
    ) -> None:
        """Make the synthetic tree, archive both, compile the generator."""
        super().__init__(rounds, seconds, TARGETS)
        synthetic = scratch / "synthetic"
        self.place = Place(
            trees={"root": root, "synthetic": synthetic},
            store=scratch / "store",
            scratch=scratch,
            load=compiled_load(scratch),
            unix=unix,
        )
        make_synthetic(synthetic)
        run([*VENTIFS, "init", "--store", str(self.place.store)])
        for name in self.place.trees:
            self._archive(name)
        self.small = readable(root, "usr/bin")[:64]
        by_size = sorted(readable(root, "usr"), key=lambda path: (root / path).stat().st_size)
        self.large = by_size[-4:]

    def _archive(self, name: str) -> None:
        run(
            [
                *VENTIFS,
                "archive",
                str(self.place.trees[name]),
                "--name",
                name,
                "--store",
                str(self.place.store),
            ]
        )

    def warm(self) -> None:
        """Measure getattr, walk and clunk, and reads of cached files."""
        with Diod(self.place) as diod, Ventifs(self.place) as ventifs:
            for title, workload in (("getattr", "getattr"), ("walk+clunk", "walk")):
                for depth in DEPTHS:
                    self.rates(
                        f"{title}, depth {depth}", workload, ventifs, diod, self.small, "-d", depth
                    )
            for server in (diod, ventifs):  # verifies every byte, and brings it into memory
                server.load("sequential", "root", self.large[-1:], "-v", self.place.trees["root"])
            for depth in (1, 8):
                self.rates(
                    f"read 65,512, depth {depth}",
                    "read",
                    ventifs,
                    diod,
                    self.large[-1:],
                    "-d",
                    depth,
                    "-k",
                    READ_SMALL,
                    figure="bytes_s",
                )
        self._large_reads()

    def _large_reads(self) -> None:
        with (
            Bare(self.place, "root", self.large[-1], READ_LARGE) as bare,
            Ventifs(self.place) as ventifs,
        ):
            for server in (bare, ventifs):
                server.load(
                    "sequential", "root", self.large[-1:], *LARGE, "-v", self.place.trees["root"]
                )
            for depth in (1, 8):
                self.rates(
                    f"read 512 KiB, depth {depth}",
                    "read",
                    ventifs,
                    bare,
                    self.large[-1:],
                    "-d",
                    depth,
                    *LARGE,
                    figure="bytes_s",
                )

    def cold(self) -> None:
        """Measure first reads of files by a new server, in reads of 512 KiB."""
        for name, tree, files in (
            ("real files", "root", self.large),
            ("text", "synthetic", ["text"]),
            ("random", "synthetic", ["random"]),
        ):
            self._first_read(name, tree, files)

    def _first_read(self, name: str, tree: str, files: list[str]) -> None:
        packed = clumps(self.place.store, f"{tree}@latest", files)
        length = sum((self.place.trees[tree] / file).stat().st_size for file in files)

        def ours() -> Result:
            with Ventifs(self.place) as ventifs:
                return ventifs.load("sequential", tree, files, *LARGE)

        def alone() -> Result:
            return {"bytes_s": length / decoding_seconds(packed)}

        self.compare(f"first read, {name}", ours, alone, "zstd+BLAKE3", "bytes_s")

    def listing(self) -> None:
        """Measure readdir of a large directory, with walk, getattr and clunk of each entry."""
        with Diod(self.place) as diod, Ventifs(self.place) as ventifs:
            for server in (diod, ventifs):
                server.load("list", "synthetic", ["many"], "-d", 8)
            for depth in (1, 8):
                self.rates(
                    f"list {ENTRIES:,}, depth {depth}",
                    "list",
                    ventifs,
                    diod,
                    ["many"],
                    "-d",
                    depth,
                    tree="synthetic",
                )

    def fairness(self) -> None:
        """Measure a client at depth 1 beside many at 32, and a busy client beside a cold reader."""
        with Diod(self.place) as diod, Ventifs(self.place) as ventifs:
            runs: Runs = {"diod": [], "ventifs": []}
            for _ in range(self.rounds):
                for server in (diod, ventifs):
                    runs[server.name].append(
                        server.load(
                            "getattr",
                            "root",
                            self.small,
                            "-c",
                            CLIENTS,
                            "-d",
                            32,
                            "-p",
                            "-s",
                            self.seconds,
                        )
                    )
        self.results["fairness"] = runs
        for name, its in runs.items():
            show_fairness(name, its)
        self.compare("getattr beside a cold reader", self._beside_reader, self._alone, "alone")

    def _alone(self) -> Result:
        with Ventifs(self.place) as ventifs:
            return ventifs.load("getattr", "root", self.small, "-d", 8, "-s", self.seconds / 2)

    def _beside_reader(self) -> Result:
        with Ventifs(self.place) as ventifs:
            reader = ventifs.start_load("sequential", "synthetic", ["text", "random"], *LARGE)
            busy = ventifs.load("getattr", "root", self.small, "-d", 8, "-s", self.seconds / 2)
            if reader.poll() is not None:
                sys.exit("the cold reader ended before the measurement did: take fewer --seconds")
            return {**busy, "reader": ventifs.finish(reader)}

    def disks(self) -> None:
        """Measure an image archived as a disk beside the same bytes archived as a plain file."""
        scratch = self.place.scratch
        image = scratch / "image" / "disk.img"
        image.parent.mkdir()
        run(
            [
                "mke2fs",
                "-q",
                "-t",
                "ext4",
                "-d",
                str(self.place.trees["root"] / "usr/share"),
                str(image),
                f"{DISK_BYTES >> 10}k",
            ]
        )
        places = {}
        for name, source in (("disk", image), ("plain", image.parent)):
            store = scratch / f"store-{name}"  # its own: shared blocks would not be in order
            run([*VENTIFS, "init", "--store", str(store)])
            run([*VENTIFS, "archive", str(source), "--name", "image", "--store", str(store)])
            places[name] = replace(self.place, store=store, trees={"image": source})

        def first(name: str) -> Callable[[], Result]:
            def result() -> Result:
                with Ventifs(places[name]) as server:
                    return server.load("sequential", "image", ["disk.img"], *LARGE, *DISK_PART)

            return result

        self.compare("disk: first read", first("disk"), first("plain"), "plain file", "bytes_s")
        with Ventifs(places["disk"]) as disk, Ventifs(places["plain"]) as plain:
            plain.name = "plain file"

            def rates(name: str, workload: str, figure: str, *options: object) -> None:
                self.rates(
                    f"disk: {name}",
                    workload,
                    disk,
                    plain,
                    ["disk.img"],
                    *DISK_PART,
                    *options,
                    tree="image",
                    figure=figure,
                )

            for server in (disk, plain):  # verifies every byte, and brings it into memory
                server.load("sequential", "image", ["disk.img"], *LARGE, "-v", image.parent)
                server.load("sequential", "image", ["disk.img"], *LARGE, *DISK_PART)
            for depth in (1, 8):
                rates(f"512 KiB, depth {depth}", "read", "bytes_s", *LARGE, "-d", depth)
            rates("4 KiB anywhere, depth 1", "random", "ops_s", "-k", 4096)

    def memory(self) -> None:
        """Measure memory beyond an idle server's: after many reads, per session, and per fid."""
        with Ventifs(self.place, "--cache", f"{CACHE_MIB}MiB") as ventifs:
            idle = ventifs.resident()
            for tree, files in (("root", self.large), ("synthetic", ["text", "random"])):
                ventifs.load("sequential", tree, files, *LARGE, "-d", 8)
            full = ventifs.resident()
            row("memory: an idle server", f"{idle / 2**20:.0f} MiB", "")
            row(
                f"memory: after reading 646 MiB, --cache {CACHE_MIB}MiB",
                f"{(full - idle) / 2**20:.0f} MiB more",
                f"{CACHE_MIB} MiB",
            )
            held = ventifs.resident_holding("getattr", "root", self.small, "-c", 64, "-d", 32)
            session = (held - full) / 64
            row("memory: a session with 129 fids", f"{session / 1024:.0f} KiB", "as stated")
        crowd = self.place.trees["crowd"] = self.place.scratch / "crowd"
        make_files(crowd / "many", CROWD)
        self._archive("crowd")
        with Ventifs(self.place) as ventifs:
            ventifs.load("list", "crowd", ["many"], "-d", 8)
            before = ventifs.resident()
            held = ventifs.resident_holding("fids", "crowd", ["many"], "-n", FIDS, "-d", 32)
            fid = (held - before) / FIDS
            row(f"memory: each of {FIDS:,} fids", f"{fid:.0f} bytes", "at most 400")
        self.results["memory"] = {"idle": idle, "full": full, "session": session, "fid": fid}


def make_files(directory: Path, count: int) -> None:
    """Make a directory of small files, all different."""
    directory.mkdir(parents=True)
    for number in range(count):
        (directory / f"file-{number:06}").write_text(f"{number}\n")


def make_synthetic(directory: Path) -> None:
    """Make a directory of small files, and two large files: made-up words, and noise."""
    make_files(directory / "many", ENTRIES)
    rng = random.Random(1)
    words = [
        bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 10))) for _ in range(5000)
    ]
    text = b" ".join(rng.choices(words, k=600_000))
    with (directory / "text").open("wb") as file:
        for at in range(0, SYNTHETIC_BYTES, 4096):  # each piece starts at a random place
            start = rng.randrange(len(text) - 4096)
            file.write(b"%08d" % at + text[start : start + 4088])
    with (directory / "random").open("wb") as file:
        for _ in range(SYNTHETIC_BYTES >> 20):
            file.write(rng.randbytes(1 << 20))


def readable(root: Path, below: str) -> list[str]:
    """Dense, world-readable regular files, as paths relative to the root."""
    found = []
    for directory, _, names in os.walk(root / below):
        for name in names:
            path = Path(directory, name)
            info = path.lstat()
            dense = info.st_blocks * 512 >= info.st_size
            if stat.S_ISREG(info.st_mode) and info.st_mode & 0o004 and dense:
                found.append(str(path.relative_to(root)))
    return sorted(found)


def show_fairness(name: str, runs: list[Result]) -> None:
    """Print a single client's p99 in fair shares: times in which every client gets one reply."""
    rates = [result["ops_s"] + result["probe"]["ops_s"] for result in runs]
    shares = [
        result["probe"]["p99_us"] * rate / 1e6 / (CLIENTS + 1)
        for result, rate in zip(runs, rates, strict=True)
    ]
    p99 = median(result["probe"]["p99_us"] for result in runs)
    in_turn = [
        result["probe"]["p99_us"] * rate / 1e6 / (CLIENTS * 32 + 1)
        for result, rate in zip(runs, rates, strict=True)
    ]
    print(
        f"depth 1 beside {CLIENTS} at 32, {name}: all {median(rates):,.0f}/s, p99 {p99:,.0f} us, "
        f"{median(shares):.1f} fair shares of a client (target: at most 4), "
        f"{median(in_turn):.1f} of a request in flight",
        flush=True,
    )


def main() -> None:
    """Parse arguments, run the parts."""
    parts = ("warm", "cold", "listing", "fairness", "disks", "memory")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("root", type=Path, help="a directory to archive and serve")
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="of each run")
    parser.add_argument("--unix", action="store_true", help="over Unix sockets, not TCP")
    parser.add_argument(
        "--on",
        type=Path,
        metavar="DIRECTORY",
        help="where to work (default: a temporary directory)",
    )
    parser.add_argument(
        "--only", default=",".join(parts), metavar="PART,...", help=f"of {', '.join(parts)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run here too")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if not set(chosen) <= set(parts):
        parser.error(f"--only takes {', '.join(parts)}")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.on) as scratch:
        bench = Bench(
            arguments.root.absolute(),
            Path(scratch),
            unix=arguments.unix,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
        )
        print(
            f"{os.cpu_count()} cores, {'Unix sockets' if arguments.unix else 'TCP on loopback'}, "
            f"{arguments.rounds} rounds of {arguments.seconds:g} s, medians"
        )
        for part in parts:
            if part in chosen:
                getattr(bench, part)()
    if arguments.json:
        arguments.json.write_text(json.dumps(bench.results, indent=1) + "\n")


if __name__ == "__main__":
    main()
