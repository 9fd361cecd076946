"""Every message to bytes and back: golden frames, round trips, and bytes that are none."""

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.support.vectors import load_vectors
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.codec import MessageCodec
from ventifs.ninep.protocol.messages import MESSAGES, Dialect, Dirent, Message, Stat, WireRecord
from ventifs.ninep.protocol.wire import Field, Qid, WireError, fields_of, names_of

GOLDEN = load_vectors("ninep/frames.json")["frames"]
BY_VERSION = {dialect.version.decode(): dialect for dialect in Dialect}
BY_NAME = {record.__name__: record for record in MESSAGES.values()}

_QIDS = some.builds(
    Qid, some.integers(0, 255), some.integers(0, (1 << 32) - 1), some.integers(0, (1 << 64) - 1)
)


def values_of(field: Field, dialect: Dialect) -> some.SearchStrategy[Any]:
    """Values that fit a field."""
    match field.kind.shape:
        case "qid":
            return _QIDS
        case "bytes":
            return some.binary(max_size=99)
        case "names":
            return some.lists(some.binary(max_size=20), max_size=16).map(tuple)
        case "qids":
            return some.lists(_QIDS, max_size=16).map(tuple)
        case "nested":
            assert field.nested is not None
            return records(field.nested, dialect)
    return some.integers(0, (1 << 8 * struct.calcsize("<" + field.kind.format)) - 1)


def records(record: type[Any], dialect: Dialect) -> some.SearchStrategy[Any]:
    """Values of a record that a dialect can say."""
    values: dict[str, some.SearchStrategy[Any]] = {}
    for field in fields_of(record):
        dialects, without = record.only_in.get(field.name, (m.ALL, None))
        there = dialect in dialects
        values[field.name] = values_of(field, dialect) if there else some.just(without)
    return some.builds(record, **values)


def golden_value(value: Any) -> Any:
    match value:
        case str():
            return value.encode("latin-1")
        case dict():
            return Stat(**defaults(Stat) | {k: golden_value(v) for k, v in value.items()})
        case [int(), int(), int()]:
            return Qid(*value)
        case list():
            return tuple(golden_value(each) for each in value)
    return value


def defaults(record: type[WireRecord]) -> dict[str, Any]:
    return {name: value for name, (_, value) in record.only_in.items()}


@pytest.mark.parametrize("case", GOLDEN, ids=[f"{c['message']}-{c['dialects'][0]}" for c in GOLDEN])
def test_golden_frames(case: dict[str, Any]) -> None:
    frame = bytes.fromhex(case["frame"])
    record = BY_NAME[case["message"]]
    fields = {name: golden_value(value) for name, value in case["fields"].items()}
    message = record(**defaults(record) | fields)
    tag = int.from_bytes(frame[5:7], "little")
    for version in case["dialects"]:
        codec = MessageCodec.of(BY_VERSION[version])
        assert codec.encode(message, tag) == frame
        assert codec.decode(frame) == (tag, message)


def test_every_message_of_every_dialect_has_a_golden_frame() -> None:
    covered = {(case["message"], version) for case in GOLDEN for version in case["dialects"]}
    declared = {
        (record.__name__, dialect.version.decode())
        for record in MESSAGES.values()
        for dialect in record.dialects
    }
    assert covered == declared


@given(some.data())
def test_round_trips(data: some.DataObject) -> None:
    dialect = data.draw(some.sampled_from(list(Dialect)))
    record = data.draw(some.sampled_from([r for r in MESSAGES.values() if dialect in r.dialects]))
    message: Message = data.draw(records(record, dialect))
    tag = data.draw(some.integers(0, 0xFFFF))
    codec = MessageCodec.of(dialect)
    frame = codec.encode(message, tag)
    assert codec.decode(frame) == (tag, message)
    assert codec.decode(frame)[1] == message
    for cut in range(7, len(frame)):
        short = struct.pack("<I", cut) + frame[4:cut]
        try:
            _, other = codec.decode(short)
        except WireError:
            continue
        assert record.optional
        assert codec.encode(other, tag)[7:cut] == short[7:]
    with pytest.raises(WireError):
        codec.decode(struct.pack("<I", len(frame) + 1) + frame[4:] + b"\0")


@given(some.sampled_from(list(Dialect)), some.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_wire_error(dialect: Dialect, data: bytes) -> None:
    codec = MessageCodec.of(dialect)
    for number in range(256):
        frame = struct.pack("<IBH", 7 + len(data), number, 5) + data
        try:
            tag, message = codec.decode(frame)
        except WireError:
            continue
        # What was understood is said again with the same bytes; but Tfsync may be short.
        said = codec.encode(message, tag)
        assert said == frame or said[4 : len(frame)] == frame[4:]
    for read in (codec.decode, lambda d: list(codec.stats(d)), lambda d: list(codec.dirents(d))):
        with contextlib.suppress(WireError):
            read(data)


@given(some.data())
def test_directory_data_round_trips(data: some.DataObject) -> None:
    dialect = data.draw(some.sampled_from(list(Dialect)))
    codec = MessageCodec.of(dialect)
    stats = data.draw(some.lists(records(Stat, dialect), max_size=4))
    assert list(codec.stats(b"".join(map(codec.encode_record, stats)))) == stats
    dirents = data.draw(some.lists(records(Dirent, dialect), max_size=4))
    assert list(codec.dirents(b"".join(map(codec.encode_record, dirents)))) == dirents


@pytest.mark.parametrize(
    "message",
    [
        m.Tread(-1, 0, 0),
        m.Tread(1 << 32, 0, 0),
        m.Tread(0, 1 << 64, 0),
        m.Topen(0, 256),
        m.Rreadlink(bytes(65536)),
        m.Twalk(0, 0, (b"x",) * 17),
        m.Rwalk((Qid(0, 0, 0),) * 17),
        m.Twalk(0, 0, (bytes(65536),)),
        m.Rattach(Qid(256, 0, 0)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_does_not_fit_is_a_wire_error(message: Message) -> None:
    dialect = Dialect.LINUX if Dialect.LINUX in type(message).dialects else Dialect.UNIX
    with pytest.raises(WireError):
        MessageCodec.of(dialect).encode(message, 1)


def test_a_walk_of_more_names_than_sixteen_is_refused() -> None:
    names = b"\x01\x00x" * 17
    body = struct.pack("<IIH", 1, 2, 17) + names
    with pytest.raises(WireError, match="17 elements"):
        MessageCodec.of(Dialect.LINUX).decode(struct.pack("<IBH", 7 + len(body), 110, 1) + body)


def test_names_of_fields_are_unique_and_declared_once() -> None:
    for record in MESSAGES.values():
        assert len(set(names_of(record))) == len(names_of(record))
        assert set(record.only_in) <= set(names_of(record))
