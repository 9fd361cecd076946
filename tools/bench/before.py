"""What a change costs: archiving, restoring and serving by this checkout and by an earlier one.

Both work on the same directories and take turns, so that each pair of runs sees the same machine.
A row has both medians, then the median, least and greatest of the pairs' own ratios. A ratio above
1 means that this checkout is faster. `SLOWER` marks a row whose upper quartile is below 1: the
spread of the pairs does not explain that loss.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

from tools.bench.archivers import Run, Tool, remove
from tools.bench.contestants import Before, Result, Ventifs
from tools.bench.ninep import DEPTHS, ENTRIES, LARGE, READ_SMALL, Bench
from tools.bench.rounds import tell

PARTS = ("archive", "serve")
UNITS = {"ops_s": "/s", "bytes_s": "MB/s"}


def pairs(
    title: str, unit: str, before: Callable[[], float], after: Callable[[], float], count: int
) -> None:
    """Run `count` pairs and print their row; the figures are seconds or rates, by `unit`."""
    befores, afters = [], []
    for number in range(count):
        tell(f"{title}, pair {number + 1}")
        # Every other pair begins with this checkout, so that its order gives no advantage.
        if number % 2:
            afters.append(after())
            befores.append(before())
        else:
            befores.append(before())
            afters.append(after())
    tell("")
    lower_is_better = unit == "s"
    ratios = [
        old / new if lower_is_better else new / old
        for old, new in zip(befores, afters, strict=True)
    ]
    slower = "SLOWER" if quantiles(ratios, n=4)[2] < 1 else ""
    style = ",.2f" if lower_is_better else ",.0f"
    print(
        f"{title:26}{median(befores):>12{style}} -> {median(afters):<11{style}}{unit:5}"
        f"{median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f}) {slower}".rstrip(),
        flush=True,
    )


def archive(roots: Path, scratch: Path, checkout: Path, count: int) -> None:
    """Measure CPU and wall time of a first, an unchanged and a changed archive, and a restore."""
    before, after = Tool("ventifs", scratch, checkout), Tool("ventifs", scratch)
    into = scratch / "restored"

    def first(tool: Tool) -> Run:
        tool.fresh()
        return tool.run("archive", roots / "root1")

    def unchanged(tool: Tool) -> Run:
        return tool.run("archive", roots / "root1")

    def changed(tool: Tool) -> Run:
        tool.bring_back()
        return tool.run("archive", roots / "root2")

    def restore(tool: Tool) -> Run:
        into.mkdir()
        run = tool.run("restore", roots / "root1", into)
        remove(into)
        return run

    def rows(title: str, run: Callable[[Tool], Run]) -> None:
        walls: dict[str, list[float]] = {"before": [], "ventifs": []}

        def cpu(tool: Tool) -> Callable[[], float]:
            def seconds() -> float:
                done = run(tool)
                walls[tool.name].append(done.wall_s)
                return done.cpu_s

            return seconds

        pairs(f"{title}, CPU", "s", cpu(before), cpu(after), count)
        old, new = iter(walls["before"]), iter(walls["ventifs"])
        pairs(f"{title}, wall", "s", lambda: next(old), lambda: next(new), count)

    rows("first", first)
    for tool in (before, after):
        tool.keep()
        unchanged(tool)  # no run caches what changed just before it started
    rows("unchanged", unchanged)
    rows("changed", changed)
    for tool in (before, after):
        tool.bring_back()
    rows("restore", restore)


def serve(bench: Bench, checkout: Path, count: int) -> None:
    """Measure rates of getattr, walk, reads of cached files, listings, and first reads."""
    with Before(bench.place, checkout) as before, Ventifs(bench.place) as after:

        def row(
            title: str,
            workload: str,
            paths: list[str],
            *options: object,
            tree: str = "root",
            figure: str = "ops_s",
        ) -> None:
            def rate_of(server: Ventifs) -> Callable[[], float]:
                timed = ("-s", bench.seconds, *options)
                return lambda: rate(server.load(workload, tree, paths, *timed), figure)

            pairs(title, UNITS[figure], rate_of(before), rate_of(after), count)

        for title, workload in (("getattr", "getattr"), ("walk+clunk", "walk")):
            for depth in DEPTHS:
                row(f"{title}, depth {depth}", workload, bench.small, "-d", depth)
        for server in (before, after):  # verifies every byte, and brings it into memory
            server.load("sequential", "root", bench.large[-1:], "-v", bench.place.trees["root"])
        for depth in (1, 8):
            for title, options in (("65,512", ("-k", READ_SMALL)), ("512 KiB", LARGE)):
                row(
                    f"read {title}, depth {depth}",
                    "read",
                    bench.large[-1:],
                    "-d",
                    depth,
                    *options,
                    figure="bytes_s",
                )
        for depth in (1, 8):
            row(f"list {ENTRIES:,}, depth {depth}", "list", ["many"], "-d", depth, tree="synthetic")

    def first_read(make: Callable[[], Ventifs]) -> Callable[[], float]:
        def run() -> float:
            with make() as server:
                return rate(server.load("sequential", "root", bench.large, *LARGE), "bytes_s")

        return run

    pairs(
        "first read, real files",
        UNITS["bytes_s"],
        first_read(lambda: Before(bench.place, checkout)),
        first_read(lambda: Ventifs(bench.place)),
        count,
    )


def rate(result: Result, figure: str) -> float:
    """A figure of a run in its unit."""
    return float(result[figure]) / (1e6 if figure == "bytes_s" else 1)


def main() -> None:
    """Parse arguments, run the parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("roots", type=Path, help="what tools/roots has made")
    parser.add_argument("checkout", type=Path, help="of the earlier ventifs, as git clone makes it")
    parser.add_argument("--pairs", type=int, default=10, metavar="N")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="of each 9P run")
    parser.add_argument(
        "--on",
        type=Path,
        metavar="DIRECTORY",
        help="where to work (default: a temporary directory)",
    )
    parser.add_argument(
        "--only", default=",".join(PARTS), metavar="PART,...", help=f"of {', '.join(PARTS)}"
    )
    arguments = parser.parse_args()
    chosen, checkout = arguments.only.split(","), arguments.checkout.absolute()
    if not set(chosen) <= set(PARTS):
        parser.error(f"--only takes {', '.join(PARTS)}")
    if not (checkout / "ventifs" / "cli" / "main.py").is_file():
        sys.exit(f"{arguments.checkout}: no checkout of ventifs; 'git clone . DIRECTORY' makes one")
    commit = subprocess.run(
        ["git", "-C", checkout, "log", "-1", "--format=%h"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    print(
        f"{commit} -> this checkout, {os.cpu_count()} cores, {arguments.pairs} pairs; medians, "
        "then the ratio (above 1: faster) and its range"
    )
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.on) as scratch:
        if "archive" in chosen:
            archive(arguments.roots, Path(scratch), checkout, arguments.pairs)
        if "serve" in chosen:
            place = Path(scratch, "serving")
            place.mkdir()
            serve(
                Bench(
                    arguments.roots.absolute() / "root1",
                    place,
                    unix=False,
                    rounds=arguments.pairs,
                    seconds=arguments.seconds,
                ),
                checkout,
                arguments.pairs,
            )


if __name__ == "__main__":
    main()
