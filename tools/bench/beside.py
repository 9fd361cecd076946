"""What archives and readers lose beside a reclaim, and beside a busy loop.

The loop takes a core and does nothing else: what it costs, any work on the same two cores would
cost. A reclaim ends when it ends, so runs beside it are as many as fit; one that outlasts it does
not count.
"""

import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tools.bench.archivers import Started, Tool
from tools.bench.contestants import Place, Result, Server, Ventifs, compiled_load
from tools.bench.history import tell
from tools.bench.ninep import readable
from tools.bench.waits import read_waits

LOAD_S = 0.4  # of each run of the load generator
ALONE = 5  # runs before a reclaim and, of reads, after it
LEFT = 3  # exit code of a reclaim that left open arenas to the archives beside it
LARGE = ("-m", 1 << 20, "-k", 512 << 10, "-d", 8)


@dataclass(frozen=True)
class Small:
    """A small archive's wall time, and how much of it was waiting."""

    wall_s: float
    waited_s: float


@dataclass(frozen=True)
class Beside:
    """The parts.

    Attributes:
        tool: ventifs, whose repository others use meanwhile.
        fresh: brings a repository back that has something to reclaim.
        begin: starts a reclaim.
        root: the source of root1, of which /usr/bin and /usr/lib have never changed.
        figures: where results go.
    """

    tool: Tool
    fresh: Callable[[], Tool]
    begin: Callable[[], Started]
    root: Path
    scratch: Path
    figures: dict[str, Any]

    def archives(self, rounds: int) -> None:
        """Archive a small directory, in which a file has changed each time."""
        runs: dict[str, list[Small]] = {"alone": [], "beside a busy loop": [], "beside": []}
        in_all: list[float] = []  # of each reclaim
        small = SmallArchive(self.scratch, self.tool.repo)
        for number in range(rounds):
            tell(f"archives beside a reclaim, round {number + 1}")
            self.fresh()
            small.run()
            runs["alone"] += [small.run() for _ in range(ALONE)]
            with busy_loop():
                runs["beside a busy loop"] += [small.run() for _ in range(ALONE)]
            beside = self._during(small.run)
            runs["beside"] += beside
            in_all.append(sum(run.waited_s for run in beside))
        tell("")
        self.figures["archives"] = {
            name: [(run.wall_s, run.waited_s) for run in its] for name, its in runs.items()
        }
        print(f"archives beside a reclaim, {rounds} rounds; the longest / the median of")
        alone = median(run.wall_s for run in runs["alone"])
        for name, its in runs.items():
            walls, waits = [run.wall_s for run in its], [run.waited_s for run in its]
            line = (
                f"  {name:20}{len(its):4} runs: {max(walls):6.2f} / {median(walls):6.2f} s, "
                f"waiting {max(waits):7.4f} / {median(waits):7.4f} s"
            )
            if name == "beside":
                line += (
                    f", all of a reclaim's {max(in_all):.4f} s; longest less median alone "
                    f"{max(walls) - alone:.2f} s   (target: waiting 1 s)"
                )
            print(line, flush=True)

    def _during(self, work: Callable[[], Any]) -> list[Any]:
        """Work again and again while a reclaim runs; the results that count."""
        reclaim, results = self.begin(), []
        while True:
            result = work()
            if not reclaim.runs():
                break
            results.append(result)
        self.tool.finish(reclaim, allowed=(0, LEFT))
        if not results:
            sys.exit("a reclaim ends before anything else does; take a larger --scale")
        return results

    def reads(self, rounds: int) -> None:
        """Read from one server, which holds what it needs in memory, and from all of a disk."""
        place = Place(
            trees={"root1": self.root, "A": self.root},
            store=self.tool.repo,
            scratch=self.scratch,
            load=compiled_load(self.scratch),
            unix=False,
        )
        small = readable(self.root, "usr/bin")[:64]
        large = max(
            readable(self.root, "usr/lib"), key=lambda path: (self.root / path).stat().st_size
        )
        print(f"reads over 9P beside a reclaim, {rounds} rounds of {LOAD_S} s loads")
        for name, figure, words in (
            ("getattr, depth 8", "ops_s", ("getattr", "root1", small, "-d", 8)),
            ("read 512 KiB, depth 8", "bytes_s", ("read", "root1", [large], *LARGE)),
            ("4 KiB anywhere in a disk", "ops_s", ("random", "A", ["disk.img"], "-k", 4096)),
        ):
            self._reads(place, rounds, name, figure, words)

    def _reads(
        self, place: Place, rounds: int, name: str, figure: str, words: tuple[Any, ...]
    ) -> None:
        workload, tree, paths, *options = words
        loads: dict[str, list[list[Result]]] = {"alone": [], "busy": [], "beside": []}
        for number in range(rounds):
            tell(f"reads beside a reclaim: {name}, round {number + 1}")
            self.fresh()
            with Ventifs(place) as server:

                def load(server: Server = server, seconds: float = LOAD_S) -> Result:
                    return server.load(workload, tree, paths, *options, "-s", seconds)

                load(seconds=3)  # warm
                alone = [load() for _ in range(ALONE)]
                with busy_loop():
                    loads["busy"].append([load() for _ in range(ALONE)])
                loads["beside"].append(self._during(load))
                loads["alone"].append(alone + [load() for _ in range(ALONE)])
        tell("")
        self.figures[f"reads: {name}"] = loads
        scale, unit = (1e6, "MB/s") if figure == "bytes_s" else (1, "/s")
        rates = {way: [middle(its, figure) for its in all_] for way, all_ in loads.items()}
        cpu = {way: [cpu_of_one(its) for its in all_] for way, all_ in loads.items()}
        line = f"  {name:26}{median(rates['alone']) / scale:9,.0f} {unit:4} alone"
        for way, said in (("busy", "beside a busy loop"), ("beside", "beside a reclaim")):
            share = median(one / al for one, al in zip(rates[way], rates["alone"], strict=True))
            each = median(one / al for one, al in zip(cpu[way], cpu["alone"], strict=True))
            line += f", {share:.2f} of it {said} (CPU of a reply {each:.2f} times)"
        print(line + "   (target: 0.9)", flush=True)


class SmallArchive:
    """A small directory that is archived into a repository, with its waits noted."""

    def __init__(self, scratch: Path, repo: Path) -> None:
        """Make the directory."""
        self._rng = random.Random(3)
        self._home = Path(tempfile.mkdtemp(prefix="small-", dir=scratch))
        self._source = self._home / "source"
        self._source.mkdir()
        for number in range(40):
            (self._source / f"file{number}").write_bytes(self._rng.randbytes(20_000))
        self._tool = Tool("ventifs", self._home)
        self._tool.home.mkdir()
        self._tool.repo = repo

    def run(self) -> Small:
        """Change a file, and archive."""
        (self._source / f"file{self._rng.randrange(40)}").write_bytes(self._rng.randbytes(20_000))
        notes = self._home / "waits"
        notes.write_bytes(b"")
        cost = self._tool.finish(self._tool.start("waiting", self._source, waits=str(notes)))
        return Small(cost.wall_s, read_waits(notes))


@contextmanager
def busy_loop() -> Iterator[None]:
    """A process that takes a core, meanwhile."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def middle(loads: list[Result], figure: str) -> float:
    """The median of a figure."""
    return median(float(load[figure]) for load in loads)


def cpu_of_one(loads: list[Result]) -> float:
    """The median of the server's CPU time for one reply."""
    return median(float(load["server_cpu_s"]) / max(float(load["ops"]), 1) for load in loads)
