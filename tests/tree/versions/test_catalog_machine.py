"""Whatever is done to versions, in whatever order, the catalog is one model.

Two writers of one store archive, forget, bring back, hold, rename, tag and copy, beside an older
program that knows neither holds nor forgotten versions. The clock jumps. Writers die in the middle
of a commit, with or without the power, and the index is rebuilt. After each step a reader sees
exactly what the model says; after a death, what it said before or after the step.
"""

import os
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import TypeVar

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.dying import Death, DyingFiles
from tests.support.sizes import LONG
from tests.support.tiny import audited, tiny_store
from ventifs.api.archive import Archive
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.store.files import Files
from ventifs.store.header import read_header
from ventifs.store.journal import Record
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index
from ventifs.tree.objects.directory import tree
from ventifs.tree.objects.records import Entry
from ventifs.tree.versions.catalog import (
    TIME_NS_MAX,
    VersionId,
    decode_version,
    tree_score,
    version_key,
    version_records,
    versions,
)
from ventifs.tree.versions.forgotten import forgotten
from ventifs.tree.versions.holds import held
from ventifs.tree.versions.times import parse_time, time_text

NAMES = ("a", "a.b", "B-2")
SECOND = 10**9
START_NS = 1_800_000_000 * SECOND
JUMPS_NS = (0, 1, START_NS, START_NS + 5 * SECOND, START_NS + 4_000_000_000 * SECOND, 2**63 + 7)
TREES = 3  # that are archived
CHOICE = st.integers(0, 1 << 30)
WRITER = st.integers(0, 1)
MEMORY = next((path for path in ("/dev/shm",) if os.access(path, os.W_OK)), None)  # no waiting
T = TypeVar("T")


@dataclass(frozen=True)
class Expected:
    """What is known of a version's record before its bytes are seen."""

    tree: int
    comment: str
    tags: tuple[str, ...]


Value = bytes | Expected
ForgottenId = tuple[str, int, int]  # name, time_ns, forgotten_ns


@dataclass
class Catalog:
    """The model."""

    versions: dict[VersionId, Value] = field(default_factory=dict)
    forgotten: dict[ForgottenId, Value] = field(default_factory=dict)
    holds: dict[VersionId, int | None] = field(default_factory=dict)
    elsewhere: dict[VersionId, Value] = field(default_factory=dict)

    def active(self, each: VersionId, now_ns: int) -> bool:
        return each in self.holds and (self.holds[each] is None or now_ns < (self.holds[each] or 0))


class Refused(Exception):
    """The model refuses the step."""


def merged(expected: Value, tags: tuple[str, ...] | None, comment: str | None) -> Expected | None:
    """A record with other notes; None if they are the same."""
    if isinstance(expected, bytes):
        version = decode_version(Record(version_key("x", 0), bytes(16), expected))
        known = Expected(-1, version.comment, version.tags)
    else:
        known = expected
    wanted = Expected(
        known.tree,
        known.comment if comment is None else comment,
        known.tags if tags is None else tags,
    )
    return None if wanted == known else wanted


def root_and_notes(seen: Value) -> tuple[Entry, tuple[str, tuple[str, ...]]]:
    assert isinstance(seen, bytes)
    version = decode_version(Record(version_key("x", 0), bytes(16), seen))
    return version.root, (version.comment, version.tags)


