"""Children that archive, forget, reclaim and read one store, each until it is killed.

Contents come back: what a writer archives was archived before, forgotten, and perhaps condemned.
Every child reports to a log file of its own, a line for each thing done.
"""

import os
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

import ventifs
from tests.support.faults import Point, armed
from tests.support.patience import PATIENCE_S, pause
from ventifs.api.archive import Archive
from ventifs.api.version import ArchivedVersion
from ventifs.errors import VentifsError
from ventifs.store.files import Files
from ventifs.store.reclaim import reclaiming_store
from ventifs.tree.reclaim.reclaim import reclaim
from ventifs.tree.reclaim.results import Limits, ReclaimObserver, ReclaimPlan

Tree = dict[bytes, bytes]  # contents of files, by path

_SHARED = 16  # files that several contents have
_PIECE = 40_000  # bytes that large files share
_KEPT = 3  # versions of a writer that are not forgotten


@cache
def content(name: str) -> Tree:
    """The files of a made-up tree: own ones, ones that others have too, and two large ones."""
    rng = random.Random(name)
    files = {
        b"d%d/own%d" % (number % 3, number): rng.randbytes(rng.randint(1, 20_000))
        for number in range(6)
    }
    for number in rng.sample(range(_SHARED), 6):
        shared = random.Random(f"shared {number}")
        files[b"shared/%d" % number] = shared.randbytes(100 + 1500 * number)
    common = random.Random(f"common {rng.randrange(3)}").randbytes(_PIECE)
    for number in range(2):
        files[b"large%d" % number] = common * 2 + rng.randbytes(_PIECE)
    return files


def write_tree(directory: Path, tree: Tree) -> Path:
    """Make a directory with these files."""
    for name, data in tree.items():
        path = directory / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def read_tree(version: ArchivedVersion) -> Tree:
    """The files of a version, read whole."""
    return {path.path: path.read_bytes() for path in version.walk() if path.is_file()}


class Log:
    """Lines of a child, which its parent reads meanwhile."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, line: str) -> None:
        """Add a line, as a whole."""
        os.write(self._fd, line.encode() + b"\n")


class LogReader:
    """What a child has logged so far."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.lines: list[str] = []
        self._file = path.open("rb")
        self._rest = b""
        self._counts: Counter[str] = Counter()

    def count(self, word: str = "") -> int:
        """The number of lines that begin with a word; of all lines, if it is empty."""
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in map(bytes.decode, whole):
            self.lines.append(line)
            self._counts[line.partition(" ")[0]] += 1
        return self._counts[word] if word else len(self.lines)

    @property
    def end(self) -> str:
        """The last lines, for a message."""
        self.count()
        return "\n".join(self.lines[-40:])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _for_ever(log: Log, step: Callable[[], object]) -> NoReturn:
    """Repeat a step until it fails, which is logged, or hangs."""
    try:
        while True:
            signal.alarm(PATIENCE_S)
            step()
    except BaseException:
        log.note("FAILED " + traceback.format_exc())
        os._exit(1)


# --- writers ------------------------------------------------------------------------------------


def archive_until_killed(
    root: Path, sources: list[Path], log_path: Path, writer: str, seed: int
) -> None:
    """Archive sources one after the other, each again and again; forget, and bring back."""
    rng, log = random.Random(seed), Log(log_path)

    def step() -> None:
        with ventifs.open(root, "write") as archive:
            for _ in range(rng.randint(1, 3)):
                source = rng.choice(sources)
                name = rng.choice([writer, f"{writer}.{source.name}"])
                read_all = rng.random() < 0.5
                made = archive.add(source, name, comment=source.name, read_all=read_all)
                log.note(f"added {made.version}")
                _forget_some(archive, writer, rng, log)
                if rng.random() < 0.2:
                    _bring_one_back(archive, writer, rng, log)
        pause(rng.uniform(0, 0.3))

    _for_ever(log, step)


def _own(version: ArchivedVersion, writer: str) -> bool:
    return version.name.partition(".")[0] == writer


def _forget_some(archive: Archive, writer: str, rng: random.Random, log: Log) -> None:
    own = [version for version in archive.versions() if _own(version, writer)]
    rng.shuffle(own)
    doomed = own[rng.randint(0, _KEPT) :]
    for version in doomed:
        log.note(f"forgetting {version}")
    if doomed:
        archive.forget(*doomed, force=True)


def _bring_one_back(archive: Archive, writer: str, rng: random.Random, log: Log) -> None:
    gone = [each.version for each in archive.forgotten() if _own(each.version, writer)]
    if gone:
        version = str(rng.choice(gone))
        try:
            archive.undelete(version)
        except VentifsError:  # it has been reclaimed since, or one of that time is there
            return
        log.note(f"added {version}")


# --- the reclaimer ------------------------------------------------------------------------------


class _Noting(ReclaimObserver):
    def __init__(self, log: Log) -> None:
        self._log = log

    def planned(self, plan: ReclaimPlan) -> None:
        self._log.note(f"planned {plan.dead_arenas} {plan.repacked_arenas}")

    def copying(self, done: int, total: int) -> None:
        self._log.note(f"copied {done} of {total}")

    def freed(self, done: int, total: int) -> None:
        self._log.note(f"freed {done} of {total}")


def reclaim_until_killed(root: Path, log_path: Path, seed: int, point: Point | None) -> None:
    """Reclaim again and again; end at a point, or when killed from outside."""
    rng, log = random.Random(seed), Log(log_path)
    files = Files() if point is None else armed(point)
    reclaiming_store._YOUNG_NS = 0  # arenas of this minute may go, whatever writers are at

    def step() -> None:
        limits = Limits(
            max_unused=rng.choice([0.0, 0.0, 0.05, 0.5]),
            max_repack=rng.choice([None, None, None, 0, 200_000]),
        )
        done = reclaim(root, limits=limits, observer=_Noting(log), files=files)
        log.note(f"done {done.arenas} {done.freed_bytes}")

    _for_ever(log, step)


# --- a server and its guest ---------------------------------------------------------------------


def serve_until_killed(root: Path, address: str, log_path: Path) -> None:
    """`ventifs serve`, which remembers next to nothing of what was read."""
    from ventifs.cli.main import main
    from ventifs.cli.serving import serve
    from ventifs.vfs.archived import reader

    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ["XDG_RUNTIME_DIR"] = os.environ["RUNTIME_DIRECTORY"] = str(log_path.parent)
    serve._CACHE_MIN = 0
    reader.LANDED_BYTES_MAX = 0
    sys.argv = ["ventifs", "serve", address, "--store", str(root), "--cache", "64KiB"]
    main()


def read_until_killed(address: str, aname: bytes, name: str, log_path: Path) -> None:
    """Attach to a version, and read all of it again and again; it must be `content(name)`."""
    import trio

    from ventifs.ninep.client.client import Client

    log, expected = Log(log_path), content(name)

    async def read() -> None:
        async with Client.connect(address, aname=aname) as client:
            log.note("attached")
            while True:
                signal.alarm(PATIENCE_S)
                for path, data in expected.items():
                    assert await client.read(path) == data, path
                log.note("read")
                await trio.to_thread.run_sync(pause, 0.05)

    _for_ever(log, lambda: trio.run(read))
