"""The audit: verifies arenas, and compares an index with them. Changes nothing.

`check` runs it, in a child process where an index is involved: LMDB trusts its pages, and damaged
ones can kill the process that reads them. Sealed arenas are walked by their directories. Open ones,
and those without a sound directory, are scanned clump by clump. With `read_data` every byte is read
and every block hashed.

Writers may go on meanwhile. A comparison uses the state of one moment: the snapshot with which an
audit begins, or a transaction of its own. Later changes are left to the next audit.
"""

import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from threading import local

import zstandard
from blake3 import blake3

from ventifs.errors import Corrupt, VentifsError
from ventifs.store.arena import HEADER_SIZE, Arena, Damage
from ventifs.store.arena_journal import read_commit
from ventifs.store.arena_state import ArenaProgress, ArenaState, ArenaTotals, Place
from ventifs.store.arenas import Arenas
from ventifs.store.clump import ClumpKind, Head, decompress, parse_head, verify
from ventifs.store.header import StoreHeader
from ventifs.store.index import Index, IndexSnapshot
from ventifs.store.journal import CommitCounters, Record
from ventifs.store.recovery import drops_in
from ventifs.store.score import Score

_LOOKUP_MAX = 4096
_JOURNAL_HARM = {"commit", "catalog", "directory", "trailer", "gap", "arena"}  # may lose records


