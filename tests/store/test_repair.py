"""Repair: damaged blocks are healed from another copy or stored anew, and no record is lost."""

import logging
from pathlib import Path

import pytest

from tests.support.damage import flip
from tests.support.regions import Region, Whole, whole_store
from tests.support.tiny import made_up_blocks, tiny_store
from ventifs.errors import Busy, Corrupt, NotStored
from ventifs.store import Score, Store, score_of
from ventifs.store.check import check, repair
from ventifs.store.clump import ClumpKind
from ventifs.store.findings import Finding


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.fixture
def whole(tmp_path: Path) -> Whole:
    return whole_store(tmp_path / "store")


def harm(root: Path) -> list[Finding]:
    report = check(root, read_data=True)
    return [finding for finding in report.findings if not finding.harmless]


def scores(region: Region) -> list[str]:
    assert region.head is not None
    return sorted(score.hex() for score, _ in region.head.blocks)


@pytest.mark.parametrize("place", ["sealed", "open"])
@pytest.mark.parametrize("name", ["payload of DATA RAW", "payload of NODE ZSTD"])
def test_a_damaged_block_without_another_copy_is_dropped_and_stored_anew(
    whole: Whole, place: str, name: str
) -> None:
    region = next(region for region in whole.named(name) if region.path.parent.name == place)
    lost = scores(region)
    flip(region.path, region.start + 20)
    report = check(whole.root, read_data=True)
    assert sorted(finding.score or "" for finding in report.findings) == lost
    done = repair(whole.root, report)
    assert (done.lost, done.healed, done.rescued) == (lost, [], 0)
    assert harm(whole.root) == []
    with Store.open(whole.root, "write") as store:
        assert len(store.records()) == 4
        for score in map(Score, map(bytes.fromhex, lost)):
            with pytest.raises(NotStored):
                store.get(score)
        new = {score.hex() for score, block in whole.blocks.items() if store.put(block)[1]}
        assert sorted(new) == lost
    with Store.open(whole.root) as store:
        assert all(bytes(store.get(score)) == block for score, block in whole.blocks.items())
    assert harm(whole.root) == []


def twice_stored(root: Path) -> tuple[list[bytes], list[Path]]:
    """Blocks that two writers have stored at the same time; the blocks and the arenas."""
    tiny_store(root)
    blocks = made_up_blocks(8)
    with Store.open(root, "write") as one, Store.open(root, "write") as two:
        for store in (one, two):
            assert all(store.put(block)[1] for block in blocks)
        one.commit([(b"one", b"")])
        two.commit([(b"two", b"")])
    return blocks, sorted((root / "arenas" / "open").iterdir())


@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_copy_costs_nothing_while_there_is_another(tmp_path: Path, which: int) -> None:
    blocks, arenas = twice_stored(tmp_path / "store")
    flip(arenas[which], 1000)
    report = check(tmp_path / "store", read_data=True)
    found = {finding.score for finding in report.findings}
    damaged = sorted(score_of(block).hex() for block in blocks)
    assert found == set(damaged)
    assert len({finding.harmless for finding in report.findings}) == 1
    led_to = not report.findings[0].harmless
    done = repair(tmp_path / "store", report)
    assert (done.lost, done.healed) == ([], damaged if led_to else [])
    with Store.open(tmp_path / "store", "write") as store:
        assert all(bytes(store.get(score_of(block))) == block for block in blocks)
        assert not any(store.put(block)[1] for block in blocks)
        assert [record.key for record in store.records()] == [b"one", b"two"]
    assert harm(tmp_path / "store") == []


def test_one_of_two_copies_is_the_one_that_is_led_to(tmp_path: Path) -> None:
    """So that the test above covers both a healed block and a harmless finding."""
    blocks, arenas = twice_stored(tmp_path / "store")
    harmless = []
    for arena in arenas:
        flip(arena, 1000)
        findings = check(tmp_path / "store", read_data=True).findings
        flip(arena, 1000)
        harmless.append({finding.harmless for finding in findings})
        assert len(findings) == len(blocks)
    assert sorted(harmless, key=str) == [{False}, {True}]


@pytest.mark.parametrize("place", ["open", "sealed"])
@pytest.mark.parametrize("kind", [ClumpKind.CATALOG, ClumpKind.COMMIT])
def test_a_record_that_only_the_index_still_has_is_rescued(
    whole: Whole, place: str, kind: ClumpKind
) -> None:
    regions = whole.named(f"payload of {kind.name}")
    region = next(region for region in regions if region.path.parent.name == place)
    with Store.open(whole.root) as store:
        before = [(record.key, record.value) for record in store.records()]
    flip(region.path, region.start + 5)
    report = check(whole.root, read_data=True)
    assert len(report.rescued) == 1
    done = repair(whole.root, report)
    assert (done.lost, done.healed, done.rescued) == ([], [], 1)
    with Store.open(whole.root, "write") as store:
        assert [(record.key, record.value) for record in store.records()] == before
    (whole.root / "index" / "data.mdb").unlink()  # it is in an arena again
    with Store.open(whole.root, "write") as store:
        assert [(record.key, record.value) for record in store.records()] == before


@pytest.mark.parametrize("place", ["open", "sealed"])
def test_nothing_harmful_is_left_after_a_damaged_journal_was_repaired(
    whole: Whole, place: str
) -> None:
    regions = whole.named("payload of CATALOG")
    region = next(region for region in regions if region.path.parent.name == place)
    flip(region.path, region.start + 5)
    repair(whole.root, check(whole.root, read_data=True))
    assert harm(whole.root) == []


def test_repair_of_a_sound_store_changes_nothing_but_the_epoch(whole: Whole) -> None:
    with Store.open(whole.root) as store:
        records, epoch = store.records(), store.epoch
    done = repair(whole.root, check(whole.root, read_data=True))
    assert (done.lost, done.healed, done.rescued) == ([], [], 0)
    with Store.open(whole.root) as store:
        assert store.records() == records
        assert store.epoch != epoch
        assert all(bytes(store.get(score)) == block for score, block in whole.blocks.items())


def test_repair_waits_for_no_writer(whole: Whole) -> None:
    report = check(whole.root, read_data=True)
    with Store.open(whole.root, "write"), pytest.raises(Busy):
        repair(whole.root, report)


def test_a_reader_that_was_open_follows_a_repair(whole: Whole) -> None:
    region = whole.named("payload of DATA RAW")[0]
    [lost] = (Score(bytes.fromhex(score)) for score in scores(region))
    flip(region.path, region.start)
    with Store.open(whole.root) as reader:
        with pytest.raises(Corrupt):
            reader.get(lost)
        repair(whole.root, check(whole.root, read_data=True))
        with Store.open(whole.root, "write") as store:
            assert store.put(whole.blocks[lost]) == (lost, True)
            store.commit([(b"later", b"")])
        assert b"later" in [record.key for record in reader.records()]
        assert bytes(reader.get(lost)) == whole.blocks[lost]


def test_a_reader_that_was_open_has_what_is_stored_after_a_repair(whole: Whole) -> None:
    with Store.open(whole.root) as reader:
        repair(whole.root, check(whole.root, read_data=True))
        with Store.open(whole.root, "write") as store:
            score, _ = store.put(b"stored later")
        assert reader.has(score)
