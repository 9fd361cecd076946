"""Reads files in batches, in this process or in a worker: the requests and the replies.

A request names leaves (entries that are not directories) of a few directories, given as
descriptors; the reply has an `Outcome` for each leaf.
"""

import os
import time
from collections.abc import Callable, Sequence

import msgspec
from msgspec.structs import replace

from ventifs.store import Store
from ventifs.tree.archive.file_reader import Changed, FileReader, Opener
from ventifs.tree.archive.statcache import SETTLED_NS
from ventifs.tree.archive.worker import REQUESTS
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import Content, Unfit, clamped_ns, encode_entry, time_problem
from ventifs.tree.process_pool import DESCRIPTORS_MAX, REQUEST_MAX, Pool

_BATCH_BYTES = 2 << 20  # of files
_BATCH_LEAVES = 200
_FILE_COST = 8 << 10  # the cost of opening one, in bytes read
assert _BATCH_LEAVES * 310 + DESCRIPTORS_MAX * 8 <= REQUEST_MAX  # names are up to 255 bytes

# A name, whether it is a regular file, and its content at the previous run.
Wanted = tuple[bytes, bool, Content | None]


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The result of reading one leaf.

    Attributes:
        entry: its canonical entry; empty if it could not be read.
        inode, size, mtime_ns, ctime_ns: its status when it was read.
        regular_size: bytes of a regular file, else 0.
        settled: whether it may be taken from the cache next time.
        problem: why it could not be read, or what is wrong with its entry; else empty.
    """

    entry: bytes
    inode: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    regular_size: int = 0
    settled: bool = False
    problem: str = ""


@REQUESTS.register
class ReadLeaves(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A request to read leaves of each directory, in the order of the descriptors."""

    wanted: list[list[Wanted]]


class _Reply(msgspec.Struct, frozen=True, array_like=True):
    outcomes: list[Outcome]
    new_bytes: int


LeavesDone = Callable[[int, list[Outcome]], None]  # the index of the first leaf, and the outcomes

_encode = msgspec.msgpack.Encoder().encode
_decode_reply = msgspec.msgpack.Decoder(_Reply).decode


class BatchReader:
    """Reads the leaves that requests name, and stores their contents in one store."""

    def __init__(self, store: Store, clock: Callable[[], int] = time.time_ns) -> None:
        """`store` is open for writing, or as a worker; `clock` returns ns since 1970."""
        self._clock = clock
        self._writer = ContentWriter(store)
        self._reader = FileReader(self._writer, Opener())

    def read(self, request: ReadLeaves, descriptors: Sequence[int]) -> bytes:
        """The encoded reply to a request.

        Raises:
            VentifsError: the store's own problems.
        """
        before = self._writer.new_bytes
        outcomes = [
            self._read(name, directory, known, regular=regular)
            for directory, wanted in zip(descriptors, request.wanted, strict=True)
            for name, regular, known in wanted
        ]
        new_bytes = self._writer.new_bytes - before
        try:
            return _encode(_Reply(outcomes, new_bytes))
        except OverflowError:  # a ctime that MessagePack cannot hold
            held = [replace(each, ctime_ns=clamped_ns(each.ctime_ns)) for each in outcomes]
            return _encode(_Reply(held, new_bytes))

    def _read(
        self, name: bytes, directory: int, known: Content | None, *, regular: bool
    ) -> Outcome:
        # Hot: for every leaf that is read; see docs/performance.md.
        started_ns = self._clock()
        try:
            entry, status, problem = (
                self._reader.regular(name, directory, known)
                if regular
                else self._reader.other(name, directory)
            )
            record = encode_entry(entry)
        except (OSError, Changed, Unfit) as error:
            return Outcome(b"", problem=reason_of(error))
        if entry.mtime_ns != status.st_mtime_ns:
            problem = problem or time_problem(status.st_mtime_ns)
        # A leaf with a problem is not settled, so that every run reports it.
        settled = not problem and status.st_ctime_ns < started_ns - SETTLED_NS
        return Outcome(
            record,
            status.st_ino,
            status.st_size,
            entry.mtime_ns,
            status.st_ctime_ns,
            entry.size,
            settled,
            problem,
        )


def reason_of(error: Exception) -> str:
    """Why something could not be read, as text for users."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number).lower() if number else str(error)


class Batches:
    """Gathers leaves to be read, and hands them to a pool about 2 MB at a time.

    Attributes:
        new_bytes: bytes of blocks that the store did not have before the leaves were read.
    """

    def __init__(self, pool: Pool, delivered: Callable[[], None]) -> None:
        """Requests go to `pool`; `delivered` is called after each reply."""
        self.new_bytes = 0
        self._pool = pool
        self._delivered = delivered
        self._descriptors: list[int] = []
        self._wanted: list[list[Wanted]] = []
        self._done: list[tuple[LeavesDone, int]] = []
        self._leaves = self._weight = 0

    def add(self, directory: int, wanted: list[Wanted], sizes: list[int], done: LeavesDone) -> None:
        """Have leaves of one directory read; the last ones wait until `flush` is called.

        Args:
            directory: its descriptor; the caller may close it when this returns.
            wanted: the leaves.
            sizes: how many bytes each leaf is expected to have; as many numbers as leaves.
            done: called with the index of a leaf in `wanted`, and the outcomes from this leaf on;
                now or later, once for each part of `wanted`, in any order.
        """
        start = 0
        while start < len(wanted):
            end = self._fitting(sizes, start)
            self._descriptors.append(os.dup(directory))
            self._wanted.append(wanted[start:end])
            self._done.append((done, start))
            self._leaves += end - start
            if (
                self._weight >= _BATCH_BYTES
                or self._leaves >= _BATCH_LEAVES
                or len(self._descriptors) >= DESCRIPTORS_MAX
            ):
                self.flush()
            start = end

    def _fitting(self, sizes: list[int], start: int) -> int:
        """Count leaves into the batch until it is full; return the index after the last of them.

        At least one leaf fits. `start` is the index of the first.
        """
        end, most = start, min(len(sizes), start + _BATCH_LEAVES - self._leaves)
        while end < most and self._weight < _BATCH_BYTES:
            self._weight += sizes[end] + _FILE_COST
            end += 1
        return end

    def flush(self) -> None:
        """Submit the gathered leaves."""
        if not self._done:
            return
        descriptors, lengths = self._descriptors, [len(wanted) for wanted in self._wanted]
        waiting, request = self._done, _encode(ReadLeaves(self._wanted))
        self._descriptors, self._wanted, self._done = [], [], []
        self._leaves = self._weight = 0

        def deliver(reply: bytes) -> None:
            decoded, start = _decode_reply(reply), 0
            self.new_bytes += decoded.new_bytes
            for (done, first), length in zip(waiting, lengths, strict=True):
                done(first, decoded.outcomes[start : start + length])
                start += length
            self._delivered()

        try:
            self._pool.submit(request, descriptors, deliver)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def drop(self) -> None:
        """Drop the gathered leaves, after an error."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
