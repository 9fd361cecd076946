"""`ventifs versions` and `ventifs forget`."""

import json
from pathlib import Path
from typing import Any

import click

from ventifs.cli.text import count, exact, size
from ventifs.cli.where import json_option, store_option
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.catalog import Version, check_name, find_version, tree_score
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
def versions(name: str | None, *, store: Path, as_json: bool) -> None:
    """List versions, all or those of one NAME (or NAME@TIME), by name and then by time."""
    with Store.open(store) as opened:
        found = [] if name and "@" in name else all_versions(opened, name and check_name(name))
        if name is not None and not found:
            found = [find_version(opened, name)]  # or it says which there are
    if as_json:
        click.echo(json.dumps([as_json_object(version) for version in found], indent=2))
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


@click.command(short_help="Remove versions from the catalog.")
@click.argument("wanted", nargs=-1, required=True, metavar="VERSION...")
@store_option
@click.option("--force", is_flag=True, help="Also the last version of a name.")
@click.option("--dry-run", is_flag=True, help="Only say what would be forgotten.")
def forget(wanted: tuple[str, ...], *, store: Path, force: bool, dry_run: bool) -> None:
    """Remove versions from the catalog. Their blocks stay in the store.

    The last version of a name is kept unless --force is given.
    """
    with Store.open(store, "read" if dry_run else "write") as opened:
        doomed = {str(version): version for version in (find_version(opened, text)
                                                        for text in wanted)}  # fmt: skip
        for name in {version.name for version in doomed.values()}:
            left = [version for version in all_versions(opened, name) if str(version) not in doomed]
            if not left and not force:
                raise VentifsError(f"{name}: this would forget its last version; --force does that")
        if not dry_run:
            records = [version.record for version in doomed.values() if version.record]
            opened.commit(deletes=records)
    for version in doomed:
        click.echo(f"{'would forget' if dry_run else 'forgot'} {version}")
