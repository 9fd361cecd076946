"""What children do until they are killed. They never end a commit early or close a store."""

import os
import random
import signal
from itertools import count
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from pathlib import Path

from tests.support.faults import Point, armed
from tests.support.ledger import Ledger, Recipe, put_recipes
from tests.support.patience import PATIENCE_S
from ventifs.store import Store, WorkerBatch
from ventifs.store.header import read_header
from ventifs.store.journal import Record
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index

_ORPHAN_ROUNDS = 8
_SHARED = 200  # seeds that all writers draw from, so that their blocks deduplicate
_LARGE = 900_000  # bytes: five to an arena, each a clump of its own


def some_recipes(rng: random.Random) -> list[Recipe]:
    """Blocks that other writers store too, and own ones; mostly small, now and then a large one."""
    shared = [(seed, 100 + 190 * seed) for seed in rng.sample(range(_SHARED), rng.randint(0, 6))]
    own = [
        (rng.randrange(1000, 1 << 40), rng.randint(16, 20_000)) for _ in range(rng.randint(1, 8))
    ]
    large = [(rng.randrange(1000, 1 << 40), rng.randint(140_000, 700_000))]
    return [*shared, *own, *(large if rng.random() < 0.3 else [])]


def write_until_killed(root: Path, ledger_path: Path, seed: int) -> None:
    """Commit records and delete some of them again."""
    signal.alarm(PATIENCE_S)
    rng = random.Random(seed)
    ledger = Ledger(ledger_path)
    store = Store.open(root, "write")
    earlier: list[Record] = []
    for number in count():
        recipes = some_recipes(rng)
        put_recipes(store, recipes)
        doomed = [earlier.pop()] if earlier and rng.random() < 0.3 else []
        key = b"%d %d %d" % (seed, os.getpid(), number)
        earlier += ledger.commit(store, {key: recipes}, doomed)


def follow_script(root: Path, ledger_path: Path, point: Point) -> None:
    """Run a fixed script with commits, a deletion, sealing and a second arena."""
    ledger = Ledger(ledger_path)
    with Store.open(root, "write", files=armed(point)) as store:
        commit_script(store, ledger)


def commit_script(store: Store, ledger: Ledger) -> None:
    """Make four commits; the third seals an arena."""
    small = [(seed, 3_000) for seed in range(12)]
    put_recipes(store, small)
    first = ledger.commit(store, {b"one": small, b"two": small[:3]})
    put_recipes(store, [(20, 500)])
    ledger.commit(store, {b"three": [(20, 500)]}, first[1:])
    large = [(30 + number, _LARGE) for number in range(6)]
    put_recipes(store, [*large, (40, 700)])
    ledger.commit(store, {b"four": [*large, (40, 700), small[5]]})
    put_recipes(store, [(50, 700)])
    ledger.commit(store, {b"five": [(50, 700)]})


def reopen(root: Path, point: Point) -> None:
    """Recover a store, and die at `point`."""
    Store.open(root, "write", files=armed(point)).abandon()


def rebuild(root: Path, point: Point) -> None:
    """Rebuild the index, and die at `point`."""
    files = armed(point)
    with store_lock(root, alone=True):
        rebuild_index(root, read_header(root), files)


def create(root: Path, point: Point) -> None:
    """Create a store, and die at `point`."""
    Store.create(root, arena_size=4 << 20, files=armed(point))


def lead_until_killed(root: Path, ledger_path: Path, pids_path: Path, seed: int) -> None:
    """Fork three workers, and commit what they store."""
    signal.alarm(PATIENCE_S)
    context = get_context("fork")
    pipes = [context.Pipe() for _ in range(3)]
    ours = [one for one, _ in pipes]
    for number, (_, theirs) in enumerate(pipes):  # forked before the parent has a store open
        worker = context.Process(
            target=_work_until_killed, args=(root, pipes, theirs, 10 * seed + number)
        )
        worker.start()
        with pids_path.open("a") as pids:
            pids.write(f"{worker.pid}\n")
    for _, theirs in pipes:
        theirs.close()
    _adopt_until_killed(root, Ledger(ledger_path), ours, random.Random(seed))


def _adopt_until_killed(
    root: Path, ledger: Ledger, workers: list[Connection], rng: random.Random
) -> None:
    store = Store.open(root, "write")
    puts: dict[bytes, list[Recipe]] = {}
    for number in count():
        for ready in connection.wait(workers):
            assert isinstance(ready, Connection)
            batch, recipes = ready.recv()
            assert isinstance(batch, WorkerBatch)
            store.adopt(batch)
            puts[b"%d %d %d" % (os.getpid(), number, len(puts))] = recipes
            ready.send("more")
        if rng.random() < 0.4:
            own = some_recipes(rng)
            put_recipes(store, own)
            ledger.commit(store, {**puts, b"%d %d" % (os.getpid(), number): own})
            puts = {}


def _work_until_killed(
    root: Path, pipes: list[tuple[Connection, Connection]], pipe: Connection, seed: int
) -> None:
    """Store blocks and hand them over; go on for a while after the parent has died."""
    signal.alarm(PATIENCE_S)
    for ours, theirs in pipes:
        ours.close()
        if theirs is not pipe:
            theirs.close()
    rng = random.Random(seed)
    store = Store.open(root, "worker")
    rounds_left = _ORPHAN_ROUNDS
    while rounds_left:
        recipes = some_recipes(rng)
        put_recipes(store, recipes)
        batch = store.hand_over()
        try:
            pipe.send((batch, recipes))
            pipe.recv()
        except (OSError, EOFError):
            rounds_left -= 1
    while True:  # alive, and its arena locked
        signal.pause()
