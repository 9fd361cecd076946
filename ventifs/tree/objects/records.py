"""The records that trees are made of, and their canonical bytes.

Every record is a MessagePack array and has exactly one encoding. Decoders refuse bytes that do not
encode again to the same bytes, so equal records have equal scores. FORMAT.md gives the layouts.
File names, link targets and extended attributes are bytes; version names are text.

Each rule stands here once, in a function that reports what is wrong with a record. Decoders raise
`Corrupt` for it and encoders raise `Unfit`, so what is written can be read.
"""

import stat
from typing import TypeVar

import msgspec

from ventifs.errors import Corrupt, VentifsError
from ventifs.store import SCORE_SIZE, ZERO_SCORE, Score, score_of

INLINE_MAX = 32  # bytes of content kept in the entry itself
NAME_MAX = 255
TARGET_MAX = 4095
XATTRS_INLINE_MAX = 512  # encoded; more becomes content
LENGTH_MAX = 2**63 - 1
BLOCK_LENGTH_MAX = 1 << 20  # the store's largest block
TIME_NS_MIN, TIME_NS_MAX = -(2**63), 2**64 - 1  # what MessagePack holds: years 1677 to 2554
_DOTS = frozenset((b".", b".."))


class Unfit(VentifsError):
    """A record breaks a rule; it is not written, because it could not be read back."""


class _Struct(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    pass


class Empty(_Struct, frozen=True, tag=0):
    """No content: an empty file, an empty directory."""


class Inline(_Struct, frozen=True, tag=1):
    """Up to 32 bytes, kept in the record that refers to them."""

    data: bytes


class Block(_Struct, frozen=True, tag=2):
    """One block; `length` counts the trailing zeros that the store leaves out."""

    score: bytes
    length: int


class Tree(_Struct, frozen=True, tag=3):
    """The root node of a search tree: of a file's content items, or of a directory's entries.

    `length` is the content's bytes for a file, the number of entries for a directory.
    """

    score: bytes
    length: int


Content = Empty | Inline | Block | Tree


class Hole(_Struct, frozen=True, tag=0):
    """A run of zeros, which is not stored."""

    length: int


class Chunk(_Struct, frozen=True, tag=1):
    """A block of a file, by score."""

    score: bytes
    length: int


class Slice(_Struct, frozen=True, tag=2):
    """A part of another content; disk images consist of slices."""

    content: Content
    offset: int
    length: int


Item = Hole | Chunk | Slice


class Child(_Struct, frozen=True):
    """What an inner node records about a node below it.

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


class RegularFile(_Struct, frozen=True, tag=0):
    """A regular file."""

    content: Content


class Directory(_Struct, frozen=True, tag=1):
    """A directory, with totals of everything below: paths, and bytes of regular files."""

    content: Content
    paths: int
    bytes: int


class Symlink(_Struct, frozen=True, tag=2):
    """A symbolic link."""

    target: bytes


class Device(_Struct, frozen=True, tag=3):
    """A character or block device."""

    major: int
    minor: int


class Special(_Struct, frozen=True, tag=4):
    """A FIFO or a socket."""


Detail = RegularFile | Directory | Symlink | Device | Special
Xattrs = tuple[tuple[bytes, bytes], ...]  # (name, value), sorted by name


class Listed(_Struct, frozen=True, tag=4):
    """Extended attributes kept in the entry: up to 512 bytes encoded."""

    pairs: Xattrs


class Entry(_Struct, frozen=True):
    """Everything about one name in a directory but its children.

    Attributes:
        name: 1 to 255 bytes, no NUL, no `/`, not `.` or `..`; empty for a version's root.
        mode: type and permission bits, as in st_mode.
        mtime_ns: nanoseconds since 1970; negative before.
        detail: the fields of this type of file.
        xattrs: empty, listed, or the content that holds their encoding, if too long to list.
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
        return length_of(self.detail.content) if isinstance(self.detail, RegularFile) else 0

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
    stat.S_IFREG: RegularFile,
    stat.S_IFDIR: Directory,
    stat.S_IFLNK: Symlink,
    stat.S_IFCHR: Device,
    stat.S_IFBLK: Device,
    stat.S_IFIFO: Special,
    stat.S_IFSOCK: Special,
}


