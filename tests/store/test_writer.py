"""The writing side: how blocks are packed into clumps, and what a commit puts where."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.arenafiles import DECOMPRESSOR, incompressible
from tests.support.limits import file_size_limit
from tests.support.writing import MIB, Site, add, commit, sized
from ventifs.errors import VentifsError
from ventifs.store import score_of
from ventifs.store.arena import HEADER_SIZE
from ventifs.store.arena_journal import committed_changes
from ventifs.store.clump import CLUMP_BLOCKS_MAX, CLUMP_RAW_MAX, ClumpKind
from ventifs.store.files import Files
from ventifs.store.journal import CommitCounters


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


# --- packing ----------------------------------------------------------------------------------


def test_a_clump_is_full_at_128_kib(site: Site) -> None:
    writer = site.writer()
    add(writer, *sized(*[16 << 10] * 9))
    commit(writer)
    assert site.clumps()[:2] == [(ClumpKind.DATA, [16 << 10] * 8), (ClumpKind.DATA, [16 << 10])]


def test_a_block_that_would_overfill_a_clump_begins_the_next(site: Site) -> None:
    writer = site.writer()
    add(writer, *sized(100_000, 31_072, 11, 131_062, 10))
    commit(writer)
    assert site.clumps()[:3] == [
        (ClumpKind.DATA, [100_000, 31_072]),
        (ClumpKind.DATA, [11]),
        (ClumpKind.DATA, [131_062, 10]),
    ]


def test_a_clump_has_at_most_1024_blocks(site: Site) -> None:
    writer = site.writer()
    add(writer, *(b"%04d" % number for number in range(CLUMP_BLOCKS_MAX + 1)))
    commit(writer)
    assert site.clumps()[:2] == [(ClumpKind.DATA, [4] * CLUMP_BLOCKS_MAX), (ClumpKind.DATA, [4])]


def test_a_block_larger_than_a_clump_is_alone_in_its_own(site: Site) -> None:
    writer = site.writer()
    add(writer, *sized(10, CLUMP_RAW_MAX + 1, 20, MIB))
    commit(writer)
    assert site.clumps()[:3] == [
        (ClumpKind.DATA, [CLUMP_RAW_MAX + 1]),
        (ClumpKind.DATA, [MIB]),
        (ClumpKind.DATA, [10, 20]),
    ]


def test_data_and_nodes_stand_in_different_clumps(site: Site) -> None:
    writer = site.writer()
    blocks = sized(*range(10, 20))
    for number, block in enumerate(blocks):
        add(writer, block, kind=ClumpKind.NODE if number % 3 == 0 else ClumpKind.DATA)
    commit(writer)
    assert site.clumps()[:2] == [
        (ClumpKind.DATA, [11, 12, 14, 15, 17, 18]),
        (ClumpKind.NODE, [10, 13, 16, 19]),
    ]


def test_a_block_can_be_had_while_its_clump_is_gathered(site: Site) -> None:
    writer = site.writer()
    (score,) = add(writer, b"gathered")
    assert writer.gathered(score) == b"gathered"
    assert writer.gathered(score_of(b"other")) is None
    commit(writer)
    assert writer.gathered(score) is None


def test_every_block_is_pending_until_it_is_committed(site: Site) -> None:
    writer = site.writer()
    scores = add(writer, *sized(*[50_000] * 20, 200_000))
    assert set(writer.pending) == set(scores)
    assert writer.full(21)
    assert not writer.full(22)
    commit(writer)
    assert (writer.pending, writer.full(1)) == ({}, False)
    assert all(site.index.known_many(scores))


# --- commits ----------------------------------------------------------------------------------


def test_the_index_is_told_where_blocks_stand(site: Site) -> None:
    writer = site.writer()
    scores = add(writer, *sized(100, 200, 300))
    commit(writer)
    (arena,) = site.every_arena()
    for position, score in enumerate(scores):
        place = site.index.locate(score)
        assert place is not None
        assert (place.arena, place.offset, place.position) == (arena.id, HEADER_SIZE, position)
    assert site.index.arena_state(arena.id).length == arena.length()


def test_a_commit_without_anything_writes_nothing(site: Site) -> None:
    writer = site.writer()
    assert commit(writer) == []
    assert site.every_arena() == []


def test_a_commit_clump_stands_behind_its_catalog_and_names_what_it_relies_on(site: Site) -> None:
    writer = site.writer()
    puts = [(b"key%03d" % number, incompressible(1000, seed=number)) for number in range(300)]
    records = commit(writer, puts, [bytes(16)])
    assert [(record.key, record.value) for record in records] == puts
    assert len({record.id for record in records}) == 300
    assert [kind for kind, _ in site.clumps()] == [*[ClumpKind.CATALOG] * 3, ClumpKind.COMMIT]
    ((arena, offset, made),) = site.commits()
    assert (made.records, made.catalog_length) == (301, offset - HEADER_SIZE)
    assert made.relies_on == [(arena.id, offset)]
    changes = committed_changes(arena, offset, made, DECOMPRESSOR)
    assert (changes.puts, changes.deletes) == (records, [bytes(16)])
    assert site.index.records() == records


def test_a_commit_covers_its_own_catalog_alone(site: Site) -> None:
    writer = site.writer()
    first = commit(writer, [(b"a", b"1"), (b"b", b"2")])
    second = commit(writer, [(b"c", b"3")], [first[0].id])
    covered = [
        committed_changes(arena, offset, made, DECOMPRESSOR)
        for arena, offset, made in site.commits()
    ]
    assert [(list(one.puts), list(one.deletes)) for one in covered] == [
        (first, []),
        (second, [first[0].id]),
    ]
    assert site.index.records() == [first[1], second[0]]


def test_a_commit_relies_on_every_arena_that_was_filled_for_it(site: Site) -> None:
    writer = site.writer(arena_size=4 * MIB)
    scores = add(writer, *sized(*[MIB] * 10))
    assert site.arenas.sealed_ids() == []
    commit(writer, [(b"key", b"value")])
    ((last, offset, made),) = site.commits()
    relied = dict(made.relies_on)
    assert set(relied) == set(site.arenas.all_ids())
    assert relied.pop(last.id) == offset
    for arena_id, length in relied.items():
        assert site.arenas.reader(arena_id).clumps_end() == length
    assert set(site.arenas.sealed_ids()) == set(relied)
    assert len(relied) == 3
    assert all(site.index.known_many(scores))


def test_a_commit_carries_what_was_counted_since_the_last(site: Site) -> None:
    writer = site.writer()
    for number in (1, 2):
        add(writer, b"block %d" % number)
        writer.counters.put_blocks += number
        commit(writer)
    assert [made.counters.put_blocks for *_, made in site.commits()] == [1, 2]
    assert site.index.counters() == CommitCounters(put_blocks=3)


def test_a_commit_that_fails_can_be_done_again(site: Site) -> None:
    writer = site.writer()
    scores = add(writer, *sized(MIB, 1000))
    length = site.every_arena()[0].length()
    with file_size_limit(length + 1100), pytest.raises(VentifsError):
        commit(writer, [(b"key", incompressible(2000))])
    assert site.index.records() == []
    assert set(writer.pending) == set(scores)
    records = commit(writer, [(b"key", b"value")])
    assert site.index.records() == records
    assert all(site.index.known_many(scores))
    assert len(site.commits()) == 1


def test_nothing_more_is_written_after_a_sync_that_failed(site: Site) -> None:
    class Failing(Files):
        def sync(self, fd: int) -> None:
            raise OSError(5, "Input/output error")

    writer = site.writer(files=Failing())
    add(writer, b"block")
    with pytest.raises(VentifsError, match="open the store again"):
        commit(writer, [(b"key", b"value")])
    before = site.clumps()
    with pytest.raises(VentifsError, match="open the store again"):
        commit(writer, [(b"key", b"value")])
    assert site.clumps() == before
    assert (site.index.records(), site.commits()) == ([], [])
