r"""Versions: the store's records of archive runs, and the texts that users name them by.

A version's record has the key `version\0NAME\0` + time (8 bytes, big-endian), so that records list
by name and then by time. Grammar: NAME, NAME@latest, NAME@~N, NAME@TIME, NAME@PARTIAL-TIME,
score:HEX (8 digits or more); a path starts after the first `:/`. A time without a zone is UTC.
NAME and NAME@latest are the newest version that does not lie in the future, see `times`; NAME@~N
is counted from there.
"""

import re
import struct
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence

import msgspec

from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Score, Store, score_of
from ventifs.store.journal import RECORD_VALUE_MAX, Record
from ventifs.tree.objects.records import (
    Content,
    Empty,
    Entry,
    Unfit,
    content_problem,
    decode_entry,
    encode,
    encode_entry,
)
from ventifs.tree.versions.times import latest_place, parse_time, past_count, time_text

_PREFIX = b"version\0"
_TIME = struct.Struct(">Q")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME_MAX = 200
SCORE = re.compile(r"[0-9a-f]{8,64}")


class NoSuchVersion(VentifsError):
    """A name, or a time, that matches no version."""


VersionId = tuple[str, int]  # a version's name and time_ns

ListedTrouble = tuple[
    bytes, str, bool
]  # a trouble: path, reason, whether the version lacks the path


