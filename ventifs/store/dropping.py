"""What a commit says that drops arenas, so that the rest of the journal means the same as before.

The journal lives in the arenas, in any order, so nothing in it may go with an arena while it still
has a meaning. What the catalog is the index says, which checks it by a digest; so an arena may go
whose own journal cannot be read any more. Put again are: records that no arena which stays puts,
with their ids; drops of other arenas; and deletions, but those whose record was put in the arenas
that go, or in arenas dropped before, and in none that stays.
"""

from collections.abc import Collection, Iterable

import msgspec

from ventifs.errors import Corrupt
from ventifs.store.arena_journal import ArenaJournal, read_journal
from ventifs.store.arenas import Arenas
from ventifs.store.index import IndexSnapshot
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


def drop_of(arenas: Arenas, doomed: Collection[bytes], snapshot: IndexSnapshot) -> Drop:
    """The commit that drops sealed arenas; reads every arena's journal.

    Args:
        arenas: the store's; nobody may write to any meanwhile.
        doomed: ids of the sealed arenas that are to go.
        snapshot: what the index says. It forgets that a record was deleted when the arenas with its
            put are dropped, which tells them from arenas that are only missing.

    Raises:
        Corrupt: an arena that is to go is missing.
    """
    going: list[ArenaJournal] = []
    staying: list[ArenaJournal] = []
    drops = {}
    for arena_id in arenas.all_ids():
        if arena_id in snapshot.dropped:
            continue
        journal = read_journal(arenas.reader(arena_id))
        if arena_id in doomed:
            going.append(journal)
            drops[arena_id] = journal.counters
        else:
            staying.append(journal)
    if missing := set(doomed) - drops.keys():
        raise Corrupt("its file is missing", arena=min(missing).hex())
    dropped_by_staying = _union(journal.drops for journal in staying)
    for arena_id, counters in snapshot.dropped.items():
        if arena_id not in dropped_by_staying:
            drops[arena_id] = counters
    put_by_staying = _union(journal.puts for journal in staying)
    puts = [record for record in snapshot.records if record.id not in put_by_staying]
    whole = all(journal.whole for journal in staying)
    deletes, expunged = _deletions(going, staying, put_by_staying, snapshot, whole=whole)
    return Drop(Changes(puts, sorted(deletes), drops), sorted(expunged))


def _deletions(
    going: list[ArenaJournal],
    staying: list[ArenaJournal],
    put_by_staying: set[bytes],
    snapshot: IndexSnapshot,
    *,
    whole: bool,
) -> tuple[set[bytes], set[bytes]]:
    """The deletions to put again, and those that the index may forget.

    With journals that stay and are not `whole`, none may be forgotten.
    """
    by_going = _union(journal.deletes for journal in going)
    by_staying = _union(journal.deletes for journal in staying)
    gone = snapshot.deleted | by_going | by_staying
    expunged: set[bytes] = set()
    needless: set[bytes] = set()
    if whole:
        expunged = gone & _union(journal.puts for journal in going) - put_by_staying
        needless = expunged | (by_going - snapshot.deleted - put_by_staying)
    not_listed = put_by_staying - {record.id for record in snapshot.records}
    return (by_going - needless | not_listed) - by_staying, expunged


def _union(sets: Iterable[Iterable[bytes]]) -> set[bytes]:
    return {each for some in sets for each in some}
