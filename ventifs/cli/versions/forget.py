"""`ventifs forget`."""

from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import click

import ventifs
from ventifs import ArchivedVersion, Thinned
from ventifs.api.archive import OpenMode
from ventifs.api.results import KeptVersions
from ventifs.cli.formatting import count
from ventifs.cli.output import echo, print_json
from ventifs.cli.store_option import json_option, store_option, wait_option
from ventifs.cli.versions.list_versions import as_json_object
from ventifs.store.header import read_header, require_reclaimed
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
@click.option(
    "--reclaim",
    "reclaiming",
    is_flag=True,
    help="Then free the space of all that is forgotten, also of what was forgotten before; without "
    "--wait it waits for running archives as long as they take.",
)
def forget(
    wanted: tuple[str, ...],
    *,
    store: Path,
    wait_s: float | None,
    as_json: bool,
    timezone: str | None,
    force: bool,
    dry_run: bool,
    reclaiming: bool,
    **keep: Any,
) -> int:
    """Remove versions from the catalog. 'ventifs undelete' brings them back until a reclaim.

    Forgets each VERSION: NAME@latest, NAME@TIME, NAME@~N, or score:HEX if only one version has this
    tree. If a name would then have no version left, nothing is forgotten, unless --force is given.
    Versions that 'ventifs hold' keeps are refused. The blocks of what is forgotten stay in the
    store until 'ventifs reclaim' frees them: 'ventifs versions --forgotten' lists what can come
    back. With --reclaim that is done at once, with a grace of 0: nothing that was forgotten, now or
    before, can come back then.

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
    if reclaiming:
        require_reclaimed(store, read_header(store))
    mode: OpenMode = "read" if dry_run else "write"
    zone = zone_of(timezone) if rules else None
    with ventifs.open(store, mode, reserve=True, wait_s=wait_s) as archive:
        if zone is None:
            done = archive.forget(*wanted, force=force, dry_run=dry_run)
        else:
            done = archive.thin(*wanted, **rules, timezone=zone, dry_run=dry_run)
        there = len(archive.forgotten()) if reclaiming else 0
    if as_json:
        facts = _facts(done, zone, dry_run=dry_run)
    else:
        _print(done, zone, dry_run=dry_run)
        facts = {}
    code = 0
    try:
        if reclaiming:
            before = there - (0 if dry_run else len(done.forgotten))
            if not as_json:
                _announce(before, dry_run=dry_run)
            facts["reclaim"] = None
            if not dry_run:
                code, facts["reclaim"] = _reclaim(store, done, wait_s=wait_s, quiet=as_json)
    finally:  # what was forgotten is, whatever became of the reclaim
        if as_json:
            print_json(facts)
    return code


def _announce(before: int, *, dry_run: bool) -> None:
    """Print what `--reclaim` takes that was not forgotten by this command."""
    verb = "was" if before == 1 else "were"
    also = f", also of {count(before, 'version')} that {verb} forgotten before" if before else ""
    if dry_run:
        echo(
            f"then space would be reclaimed{also}; how much is known only when they are forgotten: "
            "'ventifs reclaim --dry-run' says it then"
        )
    elif before:
        echo(f"space is reclaimed{also}")


def _reclaim(
    store: Path, done: Thinned, *, wait_s: float | None, quiet: bool
) -> tuple[int, dict[str, Any]]:
    """Free the space of all forgotten versions; return the exit code, and what `--json` prints."""
    from ventifs.cli.upkeep.reclaim import exit_code, reclaim_json, run_reclaim
    from ventifs.cli.upkeep.reclaim_report import Asked

    asked = Asked()
    goes_on = "'ventifs reclaim' goes on"
    reclaimed = run_reclaim(
        store,
        asked,
        wait_s=wait_s,
        quiet=quiet,
        after_signal=f"the versions are forgotten, and {goes_on}" if done.forgotten else goes_on,
    )
    return exit_code(reclaimed), reclaim_json(asked, reclaimed)


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


def _facts(thinned: Thinned, zone: tzinfo | None, *, dry_run: bool) -> dict[str, Any]:
    """What `--json` prints; `zone` is that of the rules, None if versions were named."""
    return {
        "dry_run": dry_run,
        **({} if zone is None else {"timezone": str(zone)}),
        "kept": [_as_json(*each, zone) for each in thinned.kept],
        "forgotten": [_as_json(*each, zone) for each in _doomed(thinned, zone)],
    }


def _doomed(thinned: Thinned, zone: tzinfo | None) -> KeptVersions:
    """The versions that are forgotten, with the reason."""
    reason = _NAMED if zone is None else NO_RULE
    return [(version, [reason]) for version in thinned.forgotten]


def _print(thinned: Thinned, zone: tzinfo | None, *, dry_run: bool) -> None:
    """Print what was done, for people; `zone` as for `_facts`."""
    doomed = _doomed(thinned, zone)
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