class _StoredVersion(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The stored form of a version's record that has no troubles in blocks."""

    root: bytes
    source: str
    comment: str
    tags: tuple[str, ...]
    new_bytes: int
    seconds: float
    troubles: tuple[ListedTrouble, ...]
    troubles_more: int


class _StoredBeyond(_StoredVersion, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The stored form of a version's record that has further troubles in blocks."""

    beyond: Content


TIME_NS_MAX = 2**64 - 1  # in the year 2554
TROUBLES_MAX = 200  # listed in the record
COMMENT_MAX = 4096  # bytes of UTF-8; older versions may have more
TAGS_MAX = 64
TAG_MAX = 256  # bytes of UTF-8

_BEYOND = b"\x99"  # MessagePack's array of nine: the first byte of a `_StoredBeyond`
_decode_stored = msgspec.msgpack.Decoder(_StoredVersion).decode
_decode_beyond = msgspec.msgpack.Decoder(_StoredBeyond).decode
_encode_stored = msgspec.msgpack.Encoder().encode


class Version(msgspec.Struct, frozen=True):
    """One archive run.

    Attributes:
        name: the user's name for what was archived.
        time_ns: UTC nanoseconds since 1970.
        root: the entry of the archived directory itself.
        source: where it came from.
        comment, tags: as the user gave them.
        new_bytes: bytes of blocks that the store did not have.
        seconds: how long it took.
        troubles: (path, reason, missing) of what could not be archived. A version read from a
            store has up to 200; `troubles.troubles_of` yields all.
        troubles_more: how many more there were.
        beyond: content that holds these; empty if there are none or they were only counted.
        record: the store's record, for `forget`; None before it is committed.
    """

    name: str
    time_ns: int
    root: Entry
    source: str = ""
    comment: str = ""
    tags: tuple[str, ...] = ()
    new_bytes: int = 0
    seconds: float = 0.0
    troubles: tuple[ListedTrouble, ...] = ()
    troubles_more: int = 0
    beyond: Content = Empty()
    record: Record | None = None

    @property
    def whole(self) -> bool:
        """Whether everything was archived, and as it was."""
        return not (self.troubles or self.troubles_more)

    @property
    def when(self) -> str:
        """The time, as precise as needed, in the form that names the version."""
        return time_text(self.time_ns)

    def __str__(self) -> str:
        """`NAME@TIME`."""
        return f"{self.name}@{self.when}"


def check_name(name: str) -> str:
    """Return the name if it is valid.

    Raises:
        VentifsError: for any other text.
    """
    if not _NAME.fullmatch(name) or len(name) > _NAME_MAX:
        raise VentifsError(
            f"{name!r} cannot name versions: letters, digits, '.', '_' and '-', beginning with a "
            f"letter or digit, up to {_NAME_MAX}"
        )
    return name


def check_notes(comment: str, tags: Sequence[str]) -> None:
    """Check that a new version may have this comment and these tags.

    Raises:
        VentifsError: naming what is wrong.
    """
    for text in (comment, *tags):
        if not text.isprintable():
            raise VentifsError(f"{text[:100]!r}: a comment or tag is one line of text")
    if len(comment.encode()) > COMMENT_MAX:
        raise VentifsError(
            f"a comment may have {COMMENT_MAX:,} bytes, this one has {len(comment.encode()):,}; "
            "shorten it"
        )
    if len(tags) > TAGS_MAX:
        raise VentifsError(f"a version may have {TAGS_MAX} tags, not {len(tags):,}; give fewer")
    for tag in tags:
        if not tag:
            raise VentifsError("a tag may not be empty; leave it out, or give a word")
        if len(tag.encode()) > TAG_MAX:
            raise VentifsError(
                f"tag {tag[:40]!r}...: a tag may have {TAG_MAX} bytes, this one has "
                f"{len(tag.encode()):,}; shorten it"
            )


def version_key(name: str, time_ns: int) -> bytes:
    """The key of a version's record."""
    return _PREFIX + name.encode() + b"\0" + _TIME.pack(time_ns)


def encode_version(version: Version) -> bytes:
    """The value of a version's record, which `decode_version` accepts.

    Raises:
        Unfit: when it breaks a rule, or has more troubles than `troubles.fitted` leaves in it.
        VentifsError: for an invalid name.
    """
    check_name(version.name)
    problem = _version_problem(version)
    value = b"" if problem else _encoded(version)
    if len(version.troubles) > TROUBLES_MAX or len(value) > RECORD_VALUE_MAX:
        problem = f"its record is longer than {RECORD_VALUE_MAX >> 10} KiB, or has more than "
        problem += f"{TROUBLES_MAX} troubles"
    if problem:
        raise Unfit(f"{version.name}: the version cannot be stored: {problem}")
    return value


def version_size(version: Version) -> int:
    """Bytes of the version's record as it is, even if that is too long to be stored."""
    return len(_encoded(version))


def _encoded(version: Version) -> bytes:
    fields = (
        encode_entry(version.root, root=True),
        version.source,
        version.comment,
        version.tags,
        version.new_bytes,
        version.seconds,
        version.troubles,
        version.troubles_more,
    )
    try:
        if isinstance(version.beyond, Empty):
            return _encode_stored(_StoredVersion(*fields))
        return _encode_stored(_StoredBeyond(*fields, version.beyond))
    except (OverflowError, UnicodeEncodeError) as error:
        raise Unfit(f"{version.name}: the version cannot be stored: {error}") from None


def _version_problem(version: Version) -> str:
    """What is wrong with a version, apart from its name and its root's entry; else empty."""
    if not version.root.is_directory:
        return "it is of no directory"
    if not 0 <= version.time_ns <= TIME_NS_MAX:
        return "its time is not between 1970 and 2554"
    if not isinstance(version.beyond, Empty) and not version.troubles_more:
        return "it names troubles where there are none"
    return content_problem(version.beyond)


def decode_version(record: Record) -> Version:
    """The version a record holds.

    Raises:
        Corrupt: for a record that holds no valid version.
    """
    try:
        name, _, time = record.key.removeprefix(_PREFIX).partition(b"\0")
        decode = _decode_beyond if record.value[:1] == _BEYOND else _decode_stored
        stored = decode(record.value)
        if _encode_stored(stored) != record.value or len(time) != _TIME.size:
            raise Corrupt(f"version record {record.key!r} is not in its canonical form")
        root = decode_entry(stored.root, root=True)
        beyond = stored.beyond if isinstance(stored, _StoredBeyond) else Empty()
        version = Version(
            check_name(name.decode()),
            _TIME.unpack(time)[0],
            root,
            stored.source,
            stored.comment,
            stored.tags,
            stored.new_bytes,
            stored.seconds,
            stored.troubles,
            stored.troubles_more,
            beyond,
            record,
        )
        problem = _version_problem(version)
        if isinstance(stored, _StoredBeyond) and isinstance(beyond, Empty):
            problem = "it names no troubles where some are said"
        if problem:
            raise Corrupt(f"version record {record.key!r} cannot be: {problem}")
        return version
    except Corrupt:
        raise
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, VentifsError) as error:
        raise Corrupt(f"version record {record.key!r} cannot be read: {error}") from None


def versions(store: Store, name: str | None = None) -> list[Version]:
    """All versions, or those of one name, by name and then by time."""
    prefix = _PREFIX if name is None else version_key(name, 0)[: -_TIME.size]
    return [decode_version(record) for record in store.records(prefix)]


def last_with_root(of_name: Sequence[Version], score: bytes) -> Version | None:
    """The last of a name's versions whose tree has this score; None if there is none."""
    return next((each for each in reversed(of_name) if tree_score(each.root) == score), None)


def version_records(store: Store) -> list[Record]:
    """The records of all versions, by name and then by time, for `decode_version`."""
    return store.records(_PREFIX)


def present(store: Store, wanted: Iterable[VersionId]) -> dict[VersionId, Version]:
    """Versions as the catalog has them now, in the given order, each once.

    Raises:
        NoSuchVersion: one of them is not there.
    """
    there = {(version.name, version.time_ns): version for version in versions(store)}
    found: dict[VersionId, Version] = {}
    for name, time_ns in wanted:
        if (name, time_ns) not in there:
            raise NoSuchVersion(f"{name}@{time_text(time_ns)}: there is no such version any more")
        found[name, time_ns] = there[name, time_ns]
    return found


def split_path(text: str) -> tuple[str, bytes]:
    """Split a user's text into (version, path); the path starts after the first `:/`."""
    version, colon, path = text.partition(":/")
    return version.removesuffix(":"), path.encode("utf-8", "surrogateescape") if colon else b""


def find_version(
    store: Store, text: str, now_ns: int | None = None, *, single: bool = False
) -> Version:
    """The version that a user's text names.

    Args:
        store: where it is.
        text: of the module's grammar.
        now_ns: the time, which decides what is in the future; None is the clock's.
        single: refuse a score that several versions have, for what changes them. Otherwise it
            means the first of them, for they have one tree.

    Raises:
        NoSuchVersion: no single version matches; the message names the nearest, if any, or a
            forgotten one.
        VentifsError: when the text does not follow the grammar.
    """
    name, at, when = text.partition("@")
    if text.startswith("score:"):
        return _by_score(store, text, single=single)
    if ":" in name:
        hint = (
            "name a version without a path here"
            if ":/" in name
            else "a path begins with a slash, as in NAME:/etc"
        )
        raise VentifsError(f"{text}: {hint}")
    of_name = versions(store, check_name(name))
    if not of_name:
        raise NoSuchVersion(_hint(store, text) or _hint(store, name) or _nearest_name(store, name))
    times = [version.time_ns for version in of_name]
    now_ns = time.time_ns() if now_ns is None else now_ns
    found = pick(times, when if at else "latest", now_ns)
    if found is not None:
        return of_name[found]
    if when.startswith("~"):
        counted = latest_place(times, now_ns) + 1
        there = f"only {counted} versions" if counted > 1 else "only one version"
        later = len(times) - counted
        there += f", and {later} in the future" if later else ""
        raise NoSuchVersion(f"{text}: {name} has {there}")
    first, _ = parse_time(when)
    hint = _hint(store, text)
    if hint:
        raise NoSuchVersion(hint)
    nearest = sorted(of_name, key=lambda version: abs(version.time_ns - first))[:3]
    raise NoSuchVersion(
        f"{text}: {name} has no version of that time; the nearest are "
        + ", ".join(map(str, sorted(nearest, key=lambda version: version.time_ns)))
    )


def pick(times: Sequence[int], when: str, now_ns: int) -> int | None:
    """Which of a name's versions `when` refers to; O(log n).

    Args:
        times: of all of them, in order, in nanoseconds.
        when: `latest`, `~N`, or a time, perhaps a partial one: that is the last within it, before
            any that lies in the future.
        now_ns: the time, which decides what is in the future.

    Returns:
        Its index in `times`, or None.

    Raises:
        VentifsError: for any other text.
    """
    if when == "latest" or re.fullmatch(r"~[0-9]{1,9}", when):
        back = 0 if when == "latest" else int(when[1:])
        place = latest_place(times, now_ns) - back
        return place if place >= 0 else None
    first, end = parse_time(when)
    low, high = bisect_left(times, first), bisect_left(times, end)
    if low == high:
        return None
    exact = times[low] == first and time_text(first) == when
    past = past_count(times, now_ns)
    return low if exact else (min(high, past) if past > low else high) - 1


def _hint(store: Store, text: str) -> str:
    """The message if a text that means no version means a forgotten one, else empty."""
    from ventifs.tree.versions.forgotten import forgotten_hint  # which imports this module

    hint = forgotten_hint(store, text)
    return f"{text}: there is no such version any more; {hint}" if hint else ""


def _by_score(store: Store, text: str, *, single: bool) -> Version:
    wanted = text.removeprefix("score:").lower()
    if not SCORE.fullmatch(wanted):
        raise VentifsError(f"{text!r}: a score is 64 hexadecimal digits, or the first 8 or more")
    found: dict[str, Version] = {}  # a version for each tree
    matching: list[str] = []
    for version in versions(store):
        score = tree_score(version.root).hex()
        if score.startswith(wanted):
            found.setdefault(score, version)
            matching.append(str(version))
    if not found:
        raise NoSuchVersion(
            _hint(store, text)
            or f"{text}: no version has this tree; 'ventifs versions --json' has the scores"
        )
    if len(found) > 1:
        means = ", ".join(
            f"score:{score} ({version})" for score, version in list(found.items())[:5]
        )
        raise NoSuchVersion(f"{text}: this could be {means}")
    if single and len(matching) > 1:
        more = f" and {len(matching) - 5:,} more" if len(matching) > 5 else ""
        raise NoSuchVersion(
            f"{text}: this could be {', '.join(matching[:5])}{more}; name one by its time"
        )
    return next(iter(found.values()))


def tree_score(root: Entry) -> Score:
    """The score of a whole tree, including the metadata of its root directory."""
    return score_of(encode(root) + b"\xc1")


def _nearest_name(store: Store, name: str) -> str:
    names = sorted({version.name for version in versions(store)})
    if not names:
        return f"{name}: there are no versions yet; 'ventifs archive' makes the first"
    from difflib import get_close_matches  # only needed when something is wrong

    close = get_close_matches(name, names, 3, 0.5)
    if close:
        return f"{name}: no version has this name; did you mean {', '.join(close)}?"
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return f"{name}: no version has this name; there are {', '.join(names[:5])}{more}"
