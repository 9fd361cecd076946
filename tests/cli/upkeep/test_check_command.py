"""`ventifs check` names the versions and paths that lack a block, whatever the index says."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.commanding import copy_of, run
from tests.support.damage import flip, overwrite
from tests.support.dropping import arenas_of, sealed
from tests.support.stores import SMALL_ARENA
from tests.support.trees import noise
from ventifs.store import Score, Store, score_of
from ventifs.store.arena import HEADER_SIZE, Arena
from ventifs.store.arena_state import Place
from ventifs.store.index import Index
from ventifs.store.journal import CommitCounters
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.versions.catalog import versions
from ventifs.tree.versions.forgotten import forgetting

LOST = noise(4000, 1)
SCORE = score_of(LOST)
TIMES = (10**18, 10**18 + 10**9)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions with the block, in a sealed arena, and two later ones without it."""
    home = tmp_path_factory.mktemp("check")
    (home / "tree" / "dir").mkdir(parents=True)
    (home / "tree" / "dir" / "file").write_bytes(LOST)
    Store.create(home / "s", arena_size=SMALL_ARENA)
    for time_ns in TIMES:
        (home / "tree" / "other").write_bytes(noise(4000, time_ns))
        archived(home, time_ns)
    (home / "tree" / "dir" / "file").unlink()
    (home / "tree" / "fill").write_bytes(noise(5_000_000, 7))
    archived(home, TIMES[-1] + 10**9)
    (home / "tree" / "fill").write_bytes(b"little" * 900)
    archived(home, TIMES[-1] + 2 * 10**9)
    with Store.open(home / "s") as store:
        assert place_of(store).arena in sealed(store)
    return home


def archived(home: Path, time_ns: int) -> None:
    with Store.open(home / "s", "write") as store:
        archive(store, DirectorySource(home / "tree"), "t", time_ns=time_ns)


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return copy_of(made, tmp_path)


def place_of(store: Store, score: Score = SCORE) -> Place:
    place = store._index.locate(score)
    assert place is not None
    return place


def arena_of(home: Path) -> tuple[Arena, int]:
    """The arena that holds the block, and the offset of the block's clump."""
    with Store.open(home / "s") as store:
        place = place_of(store)
        return Arena.open(arenas_of(store).sealed_path(place.arena)), place.offset


def lead(home: Path, arena: bytes, offset: int, position: int) -> None:
    with Store.open(home / "s") as store:
        index = Index(home / "s" / "index", store.header.store_id)
    index.add_blocks(arena, [(SCORE, offset, position)])
    index.close()


def checked(home: Path, *words: str, expected: int = 1) -> dict[str, Any]:
    done = run(home, "check", "--store", "s", "--json", *words, expected=expected)
    assert done.stderr == b""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def overwritten(home: Path) -> None:
    """The arena's directory lists the block, and other bytes are where it was."""
    arena, offset = arena_of(home)
    overwrite(arena.path, offset, bytes(arena.read_head(offset).size))


def led_to_another_block(home: Path) -> None:
    arena, offset = arena_of(home)
    lead(home, arena.id, offset, 900)


def led_to_another_arena(home: Path) -> None:
    with Store.open(home / "s") as store:
        [other] = arenas_of(store).open_ids()
    lead(home, other, HEADER_SIZE, 0)


def led_past_the_end(home: Path) -> None:
    arena, _ = arena_of(home)
    lead(home, arena.id, arena.length() + 4096, 0)


def dropped_from_the_index(home: Path) -> None:
    with Store.open(home / "s", "write") as store:
        store._index.drop_block(SCORE)


def emptied(home: Path) -> None:
    os.truncate(arena_of(home)[0].path, 0)


def cut(home: Path) -> None:
    arena, offset = arena_of(home)
    os.truncate(arena.path, offset + 100)


def removed(home: Path) -> None:
    arena_of(home)[0].path.unlink()


BREAKS: dict[Callable[[Path], None], str] = {
    overwritten: "no clump begins here",
    led_to_another_block: "another block is there",
    led_to_another_arena: "another block is there",
    led_past_the_end: "no clump begins here",
    dropped_from_the_index: "is in an arena, but not in the index",
    emptied: "",
    cut: "",
    removed: "",
}


@pytest.mark.parametrize("break_it", BREAKS)
def test_a_block_that_versions_need_and_the_store_lacks_is_named(
    home: Path, break_it: Callable[[Path], None]
) -> None:
    assert checked(home, expected=0)["harmed"] == []
    break_it(home)
    harmed = checked(home)["harmed"]
    with Store.open(home / "s") as store:
        first, second = [str(version) for version in versions(store)[:2]]
    assert {each["version"] for each in harmed} >= {first, second}
    if BREAKS[break_it]:  # else not even the directories can be read
        of_file = [each for each in harmed if each["path"] == "dir/file"]
        assert [each["version"] for each in of_file] == [first, second]
        assert all(SCORE.hex() in each["reason"] for each in of_file)
        assert all(each["reason"].endswith(BREAKS[break_it]) for each in of_file)


