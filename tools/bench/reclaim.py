"""Giving space back after versions were forgotten: ventifs beside restic prune and borg compact.

All three have archived the same nights and forgotten the same versions; see history.py. Every run
starts from a fresh copy of its repository, read once so that the page cache holds it, and runs
alone, with its default durability; written data is synced before. The tools take turns in every
round. Figures are medians, and a ratio is the median of the rounds' own ratios, so that it holds
when the machine's speed drifts. All three may leave 5 % unused: restic by default, ventifs too, and
borg compact by `--threshold 5` (its default of 10 would do less), which is per segment.

Unused space is what a second run that may leave nothing unused takes away after the first; so it
is measured the same way for all. Beside it stands what each tool says itself: ventifs in its plan,
restic by `prune`, borg as the bytes of its segments less those of all chunks that its archives
need.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from tools.bench.archivers import Run, Tool, bytes_below, remove
from tools.bench.beside import Beside
from tools.bench.history import TOOLS, History, Recipe, tell

UNUSED = "5"  # per cent
BORG_CHUNK_HEAD = 41  # bytes of each chunk in a segment, besides what `borg info` counts
NOISE = 1 << 30  # bytes; arenas have a quarter of it
NODES_A_SECOND = 300_000

Figures = dict[str, Any]


class Bench:
    """All parts, over the copies of one history."""

    def __init__(self, history: History, scratch: Path, rounds: int) -> None:
        """Measure nothing yet; `scratch` is for what parts need besides the history."""
        self.history, self.rounds, self.scratch = history, rounds, scratch
        self.tools, self.ours = history.tools, history.tools["ventifs"]
        self.figures: Figures = {"history": json.loads((history.work / "history.json").read_text())}

    def show_history(self) -> None:
        """Print what stands before any measurement."""
        made = self.history.made
        recipe, size = made.recipe, sum(made.sources.values())
        print(
            f"history: {recipe.nights} nights of {100 * recipe.change:g} % of {size / 1e6:,.0f} MB "
            f"in 6 sources; made in {made.seconds / 60:.1f} min"
        )
        for name in TOOLS:
            thin = made.thin[name]
            first, *others = made.archived_s[name]
            print(
                f"  {name:8} first night {first:6.1f} s, others {median(others):5.1f} s, forget "
                f"{thin.wall_s:5.1f} s wall {thin.cpu_s:5.1f} s CPU, {made.grown[name] / 1e6:8.1f} "
                f"MB before it, {thin.size / 1e6:8.1f} MB after",
                flush=True,
            )

    def fresh(self, name: str) -> Tool:
        """A tool with a fresh copy of its repository, which the page cache holds."""
        for each in self.tools.values():
            remove(each.home)
        tool = self.tools[name]
        tool.bring_back()
        subprocess.run(
            ["find", tool.home, "-type", "f", "-exec", "cat", "{}", "+"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        os.sync()
        return tool

    def reclaim(self, tool: Tool, *, sampling: bool = False, unused: str = UNUSED) -> Run:
        """Give a repository's space back; the run has the size that is left."""
        run = tool.run("reclaim", self.scratch, sampling=sampling, unused=unused)
        return Run(run.wall_s, run.cpu_s, run.peak_pss, *tool.sizes())

    def space(self) -> None:
        """Measure time and sizes by turns; then peak memory, and what is left unused."""
        runs: dict[str, list[Run]] = {name: [] for name in TOOLS}
        for number in range(self.rounds):
            for name in TOOLS:
                tell(f"space: {name}, round {number + 1}")
                runs[name].append(self.reclaim(self.fresh(name)))
        left: dict[str, tuple[int, float, float]] = {}
        for name in TOOLS:
            tell(f"space: {name}, memory and what is unused")
            tool = self.fresh(name)
            run = self.reclaim(tool, sampling=True)
            said = said_unused(tool)
            least = self.reclaim(tool, unused="0")
            left[name] = run.peak_pss, max(run.size - least.size, 0) / least.size, said
        tell("")
        self.figures["space"] = {
            name: {"runs": [asdict(run) for run in runs[name]], "left": left[name]}
            for name in TOOLS
        }
        print(f"space, {self.rounds} runs of each")
        for name in TOOLS:
            self._show_space(name, runs, left[name])

    def _show_space(
        self, name: str, runs: dict[str, list[Run]], left: tuple[int, float, float]
    ) -> None:
        peak, measured, said = left
        wall = median(run.wall_s for run in runs[name])
        cpu = median(run.cpu_s for run in runs[name])
        thin = self.history.made.thin[name]
        line = (
            f"  {name:8}{wall:7.2f} s wall {cpu:7.2f} s CPU, with forget {wall + thin.wall_s:7.2f} "
            f"s; {thin.size / 1e6:.1f} -> {median(run.size for run in runs[name]) / 1e6:.1f} MB, "
            f"unused {100 * measured:.2f} % (says {100 * said:.2f} %), {peak / 2**20:.0f} MiB peak"
        )
        if name == "ventifs":
            line += "   (target: unused 5 %, and at most theirs)"
        else:
            pairs = list(zip(runs["ventifs"], runs[name], strict=True))
            wall = median(our.wall_s / their.wall_s for our, their in pairs)
            cpu = median(our.cpu_s / their.cpu_s for our, their in pairs)
            line += f"   ventifs takes {wall:.2f} of its wall, {cpu:.2f} of its CPU (target: 0.5)"
        print(line, flush=True)

    def plan(self) -> None:
        """Compare dry runs with what is freed and copied then, and measure the marking."""
        tell("plan: what is wholly dead")
        tool = self.fresh("ventifs")
        self._forget_noise(tool)
        dead, _, freed, _ = self._plan_and_do(tool, "--max-repack", "0")
        planned = dead["dead_bytes"]
        tell("plan: all")
        tool = self.fresh("ventifs")
        plan, dry, gone, grown = self._plan_and_do(tool, "--max-unused", f"{UNUSED}%")
        start = median(self._command(tool, "--version").cpu_s for _ in range(5))
        tell("")
        self.figures["plan"] = {
            "dead": (planned, freed),
            "plan": plan,
            "gone": gone,
            "grown": grown,
            "dry": asdict(dry),
            "start_s": start,
        }
        print(f"plan: {plan['references']:,} references, {plan['blocks']:,} blocks")
        exact = "exact" if planned == freed else f"{100 * (freed / max(planned, 1) - 1):+.2f} %"
        print(
            f"  {dead['dead_arenas']} wholly dead arenas: {planned / 1e6:.1f} MB planned, "
            f"{freed / 1e6:.1f} MB freed: {exact}   (target: exact)"
        )
        for what, expected, found in (
            ("freed", plan["dead_bytes"] + plan["repacked_bytes"], gone),
            ("copied", plan["copied_bytes"], grown),
            ("in all", plan["freed_bytes"], gone - grown),
        ):
            print(
                f"  {what}: {expected / 1e6:.1f} MB planned, {found / 1e6:.1f} MB found: "
                f"{100 * (found / max(expected, 1) - 1):+.2f} %   (target: 5 %)"
            )
        rate = plan["references"] / max(dry.cpu_s - start, 1e-9)
        print(
            f"  dry run: {dry.wall_s:.2f} s wall, {dry.cpu_s:.2f} s CPU, {start:.2f} of them its "
            f"start; {rate:,.0f} references a second and core, planning included "
            f"(target: {NODES_A_SECOND:,})",
            flush=True,
        )

    def _forget_noise(self, tool: Tool) -> None:
        """Archive and forget what nothing else shares, enough to fill some arenas alone."""
        noise, rng = self.scratch / "noise", random.Random(1)
        noise.mkdir()
        for number in range(NOISE >> 24):
            (noise / f"file{number}").write_bytes(rng.randbytes(1 << 24))
        self._command(tool, f"archive {noise} --name noise")
        self._command(tool, "forget --force noise@latest")
        remove(noise)

    def _plan_and_do(self, tool: Tool, *options: str) -> tuple[Figures, Run, int, int]:
        """(the plan of a dry run, its cost, bytes of arenas gone after a run, bytes appended)."""
        dry = self._command(tool, "reclaim", "--dry-run", *options)
        plan: Figures = json_of(tool.log)["plan"]
        before = arena_sizes(tool.repo)
        self._command(tool, "reclaim", *options)
        after = arena_sizes(tool.repo)
        gone = sum(size for arena, size in before.items() if arena not in after)
        grown = sum(max(size - before.get(arena, 0), 0) for arena, size in after.items())
        return plan, dry, gone, grown

    def _command(self, tool: Tool, *words: str) -> Run:
        """Run a command of ventifs, by default for JSON about the tool's repository."""
        if not words[0].startswith("-"):
            words = (*words, "--json", "--store", str(tool.repo))
        return tool.run("command", self.scratch, words=" ".join(words))

    def night(self) -> None:
        """Archive another night, into a repository with and one without a reclaim."""
        tool = self.fresh("ventifs")
        plain, reclaimed = tool.kept, self.scratch / "reclaimed"
        self.reclaim(tool)
        tool.home.rename(reclaimed)
        nights = self.history.made.recipe.nights
        costs: dict[str, list[float]] = {"without": [], "with": []}
        for number in range(max(self.rounds, 5)):
            for way, source in (("without", plain), ("with", reclaimed)):
                tell(f"night: {way} a reclaim, round {number + 1}")
                tool.kept = source
                self.fresh("ventifs")
                costs[way].append(self.history.archive(tool, nights + 1))
        tool.kept = plain
        remove(reclaimed)
        tell("")
        self.figures["night"] = costs
        pairs = zip(costs["with"], costs["without"], strict=True)
        print(
            f"night after a reclaim: {median(costs['with']):.2f} s, without one "
            f"{median(costs['without']):.2f} s: {median(one / other for one, other in pairs):.3f} "
            "times   (target: 1.1)",
            flush=True,
        )

    def archives(self) -> None:
        """Archive something small again and again, alone and beside a reclaim."""
        self._beside().archives(self.rounds)

    def reads(self) -> None:
        """Read over 9P, alone and beside a reclaim."""
        self._beside().reads(self.rounds)

    def _beside(self) -> Beside:
        return Beside(
            tool=self.ours,
            fresh=lambda: self.fresh("ventifs"),
            begin=lambda: self.ours.start("reclaim", self.scratch, unused=UNUSED),
            root=self.history.sources["root1"],
            scratch=self.scratch,
            figures=self.figures,
        )


