"""The mounts of this process's namespace: where a directory is in its file system.

Two paths may lead to one directory by bind mounts. A `DevicePath` is the same for all of them, and
lies beneath that of every directory above it, whatever is mounted where. See proc(5), mountinfo.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_ESCAPE = re.compile(rb"\\([0-7]{3})")


class DevicePath(NamedTuple):
    """A path within a file system, from the file system's own root.

    Attributes:
        device: of the file system, as `major:minor`.
        path: absolute.
    """

    device: bytes
    path: bytes

    def holds(self, other: "DevicePath") -> bool:
        """Whether `other` is this place or one beneath it."""
        return self.device == other.device and beneath(other.path, self.path) is not None


class Mount(NamedTuple):
    """A mount.

    Attributes:
        number: its id.
        root: what is mounted.
        point: the path where it is mounted.
    """

    number: int
    root: DevicePath
    point: bytes


def beneath(path: bytes, above: bytes) -> bytes | None:
    """The path from `above` to `path`, empty if they are equal; None if it is not beneath."""
    if path == above:
        return b""
    start = above.rstrip(b"/") + b"/"
    return path[len(start) :] if path.startswith(start) else None


def joined(above: bytes, rest: bytes) -> bytes:
    """The path `rest` beneath `above`."""
    return above.rstrip(b"/") + b"/" + rest if rest else above


def mounts() -> list[Mount]:
    """All mounts that this process can see.

    Raises:
        OSError: /proc is not mounted.
    """
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        number, _, device, root, point, *_ = line.split(b" ")
        place = DevicePath(device, _unescaped(root))
        found.append(Mount(int(number), place, _unescaped(point)))
    return found


def mount_number(fd: int) -> int:
    """The id of the mount that an open file is in.

    Raises:
        OSError: /proc is not mounted.
    """
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    return int(re.search(r"^mnt_id:\s*(\d+)$", text, re.MULTILINE)[1])  # type: ignore[index]


def place_of(fd: int) -> DevicePath | None:
    """Where an open directory is; None if this process cannot see the mount that it is in.

    Raises:
        OSError: /proc is not mounted.
    """
    number, path = mount_number(fd), os.readlink(f"/proc/self/fd/{fd}".encode())
    for mount in mounts():
        if mount.number == number:
            rest = beneath(path, mount.point)
            return (
                None
                if rest is None
                else DevicePath(mount.root.device, joined(mount.root.path, rest))
            )
    return None


def ways_to(place: DevicePath) -> Iterator[bytes]:
    """The paths that lead to a place, or by a mount to a part of it.

    A path that another mount covers leads elsewhere, and is left out.

    Raises:
        OSError: /proc is not mounted.
    """
    for mount in mounts():
        rest = beneath(place.path, mount.root.path)
        if mount.root.holds(place) and rest is not None:
            way = joined(mount.point, rest)
        elif place.holds(mount.root):
            way = mount.point
        else:
            continue
        with suppress(OSError):  # it is covered by something without such a path
            fd = os.open(way, os.O_PATH | os.O_CLOEXEC)
            try:
                if mount_number(fd) == mount.number:
                    yield way
            finally:
                os.close(fd)


def _unescaped(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), field)
