"""Whatever is done to a store, in whatever order, it behaves as a dictionary with a catalog.

The real thing runs beside a model: two writers and a reader of one store, crashes that tear what
was not committed, lost indexes, flipped bits and repairs.
"""

import logging
import os
import random
import secrets
import tempfile
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from shutil import rmtree
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.damage import flip
from tests.support.dropping import drop, sealed
from tests.support.sizes import LONG
from tests.support.tiny import audited, tiny_store
from ventifs.errors import Corrupt
from ventifs.store import Score, Store, score_of
from ventifs.store.arena import HEADER_SIZE, Arena, Clump
from ventifs.store.check import repair
from ventifs.store.clump import BLOCK_SIZE_MAX
from ventifs.store.files import Files
from ventifs.store.header import read_header
from ventifs.store.index import Index
from ventifs.store.journal import Record
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index

SIZES = st.one_of(st.integers(1, 200), st.integers(1, 20_000), st.integers(100_000, BLOCK_SIZE_MAX))
CHOICE = st.integers(0, 1 << 30)
WRITER = st.integers(0, 1)
MEMORY = next((path for path in ("/dev/shm",) if os.access(path, os.W_OK)), None)  # no waiting
Key = TypeVar("Key", bytes, Score)


def made_up(seed: int, size: int, zeros: int) -> bytes:
    """A block that ends in some zeros; even seeds compress."""
    rng = random.Random(seed)
    body = rng.randbytes(16) * (size // 16 + 1) if seed % 2 == 0 else rng.randbytes(size)
    return body[:size] + bytes(min(zeros, BLOCK_SIZE_MAX - size))


class StoreMachine(RuleBasedStateMachine):
    """A store and its model.

    Every block ever put is in `blocks`; those whose scores are in `committed` must be there, those
    in `pending` for their writer; what a crash took from a writer may be there, or not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(logging.getLogger("ventifs.store"), "disabled", True)
        rng, clock = random.Random(0), count(1 << 60)
        self.patch.setattr(secrets, "token_bytes", rng.randbytes)  # the same run for the same rules
        self.patch.setattr(time, "time_ns", lambda: next(clock))
        self.directory = Path(tempfile.mkdtemp(prefix="ventifs-", dir=MEMORY))
        self.root = tiny_store(self.directory / "store")
        self.blocks: dict[Score, bytes] = {}
        self.committed: set[Score] = set()
        self.maybe: set[Score] = set()
        self.damaged: set[Score] = set()
        self.catalog: dict[bytes, Record] = {}
        self.writers: list[Store | None] = [None, None]
        self.pending: list[set[Score]] = [set(), set()]
        self.reader: Store | None = None

    # --- the steps --------------------------------------------------------------------------

    @rule(
        which=WRITER,
        seed=st.integers(0, 60),
        size=SIZES,
        node=st.booleans(),
        zeros=st.sampled_from([0, 0, 0, 1, 5000]),
    )
    def put(self, which: int, seed: int, size: int, node: bool, zeros: int) -> None:
        self._put(which, made_up(seed, size, zeros), node=node)

    @precondition(lambda self: self.blocks)
    @rule(which=WRITER, choice=CHOICE, zeros=st.sampled_from([0, 0, 1, 300]))
    def put_again(self, which: int, choice: int, zeros: int) -> None:
        block = self.blocks[self._one_of(self.blocks, choice)]
        self._put(which, block + bytes(min(zeros, BLOCK_SIZE_MAX - len(block))), node=False)

    @rule(which=WRITER, size=SIZES)
    def put_zeros(self, which: int, size: int) -> None:
        assert self._writer(which).put(bytes(size)) == (score_of(b""), False)

    @precondition(lambda self: self.blocks)
    @rule(which=WRITER, choice=CHOICE)
    def get(self, which: int, choice: int) -> None:
        score = self._one_of(self.blocks, choice)
        self._look_at(self._writer(which), which, score)

    @rule(
        which=WRITER,
        keys=st.lists(st.binary(min_size=1, max_size=3), max_size=4),
        size=st.sampled_from([0, 10, 50_000]),
        deletes=st.lists(CHOICE, max_size=3),
    )
    def commit(self, which: int, keys: list[bytes], size: int, deletes: list[int]) -> None:
        doomed = [self.catalog[self._one_of(self.catalog, at)] for at in deletes if self.catalog]
        puts = [(key, key * (size // len(key))) for key in keys]
        added = self._writer(which).commit(puts, doomed)
        assert [(record.key, record.value) for record in added] == puts
        self.catalog.update({record.id: record for record in added})
        for record in doomed:
            self.catalog.pop(record.id, None)
        self._settle(which)

    @rule(which=WRITER)
    def close(self, which: int) -> None:
        store = self.writers[which]
        if store is not None:
            store.close()
            self._settle(which)
            self.writers[which] = None

    @rule(which=WRITER)
    def abandon(self, which: int) -> None:
        store = self.writers[which]
        if store is not None:
            store.abandon()
            self.maybe |= self.pending[which] - self.committed
            self.pending[which] = set()
            self.writers[which] = None

    @rule(how=st.sampled_from(["cut", "zeros", "garbage"]), choice=CHOICE)
    def crash(self, how: str, choice: int) -> None:
        """All writers die, and the power goes: what no commit vouches for is torn."""
        self._abandon_all()
        rng = random.Random(choice)
        for path in sorted((self.root / "arenas" / "open").glob("*.arena")):
            data = bytearray(path.read_bytes())
            start = self._vouched_for(path)
            if start < len(data):
                at = rng.randint(start, len(data))
                end = len(data) if how == "cut" else rng.randint(at, len(data))
                if how == "garbage":
                    data[at:end] = rng.randbytes(end - at)
                else:
                    data[at:end] = b"" if how == "cut" else bytes(end - at)
                path.write_bytes(data)

    @rule(together=st.booleans())
    def lose_index(self, together: bool) -> None:
        self._abandon_all()
        (self.root / "index" / "data.mdb").unlink()
        if together:
            (self.root / "index" / "lock.mdb").unlink(missing_ok=True)
        self._forget_damaged()
        self._writer(0)

    @rule()
    def rebuild(self) -> None:
        self._abandon_all()
        self._forget_damaged()
        with store_lock(self.root, alone=True):
            rebuild_index(self.root, read_header(self.root), Files())

    @precondition(lambda self: self.committed and not self.damaged)
    @rule(choice=CHOICE)
    def reclaim(self, choice: int) -> None:
        """Drop a sealed arena, after what lives in it was stored elsewhere."""
        self.close(0)
        self.close(1)
        store = self._writer(0)
        arenas = sealed(store)
        if arenas:
            drop(store, [arenas[choice % len(arenas)]], sorted(self.blocks))

    @precondition(lambda self: self.committed - self.damaged)
    @rule(choice=CHOICE)
    def damage(self, choice: int) -> None:
        """Flip a bit in the clump of a committed block."""
        self._writer(choice % 2)  # an arena that a crash left is in order now
        paths = sorted((self.root / "arenas").glob("*/*.arena"))
        clumps = [
            (path, clump)
            for path in paths
            for clump in self._clumps(path)
            if self.committed.issuperset(score for score, _ in clump.head.blocks)
        ]
        if clumps:
            path, clump = clumps[choice % len(clumps)]
            flip(path, clump.end - 1 - choice % clump.head.payload_length, 1 << choice % 8)
            self.damaged |= {score for score, _ in clump.head.blocks}

    @precondition(lambda self: self.damaged)
    @rule()
    def mend(self) -> None:
        self.close(0)
        self.close(1)
        done = repair(self.root, audited(self.root))
        lost = {Score(bytes.fromhex(score)) for score in done.lost}
        healed = {Score(bytes.fromhex(score)) for score in done.healed}
        assert lost | healed <= self.damaged
        assert done.rescued == 0
        with Store.open(self.root) as store:
            left = {score for score in self.damaged if store.has(score)}
            assert all(bytes(store.get(score)) == self.blocks[score] for score in left)
        assert healed <= left
        assert not lost & left
        self.committed = (self.committed - self.damaged) | left
        self.maybe -= self.damaged
        for score in sorted(self.damaged - left):
            assert self._writer(0).put(self.blocks[score]) == (score, True)
            self.pending[0].add(score)
        self.damaged = set()

    # --- what always holds ------------------------------------------------------------------

    @invariant()
    def what_is_promised_is_there(self) -> None:
        for which, store in enumerate(self.writers):
            if store is not None:
                promised = sorted(self.committed | self.pending[which])
                assert all(store.has_many(promised))
                assert {record.id: record for record in store.records()} == self.catalog

    @invariant()
    def a_reader_sees_what_is_committed(self) -> None:
        if self.reader is None:
            self.reader = Store.open(self.root, cache_bytes=1 << 20)
        assert {record.id: record for record in self.reader.records()} == self.catalog
        assert all(self.reader.has_many(sorted(self.committed)))
        for score in list(self.committed)[:3]:
            self._look_at(self.reader, None, score)

    def teardown(self) -> None:
        try:
            if self.damaged:
                self.mend()
            self.close(0)
            self.close(1)
            Store.open(self.root, "write").close()
            report = audited(self.root)
            assert [finding for finding in report.findings if not finding.harmless] == []
            with Store.open(self.root) as store:
                for score in self.committed:
                    assert bytes(store.get(score)) == self.blocks[score]
        finally:
            self._abandon_all()
            if self.reader is not None:
                self.reader.close()
            self.patch.undo()
            rmtree(self.directory)

    # --- what the steps are made of ---------------------------------------------------------

    def _writer(self, which: int) -> Store:
        store = self.writers[which]
        if store is None:
            store = self.writers[which] = Store.open(self.root, "write", cache_bytes=1 << 20)
        return store

    def _put(self, which: int, block: bytes, *, node: bool) -> None:
        store, score = self._writer(which), score_of(block)
        known = score in self.committed or score in self.pending[which]
        assert store.has(score) or not known
        stored, new = store.put(block, node=node)
        assert stored == score
        if score == score_of(b""):
            assert not new
            return
        assert new != known or score in self.maybe
        self.blocks[score] = block.rstrip(b"\0")
        self.pending[which].add(score)

    def _look_at(self, store: Store, which: int | None, score: Score) -> None:
        promised = score in self.committed or (which is not None and score in self.pending[which])
        if not store.has(score):
            assert not promised
            return
        try:
            assert bytes(store.get(score)) == self.blocks[score]
        except Corrupt:
            assert score in self.damaged
        if which is not None and score not in self.pending[which]:
            self.committed.add(score)  # indexed: it will stay

    def _settle(self, which: int) -> None:
        self.committed |= self.pending[which]
        self.pending[which] = set()

    def _abandon_all(self) -> None:
        self.abandon(0)
        self.abandon(1)

    def _forget_damaged(self) -> None:
        """A new index leaves damaged clumps out."""
        self.committed -= self.damaged
        self.maybe |= self.damaged

    def _vouched_for(self, path: Path) -> int:
        """How much of an open arena the index knows."""
        index = Index(self.root / "index", read_header(self.root).store_id)
        try:
            return index.arena_state(bytes.fromhex(path.stem)).length
        finally:
            index.close()

    @staticmethod
    def _clumps(path: Path) -> list[Clump]:
        arena = Arena.open(path)
        found = arena.scan(HEADER_SIZE, arena.clumps_end())
        return [clump for clump in found if isinstance(clump, Clump) and clump.head.blocks]

    @staticmethod
    def _one_of(choices: Mapping[Key, object], choice: int) -> Key:
        return sorted(choices)[choice % len(choices)]


TestStoreMachine = pytest.mark.slow(StoreMachine.TestCase)
TestStoreMachine.settings = settings(
    max_examples=200 if LONG else 80, stateful_step_count=50, deadline=None
)
