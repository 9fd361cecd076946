"""Directories that fids keep by lying below them: charged once, and given back with the fids."""

import errno
import gc
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import processes
from tests.support.manyfiles import deep_version
from tests.support.stores import new_store
from tests.support.talking import Talk
from ventifs.ninep.protocol.messages import (
    NOFID,
    NONUNAME,
    NOTAG,
    Message,
    Rlerror,
    Rwalk,
    Tattach,
    Tclunk,
    Tlopen,
    Tversion,
    Twalk,
    Txattrwalk,
)
from ventifs.ninep.session.fids import LeftFids
from ventifs.ninep.session.limits import FID_BYTES, MSIZE_FIRST, SessionLimits
from ventifs.store import Store
from ventifs.vfs.access.guard import GuardedFilesystem, Squash
from ventifs.vfs.archived.files import ArchivedDirectory
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split
from ventifs.vfs.interface import File
from ventifs.vfs.memory_budget import DIRECTORY_BYTES, Budget, Share

CHAINS, DEPTH = 16, 400
SPLIT = Split.of(4 << 20)
LIMITS = SessionLimits(turn_s=60)
FIRST = LIMITS.session_bytes(MSIZE_FIRST)
VERSION = Tversion(MSIZE_FIRST, b"9P2000.L")
GUARDS = pytest.mark.parametrize("guarded", [False, True], ids=["trusted", "guarded"])


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = new_store(tmp_path_factory.mktemp("deep") / "store")
    assert processes.run(deep_version, path, CHAINS, DEPTH) == 0
    with Store.open(path, cache_bytes=SPLIT.clumps) as store:
        yield store


def talk(store: Store, share: Share, *, guarded: bool = False, **more: Any) -> Talk:
    files: Any = ArchiveFilesystem(store, SPLIT)
    if guarded:
        files = GuardedFilesystem(files, squash=Squash.ALL)
    assert share.take(FIRST)
    return Talk(files, limits=LIMITS, attach=False, share=share, **more)


def attach(talking: Talk, aname: bytes = b"n@latest") -> Any:
    return talking.ask(Tattach(0, NOFID, b"", aname, NONUNAME))


def unlimited() -> Share:
    return Budget(1 << 40).share_of("")


def dive(talking: Talk, number: int, chain: int, step: int) -> None:
    """One fid at the bottom of a chain, by walks of so many names."""
    assert isinstance(talking.ask(Twalk(0, number, (b"chain-%05d" % chain,))), Rwalk)
    for begin in range(1, DEPTH, step):
        names = (b"d",) * min(step, DEPTH - begin)
        assert isinstance(talking.ask(Twalk(number, number, names)), Rwalk)


@GUARDS
@pytest.mark.parametrize("step", [1, 16])
def test_deep_chains_take_no_more_than_they_are_charged(
    deep: Store, guarded: bool, step: int
) -> None:
    """By tracemalloc, beside what was used lately, which is full before."""
    share = unlimited()
    one = talk(deep, share, guarded=guarded)
    attach(one)
    for _ in range(2):
        for chain in range(CHAINS):
            dive(one, 1, chain, 16)
            one.ask(Tclunk(1))
    before = share.held
    tracemalloc.start()
    for chain in range(CHAINS):
        dive(one, 1 + chain, chain, step)
    charged = share.held - before
    gc.collect()
    whole = tracemalloc.get_traced_memory()[0]
    one.ask(*[Tclunk(1 + chain) for chain in range(CHAINS)])
    gc.collect()
    gone = whole - tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert charged >= (CHAINS - 1) * (DEPTH - 1) * DIRECTORY_BYTES
    assert charged / 4 < gone <= charged
    assert share.held - before <= (DEPTH + 1) * DIRECTORY_BYTES  # what was left last stays
    one.close()
    assert share.held == 0


def test_an_attach_is_charged_for_the_way_to_its_root(deep: Store) -> None:
    share = unlimited()
    one = talk(deep, share)
    path = b"n@latest:/chain-00000" + b"/d" * (DEPTH - 1)
    attach(one, path)
    assert share.held - FIRST >= DEPTH * DIRECTORY_BYTES
    one.ask(Twalk(0, 1, (b"f",)), Tclunk(0))  # the file keeps the root, and that the way
    assert share.held - FIRST >= DEPTH * DIRECTORY_BYTES
    one.close()
    assert share.held == 0


@GUARDS
def test_walks_fail_when_the_memory_is_used_up_and_leak_nothing(deep: Store, guarded: bool) -> None:
    budget = Budget(2 * (FIRST + 64 * FID_BYTES + 300 * DIRECTORY_BYTES))
    share = budget.share_of("peer")
    one = talk(deep, share, guarded=guarded)
    attach(one)
    one.ask(Twalk(0, 1, (b"chain-00000",)))
    depth, reply = 1, None
    while not isinstance(reply := one.ask(Twalk(1, 1, (b"d",))), Rlerror):
        depth += 1
    assert reply.ecode == errno.ENFILE
    assert 280 < depth <= 300
    held = share.held
    for names in ((b"d",), (b"d",) * 16, (b"f",) if guarded else (b"d", b"f")):
        if isinstance(one.ask(Twalk(1, 2, names)), Rwalk):
            one.ask(Tclunk(2))
        else:
            assert share.held == held
    check(one, share)
    one.ask(Tclunk(1))
    one.ask(Twalk(0, 1, (b"chain-00001",)))
    check(one, share)
    one.close()
    assert budget.held == 0


