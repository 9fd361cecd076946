"""Whatever is done around reclaims, in whatever order, versions read as they were archived.

Two writers archive, forget, bring back, hold and copy, while a third one, mounts and damage come in
the middle of a reclaim: between any two of its operations on files, and while it waits for the
writers that were there before. Writers and reclaims die, with or without the power; the index is
rebuilt and repaired. After each step a reader sees the catalog of the model, and reads a sample of
versions bit for bit; what bit flips have hit may be refused, but is never wrong.
"""

import fcntl
import gc
import logging
import os
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.clock import Clock
from tests.support.dying import Death, DyingFiles
from tests.support.faults import When
from tests.support.patience import PATIENCE_S
from tests.support.sizes import LONG
from tests.support.tiny import audited, tiny_store
from tests.support.turnover import Tree, read_tree
from ventifs.api.archive import Archive
from ventifs.api.version import ArchivedVersion
from ventifs.errors import Busy, VentifsError
from ventifs.store import Store
from ventifs.store.arena import HEADER_SIZE, Arena, Clump
from ventifs.store.check import repair
from ventifs.store.files import Files
from ventifs.store.header import read_header
from ventifs.store.lock import RECOVERY_LOCK, store_lock
from ventifs.store.rebuild import rebuild_index
from ventifs.tree.archive import read_batches
from ventifs.tree.objects.content import read
from ventifs.tree.objects.directory import tree
from ventifs.tree.objects.records import Entry, RegularFile
from ventifs.tree.reclaim.reclaim import reclaim
from ventifs.tree.reclaim.results import Limits, Reclaimed
from ventifs.tree.versions.catalog import VersionId, tree_score, versions
from ventifs.tree.versions.catalog_lock import catalog_lock
from ventifs.tree.versions.forgotten import forgotten
from ventifs.tree.versions.holds import held
from ventifs.tree.versions.leasing import ForgottenMeanwhile
from ventifs.tree.versions.reachable import reach
from ventifs.tree.versions.times import time_text

NAMES, LATE = ("a", "b"), "late"
PATHS = [b"%d" % number for number in range(4)] + [b"d/%d" % number for number in range(4)]
SECOND = 10**9
START_NS = 1_900_000_000 * SECOND
ARENA = 64 << 10
CHOICE = st.integers(0, 1 << 30)
WRITER = st.integers(0, 1)
THIRD = 2  # the writer that comes in the middle of a reclaim
KINDS = ("archive", "archive", "archive", "forget", "undelete", "mount", "copy", "reclaim")
MOUNTS_MAX = 3
OPERATIONS_MAX = 90  # of a reclaim, on files
MEMORY = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())
T = TypeVar("T")

ForgottenId = tuple[str, int, int]  # name, time_ns, forgotten_ns
Script = list[tuple[int, int]]  # (after how many operations, what), of what comes in between
SCRIPT = st.lists(st.tuples(st.integers(1, OPERATIONS_MAX), CHOICE), max_size=5)


def piece(number: int) -> bytes:
    """A part of files. The last ones are large: files that have them share chunks."""
    rng = random.Random(number)
    return rng.randbytes(rng.randint(1, 5000) if number < 20 else 40_000)


@dataclass
class Catalog:
    """The model. What is archived is named by the score of its tree."""

    versions: dict[VersionId, bytes] = field(default_factory=dict)
    forgotten: dict[ForgottenId, bytes] = field(default_factory=dict)
    held: set[VersionId] = field(default_factory=set)


@dataclass
class Mount:
    """A version that a reader has leased, and reads whatever becomes of it."""

    archive: Archive
    version: ArchivedVersion
    score: bytes


class InterruptedFiles(DyingFiles):
    """Files that call a function before each operation."""

    def __init__(self, before: Callable[[], None], durable: dict[int, int]) -> None:
        super().__init__(durable)
        self._before = before

    def _step(self, operation: Callable[..., T], *args: Any) -> T:
        if not self.dead:
            self._before()
        return super()._step(operation, *args)


