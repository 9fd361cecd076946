"""Tags and comments of versions that are in the catalog already.

A version's record is replaced in one commit, so its id changes; its name, time and tree do not.
"""

from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.store.journal import RECORD_VALUE_MAX, Record
from ventifs.tree.archive.file_reader import Trouble
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import Empty
from ventifs.tree.versions.catalog import (
    TAGS_MAX,
    Version,
    VersionId,
    check_notes,
    decode_version,
    encode_version,
    present,
    version_key,
    version_size,
)
from ventifs.tree.versions.catalog_lock import catalog_lock
from ventifs.tree.versions.troubles import Troubles, fitted, troubles_of


def tag(
    store: Store, wanted: Iterable[VersionId], add: Sequence[str], remove: Sequence[str]
) -> list[Version]:
    """Remove tags from versions, then add others at the end; return the versions as they are now.

    A tag that is there is not added again, and one that is not there need not be removed.

    Raises:
        NoSuchVersion: one of the versions is not there. Nothing is changed.
        VentifsError: a tag, or the number of tags, is not allowed. Nothing is changed.
    """
    check_notes("", add)

    def changed(version: Version) -> Version:
        left = [each for each in version.tags if each not in remove]
        tags = tuple(left + [each for each in dict.fromkeys(add) if each not in left])
        if len(tags) > max(TAGS_MAX, len(version.tags)):
            raise VentifsError(
                f"{version}: a version may have {TAGS_MAX} tags, and this one would have "
                f"{len(tags):,}; remove some of them"
            )
        return replace(version, tags=tags)

    return _rewritten(store, wanted, changed)


def comment(store: Store, wanted: VersionId, text: str) -> Version:
    """Replace a version's comment; return the version as it is now.

    Raises:
        NoSuchVersion: the version is not there.
        VentifsError: the comment is not allowed.
    """
    check_notes(text, ())
    return _rewritten(store, [wanted], lambda version: replace(version, comment=text))[0]


def _rewritten(
    store: Store, wanted: Iterable[VersionId], changed: Callable[[Version], Version]
) -> list[Version]:
    """Replace the records of versions that `changed` changes."""
    with catalog_lock(store):
        now: list[Version] = []
        places: list[int] = []  # in `now`, of those that are put
        puts: list[tuple[bytes, bytes]] = []
        deletes: list[Record] = []
        for version in present(store, wanted).values():
            wished = changed(version)
            if wished != version:
                assert version.record is not None
                places.append(len(now))
                puts.append((version_key(version.name, version.time_ns), _encoded(store, wished)))
                deletes.append(version.record)
            now.append(version)
        if puts:
            for place, record in zip(places, store.commit(puts, deletes), strict=True):
                now[place] = decode_version(record)
        return now


def _encoded(store: Store, version: Version) -> bytes:
    """The value of a version's record; troubles that leave no room for its notes go into blocks."""
    if version_size(version) <= RECORD_VALUE_MAX:
        return encode_version(version)
    if version.troubles_more and isinstance(version.beyond, Empty):  # of an older program
        raise VentifsError(
            f"{version}: its troubles leave no room for this in its record; shorten it"
        )
    found = Troubles((Trouble(*each) for each in troubles_of(store, version)), store)
    bare = replace(version, troubles=(), troubles_more=0, beyond=Empty())
    return encode_version(fitted(bare, found, ContentWriter(store)))
