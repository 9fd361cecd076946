"""One flipped bit, anywhere in a store, is found, named, and never handed out as data."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.damage import flip
from tests.support.regions import Region, Whole, whole_store
from tests.support.sizes import LONG
from tests.support.tiny import audited, made_up_blocks
from ventifs.errors import Corrupt
from ventifs.store import Score, Store
from ventifs.store.arena import Arena
from ventifs.store.check import check
from ventifs.store.findings import Finding
from ventifs.store.header import HEADER_NAME, HEADER_SIZE, read_header

BITS = 48 if LONG else 24  # tried in each larger region


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return whole_store(tmp_path_factory.mktemp("whole") / "store")


@contextmanager
def flipped(path: Path, at: int, mask: int) -> Iterator[None]:
    """A file with bits of one byte changed, for a while."""
    with path.open("r+b", buffering=0) as file:
        file.seek(at)
        good = file.read(1)[0]
        file.seek(at)
        file.write(bytes([good ^ mask]))
        try:
            yield
        finally:
            file.seek(at)
            file.write(bytes([good]))


def flips(whole: Whole, start: str) -> Iterator[Region]:
    """Each region whose name begins so, once for each bit that is flipped in it, meanwhile."""
    regions = whole.named(start)
    assert regions
    rng = random.Random(start)
    for region in regions:
        for at, mask in region.bits(rng, 2 * BITS if region.head is None else BITS):
            with flipped(region.path, at, mask):
                try:
                    yield region
                except AssertionError as error:
                    error.add_note(f"{region.name} at {region.offset}, byte {at} ^ {mask}")
                    raise


def harm(whole: Whole, path: Path) -> list[Finding]:
    """What a check finds, all of it in the arena that is damaged, but for lost records."""
    found = [
        finding
        for finding in audited(whole.root).findings
        if finding.arena or finding.what != "catalog"
    ]
    assert {finding.arena for finding in found} == {path.stem}
    return [finding for finding in found if not finding.harmless]


def unreadable(whole: Whole) -> set[Score]:
    """The blocks that `get` says are damaged; all others are what they should be."""
    errors: dict[Score, Corrupt] = {}
    with Store.open(whole.root) as store:
        for score, block in whole.blocks.items():
            try:
                assert bytes(store.get(score)) == block
            except Corrupt as error:
                errors[score] = error
    assert all(error.score == score for score, error in errors.items())
    assert all(error.arena and error.offset for error in errors.values())
    return set(errors)


def scores(region: Region) -> set[Score]:
    assert region.head is not None
    return {score for score, _ in region.head.blocks}


def test_the_store_that_is_damaged_here_has_everything_and_is_sound(whole: Whole) -> None:
    names = {region.name for region in whole.regions}
    assert {f"head of {kind}" for kind in ("DATA", "NODE", "CATALOG", "COMMIT", "GAP")} <= names
    assert {"payload of DATA RAW", "payload of DATA ZSTD", "payload of NODE ZSTD"} <= names
    assert {"header", "directory", "trailer", "list of DATA", "list of NODE"} <= names
    paths = {region.path.parent.name for region in whole.named("head of GAP")}
    assert paths == {"open", "sealed"}
    assert audited(whole.root).findings == []
    assert unreadable(whole) == set()


@pytest.mark.parametrize(
    "what", ["payload of DATA", "payload of NODE", "list of", "head of DATA", "head of NODE"]
)
def test_a_flipped_bit_in_blocks_is_found_and_costs_their_clump_alone(
    whole: Whole, what: str
) -> None:
    for region in flips(whole, what):
        found = harm(whole, region.path)
        assert {finding.offset for finding in found} == {region.offset}
        if region.name.startswith("payload"):
            assert {finding.score for finding in found} == {score.hex() for score in scores(region)}
            assert {finding.what for finding in found} == {"block"}
        assert unreadable(whole) <= scores(region)


def test_a_flipped_bit_in_what_does_not_compress_is_seen_by_get(whole: Whole) -> None:
    for region in flips(whole, "payload of DATA RAW"):
        assert unreadable(whole) == scores(region)


@pytest.mark.parametrize(
    "what",
    ["head of CATALOG", "payload of CATALOG", "head of COMMIT", "payload of COMMIT", "head of GAP"],
)
def test_a_flipped_bit_in_the_journal_is_found_and_costs_no_block(whole: Whole, what: str) -> None:
    for region in flips(whole, what):
        assert region.offset in {finding.offset for finding in harm(whole, region.path)}
        assert unreadable(whole) == set()


@pytest.mark.parametrize("what", ["header", "directory", "trailer"])
def test_a_flipped_bit_around_the_clumps_is_found_and_costs_no_block(
    whole: Whole, what: str
) -> None:
    for region in flips(whole, what):
        found = harm(whole, region.path)
        assert [finding.what for finding in found] == [what]
        assert found[0].offset is not None
        assert unreadable(whole) == set()


@pytest.mark.parametrize(
    "what", ["header", "payload of DATA ZSTD", "payload of COMMIT", "directory"]
)
def test_check_with_its_child_process_finds_the_same(whole: Whole, what: str) -> None:
    region = whole.named(what)[-1]
    with flipped(region.path, region.end - 1, 0x40):
        expected = audited(whole.root).findings
        found = check(whole.root, read_data=True).findings
    assert expected
    assert found == expected


def test_a_check_without_read_data_sees_what_is_cut_off(whole: Whole) -> None:
    [opened] = {region.path for region in whole.regions if region.path.parent.name == "open"}
    data = opened.read_bytes()
    opened.write_bytes(data[:-1])
    try:
        found = check(whole.root).findings
    finally:
        opened.write_bytes(data)
    assert {finding.arena for finding in found} == {opened.stem}


def test_every_bit_of_the_store_header_matters(tmp_path: Path) -> None:
    root = whole_store(tmp_path / "store").root
    for at in range(HEADER_SIZE):
        for bit in range(8):
            with flipped(root / HEADER_NAME, at, 1 << bit), pytest.raises(Corrupt):
                read_header(root)
    read_header(root)


@pytest.mark.parametrize("where", ["in another place", "in another arena"])
def test_a_good_clump_is_none_anywhere_else(tmp_path: Path, where: str) -> None:
    whole = whole_store(tmp_path / "store")
    large = whole.named("payload of DATA RAW")
    victim = large[0]
    copied = (
        large[1]
        if where == "in another place"
        else next(region for region in large if region.path != victim.path)
    )
    assert (copied.path == victim.path) == (where == "in another place")
    assert (copied.offset == victim.offset) == (where == "in another arena")
    start, size = copied.offset, copied.end - copied.offset
    clump = copied.path.read_bytes()[start : start + size]
    with victim.path.open("r+b") as file:
        file.seek(victim.offset)
        file.write(clump)
    assert harm(whole, victim.path)[0].offset == victim.offset
    assert unreadable(whole) == scores(victim)
    (whole.root / "index" / "data.mdb").unlink()
    with Store.open(whole.root, "write") as store:
        assert not any(store.has_many(sorted(scores(victim))))
    assert unreadable_after_loss(whole, scores(victim)) == set()


def unreadable_after_loss(whole: Whole, lost: set[Score]) -> set[Score]:
    """As `unreadable`, of the blocks that are left."""
    left = {score: block for score, block in whole.blocks.items() if score not in lost}
    return unreadable(Whole(whole.root, left, whole.regions))


def test_a_damaged_head_in_an_open_arena_does_not_stop_writers(tmp_path: Path) -> None:
    whole = whole_store(tmp_path / "store")
    head = next(
        region for region in whole.named("head of DATA") if region.path.parent.name == "open"
    )
    flip(head.path, head.start)
    with Store.open(whole.root, "write") as store:
        more = {store.put(block)[0]: block for block in made_up_blocks(300, seed=9)}
        store.commit([(b"later", b"")])
    assert unreadable(Whole(whole.root, more, [])) == set()
    with Store.open(whole.root) as store:
        assert b"later" in [record.key for record in store.records()]


def test_damage_makes_no_open_for_writing_fail(tmp_path: Path) -> None:
    """A sealed arena is never written, and an open one not where the index knows it."""
    whole = whole_store(tmp_path / "store")
    for region in whole.named("payload of"):
        flip(region.path, region.end - 1)
    before = {region.path: region.path.read_bytes() for region in whole.regions}
    with Store.open(whole.root, "write") as store:
        assert len(store.records()) == 4
    assert {path: path.read_bytes() for path in before} == before
    assert len(before) == len({Arena.open(path).id for path in before}) == 2
