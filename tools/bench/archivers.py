"""The archivers that are compared, as shell lines, and the cost of one run of such a line.

Each tool keeps its repository, caches and settings below a directory of its own, and has its
default durability; written data is synced between runs, outside the timing. Wall time is that of
one command with its start-up; CPU is the user and system time of the command and of all processes
that it has waited for. Memory is the peak of the sum of all its processes' PSS; it is measured in
separate runs, since sampling it costs time.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

SAMPLES_EVERY_S = 0.02
Targets = dict[tuple[str, str], str]  # by part and tool

# The tasks of each tool, as shell lines: `$repo` is its repository, `$root` the directory or
# image to archive and `$into` an empty directory. The last three are those of history.py: a night's
# version of the source `$name` at `$time`, `$fate` being kept or gone; then what is gone is
# forgotten, and its space given back but for `$unused` per cent.
LINES = {
    "ventifs": {
        "init": "exec env VENTIFS_RESERVE=0 ventifs init --store $repo",
        "archive": "exec ventifs archive $root --name root --store $repo",
        "image": "exec ventifs archive $root --name vm7 --store $repo",
        "image, all read": "exec ventifs archive $root --name vm7 --no-cache --store $repo",
        "restore": "exec ventifs restore root $into --store $repo",
        "night": "exec ventifs archive $root --name $name --time $time --tag $fate --store $repo",
        "thin": "exec ventifs forget --keep-tag kept --store $repo",
        "reclaim": "exec ventifs reclaim --max-unused $unused% --store $repo --json",
        "command": "exec ventifs $words",
        "waiting": "exec python -m tools.bench.waits $waits"
        " archive $root --name small --store $repo",
    },
    "borg": {
        "init": "exec borg init --encryption none $repo",
        "archive": "cd $root; exec borg create --compression zstd,3 $repo::{utcnow:%s.%f} .",
        "image": "exec borg create --compression zstd,3 $repo::{utcnow:%s.%f} $root",
        "image, all read": "exec borg create --compression zstd,3 --files-cache disabled"
        " $repo::{utcnow:%s.%f} $root",
        "restore": "cd $into; exec borg extract $repo::$(borg list --last 1 --short $repo)",
        "night": "exec borg create --compression zstd,3 --timestamp ${time%Z}"
        " $repo::$name-$time-$fate $root",
        "thin": "exec borg delete --glob-archives '*-gone' $repo",
        "reclaim": "exec borg compact --threshold $unused $repo",
        "info": "exec borg info --json $repo",
    },
    "restic": {
        "init": "exec restic init --repo $repo",
        "archive": "cd $root; exec restic backup --repo $repo .",
        "image": "exec restic backup --repo $repo $root",
        "image, all read": "exec restic backup --force --repo $repo $root",
        "restore": "exec restic restore latest --repo $repo --target $into",
        "night": 'time=${time/T/ }; exec restic backup --time "${time%Z}" --tag $fate'
        " --repo $repo $root",
        "thin": "exec restic forget --group-by '' --keep-tag kept --repo $repo",
        "reclaim": "exec restic prune --max-unused $unused% --repo $repo",
    },
    "casync": {
        "init": "mkdir $repo",
        "archive": "exec casync make --store=$repo/store $repo/$(date +%s%N).caidx $root",
        "image": "exec casync make --store=$repo/store $repo/$(date +%s%N).caibx $root",
        "image, all read": "exec casync make --store=$repo/store $repo/$(date +%s%N).caibx $root",
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


@dataclass(frozen=True)
class Run:
    """The cost of one run of a command; sizes in bytes."""

    wall_s: float
    cpu_s: float
    peak_pss: int = 0
    size: int = 0  # of the repository afterwards, or its growth
    arenas: int = 0  # the part of it in ventifs's arenas
    source: int = 0  # of what was archived, where the speed matters


class Started(NamedTuple):
    """A task that runs."""

    task: str
    child: "subprocess.Popen[bytes]"
    at: float  # of the clock for wall time

    def runs(self) -> bool:
        """Whether it has not ended yet; its cost is still to be had afterwards."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.child.pid, flags) is None


