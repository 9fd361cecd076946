"""Whatever comes and goes, every version of the catalog has all of its blocks after every run.

Directories move out and back, versions are forgotten, put back and renamed, blocks that no version
needs are dropped, and stat caches of other times are put back, in any order.
"""

import os
import tempfile
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.support.archiving import Way, archive_by, wait_for_tick
from tests.support.dead_blocks import drop_dead, forget, nothing_is_missing, put_back
from tests.support.growing import CHANGING, Growing, Step, is_archived, steps
from tests.support.sizes import LONG
from tests.support.stores import new_store
from tests.support.trees import noise, remove
from ventifs.store import Store
from ventifs.store.files import Files
from ventifs.store.header import read_header
from ventifs.store.journal import Record
from ventifs.store.rebuild import rebuild_index
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.scan import Options
from ventifs.tree.patterns import Patterns
from ventifs.tree.versions.catalog import Version, encode_version, version_key, versions

CHOICE = st.integers(0, 1 << 20)
NAME = st.sampled_from(["n", "n", "n", "m"])
WAYS = st.builds(
    Way,
    jobs=st.just(1),
    read_all=st.sampled_from([False] * 5 + [True]),
    segment_max=st.sampled_from([1, 2, 4096, 4096]),
    batch_leaves=st.just(224),
    unit_names=st.sampled_from([0, 3, 2000]),
    changed_max=st.sampled_from([0, 64]),
    shuffle=st.none(),
    clock_ns=st.none(),
)
MEMORY = next((path for path in ("/dev/shm",) if os.access(path, os.W_OK)), None)  # no waiting


