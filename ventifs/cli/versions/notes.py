"""`ventifs tag` and `ventifs comment`."""

from pathlib import Path

import click

import ventifs
from ventifs import ArchivedVersion
from ventifs.cli.store_option import json_option, store_option, wait_option
from ventifs.cli.versions.named import print_versions, version_argument, versions_argument
from ventifs.text import printable


@click.command(short_help="Add and remove tags of versions.")
@versions_argument
@store_option
@wait_option
@json_option
@click.option("--add", multiple=True, metavar="TAG", help="A tag to add; may be repeated.")
@click.option("--remove", multiple=True, metavar="TAG", help="A tag to remove; may be repeated.")
def tag(
    wanted: tuple[str, ...],
    *,
    store: Path,
    wait_s: float | None,
    as_json: bool,
    add: tuple[str, ...],
    remove: tuple[str, ...],
) -> None:
    """Add and remove tags of versions; print the tags that each has then.

    Each VERSION is NAME@latest, NAME@TIME, NAME@~N, or score:HEX if only one version has this tree.
    A tag that is there already is not added again; one that is not there need not be removed.
    """
    if not add and not remove:
        raise click.UsageError("say what to change, with --add TAG or --remove TAG")
    with ventifs.open(store, "write", wait_s=wait_s) as archive:
        found = archive.tag(*wanted, add=add, remove=remove)
    print_versions(found, _tags_line, as_json=as_json)


def _tags_line(version: ArchivedVersion) -> str:
    tags = "  ".join(f"#{printable(each)}" for each in version.tags)
    return f"{version}  {tags or 'no tags'}"


@click.command(short_help="Replace the comment of a version.")
@version_argument
@click.argument("text")
@store_option
@wait_option
@json_option
def comment(wanted: str, text: str, *, store: Path, wait_s: float | None, as_json: bool) -> None:
    """Replace the comment of a VERSION by TEXT; an empty TEXT removes it.

    VERSION is NAME@latest, NAME@TIME, NAME@~N, or score:HEX if only one version has this tree.
    """
    with ventifs.open(store, "write", wait_s=wait_s) as archive:
        found = archive.comment(wanted, text)
    print_versions([found], _comment_line, as_json=as_json)


def _comment_line(version: ArchivedVersion) -> str:
    return f"{version}  {printable(version.comment) or 'no comment'}"