def test_damaged_bytes_name_versions_and_paths_when_they_are_read(home: Path) -> None:
    arena, offset = arena_of(home)
    flip(arena.path, offset + len(arena.read_head(offset).listed) + 5)
    assert checked(home, expected=0)["harmed"] == []
    harmed = checked(home, "--read-data")["harmed"]
    paths = {(each["version"], each["path"]) for each in harmed}
    with Store.open(home / "s") as store:
        assert paths >= {(str(each), "dir/file") for each in versions(store)[:2]}


def test_what_check_says_next_makes_the_versions_whole_again(home: Path) -> None:
    """The index leads to the block, so an archive would not store it anew before a repair."""
    overwritten(home)
    lines = run(home, "check", "--store", "s", expected=1).stdout.decode().splitlines()
    assert any(line.startswith("harmed: t@") and ":/dir/file: block " in line for line in lines)
    assert lines[-1].startswith("next: ventifs check --repair --store ")
    assert lines[-1].endswith("so that the index leads to what is there")
    run(home, "check", "--repair", "--store", "s", expected=1)
    lines = run(home, "check", "--store", "s", expected=1).stdout.decode().splitlines()
    assert lines[-1].startswith("next: archive the same sources again")
    (home / "tree" / "dir" / "file").write_bytes(LOST)
    (home / "tree" / "other").write_bytes(noise(4000, TIMES[0]))
    archived(home, TIMES[0] - 1)
    (home / "tree" / "other").write_bytes(noise(4000, TIMES[1]))
    archived(home, TIMES[0] - 2)
    assert checked(home, expected=0)["harmed"] == []


def test_a_block_that_a_reclaimed_store_lacks_in_its_index_is_found_and_mended(home: Path) -> None:
    """There an arena may well have blocks that the index lacks, but none that a version needs."""
    with Store.open(home / "s", "write") as store:
        store.commit(drops={b"gone before.....": CommitCounters()})
    assert checked(home, expected=0)["harmed"] == []
    dropped_from_the_index(home)
    found = checked(home)
    assert [each["harmless"] for each in found["findings"]] == [True]
    assert {each["path"] for each in found["harmed"]} == {"dir/file"}
    lines = run(home, "check", "--store", "s", expected=1).stdout.decode().splitlines()
    assert lines[-1].startswith("next: ventifs check --repair --store ")
    run(home, "check", "--repair", "--store", "s")
    found = checked(home, expected=0)
    assert (found["findings"], found["harmed"]) == ([], [])


def test_what_check_and_reclaim_say_lets_space_be_reclaimed_again(home: Path) -> None:
    """Sources that are gone cannot be archived again, so the versions must go."""
    overwritten(home)
    run(home, "check", "--repair", "--store", "s", expected=1)
    refused = run(home, "reclaim", "--store", "s", expected=1).stderr.decode()
    assert f"block {SCORE.hex()} is needed and the index lacks it; 'ventifs check' lists" in refused
    assert "forget those that cannot be mended" in refused
    report = run(home, "check", "--store", "s", expected=1).stdout.decode().splitlines()
    assert "forget the versions that stay harmed, for 'ventifs reclaim' refuses" in report[-1]
    harmed = {line.removeprefix("harmed: ").split(":/")[0] for line in report if "harmed: " in line}
    run(home, "forget", *harmed, "--store", "s")
    run(home, "reclaim", "--store", "s")
    assert b"\nno errors" in run(home, "check", "--store", "s").stdout


def test_what_only_a_forgotten_version_lacks_is_a_note(home: Path) -> None:
    with Store.open(home / "s", "write") as store:
        both = versions(store)[:2]
        _, (puts, deletes) = forgetting(store, both, TIMES[-1] + 5 * 10**9)
        store.commit(puts, deletes)
        store._index.drop_block(SCORE)
    found = checked(home)  # the index lacks a block of an arena
    assert (found["harmed"], {each["path"] for each in found["harmed_forgotten"]}) == (
        [],
        {"dir/file"},
    )
    assert [each["version"] for each in found["harmed_forgotten"]] == list(map(str, both))
    out = run(home, "check", "--store", "s", expected=1).stdout.decode()
    assert f"note: forgotten 2001-09-09T01:46:46Z: {both[0]}:/dir/file: block " in out


def test_an_index_whose_rows_of_arenas_contradict_each_other_is_named(home: Path) -> None:
    arena, _ = arena_of(home)
    with Store.open(home / "s") as store, store._index._writing() as transaction:
        transaction.put(arena.id, b"12345678", db=store._index._arenas._numbers)
    [finding] = checked(home)["findings"]
    assert (finding["what"], finding["arena"]) == ("index", arena.id.hex())
    assert finding["reason"] == "its number is damaged"
    run(home, "rebuild-index", "--store", "s")
    assert checked(home, expected=0)["findings"] == []
