"""Dropped arenas: nothing is taken from them any more, and the catalog stays as it is."""

import shutil
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from msgspec.structs import asdict, replace

from tests.support.arenafiles import incompressible
from tests.support.damage import flip
from tests.support.dropping import arenas_of, copy_from, drop, sealed
from tests.support.stores import findings, new_store, put_all
from tests.support.tiny import audited
from ventifs.errors import Corrupt, NotStored, VentifsError
from ventifs.store import Score, Store, arena_audit, recovery
from ventifs.store import audit as audit_module
from ventifs.store.arena import HEADER_SIZE, Arena, Clump
from ventifs.store.arena_journal import ArenaJournal, read_journal
from ventifs.store.arena_state import ArenaState
from ventifs.store.arenas import Arenas
from ventifs.store.block_reader import ReclaimedMeanwhile
from ventifs.store.check import check, repair
from ventifs.store.clump import ClumpKind
from ventifs.store.files import Files
from ventifs.store.findings import Report
from ventifs.store.header import RECLAIMED, Unsupported, read_header, write_header
from ventifs.store.index import Index
from ventifs.store.journal import Changes, Record
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index

BLOCKS = [incompressible(900_000, seed=number) for number in range(14)]  # four fill an arena


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return new_store(tmp_path / "store")


def three_arenas(root: Path) -> tuple[Store, list[Score], list[bytes], dict[bytes, Record]]:
    """A store with a record in each of three arenas, the first two of which are sealed."""
    store = Store.open(root, "write")
    records: dict[bytes, Record] = {}
    for number in range(3):
        key = b"in %d" % number
        put_all(store, BLOCKS[4 * number : 4 * number + 1])
        [records[key]] = store.commit([(key, b"value")])
        put_all(store, BLOCKS[4 * number + 1 : 4 * number + 4])
        store.commit()
    scores = put_all(store, BLOCKS[:12])
    found = sealed(store)
    assert len(found) == 2
    return store, scores, found, records


def rebuild(root: Path) -> None:
    with store_lock(root, alone=True):
        rebuild_index(root, read_header(root), Files())


def with_deletion_of(store: Store, record: Record) -> bytes:
    """Fill the arena in which a record was just deleted, so that it is sealed; return its id."""
    put_all(store, [incompressible(900_000, seed=100 + number) for number in range(5)])
    store.commit()
    arenas = arenas_of(store)
    [found] = [each for each in sealed(store) if record.id in journal_of(arenas, each).deletes]
    return found


def journal_of(arenas: Arenas, arena: bytes) -> ArenaJournal:
    return read_journal(arenas.reader(arena))


def commits_in(path: Path) -> list[int]:
    """The offsets of an arena's commits."""
    arena = Arena.open(path)
    return [
        found.offset
        for found in arena.scan(HEADER_SIZE, arena.clumps_end())
        if isinstance(found, Clump) and found.head.kind is ClumpKind.COMMIT
    ]


def everything(root: Path, scores: list[Score]) -> tuple[list[Record], dict[str, int]]:
    """The records and figures of a store in which all of some blocks can be read."""
    with Store.open(root) as store:
        for score, block in zip(scores, BLOCKS, strict=False):
            assert store.get(score) == block
        figures = asdict(store.stats())
        for varying in ("index_bytes", "index_entries"):
            del figures[varying]
        return store.records(), figures


# --- what stays ---------------------------------------------------------------------------------


def test_records_in_a_dropped_arena_keep_their_ids(root: Path) -> None:
    store, scores, arenas, records = three_arenas(root)
    with store:
        drop(store, arenas[:1], scores)
        assert store.records() == sorted(records.values())
    assert findings(root) == []
    before = everything(root, scores)
    rebuild(root)
    assert everything(root, scores) == before
    assert before[0] == sorted(records.values())
    assert findings(root) == []