class CatalogMachine(RuleBasedStateMachine):
    """A store's catalog, another store that is copied to, and the model of both."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = START_NS
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(time, "time_ns", lambda: self.now_ns)
        self.directory = Path(tempfile.mkdtemp(prefix="ventifs-", dir=MEMORY))
        self.root = tiny_store(self.directory / "store")
        self.other = tiny_store(self.directory / "other")
        for number in range(TREES):
            source = self.directory / f"tree{number}"
            source.mkdir()
            (source / "file").write_bytes(b"%d" % number * 3000)
        self.scores: dict[int, str] = {}  # of the trees
        self.model = Catalog()
        self.files = [DyingFiles(), DyingFiles()]
        self.writers: list[Archive | None] = [None, None]
        self.reader = Archive(Store.open(self.root))
        self.reader_elsewhere = Archive(Store.open(self.other))
        self.power = False

    # --- the steps --------------------------------------------------------------------------

    @rule(
        which=WRITER,
        name=st.sampled_from(NAMES),
        number=st.integers(0, TREES - 1),
        time_ns=st.sampled_from([None, 0, START_NS, START_NS + 500_000_000]),
        tags=st.sampled_from([(), ("x",), ("y", "x")]),
    )
    def archive(
        self, which: int, name: str, number: int, time_ns: int | None, tags: tuple[str, ...]
    ) -> None:
        stamp = self.now_ns if time_ns is None else time_ns

        def change(model: Catalog) -> None:
            if (name, stamp) in model.versions:
                raise Refused
            model.versions[name, stamp] = Expected(number, "", tags)
            model.holds.pop((name, stamp), None)

        self._do(
            which,
            change,
            lambda archive: archive.add(
                self.directory / f"tree{number}", name, time_ns=time_ns, tags=tags
            ),
        )

    @precondition(lambda self: self.model.forgotten or self.model.holds)
    @rule(which=WRITER, choice=CHOICE, number=st.integers(0, TREES - 1))
    def archive_again(self, which: int, choice: int, number: int) -> None:
        """At a time of which something was forgotten, or is held."""
        ids = sorted(self.model.holds.keys() | {each[:2] for each in self.model.forgotten})
        name, time_ns = ids[choice % len(ids)]
        self.archive(which, name, number, time_ns, ())

    @precondition(lambda self: self.model.versions)
    @rule(which=WRITER, choices=st.lists(CHOICE, min_size=1, max_size=3), force=st.booleans())
    def forget(self, which: int, choices: list[int], force: bool) -> None:
        doomed = list(dict.fromkeys(self._version(choice) for choice in choices))

        def change(model: Catalog) -> None:
            if any(model.active(each, self.now_ns) for each in doomed):
                raise Refused
            left = {name for name, _ in model.versions.keys() - set(doomed)}
            if not force and {name for name, _ in doomed} - left:
                raise Refused
            at_ns = self.now_ns
            for name, time_ns, forgotten_ns in model.forgotten:
                if (name, time_ns) in doomed:
                    at_ns = max(at_ns, forgotten_ns + 1)
            for each in doomed:
                model.forgotten[(*each, at_ns)] = model.versions.pop(each)
                model.holds.pop(each, None)

        words = [self._text(each) for each in doomed]
        self._do(which, change, lambda archive: archive.forget(*words, force=force))

    @precondition(lambda self: self.model.versions)
    @rule(which=WRITER, choice=CHOICE)
    def an_older_program_forgets(self, which: int, choice: int) -> None:
        """Also what is held."""
        there = {
            each: self.model.versions[each]
            for each in self.model.holds.keys() & self.model.versions
        }
        name, time_ns = self._one_of(there or self.model.versions, choice)

        def change(model: Catalog) -> None:
            del model.versions[name, time_ns]

        def forget(archive: Archive) -> None:
            there = {version.time_ns: version for version in versions(archive.store, name)}
            record = there[time_ns].record
            assert record is not None
            archive.store.commit(deletes=[record])

        self._do(which, change, forget)

    @precondition(lambda self: self.model.forgotten)
    @rule(which=WRITER, choices=st.lists(CHOICE, min_size=1, max_size=3), during=st.booleans())
    def undelete(self, which: int, choices: list[int], during: bool) -> None:
        """By their times, and of several of one time by when they were forgotten."""
        wanted = [self._one_of(self.model.forgotten, choice) for choice in choices]
        when = time_text(wanted[0][2]) if during else None
        first, end = parse_time(when) if when else (0, TIME_NS_MAX + 1)
        ids = [(name, time_ns) for name, time_ns, _ in wanted]

        def change(model: Catalog) -> None:
            chosen = set()
            for name, time_ns in ids:
                then = [
                    each for each in model.forgotten if each[0] == name and first <= each[2] < end
                ]
                if during:  # a time in full means the very one, if there is one of this name
                    then = [each for each in then if each[2] == first] or then
                chosen.add(self._last_forgotten(then, name, time_ns))
            if len({each[:2] for each in chosen} - model.versions.keys()) < len(chosen):
                raise Refused
            for name, time_ns, at_ns in chosen:
                model.versions[name, time_ns] = model.forgotten.pop((name, time_ns, at_ns))
                model.holds.pop((name, time_ns), None)

        words = [self._text(each) for each in ids]
        self._do(which, change, lambda archive: archive.undelete(*words, forgotten=when))

    @precondition(lambda self: self.model.forgotten)
    @rule(which=WRITER, choice=CHOICE)
    def undelete_all(self, which: int, choice: int) -> None:
        wanted, _, _ = self._one_of(self.model.forgotten, choice)

        def change(model: Catalog) -> None:
            chosen: dict[VersionId, int] = {}
            for name, time_ns, at_ns in sorted(model.forgotten):
                if name == wanted and (name, time_ns) not in model.versions:
                    chosen[name, time_ns] = at_ns
            for each, at_ns in chosen.items():
                model.versions[each] = model.forgotten.pop((*each, at_ns))
                model.holds.pop(each, None)

        self._do(which, change, lambda archive: archive.undelete(wanted, every=True))

    @precondition(lambda self: self.model.versions)
    @rule(
        which=WRITER,
        choices=st.lists(CHOICE, min_size=1, max_size=2),
        length=st.sampled_from([None, 0, 1, 3 * SECOND]),
    )
    def hold(self, which: int, choices: list[int], length: int | None) -> None:
        wanted = [self._version(choice) for choice in choices]
        until_ns = None if length is None else min(self.now_ns + length, TIME_NS_MAX)

        def change(model: Catalog) -> None:
            if until_ns is not None and until_ns <= self.now_ns:
                raise Refused
            model.holds.update(dict.fromkeys(wanted, until_ns))

        words = [self._text(each) for each in wanted]
        self._do(which, change, lambda archive: archive.hold(*words, until_ns=until_ns))

    @precondition(lambda self: self.model.versions)
    @rule(which=WRITER, choice=CHOICE)
    def release(self, which: int, choice: int) -> None:
        wanted = self._version(choice)

        def change(model: Catalog) -> None:
            if wanted not in model.holds:
                raise Refused
            del model.holds[wanted]

        self._do(which, change, lambda archive: archive.release(self._text(wanted)))

    @rule(
        which=WRITER,
        name=st.sampled_from(NAMES),
        new=st.sampled_from(NAMES),
        force=st.booleans(),
    )
    def rename(self, which: int, name: str, new: str, force: bool) -> None:
        def change(model: Catalog) -> None:
            there = {each for each, _ in model.versions}
            gone = {each[0] for each in model.forgotten}
            if name == new or name not in there | gone or new in there:
                raise Refused
            if new in gone and not force:
                raise Refused
            model.holds = {
                (new if each == name else each, time_ns): until_ns
                for (each, time_ns), until_ns in model.holds.items()
                if each != new
            }
            model.versions = {
                (new if each == name else each, time_ns): value
                for (each, time_ns), value in model.versions.items()
            }
            model.forgotten = {
                (new if each == name else each, time_ns, at_ns): value
                for (each, time_ns, at_ns), value in model.forgotten.items()
            }

        moved = {(new, *rest) for name_, *rest in self.model.forgotten if name_ == name}
        if not moved & self.model.forgotten.keys():  # which would be two of one key
            self._do(which, change, lambda archive: archive.rename(name, new, force=force))

    @precondition(lambda self: self.model.versions)
    @rule(
        which=WRITER,
        choice=CHOICE,
        add=st.sampled_from([[], ["x"], ["z", "x", "z"]]),
        remove=st.sampled_from([[], ["y"], ["x"]]),
    )
    def tag(self, which: int, choice: int, add: list[str], remove: list[str]) -> None:
        wanted = self._version(choice)

        def change(model: Catalog) -> None:
            tags = [tag for tag in self._tags(model.versions[wanted]) if tag not in remove]
            tags += [tag for tag in dict.fromkeys(add) if tag not in tags]
            noted = merged(model.versions[wanted], tuple(tags), None)
            model.versions[wanted] = noted or model.versions[wanted]

        word = self._text(wanted)
        self._do(which, change, lambda archive: archive.tag(word, add=add, remove=remove))

    @precondition(lambda self: self.model.versions)
    @rule(which=WRITER, choice=CHOICE, text=st.sampled_from(["", "one", "another comment"]))
    def comment(self, which: int, choice: int, text: str) -> None:
        wanted = self._version(choice)

        def change(model: Catalog) -> None:
            noted = merged(model.versions[wanted], None, text)
            model.versions[wanted] = noted or model.versions[wanted]

        self._do(which, change, lambda archive: archive.comment(self._text(wanted), text))

    @precondition(lambda self: self.model.versions)
    @rule(which=WRITER, choice=CHOICE, name=st.sampled_from([None, *NAMES]))
    def copy(self, which: int, choice: int, name: str | None) -> None:
        wanted = self._version(choice)
        made = (name or wanted[0], wanted[1])

        def change(model: Catalog) -> None:
            value = model.versions[wanted]
            root, notes = root_and_notes(value)
            known_root, known_notes = root_and_notes(model.elsewhere.get(made, value))
            if root != known_root:
                raise Refused
            if made not in model.elsewhere or notes != known_notes:
                model.elsewhere[made] = value

        def copy(archive: Archive) -> None:
            with Archive(Store.open(self.other, "write")) as other:
                archive.copy(self._text(wanted), other, name=name)

        self._do(which, change, copy)

    @rule(at=st.sampled_from(JUMPS_NS))
    def jump(self, at: int) -> None:
        """The clock is set, back or ahead."""
        self.now_ns = at

    @rule(which=WRITER, at=st.integers(1, 30), torn=st.booleans(), power=st.booleans())
    def die_soon(self, which: int, at: int, torn: bool, power: bool) -> None:
        """The writer dies in one of its next steps, perhaps because the power goes."""
        self._writer(which)
        files = self.files[which]
        files.when, files.at = ("torn" if torn else "after"), files.count + at
        self.power = power

    @rule(which=WRITER)
    def close(self, which: int) -> None:
        archive = self.writers[which]
        if archive is not None:
            archive.store.abandon()  # there is nothing that is not committed
            self.writers[which] = None
            self.files[which] = DyingFiles()

    @rule()
    def rebuild(self) -> None:
        self.close(0)
        self.close(1)
        with store_lock(self.root, alone=True):
            rebuild_index(self.root, read_header(self.root), Files())

    # --- what always holds ------------------------------------------------------------------

    @invariant()
    def readers_see_the_model(self) -> None:
        assert self._differs(self.model) == ""
        for version in self.reader.versions():
            assert version.held == self.model.active((version.name, version.time_ns), self.now_ns)

    def teardown(self) -> None:
        try:
            self.close(0)
            self.close(1)
            for root in (self.root, self.other):
                Store.open(root, "write").close()
                assert [each for each in audited(root).findings if not each.harmless] == []
            for reader in (self.reader, self.reader_elsewhere):
                found = [version.stored for version in reader.versions()]
                found += [each.version.stored for each in reader.forgotten()]
                for version in found:
                    [(path, _)] = tree(reader.store, version.root)
                    assert path == b"file"
        finally:
            self.close(0)
            self.close(1)
            self.reader.close()
            self.reader_elsewhere.close()
            self.patch.undo()
            rmtree(self.directory)

    # --- what the steps are made of ---------------------------------------------------------

    def _do(
        self, which: int, change: Callable[[Catalog], None], action: Callable[[Archive], object]
    ) -> None:
        """Take a step, in the model and for real."""
        after = deepcopy(self.model)
        refused = False
        try:
            change(after)
        except Refused:
            after, refused = self.model, True
        try:
            action(self._writer(which))
        except VentifsError:
            assert refused
        except Death:
            self._died(which, after)
        else:
            assert not refused
            self._adopt(after)

    def _died(self, which: int, after: Catalog) -> None:
        """What a dead writer was doing is done whole, or not at all."""
        files = self.files[which]
        archive, self.writers[which] = self.writers[which], None
        assert archive is not None
        archive.store.abandon()
        event("a writer died")
        if self.power:
            self.close(1 - which)
            files.lose_power(self.root)
        self.files[which] = DyingFiles()
        self._writer(which)  # recovers
        if self._differs(self.model):
            event("what a dead writer did is done")
            self._adopt(after)

    def _adopt(self, after: Catalog) -> None:
        """Take over a model, with the records' bytes that could not be foreseen."""
        there = {
            (version.name, version.time_ns): version for version in versions(self.reader.store)
        }
        assert there.keys() == after.versions.keys()
        for each, expected in after.versions.items():
            if isinstance(expected, Expected):
                version = self.reader[self._text(each)]
                assert (version.comment, version.tags) == (expected.comment, expected.tags)
                if expected.tree >= 0:
                    assert self.scores.setdefault(expected.tree, version.score) == version.score
                else:  # the notes alone are others
                    assert version.score == self._score(self.model.versions[each])
                record = version.stored.record
                assert record is not None
                after.versions[each] = record.value
        self.model = after

    def _differs(self, model: Catalog) -> str:
        """How a reader's catalog differs from a model whose records are all known; else empty."""
        store = self.reader.store
        pairs = {
            "versions": (self._values(store), model.versions),
            "elsewhere": (self._values(self.reader_elsewhere.store), model.elsewhere),
            "holds": ({each: hold.until_ns for each, hold in held(store).items()}, model.holds),
            "forgotten": (
                {
                    (each.version.name, each.version.time_ns, each.forgotten_ns): (
                        each.version.record and each.version.record.value
                    )
                    for each in forgotten(store)
                },
                model.forgotten,
            ),
        }
        assert len(store.records()) == len(version_records(store)) + len(held(store)) + len(
            forgotten(store)
        )
        return "; ".join(f"{what}: {one} {two}" for what, (one, two) in pairs.items() if one != two)

    @staticmethod
    def _values(store: Store) -> dict[VersionId, bytes]:
        return {
            (version.name, version.time_ns): version.record.value
            for version in versions(store)
            if version.record
        }

    def _writer(self, which: int) -> Archive:
        archive = self.writers[which]
        if archive is None:
            store = Store.open(self.root, "write", cache_bytes=1 << 20, files=self.files[which])
            archive = self.writers[which] = Archive(store)
        return archive

    def _version(self, choice: int) -> VersionId:
        return self._one_of(self.model.versions, choice)

    @staticmethod
    def _one_of(choices: dict[T, Value], choice: int) -> T:
        return sorted(choices)[choice % len(choices)]  # type: ignore[type-var]

    @staticmethod
    def _last_forgotten(there: list[ForgottenId], name: str, time_ns: int) -> ForgottenId:
        """What the text of a time means: that time, or the last within its second, say."""
        start, end = parse_time(time_text(time_ns))
        exact = [each for each in there if each[:2] == (name, time_ns)]
        within = [each for each in there if each[0] == name and start <= each[1] < end]
        if not within:
            raise Refused
        return max(exact or within)

    @staticmethod
    def _text(each: VersionId) -> str:
        return f"{each[0]}@{time_text(each[1])}"

    @staticmethod
    def _tags(value: Value) -> tuple[str, ...]:
        assert isinstance(value, bytes)
        return decode_version(Record(version_key("x", 0), bytes(16), value)).tags

    @staticmethod
    def _score(value: Value) -> str:
        assert isinstance(value, bytes)
        return tree_score(decode_version(Record(version_key("x", 0), bytes(16), value)).root).hex()


TestCatalogMachine = pytest.mark.slow(CatalogMachine.TestCase)
TestCatalogMachine.settings = settings(
    max_examples=150 if LONG else 70, stateful_step_count=40, deadline=None
)
