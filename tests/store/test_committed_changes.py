"""What a commit makes count: the catalog right before it, whole, and nothing else."""

from pathlib import Path

import pytest

from tests.support.arenafiles import DECOMPRESSOR, append, new_appender, reading
from tests.support.damage import flip
from ventifs.errors import Corrupt
from ventifs.store.appender import Appender
from ventifs.store.arena import HEADER_SIZE
from ventifs.store.arena_journal import committed_changes
from ventifs.store.clump import ClumpKind
from ventifs.store.journal import (
    Changes,
    Commit,
    CommitCounters,
    Record,
    decode_commit,
    encode_changes,
    encode_commit,
)

CHANGES = Changes([Record(b"key", bytes(16), b"value")], [b"d" * 16])


def catalog(appender: Appender, changes: Changes = CHANGES) -> None:
    append(appender, *encode_changes(changes, 4096), kind=ClumpKind.CATALOG)


def covered(appender: Appender, length: int, records: int) -> Changes:
    """What a commit that is appended now makes count."""
    payload = encode_commit(Commit(5, length, records, CommitCounters(), []))
    offset = append(appender, payload, kind=ClumpKind.COMMIT)
    arena = reading(appender)
    commit = decode_commit(arena.read_raw(offset, DECOMPRESSOR))
    return committed_changes(arena, offset, commit, DECOMPRESSOR)


@pytest.fixture
def appender(tmp_path: Path) -> Appender:
    return new_appender(tmp_path)


def test_every_catalog_clump_that_a_commit_covers_counts(appender: Appender) -> None:
    catalog(appender, Changes([Record(b"not covered", b"n" * 16, b"")]))
    start = appender.length
    catalog(appender)
    catalog(appender, Changes([Record(b"more", b"m" * 16, b"")]))
    changes = covered(appender, appender.length - start, 3)
    assert [record.key for record in changes.puts] == [b"key", b"more"]
    assert changes.deletes == CHANGES.deletes


def test_a_commit_may_cover_nothing(appender: Appender) -> None:
    catalog(appender)
    assert len(covered(appender, 0, 0)) == 0


@pytest.mark.parametrize("records", [0, 1, 3])
def test_a_commit_of_another_number_of_records_is_corrupt(appender: Appender, records: int) -> None:
    catalog(appender)
    with pytest.raises(Corrupt, match="has 2"):
        covered(appender, appender.length - HEADER_SIZE, records)


def test_a_commit_that_covers_more_than_there_is_is_corrupt(appender: Appender) -> None:
    catalog(appender)
    with pytest.raises(Corrupt, match="more catalog"):
        covered(appender, appender.length - HEADER_SIZE + 1, 2)


def test_a_commit_that_covers_part_of_a_clump_is_corrupt(appender: Appender) -> None:
    catalog(appender)
    with pytest.raises(Corrupt):
        covered(appender, appender.length - HEADER_SIZE - 1, 2)


@pytest.mark.parametrize("kind", [ClumpKind.DATA, ClumpKind.COMMIT])
def test_a_commit_that_covers_other_clumps_is_corrupt(appender: Appender, kind: ClumpKind) -> None:
    append(appender, b"something else", kind=kind)
    catalog(appender)
    with pytest.raises(Corrupt, match="other than catalog"):
        covered(appender, appender.length - HEADER_SIZE, 2)


def test_a_commit_whose_catalog_is_damaged_is_corrupt(appender: Appender) -> None:
    catalog(appender)
    flip(appender.path, appender.length - 1)
    with pytest.raises(Corrupt, match="checksum"):
        covered(appender, appender.length - HEADER_SIZE, 2)
