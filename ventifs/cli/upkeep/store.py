"""`ventifs init` and `ventifs stats`."""

import os
from pathlib import Path

import click
from msgspec.structs import asdict

from ventifs.cli.formatting import Size, count, exact, share, size
from ventifs.cli.output import echo, print_json
from ventifs.cli.progress import EntryProgress
from ventifs.cli.store_option import json_option, store_option
from ventifs.cli.versions.list_versions import disk_json, disk_lines, disk_notes, kept_lines
from ventifs.image.disk_facts import facts_of
from ventifs.image.formats.kept_choice import all_kept
from ventifs.store import Stats, Store, permissions
from ventifs.store.header import ARENA_SIZE_DEFAULT, ARENA_SIZE_MAX, ARENA_SIZE_MIN
from ventifs.text import printable
from ventifs.tree.objects.records import Directory
from ventifs.tree.versions.catalog import find_version, versions
from ventifs.tree.versions.exclusive import exclusive
from ventifs.tree.versions.leasing import leased


@click.command(short_help="Make a new, empty store.")
@store_option
@click.option(
    "--arena-size",
    type=Size(),
    default=ARENA_SIZE_DEFAULT,
    metavar="SIZE",
    help="Size at which arena files are sealed, 4MiB to 3GiB.  [default: 256MiB]",
)
@click.option("--shared", metavar="GROUP", help="Let this group read and write it.")
@click.option("--readers", metavar="GROUP", help="Let this group read it.")
def init(store: Path, arena_size: int, shared: str | None, readers: str | None) -> None:
    """Make a new, empty store.

    The directory must be empty or not there yet; missing parents are made. Only its owner can
    reach the store, unless a GROUP is given, whatever the umask of those who write to it.
    """
    if shared is not None and readers is not None:
        raise click.UsageError("--shared lets its group read too; give one of --shared, --readers")
    if not ARENA_SIZE_MIN <= arena_size <= ARENA_SIZE_MAX:
        raise click.BadParameter("an arena has 4MiB to 3GiB", param_hint="--arena-size")
    access = permissions.PRIVATE
    if shared is not None:
        access = permissions.shared(shared)
    elif readers is not None:
        access = permissions.readers(readers)
    Store.create(store, arena_size=arena_size, access=access)
    echo(f"made an empty store at {printable(store)}")


@click.command(short_help="Show what the store holds and saves.")
@click.argument("wanted", required=False, metavar="[VERSION]")
@store_option
@json_option
def stats(wanted: str | None, *, store: Path, as_json: bool) -> None:
    """Show what the store holds and saves.

    Savings by zeros, by deduplication and by compression are told apart. Figures are as of the
    last commit; sizes are in decimal units. Of a VERSION: what is in it (of a disk: its partitions
    and volumes, and what was noted), and what only it holds, as blocks and as it is stored; this
    reads the nodes of all versions.
    """
    if wanted is not None:
        _version_stats(store, wanted, as_json=as_json)
        return
    with Store.open(store) as opened:
        figures = opened.stats()
    if as_json:
        print_json({**exact(os.fsencode(store), "store"), **asdict(figures)})
        return
    for name, value in _table(figures):
        echo(f"{name:<22}{value}".rstrip())


def _version_stats(store: Path, wanted: str, *, as_json: bool) -> None:
    with (
        EntryProgress("comparing", quiet=as_json, things=("block", "blocks")) as progress,
        Store.open(store) as opened,
    ):
        version = find_version(opened, wanted)
        others = [other for other in versions(opened) if other.record != version.record]
        with leased(opened, version):
            only = exclusive(opened, version, others, lambda done: progress(done, 0, b""))
            sizes = opened.sizes(only)
            disk = facts_of(opened, version.root)
        kept = all_kept(opened).get(version.name)
    detail = version.root.detail
    assert isinstance(detail, Directory)
    if as_json:
        facts = {
            "version": str(version),
            "paths": detail.paths,
            "bytes": detail.bytes,
            "only_blocks": len(only),
            "only_raw_bytes": sizes.raw_bytes,
            "only_stored_bytes": sizes.stored_bytes,
            **disk_json(disk, kept),
        }
        print_json(facts)
        return
    if disk is None:
        echo(f"{version}: {size(detail.bytes)} in {count(detail.paths, 'path')}")
    else:
        free = ", free space dropped" if disk.free_dropped else ""
        echo(f"{version}: a disk of {size(disk.size)}, {count(detail.paths, 'path')}{free}")
        notes = (f"note: {note}" for note in disk_notes(disk))
        for line in (*disk_lines(disk), *notes, *(kept_lines(kept) if kept else ())):
            echo(line)
    echo(
        f"held by no other version: {count(len(only), 'block')}, {size(sizes.raw_bytes)}, "
        f"{size(sizes.stored_bytes)} as stored"
    )


def _table(figures: Stats) -> list[tuple[str, str]]:
    put, raw, stored = figures.put_bytes, figures.raw_bytes, figures.stored_bytes
    blocks = f"{count(figures.blocks, 'block')}, {figures.node_blocks:,} of them nodes"
    torn = f", {size(figures.gap_bytes)} torn by crashes" if figures.gap_bytes else ""
    arenas = f"{figures.arenas_sealed:,} sealed, {figures.arenas_open:,} open{torn}"

    def row(part: int, note: str = "", whole: int = put) -> str:
        return f"{size(part):>9}  {share(part, whole):>7}  {note}"

    return [
        ("archived", row(put, count(figures.put_blocks, "block"))),
        ("  zeros saved", row(figures.zero_bytes)),
        ("  duplicates saved", row(figures.known_bytes, count(figures.known_blocks, "block"))),
        ("  compression saved", row(raw - stored)),
        ("stored", row(stored, blocks)),
        ("arena files", row(figures.arena_bytes, arenas)),
        ("index", row(figures.index_bytes, count(figures.index_entries, "entry", "entries"))),
        ("catalog", f"{'':>20}{count(figures.records, 'record')}"),
    ]
