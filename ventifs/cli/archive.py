"""`ventifs archive`, `ventifs versions` and `ventifs forget`."""

import json
from pathlib import Path
from typing import Any

import click

from ventifs.cli.progress import EntryProgress
from ventifs.cli.text import count, size
from ventifs.cli.where import json_option, store_option
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.archive import Tally
from ventifs.tree.catalog import Version, check_name, find_version, parse_time, tree_score
from ventifs.tree.catalog import versions as all_versions
from ventifs.tree.directory import printable
from ventifs.tree.records import Directory
from ventifs.tree.run import archive as archive_directory
from ventifs.tree.scan import Options

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
            options=Options(one_file_system=one_file_system), read_all=no_cache,
            progress=lambda tally, path: progress(tally.entries, tally.bytes, path),
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps({**_as_json(version), "entries": tally.entries}, indent=2))
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


def _as_json(version: Version) -> dict[str, Any]:
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
            {"path": printable(path), "reason": reason, "missing": missing}
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
        click.echo(json.dumps([_as_json(version) for version in found], indent=2))
        return
    width = max((len(str(version)) for version in found), default=0)
    for version in found:
        facts = _as_json(version)
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
