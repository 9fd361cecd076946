"""LVM's logical volumes: where on the disk the bytes of each are.

Reports linear and striped volumes whose physical volumes are all on this disk. All others
(snapshots, thin, mirrors, RAID, caches, volumes partly elsewhere) get a note, and are left as bytes
of the disk. Names are device mapper's. The format is read here because libvslvm's binding does not
report where segments are.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ventifs.image.disk import ImageError
from ventifs.image.survey_events import Noted, Range
from ventifs.image.volumes.lvm_metadata import Section, parse, read_label, read_text
from ventifs.image.volumes.window import Window
from ventifs.text import printable

RANGES_MAX = 1 << 17  # for one volume: 8 GiB striped in pieces of 64 KiB
LOGICAL_MAX = 1024
NOTES_MAX = 8  # for one volume group
_NAME = re.compile(r"[A-Za-z0-9_+.-]{1,127}", re.ASCII)


class LogicalVolume(NamedTuple):
    """One logical volume of LVM.

    Attributes:
        name: as in /dev/mapper.
        ranges: where its bytes are on the disk, in the volume's order. A volume that goes beyond
            the disk's end is cut off at the first byte that would lie there.
    """

    name: str
    ranges: tuple[Range, ...]


class _VolumeGroup(NamedTuple):
    name: str
    sequence: int
    section: Section


def find_logical(disk_size: int, volumes: Sequence[Window]) -> Iterator[LogicalVolume | Noted]:
    """Yield the logical volumes that one disk's physical volumes hold together, and notes.

    Groups come in order of their names, and so do the logical volumes of a group.
    """
    places: dict[str, Range] = {}  # of physical volumes, by identifier
    groups: dict[str, _VolumeGroup] = {}  # by identifier; from the latest text that was found
    for volume in volumes:
        try:
            label = read_label(volume)
            if label is None or len(volume.ranges) != 1:
                yield Noted("an LVM physical volume's label is damaged: its volumes are not told")
                continue
            if label.identifier in places:
                yield Noted(f"LVM physical volume {label.identifier} is there twice")
                continue
        except ImageError as error:
            yield Noted(f"an LVM physical volume cannot be read: {error}")
            continue
        places[label.identifier] = volume.ranges[0]
        yield from _take_in(volume, label.areas, groups)
    names: set[str] = set()
    for group in sorted(groups.values(), key=lambda group: group.name):
        notes: list[str] = []
        found = list(_logical(group, places, disk_size, notes))
        if len(notes) > NOTES_MAX:
            notes[NOTES_MAX:] = [f"{len(notes) - NOTES_MAX} more in volume group {group.name}"]
        yield from map(Noted, notes)
        for logical in found:
            if logical.name in names:
                yield Noted(f"logical volume {logical.name} is there twice: left as bytes")
            else:
                names.add(logical.name)
                yield logical


def _take_in(
    volume: Window, areas: tuple[tuple[int, int], ...], groups: dict[str, _VolumeGroup]
) -> Iterator[Noted]:
    """Record the group that a physical volume's metadata describe, if they are the latest."""
    problem = ""
    for offset, size in areas:
        try:
            text = read_text(volume, offset, size)
            if text is None:
                continue
            group = _group(parse(text))
        except ImageError as error:
            problem = str(error)
            continue
        identifier = str(group.section.get("id"))
        if identifier not in groups or groups[identifier].sequence < group.sequence:
            groups[identifier] = group
        return  # a second area holds the same text
    if problem:
        yield Noted(problem)


def _group(text: Section) -> _VolumeGroup:
    for name, section in text.items():
        if isinstance(section, dict) and _NAME.fullmatch(name):
            return _VolumeGroup(name, _whole(section, "seqno"), section)
    raise ImageError("the LVM metadata tell of no volume group")


def _logical(
    group: _VolumeGroup, places: dict[str, Range], disk_size: int, notes: list[str]
) -> Iterator[LogicalVolume]:
    """A group's logical volumes, without those that LVM makes for its own use."""
    volumes = _part(group.section, "logical_volumes")
    hidden = _copies(volumes)
    for name, section in sorted(volumes.items())[:LOGICAL_MAX]:
        if not isinstance(section, dict):
            continue
        shown = f"{group.name.replace('-', '--')}-{name.replace('-', '--')}"
        status = section.get("status")
        if not _NAME.fullmatch(name) or not isinstance(status, list) or "VISIBLE" not in status:
            continue
        try:
            if name in hidden:
                raise ImageError(hidden[name])
            ranges, cut = _clipped(_ranges(group.section, section, places), disk_size)
        except ImageError as error:
            notes.append(f"logical volume {shown} {error}: left as bytes")
            continue
        if cut:
            notes.append(
                f"logical volume {shown} goes beyond the end of the disk, and is cut there"
            )
        if ranges:
            yield LogicalVolume(shown, ranges)