class LateArchive:
    """An archive run in a thread that stops in the middle until it may end."""

    def __init__(
        self, root: Path, source: Path, time_ns: int, after: int, files: DyingFiles
    ) -> None:
        """It stops when it has reported progress so many times."""
        self.time_ns = time_ns
        self.files = files
        self._root, self._source, self._left = root, source, after
        self._stopped, self._may_end = Event(), Event()
        self._failure: Exception | Death | None = None
        self._thread = Thread(target=self._run)

    def start(self) -> bool:
        """Run until it stops; return whether it is in the middle."""
        self._thread.start()
        assert self._stopped.wait(PATIENCE_S)
        return self._left < 0

    def end(self) -> Exception | Death | None:
        """Run to the end; return what it fails with."""
        self._may_end.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self._failure

    def _run(self) -> None:
        try:
            store = Store.open(self._root, "write", files=self.files, wait_s=0)
            with Archive(store) as archive:
                archive.add(
                    self._source, LATE, time_ns=self.time_ns, read_all=True, progress=self._stop
                )
        except (Exception, Death) as error:
            self._failure = error
        finally:
            self._stopped.set()

    def _stop(self, *_: object) -> None:
        self._left -= 1
        if self._left == -1:
            self._stopped.set()
            assert self._may_end.wait(PATIENCE_S)


