"""`ventifs versions`."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import msgspec

import ventifs
from ventifs import ArchivedVersion
from ventifs.cli.formatting import count, exact, size
from ventifs.cli.output import echo
from ventifs.cli.store_option import json_option, store_option
from ventifs.cli.versions.listing import print_array, print_lines
from ventifs.errors import Corrupt, NotStored
from ventifs.image.disk_facts import Facts
from ventifs.image.formats.advice import FOLLOW_BACKING, FOLLOW_DEVICE
from ventifs.image.formats.kept_choice import Kept, all_kept
from ventifs.store import Store
from ventifs.text import printable
from ventifs.tree.objects.records import Directory, Empty
from ventifs.tree.versions.catalog import Version, tree_score
from ventifs.tree.versions.forgotten import find_forgotten, forgotten_of
from ventifs.tree.versions.holds import Hold, held
from ventifs.tree.versions.leasing import ForgottenMeanwhile
from ventifs.tree.versions.times import IN_FUTURE, in_future, time_text
from ventifs.tree.versions.troubles import troubles_of


def as_json_object(
    version: Version,
    facts: Facts | None = None,
    kept: Kept | None = None,
    store: Store | None = None,
) -> dict[str, Any]:
    """What `--json` prints of a version.

    Args:
        version: the version.
        facts: what is known of the disk, if it is one's.
        kept: what its name keeps for the next run, if it is a disk's.
        store: where all troubles are; without it, only those in the version's record are listed.
    """
    detail = version.root.detail
    assert isinstance(detail, Directory)
    troubles, more = version.troubles, version.troubles_more
    if store is not None and not isinstance(version.beyond, Empty):
        troubles, more = tuple(troubles_of(store, version)), 0
    return {
        "name": version.name,
        "time": version.when,
        "in_future": in_future(version.time_ns),
        "score": tree_score(version.root).hex(),
        "paths": detail.paths,
        "bytes": detail.bytes,
        "new_bytes": version.new_bytes,
        "seconds": round(version.seconds, 3),
        "source": version.source,
        "comment": version.comment,
        "tags": list(version.tags),
        "troubles": [
            {**exact(path), "reason": reason, "missing": missing}
            for path, reason, missing in troubles
        ],
        "troubles_more": more,
        **disk_json(facts, kept),
    }


def hold_json(hold: Hold | None, now_ns: int) -> dict[str, Any]:
    """What `--json` prints of a version's hold."""
    ends = None if hold is None or hold.until_ns is None else time_text(hold.until_ns)
    return {"held": hold is not None and hold.active(now_ns), "held_until": ends}


def _has_beyond(version: ArchivedVersion) -> bool:
    """Whether further troubles than those of its record are in blocks."""
    return not isinstance(version.stored.beyond, Empty)


def _disk(version: ArchivedVersion) -> Facts | None:
    """What is known of a version's disk, if it is one's; damage is not for a listing to tell."""
    with suppress(Corrupt, NotStored, ForgottenMeanwhile):
        return version.disk_facts()
    return None


def disk_json(facts: Facts | None, kept: Kept | None = None) -> dict[str, Any]:
    """What `--json` prints of a disk, with the field names of its version's attribute.

    With `kept`, also what its name keeps for the next run.
    """
    if facts is None:
        return {}
    return {"disk": msgspec.to_builtins(facts), **({} if kept is None else _kept_json(kept))}


def _kept_json(kept: Kept) -> dict[str, Any]:
    return {
        "kept": {
            "format": kept.format,
            "source": kept.source.kind,
            **exact(kept.source.suffix, "suffix"),
            "follow_backing": [exact(path) for path in kept.following.directories],
            "follow_device": [exact(path) for path in kept.following.devices],
        }
    }


def kept_lines(kept: Kept) -> list[str]:
    """What a name keeps, a line each, for people."""
    suffix = printable(kept.source.suffix)
    called = f" named *{suffix}" if suffix else " without a suffix"
    lines = [f"kept for the next run: {kept.format}, while it is a {kept.source.kind}{called}"]
    for option, paths in (
        (FOLLOW_BACKING, kept.following.directories),
        (FOLLOW_DEVICE, kept.following.devices),
    ):
        lines += [f"  {option} {printable(path)}" for path in paths]
    return lines


def disk_lines(facts: Facts) -> list[str]:
    """What there is on a disk, a line each, for people."""
    lines = []
    for volume in facts.volumes:
        kind = "volume" if volume.logical else "partition"
        inside = printable(volume.filesystem) or "nothing known"
        names = [text for text in (volume.title, volume.label) if text]
        named = "".join(f" {printable(text)!r}" for text in dict.fromkeys(names))
        lines.append(f"  {kind} {printable(volume.name)}: {size(volume.size)}, {inside}{named}")
    return lines


def disk_notes(facts: Facts) -> list[str]:
    """What people should know about a disk."""
    notes = [*facts.notes]
    for volume in facts.volumes:
        kind = "volume" if volume.logical else "partition"
        notes += [f"{kind} {printable(volume.name)}: {note}" for note in volume.notes]
    return notes


