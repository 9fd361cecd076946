"""Condemned arenas: the announcement's bytes, writers that come meanwhile, files that are left."""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations, zip_longest
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support.arenafiles import incompressible
from tests.support.conversing import reclaim
from tests.support.dropping import copy_from, sealed
from tests.support.modes import KINDS, masked, wrong
from tests.support.processes import Peer, kill_all
from tests.support.stores import findings, new_store, put_all
from tests.support.vectors import load_vectors, unhex
from ventifs.errors import Busy, Corrupt, VentifsError
from ventifs.store import Score, Store, score_of
from ventifs.store.arenas import Arenas
from ventifs.store.check import check, repair
from ventifs.store.files import Files
from ventifs.store.header import RECLAIMED, Unsupported, read_header, write_header
from ventifs.store.index import Index
from ventifs.store.lock import both_gates_alone, reclaimer_lives, reclaimer_lock, store_lock
from ventifs.store.rebuild import rebuild_index
from ventifs.store.reclaim.condemned import (
    ANNOUNCEMENT,
    announce,
    announced,
    condemn,
    decode_announcement,
    empty,
    encode_announcement,
    make_room,
    withdraw,
    withdraw_left,
)

VECTOR = load_vectors("store/condemned.json")
IDS: list[bytes] = unhex(VECTOR["arenas"])
GOLDEN = bytes.fromhex(VECTOR["hex"])
BLOCKS = [incompressible(900_000, seed=number) for number in range(12)]  # four fill an arena


@pytest.fixture(autouse=True)
def _no_child_outlives_its_test() -> Iterator[None]:
    yield
    kill_all()