def _copies(volumes: Section) -> dict[str, str]:
    """Logical volumes that look plain but cannot be read on their own, and why not."""
    found = {}
    for section in volumes.values():
        for segment in _segments(section) if isinstance(section, dict) else ():
            if segment.get("type") == "snapshot":
                found[str(segment.get("cow_store"))] = "is a snapshot"
                if "merging_store" in segment:
                    found[str(segment["merging_store"])] = "is a snapshot"
                    found[str(segment.get("origin"))] = "is being merged with a snapshot"
    return found


def _segments(logical: Section) -> list[Section]:
    return [
        section
        for name, section in logical.items()
        if name.startswith("segment") and isinstance(section, dict)
    ]


def _ranges(group: Section, logical: Section, places: dict[str, Range]) -> Iterator[Range]:
    """Where a logical volume's bytes are, in the volume's order; ranges may touch.

    Raises:
        ImageError: they cannot be found; the text continues a sentence about the volume.
    """
    extent = _whole(group, "extent_size") * 512
    if not 0 < extent <= 1 << 40:
        raise ImageError("has extents of no size")
    told = 0
    segments = _segments(logical)
    for segment in sorted(segments, key=lambda segment: _whole(segment, "start_extent")):
        kind = segment.get("type")
        if kind not in ("striped", "linear"):
            raise ImageError(f"is of type {printable(str(kind)[:64])}")
        if _whole(segment, "start_extent") != told:
            raise ImageError("has a gap, or segments that overlap")
        count = _whole(segment, "extent_count")
        told += count
        stripes = list(_stripes(group, segment, places, extent))
        if len(stripes) == 1:
            yield stripes[0], stripes[0] + count * extent
        else:
            yield from _striped(stripes, _whole(segment, "stripe_size") * 512, count * extent)


def _stripes(
    group: Section, segment: Section, places: dict[str, Range], extent: int
) -> Iterator[int]:
    """Where each stripe of a segment (of LVM: some consecutive extents) begins on the disk.

    Raises:
        ImageError: as `_ranges`.
    """
    stripes = segment.get("stripes")
    if not isinstance(stripes, list) or not stripes or len(stripes) % 2:
        raise ImageError("has no stripes")
    physical = _part(group, "physical_volumes")
    for name, first in zip(stripes[::2], stripes[1::2], strict=True):
        section = physical.get(str(name))
        if not isinstance(section, dict) or not isinstance(first, int) or first < 0:
            raise ImageError("is made of other logical volumes")
        place = places.get(str(section.get("id")).replace("-", ""))
        if place is None:
            raise ImageError(f"is partly on another disk ({printable(str(name)[:64])})")
        yield place[0] + _whole(section, "pe_start") * 512 + first * extent


def _striped(stripes: list[int], piece: int, length: int) -> Iterator[Range]:
    """The pieces of a striped segment, one from each stripe in turn.

    Raises:
        ImageError: as `_ranges`.
    """
    if not piece or length % (piece * len(stripes)):
        raise ImageError("has stripes of no even size")
    if length // piece > RANGES_MAX:
        raise ImageError("is striped in too many pieces")
    for row in range(length // (piece * len(stripes))):
        for start in stripes:
            yield start + row * piece, start + (row + 1) * piece


def _clipped(ranges: Iterator[Range], disk_size: int) -> tuple[tuple[Range, ...], bool]:
    """Merge ranges that touch; stop at the first that goes beyond the disk's end, and cut it there.

    Returns:
        The ranges, and whether one went beyond the disk's end.

    Raises:
        ImageError: there are too many ranges.
    """
    found: list[Range] = []
    for start, end in ranges:
        if start < disk_size and start < end:
            if found and found[-1][1] == start:
                start, _ = found.pop()  # noqa: PLW2901
            found.append((start, min(end, disk_size)))
        if end > disk_size:
            return tuple(found), True
        if len(found) > RANGES_MAX:
            raise ImageError("is in too many pieces")
    return tuple(found), False


def _part(section: Section, name: str) -> Section:
    part = section.get(name)
    return part if isinstance(part, dict) else {}


def _whole(section: Section, name: str) -> int:
    """A required number of the metadata; all of LVM's are below the limit here.

    Raises:
        ImageError: it is missing or invalid.
    """
    value = section.get(name)
    if not isinstance(value, int) or not 0 <= value < 1 << 50:
        raise ImageError(f"has no {name} in its metadata")
    return value
