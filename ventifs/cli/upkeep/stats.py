"""`ventifs stats`."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from msgspec.structs import asdict

import ventifs
from ventifs import HeldAlone
from ventifs.cli.formatting import count, exact, share, size
from ventifs.cli.output import echo, print_json
from ventifs.cli.progress import EntryProgress
from ventifs.cli.store_option import json_option, store_option
from ventifs.cli.versions.list_versions import disk_json, disk_lines, disk_notes, kept_lines
from ventifs.cli.versions.listing import print_lines
from ventifs.errors import Corrupt
from ventifs.image.disk_facts import facts_of
from ventifs.image.formats.kept_choice import all_kept
from ventifs.store import Stats, Store
from ventifs.tree.objects.records import Directory
from ventifs.tree.versions.catalog import find_version, versions
from ventifs.tree.versions.dead import DeadEstimate, MarkedSpace, Space
from ventifs.tree.versions.exclusive import exclusive
from ventifs.tree.versions.leasing import leased

_TableRow = tuple[str, str]  # what, and its figures


@click.command(short_help="Show what the store holds and saves.")
@click.argument("wanted", required=False, metavar="[VERSION|NAME]")
@store_option
@json_option
@click.option(
    "--exact", "exactly", is_flag=True, help="Measure what is dead instead of estimating it."
)
@click.option(
    "--versions", "each", is_flag=True, help="What each version alone holds: of NAME, or of all."
)
def stats(wanted: str | None, *, store: Path, as_json: bool, exactly: bool, each: bool) -> None:
    """Show what the store holds and saves.

    Savings by zeros, by deduplication and by compression are listed apart. Figures are as of the
    last commit; sizes are in decimal units. Dead is what no version needs: as an estimate, from
    what versions added when they were archived, or with --exact measured, which reads the nodes of
    all versions, and tells apart what only forgotten versions hold. 'ventifs reclaim' frees both.

    Of a VERSION: what is in it (of a disk: its partitions and volumes, and what was noted), and
    what only it holds, as blocks and as it is stored; this reads the nodes of all versions. With
    --versions a table of that, of all versions of NAME or of the store, in one pass, and what each
    name alone holds.
    """
    if each and exactly:
        raise click.UsageError("give one of --versions, --exact")
    if exactly and wanted is not None:
        raise click.UsageError("--exact is of the whole store; leave the version out")
    if each:
        _print_alone(store, wanted, as_json=as_json)
    elif wanted is not None:
        _version_stats(store, wanted, as_json=as_json)
    else:
        _store_stats(store, exactly=exactly, as_json=as_json)


def _store_stats(store: Path, *, exactly: bool, as_json: bool) -> None:
    with ventifs.open(store) as archive:
        marked = None
        if exactly:
            with EntryProgress("marking", quiet=as_json, things=("block", "blocks")) as progress:
                marked = archive.measured_dead(progress=lambda done: progress(done, 0, b""))
        figures = archive.store.stats()
        estimate = None
        with suppress(Corrupt):  # of a version's record: without an estimate, not without figures
            estimate = archive.estimated_dead()
    rows: list[_TableRow] = []
    dead: dict[str, Any] = {}
    if marked is not None:
        rows, dead = _marked_rows(figures, marked), {"marked": _marked_json(marked)}
    elif estimate is not None:
        rows, dead = _estimate_rows(figures, estimate), {"dead_estimate": asdict(estimate)}
    if as_json:
        print_json({**exact(os.fsencode(store), "store"), **asdict(figures), **dead})
        return
    for name, value in _table(figures, rows):
        echo(f"{name:<22}{value}".rstrip())
    for called in marked.unreadable if marked is not None else ():
        echo(f"note: {called}: damaged; what cannot be reached of it counts as dead")


def _marked_json(marked: MarkedSpace) -> dict[str, Any]:
    return {
        "live": asdict(marked.live),
        "forgotten": asdict(marked.forgotten),
        "dead": asdict(marked.dead),
        "versions": marked.versions,
        "forgotten_versions": marked.forgotten_versions,
        "unreadable": marked.unreadable,
    }


def _estimate_rows(figures: Stats, estimate: DeadEstimate) -> list[_TableRow]:
    if not figures.blocks:
        return []
    forgotten = ""
    if estimate.forgotten:
        forgotten = f", {count(estimate.forgotten, 'forgotten version')} in it"
    note = f"of it, estimated{forgotten}; 'ventifs stats --exact' measures"
    return [("  dead, about", _row(estimate.stored_bytes, note, figures.stored_bytes))]


def _marked_rows(figures: Stats, marked: MarkedSpace) -> list[_TableRow]:
    def row(space: Space, note: str, advice: str = "") -> str:
        note = f"of it, {count(space.blocks, 'block')}{note}{advice if space.blocks else ''}"
        return _row(space.stored_bytes, note, figures.stored_bytes)

    frees = "; 'ventifs reclaim' frees them"
    rows = [("  live", row(marked.live, f" of {count(marked.versions, 'version')}"))]
    if marked.forgotten_versions:
        gone = count(marked.forgotten_versions, "forgotten version")
        rows.append(("  forgotten", row(marked.forgotten, f" that only {gone} held", frees)))
    return [*rows, ("  dead", row(marked.dead, " that no version holds", frees))]


def _print_alone(store: Path, name: str | None, *, as_json: bool) -> None:
    with (
        EntryProgress("comparing", quiet=as_json, things=("block", "blocks")) as progress,
        ventifs.open(store) as archive,
    ):
        found = archive.held_alone(name, progress=lambda done: progress(done, 0, b""))
    total = _sum([space for _, space in found.versions])
    if not as_json:
        print_lines(_alone_lines(found, total))
        return
    print_json(
        {
            "versions": [
                {"name": version.name, "time": version.stored.when, **_only(space)}
                for version, space in found.versions
            ],
            "names": [
                {"name": each, "versions": _versions_of(found, each), **_only(space)}
                for each, space in found.names.items()
            ],
            "total": _only(total),
        }
    )


def _versions_of(found: HeldAlone, name: str) -> int:
    return sum(version.name == name for version, _ in found.versions)


def _only(space: Space) -> dict[str, int]:
    return {
        "only_blocks": space.blocks,
        "only_raw_bytes": space.raw_bytes,
        "only_stored_bytes": space.stored_bytes,
    }


def _sum(spaces: list[Space]) -> Space:
    return Space(
        sum(space.blocks for space in spaces),
        sum(space.raw_bytes for space in spaces),
        sum(space.stored_bytes for space in spaces),
    )


def _alone_lines(found: HeldAlone, total: Space) -> list[str]:
    """A table: the versions of each name, then what the name alone holds; a sum at the end."""
    rows: list[tuple[str, Space]] = []
    for name, whole in found.names.items():
        of_name = [(str(each), space) for each, space in found.versions if each.name == name]
        rows += of_name
        if len(of_name) > 1:
            rows.append((f"all {count(len(of_name), 'version')} of {name}", whole))
    rows.append((f"sum of {count(len(found.versions), 'single version')}", total))
    width = max(len(called) for called, _ in rows)
    head = f"{'held by nothing else':<{width}}  {'blocks':>12}  {'raw':>9}  {'stored':>9}"
    return [
        head,
        *(
            f"{called:<{width}}  {space.blocks:>12,}  {size(space.raw_bytes):>9}  "
            f"{size(space.stored_bytes):>9}"
            for called, space in rows
        ),
    ]


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


def _row(part: int, note: str, whole: int) -> str:
    return f"{size(part):>9}  {share(part, whole):>7}  {note}"


def _table(figures: Stats, dead: list[_TableRow]) -> list[_TableRow]:
    put, raw, stored = figures.put_bytes, figures.raw_bytes, figures.stored_bytes
    blocks = f"{count(figures.blocks, 'block')}, {figures.node_blocks:,} of them nodes"
    torn = f", {size(figures.gap_bytes)} torn by crashes" if figures.gap_bytes else ""
    arenas = f"{figures.arenas_sealed:,} sealed, {figures.arenas_open:,} open{torn}"

    def row(part: int, note: str = "") -> str:
        return _row(part, note, put)

    return [
        ("archived", row(put, count(figures.put_blocks, "block"))),
        ("  zeros saved", row(figures.zero_bytes)),
        ("  duplicates saved", row(figures.known_bytes, count(figures.known_blocks, "block"))),
        ("  compression saved", row(max(0, raw - stored))),
        ("stored", row(stored, blocks)),
        *dead,
        ("arena files", row(figures.arena_bytes, arenas)),
        ("index", row(figures.index_bytes, count(figures.index_entries, "entry", "entries"))),
        ("catalog", f"{'':>20}{count(figures.records, 'record')}"),
        ("reserve", f"{size(figures.reserve_bytes):>9}"),
    ]
