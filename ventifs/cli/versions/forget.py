"""`ventifs forget`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import ventifs
from ventifs import ArchivedVersion
from ventifs.api.results import KeptVersions
from ventifs.cli.formatting import count
from ventifs.cli.output import echo, print_json
from ventifs.cli.store_option import json_option, store_option
from ventifs.cli.versions.list_versions import as_json_object

_RULES = {
    "last": "the N latest versions",
    "daily": "the newest version of each of the N latest days",
    "weekly": "the same of ISO weeks",
    "monthly": "the same of months",
    "yearly": "the same of years",
}


def _keep_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for rule, what in reversed(_RULES.items()):
        command = click.option(
            f"--keep-{rule}", rule, type=click.IntRange(min=0), metavar="N", help=f"Keep {what}."
        )(command)
    return command


@click.command(short_help="Remove versions from the catalog.")
@click.argument("wanted", nargs=-1, metavar="[VERSION...|NAME...]")
@store_option
@json_option
@_keep_options
@click.option("--force", is_flag=True, help="Also the last version of a name.")
@click.option("--dry-run", is_flag=True, help="Only say what would be forgotten.")
def forget(
    wanted: tuple[str, ...],
    *,
    store: Path,
    as_json: bool,
    force: bool,
    dry_run: bool,
    **keep: int | None,
) -> None:
    """Remove versions from the catalog. 'ventifs undelete' brings them back.

    Forgets each VERSION (NAME@latest, NAME@TIME, NAME@~N, score:HEX). If a name would then have no
    version left, nothing is forgotten, unless --force is given. Versions that 'ventifs hold' keeps
    are refused. The blocks of what is forgotten stay in the store: 'ventifs versions --forgotten'
    lists what can come back.

    With --keep options, forgets all versions of each NAME (of every name, if none is given) except
    those that at least one of the options, or a hold, keeps. Days, weeks, months and years are
    UTC's, and count only if they have a version; the newest version of each is kept.
    """
    rules = {rule: number for rule, number in keep.items() if number is not None}
    _check(wanted, rules)
    with ventifs.open(store, "read" if dry_run else "write") as archive:
        if rules:
            kept, doomed = archive.thin(*wanted, **rules, dry_run=dry_run)
        else:
            kept, doomed = archive.forget(*wanted, force=force, dry_run=dry_run)
    if as_json:
        _print_json(kept, doomed, dry_run=dry_run)
        return
    for version, reasons in kept if rules else []:
        echo(f"{'would keep' if dry_run else 'kept'} {version}  ({', '.join(reasons)})")
    for version in doomed:
        echo(f"{'would forget' if dry_run else 'forgot'} {version}")
    if rules:
        told = f"{len(kept):,} kept, {count(len(doomed), 'version')} forgotten"
        echo(f"a dry run: {told} if this were done" if dry_run else told)


def _check(wanted: tuple[str, ...], rules: dict[str, int]) -> None:
    """Refuse what does not say which versions are meant.

    Raises:
        UsageError: showing what does.
    """
    if not rules and not wanted:
        raise click.UsageError("name the versions to forget, or say with --keep-... what to keep")
    if not rules:
        _refuse_bare(wanted)
        return
    for text in wanted:
        if set("@:") & set(text):
            raise click.UsageError(f"{text} is a version; --keep-... wants names, which it thins")
    if not any(rules.values()):
        raise click.UsageError("--keep-... 0 would keep nothing; name the versions to forget")


def _refuse_bare(wanted: tuple[str, ...]) -> None:
    """Refuse a name alone: it may stand for all its versions, or for the latest.

    Raises:
        UsageError: a name stands alone; the message shows a command for either meaning.
    """
    for text in wanted:
        if not set("@:") & set(text):
            raise click.UsageError(
                f"{text} names all its versions; 'ventifs forget {text}@latest' forgets the "
                f"latest, and 'ventifs forget {text} --keep-last 1' all but the latest"
            )


def _print_json(kept: KeptVersions, doomed: list[ArchivedVersion], *, dry_run: bool) -> None:
    facts = {
        "dry_run": dry_run,
        "kept": [
            {**as_json_object(version.stored), "reasons": reasons} for version, reasons in kept
        ],
        "forgotten": [as_json_object(version.stored) for version in doomed],
    }
    print_json(facts)
