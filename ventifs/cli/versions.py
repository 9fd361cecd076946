"""`ventifs versions`."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import msgspec

from ventifs.cli.listing import print_array
from ventifs.cli.output import echo
from ventifs.cli.text import count, exact, size
from ventifs.cli.where import json_option, store_option
from ventifs.errors import Corrupt, NotStored
from ventifs.image.facts import Facts, facts_of
from ventifs.store import Store
from ventifs.text import printable
from ventifs.tree.catalog import Version, find_version, tree_score
from ventifs.tree.catalog import versions as all_versions
from ventifs.tree.records import Directory


def as_json_object(version: Version, facts: Facts | None = None) -> dict[str, Any]:
    """What `--json` prints of a version; with what is known of the disk, if it is one's."""
    detail = version.root.detail
    assert isinstance(detail, Directory)
    return {
        "name": version.name,
        "time": version.when,
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
            for path, reason, missing in version.troubles
        ],
        "troubles_more": version.troubles_more,
        **disk_json(facts),
    }


def _disk(store: Store, version: Version) -> Facts | None:
    """What is known of a version's disk, if it is one's; damage is not for a listing to tell."""
    with suppress(Corrupt, NotStored):
        return facts_of(store, version.root)
    return None


def disk_json(facts: Facts | None) -> dict[str, Any]:
    """What `--json` prints of a disk, in the words of its version's attribute."""
    return {} if facts is None else {"disk": msgspec.to_builtins(facts)}


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
def versions(name: str | None, *, store: Path, as_json: bool, tags: tuple[str, ...]) -> None:
    """List versions, by name and then by time.

    All of them, those of one NAME, or the one that NAME@TIME or score:HEX means. The size of one
    that is marked as a disk is the disk's.
    """
    with Store.open(store) as opened:
        no_name = name and (set("@:") & set(name) or not name.isascii())
        found = [] if no_name else all_versions(opened, name)
        if name is not None and not found:
            found = [find_version(opened, name)]  # or it says which there are
        found = [version for version in found if set(tags) <= set(version.tags)]
        disks = [_disk(opened, version) for version in found]
    if as_json:
        print_array(map(as_json_object, found, disks))
        return
    width = max((len(str(version)) for version in found), default=0)
    for version, disk in zip(found, disks, strict=True):
        facts = as_json_object(version, disk)
        total = facts["bytes"] if disk is None else disk.size  # the directory has it all twice
        notes = [
            "" if disk is None else "disk",
            printable(version.comment),
            *(f"#{printable(tag)}" for tag in version.tags),
        ]
        troubles = len(version.troubles) + version.troubles_more
        notes += [f"{count(troubles, 'trouble')}"] if troubles else []
        echo(
            f"{version!s:<{width}}  {size(total):>9}  {facts['paths']:>9,} paths  "
            f"{size(version.new_bytes):>9} new  {'  '.join(filter(None, notes))}".rstrip()
        )
