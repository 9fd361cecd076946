"""Checks that everything versions refer to is stored and canonical, and finds what is harmed.

Every node is read and judged once for all versions and paths that refer to it, so a check takes
time in proportion to the distinct nodes; see `node_facts` and `objects/shape.py`. File data is not
read, because `check --read-data` does that: every reference to data in a node is confirmed by the
head of the clump where the index leads, whatever the index says, 16,384 at a time in the order in
which they lie. A block that several nodes refer to is confirmed again only when a million others
came between.

Memory: about 350 bytes for each distinct node, 300 for each block that is lost, and 45 MiB. Only
where something is wrong, the nodes of a version that no earlier one has are read a second time, and
the harmed ones again for each version, to name the paths.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import msgspec

from ventifs.errors import NotStored, VentifsError
from ventifs.store import SCORE_SIZE, Score, Store
from ventifs.store.presence import MISSING
from ventifs.tree.objects.records import Empty
from ventifs.tree.versions.catalog import Version
from ventifs.tree.versions.forgotten import Forgotten
from ventifs.tree.versions.leasing import (
    ForgottenMeanwhile,
    is_there,
    keeps,
    leased,
    leased_forgotten,
)
from ventifs.tree.versions.node_facts import (
    CONTENT,
    Claim,
    Facts,
    Fault,
    KnownNode,
    Typed,
    facts_of,
    judged,
)
from ventifs.tree.versions.recent_scores import RecentScores
from ventifs.tree.versions.troubles import troubles_of

PATHS_MAX = 1000  # named of one version
REASONS_MAX = 10  # named of one path
_BATCH = 16_384  # blocks that are looked up together

_encode = msgspec.msgpack.Encoder().encode
_decode_known = msgspec.msgpack.Decoder(KnownNode).decode


@dataclass(slots=True, frozen=True)
class Harm:
    """A path of a version that is damaged, and the reason."""

    version: str
    path: bytes
    reason: str


class Verifier:
    """Checks versions of one store.

    Attributes:
        paths: how many paths were checked; each directory that several have counts once.
        cut: versions of which more paths are harmed than the `PATHS_MAX` that are named.
        misled: whether the index leads to any block that is not there, so that no archive would
            store it anew.
    """

    def __init__(
        self,
        store: Store,
        *,
        damaged: Mapping[Score, str] | None = None,
        unindexed: Collection[Score] = (),
    ) -> None:
        """Start with nothing checked.

        Args:
            store: the store.
            damaged: blocks that are known to be damaged where the index leads, and why.
            unindexed: blocks that arenas have and the index lacks.
        """
        self.paths = 0
        self.cut: list[str] = []
        self.misled = False
        self._store = store
        self._damaged = damaged or {}
        self._unindexed = unindexed
        self._known: dict[Typed, bytes] = {}  # what is known of each node, encoded
        self._unreadable: dict[Typed, str] = {}
        self._harmed: set[Typed] = set()  # nodes with something wrong in them or below
        self._lost: dict[Score, str] = {}  # blocks that are not where the index leads
        self._waiting: set[Score] = set()
        self._confirmed = RecentScores()
        # Of the version that is being checked: nodes that no earlier one has, and lost blocks.
        self._fresh: set[Typed] = set()
        self._newly_lost: list[Score] = []
        self._wrong = False

    def version(self, version: Version) -> Iterator[Harm]:
        """What is wrong with one version; nothing if it was forgotten meanwhile."""
        with suppress(ForgottenMeanwhile), leased(self._store, version):
            yield from self._checked(version, lambda: is_there(self._store, version))

    def forgotten(self, each: Forgotten) -> Iterator[Harm]:
        """What is wrong with a forgotten version; nothing if it is not kept any more."""
        with suppress(ForgottenMeanwhile), leased_forgotten(self._store, each):
            yield from self._checked(each.version, lambda: keeps(self._store, each))

    def _checked(self, version: Version, is_there: Callable[[], bool]) -> Iterator[Harm]:
        root, troubles = Facts(), self._troubles(version)
        root.add_entry(self._store, version.root)
        self._fresh, self._newly_lost, self._wrong = set(), [], False
        for top in (root, troubles):
            self._explore(top)
        self._look_up()
        if not self._wrong:
            return
        for top in (root, troubles):
            self._find_harmed(top)
        found = list(self._bounded(str(version), self._named(str(version), root, troubles)))
        if found and not is_there():  # it was not leased, and may be reclaimed
            self._take_back()
            return
        yield from found

    def _troubles(self, version: Version) -> Facts:
        """What a version's list of troubles refers to, beyond its record."""
        facts = Facts()
        if not isinstance(version.beyond, Empty):
            try:
                for _ in troubles_of(self._store, version):
                    pass
            except VentifsError as error:
                facts.faults.append((b"", str(error)))
            else:
                facts.add_content(b"", version.beyond)
        return facts

    # --- every node once -----------------------------------------------------------------------

    def _explore(self, top: Facts) -> None:
        """Judge every node below that no version before has."""
        for facts in self._walk(top, self._is_new):
            self.paths += facts.entries
            for _, score in facts.data:
                self._wait(score)
            known, faults = judged(facts, self._look)
            harmed = any(claim.node in self._harmed for claim in facts.claims)
            self._wrong = self._wrong or bool(faults) or harmed
            if facts is not top:
                self._wait(_score(facts.node))  # it may have been read from a cache
                self._known[facts.node] = _encode(known)
                self._fresh.add(facts.node)

    def _is_new(self, node: Typed) -> bool:
        return node not in self._known and node not in self._unreadable

    def _walk(self, top: Facts, is_new: Callable[[Typed], bool]) -> Iterator[Facts]:
        """The new nodes below, each after those below it, and last the top; reads each once."""
        pending = [(top, iter(top.claims))]
        while pending:
            facts, claims = pending[-1]
            node = next((claim.node for claim in claims if is_new(claim.node)), None)
            if node is None:
                pending.pop()
                yield facts
            elif below := self._read(node):
                pending.append((below, iter(below.claims)))

    def _read(self, node: Typed) -> Facts | None:
        """What a node says; None if it cannot be read, which is noted."""
        try:
            return facts_of(self._store, node)
        except VentifsError as error:
            missing = isinstance(error, NotStored)
            self.misled = self.misled or not missing
            self._unreadable[node] = self._not_indexed(_score(node)) if missing else str(error)
            self._known.pop(node, None)
            self._harmed.add(node)
            self._fresh.add(node)
            self._wrong = True
            return None

    def _look(self, node: Typed) -> KnownNode | None:
        encoded = self._known.get(node)
        return None if encoded is None else _decode_known(encoded)

    def _wait(self, score: Score) -> None:
        if score in self._confirmed:
            return
        self._waiting.add(score)
        if len(self._waiting) >= _BATCH:
            self._look_up()

    def _look_up(self) -> None:
        """Confirm that the waiting blocks are where the index leads."""
        waiting, self._waiting = self._waiting, set()
        lost: dict[Score, str] = {}
        for score, reason in self._store.absent(waiting).items():
            missing = reason == MISSING
            lost[score] = self._not_indexed(score) if missing else f"block {score.hex()} {reason}"
            self.misled = self.misled or not missing
        if self._damaged:
            known = {score: self._damaged[score] for score in waiting & self._damaged.keys()}
            lost |= {score: f"block {score.hex()}: {why}" for score, why in known.items()}
        for score in waiting - lost.keys():
            self._confirmed.add(score)
        self._newly_lost += lost.keys() - self._lost.keys()
        self._lost |= lost
        self._wrong = self._wrong or bool(lost)

    def _not_indexed(self, score: Score) -> str:
        if score in self._unindexed:
            return f"block {score.hex()} is in an arena, but not in the index"
        return f"block {score.hex()} {MISSING}"

    # --- what is harmed ------------------------------------------------------------------------

    def _find_harmed(self, top: Facts) -> None:
        """Find those of the fresh nodes with something wrong in them or below."""
        seen = set(self._unreadable)
        for facts in self._walk(top, lambda node: node in self._fresh and node not in seen):
            seen.add(facts.node)
            below = any(claim.node in self._harmed for claim in facts.claims)
            if facts is not top and (
                below or _score(facts.node) in self._lost or self._faults(facts)
            ):
                self._harmed.add(facts.node)

    def _take_back(self) -> None:
        """Forget what was found wrong with the fresh nodes: they may be gone."""
        for node in self._fresh:
            self._known.pop(node, None)
            self._unreadable.pop(node, None)
        self._harmed -= self._fresh
        for score in self._newly_lost:
            del self._lost[score]

    def _faults(self, facts: Facts) -> list[Fault]:
        """All that is wrong with one node, its data included."""
        _, faults = judged(facts, self._look)
        return faults + [
            (name, self._lost[score]) for name, score in facts.data if score in self._lost
        ]

    def _bounded(self, label: str, found: Iterator[Harm]) -> Iterator[Harm]:
        """The harms of the first paths; each path's are together."""
        paths, last = 0, None
        for harm in found:
            paths, last = paths + (harm.path != last), harm.path
            if paths > PATHS_MAX:
                self.cut.append(label)
                return
            yield harm

    def _named(self, label: str, root: Facts, troubles: Facts) -> Iterator[Harm]:
        for reason in _shortened(self._reasons(troubles)):
            yield Harm(label, b"", f"its list of troubles: {reason}")
        pending: list[tuple[bytes, Facts | Typed]] = [(b"", root)]
        while pending:
            path, node = pending.pop()
            facts = node if isinstance(node, Facts) else self._again(node)
            if isinstance(facts, str):
                yield Harm(label, path, facts)
                continue
            harmed = [claim for claim in facts.claims if claim.node in self._harmed]
            for name, reasons in self._by_name(facts, harmed).items():
                yield from (Harm(label, _joined(path, name), each) for each in _shortened(reasons))
            pending += [
                (_joined(path, claim.name), claim.node)
                for claim in reversed(harmed)
                if not claim.node.endswith(CONTENT)
            ]

    def _by_name(self, facts: Facts, harmed: list[Claim]) -> dict[bytes, Iterator[str]]:
        """The reasons that one node of a directory has for each harmed name in it."""
        found: dict[bytes, list[Iterator[str]]] = {}
        for name, reason in self._faults(facts):
            found.setdefault(name, []).append(iter([reason]))
        for claim in harmed:
            if claim.node.endswith(CONTENT):
                found.setdefault(claim.name, []).append(self._content_reasons(claim.node))
        return {name: chain.from_iterable(found[name]) for name in sorted(found)}

    def _reasons(self, facts: Facts) -> Iterator[str]:
        """What is wrong with contents: with what refers to them, and below."""
        yield from (reason for _, reason in self._faults(facts))
        for claim in facts.claims:
            if claim.node in self._harmed:
                yield from self._content_reasons(claim.node)

    def _content_reasons(self, top: Typed) -> Iterator[str]:
        pending, seen = [top], {top}
        while pending:
            facts = self._again(pending.pop())
            if isinstance(facts, str):
                yield facts
                continue
            yield from (reason for _, reason in self._faults(facts))
            below = dict.fromkeys(claim.node for claim in reversed(facts.claims))
            pending += [node for node in below if node in self._harmed and node not in seen]
            seen.update(below)

    def _again(self, node: Typed) -> Facts | str:
        """What a node says, or why it cannot be read."""
        if reason := self._unreadable.get(node) or self._lost.get(_score(node)):
            return reason
        return self._read(node) or self._unreadable[node]


def _score(node: Typed) -> Score:
    return Score(node[:SCORE_SIZE])


def _joined(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path and name else path or name


def _shortened(reasons: Iterable[str]) -> Iterator[str]:
    """The first different reasons."""
    seen: set[str] = set()
    for reason in reasons:
        if len(seen) == REASONS_MAX:
            yield f"more than the {REASONS_MAX} reasons that are named"
            return
        if reason not in seen:
            seen.add(reason)
            yield reason
