"""What a survey of a disk tells, in order: its volumes, and of each the files inside.

A volume is a partition, a logical volume, or a file system that has the disk to itself. After a
`Volume` come its `Node`s and `Free`s, if it holds a file system that can be read, and an `Ended`.
The first two come encoded, many in one `Inside`, for whoever works for the run to decode; so does
an `Ended` that the volume's own parser told, and the first of these counts. All offsets are bytes
from the beginning of the disk, whatever lies between.
"""

import msgspec

from ventifs.tree.objects.records import Xattrs

Range = tuple[int, int]  # start and end on the disk
Extent = tuple[int, int, int]  # offset in the file, offset on the disk, length; written data only


class Volume(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="event", tag=0):
    """One volume begins.

    Attributes:
        name: "1" and on for partitions, as Linux numbers them; "vg0-root" for logical volumes.
        logical: whether it is a logical volume.
        ranges: where its bytes are, in its own order; one for partitions.
        type: the partition's type: a GUID, or two hex digits; empty for others.
        title: the name that the partition table has for it, if any.
        filesystem: "ext4", "xfs", ...: what is inside, as `blkid` calls it; empty if unknown.
        uuid, label: of the file system, if it has them.
    """

    name: str
    logical: bool
    ranges: tuple[Range, ...]
    type: str = ""
    title: str = ""
    filesystem: str = ""
    uuid: str = ""
    label: str = ""


class Inode(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file of a file system, whatever its names.

    Attributes:
        mode: type and permission bits, as in st_mode.
        links: how many names its file system says it has.
        size: bytes, of a regular file.
        rdev: major and minor number, of a device.
        target: of a symbolic link.
        xattrs: sorted by name, as listxattr and getxattr show them to root: `security.*`,
            `system.posix_acl_*`, `user.*`, `trusted.*`.
        extents: of a regular file, in order of their offsets in it, without overlaps, within its
            size rounded up to the file system's block; unwritten extents are left out, for they
            read as zeros.
        data: the bytes of a regular file that are kept elsewhere than in extents (inline data).
    """

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    links: int
    size: int = 0
    rdev: tuple[int, int] = (0, 0)
    target: bytes = b""
    xattrs: Xattrs = ()
    extents: tuple[Extent, ...] = ()
    data: bytes = b""


class Node(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="event", tag=1):
    """A name in the volume's file system.

    Attributes:
        key: its path below the root of the file system, with NUL between names; empty for the root
            itself. A directory comes before what is in it.
        number: the inode's.
        inode: what it is; None when it was told with another name of the same number, and None
            with a problem when it cannot be told what it is or what is in it: the name is left out,
            unless another of the same number was told.
        problem: why the inode is not told as it should be: something of it could not be read.
    """

    key: bytes
    number: int
    inode: Inode | None
    problem: str = ""


class Free(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="event", tag=2):
    """Ranges of the disk that the volume's file system does not use, in order.

    Told only if it was asked for, and if the file system is clean: a journal that is to be
    replayed may have allocated them.
    """

    ranges: tuple[Range, ...]


class Ended(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="event", tag=3):
    """All is told of the volume.

    Attributes:
        problem: why its files are not told, or not all; empty if they are, or there are none.
        notes: what else people should know: a journal that was not replayed, say.
    """

    problem: str = ""
    notes: tuple[str, ...] = ()


class Noted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="event", tag=4):
    """Something about the disk as a whole: a damaged partition table, say. Between volumes."""

    text: str


class Inside(msgspec.Struct, frozen=True):
    """What a volume's own parser told, some of it.

    Attributes:
        body: nodes and free ranges in order, and its own `Ended` if that is all, as MessagePack;
            or garbage, if the parser has damaged its memory.
    """

    body: bytes


Event = Volume | Node | Free | Ended | Noted
Told = Node | Free | Ended  # all that a volume's own parser can know
Surveyed = Volume | Inside | Ended | Noted

_decode = msgspec.msgpack.Decoder(list[Told]).decode


def told_in(body: bytes) -> list[Told]:
    """What an `Inside` holds; of garbage, that it is. What comes after it may be sound."""
    try:
        return _decode(body)
    except msgspec.DecodeError:
        return [Ended("the parser told what it cannot know")]
