"""What a commit says that drops arenas, so that the rest of the journal means the same as before.

The journal lives in the arenas, in any order, so nothing in it may go with an arena while it still
has a meaning. Put again are: records that were not deleted, with the ids that they have; drops of
other arenas; and deletions, but those whose record was put in the arenas that go, or was put in
arenas dropped before, and in none that stays.
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
        deleted: ids of all records that the index knows to be deleted. It forgets one when the
            arenas with its put are dropped, which tells them from arenas that are only missing.

    Raises:
        Corrupt: an arena is missing, or its journal cannot be read, and might hold what is needed.
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
    if missing := set(doomed) - drops.keys():
        raise Corrupt("its file is missing", arena=min(missing).hex())
    put_by_staying = _union(journal.puts for journal in staying)
    deleted_by_going = _union(journal.deletes for journal in going)
    deleted_by_staying = _union(journal.deletes for journal in staying)
    gone = deleted | deleted_by_going | deleted_by_staying
    puts = {
        record.id: record
        for journal in going
        for record in journal.puts.values()
        if record.id not in gone and record.id not in put_by_staying
    }
    expunged: set[bytes] = set()
    needless: set[bytes] = set()
    if all(journal.whole for journal in staying):
        expunged = gone & _union(journal.puts for journal in going) - put_by_staying
        needless = expunged | (deleted_by_going - deleted - put_by_staying)
    for journal in going:
        drops |= {arena: drops.get(arena, count) for arena, count in journal.drops.items()}
    for journal in staying:
        for arena in journal.drops:
            drops.pop(arena, None)
    deletes = sorted(deleted_by_going - deleted_by_staying - needless)
    return Drop(Changes(list(puts.values()), deletes, drops), sorted(expunged))


def _union(sets: Iterable[Iterable[bytes]]) -> set[bytes]:
    return {each for some in sets for each in some}
