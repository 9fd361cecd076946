"""Finds the versions that a user's texts mean where a command takes many.

A text is a name, which means all its versions; another text that `catalog.find_version` takes; or a
pattern over names as in a shell (`*`, `?`, `[...]`): it means all versions of the names that match,
or with `@` and a time the version of that time of each of them.
"""

import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from ventifs.errors import Corrupt
from ventifs.store import Store
from ventifs.text import printable
from ventifs.tree.versions.catalog import (
    NoSuchVersion,
    Version,
    check_name,
    decode_version,
    find_version,
    pick,
    version_records,
    versions,
)

_WILD = frozenset("*?[")


class Unreadable(NamedTuple):
    """A version whose record is damaged."""

    key: str
    error: Corrupt


def is_pattern(text: str) -> bool:
    """Whether a text is a pattern over names."""
    return not text.startswith("score:") and bool(_WILD & set(text.partition("@")[0]))


def chosen(store: Store, texts: Sequence[str]) -> tuple[list[Version], list[Unreadable]]:
    """The versions that texts mean, each once, by name and then by time; all, without a text.

    Returns:
        The versions, and those whose records cannot be read, where a pattern chooses among all.

    Raises:
        NoSuchVersion: a text means no version.
        VentifsError: a text does not follow the grammar.
        Corrupt: the record of a version that is named, or of another of its name, is damaged.
    """
    found: dict[tuple[str, int], Version] = {}
    unreadable: dict[str, Unreadable] = {}
    catalog: dict[str, list[Version]] | None = None
    for text in texts or ["*"]:
        if not is_pattern(text):
            of_name = [] if set("@:") & set(text) else versions(store, check_name(text))
            named = of_name or [find_version(store, text)]
        else:
            if catalog is None:
                catalog = _readable(store, unreadable)
            named = _matching(catalog, text) if texts or catalog else []
        found |= {(version.name, version.time_ns): version for version in named}
    return [found[key] for key in sorted(found)], list(unreadable.values())


def _readable(store: Store, unreadable: dict[str, Unreadable]) -> dict[str, list[Version]]:
    """All versions by name, in order of time, but those whose records are added to `unreadable`."""
    catalog: dict[str, list[Version]] = {}
    for record in version_records(store):
        try:
            version = decode_version(record)
        except Corrupt as error:
            key = printable(record.key)
            unreadable[key] = Unreadable(key, error)
        else:
            catalog.setdefault(version.name, []).append(version)
    return catalog


def _matching(catalog: dict[str, list[Version]], text: str) -> list[Version]:
    pattern, at, when = text.partition("@")
    matching = [of_name for name, of_name in catalog.items() if fnmatchcase(name, pattern)]
    if not matching:
        raise NoSuchVersion(
            f"{text}: no version has a name like this; 'ventifs versions' lists them"
        )
    if not at:
        return [version for of_name in matching for version in of_name]
    now_ns = time.time_ns()
    picked = [
        (of_name, pick([each.time_ns for each in of_name], when, now_ns)) for of_name in matching
    ]
    found = [of_name[index] for of_name, index in picked if index is not None]
    if not found:
        raise NoSuchVersion(
            f"{text}: none of the names like this has a version of that time; 'ventifs versions' "
            "lists them"
        )
    return found
