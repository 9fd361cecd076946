"""Copies versions into another store, which receives only the blocks that it lacks.

A node in the target does not prove that everything below it is there, too: a run may have been
interrupted, or a block lost. So every node of a version is walked in the source, and every block is
looked up in the target. Nodes that several versions of one run share are walked once, so that many
versions cost about as much as their union. Children are sent before their parents, a version's
record last. Blocks and records are committed as the copy proceeds: an interrupted copy, when
repeated, sends only the rest.

A version that cannot be read, or that the target has otherwise, does not keep the others back. The
target has it already if a version of that name and time has the same tree and troubles. If its
comment or tags differ, the source's version is sent as if it were not there, and its record takes
the place of the target's.

Memory: about 100 bytes for each node of the union, a batch of scores, and in a rehearsal about 100
bytes for each block that the target lacks.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from typing import NamedTuple

from ventifs.errors import Corrupt, NotStored, VentifsError
from ventifs.store import Score, Store
from ventifs.store.journal import Record
from ventifs.tree.versions.catalog import (
    Version,
    check_name,
    decode_version,
    version_key,
    version_records,
)
from ventifs.tree.versions.catalog_lock import UNLOCKED_BYTES, catalog_lock
from ventifs.tree.versions.holds import hold_key, records_of_holds
from ventifs.tree.versions.leasing import ForgottenMeanwhile, leased
from ventifs.tree.versions.reachable import Ref, RefKind, reach_version
from ventifs.tree.versions.times import time_text
from ventifs.tree.versions.troubles import troubles_of

_COMMIT_EVERY = 1 << 30  # bytes of new blocks of one version
_BATCH = 4096  # scores looked up at once
# Of versions that are sent, and wait for the commit of their records: a commit takes some syncs.
_WAITING_MAX = 32
_WAITING_BYTES = 64 << 20  # new blocks


@dataclass(slots=True)
class CopiedBlocks:
    """What a copy has done so far.

    Attributes:
        blocks: blocks looked up, nodes included; a data block counts for each reference, a node
            that several versions share once.
        new_blocks, new_bytes: of these, what the target lacked.
    """

    blocks: int = 0
    new_blocks: int = 0
    new_bytes: int = 0

    def add(self, other: "CopiedBlocks") -> None:
        """Add what was done elsewhere."""
        self.blocks += other.blocks
        self.new_blocks += other.new_blocks
        self.new_bytes += other.new_bytes

    def since(self, before: "CopiedBlocks") -> "CopiedBlocks":
        """What was done after `before`."""
        return CopiedBlocks(
            *(now - then for now, then in zip(astuple(self), astuple(before), strict=True))
        )


CopyProgress = Callable[[CopiedBlocks], None]
CopyAllProgress = Callable[[CopiedBlocks, Version], None]  # done in all; the version at work


class CopyResult(NamedTuple):
    """What became of one version.

    Attributes:
        version: the one in the source.
        made: the one in the target; None where there is an error, and in a rehearsal where it is
            not there.
        blocks: what was sent for it.
        there: whether the target had it before.
        noted: whether it was there with another comment or other tags, and has the source's now;
            in a rehearsal, would have.
        error: why it was not copied. `Corrupt` and `NotStored` are of the source.
    """

    version: Version
    made: Version | None
    blocks: CopiedBlocks
    there: bool = False
    noted: bool = False
    error: VentifsError | None = None


class _Match(NamedTuple):
    """What the target has of a version's name and time.

    Attributes:
        records: all of them; more than one if programs without a lock have raced.
        there: the version, if it is the same.
        noted: whether its comment or tags differ.
        error: what is wrong if it is another.
    """

    records: list[Record]
    there: Version | None = None
    noted: bool = False
    error: VentifsError | None = None


def copy(
    source: Store,
    target: Store,
    version: Version,
    *,
    name: str | None = None,
    progress: CopyProgress | None = None,
) -> tuple[Version, CopyResult]:
    """Copy a version of `source` into `target`, which is another store, open for writing.

    Returns:
        The version in the target, and what was done. If it was there already, only missing blocks
        were sent.

    Raises:
        VentifsError: the target has another tree of that name and time; nothing is sent.
        ForgottenMeanwhile: the version is not in the source any more.
        Corrupt, NotStored: where the source is damaged; no version is made.
    """
    report = None if progress is None else lambda done, _: progress(done)
    [done] = copy_all(source, target, [version], name=name, repair=True, progress=report)
    if done.error is not None:
        raise done.error
    assert done.made is not None
    return done.made, done


def copy_all(
    source: Store,
    target: Store,
    wanted: Sequence[Version],
    *,
    name: str | None = None,
    repair: bool = False,
    rehearsal: bool = False,
    progress: CopyAllProgress | None = None,
) -> Iterator[CopyResult]:
    """Copy versions of `source` into `target`, which is another store, open for writing.

    Args:
        source: where they are.
        target: where they go; to be open for reading is enough for a rehearsal.
        wanted: different versions, in the order in which they are copied.
        name: what to call them there; they have one name then. Their own, if None.
        repair: also walk versions that are there already, and send what the target lacks of them.
            Otherwise they cost nothing, if their comments and tags are the same.
        rehearsal: write nothing. What is new is counted from the index and the heads of clumps;
            that data can be read is not seen.
        progress: called now and then.

    Yields:
        The result of each version, once it is durable; not quite in order.

    Raises:
        NoSpace, VentifsError: the target cannot be read or written. Versions whose results were
            yielded are there, and perhaps some more.
    """
    if name is not None:
        check_name(name)
    return _Copier(source, target, name, progress, repair=repair, rehearsal=rehearsal).run(wanted)


class _SourceDamaged(Exception):
    """The source lacks or cannot read something; the target's errors are not among these."""

    def __init__(self, error: Corrupt | NotStored) -> None:
        super().__init__(str(error))
        self.error = error


