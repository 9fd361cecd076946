"""The files inside one volume: what is told of them handed out, and what comes back a tree.

Batches are taken in by whoever works for the run (see `entries`), and come back in any order. Rows
are gathered on disk; only what concerns several batches waits here until all are in.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import msgspec
from msgspec.structs import replace

from ventifs.image.entries import TakenIn, key_problem
from ventifs.image.events import Ended, Inside, Surveyed, Volume
from ventifs.image.placement import Placement
from ventifs.image.previous import within
from ventifs.image.service import TakeIn
from ventifs.tree.gathered import TOO_LARGE, Gathered, Key, path_of
from ventifs.tree.live import Trouble
from ventifs.tree.prolly import Put
from ventifs.tree.records import Entry
from ventifs.tree.workers import Done

Ask = Callable[[bytes, Done], None]
_TIME_STEP = 1 << 32  # from a batch to the next: more rows than any has
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TakenIn).decode


class Files:
    """The file tree of one volume on its way. Takes whatever is told, also what cannot be.

    Attributes:
        troubles: what could not be taken in as it should be.
        ended: how the survey of the volume ended, once finished.
        size: sum of the sizes of its regular files, each of their names counted.
    """

    def __init__(
        self,
        ask: Ask,
        volume: Volume,
        placed: Placement,
        gathered: Gathered,
        told: Callable[[bytes, int, int], None],
        *,
        drop_free: bool,
    ) -> None:
        """All that is told goes through `ask`, whose replies must be in before `finish`.

        Args:
            ask: takes a request for `service`, and what gets the reply.
            volume: which.
            placed: gets where contents lie, and what is free if that is to be dropped.
            gathered: gets the entries.
            told: gets the last path of each batch, how many bytes of the disk it covers, and bytes
                of blocks that it brought to the store.
            drop_free: whether it is.
        """
        self.troubles: list[Trouble] = []
        self.ended = Ended()
        self.size = 0
        self._ask = ask
        self._placed = placed
        self._gathered = gathered
        self._told = told
        self._name = volume.name.encode()
        self._ranges = sorted(volume.ranges)
        self._drop_free = drop_free
        self._rooted = False
        # Of batches, with their numbers:
        self._troubles: list[tuple[int, list[tuple[Key, str, bool]]]] = []
        self._others: list[tuple[int, list[tuple[Key, int, str]]]] = []
        self._ends: list[tuple[int, Ended]] = []
        self._first: dict[int, tuple[int, Key]] = {}  # by inode's number: minus its file, a name

    def take(self, events: Iterator[Surveyed]) -> None:
        """Take in all that is told of the volume.

        Raises:
            ImageError: the disk cannot be read.
            VentifsError: the store's own problems.
        """
        self.ended = Ended("the survey ended early")
        numbers = count()
        for event in events:
            if isinstance(event, Inside):
                number = next(numbers)
                request = _encode(TakeIn(event.body, number * _TIME_STEP + 1))
                self._ask(request, partial(self._taken, number))
            elif isinstance(event, Ended):
                self.ended = event
                return

    def _taken(self, number: int, reply: bytes) -> None:
        """A batch comes back."""
        taken = _decode(reply)
        rows = taken.rows
        self.size += taken.size
        self._gathered.put_rows(rows)
        self._placed.add(taken.placed)
        self._rooted = self._rooted or not all(row[0] for row in rows)
        for inode, at in taken.linked:
            key, time = rows[at][:2]
            self._first[inode] = max(self._first.get(inode, (0, b"")), (time, key))
        if taken.others:
            self._others.append((number, taken.others))
        if taken.troubles:
            self._troubles.append((number, taken.troubles))
        if taken.ended is not None:
            self._ends.append((number, taken.ended))
        if taken.free and self._drop_free:
            own = self._ranges  # what is the volume's of it
            self._placed.add_free(
                [each for low, high in taken.free for each in within(own, low, high)]
            )
        last = rows[-1][0] if rows else b""
        self._told(self._path(path_of(last)), taken.read, taken.new_bytes)

    def finish(self, put: Put, room: int) -> Entry | None:
        """The tree, under the volume's name; None, if no root was told.

        Args:
            put: stores nodes.
            room: what the sizes of all files may sum up to.
        """
        if self._ends:
            self.ended = min(self._ends)[1]
        for _, troubles in sorted(self._troubles):
            for key, reason, missing in troubles:
                self._trouble(key, reason, missing=missing)
        if self.size > room:
            self._keep(self._gathered.limit(room))
            self.size = self._gathered.size
        for _, others in sorted(self._others):
            for key, inode, problem in others:
                self._other(key, inode, problem, room)
        self._keep(self._gathered.prune())
        if not self._rooted:
            return None
        return replace(self._gathered.build(put), name=self._name)

    def _other(self, key: Key, inode: int, problem: str, room: int) -> None:
        """A name that was told without an inode: another one of a file, or nothing."""
        first = self._first.get(inode)
        if problem:
            self._trouble(key, problem, missing=first is None)
            if first is None:
                return
        found = None if first is None else self._gathered.find(first[1])
        if first is None or found is None or found[1] != -first[0]:
            self._trouble(key, "its other names could not be archived", missing=True)
        elif wrong := key_problem(key):
            self._trouble(key, wrong, missing=True)
        elif self.size + found[0].size > room:
            self._trouble(key, TOO_LARGE, missing=True)
        else:
            self.size += found[0].size
            name = key.rpartition(b"\0")[2]
            self._gathered.put(key, replace(found[0], name=name), -first[0])

    def _path(self, path: bytes) -> bytes:
        return b"/".join(part for part in (b"files", self._name, path) if part)

    def _trouble(self, key: Key, reason: str, *, missing: bool) -> None:
        self.troubles.append(Trouble(self._path(path_of(key)), reason, missing))

    def _keep(self, troubles: Iterator[Trouble]) -> None:
        for trouble in troubles:
            self.troubles.append(replace(trouble, path=self._path(trouble.path)))
