"""Opens the files that an image refers to: backing files, external data files, VMDK extents.

An image names host files, and its author is not trusted. So only two kinds of files are opened:
regular files beneath a directory that the administrator has named, and block devices by exactly
the path that the administrator has named. A relative name starts at the directory of the layer that
names it. The path down from the administrator's directory is walked by descriptors, and no symbolic
link on it is followed, whatever changes meanwhile. Names are plain paths here: `qemu_names` parses
what else QEMU writes into its headers.
"""

import os
import stat
from typing import NamedTuple, Protocol

from ventifs.image.disk import ImageError
from ventifs.image.formats.advice import FOLLOW_BACKING, FOLLOW_DEVICE, NOTHING, Advice, Following
from ventifs.image.formats.raw import RawDisk
from ventifs.text import printable
from ventifs.tree.archive.read_batches import reason_of

PATH_BYTES_MAX = 4095  # Linux's
NOTES_MAX = 16

_THROUGH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ReferenceOpener(Protocol):
    """Opens the files that a layer refers to, if that is allowed."""

    def open(self, name: bytes, layer: RawDisk) -> RawDisk:
        """Open a file or device by a path that a layer names; the caller closes it.

        Raises:
            ImageError: the path may not be followed, and the message has the command that allows
                it; or the file cannot be opened.
        """


class References:
    """The opener of one run."""

    def __init__(self, following: Following = NOTHING, advice: Advice | None = None) -> None:
        """Follow what `following` allows; `advice` words the command that allows more."""
        self._following = following
        self._advice = advice or Advice(following=following)
        self._read: dict[str, str] = {}  # what was opened, and what allowed it

    def open(self, name: bytes, layer: RawDisk) -> RawDisk:
        """See `ReferenceOpener`.

        Raises:
            ImageError: as `ReferenceOpener.open`.
        """
        if not name or b"\0" in name or len(name) > PATH_BYTES_MAX:
            raise ImageError(f"{layer.label}: it refers to a file by a name that no file can have")
        target = _target(name, layer)
        for device in self._following.devices:
            if target.is_at(device):
                return self._noted(_device(device), FOLLOW_DEVICE, device)
        out: ImageError | None = None
        for way, directory in self._ways(target):
            try:
                opened = _PathWalk(directory, layer, self._advice).open(way)
            except _WayOut as error:
                out = out or error
            else:
                return self._noted(opened, FOLLOW_BACKING, directory)
        if out is not None:
            raise out
        if target.path.startswith(b"/dev/") and not target.path.startswith(b"/dev/shm/"):
            leave = self._advice.follow_device(target.path)
        else:
            leave = self._advice.follow_backing(target.directory)
        raise _refused(layer, target.path, "which is not followed unless you allow it", leave)

    def notes(self) -> list[str]:
        """Lines for people: each file that was opened, and the option that allowed it."""
        lines = [
            f"read, too: {label}, by {option}, which is kept with the name"
            for label, option in self._read.items()
        ]
        more = len(lines) - NOTES_MAX
        return lines if more <= 0 else [*lines[:NOTES_MAX], f"read, too: {more:,} more files"]

    def _noted(self, opened: RawDisk, option: str, allowed: bytes) -> RawDisk:
        self._read[opened.label] = f"{option} {printable(allowed)}"
        return opened

    def _ways(self, target: "_Target") -> list[tuple[list[bytes], bytes]]:
        """The ways down to a target, and the directory that each begins at; the shortest first."""
        found = [(target.way_from(each), each) for each in self._following.directories]
        ways = [(way, directory) for way, directory in found if way is not None]
        return sorted(ways, key=lambda each: len(each[0]))


class _WayOut(ImageError):
    """A way leads out of the directory that it begins at."""


class _Target(NamedTuple):
    """Where a reference leads: down from a directory.

    Attributes:
        start: components of a directory, none of them a symbolic link.
        rest: the components that follow, as in the image; the first is not `..`.
    """

    start: list[bytes]
    rest: list[bytes]

    @property
    def path(self) -> bytes:
        """The whole path."""
        return _joined([*self.start, *self.rest])

    @property
    def directory(self) -> bytes:
        """The lowest directory that the whole way lies beneath."""
        depth = len(self.start)
        lowest = depth + len(self.rest)
        for component in self.rest[:-1]:
            depth += -1 if component == b".." else 1
            if component == b"..":
                lowest = min(lowest, depth)
        return _joined([*self.start, *self.rest][: max(0, min(lowest, depth))])

    def is_at(self, device: bytes) -> bool:
        """Whether this is a device's path, as given or with its directory resolved."""
        directory, name = os.path.split(device)
        real = [*_parts(os.path.realpath(directory)), name]
        return [*self.start, *self.rest] in (_parts(device), real)

    def way_from(self, directory: bytes) -> list[bytes] | None:
        """The components from a directory down; None if the target does not lie beneath it.

        The directory's path may contain symbolic links, since the administrator gave it.
        """
        for top in (_parts(directory), _parts(os.path.realpath(directory))):
            more = len(top) - len(self.start)
            if more <= 0 and self.start[: len(top)] == top:
                return [*self.start[len(top) :], *self.rest]
            if more > 0 and [*self.start, *self.rest[:more]] == top:
                return self.rest[more:]
        return None