@dataclass(slots=True, frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        what: "block", "header", "directory", "trailer", "arena", "commit", "catalog", "gap" or
            "index".
        reason: what is wrong with it.
        score, arena, offset: where, as far as that applies; score and arena are hexadecimal.
        harmless: True for damage that nothing in the index leads to any more.
    """

    what: str
    reason: str
    score: str | None = None
    arena: str | None = None
    offset: int | None = None
    harmless: bool = False


@dataclass(slots=True)
class Summary:
    """How much was audited."""

    arenas: int = 0
    clumps: int = 0
    blocks: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Report:
    """The result of auditing a store, or one arena of it.

    Attributes:
        rescued: records that the index has and the arenas have lost.
        forgotten: records that the index knows to be deleted and the arenas do not.
        confirmed: index entries that lead to the block they name.
        drops: arenas from which nothing is taken, by the journals.
        lost_drops: those that only the index still knows.
    """

    findings: list[Finding] = field(default_factory=list)
    summary: Summary = field(default_factory=Summary)
    rescued: list[Record] = field(default_factory=list)
    forgotten: list[Record] = field(default_factory=list)
    confirmed: int = 0
    drops: dict[bytes, CommitCounters] = field(default_factory=dict)
    lost_drops: dict[bytes, CommitCounters] = field(default_factory=dict)
    puts: dict[bytes, Record] = field(default_factory=dict)
    deletes: set[bytes] = field(default_factory=set)
    relies_on: dict[bytes, int] = field(default_factory=dict)

    def join(self, other: "Report") -> None:
        """Add the result of auditing another arena."""
        self.findings += other.findings
        self.confirmed += other.confirmed
        self.puts.update(other.puts)
        self.deletes |= other.deletes
        self.drops |= other.drops
        for arena, length in other.relies_on.items():
            self.relies_on[arena] = max(length, self.relies_on.get(arena, 0))
        self.summary.arenas += other.summary.arenas
        self.summary.clumps += other.summary.clumps
        self.summary.blocks += other.summary.blocks
        self.summary.bytes += other.summary.bytes


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
    look = partial(_audit_arena, arenas, states, index, read_data)
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
    report.findings += _leftovers(arenas, ids, condemned, dropped, states)
    for arena_id in sorted(states.keys() - {*ids, *condemned} - dropped):
        report.findings.append(Finding("arena", "its file is missing", arena=arena_id.hex()))
    _audit_drops(snapshot, report)
    _audit_commits(arenas, None if index is None else states, report, dropped)
    if index is not None:
        _audit_entries(arenas, index, report)
        _audit_catalog(snapshot, report, older=not dropped <= snapshot.dropped.keys())
    return report


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


_thread = local()


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_thread, "decompressor"):
        _thread.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _thread.decompressor
    return decompressor


def _audit_arena(
    arenas: Arenas,
    states: dict[bytes, ArenaState],
    index: Index | None,
    read_data: bool,
    arena_id: bytes,
) -> Report:
    report = Report()
    try:
        state, arena = states.get(arena_id), arenas.reader(arena_id)
        # Sealed as of the snapshot; an arena that the snapshot lacks is sealed if it is in sealed/.
        sealed = state.sealed if state else arenas.sealed_path(arena_id).exists()
        if index is not None and state is None and _is_new(arena_id, sealed, index):
            report.summary.arenas, report.summary.bytes = 1, arena.length()
            return report
        auditor = _ArenaAudit(arena, arenas, index, report, read_data=read_data)
        auditor.run(state, sealed)
    except VentifsError as error:
        # A recovery may remove the empty file of an arena that was never committed to.
        if index is None or arena_id in states or arenas.present(arena_id):
            report.findings.append(Finding("arena", str(error), arena=arena_id.hex()))
    return report


def _is_new(arena_id: bytes, sealed: bool, index: Index) -> bool:
    """Whether a writer began an arena that the snapshot lacks, or has committed to it since.

    The index knows an arena before its file moves to `sealed/`. So `sealed` must be determined
    before this call.
    """
    return not sealed or index.arena_state(arena_id).length > 0


class _ArenaAudit:
    """Audits one arena, and adds the results to a report."""

    def __init__(
        self, arena: Arena, arenas: Arenas, index: Index | None, report: Report, *, read_data: bool
    ) -> None:
        self.arena = arena
        self.arenas = arenas
        self.index = index
        self.report = report
        self.read_data = read_data
        self._waiting: list[tuple[Score, int, int]] = []

    def run(self, state: ArenaState | None, sealed: bool) -> None:
        summary = self.report.summary
        summary.arenas, summary.bytes = 1, self.arena.length()
        try:
            self.arena.check_header(self.arenas.store_id)
        except VentifsError as error:
            self._found("header", getattr(error, "reason", str(error)), 0)
        for offset, head in self._heads(state, sealed):
            summary.clumps += 1
            summary.blocks += len(head.blocks)
            sound = self._sound(offset, head) if self.read_data else True
            if sound and head.kind is ClumpKind.COMMIT:
                self._read_commit(offset)
            if sound:
                self._look_up(offset, head)
        self._look_up_waiting()

    def _found(
        self,
        what: str,
        reason: str,
        offset: int | None,
        score: bytes | None = None,
        *,
        harmless: bool = False,
    ) -> None:
        self.report.findings.append(
            Finding(
                what, reason, score.hex() if score else None, self.arena.id.hex(), offset, harmless
            )
        )

    def _heads(self, state: ArenaState | None, sealed: bool) -> Iterator[tuple[int, Head]]:
        """The heads that should be there, from a sound directory, or else from a scan."""
        trailer = self.arena.trailer()
        if sealed and trailer is not None:
            try:
                for _ in self.arena.directory(trailer):
                    pass
            except Corrupt as error:
                self._found("directory", error.reason, error.offset)
            else:
                yield from self.arena.directory(trailer)
                return
        elif sealed:
            self._found("trailer", "sealed arena without a sound trailer", self.arena.length())
        indexed = state.length if state is not None else 0
        # What the index does not know is left to a writer, or to the next recovery.
        end = indexed if self.index is not None and not sealed else self.arena.clumps_end()
        if self.arena.length() < indexed:
            self._found("arena", f"cut off: {self.arena.length()} bytes of {indexed}", None)
            end = self.arena.length()
        yield from self._scanned(end, tail_matters=bool(indexed) and not sealed)

    def _scanned(self, end: int, *, tail_matters: bool) -> Iterator[tuple[int, Head]]:
        """The heads that a scan finds; reports damage, but at `end` only if `tail_matters`."""
        for found in self.arena.scan(HEADER_SIZE, end):
            if not isinstance(found, Damage):
                yield found.offset, found.head
            elif tail_matters or found.offset + found.length < end:
                yield from self._damaged(found)

    def _damaged(self, damage: Damage) -> Iterator[tuple[int, Head]]:
        """Report the blocks of damaged clumps, as far as their heads can still be read."""
        offset, end = damage.offset, damage.offset + damage.length
        while offset < end:
            try:
                head = self.arena.read_head(offset)
            except Corrupt:
                if offset == damage.offset:
                    self._found("arena", f"{damage.length} bytes are no clump", offset)
                break  # a damaged length may have led to a wrong offset
            self._name_blocks(offset, head, "clump does not match its checksum")
            offset += head.size
        return iter(())

    def _sound(self, offset: int, expected: Head) -> bool:
        """Whether a clump is intact and has the expected head; reports blocks with wrong bytes."""
        try:
            gap = expected.kind is ClumpKind.GAP
            length = len(expected.listed) if gap else expected.size
            whole = os.pread(self.arena.fd, length, offset)
            head = parse_head(whole)
            payload = memoryview(whole)[len(head.listed) :]
            verify(head, payload, arena=self.arena.id, offset=offset)
            if head.listed != expected.listed:
                raise Corrupt("clump is not the one its directory lists")
            if head.kind is ClumpKind.GAP:
                return True
            raw = memoryview(decompress(head, payload, _decompressor()))
        except Corrupt as error:
            self._name_blocks(offset, expected, error.reason)
            return False
        start = 0
        for position, (score, length) in enumerate(head.blocks):
            if blake3(raw[start : start + length]).digest() != score:
                reason = "bytes do not match their score"
                self._found(
                    "block",
                    reason,
                    offset,
                    score,
                    harmless=not self._led_to(score, offset, position),
                )
            start += length
        return True

    def _name_blocks(self, offset: int, head: Head, reason: str) -> None:
        for position, (score, _) in enumerate(head.blocks):
            harmless = not self._led_to(score, offset, position)
            self._found("block", reason, offset, score, harmless=harmless)
        if not head.blocks:
            self._found(head.kind.name.lower(), reason, offset)

    def _led_to(self, score: Score, offset: int, position: int) -> bool:
        """Whether the index leads to this copy of a block; True without an index."""
        if self.index is None:
            return True
        return self.index.locate(score) == Place(self.arena.id, offset, position)

    def _look_up(self, offset: int, head: Head) -> None:
        self._waiting += [(score, offset, at) for at, (score, _) in enumerate(head.blocks)]
        if len(self._waiting) >= _LOOKUP_MAX:
            self._look_up_waiting()

    def _look_up_waiting(self) -> None:
        """Compare blocks with the index; one that it lacks is harmless if the block is damaged."""
        waiting, self._waiting = sorted(self._waiting), []
        if self.index is None:
            return
        for score, offset, position in waiting:
            place = self.index.locate(score)
            if place == Place(self.arena.id, offset, position):
                self.report.confirmed += 1
            elif place is None and not self.read_data and not self._sound_again(offset):
                self._found(
                    "block", "damaged, and dropped from the index", offset, score, harmless=True
                )
            elif place is None:
                self._found("index", "lacks this block", offset, score)

    def _sound_again(self, offset: int) -> bool:
        try:
            head = self.arena.read_head(offset)
            payload = self.arena.read_payload(offset, head)
            verify(head, payload, arena=self.arena.id, offset=offset)
        except Corrupt:
            return False
        return True

    def _read_commit(self, offset: int) -> None:
        try:
            commit, changes = read_commit(self.arena, offset, _decompressor())
        except Corrupt as error:
            self._found("commit", error.reason, offset)
            return
        self.report.puts.update({record.id: record for record in changes.puts})
        self.report.deletes.update(changes.deletes)
        self.report.drops |= changes.drops
        for arena, length in commit.relies_on:
            known = self.report.relies_on.get(arena, 0)
            self.report.relies_on[arena] = max(known, length)


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
