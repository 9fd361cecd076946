"""A damaged index: entries are missed, records are refused, and a rebuild is asked for."""

import pickle
from pathlib import Path

import lmdb
import pytest

from tests.support.arenafiles import STORE_ID
from tests.support.damage import overwrite
from ventifs.store import score_of
from ventifs.store.arena_state import ArenaState, ArenaTotals, Place
from ventifs.store.index import Index
from ventifs.store.index_values import guarded
from ventifs.store.journal import Changes, CommitCounters, Record
from ventifs.store.lmdb_environment import IndexDamaged, IndexMissing

A = bytes([0xA1]) * 16
NOTHING = CommitCounters()
RECORDS = [Record(b"key%d" % at, bytes([at + 1]) * 16, b"value %d" % at) for at in range(6)]
RECORD = RECORDS[0]
STATE = ArenaState(A, 100, False, ArenaTotals(clumps=1))
BLOCKS = [score_of(b"good"), score_of(b"bad")]


def new_index(root: Path) -> Index:
    return Index(root / "index", STORE_ID, create=True, sync=False)


def damage_value(index: Index, key: bytes, into: int) -> None:
    """Change a byte of every stored copy of a value, `into` bytes behind its key."""
    path = index.path / "data.mdb"
    data, at = path.read_bytes(), -1
    while (at := data.find(key, at + 1)) >= 0:
        position = at + len(key) + into
        overwrite(path, position, bytes([data[position] ^ 0x40]))


@pytest.mark.parametrize("into", range(14))
def test_a_damaged_entry_is_a_miss_wherever_it_is_damaged(tmp_path: Path, into: int) -> None:
    index = new_index(tmp_path)
    good, bad = BLOCKS
    index.add_blocks(A, [(good, 64, 0), (bad, 64, 1)])
    index.close()
    damage_value(index, bad, into)
    index = Index(tmp_path / "index", STORE_ID)
    assert (index.known(bad), index.locate(bad)) == (False, None)
    assert index.known_many([bad, good]) == [False, True]
    assert index.locate_many([bad, good]) == [None, Place(A, 64, 0)]
    assert dict(index.entries()) == {good: Place(A, 64, 0), bad: None}
    index.close()


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    index = new_index(tmp_path)
    index.settle([], Changes(RECORDS), NOTHING)
    index.close()
    damage_value(index, RECORD.id, 2)
    index = Index(tmp_path / "index", STORE_ID)
    with pytest.raises(IndexDamaged, match=r"record.*rebuild-index"):
        index.records()
    index.close()


def test_a_record_that_vanished_is_noticed(tmp_path: Path) -> None:
    index = new_index(tmp_path)
    index.settle([], Changes(RECORDS), NOTHING)
    index.close()
    with lmdb.open(str(tmp_path / "index"), max_dbs=8) as environment:
        table = environment.open_db(b"catalog")
        with environment.begin(write=True) as transaction:
            assert transaction.delete(RECORD.key + RECORD.id, db=table)
    index = Index(tmp_path / "index", STORE_ID)
    with pytest.raises(IndexDamaged, match="lost"):
        index.records()
    with pytest.raises(IndexDamaged, match="lost"):
        index.snapshot()
    index.close()


def test_a_damaged_arena_record_is_refused(tmp_path: Path) -> None:
    index = new_index(tmp_path)
    index.settle([STATE], Changes(), NOTHING)
    index.close()
    damage_value(index, A, 1)  # its length, which follows the id
    index = Index(tmp_path / "index", STORE_ID)
    with pytest.raises(IndexDamaged, match="arena"):
        index.arena_states()
    index.close()


def put_raw(root: Path, table: bytes, key: bytes, value: bytes | None) -> None:
    """Change a row behind the program's back; None removes it."""
    with lmdb.open(str(root / "index"), max_dbs=8) as environment:
        handle = environment.open_db(table)
        with environment.begin(write=True) as transaction:
            if value is None:
                assert transaction.delete(key, db=handle)
            else:
                transaction.put(key, value, db=handle)


B = bytes([0xB2]) * 16
FIRST = (0).to_bytes(4, "big")  # number of the first arena
DAMAGES: dict[str, tuple[bytes, bytes, bytes | None]] = {
    "number": (b"numbers", A, b"12345678"),
    "record": (b"open", FIRST, b"1234" * 21),
    "record that is gone": (b"open", FIRST, None),
    "drop": (b"meta", b"drop" + A, b"5" * 44),
}


