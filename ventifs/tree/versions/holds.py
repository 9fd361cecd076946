r"""Holds: records that keep versions from being forgotten.

A hold has the key `hold\0NAME\0` + the version's time (8 bytes, big-endian); FORMAT.md has its
value. It belongs to a name and a time, not to a version's record, so it stays when the version's
tags or comment change. It counts only while the catalog has that version.
"""

import struct
from collections.abc import Iterable

import msgspec

from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Store
from ventifs.store.journal import Record
from ventifs.tree.versions.catalog import (
    TIME_NS_MAX,
    Version,
    VersionId,
    check_name,
    present,
)
from ventifs.tree.versions.catalog_lock import catalog_lock
from ventifs.tree.versions.times import time_text

_PREFIX = b"hold\0"
_TIME = struct.Struct(">Q")


class Hold(msgspec.Struct, frozen=True):
    """A hold of a version.

    Attributes:
        until_ns: when it ends, in UTC nanoseconds since 1970; None if it never ends by itself.
    """

    until_ns: int | None = None

    def active(self, now_ns: int) -> bool:
        """Whether it holds at a time; at `until_ns` it does not hold any more."""
        return self.until_ns is None or now_ns < self.until_ns

    def __str__(self) -> str:
        """The reason to keep a version, for users: `held` or `held until TIME`."""
        return "held" if self.until_ns is None else f"held until {time_text(self.until_ns)}"


class _StoredHold(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    until_ns: int | None


_decode = msgspec.msgpack.Decoder(_StoredHold).decode
_encode = msgspec.msgpack.Encoder().encode


def hold_key(name: str, time_ns: int) -> bytes:
    """The key of the record that holds a version."""
    return _PREFIX + name.encode() + b"\0" + _TIME.pack(time_ns)


def encode_hold(hold: Hold) -> bytes:
    """The value of a hold's record.

    Raises:
        VentifsError: the hold ends before 1970 or after 2554.
    """
    if hold.until_ns is not None and not 0 <= hold.until_ns <= TIME_NS_MAX:
        raise VentifsError("a hold ends between 1970 and 2554, or never; name such a time, or none")
    return _encode(_StoredHold(hold.until_ns))


def decode_hold(record: Record) -> tuple[VersionId, Hold]:
    """The version that a record holds, and the hold.

    Raises:
        Corrupt: for a record that `encode_hold` did not write.
    """
    try:
        name, _, time = record.key.removeprefix(_PREFIX).partition(b"\0")
        stored = _decode(record.value)
        hold = Hold(stored.until_ns)
        if len(time) != _TIME.size or encode_hold(hold) != record.value:
            raise Corrupt(f"hold record {record.key!r} is not in its canonical form")
        return (check_name(name.decode()), _TIME.unpack(time)[0]), hold
    except Corrupt:
        raise
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, VentifsError) as error:
        raise Corrupt(f"hold record {record.key!r} cannot be read: {error}") from None


def held(store: Store) -> dict[VersionId, Hold]:
    """All holds, ended ones included, by name and time of their versions.

    A version that has several holds is held by the longest.

    Raises:
        Corrupt: a hold's record is damaged.
    """
    found: dict[VersionId, Hold] = {}
    for record in store.records(_PREFIX):
        version, hold = decode_hold(record)
        found[version] = _longer(found.get(version, hold), hold)
    return found


def _longer(one: Hold, other: Hold) -> Hold:
    if one.until_ns is None or (other.until_ns is not None and other.until_ns <= one.until_ns):
        return one
    return other


def records_of_holds(store: Store) -> dict[bytes, list[Record]]:
    """The records of all holds by their keys, ended ones included; see `hold_key`.

    A version has more than one only if programs without the catalog's lock raced.
    """
    found: dict[bytes, list[Record]] = {}
    for record in store.records(_PREFIX):
        found.setdefault(record.key, []).append(record)
    return found


def hold(
    store: Store, wanted: Iterable[VersionId], until_ns: int | None = None, *, now_ns: int
) -> list[Version]:
    """Hold versions, in one commit, and return them; what held them before counts no more.

    Raises:
        NoSuchVersion: one of them is not there. Nothing is changed.
        VentifsError: the hold would have ended before `now_ns`.
    """
    made = Hold(until_ns)
    value = encode_hold(made)
    if not made.active(now_ns):
        assert until_ns is not None
        raise VentifsError(
            f"{time_text(until_ns)} is past, so this would hold nothing; name a later time"
        )
    with catalog_lock(store):
        found = present(store, wanted)
        keys = [hold_key(*each) for each in found]
        there = records_of_holds(store)
        replaced = [record for key in keys for record in there.get(key, [])]
        store.commit([(key, value) for key in keys], replaced)
    return list(found.values())


def release(store: Store, wanted: Iterable[VersionId]) -> list[Version]:
    """Remove the holds of versions, ended ones too, in one commit; return the versions.

    Raises:
        NoSuchVersion: one of them is not there. Nothing is changed.
        VentifsError: one of them has no hold. Nothing is changed.
    """
    with catalog_lock(store):
        found = present(store, wanted)
        there = records_of_holds(store)
        for each, version in found.items():
            if hold_key(*each) not in there:
                raise VentifsError(f"{version}: this version is not held")
        store.commit(deletes=[record for each in found for record in there[hold_key(*each)]])
    return list(found.values())