def encode(record: msgspec.Struct | Xattrs) -> bytes:
    """A record's canonical bytes; the caller knows that the record keeps the rules."""
    return _encode(record)


def encode_entry(entry: Entry, *, root: bool = False) -> bytes:
    """An entry's canonical bytes, which `decode_entry` accepts.

    Raises:
        Unfit: naming the entry, when it breaks a rule.
    """
    # Hot: once for every file that is read; see docs/performance.md.
    problem = entry_problem(entry, root=root)
    if problem:
        raise Unfit(f"entry {entry.name[:NAME_MAX]!r} cannot be stored: {problem}")
    return _encode(entry)


def encode_item(item: Item) -> bytes:
    """A content item's canonical bytes, which `decode_item` accepts.

    Raises:
        Unfit: when it breaks a rule.
    """
    if not _is_sound_item(item):
        raise Unfit("a content item that contradicts itself cannot be stored")
    return _encode(item)


def encode_child(child: Child) -> bytes:
    """An inner node's item as canonical bytes, which `decode_child` accepts.

    Raises:
        Unfit: when it breaks a rule.
    """
    if not _is_sound_child(child):
        raise Unfit("a tree node of more than 2^63 - 1 bytes or items cannot be stored")
    return _encode(child)


def bounded_total(total: int) -> int:
    """A sum of sizes, limited to the 2^63 - 1 that a directory can hold."""
    return min(total, LENGTH_MAX)


def clamped_ns(time_ns: int) -> int:
    """The nearest time that an entry can hold."""
    return min(max(time_ns, TIME_NS_MIN), TIME_NS_MAX)


def time_problem(time_ns: int) -> str:
    """The problem to report for a time that an entry cannot hold; empty if it can."""
    if TIME_NS_MIN <= time_ns <= TIME_NS_MAX:
        return ""
    return f"its time is {'before 1677' if time_ns < 0 else 'after 2554'}; the nearest is kept"


def _decoded(decoder: "msgspec.msgpack.Decoder[T]", data: bytes | memoryview, what: str) -> T:
    try:
        record = decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Corrupt(f"{what} cannot be read: {error}") from None
    if _encode(record) != data:
        raise Corrupt(f"{what} is not in its canonical form")
    return record


def own_entry(data: bytes) -> Entry:
    """Decode, without verifying, an entry encoded here or whose bytes carry a check."""
    return _entry.decode(data)


def own_item(data: bytes | msgspec.Raw) -> Item:
    """Decode, without verifying, an item encoded here or in a node whose score holds."""
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
    """What is wrong with an entry's fields; empty if they are valid."""
    # Hot: for every file that is read, and every archived entry that is walked; see
    # docs/performance.md.
    name, mode, detail = entry.name, entry.mode, entry.detail
    if bool(name) == root or len(name) > NAME_MAX or name in _DOTS:
        return "a name that cannot be"
    if b"/" in name or b"\0" in name:
        return "a name with a slash or a NUL"
    if not (0 <= mode < 65536 and 0 <= entry.uid < 4294967296 and 0 <= entry.gid < 4294967296):
        return "a number out of range"
    kind = type(detail)
    if _DETAIL_OF_TYPE.get(mode & 0xF000) is not kind:
        return f"mode {mode:#o} is not of its type"
    if not TIME_NS_MIN <= entry.mtime_ns <= TIME_NS_MAX or len(entry.link) not in (0, 16):
        return "a time or link id out of range"
    xattrs = entry.xattrs
    if type(xattrs) is not Empty and (problem := _xattrs_problem(xattrs)):
        return problem
    if kind is RegularFile:
        return content_problem(detail.content)  # type: ignore[union-attr]
    return _detail_problem(entry)


