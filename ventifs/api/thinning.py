"""Removes versions from the catalog: those named, or all that a policy does not keep.

Always: the catalog keeps their records as forgotten, see `undeleting`. Held versions stay. What a
name keeps for its next run is forgotten with its last version, unless a run is at work or has
committed a version meanwhile. Blocks stay in the store until they are reclaimed.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from datetime import tzinfo

from ventifs.api.results import KeptVersions, Thinned
from ventifs.api.version import ArchivedVersion
from ventifs.errors import Busy, NoSpace, VentifsError
from ventifs.image.formats.kept_choice import forgetting_kept, records_kept
from ventifs.store import Store
from ventifs.tree.archive.run_lock import RunLock
from ventifs.tree.versions.catalog import NoSuchVersion, Version, find_version, versions
from ventifs.tree.versions.catalog_lock import catalog_lock
from ventifs.tree.versions.forgotten import forgetting
from ventifs.tree.versions.holds import held
from ventifs.tree.versions.retention import Policy, retained
from ventifs.tree.versions.times import IN_FUTURE


def forget(
    store: Store, wanted: Iterable[ArchivedVersion], *, force: bool, dry_run: bool
) -> Thinned:
    """See `Archive.forget`."""
    given = dict.fromkeys(map(str, wanted))
    return _done(store, lambda now_ns: _named(store, given, now_ns, force=force), dry_run=dry_run)


def _named(store: Store, given: dict[str, None], now_ns: int, *, force: bool) -> Thinned:
    """What becomes of versions if those given are forgotten."""
    there: dict[str, ArchivedVersion] = {}
    names = sorted({text.partition("@")[0] for text in given})
    for name in names:
        there |= {str(version): version for version in _of(store, name)}
    gone = given.keys() - there.keys()
    if gone:
        raise NoSuchVersion(f"{min(gone)}: there is no such version any more")
    left = [version for text, version in there.items() if text not in given]
    emptied = set(names) - {version.name for version in left}
    if emptied and not force:
        name = min(emptied)
        raise VentifsError(f"{name}: this would forget its last version; --force does that")
    kept: KeptVersions = [(version, []) for version in left]
    doomed = [there[text] for text in given]
    holds = held(store)
    for version in doomed:
        hold = holds.get((version.name, version.time_ns))
        if hold is not None and hold.active(now_ns):
            raise VentifsError(
                f"{version}: it is {hold}, and stays; 'ventifs release {version}' ends that"
            )
    return Thinned(kept, doomed)


def thin(
    store: Store,
    names: Iterable[str],
    policy: Policy,
    *,
    zone: tzinfo,
    dry_run: bool,
    now_ns: int | None = None,
) -> Thinned:
    """See `Archive.thin`."""
    given = list(names)

    def plan(now_ns: int) -> Thinned:
        return _thinned(store, given, policy, zone, now_ns)

    return _done(store, plan, dry_run=dry_run, now_ns=now_ns)


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


def _done(
    store: Store,
    plan: Callable[[int], Thinned],
    *,
    dry_run: bool,
    now_ns: int | None = None,
) -> Thinned:
    """Do what a plan says, given the time; it is made again when the catalog is locked.

    What is kept with names that lose their last versions is forgotten, too. A run that is at work
    may rely on it: then it stays.
    """
    now_ns = max(0, time.time_ns() if now_ns is None else now_ns)
    thinned = plan(now_ns)
    if dry_run or not thinned.forgotten:
        return thinned
    store.check_writable()
    with ExitStack() as stack:
        locked = set()
        for name in _names_emptied(thinned):
            if records_kept(store, name):
                with suppress(Busy, NoSpace):  # on a full disk what is kept stays, too
                    stack.enter_context(RunLock(store, name, wait=False))
                    locked.add(name)
        stack.enter_context(catalog_lock(store))
        thinned = plan(now_ns)
        _commit(store, thinned, locked & set(_names_emptied(thinned)), now_ns)
    return thinned


def _names_emptied(thinned: Thinned) -> list[str]:
    """The names that lose their last versions, sorted."""
    kept = {version.name for version, _ in thinned.kept}
    return sorted({version.name for version in thinned.forgotten} - kept)


def _commit(store: Store, thinned: Thinned, unused: set[str], now_ns: int) -> None:
    """Forget versions, and what is kept with names that have no more of them."""
    doomed = [version.stored for version in thinned.forgotten]
    forgotten_ns, (puts, deletes) = forgetting(store, doomed, now_ns)
    for name in sorted(unused):
        kept = records_kept(store, name)
        puts += forgetting_kept(kept, name, forgotten_ns)
        deletes += kept
    store.commit(puts, deletes, from_reserve=True)
