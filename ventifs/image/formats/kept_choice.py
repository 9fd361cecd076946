"""Settings kept with a name: the format its disk was read as, and where references may lead.

They are a record of the catalog, committed together with the version that they come from. The next
run uses them. FORMAT.md has the layout. The record belongs to the name and not to a version, so it
counts only while the name has versions. It is forgotten with the last of them, and comes back when
a version is brought back that was forgotten with it or before it. A reclaim deletes it when there
is no such version any more. It is not copied to other stores: it holds paths of this host, and
another store must not choose how a disk is read here.
"""

import os
import re
import struct
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from ventifs.errors import Corrupt, VentifsError
from ventifs.image.disk import FORMATS
from ventifs.image.formats.advice import FOLLOW_BACKING, FOLLOW_DEVICE, Following
from ventifs.store import Store
from ventifs.store.journal import RECORD_VALUE_MAX, Record
from ventifs.text import printable
from ventifs.tree.versions.catalog import check_name, versions
from ventifs.tree.versions.forgotten import Forgotten, forgotten

VERSION = 1
PATH_BYTES_MAX = 4095
PATHS_MAX = 64

_PREFIX = b"disk\0"
_FORGOTTEN = b"forgotten-disk\0"
_TIME = struct.Struct(">Q")
_KINDS = ("file", "device")
_SUFFIX_BYTES_MAX = 255
_EXTENT = re.compile(rb"-(?:flat|f[0-9]{3,}|rdmp?|pt)\.vmdk\Z", re.IGNORECASE)


class SourceType(msgspec.Struct, frozen=True):
    """What is known of a source without reading it.

    Attributes:
        kind: "file" or "device".
        suffix: of its name, in lower case, with the dot; empty if it has none. The suffix of a
            raw extent of a VMDK image begins at the dash: `-flat.vmdk`.
    """

    kind: str
    suffix: bytes

    @property
    def is_raw_extent(self) -> bool:
        """Whether the name is one that hypervisors give to raw extents of VMDK images.

        A guest writes every byte of such a file. It has no header, though it ends in `.vmdk`.
        """
        return self.kind == "file" and _EXTENT.fullmatch(self.suffix) is not None


def suffix_of(name: bytes) -> bytes:
    """The suffix of a file's name, as `SourceType` has it."""
    extent = _EXTENT.search(name)
    # Bytes, since letters that are not ASCII may get longer when they become lower case.
    return (extent[0] if extent else os.path.splitext(name)[1]).lower()


class Kept(msgspec.Struct, frozen=True):
    """The settings that a name keeps.

    Attributes:
        format: the one that its last disk was read as.
        source: that disk's source; the format does not count for any other source.
        following: what references may lead to.
    """

    format: str
    source: SourceType
    following: Following


