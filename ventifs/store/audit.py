"""The audit: verifies arenas, and compares an index with them. Changes nothing.

`check` runs it, in a child process where an index is involved: LMDB trusts its pages, and damaged
ones can kill the process that reads them. `arena_audit` has the part that looks at one arena.

Writers may go on meanwhile. A comparison uses the state of one moment: the snapshot with which an
audit begins, or a transaction of its own. Later changes are left to the next audit.
"""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from ventifs.errors import Corrupt, VentifsError
from ventifs.store.arena import HEADER_SIZE, Arena
from ventifs.store.arena_audit import LACKS_BLOCK, audit_arena
from ventifs.store.arena_state import ArenaProgress, ArenaState, ArenaTotals
from ventifs.store.arenas import Arenas
from ventifs.store.clump import Head
from ventifs.store.findings import Finding, Report, Summary
from ventifs.store.header import StoreHeader
from ventifs.store.index import Index, IndexSnapshot
from ventifs.store.recovery import drops_in

_JOURNAL_HARM = {"commit", "catalog", "directory", "trailer", "gap", "arena"}  # may lose records


def audit(
    root: Path,
    header: StoreHeader,
    *,
    index: Index | None,
    read_data: bool,
    jobs: int,
    progress: ArenaProgress | None = None,
) -> Report:
    """Verify every arena, and, with an index, that the index and the arenas agree both ways.

    Args:
        root: the store's directory.
        header: its header.
        index: None to leave the index out.
        read_data: verify every byte, not just structure.
        jobs: number of arenas audited in parallel.
        progress: called after every arena.
    """
    arenas = Arenas(root, header.store_id)
    report = Report()
    # Arenas and records are compared as of one moment; writers may go on meanwhile.
    snapshot = IndexSnapshot() if index is None else index.snapshot()
    states = {state.arena: state for state in snapshot.states}
    ids, condemned = arenas.all_ids(), arenas.condemned_ids()  # before the drops are read
    look = partial(audit_arena, arenas, states, index, read_data)
    unread = [arena_id for arena_id in ids if arena_id not in snapshot.dropped]
    total = sum(_length(arenas, arena_id) for arena_id in unread) if progress else 0
    found: dict[bytes, Report] = {}
    done = 0
    with ThreadPoolExecutor(jobs) as pool:
        for arena_id, one in zip(unread, pool.map(look, unread), strict=True):
            found[arena_id] = one
            report.drops |= one.drops
            done += one.summary.bytes
            if progress:
                progress(done, total)
    dropped = report.drops.keys() | snapshot.dropped.keys()
    if index is not None:  # some may have been dropped meanwhile, or since the index was as it is
        dropped |= index.drops().keys() | drops_in(arenas, _not_indexed(arenas, states))
    for arena_id in unread:
        if arena_id in dropped:  # since the snapshot, which has the records that were in it
            found[arena_id].findings, found[arena_id].summary = [], Summary()
        report.join(found[arena_id])
    if dropped:
        report.findings = list(map(_weighed, report.findings))
    report.findings += _leftovers(arenas, ids, condemned, dropped, states)
    for arena_id in sorted(states.keys() - {*ids, *condemned} - dropped):
        report.findings.append(Finding("arena", "its file is missing", arena=arena_id.hex()))
    _audit_commits(arenas, None if index is None else states, report, dropped)
    if index is not None:
        report.findings += (
            Finding("index", reason, arena=arena_id.hex() or None)
            for arena_id, reason in index.contradictions()
        )
        _audit_entries(arenas, index, report)
        # Arenas that were dropped since the snapshot may be gone with what they put, deleted and
        # dropped; where that was put again is beyond the snapshot.
        if index.drops().keys() <= snapshot.dropped.keys():
            _audit_drops(snapshot, report)
            _audit_catalog(snapshot, report, older=not dropped <= snapshot.dropped.keys())
    return report


def _weighed(finding: Finding) -> Finding:
    """A finding of a store that arenas were dropped from.

    There a block that the index lacks may be the second copy of one that was dropped with the
    arena to which the index led, since nothing needed it. If a version needs it all the same, the
    check of versions says so.
    """
    return replace(finding, harmless=True) if finding.reason == LACKS_BLOCK else finding


def _leftovers(
    arenas: Arenas,
    ids: Collection[bytes],
    condemned: Collection[bytes],
    dropped: Collection[bytes],
    states: Collection[bytes],
) -> Iterator[Finding]:
    """What an interrupted reclaim left, or a copy that was made during one."""
    for arena_id in sorted({*ids, *condemned}):
        path = arenas.condemned_path(arena_id)
        if arena_id in dropped:
            if path.exists() or arenas.present(arena_id):
                yield Finding("arena", "it was dropped", arena=arena_id.hex(), harmless=True)
        elif arena_id in condemned and arena_id not in ids:
            reason = (
                "it is in arenas/condemned/, but was not dropped: the next command that writes "
                "moves it back, if it is whole"
            )
            empty = path.exists() and path.stat().st_size == 0
            harmless = empty and arena_id not in states
            yield Finding("arena", reason, arena=arena_id.hex(), harmless=harmless)


