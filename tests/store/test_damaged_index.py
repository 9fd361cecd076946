"""An index with flipped bits costs look-ups, never data: no wrong bytes, no false `known`.

LMDB's pages carry no checksums and LMDB crashes on some damaged ones, so everything that reads a
damaged index does so in a child process.
"""

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.index_reader import Flip, Outcome, Plan, read_damaged
from tests.support.tiny import audited, made_up_blocks, tiny_store
from ventifs.store import Score, Store, score_of
from ventifs.store.arena_state import Place
from ventifs.store.check import check, repair
from ventifs.store.files import Files
from ventifs.store.findings import Finding
from ventifs.store.header import read_header
from ventifs.store.index import Index
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index

SEED = 7
PAGE = 4096
VALUE_SIZE = 14  # of an entry: number, offset, position, check
BLOCKS = made_up_blocks(600, seed=1, size_max=300)
ABSENT = made_up_blocks(60, seed=2, size_max=300)
RECORDS = [(b"record %d" % number).hex() for number in range(3)]


@dataclass(frozen=True)
class Indexed:
    """A store, its index's sound bytes, and where in these blocks' entries stand."""

    root: Path
    data: bytes
    entries: dict[Score, int]


@pytest.fixture
def indexed(tmp_path: Path) -> Indexed:
    root = tiny_store(tmp_path / "store")
    with Store.open(root, "write") as store:
        for number in range(3):
            for block in BLOCKS[200 * number :][:200]:
                store.put(block)
            store.commit([(b"record %d" % number, b"value")])
    with store_lock(root, alone=True):
        rebuild_index(root, read_header(root), Files())
    data = (root / "index" / "data.mdb").read_bytes()
    scores = map(score_of, BLOCKS)
    entries = {score: data.find(score) for score in scores if data.count(score) == 1}
    assert len(entries) > 100  # of the others there are old pages, or they are in branch pages too
    return Indexed(root, data, entries)


def outcomes(
    indexed: Indexed, flips: list[Flip], watched: list[str] | None = None
) -> list[Outcome]:
    good = indexed.root.parent / "good.mdb"
    good.write_bytes(indexed.data)
    plan = Plan(
        str(indexed.root),
        str(good),
        [block.hex() for block in BLOCKS],
        [block.hex() for block in ABSENT],
        RECORDS,
        flips,
        watched or [],
    )
    return read_damaged(plan, indexed.root.parent / "plan")


