"""`ventifs diff` and `ventifs find`."""

import stat
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click

import ventifs
from ventifs import Archive, ArchivedPath
from ventifs.cli.formatting import count, exact, size
from ventifs.cli.output import echo, print_json
from ventifs.cli.store_option import json_option, store_option
from ventifs.cli.versions.browse import entry_json, find_path
from ventifs.cli.versions.listing import print0_option, print_array, print_lines, print_raw
from ventifs.text import printable
from ventifs.tree.versions.diff import Change

SIGNS = {"added": "+", "removed": "-", "modified": "M", "metadata": "m"}
_TYPES = {
    "f": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "b": stat.S_IFBLK,
    "c": stat.S_IFCHR,
    "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
}


def _below(archive: Archive, text: str, path: bytes) -> ArchivedPath:
    found = archive.path(text) / path
    _ = found.entry  # it is there, or what is missing first is reported
    return found


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
    with ventifs.open(store) as archive:
        changes = _below(archive, old, below).diff(_below(archive, new, below))
        if only_stat:
            _print_stat(changes, as_json=as_json)
        elif as_json:
            print_array(map(_as_json, changes))
        else:
            print_lines(map(_line, changes))


def _line(change: Change) -> str:
    what = f"  ({', '.join(change.what)})" if change.what else ""
    return f"{SIGNS[change.kind]} {printable(change.path) or '.'}{what}"


def _print_stat(changes: Iterable[Change], *, as_json: bool) -> None:
    kinds = dict.fromkeys(SIGNS, 0)
    grown = 0
    for change in changes:
        kinds[change.kind] += 1
        grown += (change.new.size if change.new else 0) - (change.old.size if change.old else 0)
    if as_json:
        print_json({**kinds, "bytes": grown}, indent=None)
        return
    told = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items())
    total = sum(kinds.values())
    echo(f"{count(total, 'change')}: {told}; {'+' if grown >= 0 else ''}{size(grown)}")


def _as_json(change: Change) -> dict[str, Any]:
    return {
        **exact(change.path),
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
@print0_option
@click.option(
    "--type",
    "types",
    type=click.Choice(list(_TYPES)),
    multiple=True,
    help="Files, directories, links, block or character devices, pipes, sockets; may be repeated.",
)
def find(
    what: str, pattern: str, *, store: Path, as_json: bool, raw: bool, types: tuple[str, ...]
) -> None:
    """Find paths in a version by a shell PATTERN.

    A pattern without a slash is matched with names, one with a slash with whole paths, which are
    printed as in the version, without a slash before them.
    """
    wanted = {_TYPES[letter] for letter in types or _TYPES}
    with ventifs.open(store) as archive:
        top = find_path(archive, what)
        prefix = top.path + b"/" if top.path else b""
        found = (
            (prefix + path, entry)
            for path, entry in (top.scan(recursive=True) if top.is_dir() else ())
            if stat.S_IFMT(entry.mode) in wanted and _matches(prefix + path, pattern)
        )
        if as_json:
            print_array(entry_json(path, entry) for path, entry in found)
        elif raw:
            print_raw(path for path, _ in found)
        else:
            print_lines(printable(path) for path, _ in found)


def _matches(path: bytes, pattern: str) -> bool:
    text = path.decode("utf-8", "surrogateescape")
    subject = text if "/" in pattern else text.rpartition("/")[2]
    return fnmatchcase(subject, pattern.lstrip("/"))
