"""`ventifs copy`."""

from pathlib import Path

import click

import ventifs
from ventifs.cli.formatting import count, size
from ventifs.cli.output import echo, print_json
from ventifs.cli.progress import EntryProgress
from ventifs.cli.store_option import json_option, store_option
from ventifs.cli.versions.list_versions import as_json_object
from ventifs.errors import VentifsError
from ventifs.text import printable


@click.command(short_help="Copy a version into another store.")
@click.argument("wanted", metavar="VERSION")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="STORE",
    type=click.Path(readable=False, path_type=Path),
    help="The store it goes into; it must be there.",
)
@store_option
@json_option
@click.option("--name", help="What to call it there.  [default: its name]")
def copy(wanted: str, target: Path, *, store: Path, as_json: bool, name: str | None) -> None:
    """Copy a version into another store, which gets only what it lacks.

    Time, comment, tags and source stay as they are. An interrupted copy is taken up by doing it
    again; a version that is there already has lost blocks made good.
    """
    with ventifs.open(store) as archive:
        version = archive.version(wanted)
        if target.exists() and target.samefile(store):
            raise VentifsError(
                f"{printable(target)}: this is the store the version is in; name another"
            )
        with (
            EntryProgress("copying", quiet=as_json, things=("block", "blocks")) as progress,
            ventifs.open(target, "write") as receiving,
        ):
            copied, done, there = archive.copy(
                version,
                receiving,
                name=name,
                progress=lambda done: progress(done.blocks, done.new_bytes, b""),
            )
        disk = version.disk_facts()
    if as_json:
        facts = {
            **as_json_object(copied.stored, disk),
            "there_already": there,
            "copied_blocks": done.new_blocks,
            "copied_bytes": done.new_bytes,
        }
        print_json(facts)
        return
    sent = f"{count(done.new_blocks, 'block')}, {size(done.new_bytes)}"
    if not there:
        echo(f"copied {version} to {printable(target)} as {copied}: {sent} new there")
    elif done.new_blocks:
        echo(f"{copied} is in {printable(target)} already; what it lacked is made good: {sent}")
    else:
        echo(f"{copied} is in {printable(target)} already, and whole")
