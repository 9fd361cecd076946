"""Removes versions from the catalog: those named, or all that a policy does not keep.

Always: what a name keeps for its next run goes with its last version, unless a run is at work or
has committed a version meanwhile. Blocks stay in the store.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from datetime import tzinfo

from ventifs.api.results import KeptVersions, Thinned
from ventifs.api.version import ArchivedVersion
from ventifs.errors import Busy, VentifsError
from ventifs.image.formats.kept_choice import left_over
from ventifs.store import Store
from ventifs.tree.archive.run_lock import RunLock
from ventifs.tree.versions.catalog import NoSuchVersion, Version, find_version, versions
from ventifs.tree.versions.holds import held
from ventifs.tree.versions.retention import IN_FUTURE, Policy, retained


def forget(
    store: Store, wanted: Iterable[ArchivedVersion], *, force: bool, dry_run: bool
) -> Thinned:
    """See `Archive.forget`."""
    given = dict.fromkeys(map(str, wanted))
    there: dict[str, ArchivedVersion] = {}
    kept: KeptVersions = []
    for name in sorted({text.partition("@")[0] for text in given}):
        of_name = {str(version): version for version in _of(store, name)}
        there |= of_name
        left = [version for text, version in of_name.items() if text not in given]
        if not left and not force:
            raise VentifsError(f"{name}: this would forget its last version; --force does that")
        kept += [(version, []) for version in left]
    gone = given.keys() - there.keys()
    if gone:
        raise NoSuchVersion(f"{min(gone)}: there is no such version any more")
    doomed = [there[text] for text in given]
    return _done(store, Thinned(kept, doomed), dry_run=dry_run)


def thin(
    store: Store,
    names: Iterable[str],
    policy: Policy,
    *,
    zone: tzinfo,
    dry_run: bool,
    clock: Callable[[], int] = time.time_ns,
) -> Thinned:
    """See `Archive.thin`."""
    thinned = _thinned(store, names, policy, zone, clock())
    return _done(store, thinned, dry_run=dry_run)


def _thinned(
    store: Store, names: Iterable[str], policy: Policy, zone: tzinfo, now_ns: int
) -> Thinned:
    """What becomes of versions if those are forgotten that neither a rule nor a hold keeps."""
    thinned = Thinned([], [])
    held_now = _held_now(store, now_ns)
    for name in sorted(
        {find_version(store, name, now_ns).name for name in names}
        or {version.name for version in versions(store)}
    ):
        of_name = versions(store, name)
        reasons = retained(of_name, policy, zone=zone, now_ns=now_ns, held=held_now.get(name, {}))
        _check_left(name, of_name, reasons)
        for version in of_name:
            archived = ArchivedVersion(store, version)
            if version.time_ns in reasons:
                thinned.kept.append((archived, reasons[version.time_ns]))
            else:
                thinned.forgotten.append(archived)
    return thinned


def _held_now(store: Store, now_ns: int) -> dict[str, dict[int, str]]:
    """Why versions are held, by name and time."""
    found: dict[str, dict[int, str]] = {}
    for (name, time_ns), hold in held(store).items():
        if hold.active(now_ns):
            found.setdefault(name, {})[time_ns] = str(hold)
    return found


def _check_left(name: str, of_name: list[Version], reasons: dict[int, list[str]]) -> None:
    """Check that a name keeps a version, other than by a wrong clock: a tag may be misspelt.

    Raises:
        VentifsError: it would lose all.
    """
    if all(IN_FUTURE in reasons.get(version.time_ns, [IN_FUTURE]) for version in of_name) and any(
        version.time_ns not in reasons for version in of_name
    ):
        raise VentifsError(
            f"{name}: no rule keeps any of its versions, so nothing is forgotten; keep its last "
            "one, too, or name the versions to forget"
        )


def _of(store: Store, name: str) -> list[ArchivedVersion]:
    return [ArchivedVersion(store, version) for version in versions(store, name)]


def _done(store: Store, thinned: Thinned, *, dry_run: bool) -> Thinned:
    if thinned.forgotten and not dry_run:
        store.check_writable()
        _commit(store, thinned)
    return thinned


def _commit(store: Store, thinned: Thinned) -> None:
    """Delete versions, and what is kept with names that have no more of them.

    A run that is at work, or has committed a version meanwhile, relies on what is kept: it stays.
    """
    doomed = [version.stored for version in thinned.forgotten]
    records = [version.record for version in doomed if version.record]
    with ExitStack() as stack:
        for name in sorted(
            {each.name for each in doomed} - {each.name for each, _ in thinned.kept}
        ):
            if not left_over(store, [name]):
                continue
            with suppress(Busy):
                stack.enter_context(RunLock(store, name))
                there = {each.record for each in versions(store, name)}
                records += left_over(store, [name]) if there <= set(records) else []
        store.commit(deletes=records)
