"""Disk images of real guests: ventifs beside borg, restic and casync; over 9P, beside diod.

Archiving is compared as in archive.py: the tools take turns in every round, on the same images
(made by tools/images), with warm caches; see archivers.py for what is measured. Sizes are apparent
bytes of a whole repository; they are deterministic, so they are measured once. Reads of the 9P
server are compared with the same client's reads of a plain archived file of the same bytes from
ventifs, and of the image itself from diod.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median

from tools.bench.archivers import Run, Tool, Turns, bytes_below
from tools.bench.contestants import VENTIFS, Diod, Place, Result, Server, Ventifs, compiled_load

NAMES = ("ventifs", "borg", "restic", "casync")
LARGE = ("-m", 1 << 20, "-k", 512 << 10)
SMALL = ("-k", 4096)
WINDOW = ("-o", 128 << 20, "-w", 32 << 20)  # of the disk: contents of files, less than a cache
SHARE_OF_BORG, SHARE_OF_RESTIC = 0.42, 0.47
BLOCK = 4096
TARGETS = {
    ("first", "borg"): "wall 2",
    ("second: B after A", "borg"): "wall 3",
    ("nightly: A1 after A", "borg"): "wall 3",
    ("unchanged", "ventifs"): "1 GB/s",
    ("unchanged, all read", "ventifs"): "1 GB/s",
    ("memory", "ventifs"): "under 400 MiB",
}


class Bench(Turns):
    """All parts, below one directory on the disk to measure."""

    def __init__(
        self, images: Path, roots: Path, scratch: Path, *, rounds: int, seconds: float
    ) -> None:
        """Read the images that are timed once, so that the page cache holds them."""
        super().__init__(scratch, TARGETS)
        self.images, self.roots, self.scratch = images, roots, scratch
        self.rounds, self.seconds = rounds, seconds
        self.first_archived = False
        self.figures: dict[str, object] = {}
        for name in ("A.img", "B.img", "A1.img"):
            for _ in pieces(images / name):
                pass

    def sizes(self) -> None:
        """Measure each repository after each of four images and both roots."""
        sources = [self.images / f"{name}.img" for name in "ABCD"]
        sources += [self.roots / "root1", self.roots / "root2"]
        held: dict[str, list[int]] = {name: [] for name in NAMES}
        for name, its in held.items():
            tool = self.tools[name]
            tool.fresh()
            for source in sources:
                tell(f"sizes: {name}, {source.name}")
                tool.run("archive" if source.is_dir() else "image", source)
                its.append(tool.sizes()[0])
        tell("")
        self.figures["sizes"] = held
        print("store after" + "".join(f"{source.name:>9}" for source in sources) + "  (MB)")
        for name, its in held.items():
            line = f"  {name:9}" + "".join(f"{size / 1e6:9.1f}" for size in its)
            shares = {"borg": SHARE_OF_BORG, "restic": SHARE_OF_RESTIC}
            if name != "ventifs":
                share = held["ventifs"][-1] / its[-1]
                line += f"   ventifs has {share:.2f} of it"
                line += f" (target: {shares[name]:g})" if name in shares else ""
            print(line, flush=True)

    def first(self) -> None:
        """Archive A into an empty repository; keep the last repository for the other parts."""
        self.measure("first", NAMES, self._first, self.rounds)
        self._keep()

    def _first(self, tool: Tool) -> Run:
        tool.fresh()
        run = tool.run("image", self.images / "A.img")
        return Run(run.wall_s, run.cpu_s, 0, *tool.sizes(), (self.images / "A.img").stat().st_size)

    def _keep(self) -> None:
        for name in NAMES:
            self.tools[name].keep()
        self.first_archived = True

    def _archive_first(self) -> None:
        """Archive A in every repository, without measuring, unless `first` did."""
        if not self.first_archived:
            for name in NAMES:
                self._first(self.tools[name])
            self._keep()

    def second(self) -> None:
        """Archive a similar image, and one that differs from A in 1 % of its blocks."""
        self._archive_first()
        for part, name in (("second: B after A", "B"), ("nightly: A1 after A", "A1")):
            self.measure(part, NAMES, self._after_first(self.images / f"{name}.img"), self.rounds)
        changed = differing(self.images / "A.img", self.images / "A1.img")
        grown = median(run.size for run in self.runs["nightly: A1 after A"]["ventifs"])
        self.figures["changed"] = changed
        print(
            f"  {changed / 1e6:.1f} MB of its blocks differ; new: {grown / changed:.2f} times "
            "as much (target: in proportion)",
            flush=True,
        )

    def _after_first(self, source: Path) -> Callable[[Tool], Run]:
        def run(tool: Tool) -> Run:
            tool.bring_back()
            size, arenas = tool.sizes()
            run = tool.run("archive" if source.is_dir() else "image", source)
            after, arenas_after = tool.sizes()
            return Run(
                run.wall_s,
                run.cpu_s,
                0,
                after - size,
                arenas_after - arenas,
                source.stat().st_size if source.suffix == ".img" else 0,
            )

        return run

    def unchanged(self) -> None:
        """Archive A again, as usual, and with every byte read again."""
        self._archive_first()
        source = self.images / "A.img"
        for name in NAMES:
            self.tools[name].bring_back()
            self.tools[name].run("image", source)  # no tool caches what changed just before a run

        def again(task: str) -> Callable[[Tool], Run]:
            def run(tool: Tool) -> Run:
                run = tool.run(task, source)
                return Run(run.wall_s, run.cpu_s, source=source.stat().st_size)

            return run

        self.measure("unchanged", NAMES, again("image"), self.rounds)
        self.measure("unchanged, all read", NAMES, again("image, all read"), self.rounds)

    def growth(self) -> None:
        """Measure what the same guest in another form adds to a repository with A."""
        self._archive_first()
        shares = {"root1": 0.5, "A.qcow2": 1.0}
        for source in (self.roots / "root1", self.images / "A.qcow2"):
            part = f"{source.name} after A"
            self.measure(part, NAMES, self._after_first(source), 1)
            size = bytes_below(source) if source.is_dir() else source.stat().st_size
            run = self.runs[part]["ventifs"][0]
            print(
                f"  ventifs: {100 * run.arenas / size:.2f} % of its {size / 1e6:,.0f} MB is new "
                f"in the arenas, {100 * run.size / size:.2f} % in all "
                f"(target: under {shares[source.name]} %)",
                flush=True,
            )

    def reading(self) -> None:
        """Read the disk over 9P: in sequence, for the first time, and pieces at random."""
        served = self.scratch / "served"
        served.mkdir()
        plain = served / "disk.img"
        subprocess.run(["cp", "--sparse=always", self.images / "A.img", plain], check=True)
        place = Place(
            trees={"vm7": served, "plain": served},
            store=self.scratch / "store",
            scratch=self.scratch,
            load=compiled_load(self.scratch),
            unix=False,
        )
        run([*VENTIFS, "init", "--store", str(place.store)])
        for source, name in ((plain, "vm7"), (served, "plain")):
            run([*VENTIFS, "archive", str(source), "--name", name, "--store", str(place.store)])
        with Ventifs(place) as ventifs:  # verifies every byte
            ventifs.load("sequential", "vm7", ["disk.img"], *LARGE, "-v", served)
        for depth in (1, 8):
            self._in_sequence(place, depth)
        with Diod(place) as diod, Ventifs(place) as ventifs:
            self._at_random(diod, ventifs)

    def _in_sequence(self, place: Place, depth: int) -> None:
        def read(start: Callable[[Place], Server], tree: str) -> Callable[[], Result]:
            def rate() -> Result:
                with start(place) as server:
                    options = LARGE if server.name == "ventifs" else ()
                    return server.load("sequential", tree, ["disk.img"], "-d", depth, *options)

            return rate

        self.compare(
            f"first read in sequence, depth {depth}",
            "bytes_s",
            {
                "disk.img": read(Ventifs, "vm7"),
                "plain file": read(Ventifs, "plain"),
                "diod": read(Diod, "plain"),
            },
            ratio=0.6,
        )

    def _at_random(self, diod: Server, ventifs: Server) -> None:
        ways = {
            "disk.img": (ventifs, "vm7"),
            "plain file": (ventifs, "plain"),
            "diod": (diod, "plain"),
        }

        def read(server: Server, tree: str, *options: object) -> Callable[[], Result]:
            return lambda: server.load("random", tree, ["disk.img"], *SMALL, *options)

        for where, window in (("32 MiB", WINDOW), ("all of it", ())):
            for way in ways.values():  # warm
                read(*way, *window, "-d", 8, "-s", 3)()
            for depth in (1, 8):
                options = (*window, "-d", depth, "-s", self.seconds)
                self.compare(
                    f"4 KiB at random in {where}, depth {depth}",
                    "ops_s",
                    {name: read(*way, *options) for name, way in ways.items()},
                    least=5000 if window and depth == 1 else 0,
                )

    def compare(
        self,
        name: str,
        figure: str,
        ways: dict[str, Callable[[], Result]],
        *,
        ratio: float = 0,
        least: float = 0,
    ) -> None:
        """Measure by turns; print a row: the first way's rate, then its ratios to the others."""
        results: dict[str, list[Result]] = {way: [] for way in ways}
        for number in range(self.rounds):
            tell(f"{name}, round {number + 1}")
            for way, read in ways.items():
                results[way].append(read())
        tell("")
        self.figures[name] = results
        scale, unit = (1e6, "MB/s") if figure == "bytes_s" else (1, "/s")
        rates = {way: [float(result[figure]) for result in its] for way, its in results.items()}
        first, *others = rates
        line = f"{name:40}{median(rates[first]) / scale:9,.0f} {unit:4}"
        line += f" (target: {least:,.0f})" if least else ""
        for other in others:
            of = median(one / its for one, its in zip(rates[first], rates[other], strict=True))
            line += f"   {of:.2f} of {other}'s {median(rates[other]) / scale:,.0f}"
            line += f" (target: {ratio:g})" if ratio and other == "plain file" else ""
        print(line, flush=True)

    def memory(self) -> None:
        """Measure peak memory of a first archive of A, and of a sparse image of 1 TiB."""

        def first(source: Path) -> Callable[[Tool], Run]:
            def run(tool: Tool) -> Run:
                tool.fresh()
                return tool.run("image", source, sampling=True)

            return run

        self.measure("memory, A", NAMES, first(self.images / "A.img"), 1)
        huge = self.scratch / "huge.img"
        with huge.open("wb") as file:
            file.truncate(1 << 40)
        tell("memory: making a file system of 1 TiB")
        run(
            [
                "mke2fs",
                "-q",
                "-F",
                "-t",
                "ext4",
                "-E",
                "lazy_itable_init=1,lazy_journal_init=1",
                "-d",
                str(self.roots / "root1" / "etc"),
                str(huge),
            ]
        )
        self.measure("memory, 1 TiB", ("ventifs",), first(huge), 1)
        taken = self.runs["memory, 1 TiB"]["ventifs"][0]
        print(
            f"  in {taken.wall_s:.1f} s, {huge.stat().st_blocks * 512 / 1e6:,.0f} MB of it written"
        )
        huge.unlink()


