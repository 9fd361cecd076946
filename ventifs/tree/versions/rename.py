r"""Gives a name's versions another name.

A record whose key is a kind, NUL, a name, NUL, and anything else is that name's. A rename gives all
of them the new name, whatever their kind is: versions, forgotten ones, holds, what a disk's name
keeps. So records of kinds that this program does not know yet go with their name, too.
"""

from contextlib import ExitStack

from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.store.journal import Record
from ventifs.tree.archive.run_lock import RunLock, move_left
from ventifs.tree.versions.catalog import Version, check_name, find_version, versions
from ventifs.tree.versions.catalog_lock import catalog_lock
from ventifs.tree.versions.forgotten import forgotten

_PAST = b"forgotten"  # with which kinds begin that count without versions


def rename(store: Store, name: str, new: str, *, force: bool = False) -> list[Version]:
    """Give all versions of a name another one, in one commit; return them as they are now.

    The name's next archive run uses what the last one left. If the process dies after the commit,
    it may find nothing and read more.

    Raises:
        NoSuchVersion: the name has no versions, and no forgotten ones.
        VentifsError: the new name cannot be one, is the same, or has versions; or it has forgotten
            ones, without `force`. With it, they stay under this name.
        Busy: a run is at work under one of the names.
    """
    for each in (name, new):
        check_name(each)
    store.check_writable()
    if name == new:
        raise VentifsError(f"{name}: this is its name already")
    with ExitStack() as stack:
        for each in sorted((name, new)):
            stack.enter_context(RunLock(store, each))
        with catalog_lock(store):
            if not forgotten(store, name):
                find_version(store, name)
            there = versions(store, new)
            if there:
                raise VentifsError(
                    f"{new}: there are versions of this name, such as {there[-1]}; choose another"
                )
            gone = forgotten(store, new)
            if gone and not force:
                have = "1 forgotten version has"
                if len(gone) > 1:
                    have = f"{len(gone):,} forgotten versions have"
                raise VentifsError(
                    f"{new}: {have} this name, and would stay under it; choose another, or --force "
                    "renames nevertheless"
                )
            # What counts only with versions, and was left over by an older program's `forget`.
            left = [each for each in _records_of(store, new) if not each.key.startswith(_PAST)]
            moved = _records_of(store, name)
            store.commit([(_renamed(each.key, new), each.value) for each in moved], moved + left)
        move_left(store, name, new)
        return versions(store, new)


def _records_of(store: Store, name: str) -> list[Record]:
    """All records of a name."""
    found = []
    for record in store.records():
        parts = record.key.split(b"\0", 2)
        if len(parts) == 3 and parts[1] == name.encode():
            found.append(record)
    return found


def _renamed(key: bytes, new: str) -> bytes:
    kind, _, rest = key.split(b"\0", 2)
    return kind + b"\0" + new.encode() + b"\0" + rest
