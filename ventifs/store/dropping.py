"""What a commit says that drops arenas, so that the rest of the journal means the same as before.

The journal lives in the arenas, in any order, so nothing in it may go with an arena while it still
has a meaning: a record that was not deleted, the drop of another arena, or the deletion of a record
that an arena which stays has put. Those are put again, records with the ids that they have.
"""

from collections.abc import Collection, Iterable

import msgspec

from ventifs.errors import Corrupt
from ventifs.store.arena_journal import ArenaJournal, read_journal
from ventifs.store.arenas import Arenas
from ventifs.store.journal import Changes


class Drop(msgspec.Struct, frozen=True):
    """A commit that drops arenas.

    Attributes:
        changes: what it says.
        expunged: ids of deleted records that nothing which stays has put: the index need not know
            of them any more.
    """

    changes: Changes
    expunged: list[bytes]


def drop_of(
    arenas: Arenas, doomed: Collection[bytes], dropped: Collection[bytes], deleted: set[bytes]
) -> Drop:
    """The commit that drops sealed arenas; reads every arena's journal.

    Args:
        arenas: the store's; nobody may write to any meanwhile.
        doomed: ids of the sealed arenas that are to go.
        dropped: ids of those that went before.
        deleted: ids of all records that the index knows to be deleted.

    Raises:
        Corrupt: a journal that is to go cannot be read, and might hold what is still needed.
    """
    going: list[ArenaJournal] = []
    staying: list[ArenaJournal] = []
    drops = {}
    for arena_id in arenas.all_ids():
        if arena_id in dropped:
            continue
        journal = read_journal(arenas.reader(arena_id))
        if arena_id not in doomed:
            staying.append(journal)
            continue
        if not journal.whole:
            raise Corrupt("its journal cannot be read, so it stays", arena=arena_id.hex())
        going.append(journal)
        drops[arena_id] = journal.counters
    whole = all(journal.whole for journal in staying)
    put_again = _union(journal.puts for journal in staying)
    puts = {
        record.id: record
        for journal in going
        for record in journal.puts.values()
        if record.id not in deleted and record.id not in put_again
    }
    needed = _union(journal.deletes for journal in going)
    needed -= _union(journal.deletes for journal in staying)
    if whole:
        needed &= put_again
    for journal in going:
        drops |= {arena: drops.get(arena, count) for arena, count in journal.drops.items()}
    for journal in staying:
        for arena in journal.drops:
            drops.pop(arena, None)
    expunged = sorted(deleted - put_again) if whole else []
    return Drop(Changes(list(puts.values()), sorted(needed), drops), expunged)


def _union(sets: Iterable[Iterable[bytes]]) -> set[bytes]:
    return {each for some in sets for each in some}
