"""Finds arenas that hold nothing but journal, most of which has lost its meaning.

Commits that store no blocks, such as those of runs that find nothing changed, fill arenas as well.
The commit that drops one puts again what still counts in it (see `dropping`). So one is spent if
that takes at most half of its bytes, and if it has enough of them to be worth a drop, which is kept
for ever. The index forgets deleted records with the arenas that put them, so it stays small, too.

Always: this decides what pays, never what is safe. A wrong answer costs space.
"""

from collections.abc import Iterable

from ventifs.errors import VentifsError
from ventifs.store.arena_journal import ArenaJournal, read_journal
from ventifs.store.arena_state import ArenaState
from ventifs.store.arenas import Arenas
from ventifs.store.clump import CLUMP_RAW_MAX
from ventifs.store.index import Index
from ventifs.store.journal import Changes, encode_changes

_WORTH_A_DROP = 64 << 10  # bytes; the smallest arenas that `init` makes have 4 MiB


def spent(arenas: Arenas, index: Index, states: Iterable[ArenaState]) -> set[bytes]:
    """The ids of those of some arenas that are spent.

    Reads whole journals, but only of sealed arenas without blocks, of which there are few.

    Raises:
        IndexDamaged: the index has lost records.
    """
    alone = [state for state in states if _is_journal_alone(state)]
    if not alone:
        return set()
    snapshot = index.snapshot()
    listed = {record.id for record in snapshot.records}
    found = set()
    for state in alone:
        try:
            journal = read_journal(arenas.reader(state.arena))
        except VentifsError:
            continue
        needed = _needed(state.arena, journal, listed, snapshot.deleted)
        if journal.whole and 2 * needed <= state.totals.stored_bytes:
            found.add(state.arena)
    return found


def _is_journal_alone(state: ArenaState) -> bool:
    totals = state.totals
    others = totals.data_blocks or totals.node_blocks or totals.gap_bytes
    return state.sealed and not others and totals.stored_bytes >= _WORTH_A_DROP


def _needed(arena: bytes, journal: ArenaJournal, listed: set[bytes], deleted: set[bytes]) -> int:
    """The most bytes of journal that dropping an arena may take, before compression."""
    puts = [record for record in journal.puts.values() if record.id in listed]
    drops = {**journal.drops, arena: journal.counters}
    again = Changes(puts, sorted(journal.deletes & deleted), drops)
    return sum(map(len, encode_changes(again, CLUMP_RAW_MAX)))
