"""`ventifs versions`."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import msgspec

from ventifs.cli.listing import print_array
from ventifs.cli.text import count, exact, size
from ventifs.cli.where import json_option, store_option
from ventifs.errors import Corrupt, NotStored
from ventifs.image.advice import FOLLOW_BACKING, FOLLOW_DEVICE
from ventifs.image.facts import Facts, facts_of
from ventifs.image.kept import Kept, all_kept
from ventifs.store import Store
from ventifs.tree.catalog import Version, find_version, tree_score
from ventifs.tree.catalog import versions as all_versions
from ventifs.tree.directory import printable
from ventifs.tree.records import Directory


def as_json_object(
    version: Version, facts: Facts | None = None, kept: Kept | None = None
) -> dict[str, Any]:
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
        **disk_json(facts, kept),
    }


def _disk(store: Store, version: Version) -> Facts | None:
    """What is known of a version's disk, if it is one's; damage is not for a listing to tell."""
    with suppress(Corrupt, NotStored):
        return facts_of(store, version.root)
    return None


def disk_json(facts: Facts | None, kept: Kept | None = None) -> dict[str, Any]:
    """What `--json` prints of a disk, in the words of its version's attribute.

    With what its name keeps for the next run, if that is asked for.
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
        inside = volume.filesystem or "nothing known"
        names = [text for text in (volume.title, volume.label) if text]
        named = "".join(f" {printable(text.encode())!r}" for text in dict.fromkeys(names))
        lines.append(f"  {kind} {volume.name}: {size(volume.size)}, {inside}{named}")
    return lines


def disk_notes(facts: Facts) -> list[str]:
    """What people should know about a disk."""
    notes = [*facts.notes]
    for volume in facts.volumes:
        kind = "volume" if volume.logical else "partition"
        notes += [f"{kind} {volume.name}: {note}" for note in volume.notes]
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
        found = [] if name and set("@:") & set(name) else all_versions(opened, name)
        if name is not None and not found:
            found = [find_version(opened, name)]  # or it says which there are
        found = [version for version in found if set(tags) <= set(version.tags)]
        disks = [_disk(opened, version) for version in found]
        if as_json:
            kept = all_kept(opened)
            print_array(
                as_json_object(version, disk, kept.get(version.name))
                for version, disk in zip(found, disks, strict=True)
            )
            return
    width = max((len(str(version)) for version in found), default=0)
    for version, disk in zip(found, disks, strict=True):
        facts = as_json_object(version, disk)
        total = facts["bytes"] if disk is None else disk.size  # the directory has it all twice
        notes = [
            "" if disk is None else "disk",
            version.comment,
            *(f"#{tag}" for tag in version.tags),
        ]
        troubles = len(version.troubles) + version.troubles_more
        notes += [f"{count(troubles, 'trouble')}"] if troubles else []
        click.echo(
            f"{version!s:<{width}}  {size(total):>9}  {facts['paths']:>9,} paths  "
            f"{size(version.new_bytes):>9} new  {'  '.join(filter(None, notes))}".rstrip()
        )
