"""Upgrades: what an old store lacks is corrected, once, whole, and whatever interrupts it."""

import itertools
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from msgspec.structs import replace

from tests.support.conversing import NOBODY, answer_all, hold_alone, use_store
from tests.support.disks import mounted
from tests.support.ledger import audited, put_recipes
from tests.support.modes import GROUP, KINDS, wrong
from tests.support.processes import Peer, kill_all
from tests.support.recording import RecordingFiles, possible_disks
from tests.support.vectors import load_vectors
from ventifs.errors import Busy, Corrupt, VentifsError
from ventifs.store import Store, reserve
from ventifs.store import upgrade as upgrade_module
from ventifs.store.exposure import exposed, odd_modes
from ventifs.store.files import Files
from ventifs.store.header import (
    HEADER_NAME,
    Unsupported,
    encode_header,
    read_header,
    write_header,
)
from ventifs.store.index import Index
from ventifs.store.journal import Record
from ventifs.store.lock import store_lock
from ventifs.store.permissions import Access, correct
from ventifs.store.reserve import RESERVE_NAME, reserve_space
from ventifs.store.upgrade import STEPS, Correction, upgrade

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to any group")


@pytest.fixture(autouse=True)
def no_peers_left() -> Iterator[None]:
    yield
    kill_all()


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that every user can reach; pytest's own are closed to them."""
    with TemporaryDirectory(dir="/tmp", prefix="ventifs-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


NEW = ["reserve", "index", "locks", "header"]  # what a store of before lacks


def old_store(root: Path, *, access: Access = KINDS["private"], loose: bool = True) -> Path:
    """A store as programs made it before there were features, a reserve, and kinds of modes."""
    Store.create(root, arena_size=4 << 20, access=access, reserve=0)
    write_header(root, replace(read_header(root), read_only_compatible=0), Files())
    with Store.open(root, "write") as store:
        put_recipes(store, [(number, 9_000) for number in range(20)])
        store.commit([(b"key", b"value")])
    for directory in ("gates", "leases"):
        shutil.rmtree(root / directory)
    index = Index(root / "index", read_header(root).store_id)
    with index._writing() as transaction:
        for mark in (b"next", b"sealed"):
            transaction.delete(mark, db=index._environment.tables[b"meta"])
    index.close()
    if loose:
        for path in (root, *root.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return old_store(tmp_path / "store")


def upgraded(root: Path, **options: object) -> list[Correction]:
    found: list[Correction] = []
    upgrade(root, found.append, **options)  # type: ignore[arg-type]
    return found


def snapshot_of_index(root: Path) -> tuple[object, ...]:
    """All that an index says but the marks that upgrades add."""
    index = Index(root / "index", read_header(root).store_id)
    try:
        return index.snapshot(), list(index.entries()), index.epoch, index.sealed_mark()
    finally:
        index.close()


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    """Modes and contents of all of a store, but for LMDB's table of readers."""
    return {
        str(path.relative_to(root)): (
            stat.S_IMODE(path.lstat().st_mode),
            path.read_bytes() if path.is_file() and path.name != "lock.mdb" else b"",
        )
        for path in (root, *root.rglob("*"))
    }


def records(root: Path) -> list[Record]:
    with Store.open(root) as store:
        return store.records()


def assert_up_to_date(root: Path) -> None:
    header = read_header(root)
    assert header.features == ["reclaimed"]
    assert header.reserve == reserve.DEFAULT_MAX
    assert reserve_space(root) >= header.reserve
    assert odd_modes(root) == []
    assert upgraded(root) == []
    assert [record.key for record in records(root)] == [b"key"]
    audited(root)


# --- what is done -------------------------------------------------------------------------------


def test_an_old_store_is_written_without_an_upgrade(root: Path) -> None:
    with Store.open(root, "write") as store:
        store.commit([(b"more", b"")])
    assert read_header(root).features == []
    assert not (root / RESERVE_NAME).exists()
    assert len(records(root)) == 2


def test_all_that_an_old_store_lacks_is_corrected_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = old_store(home / "store")
    before, header = records(root), read_header(root)
    expected = [
        ("access", "every user of this machine could read what is archived here; the directory's "),
        ("modes", "files have another mode than the store's kind, first arenas: 0755 where 0700"),
        ("reserve", f"the reserve has 0 bytes where {reserve.DEFAULT_MAX:,} are wanted"),
        ("index", "the index lacks marks of the arenas that it knows"),
        ("locks", "the store lacks gates for writers, or a directory for leases of readers"),
        ("header", "the header lacks the feature reclaimed"),
    ]
    old = snapshot(root)
    rehearsed = upgraded(root, dry_run=True)
    assert snapshot(root) == old
    done = upgraded(root)
    for found in (rehearsed, done):
        assert [(one.step, one.left) for one in found] == [(step, False) for step, _ in expected]
        for one, (_, text) in zip(found, expected, strict=True):
            assert text in one.text
    assert_up_to_date(root)
    assert records(root) == before
    assert replace(read_header(root), read_only_compatible=0, reserve=0) == header
    assert exposed(root) == ""
    assert wrong(root, "private") == {}
    monkeypatch.setattr("ventifs.store.header.KNOWN_READ_ONLY_COMPATIBLE", 0)
    with pytest.raises(Unsupported, match="upgrade ventifs to write"):  # as an older program says
        Store.open(root, "write")
    Store.open(root).close()


def test_the_golden_store_gets_the_golden_header(tmp_path: Path) -> None:
    for name, data in load_vectors("store/store-v1.json")["files"].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes.fromhex(data))
    before = snapshot(tmp_path)
    assert upgraded(tmp_path, reserve=64 << 20)[-1].step == "header"
    new = load_vectors("store/structures.json")["store_header_reclaimed"]["hex"]
    assert (tmp_path / HEADER_NAME).read_bytes().hex() == new
    after = snapshot(tmp_path)
    for name in before.keys() - {HEADER_NAME}:
        assert after[name][1] == before[name][1]
    assert reserve_space(tmp_path) >= 64 << 20
    with Store.open(tmp_path, "write") as store:
        assert len(store.records()) == 2


def test_a_new_store_has_nothing_to_correct_and_is_not_locked(tmp_path: Path) -> None:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store", "write"):
        assert upgraded(tmp_path / "store") == []


def test_a_group_that_is_meant_to_read_goes_on_reading(tmp_path: Path) -> None:
    kind = Access(0o2750, os.getgid())
    root = old_store(tmp_path / "store", access=kind, loose=False)
    root.chmod(0o2755)
    for path in root.rglob("*"):
        path.chmod(0o2755 if path.is_dir() else 0o644)
    upgraded(root)
    assert stat.S_IMODE((root / "arenas").stat().st_mode) & 0o777 == 0o755  # nobody gets there
    tmp_path.chmod(0o755)
    assert_up_to_date(root)


@as_root
def test_a_store_of_a_group_loses_only_what_others_could_read(home: Path) -> None:
    root = old_store(home / "store", access=KINDS["readers"], loose=False)
    root.chmod(0o2755)
    (root / "arenas").chmod(0o2755)
    (root / HEADER_NAME).chmod(0o644)
    assert [one.step for one in upgraded(root)] == ["access", "modes", *NEW]
    assert wrong(root, "readers") == {}
    assert_up_to_date(root)


@as_root
def test_owners_and_what_links_lead_to_stay(home: Path) -> None:
    root = old_store(home / "store", access=KINDS["shared"])
    root.chmod(0o2770)
    precious = home / "precious"
    precious.write_bytes(b"")
    precious.chmod(0o644)
    os.link(precious, root / "statcache")
    (root / "link").symlink_to(precious)
    arena = next(root.glob("arenas/open/*.arena"))
    os.chown(arena, 1234, -1)
    found = upgraded(root)
    assert [(one.step, one.left) for one in found] == [
        ("modes", False),
        ("modes", True),
        *((step, False) for step in NEW[:-1]),
        ("header", False),
    ]
    assert "first statcache: 0644" in found[1].text
    assert stat.S_IMODE(precious.stat().st_mode) == 0o644
    assert (arena.stat().st_uid, stat.S_IMODE(arena.stat().st_mode)) == (1234, 0o660)
    assert [one.left for one in upgraded(root)] == [True]


def test_no_way_leads_through_a_link_out_of_the_store(tmp_path: Path, root: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"")
    (tmp_path / "outside/file").chmod(0o644)
    (root / "away").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        correct(root, "away/file", 0o600)
    assert stat.S_IMODE((tmp_path / "outside/file").stat().st_mode) == 0o644


def as_another(connection: Connection, root: Path) -> None:
    """Upgrade as a user who is in the store's group, and owns nothing of it."""
    os.setgroups([GROUP])
    os.setgid(GROUP)
    os.setuid(NOBODY)

    def run(dry_run: bool) -> list[tuple[str, bool, str]]:
        found = upgraded(root, dry_run=dry_run)
        return [(one.step, one.left, one.text) for one in found]

    answer_all(connection, {"run": run})


@as_root
def test_another_user_corrects_what_it_may_and_hears_of_the_rest(home: Path) -> None:
    root = old_store(home / "store", access=KINDS["shared"], loose=False)
    root.chmod(0o2775)
    peer = Peer(as_another, root)
    rehearsed, done, own, again = [
        peer.ask("run", dry_run) for dry_run in (True, False, False, False)
    ]
    steps = [("access", True), *((step, False) for step in NEW)]
    for found in (rehearsed, done):
        assert isinstance(found, list)
        assert [(step, left) for step, left, _ in found] == steps
    assert isinstance(own, list)  # what it made itself in the open directory
    assert [(step, left) for step, left, _ in own] == [("access", True), ("modes", False)]
    assert isinstance(again, list)
    assert len(again) == 1, again
    [(step, left, text)] = again
    assert (step, left) == ("access", True)
    assert text.endswith("; its owner ends that by running this")
    assert (root / HEADER_NAME).stat().st_gid == GROUP
    assert [one.step for one in upgraded(root)] == ["access"]
    assert [
        path
        for path, what in wrong(root, "shared").items()
        if f" {NOBODY}:" not in what or not what.startswith(("660 ", "2770 "))
    ] == []


@as_root
def test_files_of_others_are_named_with_their_owner(home: Path) -> None:
    root = old_store(home / "store", access=KINDS["shared"], loose=False)
    (root / "arenas").chmod(0o2755)
    found = Peer(as_another, root).ask("run", False)
    assert isinstance(found, list)
    (step, left, text) = found[0]
    assert (step, left) == ("modes", True)
    assert text == (
        "1 file or directory has another mode than the store's kind, first arenas: 2755 where "
        "2770 is expected; its owner root corrects that by running this"
    )


# --- the reserve --------------------------------------------------------------------------------


def test_the_size_of_the_reserve_is_changed(root: Path) -> None:
    upgraded(root)
    for size in (1 << 20, 100_000, 0, 300_000):
        assert {one.step for one in upgraded(root, reserve=size)} == {"reserve", "header"}
        assert read_header(root).reserve == size
        assert size <= reserve_space(root) < size + 64_000
        assert upgraded(root) == []
        assert upgraded(root, reserve=size) == []
    upgraded(root, reserve=0)
    Store.open(root, "write").close()
    assert upgraded(root) == []
    assert not (root / RESERVE_NAME).exists()


def test_a_disk_without_room_gets_its_reserve_later(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        root = old_store(disk.path / "store")
        disk.fill(leaving=30)
        found = upgraded(root, reserve=1 << 20)
        assert [(one.step, one.left) for one in found][-4:] == [
            ("reserve", True),
            *((step, False) for step in NEW[1:]),
        ]
        assert "no room for a reserve of 1,048,576 bytes" in found[-4].text
        assert not (root / RESERVE_NAME).exists()
        disk.make_room()
        assert [one.step for one in upgraded(root)] == ["reserve"]
        assert reserve_space(root) >= 1 << 20


def test_a_header_put_back_from_before_the_upgrade_is_upgraded_again(root: Path) -> None:
    old = (root / HEADER_NAME).read_bytes()
    upgraded(root)
    (root / HEADER_NAME).write_bytes(old)
    with Store.open(root, "write") as store:
        store.commit([(b"written on", b"")])
        assert len(store.records()) == 2
    assert [one.step for one in upgraded(root)][-1] == "header"
    assert read_header(root).features == ["reclaimed"]
    assert upgraded(root) == []


@pytest.mark.parametrize("bits", [1 << 63, 3])
def test_compatible_features_of_newer_programs_stay(root: Path, bits: int) -> None:
    write_header(root, replace(read_header(root), compatible=bits), Files())
    upgraded(root)
    header = read_header(root)
    assert (header.compatible, header.read_only_compatible) == (bits, 1)


@pytest.mark.parametrize("bits", [{"read_only_compatible": 2}, {"incompatible": 1}])
@pytest.mark.parametrize("dry_run", [True, False])
def test_other_features_of_newer_programs_forbid_it(
    root: Path, bits: dict[str, int], dry_run: bool
) -> None:
    (root / HEADER_NAME).write_bytes(encode_header(replace(read_header(root), **bits)))
    before = snapshot(root)
    with pytest.raises(Unsupported, match="upgrade ventifs"):
        upgraded(root, dry_run=dry_run)
    assert snapshot(root) == before


def test_a_damaged_header_is_not_replaced(root: Path) -> None:
    (root / HEADER_NAME).write_bytes(b"damaged")
    with pytest.raises(Corrupt, match="put back a copy"):
        upgraded(root)
    assert (root / HEADER_NAME).read_bytes() == b"damaged"


# --- others at work -----------------------------------------------------------------------------


def test_a_writer_at_work_keeps_it_waiting_and_a_reader_does_not(root: Path) -> None:
    before = snapshot(root)
    writer = Peer(use_store, root, "write")
    assert writer.ask("keys") == [b"key"]
    assert upgraded(root, dry_run=True)
    with pytest.raises(Busy, match="another ventifs is writing to it"):
        upgraded(root)
    writer.end()
    (root / "leases").rmdir()  # made by the writer
    assert snapshot(root) == before
    reader = Peer(use_store, root, "read")
    assert reader.ask("keys") == [b"key"]
    upgraded(root)
    assert reader.ask("keys") == [b"key"]
    reader.end()
    assert_up_to_date(root)


def test_a_rebuild_at_work_keeps_it_waiting(root: Path) -> None:
    holder = Peer(hold_alone, root)
    assert holder.ask("ready") == "ready"
    with pytest.raises(Busy):
        upgraded(root)
    holder.end()


def test_a_writer_that_read_the_old_header_writes_by_the_new_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade comes between the look at the header and the lock."""

    def overtaken(path: Path, *, alone: bool, wait_s: float) -> object:
        monkeypatch.undo()
        upgraded(path)
        return store_lock(path, alone=alone, wait_s=wait_s)

    monkeypatch.setattr("ventifs.store.store.store_lock", overtaken)
    with Store.open(root, "write") as store:
        assert store.header == read_header(root)
        assert store.header.features == ["reclaimed"]


@pytest.mark.parametrize("mode", ["write", "worker"])
def test_a_writer_refuses_what_it_learns_under_the_lock(
    root: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A newer program's upgrade comes between the look at the header and the lock."""

    def overtaken(path: Path, *, alone: bool, wait_s: float) -> object:
        write_header(path, replace(read_header(path), read_only_compatible=2), Files())
        return store_lock(path, alone=alone, wait_s=wait_s)

    monkeypatch.setattr("ventifs.store.store.store_lock", overtaken)
    before = records(root)
    with pytest.raises(Unsupported, match="can only read"):
        Store.open(root, mode)  # type: ignore[arg-type]
    monkeypatch.undo()
    assert records(root) == before
    write_header(root, replace(read_header(root), read_only_compatible=0), Files())
    Store.open(root, "write").close()  # nothing is locked any more


# --- interrupted --------------------------------------------------------------------------------


class Dies(Exception):
    """Ctrl-C, where nothing may catch it as an error of the store."""


def counting(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Make the step, or the file operation within one, with this number fail; counts them."""
    count = [0]

    def wrapped(call: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            for after in (False, True):
                result = call(*arguments, **options) if after else None
                count[0] += 1
                if count[0] == at:
                    raise Dies
            return result

        return step

    for name in ("rename", "sync", "sync_directory", "allocate", "create", "append", "unlink"):
        monkeypatch.setattr(Files, name, wrapped(getattr(Files, name)))
    for where in ("close_directory", "correct"):
        real = getattr(upgrade_module, where)
        monkeypatch.setattr(upgrade_module, where, wrapped(real))
    return count


def test_an_upgrade_interrupted_anywhere_is_finished_by_the_next(home: Path) -> None:
    for at in itertools.count(1):
        root = old_store(home / f"store{at}")
        with pytest.MonkeyPatch.context() as patch:
            count = counting(patch, at)
            with suppress(Dies):
                upgraded(root)
        header = read_header(root)
        if header.features:  # it is set last
            assert odd_modes(root) == []
            assert reserve_space(root) >= header.reserve
        with Store.open(root, "write") as store:
            assert len(store.records()) == 1
        upgraded(root)
        assert_up_to_date(root)
        assert wrong(root, "private") == {}
        if count[0] < at:
            break
    assert at > 20


def test_a_power_cut_at_any_moment_of_an_upgrade_leaves_the_old_header_or_the_new(
    tmp_path: Path,
) -> None:
    root = old_store(tmp_path / "store", loose=False)
    before, old = records(root), read_header(root)
    files = RecordingFiles(root)
    assert [one.step for one in upgraded(root, files=files)] == NEW
    files.note_index()
    new, seen = read_header(root), []
    for cut in range(len(files.log) + 1):
        for disk in possible_disks(files.log, files.base, cut, random.Random(cut), chances=3):
            there = tmp_path / "cut"
            disk.write_to(there)
            seen.append(read_header(there))
            assert seen[-1] in (old, new)
            assert records(there) == before
            upgraded(there)
            assert_up_to_date(there)
            shutil.rmtree(there)
    assert seen[0] == old
    assert seen[-1] == new
    assert len(files.log) > 6


def test_a_full_disk_leaves_the_old_header(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        root = old_store(disk.path / "store", loose=False)
        old = (root / HEADER_NAME).read_bytes()
        disk.fill()
        with pytest.raises(VentifsError, match="no space left on device; nothing committed"):
            upgraded(root)
        assert (root / HEADER_NAME).read_bytes() == old
        disk.make_room()
        upgraded(root, reserve=reserve.DEFAULT_MAX)
        assert_up_to_date(root)


def test_read_only_media_say_that_they_are_unless_there_is_nothing_to_do(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        root = old_store(disk.path / "store", loose=False)
        disk.remount("ro")
        assert [one.step for one in upgraded(root, dry_run=True)] == NEW
        with pytest.raises(VentifsError, match="read-only"):
            upgraded(root)
        disk.remount("rw")
        upgraded(root)
        disk.remount("ro")
        assert upgraded(root) == []


def test_the_header_comes_last() -> None:
    assert [step.name for step in STEPS][-1] == "header"
    assert len({step.name for step in STEPS}) == len(STEPS)


def test_the_index_keeps_what_it_says(root: Path) -> None:
    before = snapshot_of_index(root)
    assert upgraded(root)
    assert snapshot_of_index(root) == before
