"""Copies a version into another store, which receives only the blocks that it lacks.

A node in the target does not prove that everything below it is there, too: a run may have been
interrupted, or a block lost. So every node of the version is walked in the source, and every block
is looked up in the target. Children are sent before their parents, the version's record last.
Blocks are committed as the copy proceeds: an interrupted copy, when repeated, sends only the rest.

Memory: about 100 bytes for each node of the version, and a batch of scores.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.versions.catalog import Version, check_name, decode_version, version_key, versions
from ventifs.tree.versions.leasing import leased
from ventifs.tree.versions.reachable import Ref, RefKind, reach_version
from ventifs.tree.versions.troubles import troubles_of

_COMMIT_EVERY = 1 << 30  # bytes of new blocks
_BATCH = 4096  # scores looked up at once


@dataclass(slots=True)
class CopiedBlocks:
    """What a copy has done so far.

    Attributes:
        blocks: blocks of the version, nodes included; a data block counts for each reference.
        new_blocks, new_bytes: of these, what the target lacked.
    """

    blocks: int = 0
    new_blocks: int = 0
    new_bytes: int = 0


CopyProgress = Callable[[CopiedBlocks], None]


def copy(
    source: Store,
    target: Store,
    version: Version,
    *,
    name: str | None = None,
    progress: CopyProgress | None = None,
) -> tuple[Version, CopiedBlocks, bool]:
    """Copy a version of `source` into `target`, which is another store, open for writing.

    Returns:
        The version in the target, what was done, and whether the version was there already (then
        only missing blocks were sent).

    Raises:
        VentifsError: the target has another version of that name and time; nothing is sent.
        ForgottenMeanwhile: the version is not in the source any more.
        Corrupt, NotStored: where the source is damaged; no version is made.
    """
    assert version.record is not None
    with leased(source, version):
        return _copy(source, target, version, version.record.value, name, progress)


def _copy(
    source: Store,
    target: Store,
    version: Version,
    value: bytes,
    name: str | None,
    progress: CopyProgress | None,
) -> tuple[Version, CopiedBlocks, bool]:
    name = check_name(version.name if name is None else name)
    there = [found for found in versions(target, name) if found.time_ns == version.time_ns]
    for found in there:
        if found.record is None or found.record.value != value:
            raise VentifsError(
                f"{found}: {target.path} has another version of that name and time; "
                "--name copies it under another name"
            )
    deque(troubles_of(source, version), 0)  # raises for a forged list, which is not copied
    copied = _send(source, target, version, progress)
    if there:
        target.commit()
        return there[0], copied, True
    [record] = target.commit([(version_key(name, version.time_ns), value)])
    return decode_version(record), copied, False


def _send(
    source: Store, target: Store, version: Version, progress: CopyProgress | None
) -> CopiedBlocks:
    copied = CopiedBlocks()
    batch: list[Ref] = []
    committed = 0

    for ref in reach_version(source, version, set()):
        batch.append(ref)
        if len(batch) == _BATCH:
            _send_batch(source, target, batch, copied)
            batch = []
            if copied.new_bytes - committed >= _COMMIT_EVERY:
                committed = copied.new_bytes
                target.commit()
            if progress is not None:
                progress(copied)
    _send_batch(source, target, batch, copied)
    return copied


def _send_batch(source: Store, target: Store, batch: list[Ref], copied: CopiedBlocks) -> None:
    there = target.has_many([ref.score for ref in batch])
    for ref, known in zip(batch, there, strict=True):
        if not known:
            block = source.get(ref.score)
            score, new = target.put(block, node=ref.kind is not RefKind.DATA)
            assert score == ref.score
            copied.new_blocks += new
            copied.new_bytes += len(block) if new else 0
    copied.blocks += len(batch)
