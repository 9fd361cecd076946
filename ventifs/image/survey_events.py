"""The events of a disk's survey, in order: its volumes, and the files inside each.

A volume is a partition, a logical volume, or a file system that has the disk to itself. After a
`Volume` come its `FoundName`s and `Free`s, if it holds a file system that can be read, and an
`Ended`. Names and free ranges come encoded, many in one `VolumeBatch`, which a worker of the run
decodes. An `Ended` from the volume's own parser comes in an `VolumeBatch`, too; the first `Ended`
counts. All offsets are bytes from the beginning of the disk, whatever lies between.
"""

import msgspec

from ventifs.tree.objects.records import Xattrs

Range = tuple[int, int]  # start and end (exclusive) on the disk, in bytes
Extent = tuple[int, int, int]  # offset in the file, offset on the disk, length; written data only


class Volume(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="event", tag=0):
    """One volume begins.

    Attributes:
        name: "1" and on for partitions, as Linux numbers them; "vg0-root" for logical volumes.
        logical: whether it is a logical volume.
        ranges: where its bytes are, in its own order; one for partitions.
        type: the partition's type: a GUID, or two hex digits; empty for others.
        title: its name in the partition table, if any.
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


class FoundName(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="event", tag=1):
    """A name in the volume's file system.

    Attributes:
        key: its path below the root of the file system, with NUL between names; empty for the root
            itself. A directory comes before what is in it.
        number: the inode's.
        inode: the file. None if another name of the same number came with it. None with a problem
            if the file, or what is in it, could not be read: then the name is left out, unless
            another name of the same number came with the inode.
        problem: why the inode is not complete: part of it could not be read.
    """

    key: bytes
    number: int
    inode: Inode | None
    problem: str = ""


class Free(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="event", tag=2):
    """Ranges of the disk that the volume's file system does not use, in order.

    Reported only on request, and only if the file system is clean: a journal that is still to be
    replayed may have allocated them.
    """

    ranges: tuple[Range, ...]


class Ended(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="event", tag=3):
    """The end of a volume's events.

    Attributes:
        problem: why files that should be listed are missing; empty if none are.
        notes: more for the user: for example, that a journal was not replayed.
    """

    problem: str = ""
    notes: tuple[str, ...] = ()


class Noted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="event", tag=4):
    """A note on the disk as a whole, such as a damaged partition table; comes between volumes."""

    text: str


class VolumeBatch(msgspec.Struct, frozen=True):
    """Some of the events of a volume's own parser.

    Attributes:
        body: nodes and free ranges in order, and the parser's own `Ended` at the end, as
            MessagePack; or garbage, if the parser has damaged its memory.
    """

    body: bytes


Event = Volume | FoundName | Free | Ended | Noted
VolumeEvent = FoundName | Free | Ended  # the events that a volume's own parser may send
Surveyed = Volume | VolumeBatch | Ended | Noted

_decode = msgspec.msgpack.Decoder(list[VolumeEvent]).decode


def told_in(body: bytes) -> list[VolumeEvent]:
    """The events in a `VolumeBatch`; garbage is an `Ended` with a problem. More may be valid."""
    try:
        return _decode(body)
    except msgspec.DecodeError:
        return [Ended("the parser told what it cannot know")]
