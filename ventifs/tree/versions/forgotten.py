r"""Forgotten versions: their records are kept, so that they can be brought back.

The record of a forgotten version has the key `forgotten\0NAME\0` + the version's time + the time of
forgetting (8 bytes each, big-endian), and the value that the version's record had. All that one
commit forgets has the same time of forgetting. A name and time that is forgotten once more gets a
later one than before, whatever the clock says. A reclaim deletes the records of what it frees: then
the version is gone, as is what programs without these records forgot.
"""

import struct
import time
from collections import Counter
from collections.abc import Sequence

import msgspec

from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Store
from ventifs.store.journal import Record
from ventifs.tree.versions.catalog import (
    SCORE,
    TIME_NS_MAX,
    NoSuchVersion,
    Version,
    check_name,
    decode_version,
    pick,
    tree_score,
    version_key,
    versions,
)
from ventifs.tree.versions.holds import hold_key, records_of_holds
from ventifs.tree.versions.times import parse_time, time_text

_PREFIX = b"forgotten\0"
_TIMES = struct.Struct(">QQ")
_GONE = (
    "what was reclaimed, or forgotten by older programs, which have no 'undelete', cannot come back"
)

RecordChanges = tuple[list[tuple[bytes, bytes]], list[Record]]  # to put and to delete


class Forgotten(msgspec.Struct, frozen=True):
    """A version that was forgotten.

    Attributes:
        version: as it was; its `record` is the one that keeps it now.
        forgotten_ns: when, in UTC nanoseconds since 1970, by the clock of that machine.
    """

    version: Version
    forgotten_ns: int

    @property
    def forgotten_when(self) -> str:
        """The time of forgetting, as precise as needed."""
        return time_text(self.forgotten_ns)

    def __str__(self) -> str:
        """`NAME@TIME, forgotten TIME`."""
        return f"{self.version}, forgotten {self.forgotten_when}"


def forgotten_key(name: str, time_ns: int, forgotten_ns: int) -> bytes:
    """The key of the record that keeps a forgotten version."""
    return _PREFIX + name.encode() + b"\0" + _TIMES.pack(time_ns, forgotten_ns)


def decode_forgotten(record: Record) -> Forgotten:
    """The forgotten version that a record keeps.

    Raises:
        Corrupt: for a record that keeps no valid version.
    """
    name, _, times = record.key.removeprefix(_PREFIX).partition(b"\0")
    if len(times) != _TIMES.size:
        raise Corrupt(f"record {record.key!r} is not of a forgotten version")
    time_ns, forgotten_ns = _TIMES.unpack(times)
    try:
        key = version_key(name.decode(), time_ns)
    except UnicodeDecodeError as error:
        raise Corrupt(f"record {record.key!r} cannot be read: {error}") from None
    return Forgotten(decode_version(Record(key, record.id, record.value)), forgotten_ns)


def forgotten(store: Store, name: str | None = None) -> list[Forgotten]:
    """All forgotten versions, or those of one name, by name, time and time of forgetting.

    Raises:
        Corrupt: a record is damaged.
    """
    prefix = _PREFIX if name is None else _PREFIX + check_name(name).encode() + b"\0"
    return [decode_forgotten(record) for record in store.records(prefix)]


def forgetting(store: Store, doomed: Sequence[Version], now_ns: int) -> tuple[int, RecordChanges]:
    """The time of forgetting of versions, and the changes of records that forget them.

    The caller has the catalog's lock. Ended holds go with their versions.
    """
    ids = {(version.name, version.time_ns) for version in doomed}
    for each in forgotten(store):
        if (each.version.name, each.version.time_ns) in ids:
            now_ns = max(now_ns, each.forgotten_ns + 1)
    now_ns = min(now_ns, TIME_NS_MAX)
    holds = records_of_holds(store)
    puts: list[tuple[bytes, bytes]] = []
    deletes: list[Record] = []
    for version in doomed:
        assert version.record is not None
        name, time_ns = version.name, version.time_ns
        puts.append((forgotten_key(name, time_ns, now_ns), version.record.value))
        deletes += [version.record, *holds.pop(hold_key(name, time_ns), [])]
    return now_ns, (puts, deletes)


