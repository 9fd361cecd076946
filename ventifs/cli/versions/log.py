"""`ventifs log`."""

from pathlib import Path
from typing import Any

import click

import ventifs
from ventifs.api.results import HistoryStep
from ventifs.cli.formatting import exact, size
from ventifs.cli.store_option import json_option, store_option
from ventifs.cli.versions.diff import SIGNS
from ventifs.cli.versions.listing import print_array, print_lines
from ventifs.tree.objects.records import Directory, Entry, RegularFile, Symlink, score_of_content


@click.command(short_help="Show the versions in which a path changed.")
@click.argument("what", metavar="NAME[:PATH]")
@store_option
@json_option
def log(what: str, *, store: Path, as_json: bool) -> None:
    """Show the versions in which a path changed, the newest first.

    Lines begin with + added, - removed, M modified, m metadata only, compared with the version
    before; the score is that of the content. With NAME@TIME only versions up to that one count.
    """
    with ventifs.open(store) as archive:
        steps = archive.path(what).history()
        if as_json:
            print_array(map(_as_json, steps))
        else:
            print_lines(map(_line, steps))


def _size(entry: Entry | None) -> int | None:
    if entry is None:
        return None
    return entry.detail.bytes if isinstance(entry.detail, Directory) else entry.size


def _score(entry: Entry | None) -> str | None:
    """The score of a file's or directory's content; others have none."""
    if entry is None or not isinstance(entry.detail, RegularFile | Directory):
        return None
    return score_of_content(entry.detail.content).hex()


def _line(step: HistoryStep) -> str:
    amount = _size(step.entry)
    what = f"({', '.join(step.what)})" if step.what else ""
    words = [
        SIGNS[step.kind],
        f"{step.version.stored.when:<20}",
        f"{'' if amount is None else size(amount):>9}",
        f"{_score(step.entry) or '':<64}",
        what,
    ]
    return "  ".join(words).rstrip()


def _as_json(step: HistoryStep) -> dict[str, Any]:
    entry = step.entry
    facts = {
        "version": str(step.version),
        "time": step.version.stored.when,
        "change": step.kind,
        "what": list(step.what),
        "size": _size(entry),
        "score": _score(entry),
    }
    if entry is not None and isinstance(entry.detail, Symlink):
        facts |= exact(entry.detail.target, "target")
    return facts
