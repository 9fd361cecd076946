"""The records that trees are made of, and their canonical bytes.

Everything is MessagePack of arrays, one encoding each: `decode` refuses whatever does not encode
again to the same bytes, so that equal things have equal scores. FORMAT.md gives the layouts. File
names, link targets and extended attributes are bytes; version names are text.
"""

import stat
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from ventifs.errors import Corrupt
from ventifs.store import SCORE_SIZE, ZERO_SCORE, Score, score_of

INLINE_MAX = 32  # bytes of content kept in the entry itself
NAME_MAX = 255
TARGET_MAX = 4095
XATTRS_INLINE_MAX = 512  # encoded; more becomes content
LENGTH_MAX = 2**63 - 1
BLOCK_LENGTH_MAX = 1 << 20  # the store's largest block


class _Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    pass


class Empty(_Record, frozen=True, tag=0):
    """No content: an empty file, an empty directory."""


class Inline(_Record, frozen=True, tag=1):
    """Up to 32 bytes, kept where they are referred to."""

    data: bytes


class Block(_Record, frozen=True, tag=2):
    """One block; `length` counts the trailing zeros that the store leaves out."""

    score: bytes
    length: int


class Tree(_Record, frozen=True, tag=3):
    """The root node of a search tree: of a file's content items, or of a directory's entries.

    `length` is the content's bytes for a file, the number of entries for a directory.
    """

    score: bytes
    length: int


Content = Empty | Inline | Block | Tree


class Hole(_Record, frozen=True, tag=0):
    """So many zeros, stored nowhere."""

    length: int


class Chunk(_Record, frozen=True, tag=1):
    """A block of a file, by score."""

    score: bytes
    length: int


class Slice(_Record, frozen=True, tag=2):
    """A part of another content: what disk images are made of."""

    content: Content
    offset: int
    length: int


Item = Hole | Chunk | Slice


class Child(_Record, frozen=True):
    """What an inner node holds of a node below.

    Attributes:
        score: the node's.
        count: leaf items below.
        total: bytes of content below; for directories, 0.
        key: the last name below; for file content, empty.
    """

    score: bytes
    count: int
    total: int
    key: bytes


class File(_Record, frozen=True, tag=0):
    """A regular file."""

    content: Content


class Directory(_Record, frozen=True, tag=1):
    """A directory, with totals of everything below: paths, and bytes of regular files."""

    content: Content
    paths: int
    bytes: int


class Symlink(_Record, frozen=True, tag=2):
    """A symbolic link."""

    target: bytes


class Device(_Record, frozen=True, tag=3):
    """A character or block device."""

    major: int
    minor: int


class Special(_Record, frozen=True, tag=4):
    """A FIFO or a socket."""


Detail = File | Directory | Symlink | Device | Special
Xattrs = tuple[tuple[bytes, bytes], ...]  # (name, value), sorted by name


class Listed(_Record, frozen=True, tag=4):
    """Extended attributes kept in the entry: up to 512 bytes encoded."""

    pairs: Xattrs


class Entry(_Record, frozen=True):
    """Everything about one name in a directory but its children.

    Attributes:
        name: 1 to 255 bytes, no NUL, no `/`, not `.` or `..`; empty for a version's root.
        mode: type and permission bits, as in st_mode.
        mtime_ns: nanoseconds since 1970, also before it.
        detail: what only this type of file has.
        xattrs: empty, listed, or the content that holds the encoding of what is too long to list.
        link: 16 bytes that all names of one hard-linked file share, else empty.
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    detail: Detail
    xattrs: Listed | Content
    link: bytes

    @property
    def size(self) -> int:
        """Bytes of a regular file; 0 for everything else."""
        return length_of(self.detail.content) if isinstance(self.detail, File) else 0

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return isinstance(self.detail, Directory)


T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode
_entry = msgspec.msgpack.Decoder(Entry)
_item: msgspec.msgpack.Decoder[Item] = msgspec.msgpack.Decoder(Item)
_child = msgspec.msgpack.Decoder(Child)
_xattrs = msgspec.msgpack.Decoder(Xattrs)

_DETAIL_OF_TYPE: dict[int, type[Detail]] = {
    stat.S_IFREG: File,
    stat.S_IFDIR: Directory,
    stat.S_IFLNK: Symlink,
    stat.S_IFCHR: Device,
    stat.S_IFBLK: Device,
    stat.S_IFIFO: Special,
    stat.S_IFSOCK: Special,
}


def encode(record: msgspec.Struct | Xattrs) -> bytes:
    """A record's canonical bytes."""
    return _encode(record)


def _decoded(decoder: "msgspec.msgpack.Decoder[T]", data: bytes | memoryview, what: str) -> T:
    try:
        record = decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Corrupt(f"{what} cannot be read: {error}") from None
    if _encode(record) != data:
        raise Corrupt(f"{what} is not in its canonical form")
    return record


def own_entry(data: bytes) -> Entry:
    """An entry that was encoded here, or whose bytes carry a check: nothing is verified."""
    return _entry.decode(data)


def own_item(data: bytes | msgspec.Raw) -> Item:
    """An item that was encoded here, or in a node whose score holds."""
    return _item.decode(data)


def decode_entry(data: bytes | memoryview, *, root: bool = False) -> Entry:
    """A directory's entry, or with `root` the nameless one of a version.

    Raises:
        Corrupt: for anything `encode` would not have written for a sound entry.
    """
    entry = _decoded(_entry, data, "directory entry")
    problem = entry_problem(entry, root=root)
    if problem:
        raise Corrupt(f"directory entry {entry.name!r}: {problem}")
    return entry