class _StoredChoice(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    format: str
    kind: str
    suffix: bytes
    directories: tuple[bytes, ...]
    devices: tuple[bytes, ...]


_decode = msgspec.msgpack.Decoder(_StoredChoice).decode
_encode = msgspec.msgpack.Encoder().encode


def encode_kept(kept: Kept) -> bytes:
    """The value of a record.

    Raises:
        VentifsError: a record cannot hold these settings: too many paths, say, or too long ones.
    """
    following = kept.following
    stored = _StoredChoice(
        VERSION,
        kept.format,
        kept.source.kind,
        kept.source.suffix,
        following.directories,
        following.devices,
    )
    value = _encode(stored)
    problem = _problem(stored, value)
    if problem:
        raise VentifsError(f"what is kept with the name cannot be: {problem}")
    return value


def decode_kept(record: Record) -> tuple[str, Kept]:
    """A record's name, and the settings that it keeps.

    Raises:
        Corrupt: for a record that `encode_kept` did not write.
        VentifsError: for a record of a later version.
    """
    try:
        name = check_name(record.key.removeprefix(_PREFIX).removesuffix(b"\0").decode())
        version = msgspec.msgpack.decode(record.value, type=list[msgspec.Raw])[:1]
        if version and (number := msgspec.msgpack.decode(version[0], type=int)) > VERSION:
            raise VentifsError(
                f"{name}: what is kept of its disk has version {number}, and this program knows "
                f"{VERSION}: use the ventifs that archived it last"
            )
        stored = _decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(f"record {record.key!r} cannot be read: {error}") from None
    problem = _problem(stored, record.value)
    if problem or record.key != kept_key(name):
        raise Corrupt(f"record {record.key!r} cannot be: {problem or 'its key'}")
    return name, Kept(
        stored.format,
        SourceType(stored.kind, stored.suffix),
        Following(stored.directories, stored.devices),
    )


def _problem(stored: _StoredChoice, value: bytes) -> str:
    """What is wrong with a record; empty if it is valid."""
    if stored.version != VERSION or stored.format not in FORMATS or stored.kind not in _KINDS:
        return "a version, format or kind that is not known"
    suffix = stored.suffix
    known = suffix[:1] in (b"", b".") or _EXTENT.fullmatch(suffix)
    if len(suffix) > _SUFFIX_BYTES_MAX or b"/" in suffix or not known:
        return "a suffix that no file has"
    for option, paths in ((FOLLOW_BACKING, stored.directories), (FOLLOW_DEVICE, stored.devices)):
        if len(paths) > PATHS_MAX:
            return f"{option} is given more than {PATHS_MAX} times"
        for path in paths:
            if not path.startswith(b"/") or b"\0" in path or len(path) > PATH_BYTES_MAX:
                return f"{option} has a path that is not absolute, or longer than {PATH_BYTES_MAX}"
    if len(value) > RECORD_VALUE_MAX:
        return f"its paths have more than {RECORD_VALUE_MAX:,} bytes in all"
    return "" if _encode(stored) == value else "not in its canonical form"


def kept_key(name: str) -> bytes:
    """The key of a name's record."""
    return _PREFIX + name.encode() + b"\0"


def kept_of(store: Store, name: str) -> Kept | None:
    """The settings that a name keeps; None if it keeps none, or has no versions.

    Raises:
        Corrupt, VentifsError: as `decode_kept`.
    """
    records = store.records(kept_key(name))
    if not records or not versions(store, name):  # left over by an older program's `forget`
        return None
    return decode_kept(records[-1])[1]


def all_kept(store: Store) -> dict[str, Kept]:
    """The settings that each name keeps, for a listing; unreadable records are left out."""
    found: dict[str, Kept] = {}
    for record in store.records(_PREFIX):
        with suppress(VentifsError):
            name, kept = decode_kept(record)
            found[name] = kept
    return found


def changes(store: Store, name: str, kept: Kept) -> tuple[list[tuple[bytes, bytes]], list[Record]]:
    """The records to put and to delete so that a name keeps these settings.

    Raises:
        VentifsError: as `encode_kept`.
    """
    key, value = kept_key(name), encode_kept(kept)
    there = store.records(key)
    if [record.value for record in there] == [value]:
        return [], []
    return [(key, value)], there


def check_kept(store: Store, name: str, kept: Kept | None) -> None:
    """Check that a name still keeps the settings that a run has used.

    The run must hold the name's lock.

    Raises:
        VentifsError: the name keeps other settings by now.
    """
    now: Kept | None = None
    with suppress(Corrupt):  # a damaged record counts as none and is replaced, see `--format`
        now = kept_of(store, name)
    if now != kept:
        raise VentifsError(
            f"{name}: another run has changed what is kept with the name since this one began: run "
            "it again"
        )


def records_kept(store: Store, name: str) -> list[Record]:
    """The records of a name's settings, whether they count or not; more than one if runs raced."""
    return store.records(kept_key(name))


def forgetting_kept(kept: list[Record], name: str, forgotten_ns: int) -> list[tuple[bytes, bytes]]:
    """The records to put when those that a name keeps go with its last version.

    Args:
        kept: all of the name's, which are deleted in the same commit.
        name: theirs.
        forgotten_ns: the time of forgetting of the name's last version.
    """
    return [(_forgotten_key(name, forgotten_ns), record.value) for record in kept[-1:]]


def bringing_back_kept(
    store: Store, name: str, forgotten_ns: int
) -> tuple[list[tuple[bytes, bytes]], list[Record]]:
    """The records to put and to delete when a name without versions gets forgotten ones back.

    Args:
        store: theirs.
        name: it must have no versions.
        forgotten_ns: the last time of forgetting of those that come back. What was forgotten then
            comes back, or else what was forgotten first after it.
    """
    there = records_kept(store, name)
    for record in [] if there else store.records(_forgotten_key(name)):
        if record.key >= _forgotten_key(name, forgotten_ns):
            return [(kept_key(name), record.value)], [record]
    return [], []


def useless_kept(store: Store, doomed: Sequence[Forgotten]) -> list[Record]:
    """The records of forgotten settings that no forgotten version which stays can bring back.

    Settings come back with a version of their name that was forgotten when they were, or before,
    see `bringing_back_kept`. So they are of no use when all that was forgotten of the name by then
    is gone, or back in the catalog. Records whose keys are not understood stay.

    Args:
        store: whose catalog's lock the caller holds, if it is going to delete them.
        doomed: forgotten versions that go for good in the same commit.

    Raises:
        Corrupt: the record of a forgotten version is damaged.
    """
    going = {each.version.record for each in doomed}
    first: dict[bytes, int] = {}  # the first time of forgetting of what stays, by name
    for each in forgotten(store):
        if each.version.record not in going:
            name = each.version.name.encode()
            first[name] = min(first.get(name, each.forgotten_ns), each.forgotten_ns)
    found = []
    for record in store.records(_FORGOTTEN):
        name, _, when = record.key.removeprefix(_FORGOTTEN).partition(b"\0")
        if len(when) == _TIME.size and (name not in first or _TIME.unpack(when)[0] < first[name]):
            found.append(record)
    return found


def _forgotten_key(name: str, forgotten_ns: int | None = None) -> bytes:
    """The key of forgotten settings; without a time, what the keys of the name begin with."""
    time = b"" if forgotten_ns is None else _TIME.pack(forgotten_ns)
    return _FORGOTTEN + name.encode() + b"\0" + time


def absolute(path: str, option: str) -> bytes:
    """A path in the form that is kept: absolute and without `.`.

    Symbolic links and `..` stay as given.

    Raises:
        VentifsError: it is relative to a directory that has been removed.
    """
    try:
        whole = path if path.startswith("/") else os.path.join(os.getcwd(), path)
    except FileNotFoundError:
        raise VentifsError(
            f"{option} {printable(path)}: the working directory has been removed; give an absolute "
            "path"
        ) from None
    return b"/" + b"/".join(
        part for part in os.fsencode(whole).split(b"/") if part not in (b"", b".")
    )
