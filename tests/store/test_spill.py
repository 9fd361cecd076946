"""Tests of sets of items that are larger than memory."""

import errno
import os
import random
import tempfile
import tracemalloc
from itertools import chain
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.limits import file_size_limit
from ventifs.errors import NoSpace, VentifsError
from ventifs.store import spill
from ventifs.store.spill import PIECE_MAX, Spill

TINY = 1  # byte: the least that a Spill makes of it


def numbered(*numbers: int, size: int = 32) -> list[bytes]:
    return [number.to_bytes(size, "big") for number in numbers]


def all_of(items: Spill) -> list[bytes]:
    found: list[bytes] = []
    for piece in items.pieces():
        assert 0 < len(piece) <= PIECE_MAX
        found += piece
    return found


def scattered(count: int, seed: int = 0, size: int = 32) -> list[bytes]:
    numbers = random.Random(seed)
    return [numbers.randbytes(size) for _ in range(count)]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def test_nothing_is_yielded_where_nothing_was_added() -> None:
    with Spill(32) as items:
        assert all_of(items) == []
        assert items.holds(numbered(1)) == [False]
        assert items.added == 0


def test_one_item() -> None:
    with Spill(32) as items:
        items.add(numbered(7))
        assert list(items.pieces()) == [numbered(7)]
        assert items.holds(numbered(6, 7, 8)) == [False, True, False]


def test_items_come_in_order_and_each_once() -> None:
    with Spill(2) as items:
        items.add([b"cc", b"aa", b"cc"])
        items.add(iter([b"bb", b"aa"]))
        assert all_of(items) == [b"aa", b"bb", b"cc"]
        assert items.added == 5


def test_items_may_be_added_between_readings() -> None:
    with Spill(32, memory=TINY) as items:
        items.add(numbered(*range(0, 1000, 2)))
        assert all_of(items) == numbered(*range(0, 1000, 2))
        assert all_of(items) == numbered(*range(0, 1000, 2))
        items.add(numbered(*range(1, 1000, 2)))
        assert all_of(items) == numbered(*range(1000))


def test_what_is_being_read_stays_readable_while_runs_are_merged() -> None:
    with Spill(32, memory=TINY) as items:
        items.add(numbered(*range(0, 100_000, 10)))
        reading = items.pieces()
        first = next(reading)
        items.add(scattered(50_000))
        items.add(scattered(50_000, 1))
        rest = [item for piece in reading for item in piece]
        assert set(numbered(*range(0, 100_000, 10))) <= {*first, *rest}
        assert first + rest == sorted({*first, *rest})


def test_duplicates_in_all_runs_count_once() -> None:
    twice = scattered(3000)
    with Spill(32, memory=TINY) as items:
        for _ in range(30):
            items.add(twice)
        assert all_of(items) == sorted(twice)
        assert items.added == 90_000


def test_runs_of_a_file_are_merged_so_that_duplicates_do_not_fill_the_disk() -> None:
    twice = scattered(1000)
    with Spill(32, memory=TINY) as items:
        for _ in range(200):
            items.add(twice)
        written = items._file._file
        assert written is not None
        assert os.fstat(written.fileno()).st_size < 200 * 1000 * 32 / 10
        assert all_of(items) == sorted(twice)


@pytest.mark.parametrize("memory", [TINY, 100_000, 4 << 20])
def test_many_items(memory: int) -> None:
    many = scattered(100_000)
    with Spill(32, memory=memory) as items:
        items.add(many)
        pieces = list(items.pieces())
        assert max(map(len, pieces)) <= PIECE_MAX
        assert list(chain.from_iterable(pieces)) == sorted(many)
        wanted = sorted([*many[::1000], *scattered(100, 1)])
        known = set(many)
        assert items.holds(wanted) == [item in known for item in wanted]


@pytest.mark.parametrize("memory", [TINY, 40_000])
def test_items_that_differ_only_in_their_last_bytes_are_read_in_parts(memory: int) -> None:
    alike = numbered(*range(20_000))
    shuffled = random.Random(0).sample(alike, len(alike))
    with Spill(32, memory=memory) as items:
        items.add(shuffled)
        assert all_of(items) == alike


@pytest.mark.parametrize(("memory", "size"), [(1 << 20, 32), (2 << 20, 55)])
def test_memory_is_what_was_granted(memory: int, size: int) -> None:
    numbers = random.Random(0)
    tracemalloc.start()
    try:
        with Spill(size, memory=memory) as items:
            items.add(numbers.randbytes(size) for _ in range(100_000))
            last: list[bytes] = []
            for piece in items.pieces():
                last = piece
            assert items.holds(last) == [True] * len(last)
            assert items._written
            _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1.2 * memory


