"""`ventifs forget`."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click

from ventifs.cli.formatting import count
from ventifs.cli.output import echo, print_json
from ventifs.cli.store_option import json_option, store_option
from ventifs.cli.versions.list_versions import as_json_object
from ventifs.errors import Busy, VentifsError
from ventifs.image.formats.kept_choice import left_over
from ventifs.store import Store
from ventifs.tree.archive.statcache import no_run
from ventifs.tree.versions.catalog import Version, find_version, versions
from ventifs.tree.versions.retention import Policy, retained

_RULES = {
    "last": "the N latest versions",
    "daily": "the newest version of each of the N latest days",
    "weekly": "the same of ISO weeks",
    "monthly": "the same of months",
    "yearly": "the same of years",
}

Kept = list[tuple[Version, list[str]]]  # with the reasons


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
    """Remove versions from the catalog. Their blocks stay in the store.

    Forgets each VERSION (NAME@latest, NAME@TIME, NAME@~N, score:HEX), or, with --keep options,
    thins the versions of each NAME (of every name, if none is given). Rules add up: what one of
    them keeps is kept. Days, weeks, months and years are UTC's, and count only if they have a
    version. The last version of a name is kept unless --force is given.
    """
    policy = _policy(wanted, {rule: number for rule, number in keep.items() if number is not None})
    with Store.open(store, "read" if dry_run else "write") as opened:
        if policy is None:
            kept, doomed = _named(opened, wanted, force=force)
        else:
            kept, doomed = _thinned(opened, wanted, policy)
        if doomed and not dry_run:
            _commit(opened, kept, doomed)
    if as_json:
        _print_json(kept, doomed, dry_run=dry_run)
        return
    for version, reasons in kept if policy else []:
        echo(f"{'would keep' if dry_run else 'kept'} {version}  ({', '.join(reasons)})")
    for version in doomed:
        echo(f"{'would forget' if dry_run else 'forgot'} {version}")
    if policy:
        told = f"{len(kept):,} kept, {count(len(doomed), 'version')} forgotten"
        echo(f"a dry run: {told} if this were done" if dry_run else told)


def _commit(store: Store, kept: Kept, doomed: list[Version]) -> None:
    """Delete versions, and the settings kept with names that have no versions left.

    The settings stay while a run works under the name or has committed a version meanwhile: it
    relies on them.
    """
    records = [version.record for version in doomed if version.record]
    with ExitStack() as stack:
        for name in sorted({each.name for each in doomed} - {each.name for each, _ in kept}):
            if not left_over(store, [name]):
                continue
            with suppress(Busy):
                stack.enter_context(no_run(store, name))
                there = {each.record for each in versions(store, name)}
                records += left_over(store, [name]) if there <= set(records) else []
        store.commit(deletes=records)


def _policy(wanted: tuple[str, ...], numbers: dict[str, int]) -> Policy | None:
    """What to keep; None when versions are named instead."""
    if not numbers and not wanted:
        raise click.UsageError("name the versions to forget, or say with --keep-... what to keep")
    if not numbers:
        _refuse_bare(wanted)
        return None
    for text in wanted:
        if set("@:") & set(text):
            raise click.UsageError(f"{text} is a version; --keep-... wants names, which it thins")
    if not any(numbers.values()):
        raise click.UsageError("--keep-... 0 would keep nothing; name the versions to forget")
    return Policy(**numbers)


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


def _named(store: Store, wanted: tuple[str, ...], *, force: bool) -> tuple[Kept, list[Version]]:
    """The versions named, and what is left of their names."""
    doomed = {str(version): version for version in (find_version(store, text) for text in wanted)}
    kept: Kept = []
    for name in sorted({version.name for version in doomed.values()}):
        left = [version for version in versions(store, name) if str(version) not in doomed]
        if not left and not force:
            raise VentifsError(f"{name}: this would forget its last version; --force does that")
        kept += [(version, []) for version in left]
    return kept, list(doomed.values())


def _thinned(store: Store, names: tuple[str, ...], policy: Policy) -> tuple[Kept, list[Version]]:
    """What a policy keeps of each name, and what it does not."""
    kept: Kept = []
    doomed: list[Version] = []
    for name in sorted(
        {find_version(store, name).name for name in names}
        or {version.name for version in versions(store)}
    ):
        of_name = versions(store, name)
        reasons = retained((version.time_ns for version in of_name), policy)
        kept += [
            (version, reasons[version.time_ns]) for version in of_name if version.time_ns in reasons
        ]
        doomed += [version for version in of_name if version.time_ns not in reasons]
    return kept, doomed


def _print_json(kept: Kept, doomed: list[Version], *, dry_run: bool) -> None:
    facts = {
        "dry_run": dry_run,
        "kept": [{**as_json_object(version), "reasons": reasons} for version, reasons in kept],
        "forgotten": [as_json_object(version) for version in doomed],
    }
    print_json(facts)