def said_unused(tool: Tool) -> float:
    """What a tool says about its unused space after it gave space back, as a share of its bytes."""
    if tool.name == "ventifs":
        plan = json_of(tool.log)["plan"]
        return float(plan["unused_bytes"]) / max(bytes_below(tool.repo / "arenas"), 1)
    if tool.name == "restic":
        said = tool.log.read_text(errors="replace")
        found = re.search(r"unused size after prune:.*\((.*)% of remaining size\)", said)
        return float(found[1]) / 100 if found else float("nan")
    tool.run("info", tool.home)
    stats = json_of(tool.log)["cache"]["stats"]
    needed = stats["unique_csize"] + BORG_CHUNK_HEAD * stats["total_unique_chunks"]
    return float(bytes_below(tool.repo / "data") / needed - 1)


def json_of(log: Path) -> Figures:
    """The JSON object that a command has printed, perhaps after other lines."""
    said = log.read_text(errors="replace")
    start = re.search("^{", said, re.MULTILINE)
    if start is None:
        sys.exit(f"a command printed no JSON, but:\n{said}")
    found: Figures
    found, _ = json.JSONDecoder().raw_decode(said, start.start())
    return found


def arena_sizes(store: Path) -> dict[str, int]:
    """The bytes of each arena's file, by the arena's name, wherever it stands."""
    return {
        path.stem: path.stat().st_size for path in (store / "arenas").rglob("*") if path.is_file()
    }


