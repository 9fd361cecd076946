"""The audit of one arena: its structure, and whether the index leads to its blocks.

A sealed arena is walked by its directory. An open one, and one without a sound directory, is
scanned clump by clump. With `read_data` every byte is read and every block hashed.
"""

import os
from collections.abc import Iterator
from threading import local

import zstandard
from blake3 import blake3

from ventifs.errors import Corrupt, VentifsError
from ventifs.store.arena import HEADER_SIZE, Arena, Damage
from ventifs.store.arena_journal import read_commit
from ventifs.store.arena_state import ArenaState, Place
from ventifs.store.arenas import Arenas
from ventifs.store.clump import ClumpKind, Head, decompress, parse_head, verify
from ventifs.store.findings import Finding, Report
from ventifs.store.index import Index
from ventifs.store.score import Score

LACKS_BLOCK = "lacks this block"  # the reason of a finding about the index
_LOOKUP_MAX = 4096

_thread = local()


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_thread, "decompressor"):
        _thread.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _thread.decompressor
    return decompressor


def audit_arena(
    arenas: Arenas,
    states: dict[bytes, ArenaState],
    index: Index | None,
    read_data: bool,
    arena_id: bytes,
) -> Report:
    """Verify one arena, and with an index that it leads to the arena's blocks.

    Args:
        arenas: the store's.
        states: how far the index knows each arena, as of one moment.
        index: None to leave it out.
        read_data: verify every byte, not just structure.
        arena_id: the arena's.
    """
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
                self._found("index", LACKS_BLOCK, offset, score)

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