def test_many_are_looked_up_as_few_are() -> None:
    there, absent = scattered(30_000), scattered(30_000, 1)
    with Spill(32, memory=TINY) as items:
        items.add(there)
        assert items.holds(sorted(there)) == [True] * 30_000
        assert items.holds(sorted(absent)) == [False] * 30_000
        known = set(there)
        both = sorted(there + absent)
        assert items.holds(both) == [item in known for item in both]
        few = both[:: len(both) // 10]
        assert items.holds(few) == [item in known for item in few]


@pytest.mark.parametrize("size", [1, 2, 33, 55])
def test_items_of_any_size(size: int) -> None:
    some = scattered(5000, size=size)
    with Spill(size, memory=TINY) as items:
        items.add(some)
        assert all_of(items) == sorted(set(some))


def test_all_items_of_a_byte() -> None:
    with Spill(1, memory=TINY) as items:
        for _ in range(100):
            items.add(bytes([byte]) for byte in range(256))
        assert all_of(items) == [bytes([byte]) for byte in range(256)]
        assert items.holds([b"\x00", b"\xff"]) == [True, True]


def test_an_item_of_another_size_is_refused() -> None:
    with Spill(32) as items:
        items.add([b"short"])
        with pytest.raises(AssertionError):
            all_of(items)


@given(
    st.lists(st.lists(st.integers(0, 2000), max_size=400), max_size=8),
    st.integers(0, 40_000),
    st.lists(st.integers(0, 2000), max_size=20),
)
def test_it_is_a_set(added: list[list[int]], memory: int, asked: list[int]) -> None:
    model: set[bytes] = set()
    wanted = numbered(*sorted(asked), size=2)
    with Spill(2, memory=memory) as items:
        for numbers in added:
            items.add(numbered(*numbers, size=2))
            model.update(numbered(*numbers, size=2))
            assert items.holds(wanted) == [item in model for item in wanted]
        assert all_of(items) == sorted(model)
        assert items.added == sum(map(len, added))


def test_small_sets_need_no_temporary_file(temporary: Path) -> None:
    temporary.rmdir()
    with Spill(32) as items:
        items.add(scattered(10_000))
        assert len(all_of(items)) == 10_000


def test_the_temporary_file_has_no_name(temporary: Path) -> None:
    with Spill(32, memory=TINY) as items:
        items.add(scattered(10_000))
        assert items._written
        assert list(temporary.iterdir()) == []


def test_a_full_directory_is_named_and_what_was_there_stays(temporary: Path) -> None:
    before, more = scattered(1000), scattered(20_000, 1)
    with Spill(32, memory=TINY) as items:
        items.add(before)
        with file_size_limit(100_000), pytest.raises(NoSpace) as raised:
            items.add(more)
        assert str(raised.value).startswith(f"{temporary}: ")
        assert "TMPDIR" in str(raised.value)
        found = all_of(items)
        assert set(before) <= set(found) <= {*before, *more}
        items.add(more)
        assert all_of(items) == sorted([*before, *more])


def test_nothing_is_lost_when_there_is_no_space_to_merge_runs(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = scattered(20_000)
    write = spill._write_all

    def no_second_file(file: IO[bytes], data: bytes, offset: int) -> int:
        if offset == 0:
            raise OSError(errno.ENOSPC, "")
        return write(file, data, offset)

    with Spill(32, memory=TINY) as items:
        items.add(some[:3000])
        monkeypatch.setattr(spill, "_write_all", no_second_file)
        monkeypatch.setattr(spill, "_WRITTEN_RUNS", 2)
        with pytest.raises(NoSpace, match=str(temporary)):
            items.add(some[3000:])
        found = set(all_of(items))
        assert len(found) > 3000
        assert set(some[:3000]) <= found <= set(some)


def test_no_directory_for_temporary_files(temporary: Path) -> None:
    temporary.rmdir()
    with Spill(32, memory=TINY) as items, pytest.raises(VentifsError, match="TMPDIR"):
        items.add(scattered(10_000))


def test_a_file_that_was_cut_is_refused() -> None:
    with Spill(32, memory=TINY) as items:
        items.add(scattered(10_000))
        assert len(all_of(items)) == 10_000
        written = items._file._file
        assert written is not None
        os.ftruncate(written.fileno(), 100)
        with pytest.raises(VentifsError, match="temporary file"):
            all_of(items)


def test_closing_gives_the_file_back() -> None:
    items = Spill(32, memory=TINY)
    items.add(scattered(10_000))
    file = items._file._file
    assert file is not None
    items.close()
    assert file.closed
    items.close()
    assert all_of(items) == []
