"""The versions that a server offers at one moment: which there are, and what an aname means.

`Catalog` keeps a snapshot, and looks at the store again when the last look is older than a second.
That costs one look-up in the index as long as no version was added or removed. Which one is the
latest depends on the clock, too, and is never kept. Hints at other names, as the command line gives
them, are never sent to a peer.
"""

import logging
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

import msgspec

from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Store
from ventifs.store.journal import Record
from ventifs.tree.objects.records import encode
from ventifs.tree.versions.catalog import (
    check_name,
    decode_version,
    pick,
    split_path,
    tree_score,
    version_records,
)
from ventifs.tree.versions.times import latest_place
from ventifs.vfs.interface import Cold, Load

log = logging.getLogger(__name__)

FRESH_S = 1.0  # from one look at the store to the next; a new version is seen by then
LATEST = b"latest"
SCORE = "score:"
_SCORE = re.compile(r"[0-9a-f]{8,64}")
_time_of = attrgetter("time_ns")


class Offered(msgspec.Struct, frozen=True, eq=False):
    """One version.

    Attributes:
        name, when: the two parts of its name, NAME@TIME.
        time_ns: of the run.
        record_id: of its record in the store, random.
        root: the root directory's raw entry.
        score: of the whole tree, 64 hexadecimal digits.
    """

    name: str
    when: bytes
    time_ns: int
    record_id: bytes
    root: bytes
    score: bytes


class OfferedSnapshot(msgspec.Struct, frozen=True, eq=False):
    """All versions at one moment.

    Attributes:
        generation: the store's.
        of_name: versions by name, in order of time.
        of_score: versions by the score of their tree.
        scores: the keys of `of_score`, sorted.
        of_record: all versions by record id; None for one that cannot be served.
    """

    generation: bytes = b""
    of_name: dict[str, list[Offered]] = {}
    of_score: dict[bytes, list[Offered]] = {}
    scores: list[bytes] = []
    of_record: dict[bytes, Offered | None] = {}


class Wanted(msgspec.Struct, frozen=True):
    """What an aname asks for.

    Attributes:
        name: of an export; empty for the root of them all.
        when: which version, as `pick` takes it; None for the directory of all versions.
        score: the score, or its first digits, instead of name and time.
        path: below the version's root.
    """

    name: str = ""
    when: str | None = None
    score: str = ""
    path: bytes = b""


class Unknown(Exception):
    """Nothing of that name is offered; the reason is not for clients."""


def parse_aname(aname: bytes) -> Wanted:
    """What an aname asks for.

    Raises:
        Unknown: when it does not follow the grammar.
    """
    text = aname.decode("utf-8", "surrogateescape").removeprefix("/")
    if not text:
        return Wanted()
    version, path = split_path(text)
    whole = ":/" not in text
    for prefix in (SCORE, "score/"):
        if version.startswith(prefix):
            score = version.removeprefix(prefix).lower()
            if not _SCORE.fullmatch(score):
                raise Unknown("no score")
            return Wanted(score=score, path=path)
    name, at, when = version.partition("@")
    try:
        check_name(name)
    except VentifsError as error:
        raise Unknown(str(error)) from None
    if at:
        return Wanted(name, when, path=path)
    return Wanted(name, None if whole else "latest", path=path)


def choose(versions: Sequence[Offered], when: str, now_ns: int) -> Offered:
    """The one of a name's versions that `when` refers to at a time.

    Raises:
        Unknown: when it refers to none, or is invalid.
    """
    try:
        found = pick([version.time_ns for version in versions], when, now_ns)
    except VentifsError as error:
        raise Unknown(str(error)) from None
    if found is None:
        raise Unknown("no version of that time")
    return versions[found]


def by_score(snapshot: OfferedSnapshot, digits: str, allowed: Callable[[str], bool]) -> Offered:
    """The oldest version with a tree of this score that a peer may reach.

    Raises:
        Unknown: when there is none, or the digits fit several trees.
    """
    wanted = digits.encode()
    found = []
    for place in range(bisect_left(snapshot.scores, wanted), len(snapshot.scores)):
        score = snapshot.scores[place]
        if not score.startswith(wanted):
            break
        reachable = (one for one in snapshot.of_score[score] if allowed(one.name))
        found += [one for one in (next(reachable, None),) if one is not None]
    if len(found) != 1:
        raise Unknown("no tree of this score, or several")
    return found[0]


class Catalog:
    """The versions of one store, kept up to date.

    Concurrency: for the event loop's thread; its loads run anywhere.
    """

    def __init__(
        self, store: Store, clock: Callable[[], float], now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """Start with no versions; the first load that `current` raises reads them.

        Args:
            store: whose versions are offered.
            clock: returns seconds; by it, `current` decides whether the last look at the store is
                too old.
            now_ns: returns UTC nanoseconds since 1970; by it, versions lie in the future.
        """
        self.now_ns = now_ns
        self._store = store
        self._clock = clock
        self._checked = float("-inf")
        self.known = OfferedSnapshot()

    def current(self) -> OfferedSnapshot:
        """The last snapshot, if the look for it ended at most `FRESH_S` ago.

        Raises:
            Cold: with a load that looks at the store.
        """
        if self._clock() - self._checked > FRESH_S:
            raise Cold(self.look())
        return self.known

    def latest(self, versions: Sequence[Offered]) -> int:
        """Where in a name's versions the latest is now; -1 if there are none."""
        return latest_place(versions, self.now_ns(), key=_time_of)

    def look(self) -> Load:
        """A load that looks at the store."""
        return Load(("catalog",), self._look)

    def _look(self) -> None:
        known = self.known
        generation = self._store.generation
        if generation != known.generation:
            self.known = _snapshot(generation, version_records(self._store), known)
        # Not the time when it began: if a look takes longer than FRESH_S, its result would always
        # be too old.
        self._checked = self._clock()


def _snapshot(
    generation: bytes, records: Iterable[Record], before: OfferedSnapshot
) -> OfferedSnapshot:
    of_name: dict[str, list[Offered]] = {}
    of_score: dict[bytes, list[Offered]] = {}
    of_record: dict[bytes, Offered | None] = {}
    for record in records:
        seen = record.id in before.of_record
        offered = before.of_record[record.id] if seen else _offered(record)
        of_record[record.id] = offered
        if offered is not None:
            of_name.setdefault(offered.name, []).append(offered)
            of_score.setdefault(offered.score, []).append(offered)
    return OfferedSnapshot(generation, of_name, of_score, sorted(of_score), of_record)


def _offered(record: Record) -> Offered | None:
    try:
        version = decode_version(record)
    except Corrupt as error:
        log.error("a version cannot be served: %s", error)
        return None
    return Offered(
        version.name,
        version.when.encode(),
        version.time_ns,
        record.id,
        encode(version.root),
        tree_score(version.root).hex().encode(),
    )