class Tool:
    """One tool; its repository, caches and settings are below one directory."""

    def __init__(self, name: str, scratch: Path, checkout: Path | None = None) -> None:
        """Make nothing yet; `checkout` is the source of another ventifs than this one."""
        self.name = name if checkout is None else "before"
        self.lines = LINES[name]
        self.checkout = checkout or Path.cwd()
        self.home = scratch / self.name
        self.kept = scratch / f"{self.name} kept"
        self.repo = self.home / "repo"
        self.log = scratch / "log"

    def run(
        self,
        task: str,
        root: Path,
        into: Path | None = None,
        *,
        sampling: bool = False,
        **values: str,
    ) -> Run:
        """Run a task, timed, or with its memory sampled; a failure ends the bench."""
        os.sync()
        return self.finish(self.start(task, root, into, **values), sampling=sampling)

    def start(self, task: str, root: Path, into: Path | None = None, **values: str) -> "Started":
        """Start a task, with more variables for its line; `finish` must follow."""
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
            "HOME": str(self.home),
            "repo": str(self.repo),
            "root": str(root),
            "into": str(into),
            "BORG_BASE_DIR": str(self.home),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": str(self.home / "cache"),
            "PYTHONPATH": str(self.checkout),
            **values,
        }
        with self.log.open("wb") as log:
            started = time.perf_counter()
            child = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", self.lines[task]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return Started(task, child, started)

    def finish(
        self, started: "Started", *, sampling: bool = False, allowed: Container[int] = (0,)
    ) -> Run:
        """Wait for a task to end; an exit code that is not allowed ends the bench."""
        child = started.child
        try:
            peak = sampled(child.pid) if sampling else 0
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:  # a signal does not reach a session of its own
            os.killpg(child.pid, signal.SIGKILL)
            raise
        wall_s = time.perf_counter() - started.at
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in allowed:
            said = self.log.read_text(errors="replace")
            sys.exit(f"{self.name} {started.task} failed with {child.returncode}:\n{said}")
        return Run(wall_s, usage.ru_utime + usage.ru_stime, peak)

    def fresh(self) -> None:
        """Make an empty repository."""
        remove(self.home)
        self.home.mkdir()
        if "init" in self.lines:
            self.run("init", self.home)

    def keep(self) -> None:
        """Copy the tool's directory, for `bring_back`."""
        remove(self.kept)
        copy(self.home, self.kept)

    def bring_back(self) -> None:
        """Restore the tool's directory as `keep` copied it."""
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
    """Sample a session until its leader ends; the peak of its processes' summed PSS, in bytes."""
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
    """The PSS of a process in bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


class Turns:
    """Tools that take turns, and the costs of all their runs."""

    def __init__(self, scratch: Path, targets: Targets) -> None:
        """Start without runs; targets are shown beside the figures."""
        self.tools = {name: Tool(name, scratch) for name in LINES}
        self.runs: dict[str, dict[str, list[Run]]] = {}
        self.targets = targets

    def measure(
        self, part: str, names: Iterable[str], run: Callable[[Tool], Run], rounds: int
    ) -> None:
        """Measure the tools by turns, and print a part."""
        results: dict[str, list[Run]] = {name: [] for name in names}
        for number in range(rounds):
            for name, runs in results.items():
                print(f"\r\033[K{part}: {name}, round {number + 1}", end="", file=sys.stderr)
                runs.append(run(self.tools[name]))
        print("\r\033[K", end="", file=sys.stderr)
        self.runs[part] = results
        show(part, results, self.targets)


def show(part: str, results: dict[str, list[Run]], targets: Targets) -> None:
    """Print a part's lines; `times` is another tool's cost as a multiple of ventifs's."""
    print(f"{part}, {len(results['ventifs'])} runs of each")
    ours = results["ventifs"]
    for name, runs in results.items():
        if part.startswith("memory"):
            peak = f"{max(run.peak_pss for run in runs) / 2**20:8,.0f} MiB"
            print(f"  {name:10}{peak}  {targets.get(('memory', name), '')}".rstrip(), flush=True)
            continue
        wall = median(run.wall_s for run in runs)
        cpu = median(run.cpu_s for run in runs)
        line = f"  {name:10}{wall:8.2f} s wall {cpu:8.2f} s CPU"
        if runs[0].source:
            line += f" {median(run.source / run.wall_s for run in runs) / 1e9:6.2f} GB/s"
        if runs[0].size:
            line += f" {median(run.size for run in runs) / 1e6:9.1f} MB"
        if runs[0].arenas:
            line += f", arenas {median(run.arenas for run in runs) / 1e6:.1f} MB"
        target = targets.get((part, name), "")
        if name != "ventifs":
            pairs = list(zip(runs, ours, strict=True))
            wall = median(their.wall_s / our.wall_s for their, our in pairs)
            cpu = median(their.cpu_s / our.cpu_s for their, our in pairs)
            line += f"   times: wall {wall:.2f}, CPU {cpu:.2f}"
        line += f"   (target: {target})" if target else ""
        print(line, flush=True)