def test_all_arenas_may_be_dropped_one_after_the_other(root: Path) -> None:
    """Each drop is carried on by the next, so the sums of all commits stay as they are."""
    store, scores, _, records = three_arenas(root)
    with store:
        counters = store._index.counters()
        first = arenas_of(store).all_ids()
        for _ in range(4):
            drop(store, sealed(store), scores)
        dropped = store._index.drops()
        assert len(set(first) - dropped.keys()) <= 1
        put_again = store._index.counters()
    assert put_again.put_blocks > counters.put_blocks
    rebuild(root)
    with Store.open(root, "write") as store:
        assert store._index.drops() == dropped
        assert store._index.counters() == put_again
        assert store.records() == sorted(records.values())
        assert all(store.has_many(scores))
    assert findings(root) == []


def test_a_drop_that_is_put_twice_counts_once(root: Path) -> None:
    store, scores, arenas, _ = three_arenas(root)
    with store:
        drop(store, arenas[:1], scores)
        counters, drops = store._index.counters(), store._index.drops()
    with Store.open(root, "write") as store:
        store._writer.commit(Changes(drops=drops))
        assert store._index.counters() == counters
    rebuild(root)
    with Store.open(root) as store:
        assert store._index.counters() == counters


def test_a_deletion_is_carried_on_while_its_record_may_come_back(root: Path) -> None:
    store, scores, _, records = three_arenas(root)
    with store:
        store.commit(deletes=[records[b"in 1"]])
        drop(store, [with_deletion_of(store, records[b"in 1"])], scores)
    rebuild(root)
    with Store.open(root) as store:
        assert records[b"in 1"] not in store.records()
        assert records[b"in 1"].id in store._index.snapshot().deleted
    assert findings(root) == []


def test_a_deletion_goes_when_nothing_can_put_its_record_again(root: Path) -> None:
    store, scores, arenas, records = three_arenas(root)
    with store:
        store.commit(deletes=[records[b"in 0"]])
        assert store._index.snapshot().deleted == {records[b"in 0"].id}
        drop(store, arenas[:1], scores)
        assert store._index.snapshot().deleted == set()
        assert records[b"in 0"] not in store.records()
        drop(store, [with_deletion_of(store, records[b"in 0"])], scores)
        journals = [journal_of(arenas_of(store), each) for each in arenas_of(store).all_ids()]
    assert all(records[b"in 0"].id not in journal.deletes for journal in journals)
    assert findings(root) == []


def test_an_unreadable_journal_counts_as_holding_every_record(root: Path) -> None:
    store, scores, arenas, records = three_arenas(root)
    with store:
        store.commit(deletes=[records[b"in 0"]])
    flip(store_file := arenas_of(store).sealed_path(arenas[1]), store_file.stat().st_size - 90)
    with store_file.open("r+b") as file:  # neither directory nor the commits can be read
        data = bytearray(file.read())
        while (at := data.find(b"vfC\x01\x04")) >= 0:
            data[at + 20] ^= 1
            data[at] ^= 1
        file.seek(0)
        file.write(data)
    with Store.open(root, "write") as store:
        copy_from(store, arenas[:1], scores[:4])
        store.drop_arenas(arenas[:1])
        assert store._index.snapshot().deleted == {records[b"in 0"].id}
        store.drop_arenas(arenas[1:2])  # what the index knows of it stays
        left = store.records()
    assert {record.key for record in left} == {b"in 1", b"in 2"}
    rebuild(root)
    with Store.open(root) as store:
        assert store.records() == left


def test_what_was_deleted_stays_deleted_when_an_older_index_is_put_back(
    root: Path, tmp_path: Path
) -> None:
    """Its put and its deletion have gone with their arenas; the index still has the record."""
    store, scores, arenas, records = three_arenas(root)
    with store:
        older = shutil.copytree(root / "index", tmp_path / "older")
        store.commit(deletes=[records[b"in 0"]])
        with_deletion = with_deletion_of(store, records[b"in 0"])
        drop(store, arenas[:1], scores)
        drop(store, [with_deletion], scores)
        left = store.records()
    shutil.rmtree(root / "index")
    shutil.copytree(older, root / "index")
    report = check(root)
    assert report.rescued == []
    assert any("it is older than arenas" in finding.reason for finding in report.findings)
    with Store.open(root, "write") as store:
        assert store.records() == left
    assert findings(root) == []


