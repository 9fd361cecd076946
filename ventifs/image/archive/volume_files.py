"""The files inside one volume: hands out batches of its parser's events and stores the results.

Workers take in batches (see `ingest`); the results come back in any order. The run itself needs the
places of contents. What batches say of names waits in a `Spool`, until a worker builds the tree
from it (see `file_trees`).
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import msgspec
from msgspec.structs import replace

from ventifs.image.archive.disk_worker import TakeIn
from ventifs.image.archive.extent_map import Placement
from ventifs.image.archive.file_trees import Built
from ventifs.image.archive.ingest import TakenIn
from ventifs.image.archive.previous_disk import within
from ventifs.image.archive.spool import Spool
from ventifs.image.survey_events import Ended, Surveyed, Volume, VolumeBatch
from ventifs.tree.archive.file_reader import Trouble
from ventifs.tree.objects.records import Entry, own_entry
from ventifs.tree.objects.tree_builder import Key, path_of
from ventifs.tree.process_pool import Done

Ask = Callable[[bytes, Done], None]
_TIME_STEP = 1 << 32  # from a batch to the next: more than any batch has rows
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TakenIn).decode
_decode_built = msgspec.msgpack.Decoder(Built).decode


class VolumeFiles:
    """Collects the files of one volume. Accepts any events, even invalid ones.

    Attributes:
        volume: the volume.
        ended: how the survey of the volume ended.
        names: where in the spool its names are: begin and end.
        tree: the root's entry, under the volume's name, once it is built; None if there is no root.
        troubles: what could not be taken in as it should be, once the tree is built.
    """

    def __init__(
        self,
        volume: Volume,
        spool: Spool,
        placed: Placement,
        report: Callable[[bytes, int, int, int], None],
        *,
        drop_free: bool,
    ) -> None:
        """Start without files.

        Args:
            volume: the volume.
            spool: gets the names of each batch; volumes use it one after the other.
            placed: gets where contents lie, and what is free if that is to be dropped.
            report: gets the last path of each batch, how many bytes of the disk it covers, bytes of
                blocks that it brought to the store, and how many entries.
            drop_free: whether what is free is to be dropped.
        """
        self.volume = volume
        self.ended = Ended("the survey ended early")
        self.names = spool.size, spool.size
        self.tree: Entry | None = None
        self.troubles: list[Trouble] = []
        self._spool = spool
        self._placed = placed
        self._report = report
        self._name = volume.name.encode()
        self._ranges = sorted(volume.ranges)
        self._drop_free = drop_free
        self._first_end: int | None = None  # the first batch with an `Ended` of its own parser

    def take(self, events: Iterator[Surveyed], ask: Ask) -> None:
        """Hand out all events of the volume.

        Args:
            events: of the survey.
            ask: takes a request for `worker`, and the function that gets the reply.
        """
        numbers = count()
        for event in events:
            if isinstance(event, VolumeBatch):
                number = next(numbers)
                request = _encode(TakeIn(event.body, number * _TIME_STEP + 1))
                ask(request, partial(self._taken, number))
            elif isinstance(event, Ended):
                if self._first_end is None:
                    self.ended = event
                return

    def _taken(self, number: int, reply: bytes) -> None:
        """Store the result of a batch."""
        taken = _decode(reply)
        self._spool.add(taken.names)
        self.names = self.names[0], self._spool.size
        self._placed.add(taken.placed)
        if taken.ended is not None and (self._first_end is None or number < self._first_end):
            self.ended, self._first_end = taken.ended, number
        if taken.free and self._drop_free:
            own = self._ranges  # free ranges outside the volume do not count
            self._placed.add_free(
                [each for low, high in taken.free for each in within(own, low, high)]
            )
        self._report(self._path(taken.last), taken.read, taken.new_bytes, taken.entries)

    def built(self, reply: bytes) -> None:
        """Store the result of building the tree."""
        built = _decode_built(reply)
        self.troubles = [
            Trouble(self._path(key), reason, missing) for key, reason, missing in built.troubles
        ]
        if built.root:
            self.tree = replace(own_entry(built.root), name=self._name)
        self._report(self._path(b""), 0, built.new_bytes, 0)

    def _path(self, key: Key) -> bytes:
        return b"/".join(part for part in (b"files", self._name, path_of(key)) if part)
