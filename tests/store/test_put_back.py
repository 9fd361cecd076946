"""Indexes and arenas that are put back, taken away or copied: refused, or read as they are."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.arenafiles import incompressible
from tests.support.dropping import arenas_of, sealed
from tests.support.stores import findings, new_store, put_all
from ventifs.errors import Corrupt
from ventifs.store import Score, Store
from ventifs.store.arena_state import SealedMark
from ventifs.store.files import Files
from ventifs.store.header import read_header
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index


def more(root: Path, start: int, arenas: int = 3) -> list[Score]:
    """Commit enough to seal some arenas; return the scores."""
    blocks = [incompressible(900_000, seed=start + number) for number in range(4 * arenas + 1)]
    with Store.open(root, "write") as store:
        scores = put_all(store, blocks)
        store.commit([(b"at %d" % start, b"")])
    return scores


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = new_store(tmp_path / "store")
    more(root, 0)
    yield root
    assert findings(root) == []


def rebuild(root: Path) -> None:
    with store_lock(root, alone=True):
        rebuild_index(root, read_header(root), Files())


def keys(root: Path) -> list[bytes]:
    with Store.open(root) as store:
        return [record.key for record in store.records()]


def copy_index(root: Path, to: Path) -> Path:
    return Path(shutil.copytree(root / "index", to))


def put_back(index: Path, root: Path) -> None:
    shutil.rmtree(root / "index")
    shutil.copytree(index, root / "index")


def test_as_many_arenas_as_before_do_not_hide_that_others_are_missing(
    root: Path, tmp_path: Path
) -> None:
    """An old index is put back, three arenas go and three come: their number is the same."""
    with Store.open(root) as store:
        first = sealed(store)
    older = copy_index(root, tmp_path / "older")
    scores = more(root, 100)
    with Store.open(root) as store:
        second = [arena for arena in sealed(store) if arena not in first]
        assert len(second) >= len(first) == 3
    put_back(older, root)
    away = tmp_path / "away"
    away.mkdir()
    for arena in [*first, *second[3:]]:
        shutil.move(root / f"arenas/sealed/{arena.hex()}.arena", away)
    with pytest.raises(Corrupt, match=r"3 arena files are missing.*'ventifs rebuild-index'"):
        Store.open(root, "write")
    for path in away.iterdir():
        shutil.move(path, root / "arenas/sealed")
    with Store.open(root, "write") as store:
        assert all(store.has_many(scores))
    assert keys(root) == [b"at 0", b"at 100"]


def test_a_rebuild_goes_on_without_arenas_and_takes_them_in_again(
    root: Path, tmp_path: Path
) -> None:
    with Store.open(root) as store:
        first = sealed(store)[0]
    path = root / f"arenas/sealed/{first.hex()}.arena"
    shutil.move(path, tmp_path)
    with pytest.raises(Corrupt, match=first.hex()):
        Store.open(root, "write")
    rebuild(root)
    scores = more(root, 100)
    shutil.move(tmp_path / path.name, path)
    with Store.open(root, "write") as store:
        assert store._index.arena_state(first).sealed
        assert all(store.has_many(scores))


def test_the_whole_directory_of_arenas_is_moved_away_and_back(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "arenas/sealed", tmp_path / "sealed")
    (root / "arenas/sealed").mkdir()
    with pytest.raises(Corrupt, match="arena files are missing"):
        Store.open(root, "write")
    (root / "arenas/sealed").rmdir()
    shutil.move(tmp_path / "sealed", root / "arenas/sealed")
    more(root, 100)


def test_an_arena_that_a_commit_relies_on_is_not_done_without(root: Path, tmp_path: Path) -> None:
    """An index is put back that knows nothing of the arena, as if it had never been."""
    older = copy_index(root, tmp_path / "older")
    with Store.open(root) as store:
        before = set(sealed(store))
    more(root, 100)
    put_back(older, root)
    with Store.open(root) as store:
        missing = (set(sealed(store)) - before).pop()
    shutil.move(root / f"arenas/sealed/{missing.hex()}.arena", tmp_path)
    with pytest.raises(Corrupt, match=rf"1 arena files are missing \({missing.hex()}\)"):
        Store.open(root, "write")
    assert keys(root) == [b"at 0"]
    shutil.move(tmp_path / f"{missing.hex()}.arena", root / "arenas/sealed")
    Store.open(root, "write").close()
    assert keys(root) == [b"at 0", b"at 100"]


def test_an_arena_shorter_than_the_index_says_is_refused(root: Path, tmp_path: Path) -> None:
    """As in a store whose arenas were copied before its index."""
    with Store.open(root) as store:
        [growing] = arenas_of(store).open_ids()
    path = root / f"arenas/open/{growing.hex()}.arena"
    shutil.copy(path, tmp_path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(Corrupt, match=r"are counted on: put back.*'ventifs rebuild-index'"):
        Store.open(root, "write")
    shutil.copy(tmp_path / path.name, path)


def test_a_sealed_arena_shorter_than_an_older_index_says_is_refused(
    root: Path, tmp_path: Path
) -> None:
    with Store.open(root) as store:
        [growing] = arenas_of(store).open_ids()
    older = copy_index(root, tmp_path / "older")
    more(root, 100)
    put_back(older, root)
    path = root / f"arenas/sealed/{growing.hex()}.arena"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(Corrupt, match=r"has 1,000 bytes, and [0-9,]+ are counted on"):
        Store.open(root, "write")
    path.write_bytes(whole)
    Store.open(root, "write").close()


def test_an_arena_that_was_sealed_while_it_was_copied(root: Path, tmp_path: Path) -> None:
    """A copy lists `open/` first: it has the arena as it was there, and as it is sealed."""
    with Store.open(root) as store:
        [growing] = arenas_of(store).open_ids()
    path = root / f"arenas/open/{growing.hex()}.arena"
    shutil.copy(path, tmp_path)
    older = copy_index(root, tmp_path / "older")
    more(root, 100)
    assert not path.exists()
    for index in (None, older):
        shutil.copy(tmp_path / path.name, path)
        if index is not None:
            put_back(index, root)
        with Store.open(root, "write") as store:
            assert store._index.arena_state(growing).sealed
        assert not path.exists()
    shutil.copy(tmp_path / path.name, path)
    rebuild(root)
    assert not path.exists()


def test_two_arenas_of_one_name_that_differ_are_left_alone(root: Path) -> None:
    with Store.open(root) as store:
        arena = sealed(store)[0]
    whole, other = (root / f"arenas/{each}/{arena.hex()}.arena" for each in ("sealed", "open"))
    data = bytearray(whole.read_bytes())
    data[1000] ^= 1
    other.write_bytes(data)
    with pytest.raises(Corrupt, match="are one arena and differ: move one of them away"):
        Store.open(root, "write")
    with pytest.raises(Corrupt, match="are one arena and differ"):
        rebuild(root)
    assert other.read_bytes() == data
    other.unlink()


def test_a_store_that_is_copied_while_it_is_written_is_refused_or_whole(
    root: Path, tmp_path: Path
) -> None:
    """Every order in which its parts may be copied, with a commit between any two of them."""
    parts = ["ventifs.store", "index", "arenas/open", "arenas/sealed"]
    orders = [parts[at:] + parts[:at] for at in range(4)]
    for number, order in enumerate(orders):
        copy = tmp_path / f"copy{number}"
        (copy / "arenas").mkdir(parents=True, mode=0o700)
        for at, part in enumerate(order):
            source = root / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / part)
            more(root, 1000 * (number + 1) + 100 * at, arenas=1)
        copy.chmod(0o700)
        refused = False
        try:
            Store.open(copy, "write").close()
        except Corrupt:
            refused = True
        if refused:
            rebuild(copy)
            Store.open(copy, "write").close()
        assert findings(copy) == []


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.binary(min_size=16, max_size=16), max_size=40), st.data())
def test_marks_are_equal_for_equal_sets_alone(arenas: set[bytes], data: st.DataObject) -> None:
    mark = SealedMark.of(arenas)
    assert mark == SealedMark.of(sorted(arenas))
    expected = 0
    for arena in arenas:
        expected ^= int.from_bytes(arena, "big")
    assert (mark.count, int.from_bytes(mark.ids, "big")) == (len(arenas), expected)
    other = data.draw(st.binary(min_size=16, max_size=16))
    assert mark.changed(other, before=other in arenas, after=True) == SealedMark.of(
        {*arenas, other}
    )
    assert mark.changed(other, before=True, after=True) == mark
    for arena in list(arenas)[:3]:
        assert mark.changed(arena, before=True, after=False) == SealedMark.of(arenas - {arena})
