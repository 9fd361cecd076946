"""The history of one path: the versions of a name in which it changed.

Each version costs one look-up of the path. What is below a directory is never walked, because the
entry of the directory shows whether anything there changed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, islice, pairwise

from ventifs.store import Store
from ventifs.text import printable
from ventifs.tree.objects.directory import NoSuchPath, entries, resolve
from ventifs.tree.objects.records import Directory, Entry
from ventifs.tree.versions.catalog import Version
from ventifs.tree.versions.diff import ADDED, MODIFIED, REMOVED, compared
from ventifs.tree.versions.leasing import ForgottenMeanwhile, leased

_NAMES_MAX = 20_000  # names of a directory that are searched for similar ones


@dataclass(slots=True, frozen=True)
class Step:
    """A version in which a path differs from the version before.

    Attributes:
        kind: as in `diff.Change`; in the oldest version, "added".
        entry: the path's entry; None where it is removed.
        what: the fields that differ; for a directory, `content` stands for anything below.
    """

    version: Version
    kind: str
    entry: Entry | None
    what: tuple[str, ...] = ()


def history(store: Store, versions: Sequence[Version], path: bytes) -> Iterator[Step]:
    """The steps of one path, the newest first.

    Args:
        store: where the versions are.
        versions: of one name, the oldest first; at least one.
        path: below the versions' roots; empty for the roots themselves.

    Raises:
        NoSuchPath: no version has it; the message names the nearest existing path.
        Corrupt, NotStored: where the archive is damaged.
    """
    found = False
    newest_first = _each(store, versions, path)
    nothing = (versions[0], None)  # there is nothing before the oldest
    for (version, new), (_, old) in pairwise(chain(newest_first, [nothing])):
        found = found or new is not None
        step = _step(version, path, old, new)
        if step is not None:
            yield step
    if not found:
        raise NoSuchPath(_nearest(store, versions, path))


def _each(
    store: Store, versions: Sequence[Version], path: bytes
) -> Iterator[tuple[Version, Entry | None]]:
    """Each version, the newest first, and its entry of the path; not those forgotten meanwhile."""
    for version in reversed(versions):
        try:
            entry = _found(store, version, path)
        except ForgottenMeanwhile:
            continue
        yield version, entry


def _found(store: Store, version: Version, path: bytes) -> Entry | None:
    with leased(store, version):
        try:
            return resolve(store, version.root, path)
        except NoSuchPath:
            return None


def _step(version: Version, path: bytes, old: Entry | None, new: Entry | None) -> Step | None:
    if old == new:
        return None
    if old is None:
        return Step(version, ADDED, new)
    if new is None:
        return Step(version, REMOVED, None)
    change = compared(path, old, new)
    if old.is_directory and new.is_directory and old.detail != new.detail:
        return Step(version, MODIFIED, new, ("content", *(change.what if change else ())))
    assert change is not None
    return Step(version, change.kind, new, change.what)


def _nearest(store: Store, versions: Sequence[Version], path: bytes) -> str:
    """The message for a path that no version has: which part exists, and what is there."""
    name = versions[-1].name
    names = [part for part in path.split(b"/") if part not in (b"", b".")]
    for depth in range(len(names) - 1, -1, -1):
        above, wanted = b"/".join(names[:depth]), names[depth]
        for version, entry in _each(store, versions, above):
            if entry is not None:
                return f"{name}: no version has /{printable(b'/'.join(names))}; " + _instead(
                    store, version, above, entry, wanted
                )
    return f"{name}: its versions were forgotten meanwhile"


def _instead(store: Store, version: Version, above: bytes, entry: Entry, wanted: bytes) -> str:
    place = f"/{printable(above)}"
    if not isinstance(entry.detail, Directory):
        return f"in {version}, {place} is no directory"
    with leased(store, version):
        there = islice(entries(store, entry.detail.content), _NAMES_MAX)
        names = [printable(child.name) for child in there]
    close = get_close_matches(printable(wanted), names, 3, 0.5)
    if not close:
        return f"{version} has {place}, but nothing of such a name in it"
    directory = place.rstrip("/")
    return f"in {version} there is {', '.join(f'{directory}/{name}' for name in close)}"
