"""Catalog and commit payloads: read back as written; of other bytes, nothing but `Corrupt`."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from tests.support.damage import damaged
from ventifs.errors import Corrupt
from ventifs.store.journal import (
    RECORD_KEY_MAX,
    RECORD_VALUE_MAX,
    Changes,
    Commit,
    CommitCounters,
    Record,
    decode_changes,
    decode_commit,
    encode_changes,
    encode_commit,
)

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
IDS = st.binary(min_size=16, max_size=16)
RECORDS = st.builds(
    Record, key=st.binary(min_size=1, max_size=400), id=IDS, value=st.binary(max_size=600)
)
COUNTERS = st.builds(CommitCounters, U64, U64, U64, U64, U64)
CHANGES = st.builds(
    Changes,
    puts=st.lists(RECORDS, max_size=8),
    deletes=st.lists(IDS, max_size=8),
    drops=st.dictionaries(IDS, COUNTERS, max_size=8),
)
COMMITS = st.builds(
    Commit,
    time_ns=U64,
    catalog_length=U32,
    records=U32,
    counters=COUNTERS,
    relies_on=st.lists(st.tuples(IDS, U64), max_size=5),
)

ID = bytes(range(16))
SOME_CHANGES = Changes([Record(b"key", ID, b"value"), Record(b"k2", ID[::-1], b"")], [b"d" * 16])
SOME_DROP = Changes([], [], {b"a" * 16: CommitCounters(1, 2, 3, 4, 5)})
SOME_COMMIT = Commit(5, 100, 3, CommitCounters(1, 2, 3, 4, 5), [(ID, 1000), (ID[::-1], 2000)])
SOME_PAYLOAD = b"".join(encode_changes(SOME_CHANGES, 4096))
SOME_DROP_PAYLOAD = b"".join(encode_changes(SOME_DROP, 4096))


def entry(operation: int, key: bytes, value: bytes) -> bytes:
    return struct.pack("<BHI", operation, len(key), len(value)) + ID + key + value


@given(CHANGES, st.integers(1, 3000))
def test_changes_are_read_back_as_they_were_written(changes: Changes, size_max: int) -> None:
    payloads = list(encode_changes(changes, size_max))
    assert decode_changes(payloads) == changes
    assert all(payloads)


@given(CHANGES, st.integers(1, 3000))
def test_payloads_are_as_large_as_the_limit_allows(changes: Changes, size_max: int) -> None:
    payloads = list(encode_changes(changes, size_max))
    for payload in payloads:
        assert len(payload) <= size_max or len(decode_changes([payload])) == 1
    for left, right in pairwise(payloads):
        first = decode_changes([right])
        smallest = 23 if first.deletes else 63
        if first.puts:
            smallest = len(entry(1, first.puts[0].key, first.puts[0].value))
        assert len(left) + smallest > size_max


def test_a_payload_is_filled_to_its_limit() -> None:
    records = [Record(b"key", ID, b"v" * size) for size in (10, 20, 30)]
    limit = len(entry(1, b"key", b"v" * 10) + entry(1, b"key", b"v" * 20))
    assert list(map(len, encode_changes(Changes(records), limit))) == [limit, 56]
    assert len(list(encode_changes(Changes(records), limit - 1))) == 3


def test_no_changes_have_no_payload() -> None:
    assert list(encode_changes(Changes(), 4096)) == []
    assert decode_changes([]) == Changes([], [])
    assert len(SOME_CHANGES) == 3


@given(damaged(SOME_PAYLOAD) | damaged(SOME_DROP_PAYLOAD) | st.binary(max_size=100))
def test_changes_that_are_accepted_encode_to_the_same_bytes(payload: bytes) -> None:
    try:
        changes = decode_changes([payload])
    except Corrupt:
        return
    parts = [
        entry(1, record.key, record.value).replace(ID, record.id, 1) for record in changes.puts
    ]
    parts += [struct.pack("<BHI", 2, 0, 0) + record_id for record_id in changes.deletes]
    parts += [
        struct.pack("<BHI", 3, 0, 40) + arena + struct.pack("<5Q", *astuple(counters))
        for arena, counters in changes.drops.items()
    ]
    assert sorted(b"".join(parts)) == sorted(payload)
    assert len(b"".join(parts)) == len(payload)


@pytest.mark.parametrize("size", range(1, len(SOME_PAYLOAD)))
def test_a_cut_catalog_is_corrupt_but_between_its_records(size: int) -> None:
    ends = {23 + 8, 23 + 8 + 23 + 2}
    if size in ends:
        assert len(decode_changes([SOME_PAYLOAD[:size]])) < 3
    else:
        with pytest.raises(Corrupt):
            decode_changes([SOME_PAYLOAD[:size]])


@pytest.mark.parametrize(
    "payload",
    [
        entry(0, b"key", b"value"),
        entry(4, b"key", b"value"),
        entry(3, b"", b"v" * 39),
        entry(3, b"k", b"v" * 40),
        entry(3, b"", b"v" * 40) * 2,
        entry(1, b"", b"value"),
        entry(1, b"k" * (RECORD_KEY_MAX + 1), b"value"),
        entry(1, b"key", bytes(RECORD_VALUE_MAX + 1)),
        entry(2, b"k", b""),
        entry(2, b"", b"v"),
        struct.pack("<BHI", 1, 3, 2**32 - 1) + ID + b"key",
    ],
    ids=[
        "operation 0",
        "operation 4",
        "short drop",
        "drop with key",
        "two drops of one arena",
        "no key",
        "long key",
        "long value",
        "delete with key",
        "delete with value",
        "length beyond the end",
    ],
)
def test_a_record_that_cannot_be_is_corrupt(payload: bytes) -> None:
    with pytest.raises(Corrupt, match="contradicts itself"):
        decode_changes([SOME_PAYLOAD, payload])


def test_a_record_may_be_as_large_as_the_limits() -> None:
    record = Record(b"k" * RECORD_KEY_MAX, ID, b"v" * RECORD_VALUE_MAX)
    payloads = list(encode_changes(Changes([record, record]), 128 << 10))
    assert len(payloads) == 2
    assert decode_changes(payloads).puts == [record, record]


def test_a_record_does_not_span_payloads() -> None:
    with pytest.raises(Corrupt):
        decode_changes([SOME_PAYLOAD[:30], SOME_PAYLOAD[30:]])


@given(COMMITS)
def test_a_commit_is_read_back_as_it_was_written(commit: Commit) -> None:
    assert decode_commit(encode_commit(commit)) == commit
    assert decode_commit(memoryview(encode_commit(commit))) == commit


@given(damaged(encode_commit(SOME_COMMIT)) | st.binary(max_size=200))
def test_a_commit_that_is_accepted_encodes_to_the_same_bytes(payload: bytes) -> None:
    try:
        commit = decode_commit(payload)
    except Corrupt:
        return
    assert encode_commit(commit) == payload


def test_a_commit_of_another_length_is_corrupt() -> None:
    payload = encode_commit(SOME_COMMIT)
    for wrong in (*(payload[:size] for size in range(len(payload))), payload + b"\0"):
        with pytest.raises(Corrupt):
            decode_commit(wrong)


def test_digests_tell_records_apart() -> None:
    records = [
        Record(b"ab", ID, b"c"),
        Record(b"a", ID, b"bc"),
        Record(b"ab", ID, b"d"),
        Record(b"ab", ID[::-1], b"c"),
    ]
    assert len({record.digest() for record in records}) == 4
    assert {len(record.digest()) for record in records} == {16}
    assert Record(b"ab", ID, b"c").digest() == records[0].digest()


def test_records_are_ordered_by_key_then_id() -> None:
    records = [Record(b"a", ID[::-1], b"1"), Record(b"b", ID, b"0"), Record(b"a", ID, b"2")]
    assert sorted(records) == [records[2], records[0], records[1]]


def test_counters_are_added_field_by_field() -> None:
    counters = CommitCounters(1, 2, 3, 4, 5)
    counters.add(CommitCounters(10, 20, 30, 40, 50))
    assert counters == CommitCounters(11, 22, 33, 44, 55)
