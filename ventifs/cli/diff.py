"""`ventifs diff` and `ventifs find`."""

import json
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click

from ventifs.cli.text import count, size
from ventifs.cli.where import json_option, store_option
from ventifs.store import Store
from ventifs.tree.catalog import find_version, split_path
from ventifs.tree.diff import Change
from ventifs.tree.diff import diff as tree_diff
from ventifs.tree.directory import printable, resolve, tree
from ventifs.tree.records import Entry

_SIGNS = {"added": "+", "removed": "-", "modified": "M", "metadata": "m"}


def _entry(store: Store, text: str, path: bytes) -> Entry:
    wanted, own = split_path(text)
    return resolve(store, find_version(store, wanted).root, own + b"/" + path)


@click.command(short_help="Compare two versions.")
@click.argument("old", metavar="VERSION[:PATH]")
@click.argument("new", metavar="VERSION[:PATH]")
@click.argument("path", default="")
@store_option
@json_option
@click.option("--stat", "only_stat", is_flag=True, help="Only how much changed.")
def diff(old: str, new: str, path: str, *, store: Path, as_json: bool, only_stat: bool) -> None:
    """Compare two versions, or a PATH in both.

    Lines begin with + added, - removed, M modified, m metadata only; what differs follows. Only
    what differs is read.
    """
    below = path.encode("utf-8", "surrogateescape")
    with Store.open(store) as opened:
        changes = list(tree_diff(opened, _entry(opened, old, below), _entry(opened, new, below)))
    if as_json:
        click.echo(json.dumps([_as_json(change) for change in changes], indent=2))
        return
    if not only_stat:
        for change in changes:
            what = f"  ({', '.join(change.what)})" if change.what else ""
            click.echo(f"{_SIGNS[change.kind]} {printable(change.path) or '.'}{what}")
        return
    kinds = Counter(change.kind for change in changes)
    grown = sum((change.new.size if change.new else 0) - (change.old.size if change.old else 0)
                for change in changes)  # fmt: skip
    told = ", ".join(f"{kinds[kind]:,} {kind}" for kind in _SIGNS)
    click.echo(f"{count(len(changes), 'change')}: {told}; {'+' if grown >= 0 else ''}{size(grown)}")


def _as_json(change: Change) -> dict[str, Any]:
    return {
        "path": printable(change.path),
        "change": change.kind,
        "what": list(change.what),
        "old_size": change.old.size if change.old else None,
        "new_size": change.new.size if change.new else None,
    }


@click.command(short_help="Find paths in a version.")
@click.argument("what", metavar="VERSION[:PATH]")
@click.argument("pattern")
@store_option
@json_option
def find(what: str, pattern: str, *, store: Path, as_json: bool) -> None:
    """Find paths in a version by a shell PATTERN.

    A pattern without a slash is matched with names, one with a slash with whole paths.
    """
    with Store.open(store) as opened:
        wanted, own = split_path(what)
        top = resolve(opened, find_version(opened, wanted).root, own)
        found = []
        for path, _ in tree(opened, top, own.strip(b"/")):
            text = path.decode("utf-8", "surrogateescape")
            subject = text if "/" in pattern else text.rpartition("/")[2]
            if fnmatchcase(subject, pattern.lstrip("/")):
                found.append(path)
    if as_json:
        click.echo(json.dumps([printable(path) for path in found], indent=2))
        return
    for path in found:
        click.echo(printable(path))