class _Copier:
    """One run of `copy_all`."""

    def __init__(
        self,
        source: Store,
        target: Store,
        name: str | None,
        progress: CopyAllProgress | None,
        *,
        repair: bool,
        rehearsal: bool,
    ) -> None:
        self._target = target
        self._name = name
        self._repair = repair
        self._rehearsal = rehearsal
        self._there = _Catalog(target)
        self._sender = _Sender(source, target, progress, rehearsal=rehearsal)
        # Sent and not committed: blocks of the version, and whether it was there.
        self._waiting: list[tuple[Version, CopiedBlocks]] = []

    def run(self, wanted: Sequence[Version]) -> Iterator[CopyResult]:
        for version in wanted:
            match = self._match(version)
            if match.error is not None:
                yield CopyResult(version, None, CopiedBlocks(), error=match.error)
                continue
            if match.there is not None and not self._repair and not match.noted:
                yield CopyResult(version, match.there, CopiedBlocks(), there=True)
                continue
            try:
                blocks = self._sender.send(version)
            except _SourceDamaged as damaged:
                yield CopyResult(version, None, CopiedBlocks(), error=damaged.error)
                continue
            except ForgottenMeanwhile as gone:
                yield CopyResult(version, None, CopiedBlocks(), error=gone)
                continue
            if self._rehearsal:
                there = match.there
                yield CopyResult(version, there, blocks, there is not None, match.noted)
                continue
            self._waiting.append((version, blocks))
            new_bytes = sum(each.new_bytes for _, each in self._waiting)
            if len(self._waiting) >= _WAITING_MAX or new_bytes >= _WAITING_BYTES:
                yield from self._commit()
        yield from self._commit()

    def _called(self, version: Version) -> str:
        return self._name or version.name

    def _match(self, version: Version) -> _Match:
        """What the target has of a version's name and time."""
        name = self._called(version)
        records = self._there.find(version_key(name, version.time_ns))
        try:
            found = [decode_version(record) for record in records]
        except Corrupt as error:
            return _Match(
                records, error=VentifsError(self._refused(version, f"a damaged record ({error})"))
            )
        if not all(_same(version, each) for each in found):
            return _Match(records, error=VentifsError(self._refused(version, "another version")))
        noted = any((each.comment, each.tags) != (version.comment, version.tags) for each in found)
        return _Match(records, found[0] if found else None, noted)

    def _refused(self, version: Version, what: str) -> str:
        return (
            f"{self._called(version)}@{time_text(version.time_ns)}: {self._target.path} has {what} "
            "of that name and time; --name copies it under another name"
        )

    def _commit(self) -> list[CopyResult]:
        """Commit the records of the versions that wait; return their results."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return []
        if self._sender.uncommitted_bytes > UNLOCKED_BYTES:
            self._sender.commit()
        results: list[CopyResult] = []
        with catalog_lock(self._target):
            puts: list[tuple[bytes, bytes]] = []
            left: list[Record] = []  # other notes; holds that an older program's `forget` left
            holds = records_of_holds(self._target)
            for version, blocks in waiting:
                match = self._match(version)  # again: others may have committed it
                there = match.there
                results.append(
                    CopyResult(version, there, blocks, there is not None, match.noted, match.error)
                )
                if match.error is None and (there is None or match.noted):
                    assert version.record is not None
                    name, time_ns = self._called(version), version.time_ns
                    puts.append((version_key(name, time_ns), version.record.value))
                    left += match.records
                    if there is None:
                        left += holds.get(hold_key(name, time_ns), [])
            made_now = iter(self._sender.commit(puts, left))
        return [
            result
            if result.error is not None or (result.there and not result.noted)
            else result._replace(made=decode_version(next(made_now)))
            for result in results
        ]


def _same(one: Version, other: Version) -> bool:
    """Whether two versions of one time have the same tree and troubles.

    Their records may list a different number of the troubles: a longer comment leaves less room.
    """
    listed = zip(one.troubles, other.troubles, strict=False)
    return (
        one.root == other.root
        and len(one.troubles) + one.troubles_more == len(other.troubles) + other.troubles_more
        and all(ours == theirs for ours, theirs in listed)
    )


class _Catalog:
    """The records of the target, read again whenever they have changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._generation = b""
        self._records: dict[bytes, list[Record]] = {}

    def find(self, key: bytes) -> list[Record]:
        """The records of a version; two, if programs without a lock have raced."""
        generation = self._store.generation
        if generation != self._generation:
            self._records = {}
            for record in version_records(self._store):
                self._records.setdefault(record.key, []).append(record)
            self._generation = generation
        return self._records.get(key, [])


