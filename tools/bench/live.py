"""Live trees: `ventifs serve --live` beside diod on the same directory, each at its largest msize.

Rows named `raw` are a generator's (load.c), as user 1000, over a Unix socket: what the server
itself can do. Rows named `guest` are a User-mode Linux guest's own programs on mounts of both
servers (live_guest.py), rows named `tcg` those of an emulated guest beside QEMU's virtio-9p
(live_tcg.py), which has no bound. `memory` is what sessions and fids take.

The servers take turns in every round; rounds.py says what a row has. diod 1.0.24 has no Tunlinkat,
so that `raw create` gives it what Linux falls back to; `raw create by Tremove` gives that to both.
With `--again` diod is measured beside itself: what ratios are on this machine without any reason.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.support import qemu, segment, uml
from tests.support.segment import missing_programs
from tools.bench import live_guest, live_tcg
from tools.bench.contestants import Diod, DiodAgain, Live, Place, Result, Server, compiled_load
from tools.bench.live_disk import USER, Contents, make_contents, mounted_disk
from tools.bench.ninep import make_files
from tools.bench.rounds import Rounds, Target, row

SHORT_ROUNDS = 3  # of the raw client for each of a guest's: they are short, and so vary more
READ = 65512  # diod's largest
TREE = "live"
FIDS = 100_000
SESSIONS = 64
PROGRAMS = ("diod", "fio", "dbench", "bonnie++", "postmark", "git")

CREATE: dict[int, Target] = {1: (0.8, "aim 1"), 16: (1.0, "aim 2; 5,000/s")}
CALLS: dict[int, Target] = {1: (0.9, ""), 8: (1.5, ""), 32: (2.0, "")}
CALL_NAMES = {"getattr": "getattr", "walk": "walk+clunk", "read": "read 64 KiB"}
RAW: dict[str, Target] = {
    **{f"raw create depth {depth}": target for depth, target in CREATE.items()},
    **{f"raw create by Tremove depth {depth}": target for depth, target in CREATE.items()},
    **{
        f"raw {name} depth {depth}": target
        for name in CALL_NAMES.values()
        for depth, target in CALLS.items()
    },
}
MEMORY = ("memory: an idle export", "memory: a session", "memory: a fid")
TARGETS = {**RAW, **live_guest.TARGETS, **live_tcg.TARGETS}


class Bench(Rounds):
    """The raw client's rows and memory, on one tree."""

    def __init__(
        self, contents: Contents, scratch: Path, options: argparse.Namespace, chosen: set[str]
    ) -> None:
        """Take the tree, what to measure and how; compile the generator."""
        super().__init__(options.rounds, options.seconds, TARGETS)
        self.contents, self.chosen = contents, chosen
        self.ours: type[Server] = DiodAgain if options.again else Live
        self.place = Place(
            trees={TREE: contents.tree},
            store=scratch / "none",
            scratch=scratch,
            load=compiled_load(scratch),
            unix=True,
        )

    def raw(self) -> None:
        """Measure the raw client's rows."""
        if not self.chosen & set(RAW):
            return
        with Diod(self.place) as diod, self.ours(self.place) as ours:
            for depth in CREATE:
                theirs = "create-remove"
                mine = theirs if isinstance(ours, Diod) else "create"
                self._row(f"raw create depth {depth}", (ours, mine), (diod, theirs), depth)
            for depth in CREATE:
                name = f"raw create by Tremove depth {depth}"
                self._row(name, (ours, "create-remove"), (diod, "create-remove"), depth)
            for workload, name in CALL_NAMES.items():
                for depth in CALLS:
                    title = f"raw {name} depth {depth}"
                    self._row(title, (ours, workload), (diod, workload), depth)

    def _row(
        self, name: str, ours: tuple[Server, str], theirs: tuple[Server, str], depth: int
    ) -> None:
        if name not in self.chosen:
            return

        def run_of(server: Server, workload: str) -> Callable[[], Result]:
            paths = {"read": ["raw/large"]}.get(workload, self.contents.small)
            paths = ["raw"] if workload.startswith("create") else paths
            options = ("-u", USER, "-d", depth, "-m", server.msize_max, "-k", READ)
            timed = ("-s", self.seconds, *options)
            return lambda: server.load(workload, TREE, paths, *timed)

        figure = "bytes_s" if ours[1] == "read" else "ops_s"
        rounds = SHORT_ROUNDS * self.rounds
        self.compare(name, run_of(*ours), run_of(*theirs), theirs[0].name, figure, rounds)

    def memory(self) -> None:
        """Measure memory of an export that idles, of each session, and of each fid."""
        if not self.chosen & set(MEMORY):
            return
        many = self.contents.tree / "many"
        make_files(many, FIDS)
        for path in (many, *many.iterdir()):
            os.chown(path, USER, USER)
        user = ("-u", USER)
        with self.ours(self.place) as server:
            server.load("getattr", TREE, self.contents.small[:1], *user, "-s", 0.2)
            idle = server.resident()
            row(MEMORY[0], f"{idle / 2**20:.1f} MiB", "all processes")
            held = server.resident_holding(
                "getattr", TREE, self.contents.small[:1], *user, "-c", SESSIONS, "-s", 0.2
            )
            session = (held - idle) / SESSIONS
            row(MEMORY[1], f"{session / 1024:.0f} KiB", "at most 60")
        with self.ours(self.place) as server:
            server.load("list", TREE, ["many"], *user, "-d", 8)
            before = server.resident()
            held = server.resident_holding("fids", TREE, ["many"], *user, "-n", FIDS, "-d", 8)
            fid = (held - before) / FIDS
            row(MEMORY[2], f"{fid:.0f} bytes", f"at most 300; {FIDS:,} different files")
        self.results["memory"] = {"idle": idle, "session": session, "fid": fid}