class ReclaimMachine(RuleBasedStateMachine):
    """A store, another one that is copied to, and the model."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = START_NS
        self.clock = Clock(step_s=0.001)
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(logging.getLogger("ventifs.store"), "disabled", True)
        self.patch.setattr(time, "time_ns", lambda: self.now_ns)
        rng = random.Random(0)  # the same run for the same rules
        self.patch.setattr(secrets, "token_bytes", rng.randbytes)
        self.patch.setattr(os, "urandom", rng.randbytes)
        self.patch.setattr(read_batches, "SETTLED_NS", -(10**19))  # caches what it has just read
        waits = SimpleNamespace(monotonic=self.clock, sleep=lambda _: self._waiting())
        self.patch.setattr("ventifs.store.lock.time", waits)
        self.patch.setattr("ventifs.tree.reclaim.reclaim.catalog_lock", self._locking)
        self.directory = MEMORY / f"ventifs-machine-{os.getpid()}"  # sources' paths are archived
        rmtree(self.directory, ignore_errors=True)
        self.root = tiny_store(self.directory / "store", arena_size=ARENA)
        self.other = tiny_store(self.directory / "other", arena_size=ARENA)
        self.sources: dict[str, Tree] = {}
        for name in (*NAMES, LATE):
            (self.directory / name / "d").mkdir(parents=True)
            self.sources[name] = {}
        self.trees: dict[bytes, Tree] = {}  # what was archived, by score
        self.roots: dict[bytes, Entry] = {}
        self.model = Catalog()
        self.elsewhere: dict[VersionId, bytes] = {}
        self.durable: dict[int, int] = {}  # since a reclaim began
        self.files = [DyingFiles(self.durable) for _ in range(3)]
        self.writers: list[Archive | None] = [None, None, None]
        self.mounts: list[Mount] = []
        self.reader = Archive(Store.open(self.root, cache_bytes=1 << 16))
        self.hurt: set[bytes] = set()  # trees that bit flips have hit
        self.damaged: set[bytes] = set()  # blocks, until they are mended
        self.unmended = False
        # While a reclaim runs:
        self.script: Script = []
        self.waiting_script: list[int] = []
        self.operations = 0
        self.within = False  # a reclaim
        self.acting = False  # in between
        self.earlier: list[int] | None = None  # the writers that it waits for
        self.late_choice: int | None = None
        self.late: LateArchive | None = None
        self.last_choice: int | None = None
        self.turned = False  # it waits, so that nobody else need wait
        self.old: set[ForgottenId] = set()  # what was forgotten when it began
        self.gone: set[ForgottenId] = set()
        self.brought_back: set[ForgottenId] = set()

    # --- the steps --------------------------------------------------------------------------

    @rule(which=WRITER, name=st.sampled_from(NAMES), seed=CHOICE, read_all=st.booleans())
    def archive(self, which: int, name: str, seed: int, read_all: bool) -> None:
        self._edit(name, random.Random(seed))
        self._archive(which, name, read_all=read_all)

    @rule(which=WRITER, seeds=st.lists(CHOICE, min_size=2, max_size=5), left=st.integers(0, 2))
    def nights(self, which: int, seeds: list[int], left: int) -> None:
        """Archive some versions, and forget all but a few."""
        for seed in seeds:
            self.archive(which, NAMES[seed % 2], seed, bool(seed & 2))
            self.now_ns += SECOND
        there = sorted(self.model.versions, key=lambda each: each[1])
        self._forget(which, set(there[: len(there) - left]))

    @precondition(lambda self: self.model.versions)
    @rule(which=WRITER, choices=st.lists(CHOICE, min_size=1, max_size=4))
    def forget(self, which: int, choices: list[int]) -> None:
        self._forget(which, {self._one_of(self.model.versions, choice) for choice in choices})

    @precondition(lambda self: self.model.forgotten)
    @rule(which=WRITER, choice=CHOICE)
    def undelete(self, which: int, choice: int) -> None:
        self._undelete(which, self._one_of(self.model.forgotten, choice))

    @precondition(lambda self: self.model.versions)
    @rule(which=WRITER, choice=CHOICE)
    def hold_or_release(self, which: int, choice: int) -> None:
        each = self._one_of(self.model.versions, choice)
        after = deepcopy(self.model)
        after.held ^= {each}
        holds = each in after.held

        def change(archive: Archive) -> None:
            (archive.hold if holds else archive.release)(self._text(each))

        self._do(which, after, change)

    @precondition(lambda self: self.model.versions)
    @rule(choice=CHOICE)
    def copy(self, choice: int) -> None:
        """To another store."""
        each = self._one_of(self.model.versions, choice)
        score = self.model.versions[each]
        if self.elsewhere.get(each, score) != score:
            return
        with Archive(Store.open(self.other, "write")) as other:
            try:
                with self._fresh() as archive:
                    archive.copy(self._text(each), other)
            except VentifsError:
                assert score in self.hurt
                return
        self.elsewhere[each] = score

    @precondition(lambda self: self.elsewhere)
    @rule(which=WRITER, choice=CHOICE)
    def copy_back(self, which: int, choice: int) -> None:
        self._copy_back(which, self._one_of(self.elsewhere, choice))

    @precondition(lambda self: self.model.versions)
    @rule(choice=CHOICE)
    def mount(self, choice: int) -> None:
        if len(self.mounts) == MOUNTS_MAX:
            self.mounts.pop(choice % MOUNTS_MAX).archive.close()
        self._mount(choice)

    @precondition(lambda self: self.model.versions)
    @rule(choice=CHOICE)
    def restore(self, choice: int) -> None:
        each = self._one_of(self.model.versions, choice)
        score = self.model.versions[each]
        target = self.directory / "restored"
        if score not in self.hurt:
            with self._fresh() as archive:
                archive[self._text(each)].restore(target)
            found = {
                os.fsencode(path.relative_to(target)): path.read_bytes()
                for path in target.rglob("*")
                if path.is_file()
            }
            assert found == self.trees[score]
            rmtree(target)

    @rule(
        grace=st.sampled_from([0, 0, 0, 0, 4 * SECOND, 1000 * SECOND]),
        max_unused=st.sampled_from([0.0, 0.0, 0.0, 0.05, 0.5, 20_000]),
        max_repack=st.sampled_from([None, None, None, 0, 40_000]),
        script=SCRIPT,
        waiting=st.lists(CHOICE, max_size=3),
        late=st.sampled_from([None, 0, 1, 2, 3]),
        last=st.none() | CHOICE,
        busy=st.booleans(),
        dies=st.sampled_from([None, None, "before", "after", "torn"]),
        at=st.integers(1, OPERATIONS_MAX),
        power=st.booleans(),
    )
    def reclaim(
        self,
        grace: int,
        max_unused: float | int,
        max_repack: int | None,
        script: Script,
        waiting: list[int],
        late: int | None,
        last: int | None,
        busy: bool,
        dies: When | None,
        at: int,
        power: bool,
    ) -> None:
        """Perhaps beside writers that have the old gate, others that come, and to its death."""
        for which in (0, 1):
            if busy:
                self._writer(which)
            else:
                self.close(which)
        if self.writers[THIRD] is not None:
            self.close(THIRD)
        files = InterruptedFiles(self._interrupted, self.durable)
        files.when, files.at = dies or "after", at if dies else -1
        limits = Limits(max_unused=max_unused, max_repack=max_repack)
        self.late_choice, self.last_choice = late, last
        self._reclaim(grace, limits, sorted(script), waiting, files, power=power)

    @rule(
        seeds=st.lists(CHOICE, min_size=2, max_size=4),
        left=st.integers(0, 1),
        waiting=st.lists(CHOICE, max_size=2),
        late=CHOICE,
        last=st.none() | CHOICE,
        dies=st.sampled_from([None, None, "after"]),
        at=st.integers(1, OPERATIONS_MAX),
    )
    def reclaim_what_comes_back(
        self,
        seeds: list[int],
        left: int,
        waiting: list[int],
        late: int,
        last: int | None,
        dies: When | None,
        at: int,
    ) -> None:
        """While it waits, an archive of what is about to go begins, which ends after the flip."""
        self.nights(0, seeds, left)
        self.reclaim(0, 0.0, None, [], waiting, late, last, True, dies, at, False)

    @rule(grace=st.sampled_from([0, 4 * SECOND]))
    def dry_run(self, grace: int) -> None:
        try:
            done = reclaim(self.root, grace_ns=grace, dry_run=True)
        except VentifsError:
            assert self._may_refuse()
            return
        old = [each for each in self.model.forgotten if each[2] <= self.now_ns - grace]
        assert len(done.forgotten) == len(old)

    @rule(which=WRITER, at=st.integers(1, 30), torn=st.booleans())
    def die_soon(self, which: int, at: int, torn: bool) -> None:
        """The writer dies in one of its next steps."""
        self._writer(which)
        files = self.files[which]
        files.when, files.at = ("torn" if torn else "after"), files.count + at

    @rule(which=st.integers(0, 2))
    def close(self, which: int) -> None:
        archive = self.writers[which]
        if archive is not None:
            archive.store.abandon()  # there is nothing that is not committed
            self.writers[which] = None
            self.files[which] = DyingFiles(self.durable)

    @rule()
    def rebuild(self) -> None:
        self._close_all()
        with store_lock(self.root, alone=True):
            rebuild_index(self.root, read_header(self.root), Files())

    @precondition(lambda self: self.model.versions and not self.unmended)
    @rule(choice=CHOICE, entry=st.booleans())
    def damage(self, choice: int, entry: bool) -> None:
        """Flip a bit in a clump of blocks, or in an entry of the index."""
        self._close_all()
        self._writer(0)  # what a crash left is in order now
        self.close(0)
        rng = random.Random(choice)
        needed = {score: self._needed(score) for score in self._scores() - self.hurt}
        if entry:
            self.damaged = {self._flip_entry(rng)}
        else:
            paths = sorted((self.root / "arenas").glob("*/*.arena"))
            clumps = [(path, clump) for path in paths for clump in self._clumps(path)]
            path, clump = rng.choice(clumps)
            self.damaged = {score for score, _ in clump.head.blocks}
            self._flip(path, rng.randrange(clump.offset, clump.end), rng)
        self.unmended = True
        self.hurt |= {score for score, blocks in needed.items() if blocks & self.damaged}
        assert self._unreadable() <= self.hurt
        event("damage hits a version" if self.hurt else "damage hits none")

    @precondition(lambda self: self.unmended)
    @rule()
    def mend(self) -> None:
        """Repair; and forget what is lost."""
        self._close_all()
        repair(self.root, audited(self.root))
        self.unmended, self.damaged = False, set()
        lost = self._unreadable()
        assert lost <= self.hurt
        self.hurt = lost
        gone = {each for each, score in self.model.versions.items() if score in lost}
        if gone:
            self._forget(0, gone)

    # --- what always holds ------------------------------------------------------------------

    @invariant()
    def a_reader_sees_the_model(self) -> None:
        self.now_ns += SECOND
        assert self._catalog() == (self.model.versions, self.model.forgotten)
        rng = random.Random(self.now_ns)
        some = sorted(self.model.versions)
        with self._fresh() as archive:
            for each in rng.sample(some, min(2, len(some))):
                self._look_at(archive[self._text(each)], self.model.versions[each])
        for mount in self.mounts:
            self._look_at(mount.version, mount.score)

    def teardown(self) -> None:
        try:
            if self.unmended:
                self.mend()
            self._close_all()
            self.mounts, mounts = [], self.mounts
            for mount in mounts:
                self._look_at(mount.version, mount.score)
                mount.archive.close()
            self._writer(0)
            self.close(0)
            assert [each for each in audited(self.root).findings if not each.harmless] == []
            self._look_at_all()
            if not self.hurt & self._scores():
                self._reclaim(10**18, Limits(max_unused=0.0), [], [], DyingFiles(), power=False)
                left = reclaim(self.root, grace_ns=10**18, dry_run=True).plan
                assert left.blocks == left.live_blocks
                assert left.unused_bytes == 0
                self._look_at_all()
            self.rebuild()
            assert self._catalog() == (self.model.versions, self.model.forgotten)
            self._look_at_all()
        finally:
            self._close_all()
            for mount in self.mounts:
                mount.archive.close()
            self.reader.close()
            self.patch.undo()
            rmtree(self.directory)

    # --- changes of the catalog ---------------------------------------------------------------

    def _archive(self, which: int, name: str, *, read_all: bool) -> None:
        self._write(name)
        archived = dict(self.sources[name])
        each = name, self.now_ns

        def add(archive: Archive) -> None:
            archive.add(self.directory / name, name, time_ns=each[1], read_all=read_all)

        after = deepcopy(self.model)
        after.versions[each] = b"?"
        if each not in self.model.versions:
            self._do(which, after, add, {each: archived})

    def _forget(self, which: int, doomed: set[VersionId]) -> None:
        after = deepcopy(self.model)
        doomed -= after.held
        at_ns = self.now_ns
        for name, time_ns, forgotten_ns in self.model.forgotten:
            if (name, time_ns) in doomed:
                at_ns = max(at_ns, forgotten_ns + 1)
        for each in doomed:
            after.forgotten[(*each, at_ns)] = after.versions.pop(each)
        words = sorted(map(self._text, doomed))
        if words:
            self._do(which, after, lambda archive: archive.forget(*words, force=True))

    def _undelete(self, which: int, wanted: ForgottenId) -> None:
        name, time_ns, _ = wanted
        if (name, time_ns) not in self.model.versions:
            after = deepcopy(self.model)
            last = max(each for each in after.forgotten if each[:2] == (name, time_ns))
            after.versions[name, time_ns] = after.forgotten.pop(last)
            text = self._text((name, time_ns))
            self._do(which, after, lambda archive: archive.undelete(text))

    def _copy_back(self, which: int, each: VersionId) -> None:
        if each not in self.model.versions:
            after = deepcopy(self.model)
            after.versions[each] = self.elsewhere[each]

            def copy(archive: Archive) -> None:
                with Archive(Store.open(self.other)) as other:
                    other.copy(self._text(each), archive)

            self._do(which, after, copy)

    def _mount(self, choice: int) -> None:
        each = self._one_of(self.model.versions, choice)
        if len(self.mounts) < MOUNTS_MAX:
            archive = self._fresh()
            version = archive[self._text(each)]
            assert version.store is archive.store  # it is leased
            self.mounts.append(Mount(archive, version, self.model.versions[each]))

    def _do(
        self,
        which: int,
        after: Catalog,
        action: Callable[[Archive], object],
        archived: dict[VersionId, Tree] | None = None,
    ) -> None:
        """Take a step, in the model and for real."""
        try:
            action(self._writer(which))
        except Death:
            self._died(which, after, archived or {})
        except Busy:
            assert self.acting
            assert not self.turned, "a writer waits though the gate has turned"
            event("a writer would wait")
            self.close(which)
        except VentifsError:
            assert self._may_refuse()
            self.close(which)
            self._adopt_either(after, archived or {})
        else:
            self._adopt(after, archived or {})

    def _died(self, which: int, after: Catalog, archived: dict[VersionId, Tree]) -> None:
        """What a dead writer was doing is done whole, or not at all."""
        event("a writer died")
        self.close(which)
        self._writer(which)  # recovers
        if self.within:
            self.close(which)
        self._adopt_either(after, archived)

    def _adopt_either(self, after: Catalog, archived: dict[VersionId, Tree]) -> None:
        there, gone = self._catalog()
        if (there.keys(), gone) == (after.versions.keys(), after.forgotten):
            self._adopt(after, archived)
        else:
            assert (there, gone) == (self.model.versions, self.model.forgotten)
        self.model.held = set(held(self.reader.store))

    def _adopt(self, after: Catalog, archived: dict[VersionId, Tree]) -> None:
        there, gone = self._catalog()
        for each, files in archived.items():
            score = after.versions[each] = there[each]
            assert self.trees.setdefault(score, files) == files
            version = self.reader[self._text(each)]
            self.roots[score] = version.stored.root
        for each in after.versions.keys() - self.model.versions.keys():
            score = after.versions[each]
            if self.unmended and not (self._readable(score) and self._sound(score)):
                self.hurt.add(score)
        assert (there, gone) == (after.versions, after.forgotten)
        self.brought_back |= self.model.forgotten.keys() - after.forgotten.keys()
        self.model = after

    # --- a reclaim ----------------------------------------------------------------------------

    def _reclaim(
        self,
        grace: int,
        limits: Limits,
        script: Script,
        waiting: list[int],
        files: DyingFiles,
        *,
        power: bool,
    ) -> None:
        self.script, self.waiting_script, self.operations = script, list(waiting), 0
        self.old, self.gone, self.brought_back = set(self.model.forgotten), set(), set()
        self.earlier, self.within = None, True
        self.durable.clear()
        old = self.now_ns - grace  # may grow while it opens the store
        done: Reclaimed | None = None
        try:
            done = reclaim(self.root, grace_ns=grace, limits=limits, files=files)
        except Death:
            event("a reclaim died")
        except VentifsError:
            assert self._may_refuse(), "a reclaim is refused, and nothing is damaged"
            event("a reclaim is refused")
        finally:
            self.within, self.earlier, self.last_choice = False, None, None
            if self.late is not None and power:
                self.late.files.dead = files.dead  # all lose power at once
            self._end_late()
        if files.dead:
            self._close_all()
            gc.collect()  # a process that dies keeps no arena locked
            if power:
                files.lose_power(self.root)
            self._writer(0)  # recovers, and finishes what was begun
            assert list(self.root.glob("arenas/condemned/*")) == []
        self._see_what_is_gone(old, done)
        if done is not None:
            event(f"arenas are freed: {done.arenas > 0}, copied: {done.copied_bytes > 0}")

    def _see_what_is_gone(self, old: int, done: Reclaimed | None) -> None:
        """Forgotten versions are gone all together, or none of them is."""
        self._note_what_is_gone()
        must = {each for each in self.old if each[2] <= old} - self.brought_back
        assert must <= self.gone or (done is None and not self.gone)
        if done is not None:
            listed = set(done.forgotten)
            assert {self._forgotten_text(each) for each in self.gone} <= listed
            assert {self._forgotten_text(each) for each in must} <= listed

    def _note_what_is_gone(self) -> None:
        there, left = self._catalog()
        if self.late is not None:
            there.pop((LATE, self.late.time_ns), None)
        assert there == self.model.versions
        assert left.keys() <= self.model.forgotten.keys()
        self.gone |= self.model.forgotten.keys() - left.keys()
        self.model = replace(self.model, forgotten=left)

    def _interrupted(self) -> None:
        """Before each operation of a reclaim on files."""
        self.operations += 1
        while not self.acting and self.script and self.script[0][0] <= self.operations:
            if self._recovering():  # all others that would do something wait for that
                break
            _, choice = self.script.pop(0)
            self._in_between(choice)

    def _recovering(self) -> bool:
        try:
            with (self.root / RECOVERY_LOCK).open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

    def _waiting(self) -> None:
        """A reclaim waits for the writers that were there before it announced what goes."""
        if self.acting or not self.within:
            return
        if self.earlier is None:
            self.earlier = [which for which in range(3) if self.writers[which] is not None]
            event("a reclaim waits")
            if self.late_choice is not None:
                self._begin_late(self.late_choice)
        if self.waiting_script:
            choice = self.waiting_script.pop()
            late = random.Random(choice).choice([*self.earlier, THIRD])
            self.turned = True
            self._in_between(choice, late)
            self.turned = False
        elif self.earlier:
            self.close(self.earlier.pop())

    def _locking(self, store: Store) -> AbstractContextManager[None]:
        """The catalog is about to be locked: others may still change it, if the gate turned."""
        if self.within and not self.acting and self.last_choice is not None:
            choice, self.last_choice = self.last_choice, None
            self._in_between(choice, kinds=("undelete",))
        return catalog_lock(store)

    def _begin_late(self, choice: int) -> None:
        """Begin to archive, by the other gate, what is about to go; it goes on after the flip."""
        self.now_ns += SECOND
        gone = sorted(set(self.model.forgotten.values()) - self.hurt)
        self.sources[LATE] = dict(self.trees[gone[choice % len(gone)]]) if gone else {}
        self._write(LATE)
        files = DyingFiles(self.durable)
        self.late = LateArchive(self.root, self.directory / LATE, self.now_ns, choice % 4, files)
        if not self.late.start():
            self._end_late()

    def _end_late(self) -> None:
        if self.late is not None:
            self._note_what_is_gone()
            late, self.late = self.late, None
            failure = late.end()
            refused = isinstance(failure, VentifsError) and self._may_refuse()
            assert failure is None or refused or isinstance(failure, Death)
            event("a late version" if failure is None else "a late version is refused")
            if failure is None:
                each = LATE, late.time_ns
                self._adopt(
                    replace(self.model, versions={**self.model.versions, each: b"?"}),
                    {each: dict(self.sources[LATE])},
                )

    def _in_between(self, choice: int, which: int = THIRD, kinds: Sequence[str] = KINDS) -> None:
        """Others do something."""
        self._note_what_is_gone()
        self.now_ns += SECOND
        rng = random.Random(choice)
        self.acting = True
        try:
            with self._impatient():
                kind = rng.choice(kinds)
                event(f"in between: {kind}")
                if kind == "archive":
                    name = rng.choice(NAMES)
                    self._edit(name, rng)
                    self._archive(which, name, read_all=rng.random() < 0.5)
                elif kind == "forget" and self.model.versions:
                    self._forget(which, {self._one_of(self.model.versions, choice)})
                elif kind == "undelete" and self.model.forgotten:
                    self._undelete(which, self._one_of(self.model.forgotten, choice))
                elif kind == "copy" and self.elsewhere:
                    self._copy_back(which, self._one_of(self.elsewhere, choice))
                elif kind == "mount" and self.model.versions:
                    self._mount(choice)
                elif kind == "reclaim":
                    self._another_reclaim()
            if which == THIRD and rng.random() < 0.5:
                self.close(THIRD)
        finally:
            self.acting = False

    def _another_reclaim(self) -> None:
        with suppress(Busy):
            reclaim(self.root, files=DyingFiles(self.durable))
            raise AssertionError("two reclaims at once")

    @contextmanager
    def _impatient(self) -> Iterator[None]:
        """Writers that wait for nothing, as they would wait for ever in the reclaim's thread."""
        held = [archive for archive in self.writers if archive is not None]
        for archive in held:
            archive.store.wait_s = 0
        yield
        for archive in held:
            archive.store.wait_s = None

    # --- what is looked at --------------------------------------------------------------------

    def _fresh(self) -> Archive:
        """A reader that has nothing in memory; closing it ends its leases."""
        return Archive(Store.open(self.root, cache_bytes=1 << 16))

    def _catalog(self) -> tuple[dict[VersionId, bytes], dict[ForgottenId, bytes]]:
        store = self.reader.store
        there = {
            (each.name, each.time_ns): bytes(tree_score(each.root)) for each in versions(store)
        }
        gone = {
            (each.version.name, each.version.time_ns, each.forgotten_ns): bytes(
                tree_score(each.version.root)
            )
            for each in forgotten(store)
        }
        return there, gone

    def _look_at(self, version: ArchivedVersion, score: bytes) -> None:
        try:
            assert read_tree(version) == self.trees[score]
        except ForgottenMeanwhile:
            raise
        except VentifsError:
            assert score in self.hurt

    def _look_at_all(self) -> None:
        with self._fresh() as archive:
            for each, score in self.model.versions.items():
                self._look_at(archive[self._text(each)], score)
        for score in self.model.forgotten.values():
            assert self._readable(score) or score in self.hurt

    def _scores(self) -> set[bytes]:
        """The trees that must be there."""
        scores = {*self.model.versions.values(), *self.model.forgotten.values()}
        return scores | {mount.score for mount in self.mounts}

    def _unreadable(self) -> set[bytes]:
        return {score for score in self._scores() if not self._readable(score)}

    def _needed(self, score: bytes) -> set[bytes]:
        with Store.open(self.root) as store:
            return {ref.score for ref in reach(store, self.roots[score], set())}

    def _sound(self, score: bytes) -> bool:
        return not self._needed(score) & self.damaged

    def _readable(self, score: bytes) -> bool:
        """Whether a tree can be read by a process that has nothing in memory; then it is right."""
        with self._fresh() as archive:
            store = archive.store
            try:
                found = {
                    path: b"".join(
                        each if not isinstance(each, int) else bytes(each)
                        for each in read(store, entry.detail.content)
                    )
                    for path, entry in tree(store, self.roots[score])
                    if isinstance(entry.detail, RegularFile)
                }
            except VentifsError:
                return False
        assert found == self.trees[score]
        return True

    def _may_refuse(self) -> bool:
        """Whether damage may stop what needs everything to be sound."""
        return self.unmended or bool(self.hurt & self._scores())

    # --- what the steps are made of -----------------------------------------------------------

    def _edit(self, name: str, rng: random.Random) -> None:
        """Change a source, or make it what was archived before."""
        if self.trees and rng.random() < 0.3:
            self.sources[name] = dict(self.trees[rng.choice(sorted(self.trees))])
            return
        for path in rng.sample(PATHS, rng.randint(1, 4)):
            parts = [piece(rng.randrange(24)) for _ in range(rng.randint(0, 3))]
            if parts:
                self.sources[name][path] = b"".join(parts)
            else:
                self.sources[name].pop(path, None)

    def _write(self, name: str) -> None:
        """Write a source; each change makes a new file, and what comes back is the same."""
        for path in PATHS:
            file = self.directory / name / os.fsdecode(path)
            data = self.sources[name].get(path)
            if file.exists() and file.read_bytes() != data:
                file.unlink()
            if data is not None and not file.exists():
                file.write_bytes(data)
                os.utime(file, ns=(0, START_NS))
        for directory in (self.directory / name / "d", self.directory / name):
            os.utime(directory, ns=(0, START_NS))

    def _writer(self, which: int) -> Archive:
        archive = self.writers[which]
        if archive is None:
            wait_s = 0 if self.acting else None
            files = self.files[which]
            store = Store.open(self.root, "write", cache_bytes=1 << 20, files=files, wait_s=wait_s)
            archive = self.writers[which] = Archive(store)
        return archive

    def _close_all(self) -> None:
        for which in range(3):
            self.close(which)

    @staticmethod
    def _clumps(path: Path) -> list[Clump]:
        arena = Arena.open(path)
        found = arena.scan(HEADER_SIZE, arena.clumps_end())
        return [clump for clump in found if isinstance(clump, Clump) and clump.head.blocks]

    def _flip_entry(self, rng: random.Random) -> bytes:
        with Store.open(self.root, "write") as store:
            index = store._index
            score = rng.choice([score for score, _ in index.entries()])
            with index._writing() as transaction:
                value = bytearray(transaction.get(score, db=index._blocks))
                value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
                transaction.put(score, bytes(value), db=index._blocks)
        return score

    @staticmethod
    def _flip(path: Path, offset: int, rng: random.Random) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))

    @staticmethod
    def _one_of(choices: dict[T, bytes], choice: int) -> T:
        return sorted(choices)[choice % len(choices)]  # type: ignore[type-var]

    @staticmethod
    def _text(each: VersionId) -> str:
        return f"{each[0]}@{time_text(each[1])}"

    @classmethod
    def _forgotten_text(cls, each: ForgottenId) -> str:
        return f"{cls._text(each[:2])}, forgotten {time_text(each[2])}"


TestReclaimMachine = pytest.mark.slow(ReclaimMachine.TestCase)
TestReclaimMachine.settings = settings(
    max_examples=1000 if LONG else 30, stateful_step_count=40, deadline=None
)
