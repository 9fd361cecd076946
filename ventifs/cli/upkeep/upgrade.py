"""`ventifs upgrade`."""

import os
from pathlib import Path

import click

from ventifs.cli.formatting import count, exact
from ventifs.cli.output import echo, print_json
from ventifs.cli.store_option import json_option, store_option, wait_option
from ventifs.cli.upkeep.reserve_option import VARIABLE, default_reserve, reserve_option
from ventifs.store.header import read_header
from ventifs.store.upgrade import Correction
from ventifs.store.upgrade import upgrade as upgrade_store
from ventifs.text import printable

_IN_PART = 3


@click.command(short_help="Bring a store of older programs up to date.")
@store_option
@wait_option
@json_option
@reserve_option(f"as it is; in an older store ${VARIABLE}, else as in a new one")
@click.option("--dry-run", is_flag=True, help="Only say what would be corrected.")
def upgrade(
    store: Path, *, wait_s: float | None, as_json: bool, reserve: int | None, dry_run: bool
) -> int:
    """Bring a store of older programs up to date.

    Closes it to users that are not meant to read it, sets the modes of its files, makes its
    reserve, and says in its header what it may hold from now on: programs older than this one can
    then only read it. Blocks and versions stay as they are. Wants the store to itself if there is
    something to do. An interrupted upgrade is finished by running it again.

    Exits with 3 if something is left that this user, or the room on the disk, does not allow.
    """
    found: list[Correction] = []

    def report(correction: Correction) -> None:
        found.append(correction)
        if not as_json:
            echo(_line(correction, dry_run=dry_run))

    upgrade_store(
        store,
        report,
        reserve=reserve,
        first_reserve=default_reserve(),
        dry_run=dry_run,
        wait_s=wait_s or 0,
    )
    corrected = [correction for correction in found if not correction.left]
    left = [correction for correction in found if correction.left]
    if as_json:
        _print_json(store, corrected, left, dry_run=dry_run)
    elif not found:
        echo(f"{printable(store)}: nothing to do")
    elif dry_run:
        echo(f"a dry run: {count(len(corrected), 'thing')} would be corrected")
    else:
        echo(f"{printable(store)}: {'up to date' if not left else 'the rest is up to date'}")
    return _IN_PART if left else 0


def _line(correction: Correction, *, dry_run: bool) -> str:
    what = "left" if correction.left else "would correct" if dry_run else "corrected"
    return f"{what}: {correction.step}: {correction.text}"


def _print_json(
    store: Path, corrected: list[Correction], left: list[Correction], *, dry_run: bool
) -> None:
    facts = {
        **exact(os.fsencode(store), "store"),
        "dry_run": dry_run,
        "corrected": [{"step": each.step, "what": each.text} for each in corrected],
        "left": [{"step": each.step, "why": each.text} for each in left],
        "features": read_header(store).features,
    }
    print_json(facts)
