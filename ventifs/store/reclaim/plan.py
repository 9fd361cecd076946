"""Chooses the arenas to reclaim: first those in which nothing lives, then those that cost least.

An arena costs its live bytes, which are copied, and yields its dead ones.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from ventifs.store.reclaim.join import ArenaUse


class Limits(msgspec.Struct, frozen=True):
    """How much a reclaim may leave, and how much it may copy.

    Attributes:
        max_unused: unused space that may be left: a share (float) of the bytes that are left, or
            bytes (int). Arenas that nothing needs are freed in any case.
        max_repack: bytes of live blocks that may be copied; None for any number.
    """

    max_unused: float | int = 0.05
    max_repack: int | None = None

    def allowed(self, left: int) -> float:
        """Unused bytes that may be among those that are left."""
        return self.max_unused * left if isinstance(self.max_unused, float) else self.max_unused


class Choice(msgspec.Struct, frozen=True):
    """The arenas that are to go.

    Attributes:
        dead: those in which nothing lives.
        repacked: those whose live blocks are copied, in the order of what they yield.
        unused_bytes: bytes of dead blocks in those that stay.
        left_bytes: bytes of all arenas afterwards, copies included.
    """

    dead: list[ArenaUse]
    repacked: list[ArenaUse]
    unused_bytes: int
    left_bytes: int


def choose(uses: Sequence[ArenaUse], limits: Limits) -> Choice:
    """Choose arenas, until no more unused space is left than the limits allow."""
    fit = [use for use in uses if not use.problem and use.dead_bytes > 0]
    dead = [use for use in fit if not use.live_blocks]
    partly = [use for use in fit if use.live_blocks]
    partly.sort(key=lambda use: (use.live_bytes / use.dead_bytes, use.arena))
    left = sum(use.file_bytes for use in uses) - sum(use.file_bytes for use in dead)
    unused = sum(use.dead_bytes for use in uses) - sum(use.dead_bytes for use in dead)
    copied = 0
    repacked = []
    for use in partly:
        if unused <= limits.allowed(left):
            break
        if limits.max_repack is not None and copied + use.live_bytes > limits.max_repack:
            continue
        repacked.append(use)
        copied += use.live_bytes
        unused -= use.dead_bytes
        left -= use.file_bytes - use.live_bytes
    return Choice(dead, repacked, unused, left)


def batches(choice: Choice, room: Callable[[], int]) -> Iterator[list[ArenaUse]]:
    """The chosen arenas in batches; the next one is asked for when the one before has gone.

    There is room to copy what lives in each batch; in one, if possible. Arenas for which there is
    not enough at the end are left out.

    Args:
        choice: the arenas.
        room: returns the bytes that copies may take at the moment.
    """
    batch, waiting = list(choice.dead), list(choice.repacked)
    if batch and sum(use.live_bytes for use in waiting) > room():
        yield batch
        batch = []
    while batch or waiting:
        space, rest = room(), []
        for use in waiting:
            if use.live_bytes <= space:
                batch.append(use)
                space -= use.live_bytes
            else:
                rest.append(use)
        if not batch:
            return
        yield batch
        batch, waiting = [], rest


def fitting(choice: Choice, room: int) -> Choice:
    """What of a choice can be done if copies may take `room` bytes at first."""
    done: list[ArenaUse] = []

    def left() -> int:
        return room + yielded(done)

    for batch in batches(choice, left):
        done.extend(batch)
    rest = [use for use in choice.repacked if use not in done]
    return Choice(
        choice.dead,
        [use for use in choice.repacked if use in done],
        choice.unused_bytes + sum(use.dead_bytes for use in rest),
        choice.left_bytes + yielded(rest),
    )


def yielded(batch: Iterable[ArenaUse]) -> int:
    """About how many bytes come back when arenas go and what lives in them is copied."""
    return sum(use.file_bytes - use.live_bytes for use in batch)
