"""Opens a disk whose format is known: `open_disk`. Follows chains of backing files.

No format is ever detected by content here. The caller names the format of the first layer
(`choice`), and each layer names the format of the layer below, which is raw if it is not named.
Only a `ReferenceOpener` opens the files that layers refer to.
"""

import os

from ventifs.image.disk import FORMATS, Disk, ImageError
from ventifs.image.formats.advice import command_line
from ventifs.image.formats.probe import HEAD, TAIL, Guess, probe
from ventifs.image.formats.qcow2 import Qcow2Disk
from ventifs.image.formats.qcow2_header import Qcow2Header, parse
from ventifs.image.formats.qemu_names import FORMATS as QEMU_FORMATS
from ventifs.image.formats.qemu_names import named
from ventifs.image.formats.raw import RawDisk
from ventifs.image.formats.readers import open_foreign
from ventifs.image.formats.references import ReferenceOpener, References
from ventifs.image.formats.remedies import Remedy
from ventifs.text import printable

LAYERS_MAX = 64
_SHOWN_MAX = 200  # characters of a name, in a message
_QEMU_NAMES = {"vhd": "vpc"}  # where they differ from ours
_CONTAINERS = (*FORMATS[1:], "foreign", "luks")  # refused as the content of an unnamed format
_Identity = tuple[int, int]


def open_disk(
    path: str | os.PathLike[str],
    format: str,  # noqa: A002
    opener: ReferenceOpener | None = None,
) -> Disk:
    """Open an image file or a block device; the caller closes it.

    Args:
        path: of the file or device.
        format: one of `FORMATS`.
        opener: opens the files that it refers to; without one, no reference is followed.

    Raises:
        ImageError: it cannot be read as such a disk; the message says why and what to do.
    """
    return read_as(RawDisk(os.fspath(path)), format, opener)


def read_as(file: RawDisk, format: str, opener: ReferenceOpener | None = None) -> Disk:  # noqa: A002
    """As `open_disk`, for an open file. The disk owns the file; on an error it is closed.

    Raises:
        ImageError: as `open_disk`.
    """
    return _Chain(opener or References(), file).open(file, format)


def look(file: RawDisk) -> Guess:
    """What a file seems to be by its content, which a guest may have forged.

    Raises:
        ImageError: it cannot be read.
    """
    head = file.read_upto(0, HEAD)
    return probe(head, file.read_upto(max(0, file.size - TAIL), TAIL), file.size)


class _Chain:
    """The layers opened so far, from the image down to its lowest layer."""

    def __init__(self, opener: ReferenceOpener, top: RawDisk) -> None:
        self._opener = opener
        self._top = top
        self._layers: list[_Identity] = []

    def open(self, file: RawDisk, format: str) -> Disk:  # noqa: A002
        try:
            self._enter(file)
            if format == "raw":
                return file
            if format == "qcow2":
                return self._qcow2(file)
        except BaseException:
            file.close()
            raise
        return open_foreign(file, format, self._opener)

    def _enter(self, file: RawDisk) -> None:
        if file.identity in self._layers:
            raise ImageError(f"{file.label}: its backing files lead back to itself")
        if len(self._layers) == LAYERS_MAX:
            raise ImageError(
                f"{file.label}: more than {LAYERS_MAX} images, each the backing file of another"
                + self._joined()
            )
        self._layers.append(file.identity)

    def _qcow2(self, file: RawDisk) -> Disk:
        header = parse(file.read_upto, file.label)
        backing: Disk | None = None
        data: RawDisk | None = None
        try:
            if header.external:
                data = self._data_file(header, file)
            if header.backing:
                backing = self._backing(header, file)
            disk = Qcow2Disk(file, header, backing, data)
        except BaseException:
            if data is not None:
                data.close()
            if backing is not None:
                backing.close()
            raise
        if backing is not None:
            disk.notes += [f"backing file {backing.label}: {note}" for note in backing.notes]
        return disk

    def _data_file(self, header: Qcow2Header, file: RawDisk) -> RawDisk:
        if not header.data_file:
            raise ImageError(f"{file.label}: its data is in another file, whose name it lacks")
        below, kind = self._referred(header.data_file, "", file, "data file")
        if kind not in ("", "raw"):
            below.close()
            raise ImageError(f"{file.label}: its data file is an image, and not raw")
        return below

    def _backing(self, header: Qcow2Header, file: RawDisk) -> Disk:
        below, kind = self._referred(header.backing, header.backing_format, file, "backing file")
        try:
            format = self._format(kind, below, header, file)  # noqa: A001
        except BaseException:
            below.close()
            raise
        try:
            return self.open(below, format)
        except ImageError as error:
            if file is not self._top:  # an error names the topmost image, and the one at fault
                raise
            raise ImageError(f"{file.label}: its backing file cannot be used: {error}") from error

    def _referred(
        self,
        name: bytes,
        format: str,  # noqa: A002
        file: RawDisk,
        what: str,
    ) -> tuple[RawDisk, str]:
        """Open what a layer refers to; also QEMU's name of its format, empty if not named."""
        try:
            path, kind = named(name, format)
        except ImageError as error:
            raise ImageError(
                f"{file.label}: its {what} is '{_shown(name)}': {error}" + self._joined()
            ) from error
        try:
            return self._opener.open(path, file), kind
        except ImageError as error:
            if str(error).startswith(f"{file.label}: "):
                raise
            raise ImageError(f"{file.label}: its {what} cannot be used: {error}") from error

    def _format(self, kind: str, below: RawDisk, header: Qcow2Header, file: RawDisk) -> str:
        """The format of a lower layer: the one that is named, or raw.

        Raises:
            ImageError: the format is not read here; or none is named, and the layer's content is
                that of another format than raw.
        """
        if kind:
            if kind in QEMU_FORMATS:
                return QEMU_FORMATS[kind]
            raise ImageError(
                f"{file.label}: its backing file {below.label} is of the format "
                f"'{printable(kind.encode())}', which is not read here" + self._joined()
            )
        guess = look(below)
        if guess.kind not in _CONTAINERS:
            return "raw"
        raise ImageError(
            f"{file.label}: it has no format for its backing file {below.label}, which so is raw, "
            f"but is {guess.what} by its content: write down which it is, "
            + " or ".join(f"'{line}'" for line in _rebased(guess, header, file))
        )

    def _joined(self) -> str:
        """The remedy for layers that cannot be read here."""
        return f": {Remedy.FLATTEN_QCOW2.line(self._top.place)}"


def _shown(name: bytes) -> str:
    """A name in a header, for a message, shortened to `_SHOWN_MAX` characters."""
    shown = printable(name.rstrip(b"\0"))
    return shown if len(shown) <= _SHOWN_MAX else shown[:_SHOWN_MAX] + "..."


def _rebased(guess: Guess, header: Qcow2Header, file: RawDisk) -> list[str]:
    """Commands that write the format of a layer's backing file into its header."""
    kinds = [_QEMU_NAMES.get(guess.kind, guess.kind)] if guess.kind in FORMATS else []
    name = os.fsdecode(header.backing.rstrip(b"\0"))
    return [
        command_line("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", kind, "-b", name, file.place)
        for kind in (*kinds, "raw")
    ]