class Stored:
    """A store with three arenas, two of them sealed, and what is in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scores = [score_of(block) for block in BLOCKS]
        with Store.open(root) as store:
            self.records = store.records()
            self.arenas = Arenas(root, store.header.store_id)
            self.sealed = sealed(store)
            assert len(self.sealed) == 2
            self.doomed = self.sealed[0]
            self.in_doomed = [score for score in self.scores if self.lives_in_doomed(store, score)]
            assert len(self.in_doomed) == 4

    def lives_in_doomed(self, store: Store, score: Score) -> bool:
        place = store._index.locate(score)
        return place is not None and place.arena == self.doomed

    def drop(self) -> None:
        """Copy what lives in the doomed arena, and drop that; its file stays."""
        with Store.open(self.root, "reclaim") as store:
            copy_from(store, [self.doomed], self.in_doomed)
            store.drop_arenas([self.doomed])

    @property
    def in_sealed(self) -> Path:
        return self.arenas.sealed_path(self.doomed)

    @property
    def in_condemned(self) -> Path:
        return self.arenas.condemned_path(self.doomed)

    def everything_is_there(self) -> None:
        with Store.open(self.root) as store:
            for score, block in zip(self.scores, BLOCKS, strict=True):
                assert store.get(score) == block
            assert store.records() == self.records


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = new_store(tmp_path_factory.mktemp("template") / "store")
    with Store.open(root, "write") as store:
        put_all(store, BLOCKS)
        store.commit([(b"key", b"value")])
    return root


@pytest.fixture
def stored(template: Path, tmp_path: Path) -> Stored:
    return Stored(shutil.copytree(template, tmp_path / "store"))


# --- the bytes ----------------------------------------------------------------------------------


def test_an_announcement_has_the_bytes_of_the_format(tmp_path: Path) -> None:
    announce(tmp_path, reversed_twice(IDS), Files())
    assert (tmp_path / ANNOUNCEMENT).read_bytes() == GOLDEN
    assert decode_announcement(GOLDEN) == set(IDS)
    assert encode_announcement([]) == bytes.fromhex(VECTOR["none_hex"])
    assert decode_announcement(bytes.fromhex(VECTOR["none_hex"])) == set()


def reversed_twice(ids: list[bytes]) -> list[bytes]:
    return [*reversed(ids), *ids]


def test_an_announcement_is_whole_or_refused() -> None:
    for length in range(len(GOLDEN)):
        with pytest.raises(Corrupt):
            decode_announcement(GOLDEN[:length])
    for bit in range(8 * len(GOLDEN)):
        changed = bytearray(GOLDEN)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            decode_announcement(bytes(changed))
    with pytest.raises(Corrupt):
        decode_announcement(GOLDEN + b"\0")


@pytest.mark.parametrize("ids", [[IDS[1], IDS[0]], [IDS[0], IDS[0]]])
def test_what_is_not_in_order_was_not_written_by_ventifs(
    ids: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ventifs.store.reclaim.condemned.sorted", lambda _: ids, raising=False)
    data = encode_announcement(ids)
    monkeypatch.undo()
    with pytest.raises(Corrupt, match="not in order"):
        decode_announcement(data)


def test_an_announcement_counts_until_it_is_withdrawn(tmp_path: Path) -> None:
    assert announced(tmp_path) == frozenset()
    with reclaimer_lock(tmp_path):
        assert announced(tmp_path) == frozenset()
        announce(tmp_path, IDS, Files())
        assert announced(tmp_path) == set(IDS)
        announce(tmp_path, IDS[:1], Files())
        assert announced(tmp_path) == set(IDS[:1])
    assert announced(tmp_path) == set(IDS[:1])
    with reclaimer_lock(tmp_path):
        assert announced(tmp_path) == set(IDS[:1])
        withdraw_left(tmp_path, Files())
        assert announced(tmp_path) == set(IDS[:1])
        withdraw(tmp_path, Files())
        withdraw(tmp_path, Files())
        assert announced(tmp_path) == frozenset()
    assert sorted(os.listdir(tmp_path)) == ["reclaim.lock"]


def _damaged(path: Path) -> None:
    path.write_bytes(GOLDEN[:-1])


def _directory(path: Path) -> None:
    path.mkdir()


def _link(path: Path) -> None:
    path.symlink_to("elsewhere")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [_damaged, _directory, _link, _fifo])
def test_a_writer_that_cannot_know_what_is_condemned_is_refused(
    stored: Stored, make: Callable[[Path], None]
) -> None:
    path = stored.root / ANNOUNCEMENT
    make(path)
    with reclaimer_lock(stored.root):
        for mode in ("write", "worker"):
            with pytest.raises(Busy, match="which arenas go is not known: try again") as caught:
                Store.open(stored.root, mode)
            assert str(caught.value).startswith(f"{path}: ")
        Store.open(stored.root).close()  # a reader need not know
    Store.open(stored.root, "write").close()  # nor a writer after it
    stored.everything_is_there()


# --- writers that come meanwhile ----------------------------------------------------------------


def test_what_is_condemned_is_stored_again_by_a_writer_that_comes(stored: Stored) -> None:
    peer = Peer(reclaim, stored.root)
    peer.ask("announce", [stored.doomed])
    with Store.open(stored.root, "write") as store:
        assert not any(store.has_many(stored.in_doomed))
        assert [store.get(score) for score in stored.in_doomed]  # read as ever
        for number, score in enumerate(stored.scores):
            assert store.put(BLOCKS[number]) == (score, score in stored.in_doomed)
            assert store.put(BLOCKS[number]) == (score, False)
        store.commit()
        assert not any(stored.lives_in_doomed(store, score) for score in stored.in_doomed)
        assert all(store.has_many(stored.scores))
    peer.ask("drop", [stored.doomed], [])
    peer.ask("remove", [stored.doomed])
    peer.end()
    assert os.listdir(stored.arenas.condemned_directory) == []
    assert not stored.in_sealed.exists()
    stored.everything_is_there()
    assert findings(stored.root) == []


def test_a_writer_of_before_goes_on_trusting_what_it_finds(stored: Stored) -> None:
    """The reclaimer waits for it at its gate."""
    with Store.open(stored.root, "write") as store:
        peer = Peer(reclaim, stored.root)
        peer.ask("announce", [stored.doomed])
        assert all(store.has_many(stored.in_doomed))
        assert store.put(BLOCKS[stored.scores.index(stored.in_doomed[0])])[1] is False
    peer.end()


def test_the_announcement_of_a_killed_reclaimer_counts_until_all_is_indexed(stored: Stored) -> None:
    peer = Peer(reclaim, stored.root)
    peer.ask("announce", [stored.doomed])
    peer.kill()
    assert (stored.root / ANNOUNCEMENT).exists()
    with Store.open(stored.root, "write") as store:
        assert not any(store.has_many(stored.in_doomed))
        assert not (stored.root / ANNOUNCEMENT).exists()
    with Store.open(stored.root, "write") as store:
        assert all(store.has_many(stored.in_doomed))
    assert findings(stored.root) == []


def test_it_counts_as_long_as_an_arena_is_locked_that_may_hold_the_drop(stored: Stored) -> None:
    with Store.open(stored.root, "write") as other:
        other.put(b"so that it has an arena")
        other.commit()
        announce(stored.root, [stored.doomed], Files())
        for _ in range(2):
            with Store.open(stored.root, "write") as store:
                assert not any(store.has_many(stored.in_doomed))
    with Store.open(stored.root, "write") as store:
        assert not any(store.has_many(stored.in_doomed))
    with Store.open(stored.root, "write") as store:
        assert all(store.has_many(stored.in_doomed))


def test_a_worker_stores_again_what_is_condemned(stored: Stored) -> None:
    with Store.open(stored.root, "reclaim") as reclaimer:
        announce(stored.root, [stored.doomed], Files())
        with Store.open(stored.root, "write") as parent:
            with Store.open(stored.root, "worker") as worker:
                for score in stored.in_doomed:
                    assert worker.put(BLOCKS[stored.scores.index(score)]) == (score, True)
                parent.adopt(worker.hand_over())
            parent.commit()
            for score in stored.in_doomed:
                assert not stored.lives_in_doomed(parent, score)
        assert reclaimer.has_many(stored.in_doomed)
        reclaimer.drop_arenas([stored.doomed])
    stored.everything_is_there()


def test_a_dry_run_and_a_reclaim_know_what_is_condemned(stored: Stored) -> None:
    with Store.open(stored.root, "reclaim") as reclaimer:
        announce(stored.root, [stored.doomed], Files())
        assert all(reclaimer.has_many(stored.in_doomed))
        for mode in ("read", "rehearse"):
            with Store.open(stored.root, mode) as store:
                assert all(store.has_many(stored.in_doomed))


def test_shunned_arenas_stay_so_in_an_index_that_replaces_another(stored: Stored) -> None:
    with Store.open(stored.root, "reclaim"):
        announce(stored.root, [stored.doomed], Files())
        with Store.open(stored.root, "worker") as store:  # holds no gate, so a rebuild may come
            before = store._index
            store._index.look_again()
            assert not any(store._index.known(score) for score in stored.in_doomed)
            rebuild_index(stored.root, store.header, Files())
            assert not any(store.has_many(stored.in_doomed))
            assert store._index is not before
            assert not any(store._index.known(score) for score in stored.in_doomed)
            for score in stored.in_doomed:
                assert bytes(store.get(score)) == BLOCKS[stored.scores.index(score)]
            store.abandon()


def test_an_index_shuns_from_now_on_and_until_it_need_not(stored: Stored) -> None:
    index = Index(stored.root / "index", stored.arenas.store_id)
    for shunned, known in ((set[bytes](), True), ({stored.doomed}, False), (set[bytes](), True)):
        index.shunned = frozenset(shunned)
        for _ in range(2):
            assert [index.known(score) for score in stored.in_doomed] == [known] * 4
            assert index.known_many(stored.in_doomed) == [known] * 4
            for score in stored.in_doomed:
                place = index.locate(score)
                assert place is not None
                assert place.arena == stored.doomed
        others = [score for score in stored.scores if score not in stored.in_doomed]
        assert all(index.known_many(others))
        assert all(map(index.known, others))
        assert len(list(index.entries())) == len(stored.scores)
    index.close()


# --- what is left of dropped arenas -------------------------------------------------------------


def _left_in_sealed(stored: Stored) -> None:
    assert stored.in_sealed.exists()


def _left_in_condemned(stored: Stored) -> None:
    condemn(stored.arenas, [stored.doomed], Files())
    assert not stored.in_sealed.exists()


def _left_truncated(stored: Stored) -> None:
    _left_in_condemned(stored)
    os.truncate(stored.in_condemned, 0)


def _left_in_both(stored: Stored) -> None:
    data = stored.in_sealed.read_bytes()
    _left_in_condemned(stored)
    stored.in_sealed.write_bytes(data)
    stored.in_sealed.chmod(0o600)


def _left_in_both_truncated(stored: Stored) -> None:
    _left_in_both(stored)
    os.truncate(stored.in_condemned, 0)


def _left_in_both_as_one(stored: Stored) -> None:
    make_room(stored.arenas, Files())
    os.link(stored.in_sealed, stored.in_condemned)


def _left_in_open(stored: Stored) -> None:
    """A repair moved it there, before the index was put back."""
    stored.in_sealed.rename(stored.arenas.open_path(stored.doomed))


LEFT = [
    _left_in_sealed,
    _left_in_condemned,
    _left_truncated,
    _left_in_both,
    _left_in_both_truncated,
    _left_in_both_as_one,
    _left_in_open,
]


def nothing_is_left(stored: Stored) -> None:
    assert list(stored.root.rglob(f"{stored.doomed.hex()}*")) == []
    assert check(stored.root, read_data=True).findings == []
    stored.everything_is_there()


@pytest.mark.parametrize("leave", LEFT)
@pytest.mark.parametrize("mode", ["write", "reclaim"])
def test_the_next_writer_removes_what_is_left(
    stored: Stored, leave: Callable[[Stored], None], mode: str
) -> None:
    stored.drop()
    leave(stored)
    report = check(stored.root, read_data=True)
    assert [finding.reason for finding in report.findings] == ["it was dropped"]
    assert report.findings[0].harmless
    Store.open(stored.root, "reclaim" if mode == "reclaim" else "write").close()
    nothing_is_left(stored)


@pytest.mark.parametrize("leave", LEFT)
def test_a_writer_leaves_it_to_a_reclaimer_that_lives(
    stored: Stored, leave: Callable[[Stored], None]
) -> None:
    stored.drop()
    leave(stored)
    before = sorted(path for path in stored.root.rglob(f"{stored.doomed.hex()}*"))
    with reclaimer_lock(stored.root):
        Store.open(stored.root, "write").close()
        assert sorted(path for path in stored.root.rglob(f"{stored.doomed.hex()}*")) == before
    Store.open(stored.root, "write").close()
    nothing_is_left(stored)


@pytest.mark.parametrize("leave", LEFT)
@pytest.mark.parametrize("index", ["older", "none"])
def test_what_is_left_goes_by_the_journals_as_well(
    stored: Stored, tmp_path: Path, leave: Callable[[Stored], None], index: str
) -> None:
    shutil.copytree(stored.root / "index", tmp_path / "older")
    stored.drop()
    leave(stored)
    shutil.rmtree(stored.root / "index")
    if index == "older":
        shutil.copytree(tmp_path / "older", stored.root / "index")
    Store.open(stored.root, "write").close()
    nothing_is_left(stored)


def test_a_rebuild_and_a_repair_leave_it_to_the_next_writer(stored: Stored) -> None:
    stored.drop()
    _left_in_condemned(stored)
    with store_lock(stored.root, alone=True):
        rebuild_index(stored.root, read_header(stored.root), Files())
    assert stored.in_condemned.exists()
    report = check(stored.root, read_data=True)
    assert [finding.harmless for finding in report.findings] == [True]
    repair(stored.root, report)  # ends with a writer
    nothing_is_left(stored)


def test_space_is_free_while_a_server_has_the_file_open(stored: Stored) -> None:
    with stored.in_sealed.open("rb") as file:
        stored.drop()
        Store.open(stored.root, "write").close()
        assert os.fstat(file.fileno()).st_size == 0
        assert os.fstat(file.fileno()).st_nlink == 0


@pytest.mark.parametrize("leave", [_left_in_sealed, _left_in_condemned])
def test_a_backup_by_hard_links_keeps_what_it_has(
    stored: Stored, tmp_path: Path, leave: Callable[[Stored], None]
) -> None:
    os.link(stored.in_sealed, tmp_path / "backup")
    before = (tmp_path / "backup").read_bytes()
    stored.drop()
    leave(stored)
    Store.open(stored.root, "write").close()
    nothing_is_left(stored)
    assert (tmp_path / "backup").read_bytes() == before


class OneFails(Files):
    """Files of which one operation fails, or kills."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self.at, self.error, self.count = at, error, 0

    def _step(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise self.error(13, "denied")

    def truncate(self, fd: int, length: int) -> None:
        self._step()
        super().truncate(fd, length)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def make_directory(self, path: Path) -> None:
        self._step()
        super().make_directory(path)

    def sync_directory(self, path: Path) -> None:
        self._step()
        super().sync_directory(path)


@pytest.mark.parametrize("leave", [_left_in_sealed, _left_in_both])
def test_an_interruption_anywhere_is_made_up_for(
    stored: Stored, leave: Callable[[Stored], None]
) -> None:
    stored.drop()
    leave(stored)
    for at in range(1, 100):
        files = OneFails(at, KeyboardInterrupt)
        try:
            condemn(stored.arenas, [stored.doomed], files)
            empty(stored.arenas, [stored.doomed], files)
        except KeyboardInterrupt:
            stored.everything_is_there()
            continue
        break
    assert 6 <= at < 99
    nothing_is_left(stored)


@pytest.mark.parametrize("leave", [_left_in_sealed, _left_in_condemned])
def test_what_cannot_be_removed_is_named_and_tried_again(
    stored: Stored, leave: Callable[[Stored], None]
) -> None:
    stored.drop()
    leave(stored)
    steps = 0
    while not _removed(stored, OneFails(steps + 1, PermissionError)):
        steps += 1
        stored.everything_is_there()
    assert steps >= 5
    nothing_is_left(stored)


def _removed(stored: Stored, files: Files) -> bool:
    try:
        condemn(stored.arenas, [stored.doomed], files)
        empty(stored.arenas, [stored.doomed], files)
    except VentifsError as error:
        if "permission denied" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize("leave", [_left_in_sealed, _left_in_condemned])
def test_a_writer_that_may_not_remove_it_says_so_and_works(
    stored: Stored, leave: Callable[[Stored], None], caplog: pytest.LogCaptureFixture
) -> None:
    stored.drop()
    leave(stored)
    with Store.open(stored.root, "write", files=OneFails(1, PermissionError)) as store:
        [score] = put_all(store, [b"more"])
    [line] = [line for line in caplog.messages if "permission denied" in line]
    assert line.startswith(f"{stored.root}/arenas/")
    assert line.endswith("; space that was reclaimed is not free yet")
    with Store.open(stored.root, "write") as store:
        assert store.has(score)
    nothing_is_left(stored)


def test_to_condemn_and_empty_what_has_no_file_is_no_error(stored: Stored) -> None:
    for _ in range(2):
        condemn(stored.arenas, IDS, Files())
        empty(stored.arenas, IDS, Files())
        condemn(stored.arenas, [], Files())
        empty(stored.arenas, [], Files())
    nothing_is_changed(stored)


def nothing_is_changed(stored: Stored) -> None:
    assert stored.arenas.sealed_ids() == sorted(stored.sealed)
    assert findings(stored.root) == []
    stored.everything_is_there()


# --- copies, and arenas that were not dropped ---------------------------------------------------


def _moved(stored: Stored) -> None:
    """As in a copy of which the journals and the index are older than `condemned/`."""
    stored.arenas.condemned_directory.mkdir(mode=0o700)
    stored.in_sealed.rename(stored.in_condemned)


@pytest.mark.parametrize("index", ["kept", "none"])
def test_an_arena_that_was_not_dropped_is_moved_back(stored: Stored, index: str) -> None:
    _moved(stored)
    report = check(stored.root, read_data=True)
    assert any(
        "was not dropped: the next command that writes moves it back" in finding.reason
        and not finding.harmless
        for finding in report.findings
    )
    if index == "none":
        shutil.rmtree(stored.root / "index")
    Store.open(stored.root, "write").close()
    assert not stored.in_condemned.exists()
    nothing_is_changed(stored)


@pytest.mark.parametrize("cut", ["all", "most", "the last byte"])
def test_what_is_left_of_an_arena_that_was_not_dropped_is_refused(stored: Stored, cut: str) -> None:
    _moved(stored)
    length = {"all": 0, "most": 1000, "the last byte": stored.in_condemned.stat().st_size - 1}[cut]
    os.truncate(stored.in_condemned, length)
    before = stored.in_condemned.read_bytes()
    for mode in ("write", "reclaim"):
        with pytest.raises(Corrupt, match=rf"1 arena files are missing \({stored.doomed.hex()}\)"):
            Store.open(stored.root, "reclaim" if mode == "reclaim" else "write")
    assert stored.in_condemned.read_bytes() == before
    with store_lock(stored.root, alone=True):
        rebuild_index(stored.root, read_header(stored.root), Files())
    with Store.open(stored.root, "write") as store:
        assert store.has_many(stored.scores) == [
            score not in stored.in_doomed for score in stored.scores
        ]
    assert stored.in_condemned.read_bytes() == before  # unknown, so it is left alone
    assert len(findings(stored.root)) == (0 if cut == "all" else 1)


def test_nothing_is_removed_while_another_arena_is_missing(stored: Stored, tmp_path: Path) -> None:
    stored.drop()
    _left_in_condemned(stored)
    other = stored.arenas.sealed_path(stored.sealed[1])
    shutil.move(other, tmp_path / other.name)
    before = stored.in_condemned.read_bytes()
    with pytest.raises(Corrupt, match="1 arena files are missing"):
        Store.open(stored.root, "write")
    assert stored.in_condemned.read_bytes() == before
    shutil.move(tmp_path / other.name, other)
    Store.open(stored.root, "write").close()
    nothing_is_left(stored)


PARTS = ["index", "arenas/open", "arenas/sealed", "arenas/condemned"]


@pytest.mark.parametrize("order", [*permutations(PARTS)])
def test_a_copy_made_during_a_reclaim_is_whole_or_refused(
    stored: Stored, tmp_path: Path, order: tuple[str, ...]
) -> None:
    """Every order in which its parts may be copied, with a step of a reclaim between any two."""
    copy = tmp_path / "copy"
    (copy / "arenas").mkdir(parents=True, mode=0o700)
    copy.chmod(0o700)
    shutil.copy(stored.root / "ventifs.store", copy / "ventifs.store")
    stored.arenas.condemned_directory.mkdir(mode=0o700)
    steps: list[Callable[[], None]] = [
        stored.drop,
        partial(condemn, stored.arenas, [stored.doomed], Files()),
        partial(empty, stored.arenas, [stored.doomed], Files()),
    ]
    for part, step in zip_longest(order, steps):
        shutil.copytree(stored.root / part, copy / part)
        if step is not None:
            step()
    copied = Stored.__new__(Stored)
    vars(copied).update(vars(stored), root=copy, arenas=Arenas(copy, stored.arenas.store_id))
    if order[0] in ("arenas/open", "arenas/sealed"):  # so the copy lacks an arena sealed meanwhile
        with pytest.raises(Corrupt, match="arena files are missing"):
            Store.open(copy, "write")
        return
    Store.open(copy, "write").close()
    copied.everything_is_there()
    assert findings(copy) == []


# --- permissions --------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to a group")
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_reclaim_makes_has_the_modes_of_the_store(tmp_path: Path, kind: str) -> None:
    with masked(0o077):
        Store.create(tmp_path / "store", arena_size=4 << 20, access=KINDS[kind])
        with Store.open(tmp_path / "store", "reclaim"):
            announce(tmp_path / "store", IDS, Files())
            assert wrong(tmp_path / "store", kind) == {}
    names = {path.name for path in (tmp_path / "store").rglob("*")}
    assert {"reclaim.lock", "condemned"} <= names


# --- mode "reclaim" -----------------------------------------------------------------------------


def test_there_is_one_reclaim_at_a_time(stored: Stored) -> None:
    with (
        Store.open(stored.root, "reclaim"),
        pytest.raises(Busy, match="another reclaim is running"),
    ):
        Store.open(stored.root, "reclaim")
    Store.open(stored.root, "reclaim").close()


def test_a_reclaim_holds_no_gate_and_is_a_writer_else(stored: Stored) -> None:
    with Store.open(stored.root, "reclaim") as store:
        with both_gates_alone(stored.root):
            pass
        assert store.writes
        assert reclaimer_lives(stored.root)
        with pytest.raises(Busy, match="another ventifs is writing"):
            repair(stored.root, check(stored.root))
        with Store.open(stored.root, "write") as writer, pytest.raises(Busy):
            assert writer.writes
            with both_gates_alone(stored.root):
                pytest.fail("a writer is at work")
        [score] = put_all(store, [b"copied"])
    assert not reclaimer_lives(stored.root)
    with Store.open(stored.root) as store:
        assert store.has(score)
        assert not store.writes


def test_a_reclaim_makes_an_index_that_is_missing(stored: Stored) -> None:
    shutil.rmtree(stored.root / "index")
    Store.open(stored.root, "reclaim").close()
    stored.everything_is_there()


def test_a_reclaim_takes_in_what_a_crash_left(stored: Stored) -> None:
    writer = Store.open(stored.root, "write")
    [score] = put_all(writer, [b"not committed"])
    writer.hand_over()
    writer.abandon()
    with Store.open(stored.root, "reclaim") as store:
        assert store.has(score)
        assert list((stored.root / "leases").iterdir()) == []


def test_a_store_that_older_programs_write_to_is_left_as_it_is(stored: Stored) -> None:
    header = read_header(stored.root)
    bits = header.read_only_compatible & ~RECLAIMED
    write_header(stored.root, replace(header, read_only_compatible=bits), Files())
    before = sorted(stored.root.rglob("*"))
    with pytest.raises(Unsupported, match=r"older programs may write.*; run 'ventifs upgrade'"):
        Store.open(stored.root, "reclaim")
    assert sorted(stored.root.rglob("*")) == before