def bringing_back(store: Store, chosen: Sequence[Forgotten]) -> RecordChanges:
    """The changes of records that bring versions back; the caller has the catalog's lock.

    Raises:
        NoSuchVersion: one of them is not among the forgotten any more.
        VentifsError: the catalog has a version of the name and time of one of them, or two of them
            have the same.
    """
    kept = {each.version.record for each in forgotten(store)}
    there = {(version.name, version.time_ns) for version in versions(store)}
    many = Counter(name for name, _ in there)
    holds = records_of_holds(store)
    puts: list[tuple[bytes, bytes]] = []
    deletes: list[Record] = []
    for each in chosen:
        version, record = each.version, each.version.record
        if record is None or record not in kept:
            raise NoSuchVersion(f"{each}: it is not among the forgotten versions any more")
        if (version.name, version.time_ns) in there:
            force = "" if many[version.name] > 1 else " --force"
            raise VentifsError(
                f"{version}: there is a version of this name and time; "
                f"'ventifs forget {version}{force}' makes room for the forgotten one, which "
                f"'ventifs undelete {version} --forgotten {each.forgotten_when}' then brings back"
            )
        there.add((version.name, version.time_ns))
        puts.append((version_key(version.name, version.time_ns), record.value))
        # A hold is left over here only if an older program forgot a held version.
        deletes += [record, *holds.pop(hold_key(version.name, version.time_ns), [])]
    return puts, deletes


def find_forgotten(store: Store, text: str, during: str | None = None) -> Forgotten:
    """The forgotten version that a user's text names; of several of one time, the last forgotten.

    Args:
        store: where it was.
        text: `NAME@TIME`, `NAME@~N` or `NAME@latest`, which count the forgotten versions of the
            name, or `score:HEX`.
        during: only those forgotten within this time, which may be partial; a time as messages
            and lists have it means just that one, if there is one.

    Raises:
        NoSuchVersion: no single one matches; the message says why.
        VentifsError: when the text does not follow the grammar.
    """
    name, at, when = text.partition("@")
    if text.startswith("score:"):
        return _by_score(_forgotten_during(forgotten(store), during), text)
    if not at or ":" in text.partition("@")[0]:
        raise VentifsError(f"{text}: name a version as NAME@TIME, NAME@~N or score:HEX")
    of_name = forgotten_of(store, name, during)
    distinct = {each.version.time_ns: each for each in of_name}  # the last forgotten of each time
    found = pick(list(distinct), when, time.time_ns())
    if found is not None:
        return list(distinct.values())[found]
    present = [str(version) for version in versions(store, name)]
    if text in present:
        raise NoSuchVersion(f"{text}: this version is not forgotten; it is in the catalog")
    raise NoSuchVersion(
        f"{text}: {name} has no forgotten version of that time; "
        f"'ventifs versions --forgotten {name}' lists those it has; {_GONE}"
    )


def forgotten_hint(store: Store, text: str) -> str:
    """Which forgotten version a user's text means that `catalog.find_version` finds none for.

    Returns:
        A clause that says how it comes back; empty where there is none, or it cannot be read.
    """
    try:
        found = find_forgotten(store, text if set("@:") & set(text) else f"{text}@latest")
    except VentifsError:
        return ""
    version = found.version
    return (
        f"{version} was forgotten {found.forgotten_when}; 'ventifs undelete {version}' brings it "
        "back"
    )


def forgotten_of(store: Store, name: str, during: str | None = None) -> list[Forgotten]:
    """The forgotten versions of a name, as `forgotten`; at least one.

    Args:
        store: where they were.
        name: theirs.
        during: only those forgotten within this time, which may be partial.

    Raises:
        NoSuchVersion: there are none.
        VentifsError: the text is no name, or `during` no time.
    """
    found = _forgotten_during(forgotten(store, name), during)
    if found:
        return found
    how = "forgotten" if during is None else f"among those forgotten at {during}"
    names = sorted({each.version.name for each in _forgotten_during(forgotten(store), during)})
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    others = f"versions of {', '.join(names[:5])}{more} are; " if names else ""
    raise NoSuchVersion(f"{name}: no version of this name is {how}; {others}{_GONE}")


def _forgotten_during(found: list[Forgotten], during: str | None) -> list[Forgotten]:
    if during is None:
        return found
    first, end = parse_time(during)
    if time_text(first) == during:  # in full, perhaps without zeros at the end
        exactly = [each for each in found if each.forgotten_ns == first]
        if exactly:
            return exactly
    return [each for each in found if first <= each.forgotten_ns < end]


def _by_score(found: list[Forgotten], text: str) -> Forgotten:
    """The forgotten version whose tree has the score.

    Raises:
        NoSuchVersion: there is none, or there are several of different names or times.
    """
    wanted = text.removeprefix("score:").lower()
    if not SCORE.fullmatch(wanted):
        raise VentifsError(f"{text!r}: a score is 64 hexadecimal digits, or the first 8 or more")
    matching = {
        str(each.version): each  # the last forgotten of each
        for each in found
        if tree_score(each.version.root).hex().startswith(wanted)
    }
    if not matching:
        raise NoSuchVersion(
            f"{text}: no forgotten version has this tree; 'ventifs versions --forgotten' lists "
            f"them, with --json their scores; {_GONE}"
        )
    if len(matching) > 1:
        raise NoSuchVersion(f"{text}: this could be {', '.join(list(matching)[:5])}")
    return next(iter(matching.values()))
