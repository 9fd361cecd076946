"""Hypothesis strategies of 9P messages, made from their declarations."""

from typing import Any

from hypothesis import strategies as st

from ventifs.ninep.protocol.messages import MESSAGES, Dialect, Dirent, Message, Rreaddir, WireRecord
from ventifs.ninep.protocol.wire import Field, Qid, fields_of

BITS = {"B": 8, "H": 16, "I": 32, "Q": 64}
DIALECTS = (Dialect.PLAIN, Dialect.UNIX, Dialect.LINUX)
TEXT = st.binary(max_size=40) | st.text(max_size=10).map(str.encode)


def number(bits: int) -> st.SearchStrategy[int]:
    """A number of this many bits, often one at an edge of the range."""
    return st.integers(0, (1 << bits) - 1) | st.sampled_from([0, (1 << bits) - 1, 1 << bits - 1])


QIDS = st.builds(Qid, number(8), number(32), number(64))


def value(field: Field, dialect: Dialect) -> st.SearchStrategy[Any]:
    """What a field may hold."""
    match field.kind.shape:
        case "qid":
            return QIDS
        case "bytes":
            return TEXT
        case "names":
            return st.lists(TEXT, max_size=16).map(tuple)
        case "qids":
            return st.lists(QIDS, max_size=16).map(tuple)
        case "nested":
            assert field.nested is not None
            return record(field.nested, dialect)
    return number(BITS[field.kind.format])


def record(kind: type[WireRecord], dialect: Dialect) -> st.SearchStrategy[Any]:
    """A record as a dialect's decoder returns it: fields not on the wire have a fixed value."""
    parts = {}
    for field in fields_of(kind):
        dialects, missing = kind.only_in.get(field.name, (dialect, None))
        parts[field.name] = value(field, dialect) if dialect in dialects else st.just(missing)
    return st.builds(kind, **parts)


def of_dialect(dialect: Dialect) -> list[type[Message]]:
    """The messages a dialect has."""
    return [kind for kind in MESSAGES.values() if dialect in kind.dialects]


def messages(dialect: Dialect) -> st.SearchStrategy[Message]:
    """Any message of a dialect; often one with a directory's entries."""
    from ventifs.ninep.protocol.codec import MessageCodec

    dirents = st.lists(record(Dirent, dialect), max_size=5).map(
        lambda entries: Rreaddir(
            b"".join(map(MessageCodec.of(Dialect.LINUX).encode_record, entries))
        )
    )
    plain = st.one_of([record(kind, dialect) for kind in of_dialect(dialect)])
    return plain | dirents if dialect is Dialect.LINUX else plain