def main() -> None:
    """Parse arguments, make the history, run the parts."""
    parts = ("space", "plan", "night", "archives", "reads")
    recipe = Recipe()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("roots", type=Path, help="what tools/roots has made")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIRECTORY",
        help="where to work; the history is kept there, and used again by the same recipe "
        "(default: a temporary directory)",
    )
    parser.add_argument("--nights", type=int, default=recipe.nights, metavar="N")
    parser.add_argument(
        "--scale", type=float, default=recipe.scale, help="share of the roots' files, up to 1"
    )
    parser.add_argument("--seed", type=int, default=recipe.seed, help="of the nights' changes")
    parser.add_argument(
        "--only", default=",".join(parts), metavar="PART,...", help=f"of {', '.join(parts)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run here too")
    arguments = parser.parse_args()
    chosen = [part for part in arguments.only.split(",") if part]
    if not set(chosen) <= set(parts):
        parser.error(f"--only takes {', '.join(parts)}")
    if not 0 < arguments.scale <= 1 or arguments.nights < 1:
        parser.error("--nights is at least 1, and --scale above 0 and at most 1")
    if os.geteuid():
        sys.exit("reclaim: only root can mount the images whose files change; run it as root")
    recipe = Recipe(nights=arguments.nights, scale=arguments.scale, seed=arguments.seed)
    with ExitStack() as stack:
        if arguments.work is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        else:
            work = arguments.work.absolute()
        history = History(arguments.roots, work, recipe)
        scratch = work / "scratch"
        remove(scratch)
        scratch.mkdir()
        bench = Bench(history, scratch, arguments.rounds)
        bench.show_history()
        for part in parts:
            if part in chosen:
                getattr(bench, part)()
        for tool in bench.tools.values():
            remove(tool.home)
        remove(scratch)
    if arguments.json:
        arguments.json.write_text(json.dumps(bench.figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