class StatCacheMachine(RuleBasedStateMachine):
    """A tree, a store with its versions, and what may be put back of either."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = tempfile.TemporaryDirectory(dir=MEMORY)
        self.directory = tempfile.TemporaryDirectory()
        self.root = new_store(Path(self.memory.name) / "store")
        self.top = Path(self.directory.name)
        self.grown = Growing(self.top / "source")
        self.source = self.top / "source"
        self.away = self.top / "away"
        self.away.mkdir()
        for number, path in enumerate(["a/b/c", "a/d", "e"]):
            (self.source / path).mkdir(parents=True)
            (self.source / path / "file").write_bytes(noise(5000, number))
        self.times = count(1)
        self.forgotten: list[Record] = []
        self.caches: list[tuple[str, bytes]] = []

    def teardown(self) -> None:
        remove(self.source)
        remove(self.away)
        self.directory.cleanup()
        self.memory.cleanup()

    # --- the tree ---------------------------------------------------------------------------

    @rule(changes=steps(CHANGING, max_size=3), name=NAME, way=WAYS)
    def change(self, changes: list[Step], name: str, way: Way) -> None:
        for step in changes:
            self.grown.take(step)
        self._archive(name, way)

    @rule(choice=CHOICE, name=NAME, way=WAYS)
    def move_out(self, choice: int, name: str, way: Way) -> None:
        found = [path for path, _, _ in os.walk(os.fsencode(self.source))][1:]
        if found:
            path = sorted(found)[choice % len(found)]
            place = os.path.join(os.fsencode(self.away), b"%d" % next(self.times))
            os.mkdir(place)
            os.rename(path, os.path.join(place, os.path.basename(path)))
            Path(os.fsdecode(place), "\n").write_bytes(os.path.dirname(path))
            self._archive(name, way)

    @rule(choice=CHOICE, name=NAME, way=WAYS)
    def move_back(self, choice: int, name: str, way: Way) -> None:
        places = sorted(self.away.iterdir(), key=lambda place: int(place.name))
        if places:
            place = places[choice % len(places)]
            [moved] = [each for each in os.listdir(os.fsencode(place)) if each != b"\n"]
            into = os.path.join((place / "\n").read_bytes(), moved)
            if os.path.isdir(os.path.dirname(into)) and not os.path.lexists(into):
                os.rename(os.path.join(os.fsencode(place), moved), into)
                remove(place)
                self._archive(name, way)

    @rule(choice=CHOICE, name=NAME, way=WAYS, keep=st.integers(0, 2), lasting=st.booleans())
    def be_away_for_a_run(self, choice: int, name: str, way: Way, keep: int, lasting: bool) -> None:
        """The shortest way to what once lost blocks."""
        self.move_out(choice, name, way)
        self.forget_all_but(keep, lasting)
        self.move_back(-1, name, way)

    # --- runs -------------------------------------------------------------------------------

    def _archive(self, name: str, way: Way) -> None:
        wait_for_tick(self.top)
        archive_by(self.root, self.source, name, way, time_ns=next(self.times))
        is_archived(self.root, name, self.source)
        nothing_is_missing(self.root)
        wait_for_tick(self.top)

    @rule(name=NAME, way=WAYS, choice=CHOICE)
    def archive_a_part(self, name: str, way: Way, choice: int) -> None:
        found = sorted(os.listdir(os.fsencode(self.source)))
        options = Options(exclude=Patterns([b"/" + found[choice % len(found)]] if found else []))
        wait_for_tick(self.top)
        archive_by(self.root, self.source, name, way, time_ns=next(self.times), options=options)
        nothing_is_missing(self.root)
        wait_for_tick(self.top)

    @rule(name=NAME, mode=st.sampled_from(["write", "rehearse"]))
    def archive_in_vain(self, name: str, mode: str) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with Store.open(self.root, mode) as store:  # type: ignore[arg-type]
            try:
                archive(store, DirectorySource(self.source), name, progress=interrupt)
            except KeyboardInterrupt:
                return
            raise AssertionError("it was not interrupted")

    # --- the store --------------------------------------------------------------------------

    def versions(self, name: str | None = None) -> list[Version]:
        with Store.open(self.root) as store:
            return versions(store, name)

    @rule(choice=CHOICE, lasting=st.booleans())
    def forget(self, choice: int, lasting: bool) -> None:
        if there := self.versions():
            self.forgotten.append(forget(self.root, there[choice % len(there)]))
        if lasting:
            self._drop()

    @rule(keep=st.integers(0, 2), lasting=st.booleans())
    def forget_all_but(self, keep: int, lasting: bool) -> None:
        there = sorted(self.versions(), key=lambda version: version.time_ns)
        self.forgotten += [forget(self.root, version) for version in there[: len(there) - keep]]
        if lasting:
            self._drop()

    @precondition(lambda self: self.forgotten)
    @rule(choice=CHOICE)
    def put_back(self, choice: int) -> None:
        put_back(self.root, self.forgotten.pop(choice % len(self.forgotten)))

    def _drop(self) -> None:
        """What was forgotten before cannot be put back any more."""
        drop_dead(self.root)
        self.forgotten.clear()
        nothing_is_missing(self.root)

    @rule()
    def rename(self) -> None:
        """Versions and cache of one name become those of another that has no versions."""
        for name, new in (("n", "m"), ("m", "n")):
            of_name = self.versions(name)
            if of_name and not self.versions(new):
                puts = [
                    (version_key(new, version.time_ns), encode_version(version))
                    for version in of_name
                ]
                with Store.open(self.root, "write") as store:
                    store.commit(puts, [each.record for each in of_name if each.record])
                if self._cache(name).exists():
                    self._cache(name).replace(self._cache(new))
                return

    @rule()
    def rebuild(self) -> None:
        rebuild_index(self.root, read_header(self.root), Files())

    @rule()
    def keep_caches(self) -> None:
        for name in ("n", "m"):
            if self._cache(name).exists():
                self.caches.append((name, self._cache(name).read_bytes()))

    @precondition(lambda self: self.caches)
    @rule(choice=CHOICE)
    def put_cache_back(self, choice: int) -> None:
        name, data = self.caches[choice % len(self.caches)]
        self._cache(name).write_bytes(data)

    def _cache(self, name: str) -> Path:
        return self.root / "statcache" / name


TestStatCacheMachine = pytest.mark.slow(StatCacheMachine.TestCase)
TestStatCacheMachine.settings = settings(
    max_examples=100 if LONG else 50, stateful_step_count=40, deadline=None
)
