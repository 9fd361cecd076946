"""Versions that a command is to change: how they are named, and how they are printed after."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from ventifs import ArchivedVersion
from ventifs.cli.output import echo
from ventifs.cli.versions.list_versions import as_json_object
from ventifs.cli.versions.listing import print_array


def _one_each(_: click.Context, __: click.Parameter, given: str | Sequence[str]) -> Any:
    """Refuse a name alone: it may stand for all its versions, or for the latest."""
    for text in [given] if isinstance(given, str) else given:
        if not set("@:") & set(text):
            raise click.UsageError(f"{text} names all its versions; {text}@latest is the latest")
    return given


def versions_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """One version or more; the command gets `wanted: tuple[str, ...]`."""
    argument = click.argument(
        "wanted", nargs=-1, required=True, metavar="VERSION...", callback=_one_each
    )
    return argument(command)


def version_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """One version; the command gets `wanted: str`."""
    return click.argument("wanted", metavar="VERSION", callback=_one_each)(command)


def print_versions(
    found: Iterable[ArchivedVersion],
    line: Callable[[ArchivedVersion], str],
    *,
    as_json: bool,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Print a line for each version, or all of them as one JSON array, each with `more`."""
    if as_json:
        print_array({**as_json_object(version.stored), **(more or {})} for version in found)
        return
    for version in found:
        echo(line(version))