def _detail_problem(entry: Entry) -> str:
    """What is wrong with the detail of anything but a regular file; empty if it is valid."""
    match entry.detail:
        case Device(major, minor):  # Linux's own limits
            sound = 0 <= major < 2**12 and 0 <= minor < 2**20
            return "" if sound else "a device number out of range"
        case Symlink(target):
            if not 0 < len(target) <= TARGET_MAX:
                return "a link target that cannot be"
            return "a link target with a NUL" if b"\0" in target else ""
        case Directory() as directory:
            if entry.link:
                return "a hard-linked directory"
            return _directory_problem(directory)
    return ""


def _directory_problem(directory: Directory) -> str:
    if not isinstance(directory.content, Empty | Tree):
        return "a directory that is no tree"
    if not length_of(directory.content) <= directory.paths <= LENGTH_MAX:
        return "fewer paths below than entries"
    if not 0 <= directory.bytes <= LENGTH_MAX:
        return "a total out of range"
    return content_problem(directory.content)


def _xattrs_problem(xattrs: Listed | Content) -> str:
    if not isinstance(xattrs, Listed):
        return content_problem(xattrs)
    if not xattrs.pairs or len(_encode(xattrs.pairs)) > XATTRS_INLINE_MAX:
        return "extended attributes that should not be listed"
    return "" if _in_order(xattrs.pairs) else "extended attributes out of order"


def _in_order(xattrs: Xattrs) -> bool:
    names = [name for name, _ in xattrs]
    return names == sorted(set(names)) and all(name and b"\0" not in name for name in names)


def content_problem(content: Content) -> str:
    """What is wrong with a content's own fields; empty if they are valid."""
    kind = type(content)  # quicker than `match`, and there is one for every file
    if kind is Block:
        sound = len(content.score) == SCORE_SIZE and 0 < content.length <= BLOCK_LENGTH_MAX  # type: ignore[union-attr]
    elif kind is Tree:
        sound = len(content.score) == SCORE_SIZE and 0 < content.length <= LENGTH_MAX  # type: ignore[union-attr]
    elif kind is Inline:
        sound = 0 < len(content.data) <= INLINE_MAX  # type: ignore[union-attr]
    else:
        sound = True
    return "" if sound else "content that cannot be"


def length_of(content: Content) -> int:
    """The number of bytes of a file's content, or of entries of a directory's."""
    kind = type(content)  # hot, as in `content_problem`
    if kind is Block or kind is Tree:
        return content.length  # type: ignore[union-attr]
    return len(content.data) if kind is Inline else 0  # type: ignore[union-attr]


def score_of_content(content: Content) -> Score:
    """The score of a content: of its block, its root node, or a block of its inline bytes."""
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
    if not _is_sound_item(item):
        raise Corrupt("content item contradicts itself")
    return item


def _is_sound_item(item: Item) -> bool:
    if not 0 < item.length <= LENGTH_MAX:
        return False
    if isinstance(item, Chunk):
        return len(item.score) == SCORE_SIZE and item.length <= BLOCK_LENGTH_MAX
    if isinstance(item, Slice):
        end = item.offset + item.length
        sound = not content_problem(item.content)
        return sound and item.offset >= 0 and end <= length_of(item.content)
    return True


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
    if not _is_sound_child(child):
        raise Corrupt("inner item contradicts itself")
    return child


def _is_sound_child(child: Child) -> bool:
    sound = len(child.score) == SCORE_SIZE and 0 <= child.total <= LENGTH_MAX
    return sound and 0 < child.count <= LENGTH_MAX


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
    """Extended attributes as an entry holds them; None if they are too long for it.

    Raises:
        Unfit: when they are not sorted by name, each name once, or a name is empty or has a NUL.
    """
    if not xattrs:
        return Empty()
    if not _in_order(xattrs):
        raise Unfit("extended attributes cannot be stored: a name is empty, or there twice")
    return Listed(xattrs) if len(_encode(xattrs)) <= XATTRS_INLINE_MAX else None