def test_what_was_left_last_makes_room_for_others(deep: Store) -> None:
    size = FIRST + 64 * FID_BYTES + (DEPTH + 5) * DIRECTORY_BYTES
    share = Budget(2 * size).share_of("peer")
    one = talk(deep, share)
    attach(one)
    for chain in range(3):
        dive(one, 1, chain, 16)
        one.ask(Tclunk(1))
    for number in range(2, 80):  # other memory than that of directories
        assert isinstance(one.ask(Twalk(0, number, ())), Rwalk)
    one.close()
    assert share.held == 0


def test_a_million_directories_of_few_fids_go_in_portions(deep: Store) -> None:
    share = unlimited()
    left: list[LeftFids] = []
    one = talk(deep, share, leave=left.append)
    attach(one)
    for chain in range(10):
        dive(one, 1 + chain, chain, 16)
    one.send((NOTAG, VERSION))
    [leaving] = left
    assert share.held - FIRST > 10 * (DEPTH - 1) * DIRECTORY_BYTES
    held = [share.held]
    while leaving.some(500):
        held.append(share.held)
        assert 0 < held[-2] - held[-1] <= 501 * DIRECTORY_BYTES + 64 * FID_BYTES
    assert len(held) >= 8
    assert share.held == FIRST
    attach(one)
    one.close()
    assert share.held == 0


# --- any sequence ---------------------------------------------------------------------------------

NUMBERS = st.integers(0, 4)
NAMES = st.lists(
    st.sampled_from([b"chain-00000", b"chain-00001", b"d", b"d", b"f", b"..", b"none"]), max_size=6
).map(tuple)
REQUESTS = st.one_of(
    st.builds(Twalk, NUMBERS, NUMBERS, NAMES),
    st.builds(Twalk, NUMBERS, NUMBERS, st.integers(1, 16).map(lambda count: (b"d",) * count)),
    st.builds(Tclunk, NUMBERS),
    st.builds(Tlopen, NUMBERS, st.just(0)),
    st.builds(Txattrwalk, NUMBERS, NUMBERS, st.just(b"")),
    st.builds(
        Tattach,
        NUMBERS,
        st.just(NOFID),
        st.just(b""),
        st.sampled_from([b"n@latest", b"", b"n", b"n@latest:/chain-00000/d/d"]),
        st.just(NONUNAME),
    ),
    st.just(VERSION),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(REQUESTS, max_size=40),
    guarded=st.booleans(),
    room=st.sampled_from([20, 60, 1 << 30]),
)
def test_any_sequence_is_charged_as_a_model_says(
    deep: Store, requests: list[Message], guarded: bool, room: int
) -> None:
    size = FIRST + 64 * FID_BYTES + 8192 + room * DIRECTORY_BYTES
    budget = Budget(2 * size)
    share = budget.share_of("peer")
    one = talk(deep, share, guarded=guarded)
    attach(one)
    for request in requests:
        if isinstance(request, Tversion):
            one.send((NOTAG, request))
            assert share.held == FIRST
        else:
            one.ask(request)
        check(one, share)
    one.close()
    assert budget.held == 0


def check(talking: Talk, share: Share) -> None:
    """The sum is what the table of fids says, and what was left last."""
    fids = talking.session._fids
    below: Counter[File] = Counter()
    for fid in fids.table.values():
        at = fid.file.above
        while at is not None:
            below[at] += 1
            if below[at] > 1:
                break
            at = at.above
    left = fids.directories.left
    if left is not None and fids.directories.below[left] == 0:
        assert left not in below
        below[left] = 0
        at = left.above
        while at is not None:
            below[at] += 1
            if below[at] > 1:
                break
            at = at.above
    assert fids.directories.below == dict(below)
    charged = sum(fid.charged[1] for fid in fids.table.values() if fid.charged is not None)
    directories = sum(DIRECTORY_BYTES + each.weight for each in below)
    held = FIRST + fids.memory + charged + directories
    assert share.held == held


# --- files used lately ----------------------------------------------------------------------------


def test_files_used_lately_keep_few_directories_in_hostile_trees(deep: Store) -> None:
    """Each of the deepest is used again while the directories above it are forgotten."""
    gc.collect()
    one = talk(deep, unlimited())
    attach(one)
    for chain in range(CHAINS):
        dive(one, 1 + chain, chain, 1)
        for again in range(chain + 1):
            one.ask(Twalk(1 + again, 1000, (b"f",)), Tclunk(1000))
    one.ask(*[Tclunk(1 + chain) for chain in range(CHAINS)])
    gc.collect()
    alive = sum(isinstance(each, ArchivedDirectory) for each in gc.get_objects())
    assert alive <= 4096 + SPLIT.files + 2 * DEPTH