def test_what_others_commit_while_an_older_index_catches_up_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their records are in arenas that were not there when the journals were read."""
    store, scores, arenas, _ = three_arenas(root)
    with store:
        copy_from(store, arenas[:1], scores)
        older = shutil.copytree(root / "index", tmp_path / "older")
        store.drop_arenas(arenas[:1])
        before = store.records()
    shutil.rmtree(root / "index")
    shutil.copytree(older, root / "index")
    late: list[Record] = []

    def read(arena: Arena, *places: int) -> ArenaJournal:
        journal = read_journal(arena, *places)
        if not late and not places:  # all drops are known
            late.append(Record.new(b"late", b""))
            with pytest.MonkeyPatch.context() as patch:  # as if it had been open before
                patch.setattr(Store, "_recover", lambda *_, **__: None)
                with Store.open(root, "write") as other:
                    other.commit(late)
        return journal

    monkeypatch.setattr(recovery, "read_journal", read)
    with Store.open(root, "write") as store:
        assert store.records() == sorted([*before, *late])
    rebuild(root)
    with Store.open(root) as store:
        assert store.records() == sorted([*before, *late])


def test_a_deletion_outlives_an_arena_that_is_only_away(root: Path, tmp_path: Path) -> None:
    store, scores, arenas, records = three_arenas(root)
    with store:
        store.commit(deletes=[records[b"in 0"]])
        with_deletion = with_deletion_of(store, records[b"in 0"])
    path = arenas_of(store).sealed_path(arenas[0])
    path.rename(tmp_path / path.name)
    rebuild(root)
    with Store.open(root, "write") as store:
        drop(store, [with_deletion], scores[4:])
    (tmp_path / path.name).rename(path)
    for again in (False, True):
        if again:
            rebuild(root)
        with Store.open(root, "write") as store:
            assert records[b"in 0"] not in store.records()


def test_what_the_index_has_lost_of_deletions_the_journals_know(root: Path) -> None:
    store, scores, arenas, records = three_arenas(root)
    with store:
        store.commit(deletes=[records[b"in 0"]])
        with store._index._writing() as transaction:  # as a damaged page would hide it
            transaction.delete(records[b"in 0"].id, db=store._index._environment.tables[b"deleted"])
        drop(store, arenas[:1], scores)
        assert records[b"in 0"] not in store.records()
    rebuild(root)
    with Store.open(root) as store:
        assert records[b"in 0"] not in store.records()


def test_a_repair_keeps_drops_that_only_the_index_knows(root: Path) -> None:
    store, scores, arenas, records = three_arenas(root)
    with store:
        store.commit(deletes=[records[b"in 0"]])
        copy_from(store, arenas[:1], scores)
        store.drop_arenas(arenas[:1])  # its file stays
        counters = store._index.counters()
        [path] = arenas_of(store).open_directory.iterdir()
        [at] = [offset for offset in commits_in(path) if arenas[0] in path.read_bytes()[:offset]][
            -1:
        ]
    flip(path, at + 40)
    report = check(root, read_data=True)
    assert set(report.lost_drops) == set(arenas[:1])
    repair(root, report)
    with Store.open(root, "write") as store:
        assert store._index.drops().keys() == set(arenas[:1])
        assert records[b"in 0"] not in store.records()
    rebuild(root)
    with Store.open(root) as store:
        assert store._index.drops().keys() == set(arenas[:1])
        assert records[b"in 0"] not in store.records()
        assert store._index.counters().put_blocks <= counters.put_blocks
    assert findings(root) == []


def test_an_arena_is_dropped_while_it_is_checked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scores, arenas, _ = three_arenas(root)
    audited_arena = arena_audit.audit_arena

    def dropping(*arguments: Any) -> Report:
        found = audited_arena(*arguments)
        if arguments[-1] == max(arenas_of(store).all_ids()):
            drop(store, arenas[:1], scores)
        return found

    monkeypatch.setattr(audit_module, "audit_arena", dropping)
    with store:
        report = audited(root)
    assert [finding for finding in report.findings if not finding.harmless] == []
    assert report.rescued == report.forgotten == []


def dropped_while_checked(
    store: Store, scores: list[Score], monkeypatch: pytest.MonkeyPatch
) -> list[bytes]:
    """A list of arenas: those that a test puts there are dropped as the next check begins."""
    audited_arena = arena_audit.audit_arena
    doomed: list[bytes] = []

    def dropping(*arguments: Any) -> Report:
        if doomed:
            drop(store, doomed, scores)
            doomed.clear()
        return audited_arena(*arguments)

    monkeypatch.setattr(audit_module, "audit_arena", dropping)
    return doomed


def test_arenas_with_records_and_deletions_go_before_a_check_reads_them(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scores, arenas, records = three_arenas(root)
    doomed = dropped_while_checked(store, scores, monkeypatch)
    with store:
        store.commit(deletes=[records[b"in 1"]])
        doomed += [arenas[0], with_deletion_of(store, records[b"in 1"])]
        report = audited(root)
        assert doomed == []
        assert [finding for finding in report.findings if not finding.harmless] == []
        assert report.rescued == report.forgotten == []
    assert findings(root) == []


def test_an_arena_with_a_drop_goes_before_a_check_reads_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scores, arenas, _ = three_arenas(root)
    doomed = dropped_while_checked(store, scores, monkeypatch)
    with store:
        drop(store, arenas[:1], scores)
        put_all(store, [incompressible(900_000, seed=seed) for seed in range(90, 94)])
        store.commit()
        doomed += [
            arena
            for arena in sealed(store)
            if arenas[0] in read_journal(arenas_of(store).reader(arena)).drops
        ]
        assert len(doomed) == 1
        report = audited(root)
        assert doomed == []
        assert [finding for finding in report.findings if not finding.harmless] == []
        assert report.lost_drops == {}
    assert findings(root) == []


def test_a_second_copy_of_what_was_dropped_does_no_harm(root: Path) -> None:
    """Nothing needs these blocks, and the index led to the copies that went."""
    store, scores, arenas, _ = three_arenas(root)
    with store:
        inner = [score for score in scores if store.locate_many([score])[0] is not None]
        copy_from(store, arenas[:1], inner)
        put_all(store, [incompressible(900_000, seed=seed) for seed in range(90, 94)])
        store.commit()
        copies = set(sealed(store)) - set(arenas)
        store.drop_arenas(copies)
        for arena in copies:
            store._files.unlink(arenas_of(store).sealed_path(arena))
    found = audited(root).findings
    assert {(finding.reason, finding.harmless) for finding in found} == {
        (arena_audit.LACKS_BLOCK, True)
    }
    assert {finding.arena for finding in found} == {arenas[0].hex()}
    rebuild(root)
    assert findings(root) == []


# --- what is not taken any more -----------------------------------------------------------------


def test_a_block_in_a_dropped_arena_is_not_known(root: Path) -> None:
    store, scores, arenas, _ = three_arenas(root)
    with store:
        [lost] = [score for score in scores[:1] if store._index.locate(score)]
        store.drop_arenas(arenas[:1])
        assert not store.has(lost)
        assert not store._index.known(lost)
        with pytest.raises(NotStored):
            store.get(lost)
        assert lost not in {score for score, _ in store._index.entries()}
        assert store.put(BLOCKS[0]) == (lost, True)
        store.commit()
        assert store.get(lost) == BLOCKS[0]


def test_numbers_of_arenas_are_not_used_again(root: Path) -> None:
    store, scores, _, _ = three_arenas(root)
    with store:
        used = {store._index.number_of(arena) for arena in arenas_of(store).all_ids()}
        drop(store, sealed(store), scores)
        drop(store, sealed(store), scores)
        now = {
            store._index.number_of(arena)
            for arena in arenas_of(store).all_ids()
            if not store._index.dropped(arena)
        }
    assert min(now - used) > max(used)


@pytest.mark.parametrize("where", ["sealed", "open", "condemned", "nowhere"])
@pytest.mark.parametrize("index", ["kept", "older", "none"])
def test_nothing_is_taken_from_a_dropped_arena_wherever_its_file_lies(
    root: Path, tmp_path: Path, where: str, index: str
) -> None:
    store, scores, arenas, records = three_arenas(root)
    shutil.copytree(root / "index", tmp_path / "older")
    with store:
        name = f"{arenas[0].hex()}.arena"
        shutil.copy(root / "arenas/sealed" / name, tmp_path / name)
        drop(store, arenas[:1], scores)
    if where != "nowhere":
        (root / "arenas" / where).mkdir(exist_ok=True, mode=0o700)
        shutil.copy(tmp_path / name, root / "arenas" / where / name)
    report = check(root, read_data=True)
    expected = [] if where == "nowhere" else ["it was dropped"]
    assert [finding.reason for finding in report.findings] == expected
    assert all(finding.harmless for finding in report.findings)
    if index != "kept":
        shutil.rmtree(root / "index")
    if index == "older":
        shutil.copytree(tmp_path / "older", root / "index")
    with Store.open(root, "write") as store:
        for score in scores:
            place = store._index.locate(score)
            assert place is not None
            assert place.arena != arenas[0]
        assert store.records() == sorted(records.values())
    assert check(root, read_data=True).findings == []
    assert list((root / "arenas").rglob(name)) == []  # a writer has removed it


def test_a_commit_that_relies_on_a_dropped_arena_is_excused(root: Path, tmp_path: Path) -> None:
    with Store.open(root, "write") as store:
        scores = put_all(store, BLOCKS)
        older = shutil.copytree(root / "index", tmp_path / "older")
        store.commit([(b"key", b"")])  # relies on all arenas
        drop(store, sealed(store), scores)
    shutil.rmtree(root / "index")
    shutil.copytree(older, root / "index")
    with Store.open(root, "write") as store:
        assert [record.key for record in store.records()] == [b"key"]
        assert all(store.has_many(scores))
    assert findings(root) == []


# --- refusals -----------------------------------------------------------------------------------


def test_only_sealed_arenas_are_dropped(root: Path) -> None:
    store, scores, arenas, _ = three_arenas(root)
    with store:
        [growing] = arenas_of(store).open_ids()
        for unfit in (growing, bytes(16)):
            with pytest.raises(VentifsError, match=f"{unfit.hex()} is not sealed"):
                store.drop_arenas([arenas[0], unfit])
        assert all(store.has_many(scores))
        store.drop_arenas(arenas[:1])
        with pytest.raises(VentifsError, match="cannot be dropped"):
            store.drop_arenas(arenas[:1])


def test_an_arena_without_its_file_is_not_dropped(root: Path) -> None:
    store, _, arenas, _ = three_arenas(root)
    with store:
        arenas_of(store).sealed_path(arenas[0]).unlink()
        with pytest.raises(Corrupt, match="its file is missing"):
            store.drop_arenas(arenas[:1])
        assert store._index.drops() == {}


def test_stores_that_older_programs_write_to_are_not_reclaimed(root: Path) -> None:
    store, _, arenas, _ = three_arenas(root)
    store.close()
    header = read_header(root)
    bits = header.read_only_compatible & ~RECLAIMED
    write_header(root, replace(header, read_only_compatible=bits), Files())
    with (
        Store.open(root, "write") as store,
        pytest.raises(Unsupported, match="run 'ventifs upgrade' first"),
    ):
        store.drop_arenas(arenas[:1])


# --- readers look again -------------------------------------------------------------------------


def test_a_reader_finds_a_block_that_was_moved_meanwhile(root: Path) -> None:
    store, scores, arenas, _ = three_arenas(root)
    with store, Store.open(root, cache_bytes=0) as reader:
        assert reader.get(scores[0]) == BLOCKS[0]  # the arena is open, its number known
        files = {arena: arenas_of(store).sealed_path(arena).open("r+b") for arena in arenas[:1]}
        drop(store, arenas[:1], scores)
        for file in files.values():  # as a reclaim does, for servers keep descriptors
            file.truncate(0)
            file.close()
        for score, block in zip(scores, BLOCKS, strict=False):
            assert reader.get(score) == block
        assert reader.sizes(scores).raw_bytes == sum(map(len, BLOCKS[:12]))


def test_a_reader_follows_a_move_and_a_rebuild_at_once(root: Path) -> None:
    store, scores, arenas, _ = three_arenas(root)
    with Store.open(root, cache_bytes=0) as reader:
        assert reader.get(scores[0]) == BLOCKS[0]
        with store:
            drop(store, arenas[:1], scores)
        rebuild(root)
        assert reader.get(scores[1]) == BLOCKS[1]
        assert reader.sizes(scores[:4]).raw_bytes == sum(map(len, BLOCKS[:4]))


def test_a_block_that_is_gone_was_reclaimed_only_where_a_drop_says_so(root: Path) -> None:
    store, scores, arenas, _ = three_arenas(root)
    with store, Store.open(root, cache_bytes=0) as reader:
        for number in (0, 4):
            assert reader.get(scores[number]) == BLOCKS[number]
        for arena in arenas:
            with arenas_of(store).sealed_path(arena).open("r+b") as file:
                file.truncate(0)
        store.drop_arenas(arenas[:1])
        with pytest.raises(ReclaimedMeanwhile, match="was reclaimed while it was read") as caught:
            reader.get(scores[1])
        assert len(str(caught.value).splitlines()) == 1
        with pytest.raises(Corrupt) as damaged:
            reader.get(scores[5])
        assert damaged.value.arena == arenas[1].hex()


def test_a_look_up_that_began_before_a_drop_does_not_revive_the_arena(root: Path) -> None:
    """Another thread's read transaction sees the row that this one has removed."""
    store, scores, arenas, _ = three_arenas(root)
    with store:
        index = store._index
        index.look_again()
        state, raced = index._arenas.state, False

        def meanwhile(number: int, transaction: Any) -> ArenaState | None:
            nonlocal raced
            found = state(number, transaction)
            if not raced:
                raced = True
                thread = Thread(target=lambda: store.drop_arenas(arenas[:1]))
                thread.start()
                thread.join()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index._arenas, "state", meanwhile)
            assert index.known(scores[0])
        assert not index.known(scores[0])
        assert store.put(BLOCKS[0]) == (scores[0], True)


