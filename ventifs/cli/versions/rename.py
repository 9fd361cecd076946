"""`ventifs rename`."""

from pathlib import Path

import click

import ventifs
from ventifs.cli.formatting import count
from ventifs.cli.output import echo
from ventifs.cli.store_option import json_option, store_option
from ventifs.cli.versions.named import print_versions


@click.command(short_help="Give all versions of a name another name.")
@click.argument("name")
@click.argument("new")
@store_option
@json_option
def rename(name: str, new: str, *, store: Path, as_json: bool) -> None:
    """Give all versions of NAME the name NEW, which must have no versions.

    Forgotten versions, holds, and what is kept for the next run go with them: the next archive run
    under NEW reads only what changed, as one under NAME would have.
    """
    with ventifs.open(store, "write") as archive:
        found = archive.rename(name, new)
    if as_json:
        print_versions(found, str, as_json=True)
    else:
        echo(f"renamed {name} to {new}: {count(len(found), 'version')}")
