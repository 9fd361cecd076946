"""Archiving and restoring a real guest root: ventifs beside borg, restic, tar | zstd and find.

The tools take turns in every round, on the same directory, with warm caches and each with its own
default durability; what is written is synced between runs, outside the timing. Figures are medians,
and a ratio is the median of the rounds' own ratios, so that it holds when the machine's speed
drifts. Wall time is that of one command with its start-up; CPU is user and system time of it and of
all processes that it has waited for. Memory is the peak of the sum of all its processes' PSS, in
runs of their own, since looking at it costs time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

SAMPLES_EVERY_S = 0.02
SHORT_RUNS = 3  # so many runs in each round for what takes a second

# What each tool is told, as shell lines: `$repo` is its repository, `$root` what to archive and
# `$into` an empty directory.
LINES = {
    "ventifs": {
        "init": "exec ventifs init --store $repo",
        "archive": "exec ventifs archive $root --name root --store $repo",
        "restore": "exec ventifs restore root $into --store $repo",
    },
    "borg": {
        "init": "exec borg init --encryption none $repo",
        "archive": "cd $root; exec borg create --compression zstd,3 $repo::{utcnow:%s.%f} .",
        "restore": "cd $into; exec borg extract $repo::$(borg list --last 1 --short $repo)",
    },
    "restic": {
        "init": "exec restic init --repo $repo",
        "archive": "cd $root; exec restic backup --repo $repo .",
        "restore": "exec restic restore latest --repo $repo --target $into",
    },
    "tar|zstd": {
        "init": "mkdir $repo",
        "archive": "tar -C $root -c . | zstd -q -3 -T2 -o $repo/tar.zst",
        "restore": "zstd -q -d -c $repo/tar.zst | tar -C $into -x",
    },
    "find": {
        "archive": r"exec find $root -printf '%p %i %s %T@ %C@\n' > /dev/null",
    },
}

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


@dataclass(frozen=True)
class Run:
    """What one run of a command took; sizes in bytes."""

    wall_s: float
    cpu_s: float
    peak_pss: int = 0
    size: int = 0  # of the repository afterwards, or what it has grown by
    arenas: int = 0  # the part of it in ventifs's arenas


class Tool:
    """One contestant and its repository, with all that it keeps elsewhere, below one directory."""

    def __init__(self, name: str, scratch: Path) -> None:
        """Nothing is made yet."""
        self.name = name
        self.home = scratch / name
        self.kept = scratch / f"{name} kept"
        self.repo = self.home / "repo"
        self.log = scratch / "log"

    def run(
        self, task: str, root: Path, into: Path | None = None, *, sampling: bool = False
    ) -> Run:
        """Run a task's line, timed, or with its memory sampled; it must succeed."""
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8",
            "HOME": str(self.home), "repo": str(self.repo), "root": str(root), "into": str(into),
            "BORG_BASE_DIR": str(self.home), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(self.home / "cache"),
        }  # fmt: skip
        os.sync()
        with self.log.open("wb") as log:
            started = time.perf_counter()
            child = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", LINES[self.name][task]], env=environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            peak = sampled(child.pid) if sampling else 0
            _, status, usage = os.wait4(child.pid, 0)
            wall_s = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said = self.log.read_text(errors="replace")
            sys.exit(f"{self.name} {task} failed with {child.returncode}:\n{said}")
        return Run(wall_s, usage.ru_utime + usage.ru_stime, peak)

    def fresh(self) -> None:
        """Make an empty repository."""
        remove(self.home)
        self.home.mkdir()
        if "init" in LINES[self.name]:
            self.run("init", self.home)

    def keep(self) -> None:
        """Put a copy of everything aside."""
        remove(self.kept)
        copy(self.home, self.kept)

    def bring_back(self) -> None:
        """Be as when `keep` was called."""
        remove(self.home)
        copy(self.kept, self.home)

    def sizes(self) -> tuple[int, int]:
        """(apparent bytes of the repository's files, those of them in arenas)."""
        return bytes_below(self.repo), bytes_below(self.repo / "arenas")


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)


def remove(path: Path) -> None:
    subprocess.run(["rm", "-rf", path], check=True)


def bytes_below(directory: Path) -> int:
    """The apparent size of all files below a directory that may be missing."""
    return sum(file.lstat().st_size for file in directory.rglob("*") if file.is_file())


