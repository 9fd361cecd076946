"""The arenas of a store: found by their ids wherever they stand, a bounded number kept open."""

import os
from pathlib import Path

import pytest

from tests.support.arenafiles import STORE_ID, new_arenas
from ventifs.errors import Corrupt
from ventifs.store.arena import encode_header
from ventifs.store.arenas import Arenas


def made(arenas: Arenas, number: int, *, sealed: bool = False) -> bytes:
    arena_id = number.to_bytes(16, "big")
    path = arenas.sealed_path(arena_id) if sealed else arenas.open_path(arena_id)
    path.write_bytes(encode_header(STORE_ID, arena_id, 0))
    return arena_id


def descriptors(directory: Path) -> int:
    """How many files below a directory this process has open."""
    targets = []
    for entry in Path("/proc/self/fd").iterdir():
        if entry.is_symlink():
            targets.append(os.readlink(entry))
    return sum(target.startswith(str(directory)) for target in targets)


def test_arenas_are_listed_by_where_they_stand(tmp_path: Path) -> None:
    arenas = new_arenas(tmp_path)
    growing = [made(arenas, number) for number in (7, 3)]
    sealed = [made(arenas, number, sealed=True) for number in (5, 1, 9)]
    assert arenas.open_ids() == sorted(growing)
    assert arenas.sealed_ids() == sorted(sealed)
    assert arenas.all_ids() == sorted(growing + sealed)


def test_an_arena_met_in_both_places_is_one(tmp_path: Path) -> None:
    arenas = new_arenas(tmp_path)
    assert made(arenas, 1) == made(arenas, 1, sealed=True)
    assert len(arenas.all_ids()) == 1


@pytest.mark.parametrize(
    "name", ["ab.arena", "g" * 32 + ".arena", "0" * 34 + ".arena", "0" * 32 + "-64.torn", "0" * 32]
)
def test_other_files_are_no_arenas(tmp_path: Path, name: str) -> None:
    arenas = new_arenas(tmp_path)
    (arenas.open_directory / name).write_bytes(b"")
    assert arenas.all_ids() == []


def test_an_arena_is_read_wherever_it_stands(tmp_path: Path) -> None:
    arenas = new_arenas(tmp_path)
    one, two = made(arenas, 1), made(arenas, 2, sealed=True)
    for arena_id in (one, two):
        arenas.reader(arena_id).check_header(STORE_ID)
        assert arenas.reader(arena_id) is arenas.reader(arena_id)
        assert arenas.present(arena_id)
    arenas.open_path(one).rename(arenas.sealed_path(one))
    arenas.close()
    assert arenas.reader(one).path == arenas.sealed_path(one)
    assert arenas.present(one)


def test_an_arena_that_is_not_there_is_corrupt(tmp_path: Path) -> None:
    arenas = new_arenas(tmp_path)
    absent = bytes(16)
    assert not arenas.present(absent)
    with pytest.raises(Corrupt, match=f"arena {absent.hex()}, arena file is missing"):
        arenas.reader(absent)


def test_a_bounded_number_is_kept_open_and_those_in_use_stay(tmp_path: Path) -> None:
    arenas = new_arenas(tmp_path)
    ids = [made(arenas, number) for number in range(200)]
    first = arenas.reader(ids[0])
    for arena_id in ids:
        arenas.reader(arena_id)
    assert 100 <= descriptors(tmp_path) <= 130
    first.check_header(STORE_ID)
    arenas.close()
    assert descriptors(tmp_path) == 1
    del first
    assert descriptors(tmp_path) == 0