def entry_problem(entry: Entry, *, root: bool) -> str:  # noqa: PLR0911, a list of rules
    """What is wrong with an entry's fields; nothing, if they can be."""
    name = entry.name
    if bool(name) == root or len(name) > NAME_MAX or name in (b".", b".."):
        return "a name that cannot be"
    if b"/" in name or b"\0" in name:
        return "a name with a slash or a NUL"
    if not 0 <= entry.mode < 2**16:
        return "a number out of range"
    if _DETAIL_OF_TYPE.get(stat.S_IFMT(entry.mode)) is not type(entry.detail):
        return f"mode {entry.mode:#o} is not of its type"
    if not (0 <= entry.uid < 2**32 and 0 <= entry.gid < 2**32):
        return "a number out of range"
    if isinstance(entry.detail, Device) and not _is_device(entry.detail):
        return "a device number out of range"
    if not -(2**63) <= entry.mtime_ns < 2**63 or len(entry.link) not in (0, 16):
        return "a time or link id out of range"
    if isinstance(entry.detail, Symlink) and not 0 < len(entry.detail.target) <= TARGET_MAX:
        return "a link target that cannot be"
    if isinstance(entry.detail, Symlink) and b"\0" in entry.detail.target:
        return "a link target with a NUL"
    if isinstance(entry.detail, Directory) and entry.link:
        return "a hard-linked directory"
    return _xattrs_problem(entry.xattrs) or _contents_problem(entry)


def _is_device(device: Device) -> bool:
    return 0 <= device.major < 2**12 and 0 <= device.minor < 2**20  # Linux's own limits


def _xattrs_problem(xattrs: Listed | Content) -> str:
    if isinstance(xattrs, Empty):
        return ""  # nearly always
    if not isinstance(xattrs, Listed):
        return content_problem(xattrs)
    if not xattrs.pairs or len(_encode(xattrs.pairs)) > XATTRS_INLINE_MAX:
        return "extended attributes that should not be listed"
    return "" if _in_order(xattrs.pairs) else "extended attributes out of order"


def _in_order(xattrs: Xattrs) -> bool:
    names = [name for name, _ in xattrs]
    return names == sorted(set(names)) and all(name and b"\0" not in name for name in names)


def _contents_problem(entry: Entry) -> str:
    detail = entry.detail
    if isinstance(detail, File):
        return content_problem(detail.content)
    if isinstance(detail, Directory):
        if not isinstance(detail.content, Empty | Tree):
            return "a directory that is no tree"
        if not length_of(detail.content) <= detail.paths <= LENGTH_MAX:
            return "fewer paths below than entries"
        if not 0 <= detail.bytes <= LENGTH_MAX:
            return "a total out of range"
        return content_problem(detail.content)
    return ""


def content_problem(content: Content) -> str:
    """What is wrong with a content's own fields; nothing, if they can be."""
    match content:
        case Empty():
            return ""
        case Inline(data):
            sound = 0 < len(data) <= INLINE_MAX
        case Block(score, length):
            sound = len(score) == SCORE_SIZE and 0 < length <= BLOCK_LENGTH_MAX
        case Tree(score, length):
            sound = len(score) == SCORE_SIZE and 0 < length <= LENGTH_MAX
    return "" if sound else "content that cannot be"


def length_of(content: Content) -> int:
    """Bytes of a file's content, entries of a directory's."""
    match content:
        case Empty():
            return 0
        case Inline(data):
            return len(data)
        case Block(_, length) | Tree(_, length):
            return length


def score_of_content(content: Content) -> Score:
    """What names a content: its block or root node, or the block its inline bytes would be."""
    match content:
        case Empty():
            return ZERO_SCORE
        case Inline(data):
            return score_of(data)
        case Block(score, _) | Tree(score, _):
            return Score(score)


def decode_item(data: bytes | memoryview) -> Item:
    """An item of a file's content.

    Raises:
        Corrupt: as `decode_entry`.
    """
    item = _decoded(_item, data, "content item")
    sound = 0 < item.length <= LENGTH_MAX
    if isinstance(item, Chunk):
        sound = sound and len(item.score) == SCORE_SIZE and item.length <= BLOCK_LENGTH_MAX
    elif isinstance(item, Slice):
        end = item.offset + item.length
        sound = sound and not content_problem(item.content)
        sound = sound and item.offset >= 0 and end <= length_of(item.content)
    if not sound:
        raise Corrupt("content item contradicts itself")
    return item


def weigh_item(data: bytes | memoryview) -> int:
    """The bytes that an encoded item of a file's content stands for.

    Raises:
        Corrupt: as `decode_item`.
    """
    return decode_item(data).length


def decode_child(data: bytes | memoryview) -> Child:
    """An inner node's item.

    Raises:
        Corrupt: as `decode_entry`.
    """
    child = _decoded(_child, data, "inner item")
    if len(child.score) != SCORE_SIZE or child.count <= 0 or not 0 <= child.total <= LENGTH_MAX:
        raise Corrupt("inner item contradicts itself")
    return child


def decode_xattrs(data: bytes) -> Xattrs:
    """Extended attributes that were too long for the entry.

    Raises:
        Corrupt: as `decode_entry`.
    """
    xattrs = _decoded(_xattrs, data, "extended attributes")
    if not _in_order(xattrs) or len(data) <= XATTRS_INLINE_MAX:
        raise Corrupt("extended attributes are not in their canonical form")
    return xattrs


def listed_xattrs(xattrs: Xattrs) -> "Empty | Listed | None":
    """Extended attributes as an entry has them; None if they are too long to be kept in it."""
    if not xattrs:
        return Empty()
    return Listed(xattrs) if len(_encode(xattrs)) <= XATTRS_INLINE_MAX else None


def scores_in(content: Content) -> Iterator[bytes]:
    """The score a content refers to directly, if any."""
    if isinstance(content, Block | Tree):
        yield content.score