@pytest.mark.slow
def test_a_flipped_bit_anywhere_in_the_index_costs_no_data(
    indexed: Indexed, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(SEED)
    meta = [
        (rng.randrange(2) * PAGE + rng.randrange(200), 1 << rng.randrange(8)) for _ in range(60)
    ]
    heads = [
        (page * PAGE + rng.randrange(48), 1 << rng.randrange(8))
        for page in range(2, len(indexed.data) // PAGE)
        for _ in range(8)
    ]
    used = [at for at, byte in enumerate(indexed.data) if byte and at >= 2 * PAGE]
    other = [(rng.choice(used), 1 << rng.randrange(8)) for _ in range(400)]
    flips = [*meta, *heads, *other]
    results = outcomes(indexed, flips)
    told = Counter(
        "killed the reader"
        if result.killed
        else "was refused"
        if result.refused
        else "cost look-ups"
        if result.misses or result.errors
        else "changed nothing"
        for result in results
    )
    with capsys.disabled():
        print(f"\nindex: of {len(flips)} flipped bits, {dict(told)}")
    assert [result.wrong for result in results if result.wrong] == []
    # Damage to a root page's pointer can bring back an older root, whole; nothing else can.
    older = {at for (at, _), result in zip(flips, results, strict=True) if result.older}
    assert all(at < 2 * PAGE for at in older)
    assert told["cost look-ups"] + told["was refused"] > len(flips) / 5  # they do hit something


@pytest.mark.slow
def test_every_flipped_bit_of_an_entry_makes_it_a_miss(
    indexed: Indexed, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(SEED)
    flips: list[Flip] = []
    watched: list[str] = []
    in_value = []
    for score, at in rng.sample(sorted(indexed.entries.items()), 3):
        bits = [(byte, bit) for byte in range(32 + VALUE_SIZE) for bit in range(8)]
        for byte, bit in bits if not flips else rng.sample(bits, 60):
            flips.append((at + byte, 1 << bit))
            watched.append(score.hex())
            in_value.append(byte >= 32)
    results = outcomes(indexed, flips, watched)
    seen = Counter(
        value
        for value, result in zip(in_value, results, strict=True)
        if result.known is False and not result.wrong
    )
    with capsys.disabled():
        print(
            f"\nentries: {seen[True]} of {sum(in_value)} flipped bits in values seen, "
            f"{seen[False]} of {len(flips) - sum(in_value)} in keys"
        )
    assert seen == Counter(in_value)
    assert all(result.misses >= 1 for result in results)


def found(root: Path) -> list[Finding]:
    return [finding for finding in check(root, read_data=True).findings if not finding.harmless]


def rebuilt(root: Path) -> None:
    with store_lock(root, alone=True):
        rebuild_index(root, read_header(root), Files())


def assert_sound(indexed: Indexed) -> None:
    assert check(indexed.root, read_data=True).findings == []
    with Store.open(indexed.root, "write") as store:
        assert all(bytes(store.get(score_of(block))) == block for block in BLOCKS)
        assert not any(store.put(block)[1] for block in BLOCKS)
        assert len(store.records()) == 3


def test_check_finds_entries_that_are_damaged_and_a_rebuild_mends_them(indexed: Indexed) -> None:
    score, at = min(indexed.entries.items())
    bad = bytearray(indexed.data)
    bad[at + 32 + 5] ^= 0x10
    (indexed.root / "index" / "data.mdb").write_bytes(bad)
    reasons = {(finding.what, finding.score, finding.reason) for finding in found(indexed.root)}
    assert reasons == {
        ("index", score.hex(), "lacks this block"),
        ("index", score.hex(), "damaged entry"),
    }
    rebuilt(indexed.root)
    assert_sound(indexed)


@pytest.mark.parametrize(("lost", "false"), [(1, 0), (0, 1), (2, 2), (3, 1)])
def test_check_finds_entries_that_are_missing_and_entries_that_lead_nowhere(
    indexed: Indexed, lost: int, false: int
) -> None:
    scores = sorted(indexed.entries)
    absent = sorted(score_of(block) for block in ABSENT)
    index = Index(indexed.root / "index", read_header(indexed.root).store_id)
    place = index.locate(scores[-1])
    assert isinstance(place, Place)
    for score in scores[:lost]:
        index.drop_block(score)
    index.add_blocks(place.arena, [(score, place.offset, 0) for score in absent[:false]])
    index.close()
    names = [(finding.score, finding.reason) for finding in found(indexed.root)]
    assert sorted(names) == sorted(
        [(score.hex(), "lacks this block") for score in scores[:lost]]
        + [(score.hex(), "entry leads to something else") for score in absent[:false]]
    )
    rebuilt(indexed.root)
    assert_sound(indexed)


@pytest.mark.parametrize("kept", [2 * PAGE, 5 * PAGE, 7])
def test_check_outlives_an_index_that_kills_its_reader_and_repair_mends_it(
    indexed: Indexed, kept: int
) -> None:
    (indexed.root / "index" / "data.mdb").write_bytes(indexed.data[:kept])
    report = check(indexed.root, read_data=True)
    assert [finding.what for finding in report.findings] == ["index"]
    assert report.findings[0].reason
    assert report.summary.blocks == len(BLOCKS)
    done = repair(indexed.root, report)
    assert (done.lost, done.healed, done.rescued) == ([], [], 0)
    assert_sound(indexed)


def test_an_index_that_is_not_there_is_a_finding(indexed: Indexed) -> None:
    (indexed.root / "index" / "data.mdb").unlink()
    assert [(finding.what, finding.reason) for finding in found(indexed.root)] == [
        ("index", "is missing")
    ]
    assert audited(indexed.root, indexed=False).findings == []
