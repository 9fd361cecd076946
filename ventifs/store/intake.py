"""Reads clumps of arenas for the index: their blocks, and what their commits say.

Only clumps that verify are passed on. Blocks go on at once, commits are gathered, because a version
must not show before its blocks. The order of arenas does not matter, as records are puts minus
deletes.
"""

import logging
from collections.abc import Callable

import msgspec
import zstandard

from ventifs.errors import Corrupt
from ventifs.store.arena import Arena, Clump, Damage
from ventifs.store.arena_journal import read_commit
from ventifs.store.arena_state import ArenaState, ArenaTotals
from ventifs.store.clump import ClumpKind
from ventifs.store.index import Index
from ventifs.store.journal import Changes, CommitCounters, Record
from ventifs.store.score import Score

log = logging.getLogger("ventifs.store")

Sink = Callable[[bytes, list[tuple[Score, int, int]]], None]
_ENTRIES_MAX = 64_000


class Journal(msgspec.Struct):
    """Arena states and commits read so far, to be stored after all blocks are indexed."""

    states: list[ArenaState] = msgspec.field(default_factory=list)
    puts: list[Record] = msgspec.field(default_factory=list)
    deletes: list[bytes] = msgspec.field(default_factory=list)
    drops: dict[bytes, CommitCounters] = msgspec.field(default_factory=dict)
    counters: CommitCounters = msgspec.field(default_factory=CommitCounters)
    relies_on: dict[bytes, int] = msgspec.field(default_factory=dict)

    def settle(self, index: Index) -> None:
        """Store all of it in the index in one transaction."""
        index.settle(self.states, Changes(self.puts, self.deletes, self.drops), self.counters)


class ClumpIntake:
    """Reads clumps of arenas; passes their blocks to a sink, and collects commits in `journal`."""

    def __init__(self, sink: Sink) -> None:
        """`sink` gets (arena id, entries) in pieces of bounded size."""
        self.journal = Journal()
        self._sink = sink
        self._decompressor = zstandard.ZstdDecompressor()

    def read(self, arena: Arena, start: int, end: int) -> tuple[ArenaTotals, list[Damage]]:
        """Read every clump of an arena between two offsets; those that verify are passed on."""
        totals, damages = ArenaTotals(), []
        entries: list[tuple[Score, int, int]] = []
        for found in arena.scan(start, end):
            if isinstance(found, Damage):
                damages.append(found)
                continue
            totals.count(found.head)
            entries.extend(
                (score, found.offset, at) for at, (score, _) in enumerate(found.head.blocks)
            )
            if found.head.kind is ClumpKind.COMMIT:
                self._read_commit(arena, found)
            if len(entries) >= _ENTRIES_MAX:
                self._sink(arena.id, entries)
                entries = []
        if entries:
            self._sink(arena.id, entries)
        return totals, damages

    def _read_commit(self, arena: Arena, clump: Clump) -> None:
        try:
            commit, changes = read_commit(arena, clump.offset, self._decompressor)
        except Corrupt as error:
            log.error(
                "arena %s at %d: a commit cannot be read: %s",
                arena.id.hex(),
                clump.offset,
                error.reason,
            )
            return
        self.journal.puts += changes.puts
        self.journal.deletes += changes.deletes
        self.journal.drops.update(changes.drops)
        self.journal.counters.add(commit.counters)
        for relied, length in commit.relies_on:
            known = self.journal.relies_on.get(relied, 0)
            self.journal.relies_on[relied] = max(known, length)
