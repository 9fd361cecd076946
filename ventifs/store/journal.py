"""What catalog and commit clumps carry: the store's records, and the commits that make them valid.

A catalog clump holds records put and deleted, and arenas dropped. A commit clump makes the catalog
clumps right before it valid; it is written only when everything before it is durable. FORMAT.md,
section Journal, gives the bytes. Nothing here reads or writes files.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from blake3 import blake3
from msgspec.structs import astuple

from ventifs.buffer import Buffer
from ventifs.errors import Corrupt

RECORD_ID_SIZE = 16
RECORD_KEY_MAX = 400  # LMDB keys hold 511 bytes: this, the id, and room to spare
RECORD_VALUE_MAX = 256 << 10
DIGEST_SIZE = 16

_RECORD = struct.Struct("<BHI16s")  # operation, key length, value length, id
_PUT, _DELETE, _DROP = 1, 2, 3


class Record(msgspec.Struct, frozen=True, order=True):
    """A committed item that the store keeps for the layers above, without interpreting it.

    Attributes:
        key: 1 to 400 bytes, not necessarily unique; records are listed in order of key.
        id: 16 random bytes; a deletion names the record by them.
        value: up to 256 KiB.
    """

    key: bytes
    id: bytes
    value: bytes

    @classmethod
    def new(cls, key: bytes, value: bytes) -> "Record":
        """A record with an id that no other has."""
        return cls(key, os.urandom(RECORD_ID_SIZE), value)

    def digest(self) -> bytes:
        """16 bytes that stand for the whole record in the index's checks."""
        return blake3(
            _RECORD.pack(_PUT, len(self.key), len(self.value), self.id) + self.key + self.value
        ).digest(DIGEST_SIZE)


def record_problem(key_length: int, value_length: int) -> str:
    """What is wrong with a record of such lengths; empty if nothing is."""
    if 0 < key_length <= RECORD_KEY_MAX and value_length <= RECORD_VALUE_MAX:
        return ""
    return (
        f"a record of {key_length} and {value_length} bytes: its key may have 1 to "
        f"{RECORD_KEY_MAX}, its value up to {RECORD_VALUE_MAX}"
    )