class _Sender:
    """Sends what versions refer to, or in a rehearsal counts it.

    Always: what is in `_seen` and not in `_batch` was sent, with everything below it. So after an
    error, the nodes above a block that could not be read are not in it any more, and every other
    version that reaches the block meets the error, too.
    """

    def __init__(
        self, source: Store, target: Store, progress: CopyAllProgress | None, *, rehearsal: bool
    ) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._rehearsal = rehearsal
        self._seen: set[Score] = set()
        self._counted: set[Score] = set()  # in a rehearsal, the blocks that would have been sent
        self._batch: list[Ref] = []
        self._done = CopiedBlocks()
        self._committed_bytes = 0

    @property
    def uncommitted_bytes(self) -> int:
        """Bytes of blocks sent since the last commit."""
        return self._done.new_bytes - self._committed_bytes

    def commit(
        self, puts: Sequence[tuple[bytes, bytes]] = (), deletes: Sequence[Record] = ()
    ) -> list[Record]:
        """Commit what was sent, and change records of the target."""
        records = self._target.commit(puts, deletes)
        self._committed_bytes = self._done.new_bytes
        return records

    def send(self, version: Version) -> CopiedBlocks:
        """Send what a version refers to and was not sent before; return what was done.

        Raises:
            _SourceDamaged: where the source is damaged.
            ForgottenMeanwhile: the source has it no more.
        """
        before = CopiedBlocks(*astuple(self._done))
        with leased(self._source, version), closing(self._refs(version)) as refs:
            try:
                for ref in refs:
                    self._batch.append(ref)
                    if len(self._batch) == _BATCH:
                        self._send_batch()
                        if not self._rehearsal and self.uncommitted_bytes >= _COMMIT_EVERY:
                            self.commit()
                        if self._progress is not None:
                            self._progress(self._done, version)
                self._send_batch()
            except _SourceDamaged:
                self._seen.difference_update(ref.score for ref in self._batch)
                self._batch = []
                raise
        return self._done.since(before)

    def _refs(self, version: Version) -> Generator[Ref, None, None]:
        try:
            deque(troubles_of(self._source, version), 0)  # raises for a forged list
            yield from reach_version(self._source, version, self._seen)
        except (Corrupt, NotStored) as error:
            raise _SourceDamaged(error) from error

    def _send_batch(self) -> None:
        there = self._target.has_many([ref.score for ref in self._batch])
        self._done.blocks += len(self._batch)
        missing = [ref for ref, known in zip(self._batch, there, strict=True) if not known]
        if self._rehearsal:
            self._count({ref.score for ref in missing} - self._counted)
        else:
            for ref in missing:
                self._send_block(ref)
        self._batch = []

    def _count(self, new: set[Score]) -> None:
        try:
            sizes = self._source.sizes(new)
        except (Corrupt, NotStored) as error:
            raise _SourceDamaged(error) from error
        self._counted |= new
        self._done.new_blocks += len(new)
        self._done.new_bytes += sizes.raw_bytes

    def _send_block(self, ref: Ref) -> None:
        try:
            block = self._source.get(ref.score)
        except (Corrupt, NotStored) as error:
            raise _SourceDamaged(error) from error
        score, new = self._target.put(block, node=ref.kind is not RefKind.DATA)
        assert score == ref.score
        self._done.new_blocks += new
        self._done.new_bytes += len(block) if new else 0
