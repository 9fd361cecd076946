"""Checking and repairing a whole store: what is counted, what is found, what a repair does."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.arenafiles import incompressible
from tests.support.blocks import mixed_blocks
from tests.support.damage import flip, overwrite, truncate
from tests.support.stores import new_store, put_all
from ventifs.errors import Busy, NotStored
from ventifs.store import Score, Store, score_of
from ventifs.store.arena import HEADER_SIZE, Arena
from ventifs.store.arenas import Arenas
from ventifs.store.check import check, repair
from ventifs.store.clump import ClumpKind
from ventifs.store.findings import Finding
from ventifs.store.header import NotAStore, read_header
from ventifs.store.index import Index
from ventifs.store.journal import Changes, CommitCounters, Record

BLOCKS = [*mixed_blocks(20), *(incompressible(900_000, seed=number) for number in range(6))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store of a sealed and an open arena, with records in both."""
    root = new_store(tmp_path / "store")
    with Store.open(root, "write") as store:
        put_all(store, BLOCKS[:20])
        store.commit([(b"one", b"1")])
        put_all(store, BLOCKS)
        store.commit([(b"two", b"2")])
    return root


def arena_of(root: Path, *, sealed: bool) -> Arena:
    arenas = Arenas(root, read_header(root).store_id)
    (arena_id,) = arenas.sealed_ids() if sealed else arenas.open_ids()
    return arenas.reader(arena_id)


def clump_end(arena: Arena, kind: ClumpKind) -> tuple[int, int, list[str]]:
    """Offset, last byte and blocks of the first clump of a kind."""
    for offset, head in arena.heads(HEADER_SIZE, arena.clumps_end()):
        if head.kind is kind:
            return offset, offset + head.size - 1, [score.hex() for score, _ in head.blocks]
    raise AssertionError(kind)


def findings(root: Path, *, read_data: bool = True) -> list[Finding]:
    """The findings of a check that do harm."""
    report = check(root, read_data=read_data)
    return [finding for finding in report.findings if not finding.harmless]


def found(root: Path, *, read_data: bool = True) -> list[tuple[str, str | None, int | None]]:
    """(what, score, offset) of each finding that does harm."""
    return [(one.what, one.score, one.offset) for one in findings(root, read_data=read_data)]


# --- a sound store ----------------------------------------------------------------------------


@pytest.mark.parametrize("read_data", [False, True])
def test_nothing_is_found_in_a_sound_store_and_everything_is_looked_at(
    root: Path, read_data: bool
) -> None:
    told: list[tuple[int, int]] = []
    report = check(root, read_data=read_data, progress=lambda *step: told.append(step))
    sizes = [path.stat().st_size for path in (root / "arenas").glob("*/*.arena")]
    clumps = [
        head
        for sealed in (True, False)
        for arena in [arena_of(root, sealed=sealed)]
        for _, head in arena.heads(HEADER_SIZE, arena.clumps_end())
    ]
    assert report.findings == []
    assert (report.summary.arenas, report.summary.bytes) == (2, sum(sizes))
    assert (report.summary.clumps, report.summary.blocks) == (len(clumps), len(BLOCKS))
    assert told[-1] == (sum(sizes), sum(sizes))


def test_a_check_changes_nothing(root: Path) -> None:
    flip(arena_of(root, sealed=False).path, HEADER_SIZE + 50)
    before = {path: path.read_bytes() for path in root.rglob("*.arena")}
    check(root, read_data=True)
    assert {path: path.read_bytes() for path in root.rglob("*.arena")} == before
    assert list(root.rglob("*.torn")) == []


def test_what_is_no_store_is_not_checked(tmp_path: Path) -> None:
    with pytest.raises(NotAStore):
        check(tmp_path)


# --- damage to arenas -------------------------------------------------------------------------