@click.command(short_help="List versions.")
@click.argument("name", required=False)
@store_option
@json_option
@click.option("--tag", "tags", multiple=True, help="Only those with this tag; may be repeated.")
@click.option(
    "--troubles", "with_troubles", is_flag=True, help="List everything that could not be archived."
)
@click.option(
    "--forgotten", "of_forgotten", is_flag=True, help="List forgotten ones, which 'undelete' takes."
)
def versions(
    name: str | None,
    *,
    store: Path,
    as_json: bool,
    tags: tuple[str, ...],
    with_troubles: bool,
    of_forgotten: bool,
) -> None:
    """List versions, by name and then by time.

    All of them, those of one NAME, or the one that NAME@TIME or score:HEX means. The size of one
    that is marked as a disk is the disk's. With --troubles every path that could not be archived,
    or not as it should be, follows its version; --json lists the first 200 of each without it.
    With --forgotten those that 'ventifs forget' took out of the catalog, and when it did; of
    NAME@TIME all that were forgotten of that time.
    """
    with ventifs.open(store) as archive:
        listed = _forgotten(archive, name) if of_forgotten else _found(archive, name)
        listed = [each for each in listed if set(tags) <= set(each[0].tags)]
        found = [version for version, _ in listed]
        disks = [_disk(version) for version in found]
        if as_json:
            kept = {} if of_forgotten else all_kept(archive.store)
            print_array(
                {
                    **as_json_object(
                        version.stored,
                        disk,
                        kept.get(version.name),
                        version.store if with_troubles and _has_beyond(version) else None,
                    ),
                    **more,
                }
                for (version, more), disk in zip(listed, disks, strict=True)
            )
        else:
            notes = [_catalog_note(more) for _, more in listed]
            _print(found, disks, notes, with_troubles=with_troubles)


# A version, and what else `--json` prints of it.
_Listed = tuple[ArchivedVersion, dict[str, Any]]


def _found(archive: ventifs.Archive, name: str | None) -> list[_Listed]:
    """The versions that are in the catalog, with their holds."""
    found = [] if name and set("@:") & set(name) else archive.versions(name)
    if name is not None and not found:
        found = [archive.version(name)]  # or it says which there are
    holds, now_ns = held(archive.store), time.time_ns()
    return [
        (version, hold_json(holds.get((version.name, version.time_ns)), now_ns))
        for version in found
    ]


def _forgotten(archive: ventifs.Archive, name: str | None) -> list[_Listed]:
    """The versions that were forgotten, with when they were."""
    of_time: int | None = None
    if name is not None and set("@:") & set(name):
        found = find_forgotten(archive.store, name).version
        name, of_time = found.name, found.time_ns
    elif name is not None:
        forgotten_of(archive.store, name)  # raises if there are none
    return [
        (each.version, {"forgotten": time_text(each.forgotten_ns)})
        for each in archive.forgotten(name)
        if of_time in (None, each.version.time_ns)
    ]


def _catalog_note(facts: dict[str, Any]) -> str:
    """What people should know about a version's place in the catalog."""
    if "forgotten" in facts:
        return f"forgotten {facts['forgotten']}"
    if not facts["held"]:
        return ""
    return "held" if facts["held_until"] is None else f"held until {facts['held_until']}"


def _print(
    found: list[ArchivedVersion],
    disks: list[Facts | None],
    more: Sequence[str],
    *,
    with_troubles: bool,
) -> None:
    width = max((len(str(version)) for version in found), default=0)
    for version, disk, note in zip(found, disks, more, strict=True):
        stored = version.stored
        facts = as_json_object(stored, disk)
        total = facts["bytes"] if disk is None else disk.size  # the directory has it all twice
        notes = [
            IN_FUTURE if version.in_future else "",
            note,
            "" if disk is None else "disk",
            printable(version.comment),
            *(f"#{printable(tag)}" for tag in version.tags),
        ]
        troubles = len(stored.troubles) + stored.troubles_more
        notes += [f"{count(troubles, 'trouble')}"] if troubles else []
        echo(
            f"{version!s:<{width}}  {size(total):>9}  {facts['paths']:>9,} paths  "
            f"{size(stored.new_bytes):>9} new  {'  '.join(filter(None, notes))}".rstrip()
        )
        if with_troubles:
            print_lines(_trouble_lines(version))


def _trouble_lines(version: ArchivedVersion) -> Iterator[str]:
    """Each trouble of a version as a line; the last line counts what was never recorded."""
    for path, reason, missing in version.troubles():
        kind = "not archived" if missing else "archived, but"
        yield f"  {printable(path) or '/'}: {kind}: {printable(reason.encode())}"
    more = version.stored.troubles_more
    if more and isinstance(version.stored.beyond, Empty):
        yield f"  ... and {more:,} more, which were only counted"