@pytest.mark.parametrize("name", ["number", "record", "record that is gone"])
def test_an_arena_whose_rows_are_damaged_does_not_pass_for_an_unknown_one(
    tmp_path: Path, name: str
) -> None:
    index = new_index(tmp_path)
    index.settle([STATE], Changes(), NOTHING)
    index.close()
    put_raw(tmp_path, *DAMAGES[name])
    index = Index(tmp_path / "index", STORE_ID)
    with pytest.raises(IndexDamaged, match=rf"{A.hex()}.*rebuild-index"):
        index.arena_state(A)
    with pytest.raises(IndexDamaged, match=A.hex()):
        index.settle([STATE], Changes(), NOTHING)
    if name == "number":
        with pytest.raises(IndexDamaged, match=A.hex()):
            index.number_of(A)
    index.close()


def test_an_arena_with_a_damaged_number_is_not_dropped(tmp_path: Path) -> None:
    index = new_index(tmp_path)
    index.settle([STATE, ArenaState(B, 100, True, ArenaTotals())], Changes(), NOTHING)
    index.close()
    put_raw(tmp_path, *DAMAGES["number"])
    index = Index(tmp_path / "index", STORE_ID)
    with pytest.raises(IndexDamaged, match=A.hex()):
        index.settle([], Changes(drops={B: NOTHING, A: NOTHING}), NOTHING)
    assert index.drops() == {}
    assert {state.arena for state in index.arena_states()} == {A, B}
    index.close()


def test_a_damaged_drop_is_named(tmp_path: Path) -> None:
    index = new_index(tmp_path)
    index.settle([STATE], Changes(drops={A: NOTHING}), NOTHING)
    index.close()
    put_raw(tmp_path, *DAMAGES["drop"])
    index = Index(tmp_path / "index", STORE_ID)
    for look in (index.drops, index.snapshot, lambda: index.dropped(A)):
        with pytest.raises(IndexDamaged, match=f"damaged drop of arena {A.hex()}"):
            look()
    index.close()


CONTRADICTIONS: dict[str, tuple[list[tuple[bytes, bytes, bytes | None]], list[str]]] = {
    "nothing": ([], []),
    "a damaged number": ([DAMAGES["number"]], ["its number is damaged"]),
    "no number": (
        [(b"numbers", A, None)],
        ["it has a record that its number does not lead to"],
    ),
    "no record": ([(b"open", FIRST, None)], ["its number leads to no record"]),
    "the number of another": (
        [(b"numbers", A, guarded(A, (7).to_bytes(4, "big")))],
        ["it has a record that its number does not lead to"],
    ),
    "a drop": (
        [(b"meta", b"drop" + A, guarded(b"drop" + A, bytes(40)))],
        ["it has a record, but it was dropped"],
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_rows_that_contradict_each_other_are_named(tmp_path: Path, name: str) -> None:
    index = new_index(tmp_path)
    index.settle([STATE, ArenaState(B, 100, True, ArenaTotals())], Changes(), NOTHING)
    index.close()
    rows, reasons = CONTRADICTIONS[name]
    for row in rows:
        put_raw(tmp_path, *row)
    index = Index(tmp_path / "index", STORE_ID)
    assert index.contradictions() == [(A, reason) for reason in reasons]
    index.close()


def test_a_mark_of_other_arenas_is_named(tmp_path: Path) -> None:
    index = new_index(tmp_path)
    index.settle([ArenaState(B, 100, True, ArenaTotals())], Changes(), NOTHING)
    index.close()
    mark = (1).to_bytes(8, "little") + A
    put_raw(tmp_path, b"meta", b"sealed", guarded(b"sealed", mark))
    index = Index(tmp_path / "index", STORE_ID)
    assert index.contradictions() == [(b"", "its mark of the sealed arenas is of others")]
    index.close()


def test_an_index_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(IndexMissing, match="rebuild-index"):
        Index(tmp_path / "index", STORE_ID)
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "data.mdb").write_bytes(b"")
    with pytest.raises(IndexMissing):
        Index(tmp_path / "index", STORE_ID)


def test_a_file_that_is_no_index_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "data.mdb").write_bytes(b"not LMDB" * 4096)
    with pytest.raises(IndexDamaged, match=rf"{tmp_path}/index: .*rebuild-index"):
        Index(tmp_path / "index", STORE_ID)


def test_another_stores_index_is_refused(tmp_path: Path) -> None:
    index = new_index(tmp_path)
    with pytest.raises(IndexDamaged, match="another store"):
        Index(tmp_path / "index", bytes(16))
    assert index.counters() == NOTHING  # the refusal did not close it for others
    index.close()


def test_the_errors_pass_from_a_worker_to_its_parent(tmp_path: Path) -> None:
    for error in (IndexDamaged(tmp_path, "is odd"), IndexMissing(tmp_path, "is missing")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))
