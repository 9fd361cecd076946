"""`ventifs undelete`."""

from pathlib import Path

import click

import ventifs
from ventifs.cli.output import echo
from ventifs.cli.store_option import json_option, store_option, wait_option
from ventifs.cli.versions.named import print_versions


@click.command(short_help="Bring forgotten versions back.")
@click.argument("wanted", nargs=-1, required=True, metavar="VERSION...|NAME...")
@store_option
@wait_option
@json_option
@click.option("--all", "every", is_flag=True, help="All forgotten versions of each NAME.")
@click.option(
    "--forgotten",
    "during",
    metavar="TIME",
    help="Only those forgotten then; a partial TIME, as 2026-11-30, is all of that day.",
)
def undelete(
    wanted: tuple[str, ...],
    *,
    store: Path,
    wait_s: float | None,
    as_json: bool,
    every: bool,
    during: str | None,
) -> None:
    """Bring forgotten versions back into the catalog, as they were, but not held.

    'ventifs versions --forgotten' lists them. Each VERSION is NAME@TIME, NAME@~N or NAME@latest,
    which count the forgotten versions of the name, or score:HEX. Of several of one time the one
    that was forgotten last comes back; --forgotten names another. With --all, those of each NAME
    come back, except where the name has a version of that time.

    What was forgotten can come back until 'ventifs reclaim' frees its space. What older programs
    forgot cannot.
    """
    for text in [] if every else wanted:
        if not set("@:") & set(text):
            raise click.UsageError(
                f"{text} names all its versions; --all brings all those back that were forgotten, "
                f"and {text}@latest the latest of them"
            )
    with ventifs.open(store, "write", wait_s=wait_s) as archive:
        found = archive.undelete(*wanted, every=every, forgotten=during)
    print_versions(found, lambda version: f"brought back {version}", as_json=as_json)
    if not found and not as_json:
        echo(
            "nothing to bring back: there are versions of all those times; "
            f"'ventifs undelete {wanted[0]}@latest' says how to make room for one"
        )