def test_damaged_data_in_a_sealed_arena_is_found_by_reading_it(root: Path) -> None:
    arena = arena_of(root, sealed=True)
    offset, last, scores = clump_end(arena, ClumpKind.DATA)
    flip(arena.path, last)
    assert found(root, read_data=False) == []
    assert found(root) == [("block", score, offset) for score in scores]


def test_damaged_data_in_an_open_arena_is_found_either_way(root: Path) -> None:
    arena = arena_of(root, sealed=False)
    offset, last, scores = clump_end(arena, ClumpKind.DATA)
    flip(arena.path, last)
    for read_data in (False, True):
        assert found(root, read_data=read_data) == [("block", one, offset) for one in scores]


def test_every_clump_of_a_longer_damage_is_named(root: Path) -> None:
    arena = arena_of(root, sealed=False)
    lost = []
    for offset, head in list(arena.heads(HEADER_SIZE, arena.clumps_end()))[:2]:
        assert head.kind is ClumpKind.DATA
        flip(arena.path, offset + head.size - 1)
        lost += [score.hex() for score, _ in head.blocks]
    named = {score for what, score, _ in found(root) if what == "block"}
    assert named == set(lost)


@pytest.mark.parametrize("kind", [ClumpKind.CATALOG, ClumpKind.COMMIT])
def test_a_damaged_journal_is_found_and_its_records_are_rescued(
    root: Path, kind: ClumpKind
) -> None:
    arena = arena_of(root, sealed=True)
    offset, last, _ = clump_end(arena, kind)
    flip(arena.path, last)
    report = check(root, read_data=True)
    told = {(one.what, one.offset) for one in report.findings}
    assert (kind.name.lower(), offset) in told
    assert ("catalog", None) in told
    assert [record.key for record in report.rescued] == [b"one"]


def test_a_damaged_header_is_found(root: Path) -> None:
    flip(arena_of(root, sealed=True).path, 20)
    assert found(root, read_data=False) == [("header", None, 0)]


def test_a_damaged_directory_is_found_and_not_believed(root: Path) -> None:
    arena = arena_of(root, sealed=True)
    end = arena.clumps_end()
    flip(arena.path, end + 100)
    (finding,) = findings(root, read_data=False)
    assert (finding.what, finding.arena) == ("directory", arena.id.hex())


def test_a_damaged_trailer_is_found(root: Path) -> None:
    arena = arena_of(root, sealed=True)
    flip(arena.path, -1)
    whats = [what for what, *_ in found(root, read_data=False)]
    assert whats[0] == "trailer"
    assert "block" not in whats


def test_bytes_that_are_no_clump_are_found(root: Path) -> None:
    arena = arena_of(root, sealed=False)
    overwrite(arena.path, HEADER_SIZE, b"????")
    whats = found(root, read_data=False)
    assert ("arena", None, HEADER_SIZE) in whats
    assert any(what == "index" for what, *_ in whats)


def test_an_arena_that_is_cut_off_or_gone_is_found(root: Path) -> None:
    arena = arena_of(root, sealed=False)
    truncate(arena.path, arena.length() - 10)
    assert any("cut off" in one.reason for one in findings(root, read_data=False))
    arena.path.unlink()
    reasons = [one.reason for one in findings(root, read_data=False) if one.what == "arena"]
    assert "its file is missing" in reasons


# --- damage to the index ----------------------------------------------------------------------


def test_an_index_that_is_gone_or_no_index_is_a_finding(root: Path) -> None:
    (root / "index" / "lock.mdb").unlink()
    data = root / "index" / "data.mdb"
    data.write_bytes(b"not LMDB" * 4096)
    assert found(root) == [("index", None, None)]
    data.unlink()
    (finding,) = findings(root)
    assert (finding.what, finding.reason) == ("index", "is missing")


def opened_index(root: Path) -> Index:
    return Index(root / "index", read_header(root).store_id)


def test_a_block_that_the_index_lacks_is_found(root: Path) -> None:
    index = opened_index(root)
    index.drop_block(score_of(BLOCKS[3]))
    index.close()
    (finding,) = findings(root)
    assert (finding.what, finding.score) == ("index", score_of(BLOCKS[3]).hex())