def sampled(leader: int) -> int:
    """The peak PSS of a session's processes together until its leader has ended, in bytes."""
    peak = 0
    while os.waitid(os.P_PID, leader, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        peak = max(peak, sum(pss(pid) for pid in session(leader)))
        time.sleep(SAMPLES_EVERY_S)
    return peak


def session(leader: int) -> Iterable[int]:
    """The processes of a session."""
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and os.getsid(int(name)) == leader:
                yield int(name)
        except ProcessLookupError:
            continue


def pss(pid: int) -> int:
    """A process's share of the memory it uses, in bytes; none once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


class Bench:
    """All parts, below one directory on the disk to measure."""

    def __init__(self, roots: Path, scratch: Path, rounds: int) -> None:
        """Read both roots once, so that the page cache holds them."""
        self.root1, self.root2 = roots / "root1", roots / "root2"
        self.into = scratch / "restored"
        self.rounds = rounds
        self.tools = {name: Tool(name, scratch) for name in LINES}
        self.runs: dict[str, dict[str, list[Run]]] = {}
        self.archived = False
        for root in (self.root1, self.root2):
            subprocess.run(["find", root, "-type", "f", "-exec", "cat", "{}", "+"], check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip
        kinds = subprocess.run(["find", self.root1, "-printf", "%y"], check=True,
                               capture_output=True, text=True).stdout  # fmt: skip
        self.paths = range(len(kinds) - kinds.count("s"), len(kinds) + 1)  # some leave out sockets

    def measure(
        self, part: str, names: Iterable[str], run: Callable[[Tool], Run], rounds: int
    ) -> None:
        """Let the tools take turns."""
        results: dict[str, list[Run]] = {name: [] for name in names}
        for number in range(rounds):
            for name, runs in results.items():
                print(f"\r\033[K{part}: {name}, round {number + 1}", end="", file=sys.stderr)
                runs.append(run(self.tools[name]))
        print("\r\033[K", end="", file=sys.stderr)
        self.runs[part] = results
        show(part, results)

    def first(self) -> None:
        """Archive root1 into an empty repository; the last one is kept for the other parts."""
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
        """Have root1 in every repository, and in no run's figures."""
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
            again(self.tools[name])  # none caches what changed just before it was archived
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
        """Bring root1 back to an empty directory."""
        self._archive_root1()
        for tool in self.tools.values():
            if tool.kept.exists():
                tool.bring_back()
        names = ("ventifs", "borg", "restic", "tar|zstd")
        self.measure("restore", names, self._restore, self.rounds)

    def _restore(self, tool: Tool, *, sampling: bool = False) -> Run:
        self.into.mkdir()
        run = tool.run("restore", self.root1, self.into, sampling=sampling)
        found = subprocess.run(["find", self.into, "-printf", "x"], check=True,
                               capture_output=True).stdout  # fmt: skip
        if len(found) not in self.paths:
            sys.exit(f"{tool.name} restored {len(found)} paths, not {self.paths[-1]}")
        remove(self.into)
        return run

    def memory(self) -> None:
        """Peak memory of a first archive, an unchanged one, and a restore."""
        names = ("ventifs", "borg", "restic")

        def archive(tool: Tool) -> Run:
            return tool.run("archive", self.root1, sampling=True)

        def first(tool: Tool) -> Run:
            tool.fresh()
            return archive(tool)

        self.measure("memory, first", names, first, 1)
        self.measure("memory, unchanged", names, archive, 1)
        self.measure("memory, restore", names, lambda tool: self._restore(tool, sampling=True), 1)


def show(part: str, results: dict[str, list[Run]]) -> None:
    """Print a part's lines; `times` say how many times as much as ventifs another tool takes."""
    print(f"{part}, {len(results['ventifs'])} runs of each")
    ours = results["ventifs"]
    for name, runs in results.items():
        if part.startswith("memory"):
            peak = f"{max(run.peak_pss for run in runs) / 2**20:8,.0f} MiB"
            print(f"  {name:10}{peak}  {TARGETS.get(('memory', name), '')}".rstrip(), flush=True)
            continue
        wall = median(run.wall_s for run in runs)
        cpu = median(run.cpu_s for run in runs)
        line = f"  {name:10}{wall:8.2f} s wall {cpu:8.2f} s CPU"
        if runs[0].size:
            line += f" {median(run.size for run in runs) / 1e6:9.1f} MB"
        if runs[0].arenas:
            line += f", arenas {median(run.arenas for run in runs) / 1e6:.1f} MB"
        if name != "ventifs":
            pairs = list(zip(runs, ours, strict=True))
            wall = median(their.wall_s / our.wall_s for their, our in pairs)
            cpu = median(their.cpu_s / our.cpu_s for their, our in pairs)
            target = TARGETS.get((part, name), "")
            line += f"   times: wall {wall:.2f}, CPU {cpu:.2f}"
            line += f"   (target: {target})" if target else ""
        print(line, flush=True)


def main() -> None:
    """Parse arguments, run the parts."""
    parts = ("first", "unchanged", "changed", "restore", "memory")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("roots", type=Path, help="what tools/roots has made")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--on", type=Path, metavar="DIRECTORY",
                        help="where to work (default: a temporary directory)")  # fmt: skip
    parser.add_argument("--only", default=",".join(parts), metavar="PART,...",
                        help=f"of {', '.join(parts)}")  # fmt: skip
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
        runs = {part: {name: [asdict(run) for run in runs] for name, runs in results.items()}
                for part, results in bench.runs.items()}  # fmt: skip
        arguments.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
