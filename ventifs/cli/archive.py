"""`ventifs archive`."""

import json
from pathlib import Path

import click

from ventifs.cli.progress import EntryProgress
from ventifs.cli.text import count, size
from ventifs.cli.versions import as_json_object
from ventifs.cli.where import json_option, store_option
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.archive import Tally
from ventifs.tree.archive import archive as archive_directory
from ventifs.tree.catalog import Version, check_name, parse_time, tree_score
from ventifs.tree.directory import printable

_INCOMPLETE = 3  # exit code: archived, but not everything
_SHOWN_MAX = 20


@click.command(short_help="Archive a directory as a new version.")
@click.argument("source", type=click.Path(path_type=Path))
@store_option
@json_option
@click.option("--name", required=True, help="What to call it: versions are NAME@TIME.")
@click.option("--time", "when", metavar="TIME", help="The version's time.  [default: now]")
@click.option("--comment", default="", help="Kept with the version.")
@click.option("--tag", "tags", multiple=True, help="Kept with the version; may be repeated.")
@click.option("--no-cache", is_flag=True, help="Read every file, changed or not.")
@click.option("--one-file-system", is_flag=True, help="Leave out what is mounted below.")
@click.pass_context
def archive(
    context: click.Context,
    source: Path,
    *,
    store: Path,
    as_json: bool,
    name: str,
    when: str | None,
    comment: str,
    tags: tuple[str, ...],
    no_cache: bool,
    one_file_system: bool,
) -> int:
    """Archive a directory as a new version.

    Stores only what the store has never seen. Everything a guest root has is archived: owners,
    modes, times, links, devices, extended attributes, holes. What cannot be read is told, recorded
    in the version, and gives exit code 3. An interrupted run keeps the blocks it has stored for
    the next one.
    """
    time_ns = None if when is None else parse_time(when)[0]
    check_name(name)
    if source == Path() or not source.is_dir():
        raise VentifsError(f"{source}: not a directory; name the one to archive")
    if not context.meta["store_named"] and not store.exists():
        Store.create(store)
        click.echo(f"made a store at {store}", err=True)
    with (
        EntryProgress("archiving", quiet=as_json) as progress,
        Store.open(store, "write") as opened,
    ):
        version, tally = archive_directory(
            opened, source, name, time_ns=time_ns, comment=comment, tags=tags,
            one_file_system=one_file_system, read_all=no_cache,
            progress=lambda tally, path: progress(tally.entries, tally.bytes, path),
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps({**as_json_object(version), "entries": tally.entries}, indent=2))
    else:
        _print_archived(version, tally)
    return _INCOMPLETE if version.troubles else 0


def _print_archived(version: Version, tally: Tally) -> None:
    for path, reason, missing in version.troubles[:_SHOWN_MAX]:
        what = "not archived" if missing else "archived, but"
        click.echo(f"{printable(path)}: {what}: {reason}", err=True)
    if len(version.troubles) > _SHOWN_MAX:
        click.echo(f"... and {len(version.troubles) - _SHOWN_MAX:,} more", err=True)
    click.echo(f"{version}  score:{tree_score(version.root).hex()}")
    click.echo(
        f"{count(tally.entries, 'entry', 'entries')}, {size(tally.bytes)}, "
        f"{size(tally.new_bytes)} new, in {version.seconds:.2f} s"
    )
