"""`ventifs hold` and `ventifs release`."""

import time
from pathlib import Path

import click

import ventifs
from ventifs.cli.store_option import json_option, store_option, wait_option
from ventifs.cli.versions.list_versions import hold_json
from ventifs.cli.versions.named import print_versions, versions_argument
from ventifs.tree.versions.holds import Hold
from ventifs.tree.versions.times import parse_time

_DAY_NS = 24 * 3600 * 10**9


@click.command(short_help="Keep versions from being forgotten.")
@versions_argument
@store_option
@wait_option
@json_option
@click.option(
    "--until",
    metavar="TIME",
    help="When the hold ends, in UTC; of a day, month or year its end.  [default: never]",
)
def hold(
    wanted: tuple[str, ...], *, store: Path, wait_s: float | None, as_json: bool, until: str | None
) -> None:
    """Keep versions from being forgotten, until a time or until 'ventifs release'.

    Each VERSION is NAME@latest, NAME@TIME, NAME@~N, or score:HEX if only one version has this tree.
    'ventifs forget' refuses held versions, and every --keep rule keeps them. A new hold of a
    version replaces the one before.
    """
    until_ns = None if until is None else _end(until)
    with ventifs.open(store, "write", wait_s=wait_s) as archive:
        found = archive.hold(*wanted, until_ns=until_ns)
    held = Hold(until_ns)
    print_versions(
        found,
        lambda version: f"{version} is {held}",
        as_json=as_json,
        more=hold_json(held, time.time_ns()),
    )


def _end(text: str) -> int:
    """When a hold until a time ends: a day is held to its end, and so are months and years."""
    first, end = parse_time(text)
    return end if end - first >= _DAY_NS else first


@click.command(short_help="End what 'hold' began.")
@versions_argument
@store_option
@wait_option
@json_option
def release(wanted: tuple[str, ...], *, store: Path, wait_s: float | None, as_json: bool) -> None:
    """End the holds of versions: they can be forgotten again, and nothing else changes.

    Each VERSION is NAME@latest, NAME@TIME, NAME@~N, or score:HEX if only one version has this tree.
    """
    with ventifs.open(store, "write", wait_s=wait_s) as archive:
        found = archive.release(*wanted)
    print_versions(
        found,
        lambda version: f"released {version}",
        as_json=as_json,
        more=hold_json(None, time.time_ns()),
    )
