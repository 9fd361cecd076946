"""Archiving and restoring a real guest root: ventifs beside borg, restic, tar | zstd and find.

The tools take turns in every round, on the same directory, with warm caches, and each with its
default durability; written data is synced between runs, outside the timing. Figures are medians,
and a ratio is the median of the rounds' own ratios, so that it holds when the machine's speed
drifts. Wall time is that of one command with its start-up; CPU is the user and system time of the
command and of all processes that it has waited for. Memory is the peak of the sum of all its
processes' PSS; it is measured in separate runs, since sampling it costs time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tools.bench.archivers import Run, Tool, Turns, remove

SHORT_RUNS = 3  # runs in each round of a task that takes about a second

TARGETS = {
    ("first", "borg"): "wall 2.5, aim 4; size at most borg's",
    ("first", "restic"): "wall 3, aim 5",
    ("first", "tar|zstd"): "wall 1, aim 1.5",
    ("unchanged", "borg"): "wall 8",
    ("unchanged", "restic"): "wall 8",
    ("unchanged", "find"): "wall 0.33, aim 0.5",
    ("changed", "borg"): "CPU 2.5; growth at most borg's",
    ("restore", "borg"): "wall 2",
    ("restore", "tar|zstd"): "wall 1",
    ("memory", "ventifs"): "under 300 MiB",
}


class Bench(Turns):
    """All parts, below one directory on the disk to measure."""

    def __init__(self, roots: Path, scratch: Path, rounds: int) -> None:
        """Read both roots once, so that the page cache holds them."""
        super().__init__(scratch, TARGETS)
        self.root1, self.root2 = roots / "root1", roots / "root2"
        self.into = scratch / "restored"
        self.rounds = rounds
        self.archived = False
        for root in (self.root1, self.root2):
            subprocess.run(
                ["find", root, "-type", "f", "-exec", "cat", "{}", "+"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        kinds = subprocess.run(
            ["find", self.root1, "-printf", "%y"], check=True, capture_output=True, text=True
        ).stdout
        self.paths = range(len(kinds) - kinds.count("s"), len(kinds) + 1)  # some leave out sockets

    def first(self) -> None:
        """Archive root1 into an empty repository; keep the last repository for the other parts."""
        names = ("ventifs", "borg", "restic", "tar|zstd")
        self.measure("first", names, self._first, self.rounds)
        self._keep(names)

    def _first(self, tool: Tool) -> Run:
        tool.fresh()
        run = tool.run("archive", self.root1)
        size, arenas = tool.sizes()
        return Run(run.wall_s, run.cpu_s, 0, size, arenas)

    def _keep(self, names: Iterable[str]) -> None:
        for name in names:
            self.tools[name].keep()
        self.archived = True

    def _archive_root1(self) -> None:
        """Archive root1 in every repository, without measuring, unless `first` did."""
        if not self.archived:
            names = ("ventifs", "borg", "restic", "tar|zstd")
            for name in names:
                self._first(self.tools[name])
            self._keep(names)
        self.tools["find"].fresh()

    def unchanged(self) -> None:
        """Archive root1 again."""
        self._archive_root1()

        def again(tool: Tool) -> Run:
            return tool.run("archive", self.root1)

        for name in ("ventifs", "borg", "restic"):
            self.tools[name].bring_back()
            again(self.tools[name])  # no tool caches what changed just before a run
        names = ("ventifs", "borg", "restic", "find")
        self.measure("unchanged", names, again, self.rounds * SHORT_RUNS)

    def changed(self) -> None:
        """Archive root2, all of whose inodes are new, after root1."""
        self._archive_root1()

        def second(tool: Tool) -> Run:
            tool.bring_back()
            size, arenas = tool.sizes()
            run = tool.run("archive", self.root2)
            after, arenas_after = tool.sizes()
            return Run(run.wall_s, run.cpu_s, 0, after - size, arenas_after - arenas)

        self.measure("changed", ("ventifs", "borg", "restic"), second, self.rounds)

    def restore(self) -> None:
        """Restore root1 into an empty directory."""
        self._archive_root1()
        for tool in self.tools.values():
            if tool.kept.exists():
                tool.bring_back()
        names = ("ventifs", "borg", "restic", "tar|zstd")
        self.measure("restore", names, self._restore, self.rounds)

    def _restore(self, tool: Tool, *, sampling: bool = False) -> Run:
        self.into.mkdir()
        run = tool.run("restore", self.root1, self.into, sampling=sampling)
        found = subprocess.run(
            ["find", self.into, "-printf", "x"], check=True, capture_output=True
        ).stdout
        if len(found) not in self.paths:
            sys.exit(f"{tool.name} restored {len(found)} paths, not {self.paths[-1]}")
        remove(self.into)
        return run

    def memory(self) -> None:
        """Measure peak memory of a first archive, an unchanged one, and a restore."""
        names = ("ventifs", "borg", "restic")

        def archive(tool: Tool) -> Run:
            return tool.run("archive", self.root1, sampling=True)

        def first(tool: Tool) -> Run:
            tool.fresh()
            return archive(tool)

        self.measure("memory, first", names, first, 1)
        self.measure("memory, unchanged", names, archive, 1)
        self.measure("memory, restore", names, lambda tool: self._restore(tool, sampling=True), 1)


def main() -> None:
    """Parse arguments, run the parts."""
    parts = ("first", "unchanged", "changed", "restore", "memory")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("roots", type=Path, help="what tools/roots has made")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
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
        bench = Bench(arguments.roots, Path(scratch), arguments.rounds)
        print(f"{bench.paths[-1]:,} paths, {os.cpu_count()} cores")
        for part in parts:
            if part in chosen:
                getattr(bench, part)()
    if arguments.json:
        runs = {
            part: {name: [asdict(run) for run in runs] for name, runs in results.items()}
            for part, results in bench.runs.items()
        }
        arguments.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
