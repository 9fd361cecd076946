"""Reads the journal of one arena: its commits, and what they change in the catalog."""

from collections.abc import Iterator

import msgspec
import zstandard

from ventifs.errors import Corrupt
from ventifs.store.arena import HEADER_SIZE, Arena, Damage
from ventifs.store.clump import ClumpKind
from ventifs.store.journal import (
    Changes,
    Commit,
    CommitCounters,
    Record,
    decode_changes,
    decode_commit,
)


class ArenaJournal(msgspec.Struct):
    """What the commits in an arena say.

    Attributes:
        puts: records put, by id.
        deletes: ids deleted.
        drops: arenas dropped, each with its counters.
        counters: the sums of the commits' own.
        whole: False if any part of the arena that may have held a commit cannot be read.
    """

    puts: dict[bytes, Record] = msgspec.field(default_factory=dict)
    deletes: set[bytes] = msgspec.field(default_factory=set)
    drops: dict[bytes, CommitCounters] = msgspec.field(default_factory=dict)
    counters: CommitCounters = msgspec.field(default_factory=CommitCounters)
    whole: bool = True


def read_journal(
    arena: Arena, start: int = HEADER_SIZE, indexed: int | None = None
) -> ArenaJournal:
    """The journal of an arena from the clump at `start` on.

    A sealed arena is read by its directory, which costs a read for each commit. Every other one is
    read whole; or, with `indexed`, only the heads of clumps below that offset, which were verified
    when they were indexed, and none of what comes after them.
    """
    journal = ArenaJournal()
    decompressor = zstandard.ZstdDecompressor()
    for offset in _commits(arena, start, indexed, journal):
        try:
            commit, changes = read_commit(arena, offset, decompressor)
        except Corrupt:
            journal.whole = False
            continue
        journal.puts.update({record.id: record for record in changes.puts})
        journal.deletes.update(changes.deletes)
        journal.drops.update(changes.drops)
        journal.counters.add(commit.counters)
    return journal


def _commits(arena: Arena, start: int, indexed: int | None, journal: ArenaJournal) -> list[int]:
    """The offsets of an arena's commit clumps; sets `whole`."""
    if indexed is not None:
        return _indexed(arena, start, indexed, journal)
    trailer = arena.trailer()
    if trailer is not None and start <= HEADER_SIZE:
        try:
            kinds = [(offset, clump.kind) for offset, clump in arena.outlines(trailer)]
        except Corrupt:
            pass
        else:
            journal.whole = all(kind != ClumpKind.GAP for _, kind in kinds)
            return [offset for offset, kind in kinds if kind == ClumpKind.COMMIT]
    return list(_scanned(arena, start, arena.clumps_end(), journal))


def _indexed(arena: Arena, start: int, end: int, journal: ArenaJournal) -> list[int]:
    commits = []
    try:
        for offset, head in arena.heads(start, end):
            if head.kind is ClumpKind.COMMIT:
                commits.append(offset)
            elif head.kind is ClumpKind.GAP:
                journal.whole = False
            start = offset + head.size
    except Corrupt:  # from here on it is read whole
        commits += _scanned(arena, start, end, journal)
    return commits


def _scanned(arena: Arena, start: int, end: int, journal: ArenaJournal) -> Iterator[int]:
    for found in arena.scan(start, end):
        if isinstance(found, Damage) or found.head.kind is ClumpKind.GAP:
            journal.whole = False
        elif found.head.kind is ClumpKind.COMMIT:
            yield found.offset


def read_commit(
    arena: Arena, offset: int, decompressor: zstandard.ZstdDecompressor
) -> tuple[Commit, Changes]:
    """The commit clump at an offset, and what it makes valid.

    Raises:
        Corrupt: when it or its catalog clumps are damaged, or not what it says.
    """
    commit = decode_commit(arena.read_raw(offset, decompressor))
    return commit, committed_changes(arena, offset, commit, decompressor)


def committed_changes(
    arena: Arena, offset: int, commit: Commit, decompressor: zstandard.ZstdDecompressor
) -> Changes:
    """The changes of the catalog that the commit clump at `offset` makes valid.

    If a gap has replaced a catalog clump, only the changes in the remaining ones are returned.

    Raises:
        Corrupt: when its catalog clumps are damaged or not what it says.
    """
    start = offset - commit.catalog_length
    if start < HEADER_SIZE:
        raise Corrupt("commit says more catalog than there is before it")
    payloads, lost = [], False
    for at, head in arena.heads(start, offset):
        if head.kind not in (ClumpKind.CATALOG, ClumpKind.GAP) or at + head.size > offset:
            raise Corrupt("commit covers something other than catalog clumps")
        if head.kind is ClumpKind.CATALOG:
            payloads.append(arena.read_raw(at, decompressor))
        else:
            lost = True
    changes = decode_changes(payloads)
    if len(changes) != commit.records and not lost:
        raise Corrupt(f"commit of {commit.records} records has {len(changes)}")
    return changes
