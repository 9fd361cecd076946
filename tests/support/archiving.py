"""Archive runs by worker processes, in a child: a test's own process must not fork."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.conversing import answer_all
from tests.support.reading import listings
from ventifs.store import Score, Store
from ventifs.store.claims import Claims
from ventifs.tree.archive import change_scan as scout
from ventifs.tree.archive import read_batches as reading
from ventifs.tree.archive import scan
from ventifs.tree.archive import worker as service
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.directory_worker import directory_handlers
from ventifs.tree.archive.scan import Options
from ventifs.tree.archive.tally import Tally
from ventifs.tree.archive.worker import PENDING_MAX, serving
from ventifs.tree.process_pool import Workers
from ventifs.tree.versions.catalog import tree_score

EVERYTHING_SETTLED = -(10**18)


class Way(NamedTuple):
    """How to archive; none of these settings may change the score.

    Attributes:
        jobs: processes that read; with 1, this process reads.
        read_all: read every file.
        segment_max: names that are scanned together.
        batch_leaves: files handed over together.
        unit_names: names compared together before the walk.
        changed_max: changed directories in a unit up to which comparing goes on.
        shuffle: seed of the order in which names are listed; None is the file system's order.
        clock_ns: the clock's time, for the stat cache; if None, all files count as long settled.
    """

    jobs: int = 1
    read_all: bool = False
    segment_max: int = 4096
    batch_leaves: int = 224
    unit_names: int = 2000
    changed_max: int = 64
    shuffle: int | None = None
    clock_ns: int | None = None


WAY = Way()


class Done(NamedTuple):
    """The result of a run."""

    score: bytes
    entries: int
    size: int
    new_bytes: int
    troubles: tuple[tuple[bytes, str, bool], ...]


@contextmanager
def _changed(way: Way) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(scan, "SEGMENT_MAX", way.segment_max)
        patch.setattr(reading, "_BATCH_LEAVES", way.batch_leaves)
        patch.setattr(scout, "UNIT_NAMES", way.unit_names)
        patch.setattr(scout, "_CHANGED_MAX", way.changed_max)
        if way.clock_ns is None:
            patch.setattr(reading, "SETTLED_NS", EVERYTHING_SETTLED)
        else:
            told = way.clock_ns
            patch.setattr(time, "time_ns", lambda: told)
        if way.shuffle is not None:
            stack.enter_context(listings(random.Random(way.shuffle).shuffle))
        yield


def archive_by(
    store: Path,
    source: Path,
    name: str,
    way: Way = WAY,
    *,
    time_ns: int | None = None,
    options: Options | None = None,
) -> Done:
    """Archive a directory; with `jobs` above 1 in a process that may fork."""
    with _changed(way), ExitStack() as stack:
        pool = None
        if way.jobs > 1:
            handlers = partial(directory_handlers, options or Options())
            pool = stack.enter_context(
                Workers(way.jobs, partial(serving, store, Claims(), 1, handlers))
            )
        opened = stack.enter_context(Store.open(store, "write", pending_max=PENDING_MAX))
        stamp = time.monotonic_ns() if time_ns is None else time_ns
        made = DirectorySource(source, options=options, pool=pool)
        version, tally = archive(opened, made, name, time_ns=stamp, read_all=way.read_all)
    return Done(
        tree_score(version.root), tally.entries, tally.bytes, tally.new_bytes, version.troubles
    )


def archive_until(store: Path, source: Path, entries: int, pending_max: int) -> None:
    """In a child: archive by two workers, and interrupt the run after this many entries.

    `pending_max` blocks wait in each worker for a commit.
    """

    def progress(tally: Tally, _: bytes) -> None:
        if tally.entries >= entries:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(service, "PENDING_MAX", pending_max)
        task = partial(serving, store, Claims(), 1, partial(directory_handlers, Options()))
        with Workers(2, task) as pool, Store.open(store, "write") as opened:
            archive(opened, DirectorySource(source, pool=pool), "t", progress=progress)
            raise AssertionError("it was not interrupted")


def archive_when_asked(connection: Connection) -> None:
    """The child of a `Peer`: answers ("archive", store, source, name, way) with `Done`."""
    answer_all(connection, {"archive": archive_by})


def wait_for_tick(directory: Path) -> None:
    """Wait until the file system's clock moves, so that later changes have another ctime."""
    probe = directory / "tick"
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:
        os.utime(probe)
    probe.unlink()


def claim_side_by_side(result: Path, scores: list[bytes]) -> None:
    """In a child: two processes claim the same scores at once, each in its own order.

    Writes to `result` how many scores neither process got, and how many both got.
    """
    claims = Claims()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        got = bytes(not claims.taken(Score(score)) for score in reversed(scores))
        os.write(write, got)  # a few KB: goes into the pipe at once
        os._exit(0)
    ours = [not claims.taken(Score(score)) for score in scores]
    os.close(write)
    with open(read, "rb") as pipe:
        theirs = [bool(byte) for byte in reversed(pipe.read())]
    os.waitpid(pid, 0)
    pairs = list(zip(ours, theirs, strict=True))
    nobody = sum(not one and not other for one, other in pairs)
    both = sum(one and other for one, other in pairs)
    result.write_text(f"{nobody} {both}")
