"""Reads a store with a damaged index, again and again, in a process that LMDB may crash.

Run as a child: `python -m tests.support.index_reader PLAN START`. For each flip of the plan from
START on it prints the outcome, one line of JSON. When LMDB kills the process, the parent starts
another one after the flip that did it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.support.patience import PATIENCE_S
from ventifs.errors import Corrupt, NotStored, VentifsError
from ventifs.store import Score, Store, score_of
from ventifs.store.lmdb_environment import IndexDamaged

PROJECT = Path(__file__).parents[2]
Flip = tuple[int, int]  # byte, mask


@dataclass
class Plan:
    """The work of a child.

    Attributes:
        blocks: those of the store, in hexadecimal; absent: made-up ones that it does not hold.
        records: keys of the store's records.
        watched: for each flip, a score whose look-up is reported, or "".
    """

    root: str
    good: str
    blocks: list[str]
    absent: list[str]
    records: list[str]
    flips: list[Flip]
    watched: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """The outcome of one flip.

    Attributes:
        wrong: descriptions of results that must never occur.
        misses: blocks that `has` denies; errors: blocks that `get` does not return.
        refused: the index could not be opened, or its records not listed.
        known: whether `has` or `put` takes the watched score as known.
    """

    wrong: list[str] = field(default_factory=list)
    misses: int = 0
    errors: int = 0
    refused: bool = False
    older: bool = False
    known: bool | None = None
    killed: int = 0


def read_damaged(plan: Plan, path: Path) -> list[Outcome]:
    """Run a plan in child processes; return one outcome for each flip."""
    path.write_text(json.dumps(asdict(plan)))
    outcomes: list[Outcome] = []
    while len(outcomes) < len(plan.flips):
        command = [sys.executable, "-m", "tests.support.index_reader", str(path)]
        child = subprocess.run(
            [*command, str(len(outcomes))],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        outcomes += [Outcome(**json.loads(line)) for line in child.stdout.splitlines()]
        if child.returncode > 0:
            raise AssertionError(child.stderr)
        if child.returncode < 0:
            outcomes.append(Outcome(killed=-child.returncode))
    return outcomes


def _tried(plan: Plan, blocks: dict[Score, bytes], absent: list[bytes], watched: str) -> Outcome:
    outcome = Outcome()
    try:
        with Store.open(plan.root, "worker") as store:
            _look_up(store, blocks, absent, outcome)
            if watched:
                score = Score(bytes.fromhex(watched))
                outcome.known = store.has(score) or not store.put(blocks[score])[1]
            keys = [record.key.hex() for record in store.records()]
            outcome.older = keys != plan.records
            store.abandon()
    except IndexDamaged:
        outcome.refused = True
    except VentifsError as error:
        outcome.wrong.append(f"{type(error).__name__}: {error}")
    return outcome


def _look_up(
    store: Store, blocks: dict[Score, bytes], absent: Sequence[bytes], outcome: Outcome
) -> None:
    for score, has in zip(blocks, store.has_many(list(blocks)), strict=True):
        outcome.misses += not has
        try:
            if bytes(store.get(score)) != blocks[score]:
                outcome.wrong.append(f"get {score.hex()} gave other bytes")
        except (NotStored, Corrupt, IndexDamaged):
            outcome.errors += 1
    if any(store.has_many([score_of(block) for block in absent])):
        outcome.wrong.append("has: a block that is not there is known")
    if not all(store.put(block)[1] for block in absent):
        outcome.wrong.append("put: a block that is not there is known")


def _main(plan: Plan, start: int) -> None:
    blocks = {score_of(block): block for block in map(bytes.fromhex, plan.blocks)}
    absent = [bytes.fromhex(block) for block in plan.absent]
    good = Path(plan.good).read_bytes()
    index = Path(plan.root) / "index" / "data.mdb"
    watched = plan.watched or [""] * len(plan.flips)
    for (at, mask), watch in list(zip(plan.flips, watched, strict=True))[start:]:
        bad = bytearray(good)
        bad[at] ^= mask
        index.write_bytes(bad)
        print(json.dumps(asdict(_tried(plan, blocks, absent, watch))), flush=True)
    index.write_bytes(good)


if __name__ == "__main__":
    _main(Plan(**json.loads(Path(sys.argv[1]).read_text())), int(sys.argv[2]))