def _length(arenas: Arenas, arena_id: bytes) -> int:
    """An arena's length in bytes; 0 if it cannot be opened, which the audit itself reports."""
    try:
        return arenas.reader(arena_id).length()
    except VentifsError:
        return 0


def _not_indexed(arenas: Arenas, states: dict[bytes, ArenaState]) -> Iterator[tuple[Arena, int]]:
    """What the next recovery reads: arenas, each from the offset up to which it is indexed."""
    for arena_id in arenas.all_ids():
        state = states.get(arena_id)
        if state is not None and state.sealed:
            continue
        with suppress(Corrupt):  # it was removed meanwhile
            arena = arenas.reader(arena_id)
            start = HEADER_SIZE if state is None else max(state.length, HEADER_SIZE)
            if arena.length() > start:
                yield arena, start


def _audit_drops(snapshot: IndexSnapshot, report: Report) -> None:
    """Check that the journals have the drops that the index knows."""
    for arena_id, counters in snapshot.dropped.items():
        if arena_id not in report.drops:
            reason = "only the index still knows that it was dropped"
            report.findings.append(Finding("catalog", reason, arena=arena_id.hex()))
            report.lost_drops[arena_id] = counters


def _audit_commits(
    arenas: Arenas,
    states: dict[bytes, ArenaState] | None,
    report: Report,
    dropped: Collection[bytes],
) -> None:
    """Check that the arenas that commits rely on are present up to the required length.

    Arenas that are dropped need not be. A missing part that the index does not expect either is
    harmless: a repair has given it up.
    """
    for arena_id, length in report.relies_on.items():
        if arena_id in dropped:
            continue
        try:
            present = arenas.reader(arena_id).length()
        except Corrupt:
            present = 0
        if present < length:
            reason = f"a commit relies on {length} bytes of it, {present} are there"
            state = (
                None
                if states is None
                else states.get(arena_id, ArenaState(arena_id, 0, False, ArenaTotals()))
            )
            harmless = state is not None and state.length <= present
            report.findings.append(
                Finding("arena", reason, arena=arena_id.hex(), harmless=harmless)
            )


def _audit_entries(arenas: Arenas, index: Index, report: Report) -> None:
    """Check that every entry leads to its block; walks the entries only if their count differs."""
    if index.entry_count() == report.confirmed:
        return

    @lru_cache(maxsize=4096)
    def head_at(arena_id: bytes, offset: int) -> Head | None:
        try:
            return arenas.reader(arena_id).read_head(offset)
        except Corrupt:
            return None

    for score, place in index.entries():
        if place is None:
            report.findings.append(Finding("index", "damaged entry", score.hex()))
            continue
        head = head_at(place.arena, place.offset)
        if head is None and index.dropped(place.arena):
            continue  # since the entry was read
        if head is None or not head.holds(place.position, score):
            report.findings.append(
                Finding(
                    "index",
                    "entry leads to something else",
                    score.hex(),
                    place.arena.hex(),
                    place.offset,
                )
            )
    counted, reached = index.entries_counted()
    if counted != reached:
        reason = f"{counted} entries by its own count, {reached} can be reached"
        report.findings.append(Finding("index", reason))


def _audit_catalog(snapshot: IndexSnapshot, report: Report, *, older: bool) -> None:
    """Check that index and arenas list the same records.

    An index that is older than drops may list records that these have moved, and others whose
    deletions have gone with the arenas: a repair must not bring them back.
    """
    in_arenas = {key: record for key, record in report.puts.items() if key not in report.deletes}
    in_index = {record.id: record for record in snapshot.records}
    for record_id, record in in_arenas.items():
        if record_id in snapshot.deleted:
            reason = f"only the index knows that record {record.key!r} was deleted"
            report.findings.append(Finding("catalog", reason))
            report.forgotten.append(record)
        elif in_index.get(record_id) != record:
            reason = f"the index lacks record {record.key!r}"
            report.findings.append(Finding("catalog", reason))
    damaged = any(
        finding.what in _JOURNAL_HARM and not finding.harmless for finding in report.findings
    )
    for record_id, record in in_index.items():
        if record_id not in in_arenas and older and not damaged:
            reason = f"it is older than arenas, which moved or deleted record {record.key!r}"
            report.findings.append(Finding("index", reason))
        elif record_id not in in_arenas:
            reason = f"only the index still has record {record.key!r}: its arena is damaged"
            report.findings.append(Finding("catalog", reason))
            report.rescued.append(record)
