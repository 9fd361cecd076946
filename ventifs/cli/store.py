"""`ventifs init` and `ventifs stats`."""

import json
from pathlib import Path

import click
from msgspec.structs import asdict

from ventifs.cli.text import Size, count, share, size
from ventifs.cli.where import json_option, store_option
from ventifs.store import Stats, Store
from ventifs.store.header import ARENA_SIZE_DEFAULT, ARENA_SIZE_MAX, ARENA_SIZE_MIN


@click.command(short_help="Make a new, empty store.")
@store_option
@click.option(
    "--arena-size",
    type=Size(),
    default=ARENA_SIZE_DEFAULT,
    metavar="SIZE",
    help="Size at which arena files are sealed, 4MiB to 3GiB.  [default: 256MiB]",
)
def init(store: Path, arena_size: int) -> None:
    """Make a new, empty store.

    The directory must be empty or not there yet; missing parents are made.
    """
    if not ARENA_SIZE_MIN <= arena_size <= ARENA_SIZE_MAX:
        raise click.BadParameter("an arena has 4MiB to 3GiB", param_hint="--arena-size")
    Store.create(store, arena_size=arena_size)
    click.echo(f"made an empty store at {store}")


@click.command(short_help="Show what the store holds and saves.")
@store_option
@json_option
def stats(store: Path, *, as_json: bool) -> None:
    """Show what the store holds and saves.

    Savings by zeros, by deduplication and by compression are told apart. Figures are as of the
    last commit; sizes are in decimal units.
    """
    with Store.open(store) as opened:
        figures = opened.stats()
    if as_json:
        click.echo(json.dumps({"store": str(store), **asdict(figures)}, indent=2))
        return
    for name, value in _table(figures):
        click.echo(f"{name:<22}{value}".rstrip())


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
