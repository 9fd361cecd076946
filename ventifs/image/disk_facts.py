"""The facts of a disk: an attribute that marks a version as an image's and describes the disk.

The root of such a version is a directory that holds `disk.img`, and `partitions`, `volumes` and
`files` as far as there are any. It has one attribute, the facts: canonical JSON. They describe the
disk alone, so they are the same whatever the format of the image.
"""

import msgspec

from ventifs.store import Store
from ventifs.tree.objects.content import read_whole
from ventifs.tree.objects.directory import look_up
from ventifs.tree.objects.records import Directory, Entry, Listed, RegularFile, decode_xattrs

MARK = b"user.ventifs.image"
DISK = b"disk.img"


class VolumeFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """One volume.

    Attributes:
        name: what its file in `partitions` or `volumes`, and its directory in `files`, are called.
        logical: whether it is a logical volume.
        start: of its first byte on the disk.
        size: bytes.
        type, title: as the partition table has them.
        filesystem, uuid, label: of what is inside.
        notes: for the user, a line each.
    """

    name: str
    start: int
    size: int
    logical: bool = False
    type: str = ""
    title: str = ""
    filesystem: str = ""
    uuid: str = ""
    label: str = ""
    notes: tuple[str, ...] = ()


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """One disk.

    Attributes:
        size: bytes.
        volumes: in order.
        notes: about the disk as a whole.
        free_dropped: whether what file systems did not use was archived as zeros.
    """

    size: int
    volumes: tuple[VolumeFacts, ...] = ()
    notes: tuple[str, ...] = ()
    free_dropped: bool = False


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Facts).decode


def encode_facts(facts: Facts) -> bytes:
    """The attribute's value."""
    return _encode(facts)


def facts_of(store: Store, root: Entry) -> Facts | None:
    """The facts of an image's version; None for the root of any other.

    Raises:
        Corrupt, NotStored: where the archive is damaged.
    """
    if not root.is_directory:
        return None
    pairs = (
        root.xattrs.pairs
        if isinstance(root.xattrs, Listed)
        else decode_xattrs(data)
        if (data := read_whole(store, root.xattrs))
        else ()
    )
    for name, value in pairs:
        if name == MARK:
            try:
                return _decode(value)
            except msgspec.DecodeError:
                return None  # another program's attribute of that name
    return None


def disk_of(store: Store, root: Entry) -> Entry | None:
    """The entry of the whole disk of an image's version; None for the root of any other.

    Raises:
        Corrupt, NotStored: as `facts_of`.
    """
    if facts_of(store, root) is None:
        return None
    assert isinstance(root.detail, Directory)
    entry = look_up(store, root.detail.content, DISK)
    return entry if entry is not None and isinstance(entry.detail, RegularFile) else None
