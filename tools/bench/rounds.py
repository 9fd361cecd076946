"""Servers that are measured by turns, and the rows that show them.

A row has the medians of both, and the median of the rounds' own ratios, so that it holds when the
machine's speed drifts. A ratio above 1 means that ventifs was faster. Then come the target and
what the replies cost.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from statistics import median

from tools.bench.contestants import Result, Server

Runs = dict[str, list[Result]]  # by the contestant's name, the other's first
Target = tuple[float, str]  # the least ratio, 0 for none; and what is aimed at, or a remark
UNITS = {"bytes_s": (1e6, "MB/s"), "seconds": (1, "s")}  # others are rates


class Rounds:
    """Compares ventifs with another contestant, in rounds, and keeps all results."""

    def __init__(self, rounds: int, seconds: float, targets: Mapping[str, Target]) -> None:
        """Take the number of rounds, the time of each load, and the targets by row."""
        self.rounds, self.seconds, self.targets = rounds, seconds, targets
        self.results: dict[str, object] = {}

    def compare(
        self,
        name: str,
        ours: Callable[[], Result],
        theirs: Callable[[], Result],
        other: str,
        figure: str = "ops_s",
        rounds: int = 0,
    ) -> None:
        """Measure by turns, and print a row."""
        runs: Runs = {other: [], "ventifs": []}
        for number in range(rounds or self.rounds):
            tell(f"{name}, round {number + 1}")
            runs[other].append(theirs())
            runs["ventifs"].append(ours())
        tell("")
        self.results[name] = runs
        show(name, runs, figure, self.targets[name])

    def rates(
        self,
        name: str,
        workload: str,
        one: Server,
        other: Server,
        paths: list[str],
        *options: object,
        tree: str = "root",
        figure: str = "ops_s",
    ) -> None:
        """Compare two running servers by one workload."""

        def run_of(server: Server) -> Callable[[], Result]:
            return lambda: server.load(workload, tree, paths, "-s", self.seconds, *options)

        self.compare(name, run_of(one), run_of(other), other.name, figure)


def tell(what: str) -> None:
    """Show the current step, if standard error is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr)


def row(name: str, figure: str, target: str) -> None:
    """Print a line of the table."""
    print(f"{name:46}{figure:>16}" + (f"   ({target})" if target else ""), flush=True)


def show(name: str, runs: Runs, figure: str, target: Target) -> None:
    """Print a comparison of two servers; in pairs of figures, ours comes first."""
    other = next(iter(runs))
    scale, unit = UNITS.get(figure, (1, "/s"))
    medians = {who: median(result[figure] for result in its) / scale for who, its in runs.items()}
    quotients = [
        our[figure] / their[figure] for our, their in zip(runs["ventifs"], runs[other], strict=True)
    ]
    ratio = median(1 / quotient if figure == "seconds" else quotient for quotient in quotients)
    least, more = target
    verdict = "BELOW" if least and ratio < least else ""
    said = ", ".join(filter(None, (f"{least:g}" if least else "", more)))
    style = ",.2f" if figure == "seconds" else ",.0f"
    ours, theirs = f"{medians['ventifs']:>8{style}}", f"{medians[other]:>7{style}}"
    line = f"{name:32}{ours} {unit:5}{other:>12} {theirs}"
    print(f"{line} {ratio:6.2f} ({said}) {verdict:5}".ljust(101) + costs(runs), flush=True)


def costs(runs: Runs) -> str:
    """The p99s, each server's CPU time per reply, and the generator's in per cent of ours.

    Of what a guest did, which counts no replies: each server's CPU seconds.
    """
    ours_first = [its for its in reversed(runs.values()) if "server_cpu_s" in its[0]]
    if not ours_first:
        return ""
    if "p99_us" not in ours_first[0][0]:
        cpu = [f"{median(result['server_cpu_s'] for result in its):.2f}" for its in ours_first]
        return f"CPU {' '.join(cpu)} s"
    p99 = [f"{median(result['p99_us'] for result in its):,.0f}" for its in ours_first]
    cpu = [f"{median(cpu_us(result) for result in its):.1f}" for its in ours_first]
    load = median(
        result["cpu_total_s"] / max(result["server_cpu_s"], 0.01) for result in ours_first[0]
    )
    return f"p99 {' '.join(p99)} us, CPU {' '.join(cpu)} us, load {load:.0%}"


def cpu_us(result: Result) -> float:
    """A server's CPU time per reply in microseconds, including set-up and warming."""
    return float(result["server_cpu_s"]) * 1e6 / int(result["replies_total"])


def run(command: list[str]) -> None:
    """Run a command that must succeed, without its output."""
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{command[0]} failed with {done.returncode}:\n{done.stdout}")