def chosen_rows(only: str) -> set[str]:
    """The rows whose names begin with one of these, which commas separate.

    Raises:
        ValueError: no row's name begins with one of them, which is the message.
    """
    names, chosen = [*TARGETS, *MEMORY], set()
    for prefix in only.split(","):
        found = {name for name in names if name.startswith(prefix)}
        if not found:
            raise ValueError(prefix)
        chosen |= found
    return chosen


def why_not(chosen: set[str]) -> str:
    """Why the rows cannot be measured here; empty if they can."""
    if os.geteuid():
        return "only root mounts disks and acts for other users"
    in_guests = chosen & set(live_guest.TARGETS) and (segment.why_not() or uml.why_not())
    emulated = chosen & set(live_tcg.TARGETS) and (segment.why_not() or qemu.why_not())
    missing = " ".join(missing_programs(PROGRAMS))
    return in_guests or emulated or (f"needs {missing}" if missing else "")


def parsed() -> tuple[argparse.Namespace, set[str]]:
    """The arguments, and the rows that they choose."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("root", type=Path, help="a Debian root")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="thrice as many raw")
    parser.add_argument(
        "--seconds", type=float, default=0.5, metavar="S", help="of each run of the raw client"
    )
    parser.add_argument(
        "--scale", type=float, default=1, metavar="SHARE", help="of what guests do: 0.01 to try"
    )
    parser.add_argument("--cache", default="none", metavar="KIND", help="the guests' mount option")
    parser.add_argument(
        "--sharing",
        choices=("shared", "exclusive"),
        default="shared",
        help="of the guests' export; exclusive goes with --cache mmap or loose",
    )
    parser.add_argument("--on", type=Path, metavar="DIRECTORY", help="where to work")
    parser.add_argument(
        "--only",
        default="raw,guest,tcg,memory",
        metavar="ROW,...",
        help="how names of rows begin",
    )
    parser.add_argument("--again", action="store_true", help="diod beside diod")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run here too")
    options = parser.parse_args()
    try:
        chosen = chosen_rows(options.only)
    except ValueError as unknown:
        parser.error(
            f"no row begins with {unknown}; rows are:\n  " + "\n  ".join([*TARGETS, *MEMORY])
        )
    return options, chosen


def main() -> None:
    options, chosen = parsed()
    if why := why_not(chosen):
        sys.exit(f"tools/bench/live: {why}")
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=options.on) as scratch,
        mounted_disk(Path(scratch)) as top,
    ):
        guests = chosen & {*live_guest.TARGETS, *live_tcg.TARGETS}
        contents = make_contents(
            options.root.absolute(), top, Path(scratch), options.scale, whole=bool(guests)
        )
        print(
            f"{os.cpu_count()} cores, {options.rounds} rounds; raw {options.seconds:g} s over Unix "
            f"sockets; guests {options.scale:g}, {options.sharing}, cache={options.cache}; medians"
        )
        bench = Bench(contents, Path(scratch), options, chosen)
        bench.raw()
        live_guest.measure(bench, chosen, contents, options)
        live_tcg.measure(bench, chosen, contents, options)
        bench.memory()
    if options.json:
        options.json.write_text(json.dumps(bench.results, indent=1) + "\n")


if __name__ == "__main__":
    main()