def test_an_entry_that_leads_elsewhere_is_found(root: Path) -> None:
    index = opened_index(root)
    place = index.locate(score_of(BLOCKS[3]))
    assert place is not None
    wrong = Score(score_of(b"never stored"))
    index.add_blocks(place.arena, [(wrong, place.offset, place.position)])
    index.close()
    assert found(root) == [("index", wrong.hex(), place.offset)]


def test_records_that_index_and_arenas_do_not_share_are_found(root: Path) -> None:
    index = opened_index(root)
    (first, _) = index.records()
    only = Record(b"only here", bytes(range(16)), b"")
    index.settle([], Changes([only], [first.id]), CommitCounters())
    index.close()
    report = check(root)
    assert {one.what for one in report.findings} == {"catalog"}
    assert sorted(first.key in one.reason.encode() for one in report.findings) == [False, True]
    assert report.rescued == [only]


# --- repairs ----------------------------------------------------------------------------------


def test_a_repair_forgets_what_is_lost_so_that_it_is_stored_anew(root: Path) -> None:
    arena = arena_of(root, sealed=True)
    _, last, scores = clump_end(arena, ClumpKind.DATA)
    flip(arena.path, last)
    done = repair(root, check(root, read_data=True))
    assert (done.lost, done.healed, done.rescued) == (sorted(scores), [], 0)
    assert findings(root) == []
    lost = [block for block in BLOCKS if score_of(block).hex() in scores]
    with Store.open(root, "write") as store:
        with pytest.raises(NotStored):
            store.get(score_of(lost[0]))
        assert all(store.put(block)[1] for block in lost)
        store.commit()
        assert [bytes(store.get(score_of(block))) for block in lost] == lost


def test_a_repair_turns_to_another_copy(tmp_path: Path) -> None:
    root = new_store(tmp_path / "store")
    block = incompressible(5000)
    with Store.open(root, "write") as one, Store.open(root, "write") as two:
        one.put(block)
        two.put(block)
        one.commit()
        two.commit()
    index = opened_index(root)
    place = index.locate(score_of(block))
    index.close()
    assert place is not None
    flip(Arenas(root, read_header(root).store_id).reader(place.arena).path, place.offset + 100)
    report = check(root, read_data=True)
    done = repair(root, report)
    assert (done.lost, done.healed) == ([], [score_of(block).hex()])
    with Store.open(root) as store:
        assert store.get(score_of(block)) == block


def test_a_repair_writes_records_again_that_only_the_index_has(root: Path) -> None:
    arena = arena_of(root, sealed=True)
    flip(arena.path, clump_end(arena, ClumpKind.COMMIT)[1])
    assert repair(root, check(root, read_data=True)).rescued == 1
    with Store.open(root) as store:
        assert [(one.key, one.value) for one in store.records()] == [(b"one", b"1"), (b"two", b"2")]


def test_nothing_is_repaired_under_a_writer(root: Path) -> None:
    report = check(root)
    with Store.open(root, "write"), pytest.raises(Busy):
        repair(root, report)


def test_whoever_is_interrupted_does_not_wait_for_the_reader_nor_leave_it_behind(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = tmp_path / "reader"  # says how far it is, and then reads for long
    reader.write_text("""#!/bin/sh\necho '{"progress": [1, 2]}'\nexec sleep 300\n""")
    reader.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(reader))
    started: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen[bytes]):
        def __enter__(self) -> "Popen":
            started.append(self)
            return self

    class Interrupted(BaseException):
        pass

    def interrupted(_: int, __: int) -> None:
        raise Interrupted

    monkeypatch.setattr(subprocess, "Popen", Popen)
    with pytest.raises(Interrupted):
        check(root, progress=interrupted)
    assert [child.returncode for child in started] == [-signal.SIGKILL]
