"""Chooses what a source is archived as: a tar, or a disk in one of the formats. Does no I/O.

The format asked for comes first, then the one kept with the name, then the source's kind and
suffix. A raw extent of a VMDK image is raw, though its name ends in `.vmdk`. Content never chooses,
since a guest writes the content of its own disk. Content can only contradict a choice, and then a
person chooses.
"""

import os
import re
from typing import NamedTuple

from ventifs.image.disk import FORMATS, ImageError
from ventifs.image.formats.advice import Advice
from ventifs.image.formats.kept_choice import Kept, SourceType, suffix_of
from ventifs.image.formats.probe import Guess
from ventifs.image.formats.remedies import OF_KINDS
from ventifs.text import printable

TAR = "tar"

_SUFFIXES = {".img": "raw", ".raw": "raw"} | {f".{kind}": kind for kind in FORMATS if kind != "raw"}
_TAR = re.compile(
    r".*(\.tar(\.[^.]+)?|\.t(gz|az|bz|bz2|b2|z2|xz|lz|zst))", re.IGNORECASE | re.DOTALL
)
_NAMES = {"qcow2": "qcow2", "vmdk": "VMDK", "vhd": "VHD", "vhdx": "VHDX"}
_EXTENT_NOTE = (
    "a raw extent of a VMDK image by its name: the .vmdk file that names it is usually the one to "
    "archive"
)
_TOLD_BY_MAGIC = ("qcow2", "vhdx")  # without the first bytes, nothing can read it as that


class Chosen(NamedTuple):
    """What a source is archived as.

    Attributes:
        format: one of `FORMATS`, or `TAR`.
        decided: whether a person chose it, now or earlier; content is not checked then.
        why: the reason, for messages: "a tar archive by its name".
    """

    format: str
    decided: bool
    why: str


def source_of(path: str, *, kind: str) -> SourceType:
    """The source at a path, by its name alone; `kind` as in `SourceType`."""
    return SourceType(kind, suffix_of(os.fsencode(os.path.basename(path))))


def chosen(path: str, kind: str, asked: str | None, kept: Kept | None) -> Chosen:
    """Choose what a source is archived as.

    Args:
        path: of the file or device.
        kind: "file" or "device"; streams are tars.
        asked: the format asked for, if any.
        kept: the settings kept with the name, if any.
    """
    if asked:
        return Chosen(asked, decided=True, why="as asked for")
    if kind == "file" and _TAR.fullmatch(os.path.basename(path)):
        return Chosen(TAR, decided=False, why="a tar archive by its name")
    source = source_of(path, kind=kind)
    if kept is not None and kept.source == source:
        return Chosen(kept.format, decided=True, why="as the name's last version")
    return _chosen_by(source)


def _chosen_by(source: SourceType) -> Chosen:
    if source.kind == "device":
        return Chosen("raw", decided=False, why="a device, and so raw")
    if source.is_raw_extent:
        return Chosen("raw", decided=False, why="a raw extent of a VMDK image by its name")
    found = _SUFFIXES.get(os.fsdecode(source.suffix))
    if found is None:
        return Chosen("raw", decided=False, why="raw, for its name has no suffix that tells more")
    return Chosen(found, decided=False, why=f"{_NAMES.get(found, found)} by its name")


def check(choice: Chosen, guess: Guess, path: str, advice: Advice) -> None:
    """Refuse a source whose content contradicts its format, unless a person chose the format.

    `path` is absolute.

    Raises:
        ImageError: the content contradicts; the message has the commands to choose from.
    """
    if choice.decided or _agree(choice.format, guess):
        return
    if choice.format in _NAMES and guess.kind in ("raw", "unknown", "luks"):
        what = f"it is no {_NAMES[choice.format]} image, but {guess.what}"
    else:
        what = f"its content is that of {guess.what}"
    choices = [f"'{advice.choose(each)}' {_READS[each]}" for each in _choices(choice, guess)]
    raise ImageError(
        f"{printable(os.fsencode(path))}: {choice.why}, but {what}: choose: {', or '.join(choices)}"
        + _instead(guess, path)
    )


_READS = {
    "raw": "archives it bit for bit",
    TAR: "reads it as a tar archive",
    **{kind: f"reads it as {name}" for kind, name in _NAMES.items()},
}


def _agree(format: str, guess: Guess) -> bool:  # noqa: A002
    if format == "raw":
        return guess.kind in ("raw", "unknown", "luks")
    if format == TAR:  # its reader judges what is unknown; disks are refused
        return guess.kind in (TAR, "packed", "unknown")
    return guess.kind == format


def _choices(choice: Chosen, guess: Guess) -> list[str]:
    """The formats to choose from: the chosen one, the one by its content, and raw."""
    found = [choice.format] if choice.format not in _TOLD_BY_MAGIC else []
    found += [TAR if guess.kind == "packed" else guess.kind, "raw"]
    return [each for each in dict.fromkeys(found) if each in _READS]


def note_of(source: SourceType, format: str) -> str:  # noqa: A002
    """A note for people about a choice; empty if there is none."""
    return _EXTENT_NOTE if source.is_raw_extent and format == "raw" else ""


def _instead(guess: Guess, path: str) -> str:
    if guess.kind == "packed":
        return "; a disk has to be unpacked first"
    if guess.kind != "foreign":
        return ""
    remedy = OF_KINDS.get(guess.what)
    if remedy is None:
        return "; such images are not read here"
    return f"; or, if no guest can have written that, {remedy.line(path)}"