def _target(name: bytes, layer: RawDisk) -> _Target:
    start: list[bytes] = []
    if not name.startswith(b"/"):
        start = _parts(os.path.dirname(os.fsencode(layer.place)))
    rest = _parts(name)
    while rest[:1] == [b".."]:  # as the kernel does: no component of `start` is a link
        del start[-1:], rest[0]
    return _Target(start, rest)


class _PathWalk:
    """Walks down from a directory by descriptors."""

    def __init__(self, directory: bytes, layer: RawDisk, advice: Advice) -> None:
        self._given = _parts(directory)
        self._real = os.path.realpath(directory)
        self._layer = layer
        self._advice = advice
        self._walked: list[bytes] = []  # components from the directory to where the walk is

    def open(self, way: list[bytes]) -> RawDisk:
        """Open a regular file.

        Raises:
            ImageError: there is none, or there is a symbolic link on the way.
        """
        name = way[-1] if way else b"."
        shown = _joined([*self._given, *way])
        fds: list[int] = []
        try:
            fds.append(os.open(self._real, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            for component in way[:-1]:
                self._step(component, fds, shown)
            self._check(name, fds[-1], shown)
            fd = os.open(name, _READ, dir_fd=fds[-1])
        except OSError as error:
            reason = reason_of(error)
            raise ImageError(f"{printable(shown)}: cannot be opened: {reason}") from error
        finally:
            for each in fds:
                os.close(each)
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # replaced since it was checked
            os.close(fd)
            raise ImageError(f"{printable(shown)}: not a regular file")
        return RawDisk(os.fsdecode(_joined([*_parts(self._real), *self._walked, name])), fd)

    def _step(self, component: bytes, fds: list[int], shown: bytes) -> None:
        if component == b"..":
            if len(fds) == 1:
                what = "whose way leads out of what you allow"
                command = self._advice.follow_backing(os.path.dirname(self._real))
                raise _WayOut(str(_refused(self._layer, shown, what, command)))
            os.close(fds.pop())
            self._walked.pop()
            return
        if stat.S_ISLNK(os.stat(component, dir_fd=fds[-1], follow_symlinks=False).st_mode):
            link = _joined([*self._given, *self._walked, component])
            raise _refused(
                self._layer,
                shown,
                f"and on the way is a symbolic link, {printable(link)}, which "
                "is not followed unless you allow it",
                self._advice.follow_backing(link),
            )
        fds.append(os.open(component, _THROUGH, dir_fd=fds[-1]))
        self._walked.append(component)

    def _check(self, name: bytes, directory: int, shown: bytes) -> None:
        """Check the type before opening: opening a device may have side effects."""
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        if stat.S_ISBLK(mode):
            raise _refused(
                self._layer,
                shown,
                "a block device, which is not followed unless you allow it",
                self._advice.follow_device(shown),
            )
        if stat.S_ISLNK(mode):
            raise ImageError(
                f"{self._layer.label}: it refers to {printable(shown)}, which is a symbolic link, "
                "and none is followed: put the file itself in its place"
            )
        if not stat.S_ISREG(mode):
            raise ImageError(f"{printable(shown)}: not a regular file")


def _device(path: bytes) -> RawDisk:
    """Open the block device at a path that the administrator gave."""
    shown = printable(path)
    try:
        found = stat.S_ISBLK(os.stat(path).st_mode)  # before it is opened, see `_PathWalk`
    except OSError as error:
        raise ImageError(f"{shown}: cannot be opened: {reason_of(error)}") from error
    if found:
        device = RawDisk(os.fsdecode(path))
        if stat.S_ISBLK(device.status.st_mode):
            return device
        device.close()
    raise ImageError(f"{shown}: not a block device, which {FOLLOW_DEVICE} is for")


def _refused(layer: RawDisk, path: bytes, what: str, command: str) -> ImageError:
    return ImageError(
        f"{layer.label}: it refers to {printable(path)}, {what}; if you trust the image with what "
        f"lies there: '{command}'"
    )


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def _joined(parts: list[bytes]) -> bytes:
    return b"/" + b"/".join(parts)
