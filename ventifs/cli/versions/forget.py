"""`ventifs forget`."""

from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import click

import ventifs
from ventifs import ArchivedVersion, Thinned
from ventifs.api.archive import OpenMode
from ventifs.cli.formatting import count
from ventifs.cli.output import echo, print_json
from ventifs.cli.store_option import json_option, store_option, wait_option
from ventifs.cli.versions.list_versions import as_json_object
from ventifs.tree.versions.retention import NO_RULE
from ventifs.tree.versions.times import moment, parse_span
from ventifs.tree.versions.zones import zone_of

_RULES = {
    "last": "the N latest versions, and the N latest whole ones",
    "hourly": "the newest version of each of the N latest hours",
    "daily": "the same of days",
    "weekly": "the same of ISO weeks",
    "monthly": "the same of months",
    "yearly": "the same of years",
}
_NAMED = "named"  # why a version is forgotten, without rules


def _keep_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--keep-tag",
        "tags",
        multiple=True,
        metavar="TAG",
        help="Keep versions that have this tag; may be repeated.",
    )(command)
    command = click.option(
        "--keep-within",
        "within",
        metavar="SPAN",
        help="Keep what is newer than the latest version less SPAN, such as 30d or 1y5m7d2h.",
    )(command)
    for rule, what in reversed(_RULES.items()):
        command = click.option(
            f"--keep-{rule}", rule, type=click.IntRange(min=0), metavar="N", help=f"Keep {what}."
        )(command)
    return command


@click.command(short_help="Remove versions from the catalog.")
@click.argument("wanted", nargs=-1, metavar="[VERSION...|NAME...]")
@store_option
@wait_option
@json_option
@_keep_options
@click.option(
    "--timezone",
    metavar="ZONE",
    help="Whose days count: Europe/Berlin, +02:00.  [default: the machine's]",
)
@click.option("--force", is_flag=True, help="Also the last version of a name.")
@click.option("--dry-run", is_flag=True, help="Only say what would be forgotten.")
def forget(
    wanted: tuple[str, ...],
    *,
    store: Path,
    wait_s: float | None,
    as_json: bool,
    timezone: str | None,
    force: bool,
    dry_run: bool,
    **keep: Any,
) -> None:
    """Remove versions from the catalog. 'ventifs undelete' brings them back.

    Forgets each VERSION: NAME@latest, NAME@TIME, NAME@~N, or score:HEX if only one version has this
    tree. If a name would then have no version left, nothing is forgotten, unless --force is given.
    Versions that 'ventifs hold' keeps are refused. The blocks of what is forgotten stay in the
    store: 'ventifs versions --forgotten' lists what can come back.

    With --keep options, forgets all versions of each NAME (of every name, if none is given) except
    those that at least one of the options keeps. Hours, days, weeks, months and years are those of
    --timezone, and count only if they have a version. Of each period the newest version without
    troubles is kept; if all have troubles, the newest. While there are fewer than N, the oldest
    version is kept too. A SPAN has years, months, weeks, days and hours: 1y6m2w3d12h.

    Versions that are held, or lie in the future, are always kept; the latter count for no option,
    and are only forgotten by name. Versions are named by UTC; their times in the zone follow.
    """
    rules = {rule: value for rule, value in keep.items() if value not in (None, ())}
    _check(wanted, rules, timezone)
    if rules and force:
        raise click.UsageError("--force is for versions that are named; with --keep-... leave it")
    mode: OpenMode = "read" if dry_run else "write"
    with ventifs.open(store, mode, reserve=True, wait_s=wait_s) as archive:
        if not rules:
            forgotten = archive.forget(*wanted, force=force, dry_run=dry_run)
            _print(forgotten, None, as_json=as_json, dry_run=dry_run)
            return
        zone = zone_of(timezone)
        thinned = archive.thin(*wanted, **rules, timezone=zone, dry_run=dry_run)
    _print(thinned, zone, as_json=as_json, dry_run=dry_run)


def _check(wanted: tuple[str, ...], rules: dict[str, Any], timezone: str | None) -> None:
    """Refuse what does not say which versions are meant.

    Raises:
        UsageError: showing what does.
        VentifsError: a length of time is none.
    """
    if not rules and not wanted:
        raise click.UsageError("name the versions to forget, or say with --keep-... what to keep")
    if not rules:
        if timezone is not None:
            raise click.UsageError("--timezone is for --keep-..., whose days are its")
        _refuse_bare(wanted)
        return
    if "" in rules.get("tags", ()):
        raise click.UsageError("--keep-tag wants a tag, not an empty text")
    for text in wanted:
        if set("@:") & set(text):
            raise click.UsageError(f"{text} is a version; --keep-... wants names, which it thins")
    within = parse_span(rules["within"]) if "within" in rules else None
    if not any({**rules, "within": within}.values()):
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


def _print(thinned: Thinned, zone: tzinfo | None, *, as_json: bool, dry_run: bool) -> None:
    """Print what was done; `zone` is that of the rules, None if versions were named."""
    reason = _NAMED if zone is None else NO_RULE
    doomed = [(version, [reason]) for version in thinned.forgotten]
    if as_json:
        facts: dict[str, Any] = {"dry_run": dry_run}
        if zone is not None:
            facts["timezone"] = str(zone)
        facts["kept"] = [_as_json(*each, zone) for each in thinned.kept]
        facts["forgotten"] = [_as_json(*each, zone) for each in doomed]
        print_json(facts)
        return
    if zone is None:
        for version, _ in doomed:
            echo(f"{'would forget' if dry_run else 'forgot'} {version}")
        return
    every = [version for version, _ in (*thinned.kept, *doomed)]
    utc = all(_moment(version, zone).utcoffset() == timedelta() for version in every)
    if every:
        echo(f"the days are those of {zone}; versions are named by UTC")
    for verb, versions in (
        ("would keep" if dry_run else "kept", thinned.kept),
        ("would forget" if dry_run else "forgot", doomed),
    ):
        for version, reasons in versions:
            there = "" if utc else f"  {_moment(version, zone)}"
            echo(f"{verb} {version}{there}  ({', '.join(reasons)})")
    summary = f"{len(thinned.kept):,} kept, {count(len(doomed), 'version')} forgotten"
    echo(f"a dry run: {summary} if this were done" if dry_run else summary)


def _moment(version: ArchivedVersion, zone: tzinfo) -> datetime:
    return moment(version.time_ns, zone)


def _as_json(version: ArchivedVersion, reasons: list[str], zone: tzinfo | None) -> dict[str, Any]:
    local = {} if zone is None else {"local_time": _moment(version, zone).isoformat()}
    return {**as_json_object(version.stored), **local, "reasons": reasons}
