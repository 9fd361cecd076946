"""`ventifs rename`."""

from pathlib import Path

import click

import ventifs
from ventifs.cli.formatting import count
from ventifs.cli.output import echo
from ventifs.cli.store_option import json_option, store_option, wait_option
from ventifs.cli.versions.named import print_versions


@click.command(short_help="Give all versions of a name another name.")
@click.argument("name")
@click.argument("new")
@store_option
@wait_option
@json_option
@click.option("--force", is_flag=True, help="Even if NEW has forgotten versions, which stay.")
def rename(
    name: str, new: str, *, store: Path, wait_s: float | None, as_json: bool, force: bool
) -> None:
    """Give all versions of NAME the name NEW, which must have no versions.

    Forgotten versions, holds, and what is kept for the next run go with them: the next archive run
    under NEW reads only what changed, as one under NAME would have. NAME may have only forgotten
    versions; if NEW has some, --force is needed, and they stay under NEW.
    """
    with ventifs.open(store, "write", wait_s=wait_s) as archive:
        stay = len(archive.forgotten(new)) if new != name else 0
        found = archive.rename(name, new, force=force)
        gone = len(archive.forgotten(new)) - stay
    if as_json:
        print_versions(found, str, as_json=True)
        return
    also = f", {count(gone, 'forgotten version')}" if gone else ""
    echo(f"renamed {name} to {new}: {count(len(found), 'version')}{also}")
    if stay:
        which = "which stays" if stay == 1 else "which stay"
        echo(f"note: {new} has {count(stay, 'forgotten version')}, {which} under this name")