def pieces(image: Path) -> Iterator[bytes]:
    """An image's bytes, in pieces of 1 MiB."""
    with image.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def differing(one: Path, other: Path) -> int:
    """The bytes of the blocks in which two images of one size differ."""
    count = 0
    for ours, theirs in zip(pieces(one), pieces(other), strict=True):
        if ours != theirs:
            count += sum(
                ours[at : at + BLOCK] != theirs[at : at + BLOCK]
                for at in range(0, len(ours), BLOCK)
            )
    return count * BLOCK


def run(command: list[str]) -> None:
    """Run a command that must succeed, without its output, with this checkout's ventifs."""
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    if done.returncode:
        sys.exit(f"{command[0]} failed with {done.returncode}:\n{done.stdout}")


def tell(what: str) -> None:
    """Show the current step, if standard error is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr)


def main() -> None:
    """Parse arguments, run the parts."""
    parts = ("sizes", "first", "second", "unchanged", "growth", "reading", "memory")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images", type=Path, help="what tools/images has made")
    parser.add_argument("roots", type=Path, help="what tools/roots has made")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument(
        "--seconds", type=float, default=1, metavar="S", help="of each run that reads at random"
    )
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
            arguments.images,
            arguments.roots,
            Path(scratch),
            rounds=arguments.rounds,
            seconds=arguments.seconds,
        )
        size = (arguments.images / "A.img").stat().st_size / 2**20
        print(
            f"disks of {size:,.0f} MiB, {os.cpu_count()} cores, {arguments.rounds} rounds, medians"
        )
        for part in parts:
            if part in chosen:
                getattr(bench, part)()
    if arguments.json:
        runs = {
            part: {name: [asdict(run) for run in runs] for name, runs in results.items()}
            for part, results in bench.runs.items()
        }
        arguments.json.write_text(json.dumps({**bench.figures, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
