"""What a commit says that drops arenas, so that the rest of the journal means the same as before.

The journal lives in the arenas, in any order, so nothing in it may go with an arena while it still
has a meaning. What the catalog is the index says, which checks it by a digest; so an arena may go
whose own journal cannot be read any more. Put again are: records that no arena which stays puts,
with their ids; drops of other arenas; deletions, but those whose record was put in the arenas that
go, or in arenas dropped before, and in none that stays; and deletions of what an arena that stays
puts and the catalog does not list.
"""

from collections.abc import Collection, Iterable

import msgspec
from msgspec.structs import replace

from ventifs.errors import Corrupt
from ventifs.store.arena_journal import read_journal
from ventifs.store.arenas import Arenas
from ventifs.store.index import IndexSnapshot
from ventifs.store.journal import Changes, CommitCounters


class Drop(msgspec.Struct, frozen=True):
    """A commit that drops arenas.

    Attributes:
        changes: what it says.
        expunged: ids of deleted records that nothing which stays has put: the index need not know
            of them any more.
    """

    changes: Changes
    expunged: list[bytes]


class JournalIds(msgspec.Struct, frozen=True):
    """What of an arena's journal matters for a drop: as `ArenaJournal`, but records by id alone."""

    puts: frozenset[bytes]
    deletes: frozenset[bytes]
    drops: dict[bytes, CommitCounters]
    counters: CommitCounters
    whole: bool


class Journals:
    """The journals of arenas, each read once as far as it goes."""

    def __init__(self, arenas: Arenas) -> None:
        """Read nothing yet."""
        self._arenas = arenas
        self._read: dict[bytes, tuple[int | None, JournalIds]] = {}

    def read_ahead(self) -> None:
        """Read the journals of all arenas that are sealed now."""
        for arena_id in self._arenas.sealed_ids():
            self.of(arena_id, None)

    def of(self, arena_id: bytes, indexed: int | None) -> JournalIds:
        """The journal of an arena: all of it, or what is below `indexed`.

        Raises:
            Corrupt: its file is missing.
        """
        end, found = self._read.get(arena_id, (None, None))
        if found is None or end != indexed:
            journal = read_journal(self._arenas.reader(arena_id), indexed=indexed)
            found = JournalIds(
                frozenset(journal.puts),
                frozenset(journal.deletes),
                journal.drops,
                journal.counters,
                journal.whole,
            )
            self._read[arena_id] = indexed, found
        return found


def drop_of(
    journals: Journals,
    present: Iterable[bytes],
    doomed: Collection[bytes],
    snapshot: IndexSnapshot,
    deleting: Collection[bytes] = (),
) -> Drop:
    """The commit that drops sealed arenas; reads every arena's journal, as far as it is indexed.

    Args:
        journals: the store's. Nobody may commit changes of records meanwhile, and what was
            committed must be in the index.
        present: ids of all arenas that are there.
        doomed: ids of the sealed arenas that are to go.
        snapshot: what the index says. It forgets that a record was deleted when the arenas with its
            put are dropped, which tells them from arenas that are only missing.
        deleting: ids of records that the same commit deletes.

    Raises:
        Corrupt: an arena that is to go is missing.
    """
    going: list[JournalIds] = []
    staying: list[JournalIds] = []
    drops = {}
    indexed = {state.arena: None if state.sealed else state.length for state in snapshot.states}
    for arena_id in present:
        if arena_id in snapshot.dropped:
            continue
        journal = journals.of(arena_id, indexed.get(arena_id, 0))
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
    left = replace(
        snapshot,
        records=[record for record in snapshot.records if record.id not in deleting],
        deleted=snapshot.deleted.union(deleting),
    )
    puts = [record for record in left.records if record.id not in put_by_staying]
    whole = all(journal.whole for journal in staying)
    deletes, expunged = _deletions(going, staying, put_by_staying, left, whole=whole)
    return Drop(Changes(puts, sorted(deletes.union(deleting)), drops), sorted(expunged))


def _deletions(
    going: list[JournalIds],
    staying: list[JournalIds],
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
