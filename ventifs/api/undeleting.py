"""Brings forgotten versions back into the catalog.

Always: a version comes back with the same name, time, tree, tags and comment, and without a hold.
A name that has no versions gets back what it kept for its next run, too, unless a run is at work.
"""

from collections.abc import Sequence
from contextlib import ExitStack, suppress

from ventifs.api.version import ArchivedVersion
from ventifs.errors import Busy
from ventifs.image.formats.kept_choice import bringing_back_kept
from ventifs.store import Store
from ventifs.tree.archive.run_lock import RunLock
from ventifs.tree.versions.catalog import decode_version, versions
from ventifs.tree.versions.catalog_lock import catalog_lock
from ventifs.tree.versions.forgotten import Forgotten, bringing_back, find_forgotten, forgotten_of


def to_bring_back(
    store: Store, wanted: Sequence[str], *, every: bool, during: str | None
) -> list[Forgotten]:
    """See `Archive.undelete`: the forgotten versions that are meant, each once."""
    found: dict[Forgotten, None] = {}
    for text in wanted:
        if not every:
            found[find_forgotten(store, text, during)] = None
            continue
        of_name = forgotten_of(store, text, during)
        there = {version.time_ns for version in versions(store, text)}
        distinct = {each.version.time_ns: each for each in of_name}  # the last forgotten of each
        found |= {each: None for time_ns, each in distinct.items() if time_ns not in there}
    return list(found)


def undelete(store: Store, chosen: Sequence[Forgotten]) -> list[ArchivedVersion]:
    """Bring versions back, in one commit; return them."""
    store.check_writable()
    with ExitStack() as stack:
        locked = set()
        for name in sorted({each.version.name for each in chosen}):
            if not versions(store, name):
                with suppress(Busy):
                    stack.enter_context(RunLock(store, name))
                    locked.add(name)
        stack.enter_context(catalog_lock(store))
        puts, deletes = bringing_back(store, chosen)
        count = len(puts)
        for name in sorted(locked):
            if not versions(store, name):
                last = max(each.forgotten_ns for each in chosen if each.version.name == name)
                put, deleted = bringing_back_kept(store, name, last)
                puts += put
                deletes += deleted
        made = store.commit(puts, deletes)[:count]
    return [ArchivedVersion(store, decode_version(record)) for record in made]
