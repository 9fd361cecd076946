"""`ventifs versions`."""

from pathlib import Path
from typing import Any

import click

from ventifs.cli.listing import print_array
from ventifs.cli.text import count, exact, size
from ventifs.cli.where import json_option, store_option
from ventifs.store import Store
from ventifs.tree.catalog import Version, find_version, tree_score
from ventifs.tree.catalog import versions as all_versions
from ventifs.tree.records import Directory


def as_json_object(version: Version) -> dict[str, Any]:
    """What `--json` prints of a version."""
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
    }


@click.command(short_help="List versions.")
@click.argument("name", required=False)
@store_option
@json_option
@click.option("--tag", "tags", multiple=True, help="Only those with this tag; may be repeated.")
def versions(name: str | None, *, store: Path, as_json: bool, tags: tuple[str, ...]) -> None:
    """List versions, by name and then by time.

    All of them, those of one NAME, or the one that NAME@TIME or score:HEX means.
    """
    with Store.open(store) as opened:
        found = [] if name and set("@:") & set(name) else all_versions(opened, name)
        if name is not None and not found:
            found = [find_version(opened, name)]  # or it says which there are
    found = [version for version in found if set(tags) <= set(version.tags)]
    if as_json:
        print_array(map(as_json_object, found))
        return
    width = max((len(str(version)) for version in found), default=0)
    for version in found:
        facts = as_json_object(version)
        notes = [version.comment, *(f"#{tag}" for tag in version.tags)]
        troubles = len(version.troubles) + version.troubles_more
        notes += [f"{count(troubles, 'trouble')}"] if troubles else []
        click.echo(
            f"{version!s:<{width}}  {size(facts['bytes']):>9}  {facts['paths']:>9,} paths  "
            f"{size(version.new_bytes):>9} new  {'  '.join(filter(None, notes))}".rstrip()
        )
