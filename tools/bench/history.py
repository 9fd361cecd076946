"""A history of nights in the repositories of three tools, made once below a directory.

The sources are a share of both Debian roots, and four images: of either root's file system, and of
a copy of each with other contents in some files. Every night some of their bytes change (see
nights.py), and then each tool archives all of them. In the end each tool forgets the same versions,
all but eight of each source. The repositories are kept as they are then, and the sources as they
are a night later.
"""

import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from zlib import crc32

import msgspec

from tools.bench.archivers import Run, Tool, remove
from tools.bench.nights import pass_night_anywhere

TOOLS = ("ventifs", "restic", "borg")
KEPT = 8
BEGAN = datetime(2024, 1, 1, 3)
_FIRST_CHANGE = 0.05  # of the images that begin as copies


class Recipe(msgspec.Struct, frozen=True):
    """All that a history depends on, but the roots.

    Attributes:
        nights: how many.
        scale: the share of the roots' files that are taken.
        change: the share of a source's bytes that a night changes.
    """

    nights: int = 30
    scale: float = 0.25
    change: float = 0.01
    seed: int = 14


class Made(msgspec.Struct):
    """What making it has cost, by tool; sizes in bytes.

    Attributes:
        archived_s: of each night, all sources.
        grown: sizes before anything is forgotten.
        thin: forgetting; its size is the one afterwards.
    """

    recipe: Recipe
    sources: dict[str, int] = {}
    archived_s: dict[str, list[float]] = {}
    grown: dict[str, int] = {}
    thin: dict[str, Run] = {}
    seconds: float = 0


class History:
    """The repositories and the sources; `work` holds them and nothing else is touched."""

    def __init__(self, roots: Path, work: Path, recipe: Recipe) -> None:
        """Use what is there, if it was made by this recipe; else make it."""
        self.roots, self.work = roots, work
        self.sources = {name: work / "sources" / name for name in ("root1", "root2", *"ABCD")}
        self.tools = {name: Tool(name, work) for name in TOOLS}
        mark = work / "history.json"
        try:
            self.made = msgspec.json.decode(mark.read_bytes(), type=Made)
        except (FileNotFoundError, msgspec.DecodeError):
            self.made = Made(Recipe(nights=0))
        if self.made.recipe != recipe:
            mark.unlink(missing_ok=True)
            self.made = Made(recipe)
            self._make()
            mark.write_bytes(msgspec.json.format(msgspec.json.encode(self.made)))

    def kept(self, night: int) -> bool:
        """Whether the versions of a night, from 1 on, stay."""
        return night in kept_nights(self.made.recipe.nights)

    def archive(self, tool: Tool, night: int) -> float:
        """Archive all sources; the seconds that it took."""
        at = (BEGAN + timedelta(days=night - 1)).isoformat() + "Z"
        fate = "kept" if self.kept(night) else "gone"
        return sum(
            tool.run("night", source, name=name, time=at, fate=fate).wall_s
            for name, source in self.sources.items()
        )

    def _make(self) -> None:
        began = time.monotonic()
        recipe, made = self.made.recipe, self.made
        self.work.mkdir(parents=True, exist_ok=True)
        self._make_sources()
        made.sources = {name: used(path) for name, path in self.sources.items()}
        for tool in self.tools.values():
            remove(tool.kept)
            tool.fresh()
            made.archived_s[tool.name] = []
        for night in range(1, recipe.nights + 1):
            if night > 1:
                self._pass_night(night)
            for tool in self.tools.values():
                tell(f"history: night {night} of {recipe.nights}, {tool.name}")
                made.archived_s[tool.name].append(self.archive(tool, night))
        self._pass_night(recipe.nights + 1)
        for tool in self.tools.values():
            tell(f"history: {tool.name} forgets")
            made.grown[tool.name] = tool.sizes()[0]
            run = tool.run("thin", self.work)
            made.thin[tool.name] = Run(run.wall_s, run.cpu_s, 0, *tool.sizes())
            tool.home.rename(tool.kept)
        tell("")
        made.seconds = time.monotonic() - began

    def _pass_night(self, night: int) -> None:
        for number, (name, source) in enumerate(self.sources.items()):
            tell(f"history: night {night} of {self.made.recipe.nights}, changing {name}")
            budget = int(self.made.recipe.change * self.made.sources[name])
            pass_night_anywhere(
                source, budget, self.made.recipe.seed * 10_000 + 10 * night + number
            )

    def _make_sources(self) -> None:
        remove(self.work / "sources")
        (self.work / "sources").mkdir()
        for root, image, like_it in (("root1", "A", "B"), ("root2", "C", "D")):
            tell(f"history: making {root} and its images")
            source = self.sources[root]
            copy_share(self.roots / root, source, self.made.recipe.scale)
            mib = int(1.4 * used(source) / 2**20) + 64
            make_image(self.sources[image], source, mib)
            shutil.copystat(source, self.sources[image])
            cp = ["cp", "--sparse=always", self.sources[image], self.sources[like_it]]
            subprocess.run(cp, check=True)
            budget = int(_FIRST_CHANGE * used(source))
            pass_night_anywhere(self.sources[like_it], budget, self.made.recipe.seed)


def kept_nights(nights: int) -> set[int]:
    """The nights whose versions stay: the last four, and four spread over those before."""
    half = KEPT // 2
    before = max(nights - half, 0)
    return {*range(before + 1, nights + 1), *(1 + at * before // half for at in range(half))}


def copy_share(root: Path, target: Path, scale: float) -> None:
    """Copy a root, but of its regular files only a share, chosen by their paths."""
    found = subprocess.run(
        ["find", ".", "-printf", r"%y%p\0"], cwd=root, check=True, capture_output=True
    ).stdout.split(b"\0")
    names = [
        each[1:]
        for each in found
        if each
        and (each[:1] not in b"fs" or (each[:1] == b"f" and crc32(each[1:]) < scale * 2**32))
    ]
    target.mkdir()
    keep = ["--warning=no-timestamp", "--xattrs", "--xattrs-include=*", "--numeric-owner"]
    packing = [
        "tar",
        "--format=pax",
        "--sparse",
        *keep,
        "--null",
        "--no-recursion",
        "-T",
        "-",
        "-c",
    ]
    unpacking = ["tar", *keep, "-p", "--same-owner", "--delay-directory-restore", "-x"]
    with subprocess.Popen(unpacking, cwd=target, stdin=subprocess.PIPE) as unpacked:
        subprocess.run(
            packing, cwd=root, input=b"\0".join(names), stdout=unpacked.stdin, check=True
        )
    if unpacked.returncode:
        sys.exit(f"cannot copy {root} to {target}: its reason is above")


def make_image(image: Path, source: Path, mib: int) -> None:
    """Make an ext4 file system of a directory's files."""
    uuid = "a1a1a1a1-0001-4001-8001-0123456789ab"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-U", uuid]
    command += ["-E", f"hash_seed={uuid}", "-d", str(source), str(image), f"{mib}M"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mke2fs cannot make {image}:\n{done.stderr}")


def used(path: Path) -> int:
    """The bytes that a file or all files below a directory take on the disk."""
    output = subprocess.run(["du", "-s", "-B1", path], check=True, capture_output=True).stdout
    return int(output.split()[0])


def tell(what: str) -> None:
    """Show the current step, if standard error is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)