def test_a_reader_looks_again_where_a_repair_has_made_a_gap(root: Path) -> None:
    store, scores, _, _ = three_arenas(root)
    with store:
        place = store._index.locate(scores[0])
        assert place is not None
    with Store.open(root, cache_bytes=0) as reader:
        assert reader.get(scores[1]) == BLOCKS[1]
        flip(arenas_of(reader).sealed_path(place.arena), place.offset + 8)
        report = check(root, read_data=True)
        assert repair(root, report).lost == [scores[0].hex()]
        with Store.open(root, "write") as store:
            assert store.put(BLOCKS[0]) == (scores[0], True)
        assert reader.get(scores[0]) == BLOCKS[0]


def test_the_index_of_an_older_program_gets_its_marks(root: Path) -> None:
    """Programs older than the marks write to a store without them: they are made from the rows."""
    store, scores, arenas, _ = three_arenas(root)
    store.close()
    index = Index(root / "index", read_header(root).store_id)
    with index._writing() as transaction:
        for key in (b"next", b"sealed"):
            transaction.delete(key, db=index._environment.tables[b"meta"])
    assert not index.up_to_date
    index.close()
    with Store.open(root, "write") as store:
        drop(store, arenas[:1], scores)
        assert store._index.up_to_date
    assert findings(root) == []