class CommitCounters(msgspec.Struct):
    """What callers handed to `put`, counted before anything was saved.

    Attributes:
        put_blocks: blocks handed in, known ones and zeros included.
        put_bytes: their bytes.
        zero_bytes: of these, trailing zeros, which are not stored.
        known_blocks: blocks that the store had already.
        known_bytes: their bytes without trailing zeros.
    """

    put_blocks: int = 0
    put_bytes: int = 0
    zero_bytes: int = 0
    known_blocks: int = 0
    known_bytes: int = 0

    def add(self, other: "CommitCounters") -> None:
        """Add the figures of `other` to these."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


COUNTERS = struct.Struct("<5Q")


class Changes(msgspec.Struct, frozen=True):
    """Records put, ids deleted and arenas dropped, in whatever order they are read.

    Attributes:
        puts: records to add; one that is there already, or was ever deleted, is not added again.
        deletes: ids of records that are deleted, now or when they are put later.
        drops: the arenas from which nothing is taken any more, each with the sum of the counters of
            the commits in it.
    """

    puts: Sequence[Record] = ()
    deletes: Sequence[bytes] = ()
    drops: Mapping[bytes, CommitCounters] = msgspec.field(default_factory=dict)

    def __len__(self) -> int:
        """How many records are put or deleted and arenas dropped."""
        return len(self.puts) + len(self.deletes) + len(self.drops)


_COMMIT = struct.Struct("<QIIH")  # time, catalog length, records, arenas; counters follow
_RELIES = struct.Struct("<16sQ")  # arena id, durable length


class Commit(msgspec.Struct, frozen=True):
    """The content of a commit clump.

    Attributes:
        time_ns: when, in UTC nanoseconds since 1970.
        catalog_length: bytes of this commit's catalog clumps, which are right before this clump.
        records: how many records these hold.
        counters: what was put since the writer's previous commit.
        relies_on: (arena id, length) of each arena that this commit needs; up to this length the
            arena is durable.
    """

    time_ns: int
    catalog_length: int
    records: int
    counters: CommitCounters
    relies_on: Sequence[tuple[bytes, int]]


def encode_changes(changes: Changes, size_max: int) -> Iterator[bytes]:
    """The payloads of the catalog clumps for `changes`: up to `size_max` bytes, or one record.

    Raises:
        ValueError: for a record that `decode_changes` would refuse.
    """
    batch: list[bytes] = []
    length = 0
    for entry in _encoded(changes):
        if batch and length + len(entry) > size_max:
            yield b"".join(batch)
            batch, length = [], 0
        batch.append(entry)
        length += len(entry)
    if batch:
        yield b"".join(batch)


def _encoded(changes: Changes) -> Iterator[bytes]:
    for record in changes.puts:
        if problem := record_problem(len(record.key), len(record.value)):
            raise ValueError(problem)
        head = _RECORD.pack(_PUT, len(record.key), len(record.value), record.id)
        yield head + record.key + record.value
    for record_id in changes.deletes:
        yield _RECORD.pack(_DELETE, 0, 0, record_id)
    for arena, counters in changes.drops.items():
        yield _RECORD.pack(_DROP, 0, COUNTERS.size, arena) + COUNTERS.pack(*astuple(counters))


def decode_changes(payloads: Iterable[Buffer]) -> Changes:
    """The records in catalog clumps' payloads.

    Raises:
        Corrupt: for bytes that `encode_changes` would not have written.
    """
    puts: list[Record] = []
    deletes: list[bytes] = []
    drops: dict[bytes, CommitCounters] = {}
    for payload in payloads:
        data, at = bytes(payload), 0
        while at < len(data):
            if at + _RECORD.size > len(data):
                raise Corrupt("catalog record is cut off")
            operation, key_length, value_length, record_id = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            key, at = data[at : at + key_length], at + key_length
            value, at = data[at : at + value_length], at + value_length
            whole = at <= len(data)
            if operation == _PUT and whole and not record_problem(key_length, value_length):
                puts.append(Record(key, record_id, value))
            elif operation == _DELETE and key_length == value_length == 0:
                deletes.append(record_id)
            elif (
                operation == _DROP
                and whole
                and (key_length, value_length) == (0, COUNTERS.size)
                and record_id not in drops
            ):
                drops[record_id] = CommitCounters(*COUNTERS.unpack(value))
            else:
                raise Corrupt("catalog record contradicts itself")
    return Changes(puts, deletes, drops)


def encode_commit(commit: Commit) -> bytes:
    """The payload of a commit clump."""
    return b"".join(
        [
            _COMMIT.pack(
                commit.time_ns, commit.catalog_length, commit.records, len(commit.relies_on)
            ),
            COUNTERS.pack(*astuple(commit.counters)),
            *(_RELIES.pack(arena, length) for arena, length in commit.relies_on),
        ]
    )


def decode_commit(payload: Buffer) -> Commit:
    """The content of a commit clump's payload.

    Raises:
        Corrupt: for bytes that `encode_commit` would not have written.
    """
    fixed = _COMMIT.size + COUNTERS.size
    if len(payload) < fixed:
        raise Corrupt("commit is cut off")
    time_ns, catalog_length, records, arenas = _COMMIT.unpack_from(payload)
    if len(payload) != fixed + arenas * _RELIES.size:
        raise Corrupt("commit is not of the length it says")
    counters = CommitCounters(*COUNTERS.unpack_from(payload, _COMMIT.size))
    relies_on = list(_RELIES.iter_unpack(payload[fixed:]))
    return Commit(time_ns, catalog_length, records, counters, relies_on)
